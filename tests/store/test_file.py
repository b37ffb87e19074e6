"""The file backend: its layout, its durability, and what it says of damage and outages."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import store
import store.file.tree
import store.posix
from store import ConfigError, Corrupt, NotFound, Unavailable, checksum_of
from store.file import FileStore
from tests.store.harness import open_below
from tests.store.racing import RACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REF = "stacks/t_1/web/42"
BIG = b"b" * 100_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> FileStore:
    return FileStore(str(root))


def hex_of(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def object_of(root: Path, data: bytes) -> Path:
    return root / "objects" / "sha256" / hex_of(data)[:2] / hex_of(data)


def tampered(path: Path, content: bytes) -> None:
    """Change a file in place, as a disk would: every hard link of it changes."""
    path.chmod(0o644)
    path.write_bytes(content)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / "tmp").iterdir()]


# The layout, without the package.


def test_layout_of_small_data(root: Path, files: FileStore) -> None:
    """A small artifact is one file that says what it is; its data is the file's tail."""
    data, manifest = b"data\n", b"{manifest}"
    files.put(REF, data, manifest, position=(17, 3))
    current = root / "refs/stacks/t_1/web/42@"
    assert current.samefile(current.with_name(f"42@{hex_of(data)}.{hex_of(manifest)}"))
    header, _, body = current.read_bytes().partition(b"\n\n")
    lines = header.decode().split("\n")
    assert lines[:5] == [
        "artifact-record 1",
        f"ref {REF}",
        f"data sha256:{hex_of(data)} 5",
        f"manifest sha256:{hex_of(manifest)} 10",
        "position 17-3",
    ]
    assert lines[5].startswith("stored 2")
    assert lines[6] == "at inline"
    above = "".join(f"{line}\n" for line in lines[:7])
    assert lines[7:] == [f"header sha256:{hex_of(above.encode())}"]
    assert body == manifest + data


def test_layout_of_large_data(root: Path, files: FileStore) -> None:
    """Large data is an object of its own under its checksum, read-only, shared between refs."""
    files.put("a", BIG, b"one")
    files.put("B", BIG, b"two")
    path = object_of(root, BIG)
    assert path.read_bytes() == BIG
    assert path.stat().st_mode & 0o777 == 0o444
    assert [each for each in root.glob("objects/*/*/*") if each.is_file()] == [path]
    record = (root / "refs/%42@").read_bytes()
    assert record.endswith(b"\n\ntwo")
    assert b"\nat object\n" in record


def test_root_says_what_it_is(root: Path, files: FileStore) -> None:
    """The root has a format file and nothing hidden; no temporary file stays."""
    files.put(REF, b"data", b"manifest")
    assert (root / "STORE").read_text() == "artifact-store 1\nhash sha256\n"
    assert sorted(path.name for path in root.iterdir()) == [
        "IDENTITY",
        "STORE",
        "locks",
        "objects",
        "quarantine",
        "refs",
        "tmp",
    ]
    assert leftovers(root) == []


def test_threshold(root: Path, files: FileStore) -> None:
    """64 KiB still lies in the record, one byte more is an object."""
    files.put("a", b"x" * 65536, b"")
    assert list(root.glob("objects/sha256/*")) == []
    files.put("a", b"x" * 65537, b"")
    assert object_of(root, b"x" * 65537).exists()


def test_accepts_bytes_like(files: FileStore) -> None:
    """Data may be any bytes-like object, and nothing that only converts to bytes."""
    files.put("a", bytearray(b"12"), memoryview(b"1234")[::2])
    assert files.get("a") == (b"12", b"13")
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            files.put("a", wrong, b"")  # type: ignore[arg-type]


def test_identity(root: Path, files: FileStore, tmp_path: Path) -> None:
    """Two handles have one identity exactly when they show the same directory."""
    (tmp_path / "link").symlink_to(root)
    assert FileStore(str(tmp_path / "link")).identity == files.identity
    assert FileStore(str(tmp_path / "other")).identity != files.identity


