"""What people do to a deployment: audit, repair, redrive, verify, collect."""
