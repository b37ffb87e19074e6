"""The demo's claims: each holds for sound evidence, and fails for the damage it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

import store
from sidecar.demo import evidence
from sidecar.demo.evidence import Claim, Entry, Evidence

STREAM = "control:events"
BASE = 1_795_000_000_000_000
SENT = 6
BAD = {f"{STREAM}/5-0": "invalid_event"}


def entry(number: int, event_id: str, tenant_id: str) -> Entry:
    """One control entry; all of a tenant have the same event but for the id."""
    body = {"event_id": event_id, "type": "run.abort", "tenant_id": tenant_id}
    return Entry(f"{number}-0", {"event": orjson.dumps(body)})


def notification(nth: int, of: Entry, **changed: object) -> Entry:
    """The notification of a control entry, in `nth` place."""
    version = BASE + nth
    event = orjson.dumps(of.event | {"control_version": version} | changed)
    fields = {"event": event, "origin": f"{STREAM}/{of.id}".encode()}
    return Entry(f"{version // 1000}-{version % 1000}", fields)


def sound() -> Evidence:
    """Five entries of two tenants, one of them sent twice, one bad."""
    control = [
        entry(1, "a", "t_1"),
        entry(2, "b", "t_2"),
        entry(3, "c", "t_1"),
        entry(4, "c", "t_1"),
        Entry("5-0", {"event": b"{"}),
        entry(6, "d", "t_1"),
    ]
    published = [control[1], control[0], control[2], control[5]]
    letter = {"origin": f"{STREAM}/5-0".encode(), "reason": b"invalid_event"}
    return Evidence(
        stream=STREAM,
        control=control,
        notifications=[notification(n, of) for n, of in enumerate(published)],
        letters=[Entry("9-0", letter)],
        pending=0,
        unread=0,
    )


def with_notifications(*notifications: Entry) -> Evidence:
    """The sound evidence, with other notifications."""
    return replace(sound(), notifications=notifications)


def claims(of: Evidence) -> list[Claim]:
    """Every claim that needs no store."""
    return [
        evidence.conserved(of, SENT),
        evidence.once(of),
        evidence.ordered(of),
        evidence.positions(of),
        evidence.by_reference(of, 0),
        evidence.set_aside(of, BAD),
        evidence.absorbed(of, "c"),
        evidence.survived(of, ["3-0", "6-0"]),
    ]


def test_sound_evidence_holds() -> None:
    """Every claim holds when nothing is wrong, duplicates and dead letters included."""
    assert [claim for claim in claims(sound()) if not claim.held] == []


def lost() -> Evidence:
    return with_notifications(*sound().notifications[:-1])


def twice() -> Evidence:
    of = sound()
    return with_notifications(*of.notifications, notification(9, of.control[5]))


def twice_by_another_entry() -> Evidence:
    of = sound()
    return with_notifications(*of.notifications, notification(9, of.control[3]))


def swapped() -> Evidence:
    of = sound()
    order = (of.control[1], of.control[2], of.control[0], of.control[5])
    return with_notifications(*(notification(n, e) for n, e in enumerate(order)))


def falling() -> Evidence:
    of = sound()
    return with_notifications(*of.notifications[:-1], notification(-1, of.control[5]))


def stamped_wrong() -> Evidence:
    of = sound()
    wrong = notification(3, of.control[5], control_version=BASE + 99)
    return with_notifications(*of.notifications[:-1], wrong)


def of_nowhere() -> Evidence:
    of = sound()
    return with_notifications(*of.notifications, notification(9, entry(77, "z", "t_9")))


def published_although_bad() -> Evidence:
    of = sound()
    return with_notifications(*of.notifications, notification(9, of.control[4], event_id="e"))


def swollen() -> Evidence:
    of = sound()
    bulk = notification(3, of.control[5], data="x" * 9000)
    return with_notifications(*of.notifications[:-1], bulk)


def conflicting() -> Evidence:
    of = sound()
    other = Entry("4-0", {"event": orjson.dumps(of.control[3].event | {"stack_id": "other"})})
    return replace(of, control=[*of.control[:3], other, *of.control[4:]])


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lost, {"nothing lost", "a killed worker's entries"}),
        (twice, {"nothing lost", "nothing twice", "each tenant's order kept",
                 "a killed worker's entries"}),
        (twice_by_another_entry, {"nothing twice", "each tenant's order kept",
                                  "sent twice, published once"}),
        (swapped, {"each tenant's order kept"}),
        (falling, {"control_version is the entry ID"}),
        (stamped_wrong, {"control_version is the entry ID"}),
        (of_nowhere, {"nothing lost"}),
        (published_although_bad, {"nothing lost", "bad events set aside, with a reason"}),
        (swollen, {"references only"}),
        (conflicting, {"nothing lost", "sent twice, published once"}),
        (lambda: replace(sound(), pending=1), {"nothing lost"}),
        (lambda: replace(sound(), unread=1), {"nothing lost"}),
        (lambda: replace(sound(), letters=[]),
         {"nothing lost", "bad events set aside, with a reason"}),
        (lambda: replace(sound(), control=sound().control[:-1]), {"nothing lost"}),
    ],
)  # fmt: skip
def test_damage_is_seen(damage: Callable[[], Evidence], names: set[str]) -> None:
    """Planted damage breaks the claims that are about it, and no other."""
    assert {claim.name for claim in claims(damage()) if not claim.held} == names


def test_culprits_are_named() -> None:
    """A claim that failed says where to look."""
    assert "entries: 6-0" in evidence.conserved(lost(), SENT).found


def pinned(fleet: store.Store, data: bytes, manifest: bytes = b"{}") -> Evidence:
    """One notification that pins `data`; the ref has been rewritten since."""
    fleet.put("rows/keys/t_1", data, manifest)
    of = entry(1, "a", "t_1")
    fields = {
        "artifact_ref": "rows/keys/t_1",
        "checksum": store.checksum_of(data),
        "manifest_checksum": store.checksum_of(manifest),
    }
    fleet.put("rows/keys/t_1", b"later", b"{}")
    return with_notifications(notification(0, of, **fields))


@pytest.fixture
def fleet(tmp_path: Path) -> store.VersionedStore:
    """An empty file store."""
    opened = store.open_url((tmp_path / "fleet").as_uri())
    assert isinstance(opened, store.VersionedStore)
    return opened


def test_pinned_artifact_is_there(fleet: store.VersionedStore) -> None:
    """A pinned version resolves although its ref moved on."""
    found = evidence.resolvable(pinned(fleet, b"rows"), fleet)
    assert found.claim.held
    assert found.total_bytes == len(b"rows{}")


def test_missing_artifact_is_seen(fleet: store.VersionedStore) -> None:
    """A notification whose pinned version nobody put is no notification of ours."""
    of = pinned(fleet, b"rows")
    event = of.notifications[0].event | {"checksum": store.checksum_of(b"never put")}
    fields = {**of.notifications[0].fields, "event": orjson.dumps(event)}
    claim = evidence.resolvable(with_notifications(Entry("1-0", fields)), fleet).claim
    assert not claim.held
    assert "NotFound" in claim.found


def test_corrupt_artifact_is_seen(fleet: store.VersionedStore, tmp_path: Path) -> None:
    """Flipped bytes in the store's own file are found by hashing again."""
    of = pinned(fleet, b"rows of the tenant")
    for path in (tmp_path / "fleet" / "refs").rglob("*"):
        if path.is_file() and b"rows of the tenant" in (found := path.read_bytes()):
            path.chmod(0o600)
            path.write_bytes(found.replace(b"rows of", b"ROWS OF"))
    assert not evidence.resolvable(of, fleet).claim.held