# Durability. What a power cut may leave is tried in tests/store/crash.


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize(
    ("data", "new", "same"), [(b"1", 2, 1), (BIG, 4, 3)], ids=["inline", "object"]
)
def test_flushes_are_few(
    files: FileStore, monkeypatch: pytest.MonkeyPatch, data: bytes, new: int, same: int
) -> None:
    """Where the directories are known, a Put flushes its files and their names, each once."""
    for ref in ("a", "b"):
        files.put(ref, data, b"m")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    files.put("a", data, b"other")
    assert len(flushed) == new
    files.put("a", data, b"other")
    # Of large data, the copy that was written to find out, and the object's name.
    assert len(flushed) == new + same


def test_the_first_put_flushes_the_way_to_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made the store may have been killed before it was durable: the first Put sees to it."""
    FileStore(str(root / "below"))
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(_path_of(fd)))
    files = FileStore(str(root / "below"))
    assert flushed == []
    files.put("a", b"1", b"m")
    for directory in (root.parent, root, root / "below"):
        assert str(directory) in flushed
    assert flushed[-1] == str(root / "below" / "refs")
    flushed.clear()
    files.put("b", b"1", b"m")
    assert len(flushed) == 2


def test_a_new_root_is_whole_before_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the root is flushed before the format file has its name."""
    flushed: list[str] = []
    real = os.link

    def link(*args: Any, **kwargs: Any) -> None:
        assert flushed[-1] == str(root)
        real(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(_path_of(fd)))
    monkeypatch.setattr(os, "link", link)
    FileStore(str(root))
    assert (root / "STORE").exists()


def test_a_removed_directory_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that an operator removed is made and flushed again, also with its old inode."""
    for module in (store.posix, store.file.tree):
        monkeypatch.setattr(module, "identity_of", lambda found: (found.st_dev, 0))
    files = FileStore(str(root))
    files.put(REF, b"1", b"m")
    shutil.rmtree(root / "refs" / "stacks")
    assert not files.exists(REF)
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(_path_of(fd)))
    files.put(REF, b"1", b"m")
    assert files.get(REF) == (b"1", b"m")
    for directory in ("refs", "refs/stacks", "refs/stacks/t_1", "refs/stacks/t_1/web"):
        assert str(root / directory) in flushed


# Damage.


def test_every_flipped_byte_is_found(files: FileStore, root: Path) -> None:
    """No byte of a record can change unnoticed; the error names the file."""
    files.put("a", b"data", b"manifest", position=(5, 0))
    path = root / "refs" / "a@"
    good = path.read_bytes()
    for i in range(len(good)):
        tampered(path, good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        with pytest.raises(Corrupt, match="refs/a@"):
            files.get("a")
        with pytest.raises(Corrupt, match="refs/a@"):
            files.get("a", checksum=checksum_of(b"data"))


@pytest.mark.parametrize("data", [b"data", BIG], ids=["inline", "object"])
def test_every_truncation_is_found_and_healed(files: FileStore, root: Path, data: bytes) -> None:
    """A record cut anywhere is `Corrupt`, and the same Put heals it, its version too."""
    files.put("a", data, b"manifest", position=(5, 0))
    path = root / "refs" / "a@"
    good = path.read_bytes()
    for size in range(0, len(good), 7):
        tampered(path, good[:size])
        with pytest.raises(Corrupt, match="refs/a@"):
            files.get("a")
    files.put("a", data, b"manifest", position=(5, 0))
    files.put("a", b"other", b"manifest", position=(6, 0))
    assert files.get("a", checksum=checksum_of(data)) == (data, b"manifest")


@pytest.mark.parametrize("content", [b"", BIG[:-1], BIG[:-1] + b"c", BIG + b"b"], ids=len)
def test_damaged_object(files: FileStore, root: Path, content: bytes) -> None:
    """A damaged object is `Corrupt` with its path, healed for all refs, and kept for study."""
    files.put("one", BIG, b"1")
    files.put("two", BIG, b"2")
    path = object_of(root, BIG)
    tampered(path, content)
    with pytest.raises(Corrupt, match=str(path)):
        files.get("one")
    files.put("two", BIG, b"2")
    assert files.get("one") == (BIG, b"1")
    kept = list((root / "quarantine").iterdir())
    assert [each.read_bytes() for each in kept] == [content]
    assert kept[0].name.startswith(hex_of(BIG))


def test_missing_object(files: FileStore, root: Path) -> None:
    """A record whose object is gone is `Corrupt`, never absent; a Put heals it."""
    files.put("a", BIG, b"m")
    object_of(root, BIG).unlink()
    with pytest.raises(Corrupt, match="missing"):
        files.get("a")
    files.put("a", BIG, b"m")
    assert files.get("a") == (BIG, b"m")


def test_record_of_another_ref(files: FileStore, root: Path) -> None:
    """A record that was copied to another ref's place is not believed."""
    files.put("a", b"1", b"m")
    shutil.copy(root / "refs/a@", root / "refs/b@")
    with pytest.raises(Corrupt, match="another ref"):
        files.get("b")
    with pytest.raises(Corrupt, match="another ref"):
        files.exists("b")
    files.put("b", b"2", b"m")
    assert files.get("b") == (b"2", b"m")


