"""The directory of a cache: finding, fetching once, and removing what was used least lately.

    DIRECTORY/kept/NAME           an artifact; used last at its mtime
    DIRECTORY/coming/NAME.held    one that is being fetched, locked by who does it
    DIRECTORY/used                about how many bytes both take, in decimal

Each operation opens the directory anew, so that it may be removed, or replaced, at any moment.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.feed.kept import Kept, Pinned, blamed
from store import ArtifactReader, Corrupt
from store.posix import DIRECTORY, LOCK, READ, identity_of, leftovers, write_all
from store.streams import CHUNK_BYTES

PATIENCE_S: Final = 30.0
"""For so long one waits for another's fetch that makes no progress."""
_NAMES: Final = {"kept", "coming", "used"}
_NAME: Final = re.compile("[0-9a-f]{64}")
_BLOCK_BYTES: Final = 4096
_LOW: Final = 0.9
_AHEAD_S: Final = 60.0
"""A file that was used so far ahead of the clock was used before the clock went back."""
_FIRST_PAUSE_S: Final = 0.0005
_MAX_PAUSE_S: Final = 0.004


class NotOurs(PermissionError):
    """The directory is one into which somebody else may have put files."""


class _File(NamedTuple):
    """A file that is kept, as eviction sees it."""

    used_at: float
    size_bytes: int
    name: str


class Coming:
    """The place of an artifact that this process fetches; others wait until it is closed."""

    def __init__(self, directory: Directory, pin: Pinned, root_fd: int, fd: int) -> None:
        self._directory = directory
        self._pin = pin
        self._root_fd = root_fd
        self._fd = fd

    def write(self, source: ArtifactReader) -> int:
        """Write the artifact, and put it into its place; return how many others had to go.

        Raises OSError when that fails, what reading `source` raises, and `Corrupt` when it has
        other bytes than are pinned.
        """
        gone = self._directory.reserve(self._root_fd, self._fd, size_of(self._pin, source))
        write_all(self._fd, (self._pin.header(len(source.manifest)), source.manifest))
        digest = hashlib.sha256()
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            write_all(self._fd, (chunk,))
        manifest = hashlib.sha256(source.manifest)
        found = tuple(f"sha256:{one.hexdigest()}" for one in (digest, manifest))
        if found != self._pin[1:]:
            raise Corrupt(f"the store has other bytes at {self._pin.ref} than are pinned")
        os.rename(
            _coming(self._pin), _kept(self._pin), src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd
        )
        return gone

    def close(self) -> None:
        """Let others have their turn. What is not whole goes."""
        with suppress(OSError):
            if _is_at(self._fd, _coming(self._pin), self._root_fd):
                os.unlink(_coming(self._pin), dir_fd=self._root_fd)
        os.close(self._fd)
        os.close(self._root_fd)


