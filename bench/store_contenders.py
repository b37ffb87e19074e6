"""What `bench.store` measures. Each contender is one function, run in a process of its own.

`python -m bench.store_contenders NAME CALLERS DIRECTORY COUNT` prints the seconds that COUNT
operations took, made by so many threads at once. What comes before the clock starts: data and
its checksums made, stores opened, their directories made and flushed.

Every writer stores data *and* manifest, checks the data against the checksum it knows, and has
both durable when it returns: the file, its name, and the names of new directories flushed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from bench.grouping import GroupSyncfs, GroupSyncfsTwice, GroupWriter
from store.file import FileStore

SMALL_BYTES = 4096
LARGE_BYTES = 256 << 20
CHUNK_BYTES = 1 << 20
TENANTS = 20


class Pair(NamedTuple):
    """What is put: the checksums are known beforehand, as a notification's are."""

    ref: str
    data: bytes
    manifest: bytes
    digest: str
    manifest_digest: str


def pair(i: int, size_bytes: int = SMALL_BYTES) -> Pair:
    """Return the i-th pair; no two have a blob in common, so that nothing is stored once only."""
    data = hashlib.shake_128(i.to_bytes(8)).digest(min(size_bytes, CHUNK_BYTES))
    data *= size_bytes // len(data)
    manifest = json.dumps({"kind": "bench", "format": "raw", "n": i, "pad": "x" * 200}).encode()
    digests = (hashlib.sha256(blob).hexdigest() for blob in (data, manifest))
    return Pair(ref_of(i), data, manifest, *digests)


def ref_of(i: int) -> str:
    """Return the ref of the i-th pair."""
    return f"stacks/t_{i % TENANTS}/web/{i}"


def check(digest: str, data: bytes) -> None:
    """Raise ValueError when data is not what its checksum says."""
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"the data is not {digest}")


def flush(path: Path | str) -> None:
    """Flush one file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def timed(callers: int, pairs: Sequence[Pair], put: Callable[[Pair], object]) -> float:
    """Return the seconds that all `pairs` took, shared out to so many threads."""
    failed: list[BaseException] = []

    def work(share: Sequence[Pair]) -> None:
        try:
            for each in share:
                put(each)
        except BaseException as error:  # noqa: BLE001 - reported where it is joined
            failed.append(error)

    threads = [threading.Thread(target=work, args=(pairs[i::callers],)) for i in range(callers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failed:
        raise failed[0]
    return seconds


# --- small, durable ------------------------------------------------------------------------


def raw_put(_callers: int, directory: Path, count: int) -> float:
    """Data and manifest into one file, fsync, rename, fsync of the directory; one by one."""
    temporary = directory / "temp"

    def put(each: Pair) -> None:
        check(each.digest, each.data)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, each.data + each.manifest)
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(temporary, directory / each.ref.replace("/", "_"))
        flush(directory)

    return timed(1, [pair(i) for i in range(count)], put)


def store_put(callers: int, directory: Path, count: int) -> float:
    """The file store's Put, each by itself."""
    store = _store(directory)
    for i in range(TENANTS):  # the tenants' directories
        store.put(f"stacks/t_{i}/web/first", b"", b"")

    def put(each: Pair) -> None:
        check(each.digest, each.data)
        store.put(each.ref, each.data, each.manifest)

    return timed(callers, [pair(i) for i in range(count)], put)


def group_fsync(callers: int, directory: Path, count: int) -> float:
    """Groups: writeback begun when staged, each file's fsync, each directory's once."""
    return _grouped(GroupWriter(directory), callers, directory, count)


def group_syncfs(callers: int, directory: Path, count: int) -> float:
    """Groups: one syncfs for the files, each directory's fsync once."""
    return _grouped(GroupSyncfs(directory), callers, directory, count)


def group_syncfs_twice(callers: int, directory: Path, count: int) -> float:
    """Groups: one syncfs for the files, one for their names."""
    return _grouped(GroupSyncfsTwice(directory), callers, directory, count)


def _grouped(writer: GroupWriter, callers: int, directory: Path, count: int) -> float:
    for i in range(TENANTS):
        (directory / f"stacks/t_{i}/web").mkdir(parents=True)
    os.sync()

    def put(each: Pair) -> None:
        check(each.digest, each.data)
        writer.put(each.ref, each.data, each.manifest)

    return timed(callers, [pair(i) for i in range(count)], put)


