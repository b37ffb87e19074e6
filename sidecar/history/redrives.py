"""Records of redrives and repairs: dead letters sent again, and lost entries sent again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from sidecar.history.contract import History
from sidecar.lines import quoted
from sidecar.redis.scan import origin_of, text
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId, Origin

_UNKNOWN = "its reason is not on record: the release that redrove it kept none"


class Redrive(NamedTuple):
    """One record of it. Empty is what it does not say, as those of older releases do not."""

    at_us: int
    """In microseconds since the epoch, by the clock of the server with the notifications."""
    letter: EntryId | None
    """The dead letter; None of a repair, which had none."""
    origin: Origin
    event_id: str
    entry: Origin
    """What it was appended as; empty of an artifact that was put again."""
    reason: str
    by: str
    forced: str
    """What `--force` overrode, in words."""
    overrode: str
    """The event_id of what had overtaken it."""
    overrode_version: int
    """The control_version of that; 0 when it waited, or nothing had."""
    dead_reason: str
    dead_detail: str

    @classmethod
    def of(cls, record: Entry) -> Self:
        """Read a record."""
        return cls.of_fields(record.fields, record.id)

    @classmethod
    def of_fields(cls, fields: Mapping[bytes, bytes], record_id: EntryId) -> Self:
        """Read the fields of a record."""
        said = {name: text(fields, name) for name in _TEXTS}
        version = text(fields, "overrode_version")
        return cls(
            at_us=record_id.control_version, letter=EntryId.parse(text(fields, "letter")),
            origin=origin_of(fields), entry=Origin(text(fields, "entry")),
            overrode_version=int(version) if version.isdecimal() else 0, **said,
        )  # fmt: skip

    @property
    def died(self) -> str:
        """Why its event was dead, for a person; says so where that is not known."""
        said = ": ".join(filter(None, (self.dead_reason, self.dead_detail)))
        return said or (_UNKNOWN if self.letter else "")

    @property
    def was_guarded(self) -> bool:
        """Whether nothing that was published or waited then was newer.

        Only records of releases that note why the letter died tell that; a repair overrides what
        is newer, and says so.
        """
        return bool(self.letter and (self.dead_reason or self.dead_detail)) and not self.forced

    @property
    def how(self) -> str:
        """What was done, by whom and why, for a person."""
        what = "redriven" if self.letter else "repaired"
        force = " by force" if self.forced else ""
        return f"{what}{force} by {self.by}, reason given: {quoted(self.reason)}"


_TEXTS = ("event_id", "reason", "by", "forced", "overrode", "dead_reason", "dead_detail")


def redrives_of(history: History) -> Iterator[Redrive]:
    """Yield the redrives and repairs, the oldest first. Raises as the history does."""
    return map(Redrive.of, history.entries(history.streams.redriven))
