"""A disk whose flushes take as long as you say: ext4 with a journal, in an image file.

The image lies on memory, behind a FUSE file system that passes all through and waits in fsync;
a loop device makes it a disk. So whatever makes ext4 flush, a commit of its journal too, costs
that wait. `slow_disk` needs root, /dev/fuse, libfuse and ext4's tools.

`python -m bench.slow_disk DIRECTORY MOUNT_POINT FLUSH_S` is the process that serves it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ctypes.util import find_library
from pathlib import Path
from shutil import which

_SIZE_BYTES = 1 << 30
_DEADLINE_S = 20.0


class NoSlowDiskError(Exception):
    """It cannot be built here; the message says why, and the fix."""


@contextmanager
def slow_disk(flush_s: float) -> Iterator[Path]:
    """Mount it for the block. Raises `NoSlowDiskError`; leaves nothing mounted behind."""
    _check_needs()
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as work,
        ExitStack() as mounted,
    ):
        below, fuse, disk = (Path(work, name) for name in ("below", "fuse", "disk"))
        for directory in (below, fuse, disk):
            directory.mkdir()
        with open(below / "image", "wb") as image:
            image.truncate(_SIZE_BYTES)
        _serve(below, fuse, flush_s, mounted)
        device = _run("losetup", "--find", "--show", str(fuse / "image"))
        mounted.callback(_run, "losetup", "--detach", device)
        # All of it is made now: what is left for later would be written while we measure.
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        _run("mount", "-o", "noatime", device, str(disk))
        mounted.callback(_run, "umount", str(disk))
        took_s = flush_seconds(disk)
        if took_s < flush_s:
            raise NoSlowDiskError(f"a flush took {took_s * 1e3:.2f} ms, not {flush_s * 1e3:g}")
        yield disk


def flush_seconds(directory: Path) -> float:
    """Return how long one fsync of a new small file takes there: the least of five."""
    took_s = []
    for i in range(5):
        descriptor = os.open(directory / f"flush{i}", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"x" * 4096)
        began = time.perf_counter()
        os.fsync(descriptor)
        took_s.append(time.perf_counter() - began)
        os.close(descriptor)
    return min(took_s)


def _check_needs() -> None:
    if os.geteuid() != 0:
        raise NoSlowDiskError("mounting needs root: run it as root")
    if not os.path.exists("/dev/fuse"):
        raise NoSlowDiskError("there is no /dev/fuse: load the kernel's module fuse")
    if not (os.environ.get("FUSE_LIBRARY_PATH") or find_library("fuse3") or find_library("fuse")):
        raise NoSlowDiskError(
            "libfuse is missing: install libfuse3, or name it in FUSE_LIBRARY_PATH"
        )
    for tool in ("losetup", "mkfs.ext4", "mount", "umount"):
        if not which(tool):
            raise NoSlowDiskError(f"{tool} is missing: install e2fsprogs, mount and util-linux")


def _serve(below: Path, fuse: Path, flush_s: float, mounted: ExitStack) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.slow_disk", str(below), str(fuse), str(flush_s)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    mounted.callback(_stop, server)
    deadline = time.monotonic() + _DEADLINE_S
    while not fuse.is_mount():
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            said = server.communicate()[1].decode(errors="replace")
            raise NoSlowDiskError(f"FUSE does not mount: {said[-500:]}")
        time.sleep(0.01)
    mounted.callback(_run, "umount", str(fuse))


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Wait for its end, which comes with the unmount."""
    try:
        server.communicate(timeout=_DEADLINE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.communicate()


def _run(*command: str) -> str:
    """Return what a command printed. Raises `NoSlowDiskError` when it fails.

    A device is let go of a moment after its last user: try again for a while.
    """
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        if not done.returncode:
            return done.stdout.strip()
        if "busy" not in done.stderr or time.monotonic() > deadline:
            raise NoSlowDiskError(f"{' '.join(command)}: {done.stderr.strip()}")
        time.sleep(0.1)


def _main(below: str, fuse: str, flush_s: float) -> None:
    import mfusepy  # type: ignore[import-untyped]

    class PassThrough(mfusepy.Operations):  # type: ignore[misc]
        """One directory, seen through; fsync waits."""

        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:  # noqa: ARG002 - FUSE's
            found = os.stat(below + path)
            names = [name for name in dir(found) if name.startswith("st_")]
            return {
                name: getattr(found, f"{name}_ns" if name in _TIMES else name)
                for name in names
                if name in _KNOWN
            }

        def open(self, path: str, flags: int) -> int:
            return os.open(below + path, flags)

        def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
            return os.pwrite(fh, data, offset)

        def fsync(self, _path: str, _datasync: int, fh: int) -> int:
            os.fsync(fh)
            time.sleep(flush_s)
            return 0

        def release(self, _path: str, fh: int) -> int:
            os.close(fh)
            return 0

    mfusepy.FUSE(PassThrough(), fuse, foreground=True)


_TIMES = {"st_atime", "st_mtime", "st_ctime"}
_KNOWN = {*_TIMES, "st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks"}

if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
