"""What can be wrong with a deployment, each with why it matters and the fix."""
