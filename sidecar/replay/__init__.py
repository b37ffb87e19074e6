"""Incident review: what happened in a window, the fleet as it was, and running it again."""
