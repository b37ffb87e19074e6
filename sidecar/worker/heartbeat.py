"""Heartbeats: a loop notes each round, so that a loop that is stuck is seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SILENCE_S: Final = 60.0
"""After so long without a round a loop is stuck. A round may wait for Redis a few times, each as
long as a connection and an answer may take, for a name server, and for the next try."""


class Heartbeats:
    """The loops of one process. Safe to use from several threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}

    def beat(self, name: str) -> None:
        """Note that the loop `name` goes round."""
        self._heard[name] = self._clock()

    def ended(self, name: str) -> None:
        """Forget a loop that has ended: it is silent for a good reason."""
        self._heard.pop(name, None)

    def stuck(self) -> list[str]:
        """Say which loops are stuck, and for how long."""
        now = self._clock()
        return [
            f"{name}: stuck for {now - heard:.0f} s"
            for name, heard in sorted(self._heard.copy().items())
            if now - heard > SILENCE_S
        ]
