"""One class a promise; a backend's test class inherits those that it makes."""

# ruff: noqa: S101 - assertions are what this package is for

from __future__ import annotations

import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import pytest

from store import (
    Artifact,
    Capability,
    Corrupt,
    InvalidRef,
    NotFound,
    Store,
    Unavailable,
    VersionedStore,
    capabilities,
    checksum_of,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

REF = "stacks/t_123/web/42"
ABSENT = "sha256:" + "0" * 64

NEIGHBOURS = [
    ("a", "a/b"),
    ("a/b", "a/b/c"),
    ("A", "a"),
    ("stacks/T_1/web", "stacks/t_1/web"),
    ("x", "x.manifest.json"),
    ("x", "x.tmp"),
    (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    ("a", "a@"),
    ("a@", "a@/b"),
    ("A", "%41"),
    ("%41", "%2541"),
    ("a b", "a_b"),
    ("ß", "ss"),
    ("s" * 255, "s" * 254),
    ("S" * 255, "s" * 255),
    (".a", "a"),
    ("...", ".../..."),
    ("a\\b", "a/b"),
    ("-", "--"),
    ("a*", "a?"),
    ("con", "nul"),
    ("\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}"),
]
"""Pairs of legal refs that a careless encoding, or the storage itself, lets collide."""

LONG = [
    "é" * 127,
    "/".join(["s" * 255] * 4),
    "/".join("d" * 512),
    "\N{GRINNING FACE}" * 63 + "/" + "%" * 255,
    "A" * 255 + "/" + "@" * 255,
]
"""Legal refs at the limits: 1024 bytes in all, 255 a segment, 512 segments."""

ILLEGAL: list[object] = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../a",
    "a\x00b",
    "a\nb",
    "a\x7f",
    "a\x85b",
    "\x1b[31m",
    "\ud800",
    "a/\udfff",
    "a" * 256,
    "é" * 128,
    "/".join(["s" * 255] * 4) + "/",
    "a/" * 512 + "a",
    None,
    7,
    b"a",
    ["a"],
]

LOOK_ALIKES = [
    b"",
    b"\n\n",
    b"artifact-record 1\nref a\n\n",
    b"sha256:" + b"0" * 64,
    b"\r\n--boundary\r\n",
    b"\x00" * 4096,
    b"{}",
]
"""Blobs that a backend could take for its own headers or separators."""


class StoreConformance:
    """What every backend keeps, third-party ones too. Override the fixture `store`."""

    capability: ClassVar[Capability | None] = None

    @pytest.fixture
    def store(self) -> Store:
        """Return an open, empty store."""
        raise NotImplementedError

    def test_tests_every_declared_capability(self, store: Store) -> None:
        """The capabilities that the store declares are those that its tests inherit."""
        inherited = {vars(each).get("capability") for each in type(self).__mro__} - {None}
        assert capabilities(store) == inherited

    def test_is_a_store(self, store: Store) -> None:
        """A store has put, get, exists and a name that can stand in a log."""
        assert isinstance(store, Store)
        assert store.name
        assert store.name.isprintable()

    def test_reads_what_was_written(self, store: Store) -> None:
        """After a Put returns, Get returns that pair as bytes and Exists is true."""
        store.put(REF, b"data", b"manifest")
        artifact = store.get(REF)
        assert artifact == Artifact(b"data", b"manifest")
        assert [type(blob) for blob in artifact] == [bytes, bytes]
        assert store.exists(REF)

    def test_absent_ref(self, store: Store) -> None:
        """A ref without an artifact does not exist, also beside and below one that does."""
        store.put(REF, b"data", b"manifest")
        for absent in ("nothing", "stacks", f"{REF}/below", "stacks/t_123/web/4"):
            assert not store.exists(absent)
            with pytest.raises(NotFound):
                store.get(absent)

    def test_same_put_again_changes_nothing(self, store: Store) -> None:
        """Putting identical content again is harmless."""
        for _ in range(3):
            store.put(REF, b"data", b"manifest")
        assert store.get(REF) == (b"data", b"manifest")

    def test_put_moves_the_ref(self, store: Store) -> None:
        """Other data, or another manifest alone, replaces the pair at once, back and forth."""
        for pair in [(b"1", b"m"), (b"2", b"m"), (b"2", b"n"), (b"1", b"m"), (b"", b"m")]:
            store.put(REF, *pair)
            assert store.get(REF) == pair

    @pytest.mark.parametrize("pair", NEIGHBOURS, ids=ascii)
    def test_neighbours_never_meet(self, store: Store, pair: tuple[str, str]) -> None:
        """Two refs that differ in any byte are two artifacts, whichever is put first."""
        for first, second in (pair, tuple(f"other/{ref}" for ref in reversed(pair))):
            store.put(first, first.encode(), b"first")
            assert not store.exists(second)
            store.put(second, second.encode(), b"second")
            assert store.get(first) == (first.encode(), b"first")
            assert store.get(second) == (second.encode(), b"second")

    @pytest.mark.parametrize("ref", LONG, ids=len)
    def test_refs_at_the_limits(self, store: Store, ref: str) -> None:
        """The longest and the deepest legal refs can be put."""
        store.put(ref, b"data", b"manifest")
        assert store.get(ref) == (b"data", b"manifest")
        assert not store.exists(ref[:-1] + "z")

    @pytest.mark.parametrize("ref", ILLEGAL, ids=ascii)
    def test_illegal_refs(self, store: Store, ref: str) -> None:
        """An illegal ref raises `InvalidRef` everywhere, and stores nothing."""
        with pytest.raises(InvalidRef):
            store.put(ref, b"data", b"manifest")
        with pytest.raises(InvalidRef):
            store.get(ref)
        with pytest.raises(InvalidRef):
            store.exists(ref)

    @pytest.mark.parametrize("size_bytes", [0, 1, 65535, 65536, 65537, 5 << 20])
    def test_sizes(self, store: Store, size_bytes: int) -> None:
        """Empty blobs, 5 MiB, and what lies around a likely threshold come back as they were."""
        data = bytes(range(256)) * (size_bytes // 256) + b"\xff" * (size_bytes % 256)
        for manifest in (b"", data):
            store.put(REF, data, manifest)
            assert store.get(REF) == (data, manifest)

    @pytest.mark.parametrize("blob", LOOK_ALIKES, ids=lambda blob: blob[:12])
    def test_blobs_are_opaque(self, store: Store, blob: bytes) -> None:
        """Blobs that look like headers or separators come back as they were."""
        store.put(REF, blob, b"manifest")
        assert store.get(REF) == (blob, b"manifest")
        store.put(REF, b"data", blob)
        assert store.get(REF) == (b"data", blob)

    @pytest.mark.parametrize("size_bytes", [100, 70_000])
    def test_racing_writers_never_tear_a_pair(self, store: Store, size_bytes: int) -> None:
        """Readers racing writers on one ref see some Put's pair, never a mixture or a gap."""
        pairs = [(b"%d" % i * size_bytes, b"manifest %d" % i) for i in range(4)]
        store.put(REF, *pairs[0])
        done = threading.Event()

        def write(pair: tuple[bytes, bytes]) -> None:
            for _ in range(15):
                store.put(REF, *pair)

        def read() -> int:
            seen = 0
            while not done.is_set():
                assert store.get(REF) in pairs
                assert store.exists(REF)
                seen += 1
            return seen

        with ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            writers = [pool.submit(write, pair) for pair in pairs]
            try:
                for writer in writers:
                    writer.result()
            finally:
                done.set()
            assert all(reader.result() for reader in readers)

    def test_many_threads_on_many_refs(self, store: Store) -> None:
        """Threads that put different refs under one prefix do not disturb each other."""

        def write(thread: int) -> None:
            for i in range(10):
                store.put(f"shared/{i % 3}/{thread}/{i}", b"%d" % i, b"%d" % thread)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        for thread in range(8):
            for i in range(10):
                pair = (b"%d" % i, b"%d" % thread)
                assert store.get(f"shared/{i % 3}/{thread}/{i}") == pair


class PinnedGetConformance:
    """Earlier versions stay readable by checksum."""

    capability: ClassVar[Capability | None] = Capability.PINNED_GET

    def test_pinned_by_data(self, store: VersionedStore) -> None:
        """A version stays readable by its data's checksum after the ref moved on."""
        for data in (b"1", b"2", b"3" * 100_000, b"4"):
            store.put(REF, data, b"of " + data[:1])
        for data in (b"1", b"2", b"3" * 100_000, b"4"):
            assert store.get(REF, checksum=checksum_of(data)) == (data, b"of " + data[:1])
            assert store.exists(REF, checksum=checksum_of(data))
        assert store.get(REF).data == b"4"

    def test_pinned_by_the_pair(self, store: VersionedStore) -> None:
        """With the manifest's checksum too, Get returns exactly that pair."""
        manifests = [b"m1", b"m2", b"m3"]
        for manifest in manifests:
            store.put(REF, b"data", manifest)
        store.put(REF, b"other", b"m1")
        for manifest in manifests:
            pin = {"checksum": checksum_of(b"data"), "manifest_checksum": checksum_of(manifest)}
            assert store.get(REF, **pin) == (b"data", manifest)
            assert store.exists(REF, **pin)

    def test_newest_manifest_counts(self, store: VersionedStore) -> None:
        """Pinned by data alone, Get returns the manifest that was put last with it."""
        for manifest in (b"m1", b"m2", b"m1"):
            store.put(REF, b"data", manifest)
            assert store.get(REF, checksum=checksum_of(b"data")).manifest == manifest
        store.put(REF, b"other", b"m3")
        assert store.get(REF, checksum=checksum_of(b"data")) == (b"data", b"m1")

    def test_no_such_version(self, store: VersionedStore) -> None:
        """A version that was never put at this ref is `NotFound`, whatever lies elsewhere."""
        store.put(REF, b"data", b"manifest")
        store.put(REF, b"data 2", b"manifest 2")
        store.put("elsewhere", b"other", b"other")
        data, manifest = checksum_of(b"data"), checksum_of(b"manifest")
        pins = [
            (REF, ABSENT, None),
            (REF, ABSENT, manifest),
            (REF, data, ABSENT),
            (REF, data, checksum_of(b"manifest 2")),
            (REF, checksum_of(b"other"), None),
            ("nowhere", data, None),
        ]
        for ref, checksum, manifest_checksum in pins:
            assert not store.exists(ref, checksum=checksum, manifest_checksum=manifest_checksum)
            with pytest.raises(NotFound):
                store.get(ref, checksum=checksum, manifest_checksum=manifest_checksum)

    @pytest.mark.parametrize(
        "checksum",
        ["", "sha256:", "0" * 64, "sha256:" + "A" * 64, "sha1:" + "0" * 64, f"{ABSENT}\n"],
    )
    def test_malformed_checksum(self, store: VersionedStore, checksum: str) -> None:
        """A checksum of another form is the caller's mistake: ValueError, not absence."""
        store.put(REF, b"data", b"manifest")
        with pytest.raises(ValueError, match="sha256"):
            store.get(REF, checksum=checksum)
        with pytest.raises(ValueError, match="sha256"):
            store.exists(REF, checksum=ABSENT, manifest_checksum=checksum)

    def test_a_manifest_alone_pins_nothing(self, store: VersionedStore) -> None:
        """A manifest's checksum without the data's is the caller's mistake."""
        with pytest.raises(ValueError, match="checksum"):
            store.get(REF, manifest_checksum=ABSENT)

    def test_versions_survive_racing_writers(self, store: VersionedStore) -> None:
        """Every version that racing writers put at one ref is readable by its pair."""
        pairs = [(b"data %d" % (i % 5), b"manifest %d" % i) for i in range(40)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: store.put(REF, *pair), pairs))
        for data, manifest in pairs:
            found = store.get(
                REF, checksum=checksum_of(data), manifest_checksum=checksum_of(manifest)
            )
            assert found == (data, manifest)


class PositionConformance:
    """A Put may carry its position; a ref then never moves back."""

    capability: ClassVar[Capability | None] = Capability.POSITION

    def test_never_moves_back(self, store: VersionedStore) -> None:
        """An earlier position stores its version, and leaves the ref where it is."""
        store.put(REF, b"new", b"m", position=(5, 1))
        for position in ((5, 0), (4, 9), (0, 0)):
            store.put(REF, b"old", b"m", position=position)
            assert store.get(REF).data == b"new"
        assert store.get(REF, checksum=checksum_of(b"old")) == (b"old", b"m")

    def test_moves_forward(self, store: VersionedStore) -> None:
        """A later position moves the ref; positions compare as pairs of integers."""
        for position in ((9, 9), (10, 0), (10, 10), (1 << 53, 0), ((1 << 64) - 1, (1 << 64) - 1)):
            data = repr(position).encode()
            store.put(REF, data, b"m", position=position)
            assert store.get(REF).data == data

    def test_same_position_again(self, store: VersionedStore) -> None:
        """The same Put delivered twice changes nothing; the ref stays there."""
        for _ in range(2):
            store.put(REF, b"data", b"m", position=(5, 0))
        assert store.get(REF) == (b"data", b"m")

    def test_without_a_position_it_always_moves(self, store: VersionedStore) -> None:
        """A Put without position moves the ref, and from there any position does."""
        store.put(REF, b"1", b"m", position=(5, 0))
        store.put(REF, b"2", b"m")
        assert store.get(REF).data == b"2"
        store.put(REF, b"3", b"m", position=(1, 0))
        assert store.get(REF).data == b"3"

    def test_same_content_moves_the_position(self, store: VersionedStore) -> None:
        """Identical content at a later position bars what lies between, for good."""
        store.put(REF, b"data", b"m", position=(1, 0))
        store.put(REF, b"data", b"m", position=(5, 0))
        store.put(REF, b"data", b"m", position=(2, 0))
        store.put(REF, b"data", b"m")
        store.put(REF, b"between", b"m", position=(3, 0))
        assert store.get(REF).data == b"data"

    def test_positions_of_two_refs_are_apart(self, store: VersionedStore) -> None:
        """A position bars its own ref only."""
        store.put("a", b"1", b"m", position=(9, 0))
        store.put("b", b"2", b"m", position=(1, 0))
        assert store.get("b").data == b"2"

    @pytest.mark.parametrize("position", [(-1, 0), (0, -1), (1 << 64, 0)])
    def test_malformed_position(self, store: VersionedStore, position: tuple[int, int]) -> None:
        """A position out of range is the caller's mistake, and nothing is stored."""
        with pytest.raises(ValueError, match="position"):
            store.put(REF, b"data", b"m", position=position)
        assert not store.exists(REF)

    def test_racing_writers_end_at_the_last_position(self, store: VersionedStore) -> None:
        """However writers race, the latest position wins, and no reader sees the ref go back."""
        store.put(REF, b"0", b"m", position=(0, 0))
        done = threading.Event()

        def read() -> None:
            last = 0
            while not done.is_set():
                seen = int(store.get(REF).data)
                assert seen >= last
                last = seen

        with ThreadPoolExecutor(9) as pool:
            reader = pool.submit(read)
            try:
                list(
                    pool.map(
                        lambda i: store.put(REF, b"%d" % i, b"m", position=(0, i)),
                        [(i * 37) % 100 + 1 for i in range(100)],
                    )
                )
            finally:
                done.set()
            reader.result()
        assert store.get(REF).data == b"100"


class ListConformance:
    """Refs and versions can be enumerated."""

    capability: ClassVar[Capability | None] = Capability.LIST

    def test_lists_every_ref_once(self, store: VersionedStore) -> None:
        """List yields each ref exactly, however hostile, and however often it was put."""
        refs = {ref for pair in NEIGHBOURS for ref in pair} | set(LONG)
        for ref in refs:
            store.put(ref, b"1", b"m")
            store.put(ref, b"2", b"m")
        assert sorted(store.list()) == sorted(refs)

    def test_lists_under_a_prefix(self, store: VersionedStore) -> None:
        """A prefix is whole segments: it yields itself and what lies under it."""
        for ref in ("a", "a/b", "a/b/c", "a/bc", "ab", "A/b", "a/" + "S" * 255 + "/d"):
            store.put(ref, b"", b"")
        assert sorted(store.list("a")) == ["a", "a/" + "S" * 255 + "/d", "a/b", "a/b/c", "a/bc"]
        assert sorted(store.list("a/b")) == ["a/b", "a/b/c"]
        assert list(store.list("a/" + "S" * 255)) == ["a/" + "S" * 255 + "/d"]
        assert list(store.list("nothing/here")) == []

    def test_empty_store(self, store: VersionedStore) -> None:
        """A store in which nothing was put lists nothing."""
        assert list(store.list()) == []

    def test_illegal_prefix(self, store: VersionedStore) -> None:
        """A prefix obeys the rules for refs."""
        with pytest.raises(InvalidRef):
            list(store.list("a/"))

    def test_an_abandoned_list_lets_the_store_go_on(self, store: VersionedStore) -> None:
        """A caller may stop listing halfway, and put while listing."""
        for i in range(10):
            store.put(f"a/{i}/b", b"", b"")
        listing = store.list()
        first = next(listing)
        store.put("a/new", b"", b"")
        assert first in set(store.list())

    def test_versions_newest_first(self, store: VersionedStore) -> None:
        """Versions are listed once each, the one put last first, with sizes and the current one."""
        big = b"b" * 70_000
        for data in (b"1", big, b"1"):
            store.put(REF, data, b"m")
        newest, oldest = store.versions(REF)
        assert newest[:4] == (checksum_of(b"1"), checksum_of(b"m"), 1, 1)
        assert oldest[:4] == (checksum_of(big), checksum_of(b"m"), 70_000, 1)
        assert (newest.current, oldest.current) == (True, False)
        assert newest.stored_at >= oldest.stored_at

    def test_versions_of_nothing(self, store: VersionedStore) -> None:
        """Versions of an absent ref are `NotFound`, not an empty list."""
        store.put(REF, b"", b"")
        for absent in ("nothing", "stacks", f"{REF}/below"):
            with pytest.raises(NotFound):
                list(store.versions(absent))


class CorruptionConformance:
    """Damage in storage is told, and healed by the next Put. Override `damage`."""

    def damage(self, store: VersionedStore, ref: str) -> None:
        """Flip a bit of the data stored at `ref`, behind the store's back."""
        raise NotImplementedError

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_damage_is_corrupt_until_put_again(
        self, store: VersionedStore, size_bytes: int
    ) -> None:
        """Damaged data raises `Corrupt`, neither absence nor an outage; a Put heals it."""
        data = b"d" * size_bytes
        store.put(REF, data, b"manifest")
        self.damage(store, REF)
        with pytest.raises(Corrupt):
            store.get(REF)
        with pytest.raises(Corrupt):
            store.get(REF, checksum=checksum_of(data))
        store.put(REF, data, b"manifest")
        assert store.get(REF) == (data, b"manifest")
        assert store.get(REF, checksum=checksum_of(data)) == (data, b"manifest")


class OutageConformance:
    """An outage is told apart from absence. Override `outage`."""

    def outage(self, store: VersionedStore) -> AbstractContextManager[None]:
        """Make the storage unreachable for the block."""
        raise NotImplementedError

    def test_an_outage_is_unavailable(self, store: VersionedStore) -> None:
        """While storage is away every operation is `Unavailable`, also for absent refs."""
        store.put(REF, b"data", b"manifest")
        with self.outage(store):
            for ref in (REF, "absent"):
                with pytest.raises(Unavailable):
                    store.get(ref)
                with pytest.raises(Unavailable):
                    store.exists(ref)
                with pytest.raises(Unavailable):
                    store.put(ref, b"new", b"new")
                with pytest.raises(Unavailable):
                    list(store.versions(ref))
            with pytest.raises(Unavailable):
                list(store.list())
        assert store.get(REF) == (b"data", b"manifest")
        assert not store.exists("absent")
