"""What somebody planted in the directory of a file store: bounded, told, and never passed on."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path
from typing import Final

import pytest

from store import Corrupt, Limit, Retention, TooLarge, checksum_of, posix
from store.file import backend, records
from store.file.backend import FileStore
from store.record import Record, header_of

LARGE: Final = b"L" * 70_000
HUGE_BYTES: Final = 1 << 40
DAY_S: Final = 24 * 3600


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    """An empty store."""
    return FileStore(str(tmp_path))


def record_of(root: Path, ref: str, data: bytes) -> Path:
    """Return where a version's own record lies, whose manifest is `m`."""
    digests = (checksum_of(blob).removeprefix("sha256:") for blob in (data, b"m"))
    return root / f"refs/{ref}@{'.'.join(digests)}"


def put_in_place(path: Path, content: bytes) -> None:
    """Make it a file by itself, of this content."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_record_under_the_name_of_another_version_is_no_answer(
    files: FileStore, tmp_path: Path, with_manifest: bool
) -> None:
    """A pinned get returns what is pinned or an error, whatever lies in that version's place."""
    for data in (b"one", b"two", b"three"):
        files.put("a", data, b"m")
    one, two = (record_of(tmp_path, "a", data) for data in (b"one", b"two"))
    put_in_place(one, two.read_bytes())
    manifest = checksum_of(b"m") if with_manifest else None
    with pytest.raises(Corrupt, match="another version"):
        files.get("a", checksum=checksum_of(b"one"), manifest_checksum=manifest)
    (told,) = [each for each in files.verify() if each.error]
    assert told.where == str(one)
    files.put("a", b"one", b"m")
    assert files.get("a", checksum=checksum_of(b"one")).data == b"one"


def test_a_damaged_record_is_not_replaced_by_another_version(
    files: FileStore, tmp_path: Path
) -> None:
    """Where the current record is damaged, the version's own counts only if it is that version."""
    for data in (b"two", b"one"):
        files.put("a", data, b"m")
    current, two = tmp_path / "refs/a@", record_of(tmp_path, "a", b"two")
    put_in_place(record_of(tmp_path, "a", b"one"), two.read_bytes())
    put_in_place(current, current.read_bytes()[:-1] + b"?")
    with pytest.raises(Corrupt, match="damaged"):
        files.get("a", checksum=checksum_of(b"one"))


def forged(size_bytes: int) -> bytes:
    """Return the beginning of a record that claims a manifest of this size, and a late position."""
    digest = checksum_of(b"data").removeprefix("sha256:")
    stored = "2026-11-22T15:18:22.123456+00:00"
    return header_of(Record("a", digest, 4, "0" * 64, size_bytes, (9, 0), stored, inline=True))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["current", "version"])
def test_healing_reads_no_record_of_any_size(files: FileStore, tmp_path: Path, name: str) -> None:
    """A forged record takes neither memory nor time of who puts beside it, or reads past it."""
    files.put("a", b"data", b"m", position=(5, 0))
    current, version = tmp_path / "refs/a@", record_of(tmp_path, "a", b"data")
    intact = current.read_bytes()
    path = current if name == "current" else version
    put_in_place(path, forged(HUGE_BYTES))
    os.truncate(path, len(path.read_bytes()) + HUGE_BYTES + 4)
    if name == "version":
        put_in_place(current, intact[:-1] + b"?")
    tracemalloc.start()
    files.put("a", b"other", b"m", position=(6, 0))
    with pytest.raises((Corrupt, TooLarge)):
        files.get("a", checksum=checksum_of(b"data"), limit=Limit(1 << 20, 1 << 20))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64 << 20


@pytest.mark.timeout(120)
def test_an_object_larger_than_its_record_says_is_not_read(
    files: FileStore, tmp_path: Path
) -> None:
    """Its size tells that it is damaged: to get, open and verify, and a Put replaces it."""
    files.put("a", LARGE, b"m")
    (path,) = (tmp_path / "objects/sha256").glob("*/*")
    path.chmod(0o644)
    os.truncate(path, HUGE_BYTES)
    for read in (files.get, files.open):
        with pytest.raises(Corrupt, match=f"{HUGE_BYTES} bytes, and its record says 70000"):
            read("a")
    told = [each.error for each in files.verify() if each.error]
    assert [f"{HUGE_BYTES} bytes" in str(error) for error in told] == [True, True]
    files.put("a", LARGE, b"m")
    assert files.get("a").data == LARGE
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.stat().st_size == HUGE_BYTES


