"""The place where the demo plays: its directory, and leaving nothing behind."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sidecar.demo.stage import Stage
from sidecar.demo.story import Demo
from sidecar.errors import UsageError


def run(stage: Stage, keep: Path | None, seed: int) -> bool:
    """Play the demo and tell whether all of it held.

    Works in `keep`, which must be new or empty, or in a temporary directory that is removed
    unless something failed. Raises `SidecarError`, and `KeyboardInterrupt` for SIGINT and SIGTERM
    when all that was started has ended.
    """
    with _terminable():
        if keep is not None:
            return Demo(stage, _empty(keep), seed, kept=True).play()
        directory = Path(tempfile.mkdtemp(prefix="sidecar-demo-"))
        look = False
        try:
            held = Demo(stage, directory, seed, kept=False).play()
            look = not held
        except Exception as error:
            look = not isinstance(error, UsageError)
            raise
        finally:
            if look:
                sys.stderr.write(f"sidecar: left to be looked at: {directory}\n")
            else:
                shutil.rmtree(directory, ignore_errors=True)
        return held


def _empty(directory: Path) -> Path:
    """Return an absolute directory that is there and empty."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        found = next(directory.iterdir(), None)
    except OSError as error:
        raise UsageError(f"--keep {directory}: {error.strerror}") from error
    if found is not None:
        raise UsageError(f"--keep {directory}: it has {found.name} in it; name a new directory")
    return directory.resolve()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does: by an exception that cleans up."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        # Once is enough: nothing may interrupt the cleaning up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