def hashfs_put(callers: int, directory: Path, count: int) -> float:
    """HashFS, two puts. Added: fsync of file and directory.

    Its temporary file lies in $TMPDIR and is moved, which is a copy on another disk: here it is
    a rename. Its four levels of one digit make 65,536 directories, each to be flushed once: here
    it gets one level of two, made and flushed before. The data's checksum is HashFS's own answer.
    """
    from hashfs import HashAddress, HashFS  # type: ignore[import-untyped]

    class DurableHashFS(HashFS):  # type: ignore[misc]
        def _mktempfile(self, stream: object) -> str:
            name: str = super()._mktempfile(stream)
            flush(name)
            return name

        def put(self, file: BinaryIO) -> HashAddress:
            address = super().put(file)
            flush(os.path.dirname(address.abspath))
            return address

    root = directory / "root"
    _fan_out(root)
    (directory / "tmp").mkdir()
    tempfile.tempdir = str(directory / "tmp")
    store = DurableHashFS(str(root), depth=1, width=2)

    def put(each: Pair) -> None:
        if store.put(io.BytesIO(each.data)).id != each.digest:
            raise ValueError(each.ref)
        store.put(io.BytesIO(each.manifest))

    return timed(callers, [pair(i) for i in range(count)], put)


def dvc_put(callers: int, directory: Path, count: int) -> float:
    """dvc-objects' ObjectDB.add_bytes, two of them. Added: fsync of file and directory.

    The upload is its own, with the flushes put where they belong; 256 directories made before.
    """
    from dvc_objects.db import ObjectDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.utils import tmp_fname

    class DurableFileSystem(LocalFileSystem):
        def upload_fobj(self, fobj: IO[bytes], to_info: str, **_: object) -> None:
            parent = self.parent(to_info)
            self.makedirs(parent)
            temporary = self.join(parent, tmp_fname(""))
            with open(temporary, "wb+") as file:
                shutil.copyfileobj(fobj, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, to_info)
            flush(parent)

    root = directory / "root"
    _fan_out(root)
    database = ObjectDB(DurableFileSystem(), str(root))  # type: ignore[no-untyped-call]

    def put(each: Pair) -> None:
        check(each.digest, each.data)
        database.add_bytes(each.digest, each.data)
        database.add_bytes(each.manifest_digest, each.manifest)

    return timed(callers, [pair(i) for i in range(count)], put)


def obstore_put(callers: int, directory: Path, count: int) -> float:
    """LocalStore of obstore, two puts. Added: fsync of both files, of their directory once.

    It renames before anyone could flush: the flushes come after, which is less than the others
    promise (a crash may leave the name on an empty file) and costs no more.
    """
    from obstore.store import LocalStore

    for i in range(TENANTS):
        (directory / f"stacks/t_{i}/web").mkdir(parents=True)
    os.sync()
    store = LocalStore(directory)

    def put(each: Pair) -> None:
        check(each.digest, each.data)
        manifest = f"{each.ref}.manifest.json"
        store.put(each.ref, each.data)
        store.put(manifest, each.manifest)
        flush(directory / each.ref)
        flush(directory / manifest)
        flush((directory / each.ref).parent)

    return timed(callers, [pair(i) for i in range(count)], put)


def _fan_out(root: Path) -> None:
    root.mkdir()
    for i in range(256):
        (root / f"{i:02x}").mkdir()
    os.sync()


# --- small, read ---------------------------------------------------------------------------

_READS = 5  # of every pair, so that the clock has something to measure


def raw_get(callers: int, directory: Path, count: int) -> float:
    """Open, read and hash two files: data and manifest."""
    pairs = [pair(i) for i in range(count)]
    for each in pairs:
        path = directory / each.ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.data)
        Path(f"{path}.manifest.json").write_bytes(each.manifest)
    root = str(directory)

    def get(each: Pair) -> None:
        path = f"{root}/{each.ref}"
        check(each.digest, _read(path))
        check(each.manifest_digest, _read(f"{path}.manifest.json"))

    return timed(callers, pairs * _READS, get) / _READS


