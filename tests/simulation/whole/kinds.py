"""What people, operators and failures do to a whole deployment, beside the narrow faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from tests.simulation.faults import PROCESS, STORE, WIRE, Fault, Faults


class Deed(StrEnum):
    """A kind of thing that is done to a deployment, or to a part of it."""

    READ_AS_OTHER = "someone reads as another consumer of the group"
    OTHER_GROUP = "someone reads a stream in a group of his own"
    CLAIM = "someone claims pending entries for another consumer"
    SETID_BACK = "someone sets the group back"
    SETID_AHEAD = "someone sets the group ahead"
    DELETE_CONSUMER = "someone deletes a consumer"
    DESTROY_GROUP = "someone destroys the group"
    DELETE_ENTRY = "someone deletes entries"
    TRIM_ENTRIES = "someone trims a control stream"
    TRIM_NOTES = "someone trims the notifications"
    ODD_ENTRY = "someone appends an entry with an ID of his own"
    FOREIGN_NOTE = "someone appends to the notifications"
    DELETE_NOTE = "someone deletes a notification"
    DELETE_STREAM = "someone deletes a control stream"
    DELETE_NOTES = "someone deletes the notification stream"
    RENAME_STREAM = "someone renames a control stream"
    FLUSH = "someone empties the database"
    SCRIPT_FLUSH = "someone flushes the scripts"
    CLIENT_KILL = "someone kills connections"
    DENIED = "rights are taken away"
    FULL = "maxmemory is reached"
    BUSY = "a script keeps the server busy"
    PROMOTED = "a replica that lacks the tail is promoted"
    EMPTIED = "the server restarts empty"
    SERVER_CLOCK = "a server's clock steps"
    WORKER_CLOCK = "a worker's clock steps"
    GARBAGE = "someone writes garbage into the sidecar's keys"
    SPLIT = "a worker is cut off from one server for good"
    LEASE_GONE = "the lease key is lost"
    SERVER_AWAY = "a server cannot be reached for a while"
    STORE_AWAY = "a store is away for a while"
    STORE_HANGS = "a store hangs"
    ROT = "a stored version rots"
    PAUSE = "an operator pauses"
    PAUSE_TENANT = "an operator pauses a tenant"
    REDRIVE = "an operator redrives"
    REPAIR = "an operator audits and repairs"
    STATUS = "an operator looks at the status"
    COLLECT = "an operator collects garbage"
    KEEP = "a worker follows keep rules"
    ERASE = "an operator erases a tenant"


OPERATORS: Final = (
    Deed.PAUSE, Deed.PAUSE_TENANT, Deed.REDRIVE, Deed.REPAIR, Deed.STATUS, Deed.COLLECT,
)  # fmt: skip
IN_SCENES: Final = (Deed.KEEP, Deed.ERASE)
"""Are drawn by no seed: a scene has them."""
LOSING: Final = frozenset({
    Deed.DELETE_ENTRY, Deed.TRIM_ENTRIES, Deed.TRIM_NOTES, Deed.DELETE_STREAM, Deed.DELETE_NOTES,
    Deed.RENAME_STREAM, Deed.FLUSH, Deed.PROMOTED, Deed.EMPTIED, Deed.GARBAGE, Deed.ROT,
    Deed.FOREIGN_NOTE, Deed.SETID_BACK, Deed.DELETE_NOTE,
})  # fmt: skip
"""After these, the oracle knows less of what an audit may say."""

FORGETTING: Final = frozenset({
    Deed.DELETE_STREAM, Deed.DELETE_NOTES, Deed.RENAME_STREAM, Deed.FLUSH, Deed.PROMOTED,
    Deed.EMPTIED, Deed.GARBAGE,
})  # fmt: skip
"""Without one of these, who says that Redis forgot more than a group raises a false alarm."""


class WholeFaults(Faults):
    """Draws the narrow faults of a seed's weather, and says which deeds its people do."""

    def __init__(self, chance: random.Random, more: Sequence[Deed] = ()) -> None:
        """`more` deeds are done beside those that are drawn."""
        super().__init__(chance, quiet=True)
        self.rates = _weather(chance)
        kinds: list[Deed] = [deed for deed in Deed if deed not in (*OPERATORS, *IN_SCENES)]
        self.deeds: list[Deed] = chance.sample(kinds, chance.choice((0, 1, 1, 1, 2, 2, 3, 5)))
        self.deeds += [deed for deed in OPERATORS if chance.random() < 0.3]
        if Deed.REPAIR in self.deeds and chance.random() < 0.5:
            self.deeds.append(Deed.DELETE_NOTE)  # something to repair
        self.deeds += [deed for deed in more if deed not in self.deeds]
        self.did: dict[Deed, int] = {}

    def draw(self, kinds: tuple[Fault, ...]) -> Fault | None:
        """Return a fault of these kinds, or None; most seeds have none of most kinds."""
        if not self.on or not self.rates or self.rates.keys().isdisjoint(kinds):
            return None
        return super().draw(kinds)

    def count(self, deed: Deed) -> None:
        """Note that a deed was done."""
        self.did[deed] = self.did.get(deed, 0) + 1


def _weather(chance: random.Random) -> dict[Fault, float]:
    if chance.random() < 0.5:
        return {}
    heat = chance.choice((0.2, 0.5, 1.0))
    usual = dict.fromkeys(WIRE, 0.002) | dict.fromkeys(STORE, 0.03)
    usual |= dict.fromkeys(PROCESS, 0.001) | {Fault.HALF_OPEN: 0.3, Fault.STOP: 0.0005}
    return {kind: rate * heat for kind, rate in usual.items() if chance.random() < 0.4}
