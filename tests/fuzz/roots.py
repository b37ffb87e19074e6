"""Things planted in a store's directory: each way through it ends in an answer or in words.

Nothing outside the root is changed, whatever links lead there; what is returned is what was put.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from store import Limit, Retention, StoreError, checksum_of
from store.chassis import ChassisStore
from store.file.backend import FileStore
from tests.fuzz.running import Fuzzer

REF, OTHER = "stacks/t/web", "stacks/t/large"
LARGE: Final = b"L" * 70_000
LIMIT: Final = Limit(1 << 20, 1 << 20)
NO_ROOM_S: Final = 0.02
"""How long a lock or a pair that never rests is waited for."""


def _socket(path: Path) -> None:
    directory_fd = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:  # its whole path may be too long for it
        bound.bind(f"/proc/self/fd/{directory_fd}/{path.name}"[:100])
    os.close(directory_fd)


def _full_directory(path: Path) -> None:
    path.mkdir()
    (path / "inner@").touch()


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


KINDS: Final[dict[str, Callable[[Path, Path], object]]] = {
    "link to a file": lambda path, out: path.symlink_to(out / "secret"),
    "link to a directory": lambda path, out: path.symlink_to(out / "below"),
    "link to nothing": lambda path, out: path.symlink_to(out / "made"),
    "link to itself": lambda path, _: path.symlink_to(path.name),
    "hard link": lambda path, out: path.hardlink_to(out / "secret"),
    "FIFO": lambda path, _: os.mkfifo(path),
    "socket": lambda path, _: _socket(path),
    "endless device": lambda path, _: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
    "block device": lambda path, _: os.mknod(path, 0o666 | stat.S_IFBLK, os.makedev(7, 9)),
    "directory": lambda path, _: path.mkdir(),
    "full directory": lambda path, _: _full_directory(path),
    "empty file": lambda path, _: path.touch(),
    "garbage": lambda path, _: path.write_bytes(b"artifact-record 1\n" + b"g" * 3000),
    "huge file": lambda path, _: _huge(path),
    "unreadable file": lambda path, _: path.touch(mode=0),
    "nothing": lambda _, __: None,
}
_NEW: Final = {
    "file": (
        "x", "tmp/x", "quarantine/x", "refs/x", "refs/x@", "refs/stacks/t/web@x", "refs/.x",
        "refs/stacks/t/web@" + "0" * 64 + "." + "1" * 64, "objects/x", "objects/sha256/x",
        "objects/sha256/00", *(f"locks/{n:02x}" for n in range(64)), "locks/object-00",
    ),
    "chassis-file": (
        "x", "STORE", "@sidecar/tmp/x", "stacks/t/web.manifest.json.manifest.json",
        *(f"@sidecar/locks/{n:02x}" for n in range(64)),
    ),
}  # fmt: skip
"""Places where nothing was, or what is made when it is needed."""


class Case(NamedTuple):
    """What is planted where; `place` counts the places of a store."""

    backend: str
    place: int
    kind: str
    is_old: bool


CASES: Final = st.builds(
    Case, st.sampled_from(list(_NEW)), st.integers(0, 300), st.sampled_from(list(KINDS)),
    st.booleans(),
)  # fmt: skip


def _opened(case: Case, root: Path) -> Any:
    kind: Any = FileStore if case.backend == "file" else ChassisStore
    return kind(str(root), timeout_s=NO_ROOM_S)


def _laid_out(case: Case, root: Path) -> None:
    root.mkdir()
    found = _opened(case, root)
    for ref, data in ((REF, b"old"), (REF, b"new"), (OTHER, LARGE)):
        found.put(ref, data, b"m")


def _planted(case: Case, root: Path, out: Path) -> None:
    """Put it in its place; in that of all locks at once: which of them counts is a hash."""
    new = [root / name for name in _NEW[case.backend]]
    there = [path for path in sorted(root.rglob("*")) if path not in new]
    place = [*there, *new][case.place % (len(there) + len(new))]
    is_lock = place.parent.name == "locks"
    for path in [path for path in new if path.parent == place.parent] if is_lock else [place]:
        _removed(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # who is not root makes no devices
            KINDS[case.kind](path, out)
        if case.is_old:
            with contextlib.suppress(OSError):
                os.utime(path, (time.time() - 90_000,) * 2, follow_symlinks=False)


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _ways(case: Case, opened: Callable[[], Any]) -> Iterator[Callable[[], object]]:
    """Yield each way through the store."""
    for ref in (REF, OTHER):
        yield partial(lambda ref: opened().get(ref, limit=LIMIT), ref)
        yield partial(lambda ref: opened().open(ref, limit=LIMIT).readall(), ref)
        yield partial(lambda ref: opened().exists(ref), ref)
    if case.backend == "file":
        pin = checksum_of(b"old")
        yield lambda: opened().identity
        yield lambda: _is(b"old", opened().get(REF, checksum=pin, limit=LIMIT).data)
        yield lambda: list(opened().list())
        yield lambda: list(opened().list("stacks"))
        yield lambda: list(opened().versions(REF))
        yield lambda: list(opened().verify())
        yield lambda: list(opened().verify(REF, quarantine=True))
        yield lambda: list(opened().verify(quarantine=True))
        yield lambda: _gone(opened().collect(Retention(grace_s=0.0), tuple))
    for ref, data in ((REF, b"new"), (REF, b"newer"), (OTHER, LARGE), ("new/ref", b"")):
        yield partial(lambda ref, data: _kept(opened(), ref, data), ref, data)


def _is(wanted: bytes, found: bytes) -> None:
    assert found == wanted


def _kept(found: Any, ref: str, data: bytes) -> None:
    """Put, and see that it is there: a Put that returns has kept it."""
    found.put(ref, data, b"m")
    _is(data, found.get(ref, limit=LIMIT).data)


def _gone(collected: Iterator[Any]) -> None:
    for each in collected:
        assert not os.path.lexists(each.where), each


def _seen(out: Path) -> list[tuple[str, int, int, int]]:
    """Return all that a link could have led to."""
    return sorted(
        (str(path), found.st_mode, found.st_size, found.st_mtime_ns)
        for path in out.rglob("*") for found in [path.lstat()]
    )  # fmt: skip


def check(case: Case) -> int:
    """Plant it, and go each way, by a store that is open and by one that is opened then."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as base:
        root, out = Path(base, "root"), Path(base, "out")
        (out / "below").mkdir(parents=True)
        (out / "secret").write_bytes(b"secret")
        _laid_out(case, root)
        was_open = _opened(case, root)
        _planted(case, root, out)
        before = _seen(out)
        for opened in (lambda: was_open, lambda: _opened(case, root)):
            for way in _ways(case, opened):
                with contextlib.suppress(StoreError):
                    way()
                assert _seen(out) == before, case
    return 1


FUZZER: Final = Fuzzer("roots", CASES, check)
