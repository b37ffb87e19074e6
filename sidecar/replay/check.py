"""The recorded control entries run through today's code, to see whether it does what was done then.

In a sandbox: the real relay on a server of its own, with the recorded artifacts as source, which
are read and verified, and put nowhere.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson
import structlog

from sidecar.errors import UsageError
from sidecar.history import History, Streams
from sidecar.history.live import LiveHistory
from sidecar.history.scratch import directory, scratch
from sidecar.redis.client import Client, Side, connect
from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Publisher
from sidecar.redis.source import ControlStream
from sidecar.replay.timeline import End, Life, lives
from sidecar.replay.window import Window
from sidecar.wire.event import Reason
from sidecar.worker.host import Host, Route
from sidecar.worker.metrics import Metrics, StreamMetrics
from sidecar.worker.ownership import IDLE_BLOCK_S
from sidecar.worker.pipeline import Pipeline, Rules
from sidecar.worker.relay import Relay
from sidecar.worker.settings import Options
from sidecar.worker.share import Share

BATCH: Final = 500
MAX_UNJUDGED_TOLD: Final = 20
"""So many entries that cannot be judged are named; all are counted."""
LEASE_S: Final = 60.0
_OUTSIDE: Final = frozenset({
    Reason.ARTIFACT_MISSING, Reason.CHECKSUM_MISMATCH, Reason.POISON, Reason.ENTRY_LOST,
    Reason.ARTIFACT_TOO_LARGE, Reason.FORBIDDEN_ID, Reason.FORBIDDEN_REF,
    Reason.UNKNOWN_TYPE,
})  # fmt: skip
"""Reasons that lie in what was around, or in what the operator said, and not in the entry."""
_GONE: Final = (Reason.ARTIFACT_MISSING, Reason.CHECKSUM_MISMATCH)
"""Reasons for which an entry ends today whose artifact has been collected since."""
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE recorded (stream, at, origin UNIQUE, event_id, end, said, first,
                       PRIMARY KEY (stream, at)) WITHOUT ROWID;
CREATE TABLE today (origin PRIMARY KEY, end, said) WITHOUT ROWID;
"""


class Divergence(NamedTuple):
    """One entry that ends otherwise today."""

    origin: str
    event_id: str
    recorded: str
    today: str


class Unjudged(NamedTuple):
    """One entry that ends otherwise today, which says nothing of today's code."""

    origin: str
    event_id: str
    recorded: str
    today: str
    why: str


class Checked(NamedTuple):
    """What came of a check."""

    entries: int
    same: int
    unjudged: int
    """Those whose end lay in what was around, or comes of what lies before the window."""
    unjudged_first: list[Unjudged]
    """The first `MAX_UNJUDGED_TOLD` of them, in entry order."""
    divergence: Divergence | None
    """The first, in entry order."""


def check(history: History, window: Window, rules: Rules) -> Checked:
    """Run the window's control entries again, and compare how each ends.

    `rules` are those that the workers had. Raises `UsageError` without artifacts, or without the
    embedded server's wheel, and as the history does.
    """
    if history.store is None:
        raise UsageError("there are no artifacts to check with; name the store by --fleet-store")
    db = scratch(_SCHEMA)
    for life in lives(history, window):
        if life.entry is not None and life.end is not End.REDRIVEN:
            _record(db, "recorded", life)
    pipeline = Pipeline(history.store, history.store, rules)
    with (
        directory("sidecar-check-") as own,
        closing(EmbeddedServer(own)) as server,
    ):
        for stream in history.streams.control:
            _copy(history, window, stream, connect(server.url))
            for life in _relayed(server.url, history.streams, stream, pipeline):
                _record(db, "today", life)
    return _compared(db)


def _relayed(url: str, streams: Streams, stream: str, pipeline: Pipeline) -> Iterator[Life]:
    """Yield how the entries of a control stream on this server end today."""
    keys, side = Keys.of(stream, streams.notifications), Side.open(url, stream)
    _relay(url, keys, pipeline)
    yield from lives(LiveHistory(side, side, [keys]), Window())


def _copy(history: History, window: Window, stream: str, client: Client) -> None:
    entries = history.entries(stream, window.first_entry, window.last_entry)
    while batch := list(islice(entries, BATCH)):
        with client.pipeline(transaction=False) as pipeline:
            for entry in batch:
                fields: Any = dict(entry.fields)
                pipeline.xadd(stream, fields, id=entry.id)
            pipeline.execute()


def _relay(url: str, keys: Keys, pipeline: Pipeline) -> None:
    """Let the real relay finish the stream."""
    log: Any = structlog.wrap_logger(
        structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger("critical")
    )
    options = Options(lease_s=LEASE_S, retry_budget_s=0.0, max_consecutive_dead=0, drain=True)
    control = ControlStream(connect(url), connect(url, block_s=IDLE_BLOCK_S), keys)
    publisher = Publisher(connect(url), keys, lease_s=LEASE_S, dedup_window_s=366 * 86400)
    route, host = Route(keys.control, control, publisher), Host(_InOrder(), Share([keys.control]))
    observer = StreamMetrics(Metrics(), keys.control)
    Relay(route, pipeline, host, options, observer, log).run(threading.Event())


