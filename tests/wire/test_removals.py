"""Records of what went from a store."""

from __future__ import annotations

import json

import pytest

from sidecar.wire import removals
from sidecar.wire.removals import MOST_NAMED, ROOT, Removal, announce, put_on_record
from store import Capability, Corrupt
from store.memory import MemoryStore

pytestmark = pytest.mark.unit


def removal(at: str = "2026-01-01T00:00:00Z") -> Removal:
    """Return one of a ref."""
    found = Removal(at, "me@here", ["last=2"])
    found.ref_went("stacks/t/web/1", "sha256:1", 7)
    return found


def test_what_is_put_on_record_is_read() -> None:
    """The oldest first."""
    fleet = MemoryStore()
    later, earlier = removal("2026-01-02T00:00:00Z"), removal()
    later.complete = True
    later.went("object", 70_000)
    for one in (later, earlier):
        put_on_record(fleet, one)
    assert list(removals.removals(fleet)) == [earlier, later]


def test_a_record_is_bounded() -> None:
    """However many refs went: all are counted, and some named."""
    found = Removal("2026-01-01T00:00:00Z", "me")
    for number in range(MOST_NAMED + 5):
        found.ref_went(f"r/{number}", "sha256:1", 1)
    assert (found.counts["ref"], len(found.refs)) == (MOST_NAMED + 5, MOST_NAMED)


def test_the_newest_records_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store can delete; in another one all do."""
    monkeypatch.setattr(removals, "MOST_RECORDS", 2)
    fleet, other = MemoryStore(), MemoryStore()
    other.capabilities -= {Capability.DELETE}
    for day in range(1, 5):
        for store in (fleet, other):
            put_on_record(store, removal(f"2026-01-0{day}T00:00:00Z"))
    assert [one.at[:10] for one in removals.removals(fleet)] == ["2026-01-03", "2026-01-04"]
    assert len(list(removals.removals(other))) == 4


def test_a_run_that_removed_nothing_leaves_no_record() -> None:
    """Nor is there one in a store that cannot list."""
    fleet, other = MemoryStore(), MemoryStore()
    other.capabilities -= {Capability.LIST}
    put_on_record(fleet, Removal("2026-01-01T00:00:00Z", "me"))
    put_on_record(other, removal())
    assert [list(fleet.list()), list(other.list())] == [[], []]


def test_a_run_that_is_killed_is_known_by_what_it_announced() -> None:
    """It says that it did not come to its end; one that does has one record."""
    fleet = MemoryStore()
    killed, whole = Removal("2026-01-01T00:00:00Z", "me"), removal("2026-01-02T00:00:00Z")
    for one in (killed, whole):
        announce(fleet, one)
    whole.complete = True
    put_on_record(fleet, whole)
    assert [one.complete for one in removals.removals(fleet)] == [False, True]


def test_a_run_that_announced_itself_and_removed_nothing_leaves_no_record() -> None:
    """Where it could not take that back, it does not announce itself."""
    fleet, other = MemoryStore(), MemoryStore()
    other.capabilities -= {Capability.DELETE}
    for store in (fleet, other):
        nothing = Removal("2026-01-01T00:00:00Z", "me")
        announce(store, nothing)
        put_on_record(store, nothing)
        assert list(store.list()) == []


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", json.dumps({"format": 2}).encode()])
def test_a_record_that_cannot_be_read_is_told(raw: bytes) -> None:
    """By its name; one of a newer release as such."""
    fleet = MemoryStore()
    fleet.put(f"{ROOT}/1", raw, b"")
    with pytest.raises(Corrupt, match="newer release" if b"format" in raw else f"{ROOT}/1 is no"):
        list(removals.removals(fleet))
