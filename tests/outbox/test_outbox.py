"""The outbox: what is staged with its change is put, then appended, once and in order."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

import pytest

import store
from sidecar.errors import UsageError
from sidecar.producer import outbox
from sidecar.producer.outbox import MAX_ARTIFACT_BYTES
from sidecar.producer.outbox.pump import BATCH, AnotherPump
from sidecar.wire.event import Rejected
from tests.outbox.places import Place, SqlitePlace
from tests.servers import PATIENCE_S

EXAMPLE: Final = Path(__file__).parents[2] / "examples/outbox.py"


def test_what_is_committed_is_put_and_appended(place: Place) -> None:
    """The artifact is in the store, and the event is in the stream as it was staged."""
    with place.connected() as db:
        event = outbox.stage(
            db, type="stack.activated", tenant_id="t_1", stack_id="web", version=7, more={"a": [1]},
            ref="stacks/t_1/web/7", data=b"\x00dump", manifest=b"m", traceparent="00-1",
        )  # fmt: skip
    assert place.pumped() == 1
    (entry,) = place.entries()
    sent = json.loads(entry[b"event"])
    assert sent["event_id"] == event.event_id
    assert sent["checksum"] == event.checksum == store.checksum_of(b"\x00dump")
    assert sent["more"] == {"a": [1]}
    assert entry[b"traceparent"] == b"00-1"
    assert place.store.get("stacks/t_1/web/7") == (b"\x00dump", b"m")


def test_what_is_rolled_back_is_never_sent(place: Place) -> None:
    """An event is there exactly when its change is."""
    db = place.connect()
    outbox.stage(db, type="key.changed", event_id="gone")
    db.rollback()
    outbox.stage(db, type="key.changed", event_id="kept")
    db.commit()
    db.close()
    place.pumped()
    assert place.appended() == ["kept"]


def test_a_put_comes_before_its_event(place: Place) -> None:
    """When the store refuses, nothing after it is appended either; the next try sends all."""
    place.stage("a", ref="r", data=b"x")
    place.stage("b")

    class Away:
        name = "away"

        def put(self, *_: object) -> None:
            raise store.Unavailable("the store is away")

    with pytest.raises(store.Unavailable):
        place.pumped(store=Away())
    assert place.appended() == []
    place.pumped()
    assert place.appended() == ["a", "b"]


def test_events_come_in_the_order_of_commits(place: Place) -> None:
    """Also over many batches."""
    wanted = [f"e{number}" for number in range(2 * BATCH + 7)]
    place.stage(*wanted)
    assert place.pumped() == len(wanted)
    assert place.appended() == wanted


def test_a_sent_row_is_not_sent_again(place: Place) -> None:
    """Nor does it keep its bytes."""
    place.stage("a", ref="r", data=b"x", manifest=b"m")
    assert [place.pumped(), place.pumped()] == [1, 0]
    assert place.appended() == ["a"]
    assert place.run("SELECT state, data, length(manifest) FROM sidecar_outbox") == [
        ("done", None, 0)
    ]


def test_sent_rows_are_removed_in_time(place: Place) -> None:
    """Those that were sent so long ago; what waits or is dead stays, whatever its age."""
    place.stage("a")
    place.plant(b"{")
    place.pumped()
    assert place.figures().done == 1
    place.run("UPDATE sidecar_outbox SET ended_at_ms = ended_at_ms - 3600001, staged_at_ms = 0")
    place.stage("b")
    place.pumped(keep_s=3600)
    assert (place.figures().done, place.figures().dead) == (1, 1)


def test_a_reference_is_staged_without_bytes(place: Place) -> None:
    """What was put already, or is too large for a row, is named by its ref and checksum."""
    place.store.put("big", b"x", b"")
    place.stage("a", artifact_ref="big", checksum=store.checksum_of(b"x"))
    place.pumped()
    assert place.appended() == ["a"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"type": ""}, "type"),
        ({"type": "stack.activated"}, "tenant_id"),
        ({"data": b"x", "ref": ".sidecar/x"}, "artifact_ref"),
        ({"artifact_ref": ".sidecar/x", "checksum": store.checksum_of(b"")}, "artifact_ref"),
        ({"ref": "r"}, "data"),
        ({"data": open, "ref": "r"}, "data"),
        ({"data": b"x" * (MAX_ARTIFACT_BYTES + 1), "ref": "r"}, "data"),
        ({"event_id": "\x00"}, "event_id"),
        ({"tenant_id": "\ud800"}, "malformed"),
        ({"traceparent": "\ud800"}, "traceparent"),
        ({"note": "x" * 16_384}, "too_large"),
        ({"note": "x" * 9_000}, "too_large"),
    ],
)
def test_what_breaks_a_rule_is_not_staged(place: Place, given: dict[str, Any], field: str) -> None:
    """The rules are the worker's, and the caller is told the field."""
    with place.connected() as db:
        with pytest.raises(Rejected, match=field):
            outbox.stage(db, **{"type": "key.changed", **given})
        with pytest.raises(store.InvalidRef):
            outbox.stage(db, type="key.changed", ref="a//b", data=b"")
    assert place.figures().waiting == 0


