"""The outbox as a table: what a row is, and what its pump asks of a database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

from sidecar.errors import UsageError
from sidecar.lines import visible
from sidecar.wire.event import MAX_ENTRY_BYTES, Reason, Rejected, named

FORMAT: Final = 1
"""The format of the tables. A newer one is refused."""
INSERT: Final = (
    "INSERT INTO sidecar_outbox (tenant, event, traceparent, data, manifest) VALUES (?, ?, ?, ?, ?)"
)
FIND_FORMAT: Final = "SELECT max(format) FROM sidecar_outbox_format"
NOTE_FORMAT: Final = (
    f"INSERT INTO sidecar_outbox_format SELECT {FORMAT}"  # noqa: S608 -- a number of ours
    " WHERE NOT EXISTS (SELECT 1 FROM sidecar_outbox_format)"
)
DEAD_SHOWN: Final = 10
"""So many dead rows do figures name, the newest."""
_MAX_DETAIL_CHARS: Final = 1000
_CUT: Final = MAX_ENTRY_BYTES + 1
"""So much of an event is read: one that is longer is refused for it."""
_CHUNK: Final = 1000
"""So many done rows go at once: each is a short transaction."""


class NotNow(UsageError):
    """A login or a node that is not the right one. It may have been, and be again."""


class Row(NamedTuple):
    """A row that waits."""

    position: int
    """Its place in the order of commits."""
    number: int
    event: bytes
    traceparent: bytes
    size_bytes: int | None
    """Of data and manifest together; None for an event that brings no artifact."""

    @classmethod
    def of(
        cls, position: int, number: int, event: bytes | None, traceparent: bytes | None,
        size: int | None, of_manifest: int,
    ) -> Self:  # fmt: skip
        """Return the row. SQLite's `substr` makes nothing of what is empty."""
        brings = size is not None or of_manifest  # a manifest alone: its event's checksum tells
        size_bytes = (size or 0) + of_manifest if brings else None
        return cls(position, number, event or b"", traceparent or b"", size_bytes)


class Ended(NamedTuple):
    """What became of a row: sent, or dead with a reason."""

    row: Row
    dead: Rejected | None = None


class DeadRow(NamedTuple):
    """A row that no rule allows. It stays until somebody removes it, or lets it wait again."""

    number: int
    tenant_id: str
    event_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Figures:
    """How far an outbox is."""

    waiting: int
    """Rows that are still to be sent."""
    lag_s: float
    """How long ago the first of them was staged, in seconds; 0 when none waits."""
    dead: int
    """Rows that no rule allows."""
    done: int
    """Rows that were sent, and are not removed yet."""
    dead_rows: tuple[DeadRow, ...] = ()
    """The newest of the dead."""

    def to_json(self) -> dict[str, Any]:
        """Return them as `sidecar outbox status --json` prints them."""
        return asdict(self) | {"dead_rows": [one._asdict() for one in self.dead_rows]}


def check_format(found: object) -> None:
    """Raise `UsageError` for tables of another format."""
    if isinstance(found, int) and found == FORMAT:
        return
    if isinstance(found, int) and found > FORMAT:
        raise UsageError(
            f"the outbox has format {found}, and this release knows {FORMAT}: upgrade it"
        )
    raise UsageError(
        f"the outbox has the format {found!r}, which no release has; see docs/outbox.md"
    )


