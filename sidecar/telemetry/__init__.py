"""What a worker tells of itself and of its deployment, as metrics."""
