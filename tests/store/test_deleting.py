"""Deleting in each backend: what the exported suite cannot see, as no caller can."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from store import (
    Capability,
    Corrupt,
    InvalidRef,
    Listed,
    NotFound,
    Retention,
    Unavailable,
    VersionedStore,
    checksum_of,
    delete_all,
    versions_of,
)
from store.chassis import ChassisStore
from store.chassis import backend as chassis_backend
from store.file import FileStore
from store.file.tree import Tree
from store.memory import MemoryStore
from store.object import delete as object_deleting
from store.testing.samples import wait_out
from tests.store.buckets import open_bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from store.object.backend import ObjectStore
    from store.object.client import Bucket
    from store.object.layout import Place
    from tests.store.object_server import S3Server

REF = "stacks/t_1/web/42"
MANY = [f"stacks/t_1/web/{version}" for version in range(20, 50)]
BIG = b"b" * 70_000


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    """Return an empty file store."""
    return FileStore(str(tmp_path / "root"))


@pytest.fixture
def chassis(tmp_path: Path) -> ChassisStore:
    """Return an empty directory of a Go fleet."""
    (tmp_path / "go").mkdir()
    return ChassisStore(str(tmp_path / "go"))


# file


def test_a_put_waits_for_the_deletion_of_what_it_would_rely_on(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking at a record's times and removing it, no Put takes it for stored."""
    for ref in MANY:
        files.put(ref, b"data", b"m")
    hasty = FileStore(files._root, timeout_s=0)
    unlink = os.unlink

    def put_first(name: str, *, dir_fd: int | None = None) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        for ref in MANY:
            with pytest.raises(Unavailable):
                hasty.put(ref, b"data", b"m")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", put_first)
    assert list(files.delete_all(MANY)) == MANY
    assert list(files.list()) == []


