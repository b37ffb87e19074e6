"""The relay, and what a worker needs around it."""
