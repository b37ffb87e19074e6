"""Fuzzers: hostile inputs by the hundred thousand, one generator a file."""
