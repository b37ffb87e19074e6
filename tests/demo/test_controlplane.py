"""The demo's control plane and fleet controller, without Redis."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

import store
from examples.demo import schema
from examples.demo.fleet import Fleet
from examples.demo.plane import SNAPSHOT_TYPE, ControlPlane, Outgoing, Snapshot, take_snapshot
from sidecar.feed import Notification
from store import Artifact


@dataclass
class Log:
    """Takes the place of producer, sidecar and feed."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)

    def send(self, out: Outgoing) -> None:
        """Remember it."""
        event, data, manifest = out
        body = {"artifact_ref": event["ref"], "checksum": store.checksum_of(data)}
        version = len(self.notifications) + 1
        self.artifacts[event["event_id"]] = Artifact(data, manifest)
        self.notifications.append(Notification(**event | body, control_version=version))

    def pump(self, plane: ControlPlane) -> int:
        """Take what is in a control plane's outbox."""
        with closing(schema.connect(plane.path)) as db:
            rows = db.execute("SELECT event, data, manifest FROM sidecar_outbox").fetchall()
            db.execute("DELETE FROM sidecar_outbox")
        for event, *artifact in rows:
            body = orjson.loads(event)
            self.send((body | {"ref": body["artifact_ref"]}, *artifact))
        return len(rows)

    def change(self, plane: ControlPlane, changes: int) -> None:
        """Let a control plane work as fast as it can."""
        plane.work(lambda: self.pump(plane), changes, 1e9, threading.Event())

    def snapshot(self, snapshot: Snapshot) -> None:
        """Send a snapshot."""
        event = {"event_id": snapshot.ref, "ref": snapshot.ref, "type": SNAPSHOT_TYPE}
        self.send((event, snapshot.data, snapshot.manifest))

    def resolve(self, notification: Notification) -> Artifact:
        """Return the artifact of a notification."""
        return self.artifacts[notification.event_id]

    def apply(self, fleet: Fleet) -> None:
        """Give a fleet all there is."""
        fleet.apply(self.notifications, len(self.notifications), self.resolve)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A fresh control plane."""
    with closing(ControlPlane(tmp_path / "plane.db", seed=7)) as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """An empty fleet database."""
    with closing(Fleet(tmp_path / "fleet.db")) as made:
        yield made


def test_same_seed_same_content(plane: ControlPlane, tmp_path: Path) -> None:
    """Two control planes of one seed stay equal through their changes; another seed differs."""
    with (
        closing(ControlPlane(tmp_path / "twin.db", seed=7)) as twin,
        closing(ControlPlane(tmp_path / "other.db", seed=8)) as other,
    ):
        for one in (plane, twin, other):
            Log().change(one, 200)
        content = [schema.digest(one.path) for one in (plane, twin, other)]
    assert content[0] == content[1] != content[2]


def test_snapshot_is_consistent_while_the_database_changes(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """A snapshot taken beside a writer is one moment: its number, dump and copy agree."""
    writer = threading.Thread(target=Log().change, args=(plane, 400))
    writer.start()
    snapshots = [take_snapshot(plane.path, tmp_path / f"{n}.db") for n in range(4)]
    writer.join()
    for snapshot in snapshots:
        with closing(sqlite3.connect(":memory:")) as restored:
            restored.executescript(snapshot.data.decode())
            assert snapshot.ref == f"bootstrap/sqlite/{schema.control_version(restored)}"
            assert schema.dump(restored) == snapshot.data
            assert restored.execute("PRAGMA foreign_key_check").fetchall() == []
        with closing(schema.connect(snapshot.copy)) as copy:
            assert schema.dump(copy) == snapshot.data
    numbers = [int(snapshot.ref.rpartition("/")[2]) for snapshot in snapshots]
    assert numbers == sorted(numbers)


def test_manifest_says_what_a_bootstrap_needs(plane: ControlPlane, tmp_path: Path) -> None:
    """The manifest has kind, format, checksum and the versions to check before a restore."""
    Log().change(plane, 3)
    snapshot = take_snapshot(plane.path, tmp_path / "copy.db")
    manifest = orjson.loads(snapshot.manifest)
    assert manifest["checksum"] == store.checksum_of(snapshot.data)
    assert (manifest["kind"], manifest["format"]) == ("bootstrap.sqlite.dump", "sqlite3dump.sql")
    assert manifest["control_version"] == 3
    assert manifest.keys() >= {"control_model_version", "cache_schema_version", "created_at"}


def test_fleet_becomes_the_source(plane: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """A snapshot and the changes after it make the source, though events before it come, too."""
    log = Log()
    log.change(plane, 100)
    log.snapshot(take_snapshot(plane.path, tmp_path / "copy.db"))
    log.change(plane, 200)
    log.apply(fleet)
    assert fleet.base == 100
    assert schema.digest(tmp_path / "fleet.db") == schema.digest(plane.path)
    assert fleet.counts == (301, 0, sum(len(one.data) for one in log.artifacts.values()))


def test_applying_again_changes_nothing(plane: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """Notifications applied a second time, all of them, leave the fleet as it is."""
    log = Log()
    log.snapshot(take_snapshot(plane.path, tmp_path / "copy.db"))
    log.change(plane, 60)
    log.apply(fleet)
    counts = fleet.counts
    log.apply(fleet)
    assert schema.digest(tmp_path / "fleet.db") == schema.digest(plane.path)
    assert fleet.counts == counts


def test_a_skipped_change_is_noticed(plane: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """A change that does not fit on the revision that is there is counted."""
    log = Log()
    log.snapshot(take_snapshot(plane.path, tmp_path / "copy.db"))
    plane.change_by_hand("t_02")  # nobody sends it
    log.send(plane.change_by_hand("t_02"))
    log.apply(fleet)
    assert fleet.counts[:2] == (2, 1)


@pytest.mark.parametrize(("field", "value"), [("kind", "other"), ("control_model_version", 2)])
def test_a_foreign_snapshot_is_refused(
    plane: ControlPlane, fleet: Fleet, tmp_path: Path, field: str, value: object
) -> None:
    """A manifest that promises something else is refused before a row is written."""
    snapshot = take_snapshot(plane.path, tmp_path / "copy.db")
    manifest = orjson.dumps(orjson.loads(snapshot.manifest) | {field: value})
    with pytest.raises(ValueError, match="no snapshot"):
        fleet.bootstrap(Artifact(snapshot.data, manifest))
    assert fleet.base == -1


@pytest.mark.usefixtures("fleet")
def test_a_row_artifact_names_no_other_table(tmp_path: Path) -> None:
    """Data from outside cannot choose a table that is none of its business."""
    data = orjson.dumps({"table": "fleet_state", "tenant_id": "t", "rows": []})
    with (
        closing(sqlite3.connect(tmp_path / "fleet.db")) as db,
        pytest.raises(ValueError, match="fleet_state"),
    ):
        schema.apply_rows(db, data)
