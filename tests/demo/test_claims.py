"""The demo's claims: each holds for sound evidence, and fails for the damage it is there to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from examples.demo.claims import Claim, Evidence, judge
from sidecar.feed import Notification

BASE = 1_795_000_000_000_000
BAD = {"control:events/5-0": "invalid_event"}


def entry(
    nth: int, event_id: str, origin: str, **fields: Any
) -> tuple[bytes, dict[bytes, bytes], Notification]:
    """A notification as XRANGE and as the feed have it, in `nth` place."""
    version = BASE + nth
    body = {"event_id": event_id, "type": "run.abort", "tenant_id": "t_1", **fields}
    notification = Notification(**body, control_version=version)
    raw = {b"event": b"x" * 300, b"origin": f"control:events/{origin}".encode()}
    notification = Notification.of_entry(
        raw | {b"event": notification.model_dump_json(exclude_unset=True).encode()}
    )
    return f"{version // 1000}-{version % 1000}".encode(), raw, notification


def sound() -> Evidence:
    """Five events, one of them sent twice and one bad; one names an artifact."""
    digest = "sha256:" + "0" * 64
    found = [
        entry(0, "a", "1-0", artifact_ref="rows/keys/t_1", checksum=digest),
        entry(1, "b", "2-0"),
        entry(2, "c", "3-0"),
    ]
    summary = {
        "entries": 5, "notifications": 3, "duplicates": 1, "dead_letters": 1, "waiting": 0,
        "expired": 0, "artifacts": 1, "size_bytes": 99, "complete": True,
    }  # fmt: skip
    return Evidence(
        summary=summary,
        culprits=[],
        status={"streams": [{"pending": 0, "lag": 0}]},
        dead=[{"origin": "control:events/5-0", "reason": "invalid_event"}],
        trace=[{"end": "published"}, {"end": "duplicate"}],
        notifications=[notification for _, _, notification in found],
        entries=[(id_, fields) for id_, fields, _ in found],
    )


def failed(evidence: Evidence, sent: int = 5, in_hand: str = "control:events/2-0") -> list[Claim]:
    """The claims that do not hold."""
    claims = judge(evidence, sent, BAD, "c", [in_hand] if in_hand else [])
    assert len(claims) == 9
    return [claim for claim in claims if not claim.held]


def test_sound_evidence_holds() -> None:
    """Every claim holds when nothing is wrong, duplicates and dead letters included."""
    assert failed(sound()) == []


def culprit(guarantee: str) -> Evidence:
    """What the audit prints of a guarantee that is broken."""
    line = {"guarantee": guarantee, "problem": "found", "event_id": "a", "entry": "1-0"}
    return sound()._replace(culprits=[line])


def summary(**changed: object) -> Evidence:
    """Another summary of the audit."""
    return sound()._replace(summary={**sound().summary, **changed})


def stream(**changed: object) -> Evidence:
    """Another status of the control stream."""
    streams: list[Mapping[str, object]] = [{"pending": 0, "lag": 0, **changed}]
    return sound()._replace(status={"streams": streams})


def with_another(nth: int, event_id: str, origin: str) -> Evidence:
    """One notification more."""
    id_, fields, notification = entry(nth, event_id, origin)
    whole = sound()
    return whole._replace(
        notifications=[*whole.notifications, notification],
        entries=[*whole.entries, (id_, fields)],
    )


def swollen() -> Evidence:
    """An entry over the limit."""
    (id_, fields), *rest = sound().entries
    return sound()._replace(entries=[(id_, {**fields, b"event": b"x" * 9000}), *rest])


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lambda: culprit("G1"), {"every pinned artifact there"}),
        (lambda: culprit("G2"), {"nothing twice"}),
        (lambda: culprit("G3"), {"nothing lost"}),
        (lambda: culprit("G4"), {"each tenant's order kept"}),
        (lambda: summary(complete=False), {"nothing lost"}),
        (lambda: summary(waiting=1), {"nothing lost"}),
        (lambda: summary(expired=1), {"nothing lost"}),
        (lambda: summary(entries=4), {"nothing lost"}),
        (lambda: summary(notifications=4), {"nothing lost"}),
        (lambda: summary(artifacts=0), {"every pinned artifact there"}),
        (lambda: stream(pending=1), {"nothing lost"}),
        (lambda: stream(lag=1), {"nothing lost"}),
        (lambda: stream(lag=None), {"nothing lost"}),
        (lambda: with_another(9, "c", "4-0"), {"nothing twice"}),
        (lambda: with_another(9, "d", "2-0"), {"a killed worker's entries"}),
        (lambda: with_another(9, "d", "5-0"), {"bad events set aside, with a reason"}),
        (lambda: with_another(-1, "d", "4-0"), {"control_version is the entry ID"}),
        (
            lambda: sound()._replace(entries=sound().entries[1:]),
            {"control_version is the entry ID", "nothing twice"},
        ),
        (swollen, {"references only"}),
        (lambda: sound()._replace(dead=[]), {"bad events set aside, with a reason"}),
        (
            lambda: sound()._replace(dead=[*sound().dead] * 2),
            {"bad events set aside, with a reason"},
        ),
        (lambda: sound()._replace(trace=[{"end": "published"}]), {"sent twice, published once"}),
        (lambda: sound()._replace(trace=[]), {"sent twice, published once"}),
    ],
)  # fmt: skip
def test_damage_is_seen(damage: Callable[[], Evidence], names: set[str]) -> None:
    """Planted damage breaks the claims that are about it, and no other."""
    assert {claim.name for claim in failed(damage())} == names


def test_what_the_demo_did_counts() -> None:
    """An event that was sent and is nowhere, and a kill that met no work, make a claim fail."""
    assert [claim.name for claim in failed(sound(), sent=6)] == ["nothing lost"]
    assert [claim.name for claim in failed(sound(), in_hand="")] == ["a killed worker's entries"]


def test_culprits_are_named() -> None:
    """A claim that failed says where to look."""
    (claim,) = failed(culprit("G3"))
    assert claim.found.endswith("; found a")
