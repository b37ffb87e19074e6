"""Upkeep of the file backend: what verification finds, and what collection may remove."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import store.file.upkeep
from store import Collected, Corrupt, NotFound, Pin, Retention, checksum_of
from store.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REF = "stacks/t_1/web/42"
BIG = b"b" * 100_000
NOW = Retention(grace_s=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> FileStore:
    return FileStore(str(root))


def collect(files: FileStore, retention: Retention = NOW, *pins: Pin) -> list[Collected]:
    return list(files.collect(retention, lambda: pins))


def kinds(collected: list[Collected]) -> list[str]:
    return sorted(each.kind for each in collected)


def object_path(root: Path, data: bytes) -> Path:
    digest = checksum_of(data).removeprefix("sha256:")
    return root / "objects/sha256" / digest[:2] / digest


def flip(path: Path) -> None:
    """Flip the file's last bit in place: every hard link of it changes."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


# Verification.


@pytest.mark.parametrize("prefix", ["", "stacks"])
def test_what_is_collected_while_it_is_verified_is_not_damaged(
    files: FileStore, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """A record that was read just before it went, and its object too, is not called damaged."""
    files.put(REF, BIG, b"m")
    files.put(REF, BIG + b"2", b"m")
    check_body = store.file.upkeep._check_body

    def collected_before(*args: Any, **options: Any) -> None:
        files.put(REF, b"data", b"m")
        collect(files)
        check_body(*args, **options)

    monkeypatch.setattr(store.file.upkeep, "_check_body", collected_before)
    assert [each.error for each in files.verify(prefix) if each.error] == []
    assert files.get(REF) == (b"data", b"m")


def test_damaged_record_is_moved_aside_under_all_its_names(files: FileStore, root: Path) -> None:
    """A damaged record goes to quarantine; its names stay `Corrupt`, and the next Put heals."""
    files.put(REF, b"data", b"m")
    flip(root / f"refs/{REF}@")
    (found,) = files.verify(quarantine=True)
    assert found.where == str(root / f"refs/{REF}@")
    assert found.ref == REF
    assert found.error
    assert found.quarantined
    assert b"artifact-record 1\nref stacks" in (root / found.quarantined).read_bytes()
    for pin in (None, checksum_of(b"data")):
        with pytest.raises(Corrupt, match="quarantine"):
            files.get(REF, checksum=pin)
    again = list(files.verify(quarantine=True))
    assert {each.quarantined for each in again} == {found.quarantined}
    files.put(REF, b"data", b"m")
    assert files.get(REF, checksum=checksum_of(b"data")) == (b"data", b"m")
    assert [each.error for each in files.verify()] == [None]


def test_damaged_object_is_moved_aside(files: FileStore, root: Path) -> None:
    """A damaged object goes to quarantine; what names it is `Corrupt` until a Put heals it."""
    files.put(REF, BIG, b"m")
    files.put("other", BIG, b"m")
    flip(object_path(root, BIG))
    found = [each for each in files.verify(quarantine=True) if each.error]
    assert [(each.where, each.ref) for each in found] == [(str(object_path(root, BIG)), None)]
    assert not object_path(root, BIG).exists()
    with pytest.raises(Corrupt, match="missing"):
        files.get(REF)
    assert {each.ref for each in files.verify() if each.error} == {REF, "other"}
    files.put("other", BIG, b"m")
    assert files.get(REF) == (BIG, b"m")
    assert not any(each.error for each in files.verify())


def test_strange_files_are_told(files: FileStore, root: Path) -> None:
    """Links and records in another's place are damage, other files foreign; the walk continues."""
    files.put("a", b"1", b"m")
    files.put("z", b"2", b"m")
    (root / "refs/link").symlink_to("/")
    (root / "refs/note").write_text("hello")
    (root / "refs/wrong@").write_bytes((root / "refs/a@").read_bytes())
    (root / "objects/sha256/ab").mkdir(parents=True)
    (root / "objects/sha256/ab/short").write_text("x")
    found = list(files.verify())
    damaged = {each.where for each in found if each.error}
    assert damaged == {str(root / name) for name in ("refs/link", "refs/wrong@")}
    foreign = {each.where for each in found if each.is_foreign}
    assert foreign == {str(root / name) for name in ("refs/note", "objects/sha256/ab/short")}


def test_a_copied_store_is_whole(files: FileStore, root: Path, tmp_path: Path) -> None:
    """A copy that broke the hard links reads, verifies and keeps its current versions."""
    for data in (b"1", b"2", BIG):
        files.put(REF, data, b"m")
    os.system(f"cp -r {root} {tmp_path / 'copy'}")
    copy = FileStore(str(tmp_path / "copy"))
    assert not any(each.error for each in copy.verify())
    assert kinds(collect(copy)) == ["version", "version"]
    copy.put(REF, b"3", b"m")
    assert copy.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")


# Collection.


def test_objects_go_when_no_record_names_them(files: FileStore, root: Path) -> None:
    """Data shared by two refs stays until both have moved on and their versions went."""
    files.put("a", BIG, b"m")
    files.put("b", BIG, b"m")
    files.put("a", b"new", b"m")
    assert kinds(collect(files)) == ["version"]
    assert files.get("b") == (BIG, b"m")
    files.put("b", b"new", b"m")
    assert kinds(collect(files)) == ["object", "version"]
    assert not object_path(root, BIG).exists()
    with pytest.raises(NotFound):
        files.get("b", checksum=checksum_of(BIG))


def test_orphaned_object(files: FileStore, root: Path) -> None:
    """An object whose Put was killed before its record is garbage once it is old."""
    files.put("a", BIG, b"m")
    (root / "refs/a@").unlink()
    for version in (root / "refs").glob("a@*"):
        version.unlink()
    assert collect(files, Retention(grace_s=3600)) == []
    assert kinds(collect(files)) == ["object"]


def test_grace_counts_from_the_end_of_use(files: FileStore, root: Path) -> None:
    """A version that was current for long and was just superseded is young."""
    files.put("a", b"old", b"m")
    (version,) = (root / "refs").glob("a@?*")
    os.utime(version, (1, 1))
    files.put("a", b"new", b"m")
    assert collect(files, Retention(grace_s=3600)) == []
    assert kinds(collect(files)) == ["version"]


def test_a_version_put_again_meanwhile_stays(files: FileStore) -> None:
    """A candidate that is put again, even if it is superseded again, is not removed."""
    files.put("a", b"old", b"m")
    files.put("a", b"new", b"m")

    def put_again() -> Iterator[Pin]:
        files.put("a", b"old", b"m")
        files.put("a", b"newer", b"m")
        yield from ()

    assert list(files.collect(NOW, put_again)) == []
    assert files.get("a", checksum=checksum_of(b"old")) == (b"old", b"m")
    assert len(collect(files)) == 2


def test_an_object_used_again_meanwhile_stays(files: FileStore, root: Path) -> None:
    """An unnamed object that a Put finds there after it was listed is not removed."""
    files.put("a", BIG, b"m")
    files.put("a", b"new", b"m")
    collect(files, Retention(grace_s=0), Pin("a", checksum_of(BIG)))
    inode = object_path(root, BIG).stat().st_ino

    def use_again() -> Iterator[Pin]:
        files.put("b", BIG, b"m")
        yield from ()

    assert [each.kind for each in files.collect(NOW, use_again)] == ["version"]
    assert object_path(root, BIG).stat().st_ino == inode
    assert files.get("b") == (BIG, b"m")


def test_a_put_under_way_is_waited_for(files: FileStore) -> None:
    """An object whose lock a Put holds for too long is spared, and goes the next time."""
    files.put("a", BIG, b"m")
    files.put("a", b"new", b"m")
    busy = FileStore(files._root, timeout_s=0.05)
    digest = checksum_of(BIG).removeprefix("sha256:")
    with files._tree.locked(store.file.upkeep.lock_of_object(digest), shared=True):
        assert [each.kind for each in busy.collect(NOW, tuple)] == ["version"]
    assert kinds(collect(files)) == ["object"]


def test_a_put_between_its_object_and_its_record(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object stays whose Put freshened it before it was listed and names it only after that."""
    files.put("a", BIG, b"m")
    files.put("a", b"new", b"m")
    busy = FileStore(files._root, timeout_s=0.05)
    freshened, marked = threading.Event(), threading.Event()
    real_put, real_mark = files._names.put_record, store.file.upkeep._spare_named

    def put_late(*args: Any) -> None:
        freshened.set()
        assert marked.wait(60)
        real_put(*args)

    def mark(*args: Any) -> None:
        real_mark(*args)
        marked.set()
        putting.result()

    monkeypatch.setattr(files._names, "put_record", put_late)
    monkeypatch.setattr(store.file.upkeep, "_spare_named", mark)
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(files.put, "b", BIG, b"m")
        assert freshened.wait(60)
        assert [each.kind for each in busy.collect(NOW, tuple)] == ["version"]
    assert busy.get("b") == (BIG, b"m")


def test_an_unreadable_ref_keeps_its_versions(files: FileStore, root: Path) -> None:
    """Where the current record is damaged, which version is current is unknown: all stay."""
    files.put("a", b"1", b"m")
    files.put("a", b"2", b"m")
    current = root / "refs/a@"
    current.rename(root / "refs/a.away")
    current.write_bytes(b"damaged")
    (root / "refs/a.away").unlink()
    assert collect(files) == []


def test_pins_that_fail_remove_nothing(files: FileStore) -> None:
    """When the pins cannot be read to their end, nothing is removed."""
    files.put("a", b"1", b"m")
    files.put("a", b"2", b"m")

    def fail() -> Iterator[Pin]:
        yield Pin("b", checksum_of(b"1"))
        raise ConnectionError("gone")

    with pytest.raises(Exception, match="gone"):
        list(files.collect(NOW, fail))
    assert files.get("a", checksum=checksum_of(b"1")) == (b"1", b"m")


def test_illegal_pins_name_nothing(files: FileStore) -> None:
    """A pin that is no legal ref, from a hostile event, is passed over."""
    files.put("a", b"1", b"m")
    files.put("a", b"2", b"m")
    pins = [Pin(ref, checksum_of(b"1")) for ref in ("", "../a", "a\ud800", "/a", "a" * 300)]
    assert kinds(collect(files, NOW, *pins)) == ["version"]


def test_keeps_the_last(files: FileStore) -> None:
    """With keep_last, that many newest versions of each ref stay, the current one counted."""
    for data in (b"1", b"2", b"3", b"4"):
        files.put("a", data, b"m")
    collect(files, Retention(grace_s=0, keep_last=3))
    assert [each.checksum for each in files.versions("a")] == [
        checksum_of(data) for data in (b"4", b"3", b"2")
    ]


def test_leftovers_go(files: FileStore, root: Path) -> None:
    """What crashed writers left is collected after a day, and not what is being written."""
    (root / "tmp/old").write_bytes(b"123")
    os.utime(root / "tmp/old", (1, 1))
    (root / "tmp/young").write_bytes(b"123")
    assert collect(files) == [Collected("leftover", str(root / "tmp/old"), None, 3)]
    assert [path.name for path in (root / "tmp").iterdir()] == ["young"]
