"""The worker beside a Go fleet: its directory as source, and as the fleet's store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import store
from store import Capability, checksum_of
from tests.cli.harness import DEAD, NOTIFICATIONS, Cli

OLD, NEW = b"the row as it was", b"the row as it is"


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """Where the Go side keeps its artifacts."""
    (tmp_path / "go").mkdir()
    return tmp_path / "go"


def go_put(go: Path, ref: str, data: bytes) -> None:
    """Put as the Go side does."""
    for path, blob in ((go / f"{ref}.manifest.json", b"{}"), (go / ref, data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)


def append(sidecar: Cli, event_id: str, ref: str, data: bytes) -> None:
    """Append the event that a Go producer sends after its Put."""
    event = {
        "event_id": event_id,
        "type": "tenant.created",
        "tenant_id": event_id,
        "artifact_ref": ref,
        "checksum": checksum_of(data),
    }
    sidecar.client.xadd("control:events", {"event": json.dumps(event)})


def published(sidecar: Cli) -> list[str]:
    """Return the event_ids that were published."""
    return [json.loads(entry["event"])["event_id"] for entry in sidecar.entries(NOTIFICATIONS)]


def files_under(root: Path) -> dict[str, bytes]:
    """Return the Go side's files."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "@sidecar" not in path.parts
    }


def test_a_go_fleet_as_source(sidecar: Cli, go: Path) -> None:
    """What a Go producer put is carried, also from a path that does not spell its ref."""
    go_put(go, "stacks/t_1/web/7", b"snapshot")
    go_put(go, "rows/tenants/t_2", b"row")
    append(sidecar, "e1", "stacks/t_1/web/7", b"snapshot")
    append(sidecar, "e2", "rows/tenants/t:2", b"row")
    before = files_under(go)
    sidecar.drain("--source-store", f"chassis-file://{go}")
    assert sorted(published(sidecar)) == ["e1", "e2"]
    fleet = store.versioned(
        store.open_url(f"file://{sidecar.directory / 'data-dir/fleet'}"), Capability.PINNED_GET
    )
    assert fleet is not None
    assert fleet.get("rows/tenants/t:2", checksum=checksum_of(b"row")) == (b"row", b"{}")
    assert files_under(go) == before
    assert not (go / "@sidecar").exists()


def test_a_rewritten_ref_at_a_go_source(sidecar: Cli, go: Path) -> None:
    """An event that finds its ref rewritten becomes a letter that says why; the rest continues."""
    go_put(go, "rows/tenants/t", NEW)
    append(sidecar, "old", "rows/tenants/t", OLD)
    append(sidecar, "new", "rows/tenants/t", NEW)
    sidecar.drain("--source-store", f"chassis-file://{go}")
    assert published(sidecar) == ["new"]
    (letter,) = sidecar.entries(DEAD)
    assert letter["reason"] == "checksum_mismatch"
    assert (
        "(chassis-file) keeps only the newest of each ref: once one is rewritten"
        in letter["detail"]
    )


def test_half_a_pair_at_a_go_source(sidecar: Cli, go: Path) -> None:
    """Data without a manifest is told as damage, a manifest without data as absence."""
    (go / "data").write_bytes(b"1")
    (go / "manifest.manifest.json").write_bytes(b"{}")
    append(sidecar, "e1", "data", b"1")
    append(sidecar, "e2", "manifest", b"1")
    append(sidecar, "e3", "s" * 250, b"1")
    # Files that were written a moment ago count as away until they rest.
    sidecar.drain("--source-store", f"chassis-file://{go}", "--retry-budget", "5")
    found = {
        json.loads(each["event"])["event_id"]: each["reason"] for each in sidecar.entries(DEAD)
    }
    assert found == {"e1": "checksum_mismatch", "e2": "artifact_missing", "e3": "bad_ref"}


def test_refused_as_fleet_store(sidecar: Cli, go: Path) -> None:
    """As fleet store it is refused with exit code 2 and the option that accepts it."""
    ran = sidecar("run", "--drain", "--fleet-store", f"chassis-file://{go}")
    assert ran.code == 2
    assert "keeps no versions" in ran.err
    assert "--allow-unpinned" in ran.err


@pytest.mark.parametrize("by", ["option", "variable"])
def test_accepted_as_fleet_store(sidecar: Cli, go: Path, by: str) -> None:
    """Accepted, a Go fleet finds the artifacts where it looks, and the log says what that means."""
    source = store.open_url(f"file://{sidecar.directory / 'data-dir/source'}")
    for data in (OLD, NEW):
        source.put("rows/tenants/t", data, b"{}")
    source.put("a b", b"1", b"{}")
    source.put("a_b", b"2", b"{}")
    append(sidecar, "old", "rows/tenants/t", OLD)
    append(sidecar, "new", "rows/tenants/t", NEW)
    sidecar.drain("--fleet-store", f"chassis-file://{go}", "--allow-unpinned")
    append(sidecar, "e1", "a b", b"1")
    sidecar.drain("--fleet-store", f"chassis-file://{go}", "--allow-unpinned")
    append(sidecar, "e2", "a_b", b"2")
    given = ["--allow-unpinned"] if by == "option" else []
    env = {"SIDECAR_ALLOW_UNPINNED": "1"} if by == "variable" else {}
    ran = sidecar.process(
        "run", "--drain", "--retry-budget", "0", "--fleet-store", f"chassis-file://{go}", *given,
        env=env,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "a notification cannot be resolved once its ref is rewritten" in ran.err
    assert sorted(published(sidecar)) == ["e1", "new", "old"]
    assert files_under(go) == {
        "rows/tenants/t": NEW,
        "rows/tenants/t.manifest.json": b"{}",
        "a_b": b"1",
        "a_b.manifest.json": b"{}",
    }
    (letter,) = sidecar.entries(DEAD)
    assert letter["reason"] == "bad_ref"
    assert "is the data of ref 'a b'" in letter["detail"]


def test_one_go_directory_as_both(sidecar: Cli, go: Path) -> None:
    """Where source and fleet are one directory, resolving is the whole job: nothing is written."""
    go_put(go, "rows/tenants/t", NEW)
    append(sidecar, "old", "rows/tenants/t", OLD)
    append(sidecar, "new", "rows/tenants/t", NEW)
    url = f"chassis-file://{go}"
    sidecar.drain("--source-store", url, "--fleet-store", url, "--allow-unpinned")
    assert published(sidecar) == ["new"]
    assert [each["reason"] for each in sidecar.entries(DEAD)] == ["checksum_mismatch"]
    assert not (go / "@sidecar").exists()


def test_a_go_directory_that_is_not_there(sidecar: Cli, tmp_path: Path) -> None:
    """A wrong path as source is refused with exit code 2: it would bury every event as missing."""
    ran = sidecar("run", "--drain", "--source-store", f"chassis-file://{tmp_path}/typo")
    assert ran.code == 2
    assert "is not there" in ran.err
