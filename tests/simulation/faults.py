"""What goes wrong in a run, and how often: all of it drawn from the seed.

Every seed has a mood of its own: some kinds of fault not at all, some often. Where all faults
were always as likely, the rare meetings of two of them would stay rare.
"""

from __future__ import annotations

import random
from collections import Counter
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """A kind of fault. Each must have happened in a long run, or the run says so."""

    CRASH = "crash"
    STOP = "graceful stop"
    STALL = "stall longer than the lease"
    SUSPEND = "stall that the worker's clock does not count"
    LOST_REQUEST = "request lost, connection cut"
    LOST_REPLY = "applied, reply lost, connection cut"
    SILENT_REQUEST = "request lost, no answer until the timeout"
    SILENT_REPLY = "applied, no answer until the timeout"
    LATE_REQUEST = "applied late, maybe after the client gave up"
    LATE_REPLY = "applied, answered late"
    HALF_OPEN = "a dead worker's connection served on"
    SERVER_RESTART = "server restarted, scripts gone"
    SERVER_AWAY = "server cannot be reached for a while"
    CUT_OFF = "one worker cannot reach the server"
    SERVER_CLOCK_FORWARD = "server clock stepped forwards"
    SERVER_CLOCK_BACK = "server clock stepped back"
    WORKER_CLOCK = "worker clock stepped"
    LEASE_GONE = "lease key lost at a bad moment"
    NO_MEMORY = "server refuses a write"
    NO_LETTER = "dead-letter write fails"
    NO_NOTIFICATION = "notification write fails"
    SOURCE_BEFORE = "source store fails"
    FLEET_BEFORE = "fleet store fails, nothing done"
    FLEET_AFTER = "fleet store fails after the Put"
    STORE_SLOW = "store slower than the lease"
    STORE_AWAY = "store away for a while"
    PAUSE = "operator pauses"
    DELETE_GROUP = "operator deletes the group"
    DELETE_CONSUMER = "operator deletes the consumer"
    DELETE_ENTRY = "operator deletes a pending entry"


WIRE: Final = (
    Fault.LOST_REQUEST, Fault.LOST_REPLY, Fault.SILENT_REQUEST, Fault.SILENT_REPLY,
    Fault.LATE_REQUEST, Fault.LATE_REPLY,
)  # fmt: skip
"""What may happen to one command on its way."""
STORE: Final = (
    Fault.SOURCE_BEFORE, Fault.FLEET_BEFORE, Fault.FLEET_AFTER, Fault.STORE_SLOW,
)  # fmt: skip
PROCESS: Final = (Fault.CRASH, Fault.STALL, Fault.SUSPEND, Fault.STOP)
"""What may happen to a worker at any of its steps."""
WRITES: Final = (Fault.NO_MEMORY, Fault.NO_LETTER, Fault.NO_NOTIFICATION)
WORLD: Final = (
    Fault.SERVER_RESTART, Fault.SERVER_AWAY, Fault.CUT_OFF, Fault.SERVER_CLOCK_FORWARD,
    Fault.SERVER_CLOCK_BACK, Fault.WORKER_CLOCK, Fault.LEASE_GONE, Fault.STORE_AWAY, Fault.PAUSE,
    Fault.DELETE_GROUP, Fault.DELETE_CONSUMER, Fault.DELETE_ENTRY,
)  # fmt: skip
"""What happens now and then, to everyone."""


class Faults:
    """Draws faults. `rates` says how likely each is at one opportunity; `off` ends them all."""

    def __init__(self, chance: random.Random, *, quiet: bool = False) -> None:
        self.chance = chance
        self.happened: Counter[Fault] = Counter()
        self.on = True
        self.rates = {} if quiet else _mood(chance)

    def draw(self, kinds: tuple[Fault, ...]) -> Fault | None:
        """Return a fault of these kinds, or None, which is likelier."""
        if not self.on:
            return None
        at = self.chance.random()
        for kind in kinds:
            rate = self.rates.get(kind, 0.0)
            if at < rate:
                self.happened[kind] += 1
                return kind
            at -= rate
        return None


def _mood(chance: random.Random) -> dict[Fault, float]:
    if chance.random() < 0.03:
        return {}
    share = chance.choice((0.2, 0.5, 0.9))
    heat = chance.choice((0.3, 1.0, 1.0, 3.0))
    usual = dict.fromkeys(WIRE, 0.004) | dict.fromkeys(STORE, 0.03)
    usual |= dict.fromkeys(PROCESS, 0.004) | dict.fromkeys(WRITES, 0.05)
    usual |= dict.fromkeys(WORLD, 0.05) | {Fault.HALF_OPEN: 0.3, Fault.STOP: 0.001}
    return {
        kind: rate * heat * chance.choice((0.5, 1.0, 2.0))
        for kind, rate in usual.items()
        if chance.random() < share
    }
