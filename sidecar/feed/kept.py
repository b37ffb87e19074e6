"""One artifact in the file of a cache: what it is called, what is in it, reading it verified."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from sidecar.wire.notification import Notification
from store import Artifact, ArtifactReader
from store.posix import is_hollow, read_all
from store.streams import CHUNK_BYTES

FORMAT: Final = "artifact-cache 1"
PASSING: Final = {
    errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
"""Errors of opening and reading a file that say nothing about the file."""
_DIGITS: Final = 20


class Damaged(Exception):
    """A file is not what was kept there."""


class Pinned(NamedTuple):
    """What a notification pins. All of it goes into the name of its file."""

    ref: str
    checksum: str
    manifest_checksum: str

    @classmethod
    def by(cls, notification: Notification) -> Pinned | None:
        """Return what it pins; None where that is not one version."""
        pin = cls(
            notification.artifact_ref, notification.checksum, notification.manifest_checksum
        )  # fmt: skip
        return pin if all(pin) else None

    @property
    def name(self) -> str:
        """The name of its file: 64 hex digits."""
        return hashlib.sha256(self._begin).hexdigest()

    def header(self, manifest_size: int) -> bytes:
        """Return what its file begins with; manifest and data follow."""
        return self._begin + b"%0*d\n" % (_DIGITS, manifest_size)

    @property
    def _begin(self) -> bytes:
        return "\n".join((FORMAT, *self, "")).encode(errors="surrogatepass")


class Kept:
    """The open file of an artifact, to be read once."""

    def __init__(self, pin: Pinned, fd: int, path: str) -> None:
        self._pin = pin
        self._fd = fd
        self._path = path

    def artifact(self) -> Artifact:
        """Return all of it, verified. Raises `Damaged`, and OSErrors of `PASSING`."""
        with _closed_at_error(self._fd):
            manifest, size = self._manifest()
            data = read_all(self._fd, size)
            _check("data", self._pin.checksum, hashlib.sha256(data).hexdigest())
            self._note_use()
        os.close(self._fd)
        return Artifact(data, manifest)

    def reader(self) -> ArtifactReader:
        """Return it to be read in constant memory: verified now, and again as it is read.

        Raises as `artifact`.
        """
        with _closed_at_error(self._fd):
            manifest, size = self._manifest()
            begin, digest = os.lseek(self._fd, 0, os.SEEK_CUR), hashlib.sha256()
            while chunk := os.read(self._fd, CHUNK_BYTES):
                digest.update(chunk)
            _check("data", self._pin.checksum, digest.hexdigest())
            os.lseek(self._fd, begin, os.SEEK_SET)
            self._note_use()
            raw = os.fdopen(self._fd, "rb", buffering=0)
        return ArtifactReader(
            raw, checksum=self._pin.checksum, size_bytes=size, manifest=manifest,
            where=self._path, close=raw.close,
        )  # fmt: skip

    def close(self) -> bool:
        """Close it, unread; return True."""
        os.close(self._fd)
        return True

    def _manifest(self) -> tuple[bytes, int]:
        """Return the manifest, verified, and the size of the data, which is read next."""
        found = os.fstat(self._fd)
        if is_hollow(found):
            raise Damaged("it is a file of holes")
        length = len(self._pin.header(0))
        header = os.read(self._fd, length)
        digits = header[-1 - _DIGITS : -1]
        if not digits.isdigit() or header != self._pin.header(int(digits)):
            raise Damaged("its header is not that of this artifact")
        size = found.st_size - length - int(digits)
        if size < 0:
            raise Damaged("it is cut")
        manifest = read_all(self._fd, int(digits))
        _check("manifest", self._pin.manifest_checksum, hashlib.sha256(manifest).hexdigest())
        return manifest, size

    def _note_use(self) -> None:
        """Have it go later than what was not used since; no error where it is another user's."""
        with suppress(OSError):
            os.utime(self._fd)


def _check(what: str, checksum: str, digest: str) -> None:
    if checksum != f"sha256:{digest}":
        raise Damaged(f"its {what} fails its checksum")


@contextmanager
def _closed_at_error(fd: int) -> Iterator[None]:
    """Close a file when the block fails; what is wrong with the file itself is `Damaged`."""
    try:
        with blamed():
            yield
    except BaseException:
        os.close(fd)
        raise


@contextmanager
def blamed() -> Iterator[None]:
    """Raise `Damaged` in place of an OSError that is about a file."""
    try:
        yield
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise Damaged(error.strerror or str(error)) from error
