"""Incidents, played on real servers and workers: one to practise on, and any number from seeds."""
