"""The demo's control plane and fleet controller, without Redis."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

import store
from sidecar.demo import controller, schema
from sidecar.demo.controller import Fleet, NotASnapshot
from sidecar.demo.controlplane import SNAPSHOT_TYPE, ControlPlane, Snapshot, take_snapshot
from sidecar.demo.node import Writer
from sidecar.notification import Notification


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


def notifications(plane: ControlPlane) -> list[tuple[Notification, store.Artifact | None]]:
    """What the outbox would become."""
    with closing(schema.connect(plane.path)) as db:
        found = db.execute("SELECT * FROM outbox ORDER BY control_version").fetchall()
    return [
        (
            Notification(**orjson.loads(event) | {"control_version": n, "artifact_ref": ref},
                         checksum=store.checksum_of(data or b"") if ref else ""),
            store.Artifact(data, manifest) if ref else None,
        )
        for n, event, ref, data, manifest in found
    ]  # fmt: skip


def bootstrap(fleet: Fleet, snapshot: Snapshot) -> None:
    """Give the fleet its snapshot, as the feed would."""
    event = Notification(event_id="snapshot", type=SNAPSHOT_TYPE, control_version=1)
    fleet.apply(event, store.Artifact(snapshot.data, snapshot.manifest))


def test_same_seed_same_content(plane: ControlPlane, tmp_path: Path) -> None:
    """Two control planes of one seed stay equal through their changes; another seed differs."""
    with (
        closing(ControlPlane(tmp_path / "twin.db", seed=7)) as twin,
        closing(ControlPlane(tmp_path / "other.db", seed=8)) as other,
    ):
        for _ in range(200):
            for one in (plane, twin, other):
                one.change()
        content = [schema.shared_content(one.path) for one in (plane, twin, other)]
    assert content[0] == content[1] != content[2]


def test_snapshot_is_consistent_while_the_database_changes(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """A snapshot taken beside a writer is one moment: its change number, rows and dump agree."""
    writer = Writer(plane, changes=400, per_s=4000)
    writer.start()
    snapshots = [take_snapshot(plane.path, n, tmp_path / f"{n}.db") for n in range(4)]
    writer.stop()
    writer.check()
    for snapshot in snapshots:
        with closing(schema.restore(snapshot.data, ":memory:")) as restored:
            assert schema.control_version(restored) == snapshot.control_version
            assert schema.row_counts(restored) == snapshot.rows
            assert schema.dump(restored) == snapshot.data == schema.shared_content(snapshot.copy)
            assert restored.execute("PRAGMA foreign_key_check").fetchall() == []
    versions = [snapshot.control_version for snapshot in snapshots]
    assert versions == sorted(versions)


def test_manifest_says_what_a_bootstrap_needs(plane: ControlPlane, tmp_path: Path) -> None:
    """The manifest has kind, format, checksum and the versions to check before a restore."""
    snapshot = take_snapshot(plane.path, 1, tmp_path / "copy.db")
    manifest = orjson.loads(snapshot.manifest)
    assert manifest["checksum"] == store.checksum_of(snapshot.data)
    assert (manifest["kind"], manifest["format"]) == ("bootstrap.sqlite.dump", "sqlite3dump.sql")
    assert manifest["control_version"] == snapshot.control_version
    assert manifest.keys() >= {
        "control_model_version", "cache_schema_version", "created_at", "source_chassis_version",
        "db_migration_version",
    }  # fmt: skip


def test_fleet_becomes_the_source(plane: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """A snapshot and the changes after it make the source, though events before it come, too."""
    for _ in range(100):
        plane.change()
    snapshot = take_snapshot(plane.path, 1, tmp_path / "copy.db")
    for _ in range(200):
        plane.change()
    bootstrap(fleet, snapshot)
    for notification, artifact in notifications(plane):
        fleet.apply(notification, artifact)
    assert schema.shared_content(tmp_path / "fleet.db") == schema.shared_content(plane.path)
    assert controller.status(tmp_path / "fleet.db").out_of_order == 0


def test_applying_again_changes_nothing(plane: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """Notifications applied a second time, all of them, leave the fleet as it is."""
    bootstrap(fleet, take_snapshot(plane.path, 1, tmp_path / "copy.db"))
    for _ in range(60):
        plane.change()
    for notification, artifact in notifications(plane) * 2:
        fleet.apply(notification, artifact)
    assert schema.shared_content(tmp_path / "fleet.db") == schema.shared_content(plane.path)


def test_a_skipped_change_is_noticed(plane: ControlPlane, fleet: Fleet, tmp_path: Path) -> None:
    """A change that does not fit on the revision that is there is counted."""
    bootstrap(fleet, take_snapshot(plane.path, 1, tmp_path / "copy.db"))
    outgoing = [plane.change_by_hand("t_02") for _ in range(2)][1]
    skipped = Notification(**outgoing.event, control_version=5, artifact_ref=outgoing.ref,
                           checksum=store.checksum_of(outgoing.data or b""))  # fmt: skip
    fleet.apply(skipped, store.Artifact(outgoing.data or b"", outgoing.manifest))
    assert controller.status(tmp_path / "fleet.db").out_of_order == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "other"), ("control_model_version", 2), ("checksum", "sha256:" + "0" * 64)],
)
def test_a_foreign_snapshot_is_refused(
    plane: ControlPlane, fleet: Fleet, tmp_path: Path, field: str, value: object
) -> None:
    """A manifest that promises something else is refused before a row is written."""
    snapshot = take_snapshot(plane.path, 1, tmp_path / "copy.db")
    manifest = orjson.dumps(orjson.loads(snapshot.manifest) | {field: value})
    with pytest.raises(NotASnapshot, match=field):
        fleet.bootstrap(store.Artifact(snapshot.data, manifest))
    assert fleet.base == -1


@pytest.mark.usefixtures("fleet")
def test_a_row_artifact_names_no_other_table(tmp_path: Path) -> None:
    """Data from outside cannot choose a table that is none of its business."""
    data = orjson.dumps({"table": "fleet_state", "tenant_id": "t", "columns": [], "rows": []})
    with (
        closing(sqlite3.connect(tmp_path / "fleet.db")) as db,
        pytest.raises(ValueError, match="fleet_state"),
    ):
        schema.apply_rows(db, data)
