"""Artifacts put from a reader and read in pieces, in constant memory."""

# ruff: noqa: S101, PLR2004 - assertions, with their figures, are what this package is for

from __future__ import annotations

import errno
import io
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from store import (
    Capability,
    ChecksumMismatch,
    Corrupt,
    NotFound,
    Unavailable,
    VersionedStore,
    capabilities,
    checksum_of,
)
from store.testing.samples import (
    ABSENT,
    REF,
    Interrupted,
    Trickle,
    blob_of,
    illegal_refs_taken,
    needs,
)

if TYPE_CHECKING:
    from pathlib import Path


class Shouting(io.FileIO):
    """A file that reads in capitals."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece, in capitals."""
        return super().read(size).upper()


SIZES = [0, 1, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20]
"""Empty, and what lies around thresholds that are likely."""

BROKEN_AFTER = [0, 10, 70_000, 3 << 20]
BREAKS = [
    OSError(errno.EIO, "the network went away"),
    ValueError("not what it should be"),
    Interrupted("Ctrl-C"),
    NotFound("the source has nothing there"),
    Corrupt("the source is damaged"),
    Unavailable("the source is away"),
]


class StreamConformance:
    """Data of any size goes in and out without being held in memory."""

    capability: ClassVar[Capability | None] = Capability.STREAM

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_put_from_is_put(self, store: VersionedStore, size_bytes: int) -> None:
        """What was put from a reader is what Put would have put, however it is read."""
        data = blob_of(size_bytes)
        assert store.put_from(REF, io.BytesIO(data), b"manifest") == checksum_of(data)
        store.put("put", data, b"manifest")
        for ref in (REF, "put"):
            assert store.exists(ref)
            assert store.get(ref) == (data, b"manifest")
            with store.open(ref) as reader:
                assert (reader.manifest, reader.size_bytes) == (b"manifest", size_bytes)
                assert reader.read() == data
                assert reader.read(1) == b""

    @pytest.mark.parametrize(
        ("size_bytes", "piece_bytes"),
        [(0, 1), (1, 1), (66_000, 1), (200_000, 65_536), (200_000, 65_537), (3 << 20, 100_003)],
    )
    def test_short_reads(self, store: VersionedStore, size_bytes: int, piece_bytes: int) -> None:
        """A reader may give less than it is asked for, one byte even: only none is the end."""
        data = blob_of(size_bytes)
        assert store.put_from(REF, Trickle(data, piece_bytes), b"m") == checksum_of(data)
        assert store.get(REF) == (data, b"m")

    def test_reads_as_the_reader_reads(self, store: VersionedStore, tmp_path: Path) -> None:
        """What counts is what `read` returns, also of a file that shows something else."""
        path = tmp_path / "file"
        path.write_bytes(b"secret" * 20_000)
        with Shouting(path) as reader:
            store.put_from(REF, reader, b"m")
        assert store.get(REF).data == b"SECRET" * 20_000
        for skipped in (0, 6, 100_000):
            for buffering in (0, -1):
                with path.open("rb", buffering=buffering) as file:
                    file.read(skipped)
                    store.put_from(REF, file, b"m")
                assert store.get(REF).data == (b"secret" * 20_000)[skipped:]

    def test_moves_the_ref(self, store: VersionedStore) -> None:
        """Put, and Put from a reader, replace each other's pair; the same again is harmless."""
        for i, size_bytes in enumerate([10, 100_000, 10, 100_000, 10, 10]):
            pair = (blob_of(size_bytes), b"%d" % (i // 2))
            if i % 2:
                store.put_from(REF, io.BytesIO(pair[0]), pair[1])
            else:
                store.put(REF, *pair)
            assert store.get(REF) == pair
            with store.open(REF) as reader:
                assert (reader.read(), reader.manifest) == pair
        if Capability.LIST in capabilities(store):
            assert len(list(store.versions(REF))) == 5

    def test_takes_a_position(self, store: VersionedStore) -> None:
        """An earlier position stores its version, and leaves the ref where it is."""
        needs(store, Capability.POSITION)
        for size_bytes in (10, 100_000):
            old = blob_of(size_bytes)
            store.put_from(REF, io.BytesIO(b"new"), b"m", position=(5, 1))
            store.put_from(REF, io.BytesIO(old), b"m", position=(5, 0))
            assert store.get(REF).data == b"new"
            assert store.get(REF, checksum=checksum_of(old)) == (old, b"m")
        store.put_from(REF, io.BytesIO(b"newer"), b"m", position=(6, 0))
        assert store.get(REF).data == b"newer"

    @pytest.mark.parametrize("size_bytes", [0, 10, 100_000, 3 << 20])
    def test_checksum_is_kept_to(self, store: VersionedStore, size_bytes: int) -> None:
        """Data that is not what `checksum` says is refused, and nothing was put."""
        data = blob_of(size_bytes)
        store.put(REF, b"old", b"old")
        for ref in (REF, "new"):
            with pytest.raises(ChecksumMismatch):
                store.put_from(ref, io.BytesIO(data), b"new", checksum=ABSENT)
        self._check_nothing_was_put(store, data)
        put = store.put_from(REF, io.BytesIO(data), b"new", checksum=checksum_of(data))
        assert put == checksum_of(data)
        assert store.get(REF) == (data, b"new")

    @pytest.mark.parametrize("broken_after", BROKEN_AFTER)
    @pytest.mark.parametrize("error", BREAKS, ids=lambda error: type(error).__name__)
    def test_a_reader_that_breaks(
        self, store: VersionedStore, error: BaseException, broken_after: int
    ) -> None:
        """What the reader raises comes through as it is; nothing was put, and a Put works."""
        data = blob_of(broken_after)
        store.put(REF, b"old", b"old")
        for ref in (REF, "new"):
            with pytest.raises(type(error)) as raised:
                store.put_from(ref, Trickle(data, 50_000, error), b"new")
            assert raised.value is error
        self._check_nothing_was_put(store, data)
        for ref in (REF, "new"):
            store.put_from(ref, io.BytesIO(data), b"new")
            assert store.get(ref) == (data, b"new")

    def _check_nothing_was_put(self, store: VersionedStore, data: bytes) -> None:
        assert store.get(REF) == (b"old", b"old")
        assert not store.exists("new")
        with pytest.raises(NotFound):
            store.get("new")
        if Capability.PINNED_GET in capabilities(store):
            assert not store.exists(REF, checksum=checksum_of(data))
        if Capability.LIST in capabilities(store):
            assert list(store.list()) == [REF]
            assert len(list(store.versions(REF))) == 1

    def test_illegal_refs_in_streams(self, store: VersionedStore) -> None:
        """An illegal ref raises `InvalidRef`, and the reader is not asked."""
        reader = Trickle(b"data", 1, AssertionError("it was asked"))
        assert not illegal_refs_taken(lambda ref: store.put_from(ref, reader, b"manifest"))
        assert not illegal_refs_taken(store.open)

    def test_malformed_checksum_in_streams(self, store: VersionedStore) -> None:
        """A checksum of another form is the caller's mistake: ValueError, and nothing is put."""
        with pytest.raises(ValueError, match="sha256"):
            store.put_from(REF, io.BytesIO(b"data"), b"m", checksum="0" * 64)
        assert not store.exists(REF)

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_racing_streams_never_tear_a_pair(self, store: VersionedStore, size_bytes: int) -> None:
        """Readers racing writers see some pair that was put, whole, however it is read."""
        pairs = [(b"%d" % i * size_bytes, b"manifest %d" % i) for i in range(4)]
        store.put(REF, *pairs[0])
        done = threading.Event()

        def write(pair: tuple[bytes, bytes]) -> None:
            for _ in range(10):
                store.put_from(REF, Trickle(pair[0], 30_000), pair[1])

        def read() -> None:
            over = False
            while not over:
                over = done.is_set()  # once more after the end: each reader reads at least once
                with store.open(REF) as reader:
                    assert (reader.read(), reader.manifest) in pairs
                assert store.get(REF) in pairs

        with ThreadPoolExecutor(6) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            writers = [pool.submit(write, pair) for pair in pairs]
            try:
                for writer in writers:
                    writer.result()
            finally:
                done.set()
            for reader in readers:
                reader.result()

    @pytest.mark.parametrize("size_bytes", [0, 10, 65_537, 3 << 20])
    def test_reads_in_pieces(self, store: VersionedStore, size_bytes: int) -> None:
        """An open artifact reads in pieces of any size, and as `io.BufferedReader` does."""
        data = blob_of(size_bytes)
        store.put(REF, data, b"manifest")
        with store.open(REF) as reader:
            pieces = list(iter(lambda: reader.read(10_007), b""))
        assert b"".join(pieces) == data
        assert all(len(piece) <= 10_007 for piece in pieces)
        with io.BufferedReader(store.open(REF)) as buffered:
            assert buffered.read(7) == data[:7]
            assert buffered.read() == data[7:]
        with store.open(REF) as reader:
            copy = io.BytesIO()
            shutil.copyfileobj(reader, copy)
        assert copy.getvalue() == data

    def test_reads_a_tar(self, store: VersionedStore) -> None:
        """A tar can be unpacked from the store as it is read."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name in ("one", "two"):
                member = tarfile.TarInfo(name)
                member.size = 100_000
                tar.addfile(member, io.BytesIO(blob_of(member.size)))
        store.put(REF, packed.getvalue(), b"manifest")
        with store.open(REF) as reader, tarfile.open(fileobj=reader, mode="r|gz") as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                assert content.read() == blob_of(100_000)

    def test_open_tells_the_checksum(self, store: VersionedStore) -> None:
        """An open artifact tells its data's checksum, if the backend keeps any."""
        store.put(REF, b"data", b"manifest")
        known = {checksum_of(b"data")}
        if Capability.PINNED_GET not in capabilities(store):
            known.add("")
        with store.open(REF) as reader:
            assert (reader.checksum or "") in known

    def test_opens_the_pinned_version(self, store: VersionedStore) -> None:
        """With checksums, Open opens the version that Get would return."""
        needs(store, Capability.PINNED_GET)
        for size_bytes in (10, 100_000):
            old = blob_of(size_bytes)
            for manifest in (b"m1", b"m2"):
                store.put(REF, old, manifest)
            store.put(REF, b"current", b"m3")
            pins: list[tuple[dict[str, Any], bytes]] = [
                ({}, b"m2"),
                ({"manifest_checksum": checksum_of(b"m1")}, b"m1"),
            ]
            for pin, manifest in pins:
                with store.open(REF, checksum=checksum_of(old), **pin) as reader:
                    assert (reader.read(), reader.manifest) == (old, manifest)
            for absent in ({"checksum": ABSENT}, {"manifest_checksum": ABSENT}):
                pinned: dict[str, Any] = {"checksum": checksum_of(old)} | absent
                with pytest.raises(NotFound):
                    store.open(REF, **pinned)
        with pytest.raises(ValueError, match="sha256"):
            store.open(REF, checksum="sha256:")

    def test_opening_nothing(self, store: VersionedStore) -> None:
        """Opening an absent ref is `NotFound` at once, not at the first read."""
        store.put(REF, b"data", b"manifest")
        for absent in ("nothing", "stacks", f"{REF}/below"):
            with pytest.raises(NotFound):
                store.open(absent)

    @pytest.mark.parametrize("size_bytes", [10, 100_000, 3 << 20])
    def test_closing_early(self, store: VersionedStore, size_bytes: int) -> None:
        """A reader may be closed halfway, and twice; then it is closed, as any file."""
        data = blob_of(size_bytes)
        store.put(REF, data, b"manifest")
        reader = store.open(REF)
        assert data.startswith(reader.read(5))
        for _ in range(2):
            reader.close()
            assert reader.closed
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
        assert store.get(REF) == (data, b"manifest")

    @pytest.mark.parametrize("size_bytes", [10, 100_000, 3 << 20])
    def test_an_open_reader_keeps_its_version(self, store: VersionedStore, size_bytes: int) -> None:
        """A reader that opened a version reads it to its end, while the ref moves on."""
        data = blob_of(size_bytes)
        store.put(REF, data, b"manifest")
        with store.open(REF) as reader:
            first = reader.read(5)
            store.put(REF, b"new" * 30_000, b"new")
            store.put_from(REF, io.BytesIO(b"newer"), b"newer")
            assert first + reader.read() == data
            assert reader.manifest == b"manifest"
        assert store.get(REF) == (b"newer", b"newer")

    def test_copies_from_ref_to_ref(self, store: VersionedStore) -> None:
        """An open artifact can be put as it is read, into the same store, at its own ref too."""
        data = blob_of(3 << 20)
        store.put(REF, data, b"manifest")
        for ref in ("copy", REF):
            with store.open(REF) as reader:
                store.put_from(ref, reader, reader.manifest, checksum=reader.checksum)
            assert store.get(ref) == (data, b"manifest")