def test_hostile_content_comes_through_as_it_is(place: Place) -> None:
    """Quotes, NUL in a tenant's name, every byte in data: nothing is taken for SQL or text."""
    odd = "'; DROP TABLE sidecar_outbox; -- \x00 ? %s \U0001f600"
    every = bytes(range(256)) * 300
    place.stage("a", tenant=odd, ref=odd.replace("\x00", "").replace("/", ""), data=every)
    place.pumped()
    (entry,) = place.entries()
    event = json.loads(entry[b"event"])
    assert event["tenant_id"] == odd
    assert place.store.get(event["artifact_ref"]).data == every


@pytest.mark.parametrize(
    ("event", "data", "reason"),
    [
        (b"", None, "malformed"),
        (b"\xff\x00{", None, "malformed"),
        (b"[" * 100, None, "malformed"),
        (b"{" + b" " * 20_000 + b"}", None, "too_large"),
        (b'{"event_id": "\\u001b[31m", "type": "key.changed"}', None, "invalid_event"),
        (b'{"event_id": "x", "type": "key.changed"}', b"data", "invalid_event"),
        (
            b'{"event_id": "x", "type": "key.changed", "artifact_ref": "../x", "checksum": "%s"}'
            % store.checksum_of(b"data").encode(), b"data", "bad_ref",
        ),
        (
            b'{"event_id": "x", "type": "key.changed", "artifact_ref": "r", "checksum": "%s"}'
            % store.checksum_of(b"other").encode(), b"data", "checksum_mismatch",
        ),
        (
            b'{"event_id": "x", "type": "key.changed", "artifact_ref": "r", "checksum": "%s"}'
            % store.checksum_of(b"").encode(), b"x" * (MAX_ARTIFACT_BYTES + 1),
            "artifact_too_large",
        ),
    ],
)  # fmt: skip
def test_a_row_that_no_rule_allows_is_dead_and_stops_nobody(
    place: Place, event: bytes, data: bytes | None, reason: str
) -> None:
    """Other programs may insert rows: a bad one gets its reason, and those after it are sent."""
    place.stage("before")
    place.plant(event, data)
    place.stage("after")
    assert place.pumped() == 2
    assert place.appended() == ["before", "after"]
    (dead,) = place.figures().dead_rows
    assert dead.reason == reason
    assert (dead.reason + dead.detail).isprintable()
    assert not place.store.exists("r")
    assert [reason in one for one in place.told] == [True]


def test_a_dead_row_can_wait_again(place: Place) -> None:
    """Its event and its bytes are kept, so that a person can correct and send it."""
    place.plant(b'{"event_id": "x", "type": ""}')
    place.pumped()
    place.run(
        "UPDATE sidecar_outbox SET state = 'waiting', event = ? WHERE state = 'dead'",
        b'{"event_id": "x", "type": "key.changed"}',
    )
    place.pumped()
    assert place.appended() == ["x"]


