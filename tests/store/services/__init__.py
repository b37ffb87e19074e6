"""Real object stores for the slow tests: where their programs are, and how they start.

`make stores` installs them. What is not installed is skipped; what SIDECAR_TEST_STORES names must
be there.
"""