def store_get(callers: int, directory: Path, count: int) -> float:
    """The file store's Get, which hashes both."""
    store = _store(directory)
    pairs = [pair(i) for i in range(count)]
    timed(8, pairs, lambda each: store.put(each.ref, each.data, each.manifest))
    return timed(callers, pairs * _READS, lambda each: store.get(each.ref)) / _READS


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


# --- large ---------------------------------------------------------------------------------


def raw_large_put(_callers: int, directory: Path, count: int) -> float:
    """The slower of write and fsync, and of SHA-256, each by itself."""
    pairs = _large(count)

    def write(each: Pair) -> None:
        descriptor = os.open(directory / each.digest, os.O_WRONLY | os.O_CREAT)
        rest = memoryview(each.data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        os.close(descriptor)

    return max(timed(1, pairs, write), timed(1, pairs, lambda each: check(each.digest, each.data)))


def store_large_put(callers: int, directory: Path, count: int) -> float:
    """The file store's Put."""
    store = _store(directory)
    return timed(callers, _large(count), lambda each: store.put(each.ref, each.data, each.manifest))


def store_large_put_from(callers: int, directory: Path, count: int) -> float:
    """The file store's put_from: streaming, the checksum checked."""
    store = _store(directory)

    def put(each: Pair) -> None:
        checksum = f"sha256:{each.digest}"
        store.put_from(each.ref, io.BytesIO(each.data), each.manifest, checksum=checksum)

    return timed(callers, _large(count), put)


def raw_large_get(_callers: int, directory: Path, count: int) -> float:
    """Read a file whole, and hash it."""
    pairs = _large_files(directory, count)
    return timed(1, pairs, lambda each: check(each.digest, _read(str(directory / each.digest))))


def store_large_get(callers: int, directory: Path, count: int) -> float:
    """The file store's Get."""
    store = _store(directory)
    pairs = _put_large(store, count)
    return timed(callers, pairs, lambda each: store.get(each.ref))


def raw_large_read(_callers: int, directory: Path, count: int) -> float:
    """Read a file by the MiB, hashing as it goes."""
    pairs = _large_files(directory, count)

    def read(each: Pair) -> None:
        found = hashlib.sha256()
        descriptor = os.open(directory / each.digest, os.O_RDONLY)
        while chunk := os.read(descriptor, CHUNK_BYTES):
            found.update(chunk)
        os.close(descriptor)
        if found.hexdigest() != each.digest:
            raise ValueError(each.ref)

    return timed(1, pairs, read)


def store_large_open(callers: int, directory: Path, count: int) -> float:
    """The file store's open, read by the MiB to its end."""
    store = _store(directory)
    pairs = _put_large(store, count)

    def read(each: Pair) -> None:
        with store.open(each.ref) as reader:
            while reader.read(CHUNK_BYTES):
                pass

    return timed(callers, pairs, read)


def _large(count: int) -> list[Pair]:
    return [pair(i, LARGE_BYTES) for i in range(count)]


def _large_files(directory: Path, count: int) -> list[Pair]:
    pairs = _large(count)
    for each in pairs:
        (directory / each.digest).write_bytes(each.data)
        flush(directory / each.digest)
    return _forgotten(pairs)


def _put_large(store: FileStore, count: int) -> list[Pair]:
    pairs = _large(count)
    for each in pairs:
        store.put(each.ref, each.data, each.manifest)
    return _forgotten(pairs)


def _forgotten(pairs: list[Pair]) -> list[Pair]:
    """Return the pairs without their data: what reads should have the memory that it left."""
    return [each._replace(data=b"") for each in pairs]


def _store(directory: Path) -> FileStore:
    return FileStore(str(directory / "store"))


CONTENDERS: dict[str, Callable[[int, Path, int], float]] = {
    function.__name__: function
    for function in (
        raw_put,
        store_put,
        group_fsync,
        group_syncfs,
        group_syncfs_twice,
        hashfs_put,
        dvc_put,
        obstore_put,
        raw_get,
        store_get,
        raw_large_put,
        store_large_put,
        store_large_put_from,
        raw_large_get,
        store_large_get,
        raw_large_read,
        store_large_open,
    )
}

if __name__ == "__main__":
    name, callers, directory, count = sys.argv[1:]
    print(CONTENDERS[name](int(callers), Path(directory), int(count)))