def test_earlier_version_behind_a_damaged_one(files: FileStore, root: Path) -> None:
    """Damage of the current record does not take the other versions with it, nor hide itself."""
    files.put("a", b"1", b"m")
    files.put("a", b"2", b"m")
    tampered(root / "refs/a@", b"rubbish")
    assert files.get("a", checksum=checksum_of(b"1")) == (b"1", b"m")
    for pin in (b"2", b"3"):
        with pytest.raises(Corrupt):
            files.get("a", checksum=checksum_of(pin))


def test_damage_does_not_bar_the_ref(files: FileStore, root: Path) -> None:
    """A Put with a position goes over a current record that cannot be read."""
    files.put("a", b"1", b"m", position=(9, 0))
    tampered(root / "refs/a@", b"rubbish")
    files.put("a", b"2", b"m", position=(1, 0))
    assert files.get("a") == (b"2", b"m")


def test_lost_version_name(files: FileStore, root: Path) -> None:
    """A current record without its version's name is found by checksum, and put right."""
    files.put("a", b"1", b"m")
    (version,) = (root / "refs").glob("a@?*")
    version.unlink()
    pin: dict[str, Any] = {"checksum": checksum_of(b"1"), "manifest_checksum": checksum_of(b"m")}
    assert files.get("a", **pin) == (b"1", b"m")
    assert [each.current for each in files.versions("a")] == [True]
    files.put("a", b"1", b"m")
    files.put("a", b"2", b"m")
    assert files.get("a", **pin) == (b"1", b"m")


def test_lost_version_name_and_other_content(files: FileStore, root: Path) -> None:
    """A current record without its version's name stays readable when another replaces it."""
    files.put("a", b"1", b"m")
    (version,) = (root / "refs").glob("a@?*")
    version.unlink()
    files.put("a", b"2", b"m")
    assert files.get("a", checksum=checksum_of(b"1")) == (b"1", b"m")
    assert version.exists()


def test_damaged_version_beside_a_good_record(files: FileStore, root: Path) -> None:
    """Racing writers can leave two files for one version; a Put heals the one not current."""
    files.put("a", b"1", b"m")
    (version,) = (root / "refs").glob("a@?*")
    version.unlink()
    version.write_bytes(b"rubbish")
    files.put("a", b"1", b"m")
    files.put("a", b"2", b"m")
    assert files.get("a", checksum=checksum_of(b"1")) == (b"1", b"m")


