"""What commands read from files and write to them; `-` is a standard stream."""

from __future__ import annotations

import codecs
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final

from sidecar.errors import UsageError
from sidecar.terminal import output

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def check_one_standard(data: str | None, manifest: str | None, stream: str) -> None:
    """Raise `UsageError` when both are the same standard stream."""
    if data == manifest == "-":
        raise UsageError(f"--data and --manifest cannot both be standard {stream}; name a file")


def read(option: str, name: str) -> bytes:
    """Return the content of a file, or of standard input for `-`. Raises `UsageError`."""
    with opened(option, name) as file:
        return file.read()


@contextmanager
def opened(option: str, name: str) -> Iterator[BinaryIO]:
    """Open a file to read from, or standard input for `-`.

    Raises `UsageError` for what goes wrong with it, in the block, too: nothing else there may
    raise OSError.
    """
    try:
        file = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 -- closed below
    except (OSError, ValueError) as error:
        raise _unfit(option, name, "read", error) from error
    with nullcontext(file) if name == "-" else file:
        try:
            yield file
        except OSError as error:
            raise _unfit(option, name, "read", error) from error


def write(option: str, name: str, chunks: Iterable[bytes]) -> None:
    """Write to a file, whole or not at all, or to standard output as the chunks come.

    What the chunks raise comes through. Raises `UsageError` for what goes wrong with the file.
    """
    if name == "-":
        for chunk in chunks:
            output.raw(chunk)
        return
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:  # a pipe or a device: there is nothing to rename over
                file.writelines(chunks)
            return
        _replace(path.resolve(), chunks)
    except (OSError, ValueError) as error:
        raise _unfit(option, name, "written", error) from error


def check_place(name: str, path: Path) -> None:
    """Raise `UsageError` unless a file could be there: before the work for it begins."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{name}: there is no directory {parent}; make it, or name another")
    if path.exists() and not path.is_file():
        raise UsageError(f"{name}: {path} is there, and no file; name another")


def replace(path: Path, pieces: Iterator[bytes]) -> int:
    """Write a file beside its place, and move it there when it is whole; return its size.

    What the pieces raise comes through, and nothing is left behind. Raises `UsageError`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)  # of one that was killed
        with os.fdopen(os.open(part, _NEW, 0o600), "wb") as file:
            size_bytes = sum(map(file.write, pieces))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return size_bytes


def _replace(path: Path, chunks: Iterable[bytes]) -> None:
    descriptor, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(chunks)
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), path.stat().st_mode if path.exists() else 0o666 & ~umask)
        os.replace(temp, path)
    except BaseException:
        os.unlink(temp)
        raise


def _unfit(option: str, name: str, done: str, error: OSError | ValueError) -> UsageError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UsageError(f"{option} {name}: {said}; name a file that can be {done}")


def no_binary(chunks: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """Pass chunks on, unless a terminal would get what is no text."""
    if not sys.stdout.isatty():
        return chunks
    first = next(chunks, b"")
    if not _is_text(first, is_all=len(first) == size_bytes):
        raise UsageError(
            f"{size_bytes:,} bytes that are no text, and standard output is a terminal; redirect"
            " it, or --data FILE (--data - prints them all the same)"
        )
    return itertools.chain((first,), chunks)


def _is_text(begin: bytes, *, is_all: bool) -> bool:
    """Tell whether this begins a text, without control characters; it may be cut, if not all."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(begin, final=is_all)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\n\t" for c in text)
