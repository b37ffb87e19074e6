"""The files of a bundle: a zip file or a directory that anybody may have made.

Names, kinds and sizes are looked at before anything is read, and what is read of a text has at
most `RATIO` times the bytes that it takes on disk, so that a small bundle stays small in memory.
Nothing is ever unpacked.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from sidecar.errors import UsageError
from sidecar.history.segments import Damaged

INDEX: Final = "BUNDLE.json"
WAITING: Final = "waiting.jsonl"
PINS: Final = "pins.jsonl"
MAX_INDEX_BYTES: Final = 64 << 20
MAX_MEMBER_BYTES: Final = 1 << 30
RATIO: Final = 50
SLACK_BYTES: Final = 1 << 20
"""So large may a text be whatever it takes on disk."""
TEXT: Final = re.compile(rf"{INDEX}|{WAITING}|{PINS}|streams/[0-9]{{1,9}}/[0-9]{{1,9}}\.jsonl")
ARTIFACT: Final = re.compile(r"artifacts/[0-9a-f]{2}/[0-9a-f]{64}")

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PACKED: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What is packed otherwise is unpacked by Python without a bound."""
_NO_ZIP: Final = (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError, OverflowError)
_UNREADABLE: Final = (*_NO_ZIP, RuntimeError, ValueError, zlib.error, OSError)
_LOCAL_HEADER_BYTES: Final = 30


def artifact_name(digest: str) -> str:
    """Return where the blob with this SHA-256 lies."""
    return f"artifacts/{digest[:2]}/{digest}"


class _Source(Protocol):
    """A zip file, or a directory. Raises `KeyError` for what is not there, OSError."""

    def read(self, name: str, limit: int) -> bytes:
        """Return a file, if it may be read. Raises `Damaged`."""
        ...


class Members:
    """The files of the bundle at a path, those of its layout only.

    Raises `UsageError` when there is no file or directory at the path, and `Damaged`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            kind = path.stat().st_mode
            if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
                raise UsageError(f"--bundle {path}: it is neither a file nor a directory")
            self._source: _Source = _Directory(path) if stat.S_ISDIR(kind) else _Zip(path)
        except FileNotFoundError as error:
            raise UsageError(f"--bundle {path}: there is no such file or directory") from error
        except _NO_ZIP as error:
            raise Damaged(
                f"{path} is no bundle, or it was cut short ({error}); copy it again"
            ) from error
        except (OSError, ValueError) as error:
            raise UsageError(f"--bundle {path}: {getattr(error, 'strerror', error)}") from error

    def read(self, name: str, limit: int = MAX_MEMBER_BYTES) -> bytes:
        """Return a file's content, which may have `limit` bytes."""
        if not (TEXT.fullmatch(name) or ARTIFACT.fullmatch(name)):
            raise Damaged(f"{self.path} names a file that no bundle has: {name[:200]!r}")
        try:
            raw = self._source.read(name, limit)
        except KeyError as error:
            raise Damaged(
                f"{self.path} has no {name}: it is no bundle, or not all of it"
            ) from error
        except _UNREADABLE as error:
            raise Damaged(f"{self.path}: {name} cannot be read ({error}); copy it again") from error
        if len(raw) > limit:
            raise Damaged(f"{self.path}: {name} has over {limit:,} bytes")
        return raw


def _check_size(path: Path, name: str, size: int, stored: int, limit: int) -> None:
    if size > limit:
        raise Damaged(f"{path}: {name} has {size:,} bytes, and over {limit:,} are not read")
    if TEXT.fullmatch(name) and size > RATIO * stored + SLACK_BYTES:
        raise Damaged(
            f"{path}: {name} has {size:,} bytes, and takes {stored:,} on disk: no release writes"
            " such a file, and it is not read"
        )


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, limit: int) -> bytes:
        with os.fdopen(self._open(name), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Damaged(f"{self._path}: {name} is no plain file")
            stored = min(found.st_blocks * 512, found.st_size)
            _check_size(self._path, name, found.st_size, stored, limit)
            return opened.read(limit + 1)

    def _open(self, name: str) -> int:
        """Open each directory on the way by itself: no link in it leads out of it."""
        *directories, leaf = name.split("/")
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for directory in directories:
                below = os.open(directory, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            return os.open(leaf, _FILE, dir_fd=descriptor)
        except FileNotFoundError:
            raise KeyError(name) from None
        finally:
            os.close(descriptor)


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            self._check(info)
            self._members[info.filename] = info
        for one, end in self._ends():
            if one.header_offset + _LOCAL_HEADER_BYTES + one.compress_size > end:
                raise Damaged(f"{path}: {one.filename[:200]!r} overlaps another file in it")

    def _check(self, info: zipfile.ZipInfo) -> None:
        """Refuse what no bundle has, whether anybody would read it or not."""
        name = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if (
            name in self._members
            or name.startswith(("/", "\\"))
            or ".." in name.replace("\\", "/").split("/")
            or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
            or info.flag_bits & 1
            or info.compress_type not in _PACKED
        ):
            raise Damaged(
                f"{self._path} is no bundle: {name[:200]!r} in it leads out of it, is there twice,"
                " encrypted, packed as no release does, or no plain file"
            )

    def _ends(self) -> Iterator[tuple[zipfile.ZipInfo, int]]:
        """Yield each file with where the next one begins."""
        infos = sorted(self._members.values(), key=lambda info: info.header_offset)
        begins = [*(info.header_offset for info in infos[1:]), self._zip.start_dir]
        return zip(infos, begins, strict=True)

    def read(self, name: str, limit: int) -> bytes:
        info = self._members[name]
        _check_size(self._path, name, info.file_size, info.compress_size, limit)
        with self._zip.open(info) as member:
            return member.read(limit + 1)
