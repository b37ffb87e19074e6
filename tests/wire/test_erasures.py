"""Records of tenants that were erased, and what is told by them."""

from __future__ import annotations

import json

import pytest

from sidecar.wire import erasures
from sidecar.wire.erasures import (
    ROOT,
    Erased,
    Erasure,
    Erasures,
    Gone,
    announce,
    announced,
    conclude,
    erasures_of,
)
from store import Capability, Corrupt, NotFound
from store.memory import MemoryStore

pytestmark = pytest.mark.unit

ONE = Gone("stacks/t/web/1", "sha256:1", "sha256:m", 7)


def erasure(at: str = "2026-01-01T00:00:00Z") -> Erasure:
    """Return one of a tenant."""
    return Erasure(at, "me@here", "t", "it left", ["file:///fleet"])


def test_it_is_known_before_anything_goes() -> None:
    """What was announced is on record, by ref and checksum, whether it came to its end or not."""
    fleet, one = MemoryStore(), erasure()
    assert announce(fleet, one, [ONE]) == 1
    assert erasures.erasures(fleet) == [one]
    assert list(announced(fleet, one)) == [ONE]
    found = Erasures(fleet)
    assert found.find(ONE.ref, ONE.checksum) == found.find(ONE.ref) == one
    for ref, checksum in ((ONE.ref, "sha256:2"), ("stacks/t/web", ONE.checksum), ("x", "")):
        assert found.find(ref, checksum) is None
    one.complete = True
    conclude(fleet, one)
    assert erasures.erasures(fleet) == [one]
    assert found.find(ONE.ref, ONE.checksum) == one


def test_a_record_is_continued() -> None:
    """Who continues adds to what was announced before."""
    fleet, one = MemoryStore(), erasure()
    announce(fleet, one, [ONE])
    announce(fleet, one, [])
    two = ONE._replace(ref="b")
    found = Erasures(fleet)
    assert not found.find("b")
    announce(fleet, one, [two])
    assert list(announced(fleet, one)) == [ONE, two]
    assert found.find("b")


def test_many_refs_lie_in_bounded_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many go, each part is small enough to be read."""
    monkeypatch.setattr(erasures, "PART_BYTES", 1000)
    fleet, one = MemoryStore(), erasure()
    many = [ONE._replace(ref=f"r/{number}") for number in range(100)]
    announce(fleet, one, many)
    assert list(announced(fleet, one)) == many
    parts = [ref for ref in fleet.list(ROOT) if ref.startswith(f"{one.record}/")]
    assert len(parts) > 10
    assert max(len(fleet.get(ref).data) for ref in parts) < 2000


def test_the_newest_is_told() -> None:
    """Of two erasures of one version the later one."""
    fleet = MemoryStore()
    for at in ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"):
        one = erasure(at)
        announce(fleet, one, [ONE])
        conclude(fleet, one)
    found = Erasures(fleet).find(ONE.ref, ONE.checksum)
    assert found
    assert found.at == "2026-01-02T00:00:00Z"
    assert [one.at[:10] for one in erasures.erasures(fleet)] == ["2026-01-01", "2026-01-02"]


def test_absence_is_told_as_erased() -> None:
    """`NotFound` of what was erased becomes `Erased`, which is one, too; all else stays."""
    fleet = MemoryStore()
    announce(fleet, erasure(), [ONE])
    told = erasures_of(fleet)
    why = "tenant 't' at 2026-01-01T00:00:00Z by me@here, reason given: \"it left\""
    with pytest.raises(Erased, match=why):  # noqa: SIM117
        with told.told(ONE.ref, ONE.checksum):
            fleet.get(ONE.ref)
    with pytest.raises(NotFound) as lost, told.told("other"):
        fleet.get("other")
    assert not isinstance(lost.value, Erased)
    with pytest.raises(ZeroDivisionError), told.told(ONE.ref):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "versions": [[1]]}', b"{" * 9999,
     b'{"format": 1, "at": 1, "none": 2}', b" " * (2 << 20)],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "/000001"])
def test_what_is_no_record(content: bytes, place: str) -> None:
    """What somebody planted is told with its name, and makes nothing erased or lost."""
    fleet, one = MemoryStore(), erasure()
    announce(fleet, one, [ONE])
    conclude(fleet, one)
    fleet.put(one.record + place, content, b"")
    with pytest.raises(Corrupt, match=ROOT):
        assert list(announced(fleet, erasures.erasures(fleet)[0])) is None
    assert Erasures(fleet).find(ONE.ref, ONE.checksum) is None


def test_a_store_that_cannot_list() -> None:
    """It has no records, and nothing is told."""
    fleet = MemoryStore()
    announce(fleet, erasure(), [ONE])
    fleet.capabilities -= {Capability.LIST}
    assert Erasures(fleet).find(ONE.ref, ONE.checksum) is None


def test_records_name_no_data() -> None:
    """A record is JSON, with names and digests alone."""
    fleet, one = MemoryStore(), erasure()
    announce(fleet, one, [ONE])
    (part,) = (ref for ref in fleet.list(ROOT) if ref.endswith("/000001"))
    assert json.loads(fleet.get(part).data) == {"format": 1, "versions": [list(ONE)]}
