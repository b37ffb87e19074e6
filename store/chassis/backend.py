"""The chassis-file backend: the directory of a Go fleet's file backend, read and written.

It keeps less than the contract asks, because the layout does: see docs/chassis-file.md. The
layout itself, and the mark by which we know our own files, are in `store.chassis.layout`.

Two files make an artifact, so two renames publish it. Puts of this backend exclude each other and
our readers by a lock. A Go writer knows no locks: what carries no mark of ours is believed once
both files have lain still for a moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat
import time
import weakref
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from store.chassis.layout import ATTRIBUTE, NO_ATTRIBUTES, OWN, SUFFIX, Mark, Place, place_of
from store.chassis.looking import (
    File,
    Look,
    Pair,
    Unsettled,
    Watch,
    is_data,
    judge,
    mark_of,
    owned,
    verify,
    where,
)
from store.contract import (
    Artifact,
    Blob,
    Capability,
    Collected,
    Limit,
    Only,
    StoreConfig,
    as_bytes,
    check_pin,
)
from store.errors import (
    ChecksumMismatch,
    ConfigError,
    InvalidRef,
    NotFound,
    StoreError,
    Unavailable,
)
from store.posix import (
    LOCK,
    MISPLACED,
    READ,
    Root,
    create_held,
    explained,
    identity_of,
    leftovers,
    misplaced,
    wait_for_lock,
    write_all,
)
from store.refs import checked
from store.streams import CHUNK_BYTES, ArtifactReader
from store.urls import root_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from store.streams import Readable

_LOCKS = 64
_POLL_S = 0.005
_IMPATIENT_S = 0.1
"""More than what an artifact that was just written whole must lie still."""

_T = TypeVar("_T")


def open_chassis(config: StoreConfig) -> ChassisStore:
    """Open the directory `config.file_dir`, else that of `config.url`.

    Raises `ConfigError` when neither is given, and as `ChassisStore`.
    """
    return ChassisStore(root_of(config, "chassis-file"), timeout_s=config.timeout_s)


class ChassisStore:
    """Artifacts in a directory that a Go fleet reads and writes, too.

    For any number of threads and processes at once. Raises `ConfigError` when `root` is absent
    or a store of the file backend, `Unavailable` when it cannot be reached.
    """

    name = "chassis-file"
    capabilities = frozenset(map(Capability, ("stream", "limit", "delete", "purge")))

    def __init__(self, root: str, *, timeout_s: float = 30.0, is_impatient: bool = False) -> None:
        self._path = root
        self._timeout_s = min(timeout_s, _IMPATIENT_S) if is_impatient else timeout_s
        self._unsettled = Unsettled(timeout_s) if is_impatient else None
        self._writer = os.urandom(8).hex()
        self._writes = itertools.count()
        with self._explained("open the store"):
            root_fd = _open_root(root)
            weakref.finalize(self, os.close, root_fd)
            self._root = _Shared(root, root_fd)
        self.location = "chassis-file:{}:{}".format(*self._root.identity)
        self._sweep()

    def impatient(self) -> ChassisStore:
        """Return this store for readers who wait elsewhere.

        What is not at rest yet is `Unavailable` at once; asked again, it is known since when it
        lies still.
        """
        return ChassisStore(self._path, timeout_s=self._timeout_s, is_impatient=True)

    # Put: write both aside, flush, mark, then name both under a lock, flush the names.

    def put(self, ref: str, data: Blob, manifest: Blob) -> None:
        """See `Store.put`; when it raises or is killed half-way, see docs/chassis-file.md.

        Raises `InvalidRef` when another ref lies there, or the ref cannot be held.
        """
        self._store(ref, (as_bytes(data),), as_bytes(manifest), None)

    def put_from(
        self, ref: str, reader: Readable, manifest: Blob, *, checksum: str | None = None
    ) -> str:
        """See `VersionedStore.put_from`; raises as `put`, too."""
        check_pin(checksum, None)
        chunks = iter(lambda: reader.read(CHUNK_BYTES), b"")
        return self._store(ref, chunks, as_bytes(manifest), checksum)

    def _store(
        self, ref: str, chunks: Iterable[bytes], manifest: bytes, checksum: str | None
    ) -> str:
        place = place_of(ref)
        if place.is_named_like_a_manifest:
            raise InvalidRef(
                f"ref {ref!r} cannot be put in this layout: there, {place.path} is the manifest of"
                f" {place.path.removesuffix(SUFFIX)}; choose another name"
            )
        doing = f"put {ref!r}"
        digest = hashlib.sha256()
        with contextlib.ExitStack() as staged:
            with self._explained(doing):
                stage = _Stage(self._enter_own("tmp", staged), staged)
                data_file = stage.create(self._unique())
                manifest_file = stage.create(self._unique())
                write_all(manifest_file.fd, (manifest,))
            for chunk in chunks:  # out here: what the reader raises comes through as it is
                digest.update(chunk)
                with self._explained(doing):
                    write_all(data_file.fd, (chunk,))
            found = f"sha256:{digest.hexdigest()}"
            if checksum not in (None, found):
                raise ChecksumMismatch(
                    f"the data for {ref!r} is {found}, not {checksum}: nothing was put"
                )
            with self._explained(doing):
                digests = (digest.hexdigest(), hashlib.sha256(manifest).hexdigest())
                _flush(place, data_file, Mark(ref, "data", *digests))
                _flush(place, manifest_file, Mark(ref, "manifest", *digests))
                self._publish(place, stage, data_file, manifest_file)
        return found

    def _publish(self, place: Place, stage: _Stage, data: _Temporary, manifest: _Temporary) -> None:
        directory_fd = self._way_to(place)
        try:
            with contextlib.ExitStack() as locked:
                self._lock(place, fcntl.LOCK_EX, locked)
                if self._check_free(directory_fd, place):
                    # Data last: it is what makes an artifact present, to the Go side as well.
                    stage.rename(manifest, directory_fd, place.manifest)
                    with _taken_back(directory_fd, place.manifest):
                        stage.rename(data, directory_fd, place.data)
                else:
                    # Data first: of a mixture, a reader that compares the event's checksum is
                    # warned; old data under a new manifest would pass.
                    stage.rename(data, directory_fd, place.data)
                    stage.rename(manifest, directory_fd, place.manifest)
            os.fsync(directory_fd)
        except IsADirectoryError:  # made since it was checked
            raise self._barred_below(place, place.data) from None
        finally:
            os.close(directory_fd)

    def _way_to(self, place: Place) -> int:
        try:
            return self._root.enter_durable(place.directories)
        except NotADirectoryError as error:
            raise InvalidRef(
                f"ref {place.ref!r} cannot be put: {error.filename} is a file, of the ref that"
                " ends there, and this layout holds nothing below it; choose another name"
            ) from None

    def _check_free(self, directory_fd: int, place: Place) -> bool:
        """Tell whether the ref is new. Raises `InvalidRef` when another ref may lie there."""
        is_new = True
        for role, name in (("data", place.data), ("manifest", place.manifest)):
            found = _stat(directory_fd, name)
            if found is None:
                continue
            if stat.S_ISDIR(found.st_mode):
                raise self._barred_below(place, name)
            is_new = is_new and role != "data"
            with contextlib.ExitStack() as opened:
                file = self._open_file(directory_fd, place, name, opened)
                self._check_owner(place, name, role, file and file.mark)
        if _is_file(directory_fd, place.manifest + SUFFIX):
            raise InvalidRef(
                f"ref {place.ref!r} cannot be put: its manifest would lie where the data of"
                f" {place.path + SUFFIX} lies; choose another name"
            )
        return is_new

    def _check_owner(self, place: Place, name: str, role: str, mark: Mark | None) -> None:
        if mark is not None and (mark.ref, mark.role) != (place.ref, role):
            raise InvalidRef(
                f"ref {place.ref!r} cannot be put: {self._where(place, name)} is the {mark.role}"
                f" of ref {mark.ref!r}, and this layout writes both to one path; choose another"
                " name"
            )
        if mark is None and not place.spelled:
            raise InvalidRef(
                f"ref {place.ref!r} cannot be put: {self._where(place, name)} is there, without a"
                f" mark that says whose, and it may be that of ref {place.path!r}; choose a ref of"
                " A-Z a-z 0-9 . _ - only, or move that file away"
            )

    def _barred_below(self, place: Place, name: str) -> InvalidRef:
        return InvalidRef(
            f"ref {place.ref!r} cannot be put: {self._where(place, name)} is a directory, of refs"
            " below it, and this layout holds no file there; choose another name, or remove the"
            " directory if it is empty"
        )

    # Get: both files, from one moment.

    def spelled(self, ref: str) -> str:
        """Return the ref that the path of `ref` spells: the same for all refs that may meet there.

        Raises `InvalidRef`.
        """
        return place_of(ref).path

    def get(self, ref: str, *, limit: Limit | None = None) -> Artifact:
        """See `Store.get`. Only what this backend wrote can be verified.

        Raises `Corrupt` for half a pair, `Unavailable` for one that never comes to rest.
        """

        def take(look: Pair) -> Artifact | None:
            look.check(limit)
            artifact = Artifact(look.data.content(), look.manifest.content())
            if not (look.data.is_unchanged() and look.manifest.is_unchanged()):
                return None
            verify(look.data, artifact.data)
            verify(look.manifest, artifact.manifest)
            return artifact

        return self._take(ref, "get", take)

    def exists(self, ref: str) -> bool:
        """See `Store.exists`. Raises `Corrupt` for half a pair."""
        try:
            return self._take(ref, "look for", lambda _: True, at_rest=False)
        except NotFound:
            return False

    def open(self, ref: str, *, limit: Limit | None = None) -> ArtifactReader:
        """See `VersionedStore.open`; raises as `get`. `checksum` is None if the Go side wrote it.

        A read raises `Unavailable` when the data was rewritten in place meanwhile.
        """

        def take(look: Pair) -> ArtifactReader | None:
            look.check(limit)
            manifest = look.manifest.content()
            if not look.manifest.is_unchanged():
                return None
            verify(look.manifest, manifest)
            data, mark = look.data.kept(), look.data.mark
            return ArtifactReader(
                _Steady(self._path, data),
                checksum=f"sha256:{mark.data_digest}" if mark else None,
                size_bytes=data.found.st_size,
                manifest=manifest,
                where=data.path,
                close=lambda: os.close(data.fd),
            )

        return self._take(ref, "open", take)

    def _take(
        self, ref: str, doing: str, take: Callable[[Pair], _T | None], *, at_rest: bool = True,
    ) -> _T:  # fmt: skip
        """Return what `take` makes of the pair; it answers None when the pair changed meanwhile."""
        place = place_of(ref)
        watch = self._unsettled.watch(ref) if self._unsettled else Watch(self._timeout_s)
        over_at = time.monotonic() + self._timeout_s
        with self._explained(f"{doing} {ref!r}"):
            while True:
                with self._look(place) as look:
                    verdict = judge(self._path, place, look)
                    patience_s = verdict.patience_s if verdict.error or at_rest else 0.0
                    if watch.rests(look, patience_s):
                        if self._unsettled:
                            self._unsettled.forget(ref)
                        if verdict.error:
                            self._root.check_root()
                            raise verdict.error
                        taken = take(Pair(*look.both()))
                        if taken is not None:
                            return taken
                if time.monotonic() > over_at:
                    raise Unavailable(
                        f"{self._where(place)} is not at rest: it was rewritten a moment ago, or"
                        " keeps being rewritten; try again"
                    )
                time.sleep(_POLL_S)

    @contextlib.contextmanager
    def _look(self, place: Place) -> Iterator[Look]:
        """Open both files as one moment shows them."""
        with contextlib.ExitStack() as opened:
            with contextlib.ExitStack() as locked:
                self._lock(place, fcntl.LOCK_SH, locked)
                look = self._open_files(place, opened)
            yield look

    def _open_files(self, place: Place, opened: contextlib.ExitStack) -> Look:
        try:
            directory_fd = self._root.enter(place.directories)
        except (FileNotFoundError, NotADirectoryError):
            return Look(None, None, is_shared=False)
        opened.callback(os.close, directory_fd)
        data = self._open_file(directory_fd, place, place.data, opened)
        manifest = self._open_file(directory_fd, place, place.manifest, opened)
        return Look(data, manifest, is_shared=_is_shared(directory_fd, place))

    def _open_file(
        self, directory_fd: int, place: Place, name: str, opened: contextlib.ExitStack
    ) -> File | None:
        """Open a regular file; None when there is none. Raises `Corrupt` for a link and such."""
        path = self._where(place, name)
        try:
            fd = self._root.open(name, READ, directory_fd, path)
        except FileNotFoundError:
            return None
        opened.callback(os.close, fd)
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            return None
        if not stat.S_ISREG(found.st_mode):
            raise misplaced(path)
        return File(fd, found, path, mark_of(fd, found))

    # Delete: data first. It is what makes an artifact present, to the Go side as well.

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        """See `VersionedStore.delete`; a Go reader may see the data gone before the manifest.

        Raises `InvalidRef` when another ref may lie there, `Unavailable` when the Go side rewrote
        it meanwhile.
        """
        check_pin(checksum, None)
        return bool(self._delete(ref, [checksum] if checksum else None, unused_s))

    def purge(
        self, refs: Iterable[str], *, only: Only = None, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.purge`. Raises as `delete`, of each ref when it comes to that."""
        for ref in checked(refs):
            for file in self._delete(ref, (only or {}).get(ref), 0.0, dry_run=dry_run):
                yield Collected("record", file.path, ref, file.found.st_size)
        self._sweep()

    def _delete(
        self, ref: str, checksums: Collection[str] | None, unused_s: float, *, dry_run: bool = False
    ) -> list[File]:
        """Remove the files of a ref, and return them, closed."""
        place = place_of(ref)
        with self._explained(f"delete {ref!r}"), contextlib.ExitStack() as held:
            self._lock(place, fcntl.LOCK_EX, held)
            try:
                directory_fd = self._root.enter(place.directories)
            except (FileNotFoundError, NotADirectoryError):
                self._root.check_root()
                return []
            held.callback(os.close, directory_fd)
            leaving = _leaving(self._path, place, self._open_files(place, held), checksums)
            if any(_is_used(file, time.time() - unused_s) for file in leaving if unused_s):
                return []
            if not dry_run:
                _remove(directory_fd, leaving)
            return leaving

    # Our own corner of the tree.

    def _enter_own(self, name: str, opened: contextlib.ExitStack, *, create: bool = True) -> int:
        fd = (self._root.enter_durable if create else self._root.enter)((OWN, name))
        opened.callback(os.close, fd)
        return fd

    def _lock(self, place: Place, kind: int, held: contextlib.ExitStack) -> None:
        """Hold the path's lock; a reader does where a writer has made it."""
        name = f"{zlib.crc32(place.path.removesuffix(SUFFIX).encode()) % _LOCKS:02x}"
        path = f"{self._path}/{OWN}/locks/{name}"
        is_writer = kind == fcntl.LOCK_EX
        try:
            locks_fd = self._enter_own("locks", held, create=is_writer)
            fd = self._root.open(name, LOCK if is_writer else READ, locks_fd, path)
        except FileNotFoundError:
            if is_writer:
                raise
            return
        held.callback(os.close, fd)
        wait_for_lock(fd, kind, path, self._timeout_s)

    def _unique(self) -> str:
        """Return a name that no other write has: not in a forked child, nor on another host."""
        return f"{self._writer}.{os.getpid()}.{next(self._writes)}"

    def _sweep(self) -> None:
        """Remove what crashed writers left. A reader who may not, or a race, is no trouble."""
        with contextlib.suppress(OSError, StoreError), contextlib.ExitStack() as opened:
            for _ in leftovers(self._enter_own("tmp", opened, create=False), remove=True):
                pass

    def _where(self, place: Place, name: str | None = None) -> str:
        return where(self._path, place, name)

    def _explained(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return explained(self._path, doing)


class _Shared(Root):
    """A root that is not ours alone: where a directory should be, another ref's file may lie."""

    held_in = tuple(f"{OWN}/{name}" for name in ("locks", "tmp"))

    def open(self, name: str, flags: int, directory_fd: int, path: str) -> int:
        """As `Root.open`, but for such a file, which is NotADirectoryError."""
        try:
            return os.open(name, flags, 0o666, dir_fd=directory_fd)
        except OSError as error:
            if error.errno == errno.ENOTDIR and _is_file(directory_fd, name):
                raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", path) from None
            if error.errno in MISPLACED:
                raise misplaced(path) from error
            raise


class _Temporary(NamedTuple):
    name: str
    fd: int


class _Stage:
    """Files under way, in ROOT/@sidecar/tmp; those that get no name go with the block."""

    def __init__(self, tmp_fd: int, staged: contextlib.ExitStack) -> None:
        self._tmp_fd = tmp_fd
        self._staged = staged

    def create(self, name: str) -> _Temporary:
        name, fd = create_held(self._tmp_fd, name)
        self._staged.callback(self._discard, name)
        self._staged.callback(os.close, fd)
        return _Temporary(name, fd)

    def rename(self, temporary: _Temporary, directory_fd: int, name: str) -> None:
        os.rename(temporary.name, name, src_dir_fd=self._tmp_fd, dst_dir_fd=directory_fd)

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):  # it has its name, or the sweep takes it
            os.unlink(name, dir_fd=self._tmp_fd)