class Database(ABC):
    """A database with an outbox, for its pump. Its errors come as `Unreachable` or `UsageError`.

    Every transaction is short: a writer waits for none that lasts as long as a Put.
    """

    blob: str
    """The type of bytes."""
    now_ms: str
    """What gives milliseconds since the epoch."""

    @abstractmethod
    def lock(self) -> bool:
        """Become the one pump; False where another is. Kept until `close` or the process's end."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, and let another pump in."""

    @abstractmethod
    def _run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for each value, and return its rows."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[object]:
        """Return what commits the block's statements together, or none of them."""

    def check(self) -> None:
        """Raise `UsageError` for an outbox that is not there or of another format."""
        ((found,),) = self._run(FIND_FORMAT)
        check_format(found)

    @property
    def _columns(self) -> str:
        """What is read of a row that waits, in the order in which `Row.of` takes it."""
        return (
            f"substr(CAST(event AS {self.blob}), 1, {_CUT}),"
            f" substr(CAST(traceparent AS {self.blob}), 1, {_CUT}),"
            f" length(CAST(data AS {self.blob})), length(CAST(manifest AS {self.blob}))"
        )

    def waiting(self, most: int) -> list[Row]:
        """Return the first rows that wait, in the order of their commits; without artifacts."""
        found = self._run(
            f"SELECT number, number, {self._columns}"  # noqa: S608 -- ours, each
            " FROM sidecar_outbox WHERE state = 'waiting' ORDER BY number LIMIT ?",
            most,
        )
        return [Row.of(*one) for one in found]

    def artifact(self, number: int) -> tuple[bytes, bytes]:
        """Return data and manifest of a row. Raises `Rejected` when somebody took it away."""
        found = self._run(
            f"SELECT CAST(data AS {self.blob}), CAST(manifest AS {self.blob})"  # noqa: S608 -- ours
            " FROM sidecar_outbox WHERE number = ? AND state = 'waiting'",
            number,
        )
        if not found:
            raise Rejected(Reason.ARTIFACT_MISSING, "the row was removed while it was sent")
        data, manifest = found[0]
        return data or b"", manifest or b""

    def end(self, ended: Sequence[Ended]) -> None:
        """Note what became of rows, all at once. The bytes of what was sent go: they were put."""
        sent = [row.number for row, dead in ended if dead is None]
        with self._transaction():
            if sent:
                self._run(
                    "UPDATE sidecar_outbox SET state = 'done', data = NULL,"  # noqa: S608 -- ours
                    f" manifest = CAST('' AS {self.blob}), ended_at_ms = {self.now_ms}"
                    f" WHERE state = 'waiting' AND number IN ({', '.join('?' * len(sent))})",
                    *sent,
                )
            for row, dead in ended:
                if dead is not None:
                    self._bury(
                        row.number, str(dead.reason), visible(dead.detail)[:_MAX_DETAIL_CHARS]
                    )

    def _bury(self, number: int, reason: str, detail: str) -> None:
        self._run(
            "UPDATE sidecar_outbox SET state = 'dead', reason = ?, detail = ?,"  # noqa: S608 -- ours
            f" ended_at_ms = {self.now_ms} WHERE number = ? AND state = 'waiting'",
            reason, detail, number,
        )  # fmt: skip

    def forget(self, keep_s: float) -> bool:
        """Remove a few rows that were done so long ago; tell whether there may be more."""
        old = (
            "SELECT number FROM sidecar_outbox WHERE state = 'done'"  # noqa: S608 -- ours
            f" AND ended_at_ms < {self.now_ms} - ? ORDER BY ended_at_ms LIMIT ?"
        )
        limits = int(keep_s * 1000), _CHUNK
        found = self._run(old, *limits)
        if found:
            self._run(f"DELETE FROM sidecar_outbox WHERE number IN ({old})", *limits)  # noqa: S608 -- ours
        return len(found) == _CHUNK

    def figures(self) -> Figures:
        """Count."""
        count = "(SELECT count(*) FROM sidecar_outbox WHERE state = '{}')"
        columns = ", ".join(count.format(state) for state in ("waiting", "dead", "done"))
        ((waiting, dead, done, first, now),) = self._run(
            f"SELECT {columns}, (SELECT staged_at_ms FROM sidecar_outbox WHERE state = 'waiting'"  # noqa: S608 -- ours
            f" ORDER BY number LIMIT 1), {self.now_ms}"
        )
        lag_s = 0.0 if first is None else max(0.0, (now - first) / 1000)
        return Figures(waiting, lag_s, dead, done, tuple(self._dead_rows()) if dead else ())

    def _dead_rows(self) -> Iterable[DeadRow]:
        found = self._run(
            f"SELECT number, substr(CAST(event AS {self.blob}), 1, {_CUT}), reason, detail"  # noqa: S608 -- ours
            " FROM sidecar_outbox WHERE state = 'dead' ORDER BY number DESC LIMIT ?",
            DEAD_SHOWN,
        )
        for number, event, reason, detail in found:
            tenant_id, event_id = named(None, {b"event": event or b""})
            yield DeadRow(number, tenant_id, event_id, str(reason), str(detail))
