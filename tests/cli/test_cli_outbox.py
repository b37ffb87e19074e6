"""`sidecar outbox`: the pump as a command, and how far an outbox is."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from threading import Event

import pytest

import store
from sidecar.producer import outbox
from sidecar.producer.outbox import Pump
from tests.cli.harness import HOSTILE, STREAM, Cli
from tests.servers import PATIENCE_S


@pytest.fixture
def database(sidecar: Cli) -> Path:
    """A database with an outbox in which two events and a bad row wait."""
    path = sidecar.directory / "app.db"
    db = sqlite3.connect(path)
    outbox.prepare(db)
    outbox.stage(db, type="key.changed", event_id="a", ref="r/a", data=b"data")
    bad = json.dumps({"event_id": HOSTILE, "type": "key.changed", "tenant_id": HOSTILE})
    db.execute("INSERT INTO sidecar_outbox (tenant, event) VALUES (x'', ?)", [bad.encode()])
    outbox.stage(db, type="key.changed", event_id="b")
    db.commit()
    db.close()
    return path


def _appended(sidecar: Cli) -> list[str]:
    return [json.loads(entry["event"])["event_id"] for entry in sidecar.entries(STREAM)]


def test_a_drain_sends_what_is_there(sidecar: Cli, database: Path) -> None:
    """The artifact is at the source, the events are in the stream, a dead row is told."""
    ran = sidecar(
        "outbox", "run", "--drain", "--database", database, env=sidecar.stores(wanted=True)
    )
    assert ran.code == 0, ran.err
    assert _appended(sidecar) == ["a", "b"]
    source = store.open_url((sidecar.directory / "data-dir" / "source").as_uri())
    assert source.get("r/a").data == b"data"
    assert "row 2 of the outbox is dead: invalid_event" in ran.err
    assert "\x1b" not in ran.err


def test_a_running_pump_sends_until_it_is_stopped(sidecar: Cli, database: Path) -> None:
    """SIGTERM is a clean stop, also with nothing to do."""
    sidecar.lay_out("source")
    with sidecar.running("outbox", "run", "--database", database) as process:
        for _ in range(int(PATIENCE_S / 0.05)):
            if _appended(sidecar) == ["a", "b"]:
                break
            Event().wait(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert _appended(sidecar) == ["a", "b"]


def test_status_tells_a_person_and_a_machine(sidecar: Cli, database: Path) -> None:
    """What waits and since when, what is dead and why; nothing steers the terminal."""
    before = sidecar("outbox", "status", "--database", database)
    assert "3, the first for " in before.out
    sidecar("outbox", "run", "--drain", "--database", database, env=sidecar.stores(wanted=True))
    shown = sidecar("outbox", "status", "--database", database)
    assert "invalid_event" in shown.out
    assert "\x1b" not in shown.out
    found = sidecar("outbox", "status", "--database", database, "--json").object()
    (dead,) = found.pop("dead_rows")
    assert found == {"waiting": 0, "lag_s": 0.0, "dead": 1, "done": 2}
    assert (dead["number"], dead["event_id"], dead["reason"]) == (2, HOSTILE, "invalid_event")


def test_a_second_pump_cannot_drain(sidecar: Cli, database: Path) -> None:
    """Exit 3: another has the outbox."""
    pump = Pump(str(database), sidecar.url, STREAM, store.open_url("memory:"))
    pump.once()
    ran = sidecar(
        "outbox", "run", "--drain", "--database", database, env=sidecar.stores(wanted=True)
    )
    assert ran.code == 3
    assert "another pump has the outbox" in ran.err
    pump.close()


@pytest.mark.parametrize("command", [("run", "--drain"), ("run",), ("status",)])
def test_a_database_without_outbox_is_exit_2(sidecar: Cli, command: tuple[str, ...]) -> None:
    """In one line, with what makes the outbox."""
    path = sidecar.directory / "empty.db"
    sqlite3.connect(path).close()
    ran = sidecar("outbox", *command, "--database", path, env=sidecar.stores(wanted=True))
    assert ran.code == 2
    assert "--database: " in ran.err
    assert "prepare" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_drain_without_redis_is_exit_4(sidecar: Cli, database: Path) -> None:
    """Nothing is lost: it waits in the outbox."""
    env = {**sidecar.stores(wanted=True), "SIDECAR_REDIS": "redis://127.0.0.1:1"}
    ran = sidecar("outbox", "run", "--drain", "--database", database, env=env)
    assert ran.code == 4
    assert outbox.figures(database).waiting == 3