class Directory:
    """The directory of a cache, for any number of threads and processes of one user.

    Its methods raise OSError.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes

    def make(self) -> None:
        """Make what is not there, and remove what dead processes left in mid-fetch."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)  # whatever the umask
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        with self._root() as root_fd:
            names = set(os.listdir(root_fd))
            if names - _NAMES and "kept" not in names:
                raise NotOurs("it has other files in it: name a directory for the cache alone")
            for name in ("kept", "coming"):  # in this order: see above
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=root_fd)
            self._sweep(root_fd)

    def find(self, pin: Pinned) -> Kept | None:
        """Return the file of an artifact; None where there is none. Raises `Damaged`, too."""
        try:
            with self._root() as root_fd, blamed():
                fd = os.open(_kept(pin), READ, dir_fd=root_fd)
        except FileNotFoundError:
            return None
        return Kept(pin, fd, f"{self.path}/{_kept(pin)}")

    def remove(self, pin: Pinned) -> None:
        """Remove the file of an artifact."""
        with suppress(FileNotFoundError), self._root() as root_fd:
            os.unlink(_kept(pin), dir_fd=root_fd)

    def takes(self, size: int) -> bool:
        """Tell whether a file of that size may be kept: it does not drive out most of the rest."""
        return _on_disk(size) <= self.max_bytes // 2

    @contextmanager
    def take(self, pin: Pinned, *, waits: bool) -> Iterator[Coming | None]:
        """Hold the place of an artifact. None: another has it, or had, and has ended: look again.

        With `waits` until it has ended; raises TimeoutError when it makes no progress.
        """
        try:
            coming = self._take(pin, waits=waits)
        except FileNotFoundError:
            self.make()
            coming = self._take(pin, waits=waits)
        try:
            yield coming
        finally:
            if coming:
                coming.close()

    def _take(self, pin: Pinned, *, waits: bool) -> Coming | None:
        with ExitStack() as stack:
            root_fd = self._open()
            stack.callback(os.close, root_fd)
            fd = os.open(_coming(pin), LOCK, 0o600, dir_fd=root_fd)
            stack.callback(os.close, fd)
            if not _lock(fd, _coming(pin), root_fd, waits=waits):
                return None
            stack.pop_all()
        return Coming(self, pin, root_fd, fd)

    def reserve(self, root_fd: int, fd: int, size: int) -> int:
        """Give a file its size, once there is room for it; return how many others had to go."""
        need, gone = _on_disk(size), 0
        with self._used(root_fd) as used_fd:
            text = os.pread(used_fd, 32, 0)
            used = int(text) if text.strip().isdigit() else None
            if used is None or used + need > self.max_bytes:
                used, gone = self._make_room(root_fd, need)
            os.ftruncate(fd, size)
            os.ftruncate(used_fd, os.pwrite(used_fd, b"%020d\n" % (used + need), 0))
        return gone

    @contextmanager
    def _used(self, root_fd: int) -> Iterator[int]:
        """Hold the lock of what is used, open for the block."""
        is_ours = False
        while not is_ours:
            fd = os.open("used", LOCK, 0o600, dir_fd=root_fd)
            try:
                if is_ours := _lock_used(fd, root_fd):
                    yield fd
            finally:
                with suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)  # a forked child may have inherited it
                os.close(fd)

    def _make_room(self, root_fd: int, need: int) -> tuple[int, int]:
        """Remove what was used least lately; return what is used then, and how many went."""
        used, gone = self._sweep(root_fd), 0
        files = sorted(_files(root_fd))
        used += sum(one.size_bytes for one in files)
        for one in files:
            if used + need <= self.max_bytes * _LOW:
                break
            with suppress(OSError):
                os.unlink(f"kept/{one.name}", dir_fd=root_fd)
                gone += 1
                used -= one.size_bytes
        return used, gone

    def _sweep(self, root_fd: int) -> int:
        """Remove what dead processes left; return how many bytes the living fetch."""
        fd = os.open("coming", DIRECTORY, dir_fd=root_fd)
        try:
            for _ in leftovers(fd, remove=True):
                pass
            return sum(_on_disk(one.size_bytes) for one in _each(fd))
        finally:
            os.close(fd)

    @contextmanager
    def _root(self) -> Iterator[int]:
        fd = self._open()
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self) -> int:
        """Return a descriptor of the directory. Raises `NotOurs` rather than share one."""
        try:
            fd = os.open(self.path, DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NotOurs("it is a link, or no directory: name the directory itself") from error
            raise
        try:
            _check(os.fstat(fd), self.path)
        except BaseException:
            os.close(fd)
            raise
        return fd


def size_of(pin: Pinned, source: ArtifactReader) -> int:
    """Return how large the file of an artifact is."""
    return len(pin.header(0)) + len(source.manifest) + source.size_bytes


def _check(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise NotOurs(
            f"it belongs to the user {found.st_uid}, and this is {os.geteuid()}: each user needs a"
            " cache of its own; name another directory, or one below it that is not there yet"
        )
    if found.st_mode & 0o022:
        raise NotOurs(
            f"others may write to it: chmod go-w {shlex.quote(str(path))}, or name a directory"
            " below it that is not there yet"
        )


def _kept(pin: Pinned) -> str:
    return f"kept/{pin.name}"


def _coming(pin: Pinned) -> str:
    return f"coming/{pin.name}.held"  # `.held`: see store.posix.leftovers


def _files(root_fd: int) -> list[_File]:
    """Return what is kept."""
    fd = os.open("kept", DIRECTORY, dir_fd=root_fd)
    try:
        return [one for one in _each(fd) if _NAME.fullmatch(one.name)]
    finally:
        os.close(fd)


def _each(fd: int) -> Iterator[_File]:
    """Yield the files of a directory."""
    ahead = time.time() + _AHEAD_S
    with os.scandir(fd) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                used_at = found.st_mtime if found.st_mtime < ahead else 0.0
                yield _File(used_at, _on_disk(found.st_size), entry.name)


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _is_at(fd: int, name: str, root_fd: int) -> bool:
    try:
        there = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return identity_of(there) == identity_of(os.fstat(fd))


def _lock(fd: int, name: str, root_fd: int, *, waits: bool) -> bool:
    """Lock a file; wait for that, or not. False: another has it, or the file left its place.

    Raises TimeoutError when another holds it and writes nothing.
    """
    pause_s, written, since = _FIRST_PAUSE_S, -1, 0.0
    while True:
        is_ours = _try_lock(fd)
        if is_ours or not waits or not _is_at(fd, name, root_fd):
            return is_ours and _is_at(fd, name, root_fd)
        if written != (written := os.fstat(fd).st_mtime_ns):
            since = time.monotonic()
        elif time.monotonic() - since > PATIENCE_S:
            words = f"{name} is held by another that writes nothing: is it stopped?"
            raise TimeoutError(errno.ETIMEDOUT, words)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


def _lock_used(fd: int, root_fd: int) -> bool:
    """Lock the count. Raises OSError, as no artifact can be kept while another holds it."""
    try:
        return _lock(fd, "used", root_fd, waits=True)
    except TimeoutError as error:
        raise OSError(errno.EBUSY, error.strerror) from error


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