def test_foreign_files(files: FileStore, root: Path) -> None:
    """List passes over what no Put has written, and names a link where refs may lie behind."""
    files.put("a/b", b"1", b"m")
    (root / "refs/.snapshot").mkdir()
    (root / "refs/a/.nfs01").touch()
    (root / "refs/a/UPPER@").touch()
    assert list(files.list()) == ["a/b"]
    (root / "refs/a/link").symlink_to("/")
    with pytest.raises(Corrupt, match="refs/a/link"):
        list(files.list())


# Links and other things planted.


@pytest.mark.parametrize("place", ["refs", "refs/stacks", "refs/stacks/t_1/web", "objects"])
def test_linked_directories_are_not_followed(files: FileStore, root: Path, place: str) -> None:
    """A directory replaced by a link to a copy of itself is refused, by old handles and new."""
    files.put(REF, BIG, b"m")
    outside = root.parent / "outside"
    (root / place).rename(outside)
    (root / place).symlink_to(outside)
    inside = sorted(outside.rglob("*"))
    for handle in (files, FileStore(str(root))):
        with pytest.raises(Corrupt, match=place):
            handle.get(REF)
        with pytest.raises(Corrupt, match=place):
            handle.put(REF, BIG + b"new", b"m")
    assert sorted(outside.rglob("*")) == inside


def test_a_link_planted_later_is_not_followed(files: FileStore, root: Path) -> None:
    """Also where this process has been before."""
    files.put("a/b", b"1", b"m")
    outside = root.parent / "outside"
    outside.mkdir()
    shutil.rmtree(root / "refs/a")
    (root / "refs/a").symlink_to(outside)
    with pytest.raises(Corrupt, match="refs/a"):
        files.put("a/b", b"1", b"m")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("data", [b"data", BIG], ids=["inline", "object"])
def test_linked_files_are_not_followed(files: FileStore, root: Path, data: bytes) -> None:
    """A record or an object replaced by a link is `Corrupt`; a Put replaces the link itself."""
    files.put("a", data, b"m")
    path = object_of(root, data) if data is BIG else root / "refs/a@"
    outside = root.parent / "outside"
    path.rename(outside)
    before = outside.read_bytes()
    path.symlink_to(outside)
    with pytest.raises(Corrupt, match=path.name):
        files.get("a")
    files.put("a", data, b"m")
    assert files.get("a") == (data, b"m")
    assert not path.is_symlink()
    assert outside.read_bytes() == before


@pytest.mark.parametrize("place", ["tmp", "locks"])
def test_linked_work_directories(files: FileStore, root: Path, place: str) -> None:
    """Links in place of the store's own directories keep it from opening."""
    files.put("a", b"1", b"m")
    (root / place).rename(root.parent / "outside")
    (root / place).symlink_to(root.parent / "outside")
    with pytest.raises(Corrupt, match=place):
        FileStore(str(root))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_neither_file_nor_link(files: FileStore, root: Path, make: Callable[[Path], None]) -> None:
    """A FIFO or a directory in a record's place is `Corrupt`, and hangs nobody."""
    make(root / "refs" / "a@")
    with pytest.raises(Corrupt, match="refs/a@"):
        files.get("a")


# Outages.


