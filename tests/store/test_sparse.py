"""Files that say they are huge, in a store: no reader takes memory or time in proportion."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from store import Corrupt, Limit, Retention, TooLarge, checksum_of
from store.chassis import ChassisStore
from store.file.backend import FileStore
from store.record import Record, header_of

HUGE_BYTES: Final = 1 << 40
LIMIT: Final = Limit(1 << 20, 1 << 20)


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    """A store with one artifact in it."""
    files = FileStore(str(tmp_path))
    files.put("a", b"data", b"manifest")
    return files


@pytest.fixture(autouse=True)
def _in_little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64 << 20


def stretched(path: Path, size_bytes: int = HUGE_BYTES) -> None:
    """Make a file longer, without writing anything."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(size_bytes)


def claiming(path: Path, manifest_bytes: int) -> None:
    """Put a record in place whose header, with a checksum that is right, claims a manifest."""
    digest = checksum_of(b"data").removeprefix("sha256:")
    record = Record("a", digest, 4, "0" * 64, manifest_bytes, None,
                    "2026-11-22T15:18:22.123456+00:00", inline=True)  # fmt: skip
    path.unlink()
    path.write_bytes(header_of(record))
    stretched(path, len(header_of(record)) + manifest_bytes + 4)


@pytest.mark.timeout(120)
def test_a_stretched_record_is_damaged(files: FileStore, tmp_path: Path) -> None:
    """A record that is longer than its header says is found by its size, and healed by a Put."""
    stretched(tmp_path / "refs" / "a@")
    for read in (files.get, files.open):
        with pytest.raises(Corrupt):
            read("a")
    assert files.exists("a")
    assert list(files.list()) == ["a"]
    (checked,) = [one for one in files.verify(quarantine=True) if one.error]
    assert f"it has {HUGE_BYTES} bytes" in str(checked.error)
    files.put("a", b"data", b"manifest")
    assert files.get("a") == (b"data", b"manifest")
    assert not any(one.error for one in files.verify())


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "doing",
    [
        lambda files: files.put("a", b"data", b"manifest"),
        lambda files: files.put("a", b"other", b"m", position=(1, 1)),
        lambda files: list(files.collect(Retention(0.0), list)),
        lambda files: list(files.versions("a")),
    ],
    ids=["put", "put-other", "collect", "versions"],
)
def test_a_record_that_claims_a_huge_manifest_is_not_read(
    files: FileStore, tmp_path: Path, doing: Callable[[FileStore], object]
) -> None:
    """Nothing but reading that very version reads its manifest."""
    claiming(tmp_path / "refs" / "a@", HUGE_BYTES)
    for read in (files.get, files.open):
        with pytest.raises(TooLarge):
            read("a", limit=LIMIT)
    doing(files)


def test_a_claimed_manifest_is_verified_in_little_memory(files: FileStore, tmp_path: Path) -> None:
    """Verifying a manifest of 256 MiB takes no memory for it."""
    claiming(tmp_path / "refs" / "a@", 256 << 20)
    errors = [one.error for one in files.verify() if one.error]
    assert len(errors) == 1
    assert "its manifest fails its checksum" in str(errors[0])


def test_sparse_files_of_the_go_fleet_are_refused(tmp_path: Path) -> None:
    """Data or manifest that are too large are refused by their size."""
    chassis = ChassisStore(str(tmp_path))
    (tmp_path / "r").write_bytes(b"data")
    (tmp_path / "r.manifest.json").write_bytes(b"{}")
    for name in ("r", "r.manifest.json"):
        before = (tmp_path / name).read_bytes()
        stretched(tmp_path / name)
        for read in (chassis.get, chassis.open):
            with pytest.raises(TooLarge):
                read("r", limit=LIMIT)
        (tmp_path / name).write_bytes(before)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["STORE", "IDENTITY"])
@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_root_of_odd_files_does_not_hang(tmp_path: Path, name: str, kind: str) -> None:
    """A FIFO, a link or a directory in the place of the store's own files is told."""
    FileStore(str(tmp_path)).put("a", b"1", b"")
    (tmp_path / name).unlink()
    make = {"fifo": os.mkfifo, "link": lambda path: path.symlink_to("refs"), "directory": os.mkdir}
    make[kind](tmp_path / name)
    with pytest.raises(Corrupt, match=name):
        _ = FileStore(str(tmp_path), create=False).identity


@pytest.mark.timeout(60)
def test_fifos_in_a_store_do_not_hang(files: FileStore, tmp_path: Path) -> None:
    """Every way through the store passes them by, or names them."""
    for directory in ("refs", "objects/sha256/ab", "tmp", "quarantine"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        for name in ("fifo", "fifo@", "fifo@" + "0" * 64 + "." + "0" * 64, "a" * 64):
            os.mkfifo(tmp_path / directory / name)
    assert [one for one in files.verify() if one.error]
    with suppress(Corrupt):
        list(files.collect(Retention(0.0), list))
    assert files.get("a") == (b"data", b"manifest")
