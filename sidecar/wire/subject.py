"""What a notification replaces, and which of two events of it is the newer one.

This is the only place that decides it: redrive, repair, trace and report all ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, Self

from sidecar.wire.ids import EntryId, Origin

CLOCK_SLACK_MS: Final = 300_000
"""How far the clocks of two machines may lie apart."""


class Subject(NamedTuple):
    """What a notification replaces: a tenant's stack, else a ref."""

    tenant_id: str = ""
    stack_id: str = ""
    artifact_ref: str = ""


class _Event(Protocol):
    """What an event says, as far as it matters here."""

    @property
    def event_id(self) -> str: ...
    @property
    def tenant_id(self) -> str: ...
    @property
    def stack_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def artifact_ref(self) -> str: ...


def subject_of(tenant_id: str, stack_id: str, artifact_ref: str) -> Subject | None:
    """Return what an event is about; None when it is about neither a stack nor a ref."""
    if stack_id:
        return Subject(tenant_id=tenant_id, stack_id=stack_id)
    return Subject(artifact_ref=artifact_ref) if artifact_ref else None


class Change(NamedTuple):
    """An event, and where it stands among others."""

    event_id: str
    subject: Subject | None
    artifact_ref: str
    version: int
    stream: str
    """The control stream that it came on first, however often it was redriven since."""
    entry: EntryId | None
    """Its entry there; None when its origin names none."""
    at_ms: int | None
    """When it began or, of what is published, when that was, in milliseconds since the epoch; None
    when nothing tells, as of an entry whose ID is no time."""

    @classmethod
    def of(cls, event: _Event, origin: Origin, at_ms: int | None) -> Self:
        """Return the change that the event of the entry `origin` makes."""
        subject = subject_of(event.tenant_id, event.stack_id, event.artifact_ref)
        return cls(
            event.event_id, subject, event.artifact_ref, event.version,
            origin.stream, origin.entry, at_ms,
        )  # fmt: skip

    @property
    def moves(self) -> bool:
        """Whether there is anything that it could move back."""
        return self.subject is not None

    def begun(self, known_ms: int) -> Self:
        """Return it with the time of its entry, which was there at `known_ms` at the latest.

        An ID that lies after that is no time: a producer gave it.
        """
        is_time = self.entry is not None and self.entry.ms <= known_ms + CLOCK_SLACK_MS
        return self._replace(at_ms=self.entry.ms if self.entry and is_time else None)


def overtakes(later: Change, earlier: Change) -> bool:
    """Tell whether to publish `earlier` now would move something back that `later` has moved.

    It would when both are of one subject or of one ref, and `later` comes after `earlier`. A stack
    does not move back by a version that is higher than the later one's.
    """
    if later.event_id == earlier.event_id or not comes_after(later, earlier):
        return False
    if earlier.artifact_ref and later.artifact_ref == earlier.artifact_ref:
        return True  # the store, too, has one current version of a ref
    if earlier.subject is None or later.subject != earlier.subject:
        return False
    return not (later.version and earlier.version) or later.version >= earlier.version


def sets_back(later: Change, earlier: Change) -> bool:
    """Tell whether `earlier`, published after `later`, has set its subject back.

    Between two control streams nobody can tell which came first: that is never said to be back.
    """
    same = later.moves and later.subject == earlier.subject and later.stream == earlier.stream
    return same and overtakes(later, earlier)


def comes_after(later: Change, earlier: Change) -> bool:
    """Tell whether `later` comes after: in entry order on one control stream, else in time.

    Between two control streams what nobody can tell counts as after: it is the safe answer.
    """
    if later.entry and earlier.entry and later.stream == earlier.stream:
        return later.entry > earlier.entry
    if later.at_ms is None or earlier.at_ms is None:
        return True
    return later.at_ms >= earlier.at_ms


def followed(originals: Mapping[str, Origin], origin: Origin) -> Origin:
    """Follow an entry through all that it was redriven from; `originals` tells of each one step."""
    for _ in range(len(originals)):
        if origin not in originals:
            break
        origin = originals[origin]
    return origin
