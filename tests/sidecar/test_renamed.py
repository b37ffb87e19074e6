"""The notification stream, renamed away and back by a person: what its readers are told."""

from __future__ import annotations

import pytest

from sidecar.feed import Feed, FeedGap
from sidecar.ops.audit import Audit, AuditOrder
from sidecar.redis.client import Side
from tests.sidecar.harness import Rig

pytestmark = pytest.mark.server
AWAY = "{control:notifications}:away"


@pytest.fixture
def published(rig: Rig) -> Rig:
    """A rig with three events published."""
    for name in "abc":
        rig.emit(name)
        rig.drain()
    return rig


def versions(rig: Rig) -> list[int]:
    """Return the control_versions there are."""
    return [note["control_version"] for note in rig.notifications()]


def after(rig: Rig, cursor: int) -> list[str]:
    """Return what the feed has after a cursor, which is a mere number."""
    with Feed(rig.url, notify_stream=rig.notify) as feed:
        return [note.event_id for note in feed.poll(cursor)]


def test_away_and_back_between_two_publishes_is_nothing(published: Rig) -> None:
    """No gap, no new history, and nothing twice."""
    rig, (first, *_) = published, versions(published)
    history = rig.client.hget(rig.keys.incarnations, "list")
    rig.client.rename(rig.notify, AWAY)
    rig.client.rename(AWAY, rig.notify)
    rig.emit("d")
    rig.drain()
    assert after(rig, first) == ["b", "c", "d"]
    assert rig.client.hget(rig.keys.incarnations, "list") == history


def test_away_is_a_stream_made_anew(published: Rig) -> None:
    """A cursor of before is told, also when it is a mere number."""
    rig, before = published, versions(published)
    rig.client.rename(rig.notify, AWAY)
    rig.emit("d")
    rig.drain()
    for cursor in before:
        with pytest.raises(FeedGap) as gap:
            after(rig, cursor)
        assert gap.value.kind == "made_anew"


def test_back_over_what_was_published_meanwhile_is_told(published: Rig) -> None:
    """Who had read that gets a gap; who had not reads on, and the audit names what is gone."""
    rig, before = published, versions(published)
    rig.client.rename(rig.notify, AWAY)
    rig.emit("d")
    rig.drain()
    (meanwhile,) = versions(rig)
    rig.client.rename(AWAY, rig.notify)
    with pytest.raises(FeedGap):
        after(rig, meanwhile)
    rig.emit("e")
    rig.drain()
    assert after(rig, before[0]) == ["b", "c", "e"]
    with pytest.raises(FeedGap) as gap:
        after(rig, meanwhile)
    assert gap.value.kind == "made_anew"
    side = Side(rig.client, rig.url)
    found = list(Audit(side, side, rig.fleet, AuditOrder([rig.keys])).run())
    assert [(one.problem, one.event_id) for one in found] == [("lost", "d")]
