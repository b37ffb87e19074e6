"""Garbage that a person wrote into the sidecar's keys, everywhere it is read."""

from __future__ import annotations

import pytest

from sidecar.feed import Feed, FeedGap
from sidecar.history.live import LiveHistory
from sidecar.ops.audit import Audit, AuditOrder
from sidecar.ops.status import collect
from sidecar.redis.client import Side
from sidecar.redis.damage import Damaged, trimmed_id
from sidecar.redis.keys import Keys
from sidecar.redis.members import Members
from sidecar.redis.readers import passed
from sidecar.redis.retention import Policy, Retention
from tests.sidecar.harness import Rig

GARBAGE = [b"garbage", b"", b"1-x", b"\xff", b"12", b"9" * 30 + b"-0"]


def retention(rig: Rig, *, archived_first: bool = False) -> Retention:
    """Return what trims all that is not needed."""
    policies = dict.fromkeys(("control", "notifications", "dead"), Policy(length=0))
    return Retention(
        rig.client, rig.client, rig.keys, policies, dedup_window_s=0, archived_first=archived_first
    )


def damaged(rig: Rig) -> list[str]:
    """Return what `status` calls damaged."""
    side = Side(rig.client, rig.url)
    found = collect(side, side, [rig.keys])
    assert found.to_json()["damaged"] == found.damaged
    return found.damaged


@pytest.fixture
def published(rig: Rig) -> Rig:
    """A rig with three events published."""
    for name in "abc":
        rig.emit(name)
    rig.drain()
    return rig


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_mark_of_trimming_that_is_none(published: Rig, garbage: bytes) -> None:
    """The feed reads on, and takes no gap for none; status names it; trimming notes it anew."""
    rig = published
    rig.client.hset(rig.keys.trimmed, rig.notify, garbage)
    versions = [note["control_version"] for note in rig.notifications()]
    with Feed(rig.url, notify_stream=rig.notify) as feed:
        assert [note.event_id for note in feed.poll(0)] == ["a", "b", "c"]
        assert [note.event_id for note in feed.poll(versions[1])] == ["c"]
        rig.client.xtrim(rig.notify, maxlen=1, approximate=False)
        with pytest.raises(FeedGap):
            feed.poll(versions[0])
    (told,) = damaged(rig)
    assert f"HDEL its field {rig.notify}" in told
    side = Side(rig.client, rig.url)
    with pytest.raises(Damaged):
        LiveHistory(side, side, [rig.keys], None).trimmed_to(rig.notify)
    assert retention(rig).trim_one("notifications").removed == 1
    assert damaged(rig) == []
    with Feed(rig.url, notify_stream=rig.notify) as feed, pytest.raises(FeedGap):
        feed.poll(versions[0])


@pytest.mark.parametrize("garbage", GARBAGE)
def test_an_audit_names_a_mark_of_trimming_that_is_none(published: Rig, garbage: bytes) -> None:
    """It cannot tell what was trimmed from what was deleted, and says why."""
    rig = published
    rig.client.hset(rig.keys.trimmed, rig.notify, garbage)
    rig.client.xtrim(rig.notify, maxlen=1, approximate=False)
    side = Side(rig.client, rig.url)
    with pytest.raises(Damaged, match=f"HDEL its field {rig.notify}"):
        list(Audit(side, side, rig.fleet, AuditOrder([rig.keys])).run())


