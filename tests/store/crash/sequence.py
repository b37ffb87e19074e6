"""The child that is killed, or whose system calls fail: every kind of Put, one after the other.

Run as `python -m tests.store.crash.sequence ROOT REPORT`. What became of each step is written to
the file REPORT, by a system call that the store does not make.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable

from store import Artifact, Unavailable
from store.file import FileStore
from tests.store.crash.cases import BIG, BIGGER, put, stream
from tests.store.crash.judge import Step

BEGIN = "the-store-begins"
SOURCES: list[io.FileIO] = []


def _copy(files: FileStore) -> Iterable[str]:
    """Put a file that was opened before."""
    SOURCES[0].seek(0)
    files.put_from("b/copied", SOURCES[0], b"m")
    return ()


COPY = Step(_copy, (("b/copied", Artifact(BIGGER, b"m")),))

SEQUENCE = (
    put("a/one", b"1"),
    put("a/one", b"2"),
    put("a/large", BIG),
    put("b/shared", BIG, b"n"),
    put("p", b"1", position=(2, 0)),
    put("p", b"overtaken", position=(1, 0)),
    put("p", b"3", position=(3, 0)),
    COPY,
    stream("a/large", BIGGER + b"copied"),
    put("a/one", b"1"),
    put("a/one", b"1"),
)


def main(root: str, report: str) -> None:
    """Go through the sequence, once everything is imported and warm."""
    with open(f"{root}.source", "wb") as source:
        source.write(BIGGER)
    SOURCES.append(io.FileIO(f"{root}.source"))
    warm = FileStore(f"{root}.warm")
    for step in SEQUENCE:
        step.act(warm)
    fd = os.open(report, os.O_WRONLY | os.O_CREAT)
    os.access(BEGIN, os.F_OK)
    files: FileStore | None = None
    at = 0
    for step in SEQUENCE:
        said = "done"
        try:
            files = files or FileStore(root)
            step.act(files)
        except Unavailable as error:
            said = f"unavailable {error}"
        except OSError as error:
            said = f"reader {error}" if step is COPY else f"wrong {error!r}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must know
            said = f"wrong {error!r}"
        at += os.pwrite(fd, f"{said}\n".encode(), at)


if __name__ == "__main__":
    main(*sys.argv[1:])
