"""The file backend: a directory that `ls`, `cat` and `sha256sum` can read.

    ROOT/STORE                      format and hash, two lines of text
    ROOT/IDENTITY                   the store's random id, a line of text
    ROOT/refs/stacks/t_1/web/42@    the ref's current record
    ROOT/refs/stacks/t_1/web/42@D.M every version's record, by the SHA-256 of data and manifest;
                                    the newest is a hard link to the current one
    ROOT/objects/sha256/ab/abcd…    data over 64 KiB, read-only, shared by all refs
    ROOT/locks/…                    serialise what must be one step to others
    ROOT/quarantine/                what was found corrupt
    ROOT/tmp/                       writes under way; leftovers of crashes go after a day

Files are immutable: written under tmp/, flushed, and only then given a name. One rename
publishes the pair. `store.record` has the format, `store.file.tree` the way through directories,
`store.file.upkeep` verification and garbage collection, `store.file.deleting` deletion,
`store.file.purging` what deletion leaves.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from typing import TYPE_CHECKING, TypeVar

from store.contract import (
    Artifact,
    Blob,
    Capability,
    Limit,
    Listed,
    Only,
    Position,
    StoreConfig,
    Version,
    as_bytes,
    check_pin,
    check_position,
    digests_of,
)
from store.errors import ChecksumMismatch, Corrupt, NotFound
from store.file import deleting, finding, purging, records, upkeep
from store.file.copying import copy_blob, copy_reader, read_up_to, source_of
from store.file.layout import Found, object_of, place_of
from store.file.names import Names
from store.file.root import open_root
from store.file.tree import Tree
from store.posix import explained
from store.record import FIRST_BYTES, HEADER_MAX_BYTES, INLINE_MAX_BYTES, describe
from store.refs import check_ref, checked, encode
from store.streams import ArtifactReader
from store.urls import root_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from store.contract import Checked, Collected, Pin, Retention
    from store.file.copying import Copied
    from store.streams import Readable

_SWEPT_MAX = 1000
"""Files under tmp/ that opening a store looks at; garbage collection looks at all."""

_SCHEME = len("sha256:")

_T = TypeVar("_T")


def open_file(config: StoreConfig) -> FileStore:
    """Open, or create, the store in `config.file_dir`, else in the directory of `config.url`.

    Raises `ConfigError` when neither is given, and as `FileStore`.
    """
    root = root_of(config, "file")
    return FileStore(root, timeout_s=config.timeout_s, create=config.create)


class FileStore:
    """Artifacts under one directory, for any number of threads and processes at once.

    Raises `ConfigError` when `root` holds something else or a newer format, or no store and it is
    not to `create` one; `Unavailable` when it cannot be reached. With a store in it already, a
    read-only root can be opened and read.
    """

    name = "file"
    capabilities = frozenset(Capability)

    def __init__(self, root: str, *, timeout_s: float = 30.0, create: bool = True) -> None:
        self._root = root
        with explained(self._root, "open the store"):
            self._tree = Tree(root, open_root(root, create=create), timeout_s=timeout_s)
        self._names = Names(self._tree)
        self.location = "file:{}:{}".format(*self._tree.identity)
        self._identity: str | None = None
        with contextlib.suppress(OSError):  # a reader who may not, or a race, is no trouble
            for _ in self._tree.leftovers(remove=True, most=_SWEPT_MAX):
                pass

    @property
    def identity(self) -> str | None:
        """See `VersionedStore.identity`."""
        if self._identity is None:
            with explained(self._root, "read the identity"):
                self._identity = self._tree.store_identity()
        return self._identity

    # Put: hash, write aside, flush, name, flush the names.

    def put(
        self, ref: str, data: Blob, manifest: Blob, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`. Raises `Unavailable` when it cannot be made durable."""
        check_ref(ref)
        check_position(position)
        blob, manifest_blob = as_bytes(data), as_bytes(manifest)
        with explained(self._root, f"put {ref!r}"):
            if len(blob) > INLINE_MAX_BYTES:
                self._put_large(ref, lambda fd: copy_blob(fd, blob), manifest_blob, None, position)
            else:
                self._put_small(ref, blob, manifest_blob, None, position)

    def put_from(
        self, ref: str, reader: Readable, manifest: Blob, *, checksum: str | None = None,
        position: Position | None = None,
    ) -> str:  # fmt: skip
        """See `VersionedStore.put_from`.

        A regular file, or an artifact of another file store, is copied by the kernel, which may
        share its blocks.
        """
        check_ref(ref)
        check_position(position)
        check_pin(checksum, None)
        manifest_blob = as_bytes(manifest)
        with explained(self._root, f"put {ref!r}"):
            source = source_of(reader)
            head = read_up_to(reader, INLINE_MAX_BYTES + 1)
            if len(head) <= INLINE_MAX_BYTES:
                return self._put_small(ref, head, manifest_blob, checksum, position)
            return self._put_large(
                ref,
                lambda fd: copy_reader(fd, head, reader, source),
                manifest_blob,
                checksum,
                position,
            )

    def _put_small(
        self, ref: str, data: bytes, manifest: bytes, checksum: str | None,
        position: Position | None,
    ) -> str:  # fmt: skip
        digest = hashlib.sha256(data).hexdigest()
        found = _accepted(ref, digest, checksum)
        self._names.put_record(
            describe(ref, digest, len(data), manifest, position), manifest + data
        )
        return found

    def _put_large(
        self, ref: str, copy: Callable[[int], Copied], manifest: bytes, checksum: str | None,
        position: Position | None,
    ) -> str:  # fmt: skip
        with self._tree.temporary(mode=0o444) as (temporary, fd):
            digest, size = copy(fd)
            found = _accepted(ref, digest, checksum)
            # Garbage collection waits here: the object has to stay until its record is there.
            with self._tree.locked(upkeep.lock_of_object(digest), shared=True):
                self._names.name_object(temporary, digest, size)  # first it, last its record
                self._names.put_record(describe(ref, digest, size, manifest, position), manifest)
        return found

    # Get: one record, perhaps one object, both digests.

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> Artifact:  # fmt: skip
        """See `VersionedStore.get`. Raises `Corrupt` with the path of what is damaged.

        An earlier version pinned by `checksum` alone costs a scan of the ref's directory.
        """
        with explained(self._root, f"get {ref!r}"):
            return self._read(ref, checksum, manifest_checksum, limit, self._artifact)

    def open(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> ArtifactReader:  # fmt: skip
        """See `VersionedStore.open`."""
        with explained(self._root, f"open {ref!r}"):
            return self._read(ref, checksum, manifest_checksum, limit, self._reader)

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`. Only `get` verifies data and manifest.

        Raises `Corrupt` when the record cannot be read at all.
        """
        with explained(self._root, f"look for {ref!r}"):
            return self._find(ref, checksum, manifest_checksum, HEADER_MAX_BYTES) is not None

    def _read(
        self, ref: str, checksum: str | None, manifest_checksum: str | None, limit: Limit | None,
        body: Callable[[Found], _T],
    ) -> _T:  # fmt: skip
        """Find the version and read its body; look again if it was collected in between."""
        before = None
        while True:
            found = self._find(ref, checksum, manifest_checksum)
            if found is None:
                version = f" version {checksum} {manifest_checksum or ''}".rstrip()
                raise NotFound(
                    f"{self._root} has no{version if checksum else 'thing'} at ref {ref!r}"
                )
            if limit:
                limit.check(found.path, found.record.data_size, found.record.manifest_size)
            try:
                return body(records.whole(self._tree, found))
            except Corrupt:
                own = finding.own_record(self._tree, found)
                if own is None:
                    raise
                return body(own)
            except FileNotFoundError:
                self._tree.check_root()
                if found.inode == before:
                    raise Corrupt(
                        f"{records.data_path(self._tree, found)} is missing, and {found.path}"
                        " needs it: put it again"
                    ) from None
                before = found.inode

    def _artifact(self, found: Found) -> Artifact:
        manifest, data = records.body_of(found)
        if not found.record.inline:
            with self._opened_object(found) as file:
                data = file.readall()
        records.check_manifest(found, manifest)
        records.check_data(self._tree, found, data)
        return Artifact(data, manifest)

    def _reader(self, found: Found) -> ArtifactReader:
        record = found.record
        manifest, data = records.checked_body(self._tree, found)
        raw = io.BytesIO(data) if record.inline else self._opened_object(found)
        return ArtifactReader(
            raw,
            checksum=f"sha256:{record.data_digest}",
            size_bytes=record.data_size,
            manifest=manifest,
            where=records.data_path(self._tree, found),
            close=raw.close,
            verified=record.inline,
        )

    def _opened_object(self, found: Found) -> io.FileIO:
        """Open the object that the record names. Raises FileNotFoundError."""
        directory_fd = self._tree.enter(object_of(found.record.data_digest))
        try:
            return io.FileIO(records.open_object(self._tree, directory_fd, found))
        finally:
            os.close(directory_fd)

    def _find(
        self, ref: str, checksum: str | None, manifest_checksum: str | None,
        first_bytes: int = FIRST_BYTES,
    ) -> Found | None:  # fmt: skip
        """Return the beginning of the version's record."""
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        place = place_of(ref)
        pin = checksum and checksum[_SCHEME:], manifest_checksum and manifest_checksum[_SCHEME:]
        try:
            found = records.current(self._tree, place, first_bytes)
            if found is not None and found.record.is_version(*pin):
                return found
        except Corrupt:
            pass  # the longer way finds the version, or says it again
        with self._tree.directory(place.way) as directory_fd:
            if directory_fd is not None:
                found = finding.select(self._tree, directory_fd, place, *pin, first_bytes)
                if found is not None:
                    return found
        self._tree.check_root()  # it takes the storage itself to say that something is absent
        return None

    # What there is.

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`. Memory is constant; one descriptor a level of directories."""
        with explained(self._root, f"list {prefix!r}"):
            self._tree.check_root()
            start: tuple[str, ...] = ()
            if prefix:
                if self._find(prefix, None, None, HEADER_MAX_BYTES):
                    yield prefix
                start = tuple(encode(prefix))
            for directories, entry in records.walk(self._tree, start):
                if records.is_current(entry.name):
                    yield records.ref_at(self._tree, directories, entry.name)

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`. It scans the ref's directory and reads every header."""
        with explained(self._root, f"list the versions of {ref!r}"):
            for found in finding.versions_of(self._tree, checked([ref])):
                if found.error:
                    raise found.error
                return iter(found.versions)
            self._tree.check_root()
            raise NotFound(f"{self._root} has nothing at ref {ref!r}")

    def versions_of(self, refs: Iterable[str]) -> Iterator[Listed]:
        """See `VersionedStore.versions_of`. It reads each directory once, and every header."""
        listing = checked(refs)
        with explained(self._root, "list the versions of many refs"):
            yield from finding.versions_of(self._tree, listing)

    # Upkeep.

    def verify(
        self, prefix: str = "", *, quarantine: bool = False, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Checked]:
        """See `VersionedStore.verify`. Raises `Unavailable` when something cannot be read."""
        if prefix:
            check_ref(prefix)
        with explained(self._root, "verify the store"):
            yield from upkeep.verify(self._tree, prefix, part, quarantine=quarantine)

    def collect(
        self, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.collect`."""
        with explained(self._root, "collect garbage"):
            yield from upkeep.collect(self._tree, retention, pins, dry_run=dry_run)

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        """See `VersionedStore.delete`. Raises `Corrupt` as `store.file.deleting.delete`."""
        check_ref(ref)
        check_pin(checksum, None)
        with explained(self._root, f"delete {ref!r}"):
            return deleting.delete(self._tree, ref, checksum, unused_s)

    def delete_all(self, refs: Iterable[str], *, unused_s: float = 0.0) -> Iterator[str]:
        """See `VersionedStore.delete_all`."""
        leaving = checked(refs)
        with explained(self._root, "delete many refs"):
            yield from deleting.delete_all(self._tree, leaving, unused_s)

    def purge(
        self, refs: Iterable[str], *, only: Only = None, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.purge`. It walks the whole store once, for data that refs share."""
        leaving = checked(refs)
        with explained(self._root, "purge"):
            yield from purging.purge(self._tree, leaving, digests_of(only), dry_run=dry_run)


def _accepted(ref: str, digest: str, checksum: str | None) -> str:
    """Return the checksum of data with `digest`. Raises `ChecksumMismatch` if another was said."""
    found = f"sha256:{digest}"
    if checksum not in (None, found):
        raise ChecksumMismatch(
            f"the data to put at {ref!r} is {found}, not {checksum}; nothing was put"
        )
    return found