class _Steady:
    """Data under the eyes of a reader: being rewritten in place is told, never passed on."""

    def __init__(self, root: str, file: File) -> None:
        self._root = root
        self._file = file

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        with explained(self._root, f"read {self._file.path}"):
            chunk = os.read(self._file.fd, size)
            if not chunk and not self._file.is_unchanged():
                raise Unavailable(
                    f"{self._file.path} was rewritten in place while it was read: open it again"
                )
            return chunk


def _open_root(root: str) -> int:
    """Return a descriptor of the root; a link there is the operator's own, and followed."""
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Never made here: a wrong path would look like a store in which everything is missing.
        raise ConfigError(
            f"{root} is not there: name the directory that the Go side writes to, or start that"
            " first, or make the directory"
        ) from None
    except NotADirectoryError:
        raise ConfigError(f"{root} is no directory: name another one") from None
    if _is_file_store(fd):
        os.close(fd)
        raise ConfigError(f"{root} is a store of the file backend: open it as file://{root}")
    return fd


def _is_file_store(root_fd: int) -> bool:
    try:
        fd = os.open("STORE", READ, dir_fd=root_fd)
    except OSError:
        return False
    try:
        return os.read(fd, 15) == b"artifact-store "
    except OSError:
        return False
    finally:
        os.close(fd)