def test_one_pump_at_a_time(place: Place) -> None:
    """A second is told so, and takes over once the first is closed."""
    first, second = place.pump(), place.pump()
    first.once()
    place.stage("a")
    with pytest.raises(AnotherPump):
        second.once()
    assert place.appended() == []
    first.close()
    assert second.once() == 1
    second.close()


def test_a_waiting_pump_takes_over(place: Place) -> None:
    """It says once that another has the outbox, and goes to work when that one ends."""
    first, second, stop = place.pump(), place.pump(), threading.Event()
    first.once()
    told = threading.Event()
    second._tell = lambda _: told.set()
    thread = threading.Thread(target=second.run, args=(stop,), kwargs={"poll_s": 0.01})
    thread.start()
    assert told.wait(PATIENCE_S)
    place.stage("a")
    first.close()
    place.until(lambda: place.appended() == ["a"])
    stop.set()
    thread.join()
    second.close()


def test_figures_tell_how_far_the_outbox_is(place: Place) -> None:
    """The lag is the age of the first row that waits, by the database's own clock."""
    empty = place.figures()
    assert (empty.waiting, empty.lag_s, empty.dead, empty.done) == (0, 0.0, 0, 0)
    place.stage("a")
    place.plant(b"{")
    place.pumped()
    place.stage("b", "c")
    place.run("UPDATE sidecar_outbox SET staged_at_ms = staged_at_ms - 60000")
    found = place.figures()
    assert (found.waiting, found.dead, found.done) == (2, 1, 1)
    assert 60 <= found.lag_s < 60 + PATIENCE_S
    assert json.loads(json.dumps(found.to_json()))["dead_rows"][0]["reason"] == "malformed"


def test_an_outbox_of_a_newer_format_is_refused(place: Place) -> None:
    """By all that would prepare, send or look, with both formats."""
    place.run("UPDATE sidecar_outbox_format SET format = 9")
    for refused in (place.prepare, place.pumped, place.figures):
        with pytest.raises(UsageError, match=r"format 9.*knows 1"):
            refused()


@pytest.mark.parametrize("format_", [0, -1])
def test_a_format_that_no_release_has_is_refused(place: Place, format_: int) -> None:
    """Nobody guesses."""
    place.run("UPDATE sidecar_outbox_format SET format = ?", format_)
    with pytest.raises(UsageError, match="no release has"):
        place.pumped()


def test_preparing_again_changes_nothing(place: Place) -> None:
    """A program may do it at each start."""
    place.stage("a")
    place.prepare()
    place.pumped()
    assert place.appended() == ["a"]


@pytest.mark.parametrize("names", [False, True])
def test_rows_may_come_as_the_program_likes(place: Place, names: bool) -> None:
    """A connection whose rows are no tuples prepares, also where nothing is yet, and stages."""

    def row_factory(cursor: Any, *row: Any) -> Any:
        found = [one[0] for one in cursor.description or ()]

        def made(values: Any) -> Any:
            return dict(zip(found, values, strict=True)) if names else list(values)

        return made(*row) if row else made

    for table in ("sidecar_outbox", "sidecar_outbox_order", "sidecar_outbox_format"):
        place.run(f"DROP TABLE IF EXISTS {table}")
    with place.connected() as db:
        db.row_factory = row_factory
        outbox.prepare(db)
        outbox.prepare(db)
        outbox.stage(db, type="key.changed", tenant_id="t", event_id="e")
        assert db.row_factory is row_factory
    assert place.pumped() == 1


