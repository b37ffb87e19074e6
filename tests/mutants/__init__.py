"""The relay broken on purpose: each break must be caught by the tests. `make mutants`."""
