"""What every backend keeps. One class a promise; a backend's test class inherits its own."""

# ruff: noqa: S101 - assertions, with their figures, are what this package is for

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from store import Artifact, Capability, InvalidRef, NotFound, Store, capabilities
from store.testing.samples import LONG, LOOK_ALIKES, NEIGHBOURS, REF, illegal_refs_taken


class RefusingConformance:
    """What a backend may do with refs that its storage cannot hold beside others."""

    refuses_collisions: ClassVar[bool] = False
    """Whether Put may refuse a legal ref with `InvalidRef`, rather than let two refs meet."""

    def is_put(self, store: Store, ref: str, data: bytes, manifest: bytes) -> bool:
        """Put, and tell whether the backend took it."""
        try:
            store.put(ref, data, manifest)
        except InvalidRef:
            assert self.refuses_collisions
            return False
        return True

    def check_absent(self, store: Store, ref: str) -> None:
        """Assert that nothing lies at `ref`, or that the backend refuses to look."""
        refused = (InvalidRef,) if self.refuses_collisions else ()
        with contextlib.suppress(*refused):
            assert not store.exists(ref)
        with pytest.raises((NotFound, *refused)):
            store.get(ref)


class StoreConformance(RefusingConformance):
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
        for refs in (pair, [f"other/{ref}" for ref in reversed(pair)]):
            held = set()
            for ref in refs:
                if self.is_put(store, ref, ref.encode(), b"manifest"):
                    held.add(ref)
                for each in refs:
                    if each in held:
                        assert store.get(each) == (each.encode(), b"manifest")
                    else:
                        self.check_absent(store, each)

    @pytest.mark.parametrize("ref", LONG, ids=len)
    def test_refs_at_the_limits(self, store: Store, ref: str) -> None:
        """The longest and the deepest legal refs can be put."""
        if self.is_put(store, ref, b"data", b"manifest"):
            assert store.get(ref) == (b"data", b"manifest")
        else:
            self.check_absent(store, ref)
        self.check_absent(store, ref[:-1] + "z")

    def test_illegal_refs(self, store: Store) -> None:
        """An illegal ref raises `InvalidRef` everywhere, and stores nothing."""
        assert not illegal_refs_taken(lambda ref: store.put(ref, b"data", b"manifest"))
        assert not illegal_refs_taken(store.get)
        assert not illegal_refs_taken(store.exists)

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

        def read() -> None:
            over = False
            while not over:
                over = done.is_set()  # once more after the end: each reader reads at least once
                assert store.get(REF) in pairs
                assert store.exists(REF)

        with ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            writers = [pool.submit(write, pair) for pair in pairs]
            try:
                for writer in writers:
                    writer.result()
            finally:
                done.set()
            for reader in readers:
                reader.result()

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
