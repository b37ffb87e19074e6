"""Events whose artifact has gone from the producer's store (`published+AGE`); the fleet has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import store
from sidecar.worker.settings import file_url
from store import checksum_of
from tests.cli.harness import DEAD, LARGE, NOTIFICATIONS, STREAM, Cli

GROUP = f"sidecar:{NOTIFICATIONS}"
REF = "stacks/t1/web/1"
DATA = {"small": b"data", "large": LARGE}


def _store(sidecar: Cli, name: str) -> Any:
    return store.open_url(file_url(sidecar.directory / "data-dir" / name))


def _announce(sidecar: Cli, event_id: str, data: bytes, *, ref: str = REF, **more: Any) -> str:
    """Append an event that pins `data` and, unless `more` says, no manifest; return the entry's ID.

    An empty field is as none.
    """
    event = {
        "event_id": event_id, "type": "stack.activated", "tenant_id": "t1", "stack_id": "web",
        "version": 1, "artifact_ref": ref, "checksum": checksum_of(data), **more,
    }  # fmt: skip
    added: Any = sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    return str(added.decode())


def _lose(sidecar: Cli, which: int = -1) -> dict[str, Any]:
    """Let Redis lose a notification; return its event, without its control_version."""
    at, fields = sidecar.notifications()[which]
    sidecar.client.xdel(NOTIFICATIONS, at)
    event: dict[str, Any] = json.loads(fields[b"event"])
    event.pop("control_version")
    return event


def _repair(sidecar: Cli, *more: str) -> None:
    ran = sidecar("audit", "--repair", "--reason", "a failover", *more)
    assert ran.code == 0, ran.err
    sidecar.work()


def _last(sidecar: Cli) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(sidecar.notifications()[-1][1][b"event"])
    event.pop("control_version")
    return event


def _letter(sidecar: Cli) -> dict[str, str]:
    (letter,) = sidecar.entries(DEAD)
    return letter


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("pins", ["manifest", "data"])
def test_a_repair_publishes_from_the_fleets_store(sidecar: Cli, size: str, pins: str) -> None:
    """The same notification; who waits for the event learns it, and the audit is clean."""
    data, source = DATA[size], _store(sidecar, "source")
    source.put(REF, data, b"manifest")
    more = {"manifest_checksum": checksum_of(b"manifest")} if pins == "manifest" else {}
    _announce(sidecar, "e", data, **more)
    sidecar.work()
    first = _lose(sidecar)
    source.delete(REF)
    _repair(sidecar)
    assert sidecar.entries(DEAD) == []
    assert _last(sidecar) == first
    assert _store(sidecar, "fleet").get(REF, checksum=checksum_of(data)) == (data, b"manifest")
    assert sidecar("audit").code == 0
    assert sidecar("wait", "e", "--timeout", "0").code == 0


@pytest.mark.parametrize("source_has", ["both", "only the newer", "nothing"])
def test_a_ref_that_was_rewritten_maps_as_before(sidecar: Cli, source_has: str) -> None:
    """What the fleet has of it is the same, whatever the source has kept."""
    source, fleet = _store(sidecar, "source"), _store(sidecar, "fleet")
    for event_id in ("older", "newer"):
        source.put(REF, event_id.encode(), b"m")
        _announce(sidecar, event_id, event_id.encode())
        sidecar.work()
    first = _lose(sidecar, 0)
    if source_has == "nothing":
        source.delete(REF)
    if source_has == "only the newer":
        source.delete(REF, checksum=checksum_of(b"older"))
    _repair(sidecar, "--force")
    assert sidecar.entries(DEAD) == []
    assert _last(sidecar) == first
    assert fleet.get(REF).data == b"older"
    assert {one.checksum for one in fleet.versions(REF)} == {
        checksum_of(b"older"), checksum_of(b"newer"),
    }  # fmt: skip


def test_what_is_damaged_in_the_fleets_store_is_not_announced(sidecar: Cli) -> None:
    """It ends as a dead letter that names the damage; once put again it is redriven."""
    source = _store(sidecar, "source")
    source.put(REF, LARGE, b"m")
    _announce(sidecar, "e", LARGE)
    sidecar.work()
    _lose(sidecar)
    source.delete(REF)
    (found,) = (p for p in (sidecar.directory / "data-dir/fleet/objects").rglob("*") if p.is_file())
    _flip(found)
    _repair(sidecar)
    assert sidecar.notifications() == []
    assert _letter(sidecar)["reason"] == "artifact_missing"
    assert "the fleet's store has it, damaged: " in _letter(sidecar)["detail"]
    source.put(REF, LARGE, b"m")
    ran = sidecar("dead", "redrive", "--all", "--yes", "--reason", "put again")
    assert ran.code == 0, ran.err
    sidecar.work()
    assert len(sidecar.notifications()) == 1


def test_of_several_manifests_none_is_taken(sidecar: Cli) -> None:
    """The event does not say which was its own: it ends as before, and the dead letter says why."""
    source = _store(sidecar, "source")
    for manifest in (b"one", b"two"):
        source.put(REF, b"data", manifest)
        _announce(sidecar, manifest.decode(), b"data", manifest_checksum=checksum_of(manifest))
        sidecar.work()
    source.delete(REF)
    _announce(sidecar, "which", b"data")
    sidecar.work()
    letter = _letter(sidecar)
    assert letter["reason"] == "artifact_missing"
    assert "the fleet's store has that data with 2 manifests" in letter["detail"]
    assert len(sidecar.notifications()) == 2


@pytest.mark.parametrize("what", ["other data", "another manifest", "another ref"])
def test_what_the_fleet_lacks_is_missing(sidecar: Cli, what: str) -> None:
    """Nothing but the very pair is taken."""
    source = _store(sidecar, "source")
    source.put(REF, b"data", b"m")
    _announce(sidecar, "e", b"data")
    sidecar.work()
    source.delete(REF)
    more = {"manifest_checksum": checksum_of(b"another")} if what == "another manifest" else {}
    ref = "stacks/t1/web/2" if what == "another ref" else REF
    _announce(sidecar, "f", b"other" if what == "other data" else b"data", ref=ref, **more)
    sidecar.work()
    assert _letter(sidecar)["reason"] == "artifact_missing"
    assert len(sidecar.notifications()) == 1


def test_no_tenant_reaches_another_through_the_fleets_store(sidecar: Cli) -> None:
    """The scope holds for what lies there as well."""
    source = _store(sidecar, "source")
    source.put(REF, b"data", b"m")
    _announce(sidecar, "e", b"data")
    sidecar.work()
    source.delete(REF)
    scope = {"tenant_scope": ("stacks/{tenant}/*",)}
    _announce(sidecar, "theirs", b"data", tenant_id="t2")
    _announce(sidecar, "again", b"data")
    sidecar.work(**scope)
    assert _letter(sidecar)["reason"] == "forbidden_ref"
    assert [json.loads(one[b"event"])["event_id"] for _, one in sidecar.notifications()] == [
        "e", "again",
    ]  # fmt: skip


def test_a_takeover_after_a_put_publishes_from_the_fleets_store(sidecar: Cli) -> None:
    """A worker died between Put and publish, and the source was emptied before the next came."""
    fleet = _store(sidecar, "fleet")
    _store(sidecar, "source")
    sidecar.work()
    entry = _announce(sidecar, "e", b"data")
    sidecar.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    ms, sequence = entry.split("-")
    fleet.put(REF, b"data", b"m", position=(int(ms), int(sequence)))
    sidecar.work()
    assert sidecar.entries(DEAD) == []
    assert _last(sidecar)["manifest_checksum"] == checksum_of(b"m")


def test_an_old_dead_letter_is_redriven_from_the_fleets_store(sidecar: Cli) -> None:
    """`dead show` does not say that it would end again, and it does not; --fleet-store tells."""
    source = _store(sidecar, "source")
    _announce(sidecar, "early", b"data")
    sidecar.work()
    letter_id = sidecar("dead", "ls", "--each", "--json").object()["id"]
    assert sidecar("dead", "show", letter_id, "--json").object()["again"]
    source.put(REF, b"data", b"m")
    _announce(sidecar, "same", b"data")
    sidecar.work()
    source.delete(REF)
    assert sidecar("dead", "show", letter_id, "--json").object()["again"] is None
    nowhere = ("--source-store", file_url(sidecar.directory / "data-dir/source"))
    unnamed = sidecar(
        "dead", "show", letter_id, "--json", *nowhere, env={"SIDECAR_FLEET_STORE": ""}
    )
    assert "name --fleet-store" in unnamed.object()["again"]
    ran = sidecar("dead", "redrive", letter_id, "--reason", "it is there", "--force")
    assert ran.code == 0, ran.err
    sidecar.work()
    assert _last(sidecar)["event_id"] == "early"


def _flip(path: Path) -> None:
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(flipped)