def _stat(directory_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # nothing can be called so
            return None
        raise


def _leaving(root: str, place: Place, look: Look, checksums: Collection[str] | None) -> list[File]:
    """Return the files to remove, the data first. Raises `InvalidRef`."""
    data, manifest = owned(look.data, place, "data"), owned(look.manifest, place, "manifest")
    if checksums is not None and not (data and any(is_data(data, one) for one in checksums)):
        return []
    leaving = [file for file in (data, manifest) if file]
    if leaving and (look.is_shared or any(not (f.mark or place.spelled) for f in leaving)):
        raise InvalidRef(
            f"ref {place.ref!r} cannot be deleted: {where(root, place)}, or its manifest, may"
            " be another ref's, which this layout writes to the same path; remove it by hand"
        )
    return leaving


def _remove(directory_fd: int, leaving: list[File]) -> None:
    for file in leaving:
        _unlink(directory_fd, file)
    # Also when nothing was there: one that died before it came to this may have removed it.
    os.fsync(directory_fd)


def _unlink(directory_fd: int, file: File) -> None:
    """Remove a file that was looked at. Raises `Unavailable` when another has its name now."""
    name = os.path.basename(file.path)
    found = _stat(directory_fd, name)
    if found is None or identity_of(found) != identity_of(file.found):
        raise Unavailable(f"{file.path} was rewritten while it was to be deleted: try again")
    os.unlink(name, dir_fd=directory_fd)


def _is_used(file: File, since: float) -> bool:
    return max(file.found.st_mtime, file.found.st_ctime) > since


def _is_file(directory_fd: int, name: str) -> bool:
    found = _stat(directory_fd, name)
    return found is not None and stat.S_ISREG(found.st_mode)


def _is_shared(directory_fd: int, place: Place) -> bool:
    """Tell whether one of both files belongs to another ref as well, for all one can see."""
    if place.is_named_like_a_manifest and _is_file(directory_fd, place.data.removesuffix(SUFFIX)):
        return True
    return _is_file(directory_fd, place.manifest + SUFFIX)


def _flush(place: Place, file: _Temporary, mark: Mark) -> None:
    """Mark the file and make it durable. Raises `InvalidRef` when it needs a mark and has none."""
    if not _set_mark(file.fd, mark) and not place.spelled:
        raise InvalidRef(
            f"ref {place.ref!r} cannot be put: the file system keeps no extended attributes, and"
            f" only they could tell it from {place.path!r}; choose a ref of A-Z a-z 0-9 . _ - only"
        )
    os.fsync(file.fd)


def _set_mark(fd: int, mark: Mark) -> bool:
    if not hasattr(os, "setxattr"):  # not on this platform
        return False
    try:
        os.setxattr(fd, ATTRIBUTE, mark.written(os.fstat(fd)))
    except OSError as error:
        if error.errno in NO_ATTRIBUTES:
            return False
        raise
    return True


@contextlib.contextmanager
def _taken_back(directory_fd: int, name: str) -> Iterator[None]:
    """Remove the name when the block fails: a first Put leaves nothing."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what counts
            os.unlink(name, dir_fd=directory_fd)
        raise
