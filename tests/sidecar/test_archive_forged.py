"""What somebody planted in the archive of a fleet store: told, bounded, and trusted in nothing."""

from __future__ import annotations

import gzip
import hashlib
from typing import Any, Final

import orjson
import pytest

from sidecar.history.archive import ArchiveHistory, pack, place_of
from sidecar.history.checkpoints import newest_checkpoint
from sidecar.history.segments import Damaged
from sidecar.redis.archived import archived_to
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId
from store import VersionedStore
from store.memory import MemoryStore
from tests.sidecar.harness import Rig
from tests.sidecar.test_archive import archiver, emit
from tests.sidecar.test_history import live

MANY: Final = 2000


@pytest.fixture
def fleet() -> VersionedStore:
    """A fleet's store."""
    return MemoryStore()


def entries(*ids: str) -> list[Entry]:
    """Return entries of these IDs."""
    return [Entry(EntryId(one), {b"event": b"{}"}) for one in ids]


def history_of(rig: Rig, fleet: VersionedStore) -> ArchiveHistory:
    """Return what the archive holds."""
    return ArchiveHistory(fleet, live(rig).streams)


def test_a_segment_is_only_what_its_name_says(rig: Rig, fleet: VersionedStore) -> None:
    """Rows of another stream, or of another span, are not read under a name that they have not."""
    _, data, manifest = pack(rig.notify, "another", entries("5-0", "6-0"), None)
    for stream, name in ((rig.control, "5-0..6-0"), ("another", "1-0..2-0")):
        fleet.put(f"{place_of(rig.notify, stream)}/{name}", data, manifest)
        with pytest.raises(Damaged, match="header is that of another"):
            list(history_of(rig, fleet).entries(stream))


@pytest.mark.parametrize("ids", [("1-0", "9-0"), ("5-0", "6-0")])
def test_a_segment_has_no_rows_beyond_its_ends(
    rig: Rig, fleet: VersionedStore, ids: tuple[str, ...]
) -> None:
    """Where the rows begin or end elsewhere than the header says, none is believed."""
    ref, _, manifest = pack(rig.notify, rig.control, entries("5-0", "9-0"), None)
    raw = b"".join(orjson.dumps([one, "event", "{}"]) + b"\n" for one in ids)
    header = orjson.loads(manifest) | {"sha256": hashlib.sha256(raw).hexdigest()}
    fleet.put(ref, gzip.compress(raw), orjson.dumps(header))
    with pytest.raises(Damaged, match="begins or ends elsewhere"):
        list(history_of(rig, fleet).entries(rig.control))


def test_nothing_counts_as_archived_on_a_segments_word(rig: Rig, fleet: VersionedStore) -> None:
    """A planted segment that ends with the newest entry takes nothing out of the archive."""
    emit(rig, 5)
    found: Any = live(rig).entries(rig.control)
    *before, last = found
    ref, data, manifest = pack(rig.notify, rig.control, [last], None)
    forged = f"{place_of(rig.notify, rig.control)}/{last.id}..{last.id}"
    assert ref == forged
    fleet.put(ref, data, manifest)
    assert archived_to(rig.client, rig.client, rig.keys, rig.control) is None
    list(archiver(rig, fleet).archive(rig.control, rest=True))
    rig.client.xtrim(rig.control, maxlen=0, approximate=False)
    kept = list(history_of(rig, fleet).entries(rig.control))
    assert [one.id for one in kept] == [*(one.id for one in before), last.id]


def test_gaps_by_the_thousand_are_each_told(rig: Rig, fleet: VersionedStore) -> None:
    """Of segments that each tell of a gap, all gaps count, but what another segment has."""
    place = place_of(rig.notify, rig.control)
    for number in range(MANY):
        at = 10 * number + 10
        fleet.put(f"{place}/{at}-0..{at}-0~{at - 5}-0..{at - 1}-0", b"", b"")
    reach = history_of(rig, fleet).reach(rig.control)
    assert reach
    assert len(reach.gaps) == MANY
    fleet.put(f"{place}/1-0..{5 * MANY}-0", b"", b"")
    reach = history_of(rig, fleet).reach(rig.control)
    assert reach
    assert len(reach.gaps) == MANY // 2