@pytest.mark.parametrize("removed", [0, 1, 2, 3])
def test_a_deletion_that_ends_amid_it_leaves_no_ref_half(
    files: FileStore, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    """The current record's name goes first: a ref is as it was, or absent; again does the rest."""
    for ref in MANY[:2]:
        files.put(ref, b"1", b"m")
    unlink, left = os.unlink, removed

    def die_at_last(name: str, *, dir_fd: int | None = None) -> None:
        nonlocal left
        if not left:
            raise OSError(errno.EIO, "no more")
        left -= 1
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", die_at_last)
    with pytest.raises(Unavailable):
        list(files.delete_all(MANY[:2]))
    monkeypatch.setattr(os, "unlink", unlink)
    assert [files.exists(ref) for ref in MANY[:2]] == [removed < 1, removed < 3]
    list(files.delete_all(MANY[:2]))
    assert list(files.versions_of(MANY[:2])) == []


def test_locks_of_many_are_taken_once_each_in_one_order(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two deletions beside each other that name the same refs do not wait for each other."""
    taken: list[str] = []
    locked = Tree.locked

    def noting(tree: Tree, name: str, **how: Any) -> Any:
        taken.append(name)
        return locked(tree, name, **how)

    monkeypatch.setattr(Tree, "locked", noting)
    for some in (MANY, MANY[::-1]):
        taken.clear()
        list(files.delete_all(some))
        assert taken == sorted(set(taken))
        assert len(taken) > 1


def test_a_store_that_is_away_has_not_lost_its_refs(files: FileStore, tmp_path: Path) -> None:
    """Deleting says so, as a mount that is missing has nothing of any ref."""
    files.put(REF, b"1", b"m")
    (tmp_path / "root").rename(tmp_path / "away")
    for ask in (files.delete_all, files.versions_of):
        with pytest.raises(Unavailable):
            list(ask([REF]))


def test_what_is_put_while_many_are_deleted_stays(files: FileStore) -> None:
    """The time out of use counts from the beginning, however long the directories before took."""
    apart = [f"stacks/t/{number}/1" for number in range(3)]
    stores: tuple[VersionedStore, ...] = (files, Single())
    for single in stores:
        for ref in apart:
            single.put(ref, b"1", b"m")
        wait_out(0.2)
        going = delete_all(single, apart, unused_s=0.1)
        assert next(going) == apart[0]
        single.put(apart[1], b"1", b"m")
        wait_out(0.2)
        assert list(going) == [apart[2]]
        assert single.exists(apart[1])


def test_what_was_current_till_now_is_in_use(files: FileStore) -> None:
    """A version that another took the ref from, and that is older by its own times, stays."""
    files.put(REF, b"1", b"m")
    wait_out(0.2)
    since = time.time()
    wait_out(0.2)
    files.put(REF, b"2", b"m")
    files.delete(REF, checksum=checksum_of(b"2"))
    assert list(files.delete_all([REF], unused_s=time.time() - since)) == []
    assert files.exists(REF, checksum=checksum_of(b"1"))


def test_a_foreign_file_beside_what_goes_stays(files: FileStore, tmp_path: Path) -> None:
    """Only the names that records of these refs have are theirs, whatever else looks alike."""
    files.put("a/b", b"1", b"m")
    files.put("a/B", b"1", b"m")
    directory = next((tmp_path / "root/refs").glob("a*"))
    beside = [directory / name for name in ("b", "b@.swp", "b@x", "b.tmp", "b@2@")]
    for file in beside:
        file.write_bytes(b"mine")
    assert [one.ref for one in files.versions_of(["a/b"])] == ["a/b"]
    assert list(files.delete_all(["a/b"])) == ["a/b"]
    assert all(file.read_bytes() == b"mine" for file in beside)
    assert files.exists("a/B")


class Single(MemoryStore):
    """As a backend in a package of its own: it knows nothing of many."""

    capabilities = MemoryStore.capabilities - {Capability.MANY}

    def versions_of(self, refs: Iterable[str]) -> Iterator[Listed]:
        """Be not there."""
        raise NotImplementedError

    def delete_all(self, refs: Iterable[str], *, unused_s: float = 0.0) -> Iterator[str]:
        """Be not there."""
        raise NotImplementedError


def test_a_store_without_the_capability_is_asked_one_by_one() -> None:
    """What is absent is left out, what is damaged is told, and all others are as they are."""
    single = Single()
    for ref in (MANY[0], MANY[2], MANY[3]):
        single.put(ref, b"1", b"m")
    single.put(MANY[3], b"2", b"m")
    assert [one.ref for one in versions_of(single, MANY[:4])] == [MANY[0], MANY[2], MANY[3]]
    assert [len(one.versions) for one in versions_of(single, MANY[:4])] == [1, 1, 2]
    assert list(delete_all(single, MANY[:4])) == [MANY[0], MANY[2], MANY[3]]
    assert list(single.list()) == []


def test_a_deletion_waits_for_the_put_that_relies_on_what_it_would_remove(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding its content there and marking it as in use, a Put is not overtaken."""
    files.put(REF, b"data", b"m")
    hasty = FileStore(files._root, timeout_s=0)
    utime = os.utime

    def delete_first(name: str, **where: Any) -> None:
        with pytest.raises(Unavailable):
            hasty.delete(REF)
        utime(name, **where)

    monkeypatch.setattr(os, "utime", delete_first)
    files.put(REF, b"data", b"m")
    assert files.get(REF).data == b"data"


def test_large_data_goes_with_the_next_collection(files: FileStore) -> None:
    """Nobody's data stays on disk: what a deleted record alone named is collected."""
    files.put(REF, BIG, b"m")
    files.delete(REF)
    objects = [path for path, _, names in os.walk(f"{files._root}/objects") if names]
    assert len(objects) == 1
    gone = list(files.collect(Retention(grace_s=0), tuple))
    assert [each.kind for each in gone] == ["object"]
    assert os.listdir(objects[0]) == []


@pytest.mark.parametrize("by_checksum", [False, True])
def test_deleting_what_is_damaged(files: FileStore, tmp_path: Path, *, by_checksum: bool) -> None:
    """A damaged ref can be deleted, also by the checksum that its own name tells."""
    files.put(REF, b"old", b"m")
    files.put(REF, b"data", b"m")
    current = tmp_path / "root/refs" / f"{REF}@"
    current.write_bytes(b"spoilt")
    assert files.delete(REF, checksum=checksum_of(b"data") if by_checksum else None)
    with pytest.raises(NotFound):
        files.get(REF)
    assert files.exists(REF, checksum=checksum_of(b"old")) is by_checksum


def test_deleting_one_version_beside_a_damaged_one(files: FileStore, tmp_path: Path) -> None:
    """What a damaged current record is not does not keep an old version from going."""
    files.put(REF, b"old", b"m")
    files.put(REF, b"data", b"m")
    (tmp_path / "root/refs" / f"{REF}@").write_bytes(b"spoilt")
    assert files.delete(REF, checksum=checksum_of(b"old"))
    with pytest.raises(Corrupt):
        files.get(REF)


def test_deleting_what_a_damaged_record_may_be(files: FileStore, tmp_path: Path) -> None:
    """Where nothing tells which version is current, none is said to be gone."""
    files.put(REF, b"data", b"m")
    current = tmp_path / "root/refs" / f"{REF}@"
    current.unlink()
    current.write_bytes(b"spoilt")
    with pytest.raises(Corrupt):
        files.delete(REF, checksum=checksum_of(b"data"))
    assert files.delete(REF)
    assert os.listdir(current.parent) == []


# chassis-file


def test_deleting_half_a_pair(chassis: ChassisStore, tmp_path: Path) -> None:
    """What a crash between data and manifest left is removed by the next deletion."""
    chassis.put(REF, b"data", b"m")
    (tmp_path / "go" / REF).unlink()
    assert chassis.delete(REF)
    assert not chassis.delete(REF)
    assert os.listdir(tmp_path / "go/stacks/t_1/web") == []


def test_the_data_goes_before_its_manifest(
    chassis: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Go reader that sees half of it sees that nothing is there."""
    chassis.put(REF, b"data", b"m")
    removed: list[str] = []
    unlink = os.unlink

    def note(name: str, *, dir_fd: int | None = None) -> None:
        removed.append(name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", note)
    chassis.delete(REF)
    assert removed == ["42", "42.manifest.json"]


def test_deleting_anothers_file(chassis: ChassisStore, tmp_path: Path) -> None:
    """A ref whose path may be another's is not deleted; another's file is none of its own."""
    chassis.put("a_b", b"data", b"m")
    assert not chassis.delete("a b")
    for name in ("c_d", "c_d.manifest.json"):
        (tmp_path / "go" / name).write_bytes(b"by the Go side")
    with pytest.raises(InvalidRef, match="by hand"):
        chassis.delete("c d")
    assert chassis.delete("c_d")
    assert chassis.get("a_b").data == b"data"


def test_what_the_go_side_rewrites_meanwhile_stays(
    chassis: ChassisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was replaced after it was looked at is told, and left."""
    chassis.put(REF, b"data", b"m")
    path = tmp_path / "go" / REF
    leaving = chassis_backend._leaving

    def rewrite(*args: Any) -> Any:
        found = leaving(*args)
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").rename(path)
        return found

    monkeypatch.setattr(chassis_backend, "_leaving", rewrite)
    with pytest.raises(Unavailable, match="rewritten"):
        chassis.delete(REF)
    assert path.read_bytes() == b"new"


# object


@pytest.fixture
def bucket(s3: S3Server) -> ObjectStore:
    """Return a store in an empty bucket."""
    return open_bucket(s3.new_bucket(), shortest_grace_s=0.0)


@pytest.mark.parametrize("data", [b"new", BIG], ids=["small", "big"])
def test_a_put_beside_a_deletion_keeps_its_ref(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """A Put that moved the ref after deletion had looked finds it moved once both returned."""
    bucket.put(REF, b"old", b"m")
    looked = object_deleting._current

    def put_then(at: Bucket, place: Place) -> Any:
        found = looked(at, place)
        bucket.put(REF, data, b"m")
        return found

    monkeypatch.setattr(object_deleting, "_current", put_then)
    assert bucket.delete(REF)
    assert bucket.get(REF) == (data, b"m")
    assert bucket.get(REF, checksum=checksum_of(data)) == (data, b"m")
    assert not bucket.exists(REF, checksum=checksum_of(b"old"))


def test_a_service_that_lists_by_the_second_has_its_shortest_time(s3: S3Server) -> None:
    """A time out of use that a Put may still rely on is refused."""
    with pytest.raises(ValueError, match="too short"):
        open_bucket(s3.new_bucket(), shortest_grace_s=60.0).delete(REF, unused_s=59)
