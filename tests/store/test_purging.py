"""Purging in each backend: what the exported suite cannot see, as no caller can."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from store import InvalidRef, NotFound, Unavailable
from store.chassis import ChassisStore
from store.file import FileStore
from store.memory import MemoryStore
from store.object.delete import delete
from tests.store.buckets import open_bucket
from tests.store.harness import raw_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.object_server import S3Server

REF = "stacks/t_1/web/42"
BIG = b"b" * 70_000


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    """Return an empty file store."""
    return FileStore(str(tmp_path / "root"))


def test_what_a_newer_release_wrote_may_name_any_data(files: FileStore, tmp_path: Path) -> None:
    """Where a record cannot be read, the data stays, and the purge says that it is not done."""
    files.put(REF, BIG, b"m")
    files.put("other", b"1", b"m")
    path = tmp_path / "root/refs/other@"
    newer = path.read_bytes().partition(b"header")[0].replace(b"record 1", b"record 9")
    path.write_bytes(_with_checksum(newer))
    with pytest.raises(Unavailable, match="newer release"):
        list(files.purge([REF]))
    assert BIG in raw_files(tmp_path)
    path.unlink()
    list(files.purge([REF]))
    assert BIG not in raw_files(tmp_path)


def _with_checksum(text: bytes) -> bytes:
    return text + b"header sha256:" + hashlib.sha256(text).hexdigest().encode() + b"\n\n"


@pytest.mark.parametrize("readable", [True, False])
def test_what_an_earlier_release_moved_aside(
    files: FileStore, tmp_path: Path, *, readable: bool
) -> None:
    """A damaged record without a mark of its ref is known by what is left of it, or by the note."""
    files.put(REF, b"data", b"m")
    path = tmp_path / "root/refs" / f"{REF}@"
    damaged = path.read_bytes()
    path.write_bytes(damaged[:-1] + b"?" if readable else b"?" + damaged[1:])
    (found,) = (each for each in files.verify(quarantine=True) if each.quarantined)
    mark, _, rest = str(found.quarantined).rpartition("/")[2].partition(".")
    assert len(mark) == 32
    aside = tmp_path / "root/quarantine" / rest
    (tmp_path / "root/quarantine" / f"{mark}.{rest}").rename(aside)
    path.write_bytes(path.read_bytes().replace(f"{mark}.".encode(), b""))
    (tmp_path / "root/quarantine" / f"{rest[:-1]}_of_nobody").write_bytes(b"?")
    (tmp_path / "root/quarantine/notes").write_bytes(b"?")
    list(files.purge(["other"]))
    assert aside.exists()
    assert {piece.where for piece in files.purge([REF]) if piece.kind == "damaged"} == {str(aside)}
    assert len(list((tmp_path / "root/quarantine").iterdir())) == 2


def test_a_put_whose_data_is_purged_fails(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket a Put that loses its data says so, and is whole when it is done again."""
    bucket = open_bucket(s3.new_bucket(), shortest_grace_s=0.0)
    write = bucket._writer._write
    purged: list[Any] = []

    def purge_once(key: str, *args: Any) -> None:
        write(key, *args)
        if "/objects/" in key and not purged:
            purged.extend(bucket.purge([REF]))

    monkeypatch.setattr(bucket._writer, "_write", purge_once)
    with pytest.raises(Unavailable, match="put it again"):
        bucket.put(REF, BIG, b"m")
    assert [piece.kind for piece in purged] == ["object"]
    bucket.put(REF, BIG, b"m")
    assert bucket.get(REF) == (BIG, b"m")


def test_memory_tells_of_nothing_that_stays() -> None:
    """A version that is put again while a purge is at its ref stays, and is not told as gone."""
    memory = MemoryStore()
    for data in (b"1", b"2"):
        memory.put(REF, data, b"m")
    pieces = memory.purge([REF])
    next(pieces)
    memory.put(REF, b"1", b"m")
    assert list(pieces) == []
    assert memory.get(REF).data == b"1"


def test_what_moved_the_ref_beside_a_purge(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Put that had looked for its data just before it went leaves nothing that is damaged."""
    bucket_name = s3.new_bucket()
    bucket = open_bucket(bucket_name, shortest_grace_s=0.0)

    def delete_then_put(*args: Any) -> bool:
        found = delete(*args)
        for key, content in kept.items():
            s3.write(bucket_name, key, content)
        return found

    bucket.put(REF, BIG, b"m")
    kept = {key: s3.read(bucket_name, key) for key in s3.keys(bucket_name) if f"{REF}@" in key}
    monkeypatch.setattr("store.object.purge.delete", delete_then_put)
    list(bucket.purge([REF]))
    assert not bucket.exists(REF)
    with pytest.raises(NotFound):
        bucket.get(REF)


def test_what_may_be_another_refs(tmp_path: Path) -> None:
    """In a Go fleet's directory a file that may be another ref's stays, and the dry run says it."""
    (tmp_path / "go").mkdir()
    chassis = ChassisStore(str(tmp_path / "go"))
    for name in ("a_b", "a_b.manifest.json"):
        (tmp_path / "go" / name).write_bytes(b"m")
    for dry_run in (True, False):
        with pytest.raises(InvalidRef):
            list(chassis.purge(["a b"], dry_run=dry_run))
    assert (tmp_path / "go/a_b").exists()
