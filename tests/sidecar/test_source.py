"""Entry IDs, and the control stream as its one active worker sees it."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from sidecar.redis.keys import Keys
from sidecar.redis.source import ControlStream, GroupLost
from sidecar.wire.ids import FIRST, EntryId

KEYS = Keys.of("control:events", "control:notifications")
HIGHEST = 2**64 - 1
numbers = st.integers(0, HIGHEST) | st.sampled_from([0, 1, HIGHEST - 1, HIGHEST])


@given(numbers, numbers)
def test_ids_have_neighbours_that_redis_takes(ms: int, seq: int) -> None:
    """The IDs before and after an ID are 64-bit pairs next to it, over milliseconds' ends, too."""
    entry_id = EntryId.of(ms, seq)
    if (ms, seq) != (0, 0):
        before = entry_id.before
        assert before.pair < (ms, seq)
        assert max(before.pair) <= HIGHEST
        assert before.after == entry_id
    if (ms, seq) != (HIGHEST, HIGHEST):
        after = entry_id.after
        assert after.pair > (ms, seq)
        assert max(after.pair) <= HIGHEST
        assert after.before == entry_id


def test_ids_compare_as_numbers() -> None:
    """IDs compare by number, not by text, and a missing sequence is zero."""
    assert EntryId("9-9") < EntryId("9-10") < EntryId("10-0")
    assert EntryId("9-10") > "9-9"
    assert EntryId("7").pair == (7, 0)
    assert FIRST.before == FIRST


def test_a_group_begins_after_an_id(client: redis.Redis) -> None:
    """A new group delivers what lies after the ID it was made at, and an old one stays as it is."""
    control = ControlStream(client, client, KEYS)
    for n in range(1, 5):
        client.xadd(KEYS.control, {"event": "x"}, id=f"{n}-0")
    assert control.create_group(EntryId("2-9"))
    assert not control.create_group(FIRST)
    assert [entry.id for entry in control.read_new(10, None)] == ["3-0", "4-0"]
    assert control.read_new(10, None) == []
    assert control.pending().total == 2
    assert control.last_delivered() == "4-0"
    assert [entry.id for entry in control.read_pending(EntryId("3-0"), 10)] == ["4-0"]
    assert control.acknowledge(["3-0", "3-0", "9-0"]) == 1


def test_a_lost_group_is_told_as_such(client: redis.Redis) -> None:
    """Every command that needs the group says when it is gone."""
    control = ControlStream(client, client, KEYS)
    for command in (
        lambda: control.read_new(1, None),
        lambda: control.read_new(1, 1),
        lambda: control.read_pending(FIRST, 1),
        control.pending,
    ):
        with pytest.raises(GroupLost):
            command()
    client.xadd(KEYS.control, {"event": "x"})
    with pytest.raises(GroupLost):
        control.last_delivered()