class _InOrder(Executor):
    """Does at once what it is given: of two uses of one event_id, the earlier one always wins."""

    def submit(  # type: ignore[override]
        self, work: Callable[..., object], /, *args: object
    ) -> Future[object]:
        done: Future[object] = Future()
        done.set_result(work(*args))
        return done


def _record(db: sqlite3.Connection, table: str, life: Life) -> None:
    if table == "today":
        row: tuple[object, ...] = (life.origin, life.end.value, _said(life))
        db.execute("INSERT OR IGNORE INTO today VALUES (?, ?, ?)", row)
        return
    row = (
        life.origin.stream, life.entry and life.entry.id.key, life.origin, life.event_id,
        life.end.value, _said(life), _first_of(life),
    )  # fmt: skip
    db.execute("INSERT OR IGNORE INTO recorded VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _said(life: Life) -> str:
    """Return what must be the same today: the notification but for its position, or the reason."""
    if life.end is End.DEAD:
        return life.reason
    if life.end is not End.PUBLISHED:
        return ""
    try:
        body = orjson.loads((life.fields or {})[b"event"])
        body.pop("control_version", None)
    except (KeyError, ValueError, AttributeError):
        return ""  # no sidecar wrote it
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()


def _first_of(life: Life) -> str:
    """Return the origin of the notification that this one repeats."""
    repeated = life.end is End.DUPLICATE and life.fields
    return life.fields.get(b"origin", b"").decode(errors="replace") if repeated else ""  # type: ignore[union-attr]


def _compared(db: sqlite3.Connection) -> Checked:
    entries = same = unjudged = 0
    told: list[Unjudged] = []
    found: Divergence | None = None
    for row in _joined(db):
        entries += 1
        if (row.end, row.said) == (row.today, row.today_said):
            same += 1
        elif why := _outside(db, row):
            unjudged += 1
            if len(told) < MAX_UNJUDGED_TOLD:
                told.append(Unjudged(row.origin, row.event_id, *_ends(row), why))
        elif found is None:
            found = Divergence(
                row.origin, row.event_id, _shown(row.end, row.said),
                _shown(row.today or "nothing", row.today_said),
            )  # fmt: skip
    return Checked(entries, same, unjudged, told, found)


class _Row(NamedTuple):
    origin: str
    event_id: str
    end: str
    said: str
    first: str
    today: str
    today_said: str


def _joined(db: sqlite3.Connection) -> Iterator[_Row]:
    for row in db.execute(
        "SELECT origin, event_id, r.end, r.said, first, coalesce(t.end, ''), coalesce(t.said, '')"
        " FROM recorded AS r LEFT JOIN today AS t USING (origin) ORDER BY stream, at"
    ):
        yield _Row(*row)


def _outside(db: sqlite3.Connection, row: _Row) -> str:
    """Say why the difference may come of what nobody recorded; empty when it may not."""
    return _outside_then(db, row) or _outside_today(db, row)


def _outside_then(db: sqlite3.Connection, row: _Row) -> str:
    if row.end in (End.WAITING, End.UNKNOWN) or row.today == End.WAITING:
        return "how it ended was not recorded, or it has no end today"
    if row.end == End.DUPLICATE and not _is_recorded(db, row.first):
        return "it repeats an event from before the window"
    if row.end == End.DEAD and row.said in _OUTSIDE:
        return "that lay in what was around: the stores, the workers' options, or a failure"
    conflict = row.end == End.DEAD and row.said == Reason.ID_CONFLICT
    if conflict and not _is_after_published(db, row):
        return "its event_id was published before the window, or in a race"
    return ""


def _outside_today(db: sqlite3.Connection, row: _Row) -> str:
    if row.today == End.DEAD and row.today_said in _GONE:
        return "its artifact is not to be had any more"
    conflict = row.today == End.DEAD and row.today_said == Reason.ID_CONFLICT
    if conflict and _was_raced(db, row):
        return "its event_id was published in a race"
    return ""


def _is_after_published(db: sqlite3.Connection, row: _Row) -> bool:
    """Tell whether an earlier entry of the window was published under its event_id."""
    earlier = db.execute(
        "SELECT 1 FROM recorded AS a JOIN recorded AS b USING (event_id)"
        " WHERE a.origin = ? AND b.end = ? AND (b.stream != a.stream OR b.at < a.at)",
        (row.origin, End.PUBLISHED),
    )
    return earlier.fetchone() is not None


def _was_raced(db: sqlite3.Connection, row: _Row) -> bool:
    """Tell whether an earlier use of the event_id lost it to this one then."""
    found = db.execute(
        "SELECT 1 FROM recorded AS a JOIN recorded AS b USING (event_id)"
        " WHERE a.origin = ? AND b.said = ? AND b.stream = a.stream AND b.at < a.at",
        (row.origin, Reason.ID_CONFLICT),
    )
    return found.fetchone() is not None


def _is_recorded(db: sqlite3.Connection, origin: str) -> bool:
    found = db.execute("SELECT 1 FROM recorded WHERE origin = ?", (origin,))
    return found.fetchone() is not None


def _ends(row: _Row) -> tuple[str, str]:
    """Return how it ended then and today; of what was published, not with what."""
    then = _shown(row.end, row.said if row.end == End.DEAD else "")
    return then, _shown(row.today or "nothing", row.today_said if row.today == End.DEAD else "")


def _shown(end: str, said: str) -> str:
    return f"{end}: {said}" if said else end
