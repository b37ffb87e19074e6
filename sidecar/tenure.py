"""What a relay knows: of an entry in its window, of a tenant held back, of its tenure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from queue import SimpleQueue

from sidecar.event import Reason
from sidecar.pipeline import Admitted
from sidecar.policy import Bury
from sidecar.redis.source import FIRST, Entry


@dataclass(slots=True)
class Trouble:
    """What failed attempts at an entry leave behind. Outlives a tenure: budgets do not restart."""

    first_seen: float
    """Seconds since the epoch."""
    since: float = 0.0
    """The first attempt, by the relay's clock."""
    attempts: int = 0


@dataclass(slots=True, eq=False)
class Item:
    """One entry in the window."""

    entry: Entry
    id: str
    """The entry's ID."""
    origin: str
    trouble: Trouble
    tenant: str | None = None
    """The tenant whose order it keeps; None for an entry that is no event."""
    admitted: Admitted | None = None
    identity: bytes = b""
    """Digest of the event_id and of the content, as the index has them."""
    known: bytes = b""
    """An identity that the index says is finished: look again under the fence, store nothing."""
    reread: bool = False
    """It may have been finished before: its origin may have a dead letter."""
    ready: bool = False
    """Nothing is left but to publish it or to write its dead letter."""
    bury: Bury | None = None
    begins_row: bool = False
    """Of a dead letter: something was published between it and the one before."""
    error: BaseException | None = None
    began: float = 0.0
    claiming: bool = False

    @property
    def has_artifact(self) -> bool:
        """Whether there is something to store."""
        return self.admitted is not None and bool(self.admitted.event.artifact_ref)

    @property
    def claims(self) -> tuple[str, bytes]:
        """What no two items may store at the same time: a ref, an event_id."""
        assert self.admitted  # noqa: S101 -- only events are stored
        return self.admitted.event.artifact_ref, self.identity[:16]

    def end(self, reason: Reason, detail: str) -> None:
        """Let it end as a dead letter."""
        self.bury, self.ready = Bury(reason, detail), True


@dataclass(slots=True)
class Held:
    """A tenant's event that is tried again when it is due."""

    id: str
    due: float
    outage: bool
    followed: bool = False
    """Whether later entries of the tenant wait for it in the pending list."""


@dataclass(slots=True)
class Tenure:
    """What is known while the lease is held and Redis answers; void when either ends."""

    pending: int
    """Entries that must be on the pending list. Any other number, and someone else was there."""
    next_new: str
    """The lowest ID that a new entry can have."""
    low: str
    """The lowest unfinished entry, as noted at the beginning."""
    backlog_end: str
    """Entries below this ID are backlog."""
    recovers_until: str | None
    """Up to here the group delivers entries again that may be finished, or pending already."""
    careful: bool
    """Run the backlog one by one: something in it kills workers."""
    finished: SimpleQueue[Item]
    """Items that a store is done with, well or not."""
    window: dict[str, Item] = field(default_factory=dict)
    fresh: list[Entry] = field(default_factory=list)
    """Entries that were read and are not admitted yet."""
    held: dict[str, Held] = field(default_factory=dict)
    due: list[tuple[float, str, str]] = field(default_factory=list)
    """A heap of when which entry of which tenant is tried again."""
    in_order: bool = True
    """Whether the window holds its entries in the stream's order."""
    scan: str | None = FIRST
    """How far the pending list has been read back; None when that is done."""
    everyone: bool = True
    """Whether it is read back for every tenant, or only for those that are behind."""
    behind: set[str] = field(default_factory=set)
    waiting: dict[str, Item] = field(default_factory=dict)
    """Items that wait until what they claim is free."""
    awaited: Counter[str | bytes] = field(default_factory=Counter)
    """What they claim, and how many of them do."""
    claimed: set[str | bytes] = field(default_factory=set)
    storing: int = 0
    """Artifacts given to the pool and not yet taken back."""
    settled: bool = False
    """Whether the backlog that this tenure began with is finished."""
    dry: bool = False
    """The last read found no new entry."""
    renew_at: float = 0.0
