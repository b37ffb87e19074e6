"""What is no store's own, in a store: consoles, desktops, NFS clients and editors leave it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import store
from store import Checked, ConfigError, Retention, VersionedStore, checksum_of
from store.file import FileStore
from tests.store.object_server import S3Server

REF: Final = "stacks/t_1/web/42"
BIG: Final = b"b" * 100_000
HEX: Final = checksum_of(BIG).removeprefix("sha256:")
IN_FILES: Final = {
    *(f"refs/{name}" for name in (".DS_Store", "Thumbs.db", "desktop.ini", "1@~", "UPPER@", "@")),
    *(f"refs/stacks/t_1/web/{name}" for name in (".nfs0001", "42@~", f"42@{HEX}.{HEX}.bak")),
    "refs/%%short@", "refs/\udcff@", "objects/sha256/.DS_Store", "objects/sha256/ab",
    f"objects/sha256/{HEX[:2]}/.nfs0001", f"objects/sha256/{HEX[:2]}/{'0' * 64}",
}  # fmt: skip
IN_BUCKETS: Final = {
    "refs/stacks/", "refs/.DS_Store", "refs/UPPER@", "refs/===short@", "refs/1@~",
    "versions/stacks/", "versions/.DS_Store", f"versions/UPPER@/{HEX}/{HEX}/{'0' * 32}",
}  # fmt: skip


class Strewn(NamedTuple):
    """A store with what is foreign among its own."""

    opened: VersionedStore
    strays: set[str]
    has: Callable[[str], bool]


@pytest.fixture(params=["file", "object"])
def strewn(request: pytest.FixtureRequest, tmp_path: Path) -> Strewn:
    """Either kind, with two versions of a ref."""
    if request.param == "file":
        return _strewn_files(tmp_path / "root")
    return _strewn_bucket(request.getfixturevalue("s3"))


def _strewn_files(root: Path) -> Strewn:
    files = _filled(root.as_uri())
    (root / "refs/@eaDir").mkdir()
    for name in IN_FILES:
        (root / name).write_bytes(b"x" * 80_000)
    strays = {str(root / name) for name in (*IN_FILES, "refs/@eaDir")}
    return Strewn(files, strays, os.path.exists)


def _strewn_bucket(s3: S3Server) -> Strewn:
    bucket = s3.new_bucket()
    opened = _filled(f"s3://{bucket}/fleet")
    for key in IN_BUCKETS:
        s3.write(bucket, f"fleet/{key}", b"" if key.endswith("/") else b"x")

    def has(where: str) -> bool:
        return any(f"s3://{bucket}/{key.rstrip('/')}" == where for key in s3.keys(bucket))

    return Strewn(opened, {f"s3://{bucket}/fleet/{key.rstrip('/')}" for key in IN_BUCKETS}, has)


def _filled(url: str) -> VersionedStore:
    opened = store.versioned(store.open_url(url))
    assert opened
    opened.put(REF, BIG, b"m")
    opened.put(REF, b"data", b"m")
    return opened


def test_what_is_foreign_is_passed_over(strewn: Strewn) -> None:
    """It is no ref, no version and no damage; reads and collections do not stop at it."""
    opened = strewn.opened
    assert list(opened.list()) == [REF]
    assert len(list(opened.versions(REF))) == 2
    assert opened.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")
    kinds = [each.kind for each in opened.collect(Retention(grace_s=3600), tuple)]
    assert kinds == []
    assert all(map(strewn.has, strewn.strays))


def test_what_is_foreign_is_reported_once(strewn: Strewn) -> None:
    """Verification names each, in one of its shares, as no damage, and leaves it there."""
    found: list[Checked] = []
    for share in range(3):
        found += strewn.opened.verify(quarantine=True, part=(share, 3))
    assert sorted(each.where for each in found if each.is_foreign) == sorted(strewn.strays)
    assert [each for each in found if each.error] == []
    assert all(map(strewn.has, strewn.strays))


def test_old_objects_go_from_among_what_is_foreign(tmp_path: Path) -> None:
    """A collection removes its own garbage, and nothing that no Put has written."""
    strewn = _strewn_files(tmp_path / "root")
    gone = list(strewn.opened.collect(Retention(grace_s=0), tuple))
    assert sorted(each.kind for each in gone) == ["object", "version"]
    assert all(map(strewn.has, strewn.strays))


def test_a_place_with_what_tools_leave_is_empty(tmp_path: Path, s3: S3Server) -> None:
    """A store is made beside it; beside anything else, none is."""
    for name in (".DS_Store", "Thumbs.db", "lost+found"):
        (tmp_path / name).touch()
    FileStore(str(tmp_path)).put(REF, b"data", b"m")
    bucket = s3.new_bucket()
    for key in ("fleet/", "fleet/refs/", "fleet/.DS_Store"):
        s3.write(bucket, key, b"")
    store.open_url(f"s3://{bucket}/fleet").put(REF, b"data", b"m")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        FileStore(str(tmp_path / "other"))
