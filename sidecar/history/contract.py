"""What every history has: the three kinds of streams, read in order, wherever they lie.

A history is read in pages: memory does not grow with its length. Its streams may be live.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from sidecar.redis.keys import Keys
from sidecar.redis.members import Held
from sidecar.redis.readers import Reader
from sidecar.redis.source import Entry
from sidecar.redis.takeovers import Takeover
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.subject import Subject
from store import VersionedStore


class Streams(NamedTuple):
    """The streams that belong together, by name."""

    control: tuple[str, ...]
    notifications: str
    dead: str
    redriven: str
    """Which dead letters were redriven, when, why, and as what."""
    halts: str
    """Which control streams were halted and resumed, when, why, and by whom."""
    tenures: str
    """What Redis was found to have forgotten."""

    @classmethod
    def of(cls, keys: Sequence[Keys]) -> Streams:
        """Return the streams of these keys, which share a notification stream."""
        one = keys[0]
        controls = tuple(each.control for each in keys)
        return cls(controls, one.notifications, one.dead, one.redriven, one.halts, one.tenures)


class Gap(NamedTuple):
    """A stretch of a stream that held something once and cannot be read any more."""

    first: EntryId
    last: EntryId
    """Entry IDs, both inclusive."""
    why: str
    """For a person: `trimmed`, `not exported`."""
    folded: bool = False
    """Whether the newest notification of each subject in it is there all the same."""


class Reach(NamedTuple):
    """How much of a stream can be read."""

    first: EntryId | None
    """The oldest entry; None when there is none."""
    last: EntryId
    """The ID that was given last, also when that entry is gone."""
    gaps: tuple[Gap, ...] = ()
    """What is missing, in order."""

    @property
    def before(self) -> EntryId:
        """The last ID before all that is there; where nothing is, the last that was given."""
        return self.first.before if self.first else self.last

    def missing(self, first: EntryId, last: EntryId) -> list[Gap]:
        """Return what is missing of the entries from `first` to `last`, cut to these."""
        return [
            gap._replace(first=max(gap.first, first), last=min(gap.last, last))
            for gap in self.gaps
            if gap.first <= last and gap.last >= first
        ]


class About(NamedTuple):
    """What entries must mention to be wanted. A hint: what cannot mention it may be left out.

    Empty is any. The caller filters what comes all the same.
    """

    event_id: str = ""
    tenant_id: str = ""
    artifact_ref: str = ""


ANY: Final = About()
ALWAYS: Final = (0, 2**63)
"""The span of a history that nobody cut."""


class Keyed(NamedTuple):
    """The newest notification of a subject."""

    subject: Subject
    line: bytes
    """Its row (`history.rows`)."""
    sealer: str = ""
    """The id of the key that says that it has verified it; empty where none is believed to."""


class Checkpoint(NamedTuple):
    """The fleet's state once a notification had been published."""

    last: EntryId
    """The ID of that."""
    rows: int
    gaps: tuple[Gap, ...]
    """What was missing already before it."""
    keyed: Callable[[], Iterator[Keyed]]
    """Return the newest notification of each subject."""


class History(Protocol):
    """Control entries, notifications and dead letters, and the artifacts they name.

    Every method raises `Unreachable` when what holds it is away, and `SidecarError` when that is
    damaged.
    """

    @property
    def streams(self) -> Streams:
        """The names of its streams."""
        ...

    @property
    def store(self) -> VersionedStore | None:
        """Where the artifacts lie, if it is known."""
        ...

    @property
    def span_us(self) -> tuple[int, int]:
        """From when to when it goes, both inclusive, in microseconds since the epoch."""
        ...

    def describe(self) -> str:
        """Say for a heading where it is read from, without secrets."""
        ...

    def now_us(self) -> int:
        """Return the time that relative times count from, in microseconds since the epoch."""
        ...

    def reach(self, stream: str) -> Reach | None:
        """Return how much of a stream can be read; None when there never was such a stream."""
        ...

    def entries(
        self, stream: str, first: EntryId = FIRST, last: EntryId = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield the entries from `first` to `last`, the oldest first."""
        ...

    def lines(self, stream: str, first: EntryId, last: EntryId) -> Iterator[bytes]:
        """Yield what `entries` does as rows (`history.rows`), each without its line feed.

        For those who decode few of them.
        """
        ...

    def entries_back(
        self, stream: str, last: EntryId = LAST, first: EntryId = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield the entries from `last` down to `first`, the newest first."""
        ...

    def checkpoint(self, last: EntryId) -> Checkpoint | None:
        """Return the newest checkpoint at or before the notification `last`, if there is one."""
        ...

    def waiting(self, stream: str, entry_ids: Collection[EntryId]) -> set[EntryId]:
        """Return which of these control entries no worker has finished yet.

        A caller that reads how things ended reads that after having asked.
        """
        ...

    def published(self, event_ids: Collection[str]) -> dict[str, int]:
        """Return the control_version of each of these events that is known to be published."""
        ...

    def readers(self) -> Sequence[Reader]:
        """Return the registered readers, also those that have expired."""
        ...

    def takeovers(self) -> Sequence[Takeover]:
        """Return which control streams changed hands, the newest first."""
        ...

    def held(self) -> Sequence[Held]:
        """Return some of what workers hold back now."""
        ...


def get(history: History, stream: str, entry_id: EntryId) -> Entry | None:
    """Return one entry; None when it is not there."""
    return next(history.entries(stream, entry_id, entry_id), None)