class OfAnotherDriver:
    """What psycopg2 and SQLAlchemy give."""

    autocommit, isolation_level = False, None

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open."""
        return True


def test_another_drivers_connection_is_refused() -> None:
    """In one line, which says what is wanted, before anything is written."""
    connection: Any = OfAnotherDriver()
    with pytest.raises(UsageError, match="OfAnotherDriver is no connection that has an outbox"):
        outbox.prepare(connection)
    with pytest.raises(UsageError, match="OfAnotherDriver is no connection that has an outbox"):
        outbox.stage(connection, type="key.changed", tenant_id="t")


def test_a_database_without_outbox_is_told(place: Place) -> None:
    """With what makes it."""
    place.run("DROP TABLE sidecar_outbox_format")
    with pytest.raises(UsageError, match="prepare"):
        place.pumped()


def test_a_pump_by_asyncio_sends_until_it_is_cancelled(place: Place) -> None:
    """What is being sent ends first; then another pump may begin."""
    place.stage("a")

    async def pump_until_sent() -> None:
        pump = place.pump()
        running = asyncio.create_task(pump.run_async(poll_s=0.01))
        await asyncio.to_thread(place.until, lambda: place.appended() == ["a"])
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        pump.close()

    asyncio.run(pump_until_sent())
    assert place.pumped() == 0


# --- SQLite ---------------------------------------------------------------------------------------


def test_staging_outside_a_transaction_is_refused(tmp_path: Path) -> None:
    """With autocommit the row would be there without its change."""
    db = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    outbox.prepare(db)
    with pytest.raises(UsageError, match="no transaction is open"):
        outbox.stage(db, type="key.changed")
    db.execute("BEGIN")
    outbox.stage(db, type="key.changed")
    db.close()


def test_a_writer_does_not_wait_for_a_put(tmp_path: Path, redis_url: str) -> None:
    """While the pump puts, another connection writes without waiting at all."""
    place = SqlitePlace(tmp_path, redis_url)
    place.stage("a", ref="r", data=b"x")

    class Writing:
        name = "writing"

        def put(self, *_: object) -> None:
            db = sqlite3.connect(place.database, timeout=0)
            db.execute("BEGIN IMMEDIATE")
            outbox.stage(db, type="key.changed", event_id="b")
            db.commit()
            db.close()

    assert place.pumped(store=Writing()) == 2
    assert place.appended() == ["a", "b"]


def test_a_path_that_is_no_database_is_told(tmp_path: Path) -> None:
    """No file is made by a typo; a URL of another kind and a file of another kind are refused."""
    with pytest.raises(UsageError, match="no database"):
        outbox.figures(tmp_path / "typo.db")
    assert not (tmp_path / "typo.db").exists()
    with pytest.raises(UsageError, match="URL"):
        outbox.figures("mysql://user:secret@host/db")
    (tmp_path / "text").write_text("no database" * 1000)
    with pytest.raises(Exception, match="not a database"):
        outbox.figures(tmp_path / "text")


def test_staging_by_an_asyncio_connection(tmp_path: Path, redis_url: str) -> None:
    """A connection whose `execute` is awaited stages the same row."""
    place = SqlitePlace(tmp_path, redis_url)

    class Awaited:
        isolation_level = ""
        in_transaction = True

        def __init__(self, db: Any) -> None:
            self._db = db

        async def execute(self, sql: str, row: Any) -> None:
            self._db.execute(sql, row)

    with place.connected() as db:
        asyncio.run(outbox.stage_async(Awaited(db), type="key.changed", event_id="a"))
    place.pumped()
    assert place.appended() == ["a"]


def test_the_example_stages_what_it_changes(tmp_path: Path, redis_url: str) -> None:
    """`examples/outbox.py` commits a setting and its event together."""
    place = SqlitePlace(tmp_path, redis_url)
    words = [sys.executable, str(EXAMPLE), place.database, "ttl=30", "retries=5"]
    subprocess.run(words, check=True, cwd=EXAMPLE.parents[1])
    assert place.run("SELECT name, value FROM settings") == [("ttl", "30"), ("retries", "5")]
    assert place.pumped() == 2
    assert place.store.get("rows/settings/t_1/ttl").data == b'{"ttl": "30"}'