def test_a_checkpoint_ends_where_its_header_says(rig: Rig, fleet: VersionedStore) -> None:
    """A state with more rows than it claims is not read to its end, however far that is."""
    raw = b'["","","r"]\t["1-0","event","{}"]\n' * 200_000
    header = {"format": 3, "rows": 10, "sha256": hashlib.sha256(raw).hexdigest(), "gaps": []}
    place = f"{place_of(rig.notify, 'x').rpartition('/')[0]}@state"
    fleet.put(f"{place}/5-0", gzip.compress(raw, 1), orjson.dumps(header))
    found = newest_checkpoint(fleet, rig.notify, EntryId("9-0"))
    assert found
    read: list[object] = []
    with pytest.raises(Damaged):
        read.extend(found.keyed())
    assert not read


SPOILT: Final[dict[str, Any]] = {
    "cut short": lambda raw: gzip.compress(raw)[:-9],
    "something behind it": lambda raw: gzip.compress(raw) + b"x",
    "a second part": lambda raw: gzip.compress(raw) + gzip.compress(raw),
    "no gzip": lambda raw: raw,
    "one row more": lambda raw: gzip.compress(raw + b'["9-1","event","{}"]\n'),
    "one row less": lambda raw: gzip.compress(raw[raw.index(b"\n") + 1 :]),
    "another row": lambda raw: gzip.compress(raw.replace(b"{}", b"[]", 1)),
    "no line feed at its end": lambda raw: gzip.compress(raw[:-1]),
    "nothing": lambda _: gzip.compress(b""),
}


@pytest.mark.parametrize("chunk_bytes", [5, 1 << 20])
@pytest.mark.parametrize("name", SPOILT)
def test_rows_that_come_as_they_are_read_end_in_damage(
    rig: Rig, fleet: VersionedStore, monkeypatch: pytest.MonkeyPatch, name: str, chunk_bytes: int
) -> None:
    """Unless all were what was written: who made something of the first of them throws it away."""
    monkeypatch.setattr("sidecar.history.packed.CHUNK_BYTES", chunk_bytes)
    ref, data, manifest = pack(rig.notify, rig.control, entries("5-0", "6-0", "9-0"), None)
    raw = gzip.decompress(data)
    fleet.put(ref, data, manifest)
    found = history_of(rig, fleet).runs(rig.control, EntryId("6-0"), EntryId("8-0"))
    assert [line for _, lines in found for line in lines] == [raw.splitlines()[1]]
    fleet.put(ref, SPOILT[name](raw), manifest)
    with pytest.raises(Damaged, match="damaged"):
        list(history_of(rig, fleet).runs(rig.control, EntryId("1-0"), EntryId("9-0")))


@pytest.mark.parametrize("ids", [("1-0", "9-0"), ("5-0", "6-0")])
def test_rows_that_come_as_they_are_read_begin_and_end_as_the_name_says(
    rig: Rig, fleet: VersionedStore, ids: tuple[str, ...]
) -> None:
    """Where they do not, it is damage, whatever the header says of their hash."""
    ref, _, manifest = pack(rig.notify, rig.control, entries("5-0", "9-0"), None)
    raw = b"".join(orjson.dumps([one, "event", "{}"]) + b"\n" for one in ids)
    header = orjson.loads(manifest) | {"sha256": hashlib.sha256(raw).hexdigest()}
    fleet.put(ref, gzip.compress(raw), orjson.dumps(header))
    with pytest.raises(Damaged, match="begins or ends elsewhere"):
        list(history_of(rig, fleet).runs(rig.control, EntryId("1-0"), EntryId("9-0")))


@pytest.mark.parametrize("key", [b"[1,2,3]", b"[null,null,null]", b'["","","",""]', b"7", b"x"])
def test_a_checkpoint_has_subjects(rig: Rig, fleet: VersionedStore, key: bytes) -> None:
    """What is no subject is damage, and no crash of who sorts it."""
    raw = key + b'\t["1-0","event","{}"]\n'
    header = {"format": 3, "rows": 1, "sha256": hashlib.sha256(raw).hexdigest(), "gaps": []}
    place = f"{place_of(rig.notify, 'x').rpartition('/')[0]}@state"
    fleet.put(f"{place}/5-0", gzip.compress(raw), orjson.dumps(header))
    found = newest_checkpoint(fleet, rig.notify, EntryId("9-0"))
    assert found
    with pytest.raises(Damaged, match="damaged"):
        list(found.keyed())
