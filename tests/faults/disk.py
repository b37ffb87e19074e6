"""A bad disk under the fleet's store: full, or failing every call that makes a Put durable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CALLS: Final = "fsync,linkat,renameat,mkdirat"
"""What a Put calls after it has written. Not write: the worker's log needs that, too."""
DEADLINE_S: Final = 20.0


def no_small_disk() -> str:
    """Return why a disk cannot be mounted here, or an empty string."""
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [tool for tool in ("mount", "umount") if not shutil.which(tool)]
    return f"{missing[0]} is not installed" if missing else ""


@contextmanager
def small_disk(at: Path, size_mib: int) -> Iterator[None]:
    """Mount a disk of so many MiB, on memory, for the block."""
    at.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "sidecar-test", str(at)], check=True
    )
    try:
        yield
    finally:
        # Whoever was killed with a file open lets go of it a moment after.
        deadline = time.monotonic() + DEADLINE_S
        while subprocess.run(["umount", str(at)], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, f"{at} is still in use"
            time.sleep(0.05)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """Leave no byte free on the disk of `directory` for the block."""
    ballast = directory / "ballast"
    with ballast.open("wb") as file:
        filled = 0
        size = 1 << 30
        while size:
            try:
                os.posix_fallocate(file.fileno(), filled, size)
                filled += size
            except OSError:
                size //= 2
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def failing(pid: int, error: str = "EIO") -> Iterator[None]:
    """Let the calls of a process that make a Put durable fail with `error` for the block."""
    with subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.devnull, f"--trace={CALLS}",
         f"--inject={CALLS}:error={error}", "-p", str(pid)],
        stderr=subprocess.DEVNULL,
    ) as tracer:  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        while tracer.poll() is None and not _is_traced(pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)


def _is_traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "TracerPid:\t0\n" not in status
