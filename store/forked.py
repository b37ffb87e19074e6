"""A forked child, which has what its parent had, but for the parent's threads."""

from __future__ import annotations

import os

from store.errors import ConfigError


class OneProcess:
    """The process that opened a store which no other can use."""

    def __init__(self, why: str) -> None:
        """`why` says what a child would have of it."""
        self._pid = os.getpid()
        self._why = why

    def check(self) -> None:
        """Raise `ConfigError` in another process: at once, where it would hang or deceive."""
        if os.getpid() != self._pid:
            raise ConfigError(
                f"this store was opened by process {self._pid}, and a forked child cannot use it:"
                f" {self._why}; open it in the child, after the fork"
            )