def test_a_control_stream_that_begins_anew_with_lower_ids_is_no_damage(published: Rig) -> None:
    """The note of how far the one before was trimmed is ahead of it, whichever is asked about."""
    rig = published
    rows = Keys.of("rows", rig.notify)
    rig.client.xadd("rows", {"event": "{}"}, id="9-9")
    rig.client.xgroup_create("rows", rows.group, id="$")
    rig.client.hset(rig.keys.trimmed, "rows", "1000-0")
    side = Side(rig.client, rig.url)
    list(Audit(side, side, rig.fleet, AuditOrder([rig.keys, rows])).run())
    assert collect(side, side, [rig.keys, rows]).damaged == []


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_lowest_unfinished_entry_that_is_none(published: Rig, garbage: bytes) -> None:
    """Nothing of the control stream is trimmed, and it is named with its fix."""
    rig = published
    rig.client.set(rig.keys.low, garbage)
    with pytest.raises(Damaged, match="no sidecar wrote: delete it"):
        retention(rig).trim_one("control")
    assert rig.client.xlen(rig.control) == 3
    assert retention(rig).trim_one("notifications").removed == 3
    assert [rig.keys.low in told for told in damaged(rig)] == [True]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_mark_of_the_archive_that_is_none(published: Rig, garbage: bytes) -> None:
    """Nothing is trimmed that may not be archived, and it is named with its fix."""
    rig = published
    rig.client.hset(rig.keys.archived, rig.notify, garbage)
    with pytest.raises(Damaged, match="the archive notes it again"):
        retention(rig, archived_first=True).trim_one("notifications")
    assert rig.client.xlen(rig.notify) == 3
    assert [rig.keys.archived in told for told in damaged(rig)] == [True]


@pytest.mark.parametrize(
    "garbage", [*GARBAGE, b"1 2", b"-1 2 3", b"1 2 x", b"0 9999999999999999 60", b"0" * 100_000]
)
@pytest.mark.parametrize("old", [False, True])
def test_a_reader_that_nobody_can_read_holds_no_trimming_back(
    published: Rig, garbage: bytes, *, old: bool
) -> None:
    """Status names it; nothing waits for it, until it tells of itself again."""
    rig = published
    first, *_, last = (one["control_version"] for one in rig.notifications())
    passed(rig.client, rig.keys, "good", first, 60)
    if old:
        rig.client.hset(rig.keys.readers, "bad", garbage)
    else:
        rig.client.set(rig.keys.reader("bad"), garbage)
        rig.client.sadd(rig.keys.registered, "bad")
    assert retention(rig).trim_one("notifications").removed == 1
    assert ["bad" in told or rig.keys.readers in told for told in damaged(rig)] == [True]
    rig.client.hdel(rig.keys.readers, "bad")
    passed(rig.client, rig.keys, "bad", last, 60)
    assert damaged(rig) == []
    assert retention(rig).trim_one("notifications").removed == 0
    passed(rig.client, rig.keys, "good", last, 60)
    assert retention(rig).trim_one("notifications").removed == 2


def test_a_readers_key_that_is_no_string_is_named(published: Rig) -> None:
    """A key of another kind holds nothing back, and status says what it is not."""
    rig = published
    rig.client.sadd(rig.keys.reader("bad"), "x")
    rig.client.sadd(rig.keys.registered, "bad")
    assert retention(rig).trim_one("notifications").removed == 3
    assert ["no string" in told for told in damaged(rig)] == [True]


@pytest.mark.parametrize(
    "garbage",
    [*GARBAGE, b"[" * 100_000, b'{"name":"n","serves":[1,"a"],"owns":[]}', b"{}", b"[]",
     b'{"name":"n","serves":"abc","owns":[]}'],
)  # fmt: skip
def test_a_worker_that_is_none(published: Rig, garbage: bytes) -> None:
    """The workers beside it pass it over, and status names it."""
    rig = published
    rig.client.hset(rig.keys.workers, "x", garbage)
    members = Members(rig.client, rig.keys, name="n", serves=["s"], lease_s=60)
    assert members.beat([]) == []
    assert [rig.keys.workers in told for told in damaged(rig)] == [True]


def test_a_field_is_named_as_a_shell_takes_it(rig: Rig) -> None:
    """Others chose the name of a stream: what is to be typed has it in quotes."""
    with pytest.raises(Damaged, match=r"HDEL its field 'a; b'; trimming"):
        trimmed_id(rig.keys, "a; b", b"garbage")