class Fault:
    """Lets the nth call of one function of `os` fail."""

    def __init__(self, name: str, nth: int, code: int, patch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        patch.setattr(os, name, call)


@pytest.mark.parametrize("data", [b"new", BIG], ids=["inline", "object"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize(
    "name", ["open", "writev", "fsync", "link", "rename", "mkdir", "stat", "fstat"]
)
def test_failing_system_calls(
    root: Path, name: str, code: int, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call of a Put fails, it is `Unavailable`, the ref is whole, and tmp is clean."""
    for nth in itertools.count(1):
        shutil.rmtree(root, ignore_errors=True)
        files = FileStore(str(root))
        files.put("a", b"old", b"m", position=(1, 0))
        files.put("a", data, b"other", position=(2, 0))
        files.put("a", b"old", b"m", position=(3, 0))
        with monkeypatch.context() as patch:
            fault = Fault(name, nth, code, patch)
            with contextlib.suppress(Unavailable):
                files.put("a", data, b"n", position=(4, 0))
                files.put("new/directory", data, b"n")
        assert files.get("a") in ((b"old", b"m"), (data, b"n"))
        assert leftovers(root) == []
        files.put("a", data, b"n", position=(5, 0))
        assert files.get("a") == (data, b"n")
        if fault.calls < nth:
            break


def test_short_writes(files: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that writes a few bytes at a time is served until all is there."""
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [bytes(parts[0][:100])]))
    files.put("a", b"d" * 300, b"m" * 300)
    assert files.get("a") == (b"d" * 300, b"m" * 300)


@pytest.mark.parametrize("how", ["removed", "replaced", "moved", "emptied"])
def test_a_vanished_root_is_no_absence(files: FileStore, root: Path, how: str) -> None:
    """When the root goes away under an open store, nothing is said to be absent."""
    files.put(REF, b"1", b"m")
    if how == "moved":
        root.rename(root.parent / "away")
    elif how == "emptied":
        for path in root.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
    else:
        shutil.rmtree(root)
    if how == "replaced":
        (root.parent / "taken").mkdir()  # so that the inode is another one
        FileStore(str(root)).put("other", b"", b"")
    for ref in (REF, "absent"):
        with pytest.raises(Unavailable, match=str(root)):
            files.get(ref)
        with pytest.raises(Unavailable, match=str(root)):
            files.exists(ref)
        with pytest.raises(Unavailable, match=str(root)):
            files.put(ref, b"2", b"m")
        with pytest.raises(Unavailable, match=str(root)):
            files.versions(ref)
    with pytest.raises(Unavailable, match=str(root)):
        list(files.list())


def test_a_read_only_root(files: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store on a read-only mount opens and reads; only Put is `Unavailable`."""
    files.put(REF, b"1", b"m")
    real = os.open

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse()
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_)
    for name in ("mkdir", "link", "rename", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    reader = FileStore(str(root))
    assert reader.get(REF) == (b"1", b"m")
    assert list(reader.list()) == [REF]
    for ref in (REF, "new/directory"):
        with pytest.raises(Unavailable, match="read-only"):
            reader.put(ref, b"2", b"m")


def test_a_stopped_lock_holder(root: Path) -> None:
    """A lock that another process never lets go of is `Unavailable` after the timeout."""
    files = FileStore(str(root), timeout_s=0.05)
    files.put("a", b"1", b"m", position=(1, 0))
    (lock,) = (root / "locks").iterdir()
    with lock.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="locks"):
            files.put("a", b"2", b"m", position=(2, 0))
        assert files.get("a").data == b"1"
    files.put("a", b"3", b"m")
    assert files.get("a").data == b"3"
    assert leftovers(root) == []


def test_no_descriptor_leaks(files: FileStore, root: Path) -> None:
    """Neither errors, nor abandoned lists, nor dropped stores leave descriptors open."""
    files.put("a/b/c", BIG, b"m")
    gc.collect()
    before = open_below(root)
    for _ in range(5):
        FileStore(str(root)).put("a/b/d", b"1", b"m", position=(1, 0))
        next(files.list())
        assert not files.exists("a/b/c/d")
        with pytest.raises(NotFound):
            files.get("a/b/none")
        list(files.versions("a/b/c"))
        (root / "refs/link").symlink_to(root)
        with pytest.raises(Corrupt):
            files.put("link/x", b"1", b"m")
        (root / "refs/link").unlink()
    gc.collect()
    assert open_below(root) == before


# Opening.


@pytest.mark.parametrize("text", ["artifact-store 2\nhash sha256\n", "artifact-store 1\n", "", "x"])
def test_another_format(root: Path, text: str) -> None:
    """A format this release does not know is refused, with the file's name."""
    root.mkdir()
    (root / "STORE").write_text(text)
    with pytest.raises(ConfigError, match=r"STORE.*release"):
        FileStore(str(root))


def test_a_directory_of_others(root: Path) -> None:
    """A directory with something else in it is refused, and nothing is made in it."""
    root.mkdir()
    (root / "precious").touch()
    with pytest.raises(ConfigError, match="not empty"):
        FileStore(str(root))
    assert [path.name for path in root.iterdir()] == ["precious"]


def test_a_store_without_its_format_file(root: Path, files: FileStore) -> None:
    """A store that lost its format file is not taken for an empty directory."""
    files.put("a", b"1", b"m")
    (root / "STORE").unlink()
    with pytest.raises(ConfigError, match="restore"):
        FileStore(str(root))


def test_a_file_as_root(root: Path) -> None:
    """A file in the root's place is refused."""
    root.touch()
    with pytest.raises(ConfigError, match="no directory"):
        FileStore(str(root))


def test_a_fresh_mount_and_a_killed_creation(root: Path) -> None:
    """A new file system's lost+found, or what a killed creation left, is as good as empty."""
    for name in ("lost+found", "refs", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp" / "left").touch()
    FileStore(str(root)).put("a", b"1", b"m")
    assert FileStore(str(root)).get("a") == (b"1", b"m")


def test_leftovers_are_swept(root: Path, files: FileStore) -> None:
    """What crashed writers left in tmp goes after a day, what is being written stays."""
    files.put("a", b"1", b"m")
    old, new = root / "tmp/old", root / "tmp/new"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    assert FileStore(str(root)).get("a") == (b"1", b"m")
    assert leftovers(root) == ["new"]


def open_and_put(roots: list[str], who: str) -> None:
    for root in roots:
        FileStore(root).put(who, who.encode(), b"m")


def test_several_create_at_once(tmp_path: Path) -> None:
    """Threads and processes that create one store at the same time all succeed."""
    roots = [str(tmp_path / f"deep/er/{i}") for i in range(20)]
    barrier = threading.Barrier(8, timeout=60)

    def create(thread: int) -> None:
        for root in roots:
            barrier.wait()
            open_and_put([root], f"thread {thread}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(8)))
    for root in roots:
        assert len(list(FileStore(root).list())) == 8


def test_processes_create_at_once(tmp_path: Path) -> None:
    """Processes that create stores in the same order meet, and all succeed."""
    roots = [str(tmp_path / f"deep/er/{i}") for i in range(60)]
    with _processes(3) as pool:
        for done in [pool.submit(open_and_put, roots, f"process {i}") for i in range(3)]:
            done.result()
    for root in roots:
        assert len(list(FileStore(root).list())) == 3


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


# Crashes and races.

_CRASHING_WRITER = """
import sys
from store.file import FileStore
from tests.store.harness import open_below
files = FileStore(sys.argv[1])
for i in range(int(sys.argv[2]), 1 << 30):
    data = (b"%d " % i) * (20000 if i % 5 == 0 else 1)
    files.put(f"ref/{i % 3}", data, b"%d" % i, position=(0, i))
    print(i, flush=True)
"""


def test_killed_writers_leave_whole_pairs(root: Path) -> None:
    """However often a writer is killed, every ref has a whole pair, and what was acknowledged."""
    path = ":".join(filter(None, sys.path))
    acknowledged, start = 0, 1
    for seed in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", _CRASHING_WRITER, str(root), str(start)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": path},
        )
        assert writer.stdout
        acknowledged = int(writer.stdout.readline())
        time.sleep(random.Random(seed).uniform(0.01, 0.08))
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        files = FileStore(str(root))
        for ref in files.list():
            data, manifest = files.get(ref)
            assert set(data.split()) == {manifest}
        for i in range(max(start, acknowledged - 2), acknowledged + 1):
            assert int(files.get(f"ref/{i % 3}").manifest) >= i
        start = acknowledged + 1


def race(root: str, seconds: float, seed: int) -> int:
    """Two writers and two readers on one ref; return how often they succeeded."""
    files = FileStore(root)
    deadline = time.monotonic() + seconds

    def write(thread: int) -> int:
        randoms = random.Random(seed * 10 + thread)
        for count in itertools.count():
            if count and time.monotonic() > deadline:
                return count
            number = b"%d " % randoms.randrange(50)
            size = randoms.choice([1, 1000, 40_000])
            position = (0, count) if randoms.random() < 0.5 else None
            files.put(REF, number * size, number, position=position)
        raise AssertionError

    def read(_thread: int) -> int:
        for count in itertools.count():
            if count and time.monotonic() > deadline:
                return count
            data, manifest = files.get(REF)
            assert data == manifest * (len(data) // len(manifest))
            pin: dict[str, Any] = {
                "checksum": checksum_of(data),
                "manifest_checksum": checksum_of(manifest),
            }
            assert files.get(REF, **pin) == (data, manifest)
        raise AssertionError

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(role, i) for role in (write, read) for i in range(2)]
        return min(each.result() for each in counts)


@pytest.mark.timeout(RACE_S + 60)
def test_race(root: Path) -> None:
    """8 writers and 8 readers on one ref, in 4 processes: no torn pair, no gap, no error."""
    FileStore(str(root)).put(REF, b"0 ", b"0 ")
    with _processes(4) as pool:
        runs = [pool.submit(race, str(root), RACE_S, seed) for seed in range(4)]
        assert all(run.result() > 0 for run in runs)
    assert leftovers(root) == []


def test_public_names() -> None:
    """What users import from `store` is there."""
    for name in store.__all__:
        assert hasattr(store, name)


# The identity.


@pytest.mark.parametrize("there", ["", "below", "empty"])
def test_a_reader_makes_no_store(tmp_path: Path, there: str) -> None:
    """Not to be created, one that is not there is refused, with its path, and still not there."""
    (tmp_path / "empty").mkdir()
    place = tmp_path / (there or "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=f"no store at {place}: name the right one"):
        store.open_url(place.as_uri(), create=False)
    assert sorted(tmp_path.rglob("*")) == before
    store.open_url(place.as_uri()).put(REF, b"data", b"m")
    assert store.open_url(place.as_uri(), create=False).get(REF) == (b"data", b"m")


def test_a_store_of_an_older_release_gets_an_identity_once(root: Path) -> None:
    """Who opens it first makes it, in a file of its own; STORE stays what older releases read."""
    FileStore(str(root))
    (root / "IDENTITY").unlink()
    with ThreadPoolExecutor(8) as pool:
        told = set(pool.map(lambda _: FileStore(str(root)).identity, range(8)))
    assert told == {(root / "IDENTITY").read_text().rstrip()}
    assert (root / "STORE").read_text() == "artifact-store 1\nhash sha256\n"
    assert leftovers(root) == []


def test_an_identity_that_may_not_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not there and cannot be made there is none, and everything else continues."""
    FileStore(str(root)).put(REF, b"data", b"m")
    (root / "IDENTITY").unlink()

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    opened = FileStore(str(root))
    monkeypatch.setattr(os, "link", refused)
    assert opened.identity is None
    assert opened.get(REF) == (b"data", b"m")


@pytest.mark.parametrize("content", [b"", b"x", b"g" * 32 + b"\n", b"a" * 33 + b"\n"])
def test_a_damaged_identity(root: Path, content: bytes) -> None:
    """What is no identity is told as damage, with the path: no other is made in its place."""
    opened = FileStore(str(root))
    (root / "IDENTITY").write_bytes(content)
    with pytest.raises(Corrupt, match="IDENTITY"):
        _ = opened.identity
    assert (root / "IDENTITY").read_bytes() == content


def test_a_copy_has_the_identity_of_its_original(root: Path, tmp_path: Path) -> None:
    """Moving a store, or restoring it from a backup, keeps what its fleet knows it by."""
    before = FileStore(str(root)).identity
    shutil.copytree(root, tmp_path / "copy")
    assert FileStore(str(tmp_path / "copy")).identity == before
    assert FileStore(str(tmp_path / "copy")).location != FileStore(str(root)).location