def object_at(root: Path, digest: str) -> Path:
    return root / "objects/sha256" / digest[:2] / digest


def hollow(path: Path, size_bytes: int) -> None:
    """Make it a file of holes."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, size_bytes)


def test_a_file_of_holes_is_no_damage(
    files: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read if a record names that size, and is damaged if that says so; else it stays."""
    monkeypatch.setattr(posix, "_SOLID_BYTES", 1 << 16)
    for ref, data in (("zeros", bytes(70_000)), ("else", LARGE)):
        files.put(ref, data, b"m")
    zeros, other = (
        object_at(tmp_path, checksum_of(data).removeprefix("sha256:"))
        for data in (bytes(70_000), LARGE)
    )
    nobodys = object_at(tmp_path, "0" * 64)
    for path, size in ((zeros, 70_000), (other, 70_000), (nobodys, HUGE_BYTES)):
        hollow(path, size)
    told = {each.where: each.quarantined for each in files.verify(quarantine=True) if each.error}
    assert told.keys() == {str(other), str(nobodys)}
    assert told[str(other)]
    assert told[str(nobodys)] is None
    assert nobodys.stat().st_size == HUGE_BYTES
    assert files.get("zeros").data == bytes(70_000)


def test_a_directory_in_a_records_place_stops_no_quarantine(
    files: FileStore, tmp_path: Path
) -> None:
    """It is told, and stays; what else is damaged is moved aside all the same."""
    for ref in ("a", "b", "c"):
        files.put(ref, b"data", b"m")
    (tmp_path / "refs/b@").unlink()
    (tmp_path / "refs/b@").mkdir()
    for ref in ("a", "c"):
        put_in_place(tmp_path / f"refs/{ref}@", b"garbage")
    told = {Path(each.where).name: each.quarantined for each in files.verify(quarantine=True)
            if each.error}  # fmt: skip
    assert told.keys() == {"a@", "b@", "c@"}
    assert [told[f"{ref}@"] is None for ref in ("a", "b", "c")] == [False, True, False]


def test_collection_says_only_what_it_removed(files: FileStore, tmp_path: Path) -> None:
    """A directory in tmp/ is of no writer: it stays, and is not said to be gone."""
    (tmp_path / "tmp/directory").mkdir()
    (tmp_path / "tmp/file").touch()
    for path in (tmp_path / "tmp").iterdir():
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    gone = [Path(each.where).name for each in files.collect(Retention(0.0), tuple)]
    assert gone == ["file"]
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["directory"]


def test_opening_looks_at_few_leftovers(
    files: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files lie in tmp/, opening a store looks at so many; collection at all."""
    monkeypatch.setattr(backend, "_SWEPT_MAX", 10)
    for number in range(12):
        os.mknod(tmp_path / f"tmp/{number}")
        os.utime(tmp_path / f"tmp/{number}", (time.time() - 2 * DAY_S,) * 2)
    FileStore(str(tmp_path))
    assert len(os.listdir(tmp_path / "tmp")) == 2
    assert len(list(files.collect(Retention(0.0), tuple))) == 2
    assert os.listdir(tmp_path / "tmp") == []


def test_directories_deeper_than_any_ref_are_not_walked(
    files: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk ends where no ref can be, and says so: it holds a descriptor a level."""
    monkeypatch.setattr(records, "_LEVELS_MAX", 20)
    files.put("/".join(["d"] * 20), b"data", b"m")
    assert len(list(files.list())) == 1
    tmp_path.joinpath("refs", *["d"] * 30).mkdir(parents=True)
    (told,) = [each for each in files.verify() if each.is_foreign]
    assert told.where == str(tmp_path.joinpath("refs", *["d"] * 21))
