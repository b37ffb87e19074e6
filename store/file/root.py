"""Opening the file backend's root: recognise a store, or make one in an empty directory."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING

from store.errors import ConfigError, Corrupt, no_store
from store.foreign import is_of_tools
from store.posix import MISPLACED, READ, misplaced

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMAT = b"artifact-store 1\nhash sha256\n"
_FORMAT_FILE = "STORE"
_IDENTITY_FILE = "IDENTITY"
_IDENTITY = re.compile(rb"[0-9a-f]{32}\n")
_MAY_NOT = {errno.EACCES, errno.EPERM, errno.EROFS}
_DIRECTORIES = ("refs", "objects", "locks", "quarantine", "tmp")
_MADE_ANEW = ("quarantine", "tmp")
_NOT_FOREIGN = {_FORMAT_FILE, _IDENTITY_FILE, *_DIRECTORIES}


def open_root(root: str, *, create: bool = True) -> int:
    """Return a descriptor of the root, with a store in it. It may be new, and not yet durable.

    Raises `ConfigError` when it holds something else or a newer format, or nothing and it is not
    to `create` a store; else OSError.
    """
    try:
        fd = _open_directory(root)
    except FileNotFoundError:
        if not create:
            raise no_store(root) from None
        os.makedirs(root, exist_ok=True)
        fd = _open_directory(root)
    try:
        if not _has_format(fd, root):
            _create(fd, root, allowed=create)
        _restore_empty(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _restore_empty(root_fd: int) -> None:
    """Make the directories that no store misses anything in, if a copy left them out as empty.

    Never `locks`: who still has the one before would share no lock with who opens the new one.
    They belong to whom the store belongs. Who may not make them is told by what he does then.
    """
    for name in _MADE_ANEW:
        with contextlib.suppress(OSError):
            os.mkdir(name, dir_fd=root_fd)
            owner = os.stat("refs", dir_fd=root_fd, follow_symlinks=False)
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=root_fd, follow_symlinks=False)


def _open_directory(path: str) -> int:
    """Open the root or what is above it: a link there is the operator's own, and followed."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise ConfigError(f"{path} is no directory: name another one") from None


def _has_format(root_fd: int, root: str) -> bool:
    """Tell whether the root has a store. Raises `ConfigError` for one this release cannot read."""
    try:
        found = _read(root_fd, _FORMAT_FILE, root)
    except FileNotFoundError:
        return False
    if found != _FORMAT:
        raise ConfigError(
            f"{root}/{_FORMAT_FILE} says {found[:60]!r}, this release reads {_FORMAT!r}:"
            " use the release that made the store, or a newer one"
        )
    return True


def _create(root_fd: int, root: str, *, allowed: bool) -> None:
    """Make an empty store. Several processes may do so at once, and one may have been killed."""
    if not allowed:
        raise no_store(root)
    if _is_foreign(root_fd) and not _has_format(root_fd, root):
        raise ConfigError(
            f"{root} is not empty and has no {_FORMAT_FILE} file: name an empty directory,"
            f" or, if this is a store, restore that file: {_FORMAT!r}"
        )
    for name in _DIRECTORIES:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=root_fd)
    _create_file(root_fd, _IDENTITY_FILE, _new_identity())
    _create_file(root_fd, _FORMAT_FILE, _FORMAT)  # last, as it says that all the rest is there


def identity(root_fd: int, root: str) -> str | None:
    """Return the store's identity; one from before there were any gets it now.

    None where it may not be written. Raises `Corrupt` when the file says anything else, OSError.
    """
    found = _read_identity(root_fd, root)
    if found is None:
        with _where_allowed():
            _create_file(root_fd, _IDENTITY_FILE, _new_identity())
        found = _read_identity(root_fd, root)  # another may have been faster
    if found is None:
        return None
    if not _IDENTITY.fullmatch(found):
        raise Corrupt(
            f"{root}/{_IDENTITY_FILE} is no identity: restore it; removed, the store gets a new one"
        )
    with _where_allowed():
        os.fsync(root_fd)  # its maker may not have come so far, and it is noted elsewhere now
    return found.decode().rstrip()


@contextlib.contextmanager
def _where_allowed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _MAY_NOT:
            raise


def _new_identity() -> bytes:
    return secrets.token_hex(16).encode() + b"\n"


def _read_identity(root_fd: int, root: str) -> bytes | None:
    try:
        return _read(root_fd, _IDENTITY_FILE, root)
    except FileNotFoundError:
        return None


def _read(root_fd: int, name: str, root: str) -> bytes:
    """Return the beginning of a plain file. Raises `Corrupt` for anything else, OSError."""
    try:
        fd = os.open(name, READ, dir_fd=root_fd)
    except OSError as error:
        if error.errno in MISPLACED:
            raise misplaced(f"{root}/{name}") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise misplaced(f"{root}/{name}")
        return os.read(fd, 256)
    finally:
        os.close(fd)


def _create_file(root_fd: int, name: str, content: bytes) -> None:
    """Create a file with this content, whole or not at all, unless there is one.

    What was made before it is there, also after a power cut, when it is.
    """
    temporary = f"tmp/{secrets.token_hex(12)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=root_fd)
    with os.fdopen(fd, "wb", buffering=0) as file:
        file.write(content)
        os.fsync(fd)
    os.fsync(root_fd)
    with contextlib.suppress(FileExistsError):
        os.link(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    os.unlink(temporary, dir_fd=root_fd)


def _is_foreign(root_fd: int) -> bool:
    """Tell whether there is more in the root than an interrupted creation leaves."""
    names = {name for name in os.listdir(root_fd) if not is_of_tools(name)}
    if not names <= _NOT_FOREIGN:
        return True
    if "refs" not in names:
        return False
    refs_fd = os.open("refs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    try:
        return not all(map(is_of_tools, os.listdir(refs_fd)))
    finally:
        os.close(refs_fd)
