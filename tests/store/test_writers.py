"""Writers that fork, that are stopped, whose clock goes back, and that are other users."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import store.object.layout
import store.record
from store import Corrupt, Retention, Unavailable, VersionedStore, checksum_of
from store.chassis.backend import ChassisStore
from store.file import FileStore
from store.object.layout import new_nonce, version_key
from store.record import Record, describe, header_of, parse

REF: Final = "stacks/t_1/web/42"
BIG: Final = b"b" * 100_000
PATIENCE_S: Final = 60.0


def child(script: str, *args: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start Python on a script; its standard streams are pipes.

    From 3.12 on Python warns of a fork beside threads: that is what these scripts are about.
    """
    pipe = subprocess.PIPE
    quiet = ("-W", "ignore::DeprecationWarning")
    return subprocess.Popen(
        [sys.executable, *quiet, "-c", script, *map(str, args)],
        stdin=pipe, stdout=pipe, stderr=pipe, **options,
    )  # fmt: skip


def wait_until(is_so: Callable[[], object]) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Fork.

LOCKED: Final = """
import os, sys
from store.file import FileStore
from store.chassis.backend import ChassisStore, place_of
import contextlib, fcntl
root, kind = sys.argv[1:]
os.makedirs(root, exist_ok=True)
opened = {"file": FileStore, "chassis": ChassisStore}[kind](root, timeout_s=20)
opened.put("a", b"1", b"m")
with contextlib.ExitStack() as held:
    if kind == "file":
        for number in range(64):
            held.enter_context(opened._tree.locked(f"{number:02x}"))
    else:
        opened._lock(place_of("a"), fcntl.LOCK_EX, held)
    theirs, ours = os.pipe()
    if os.fork() == 0:  # it lives on, with what it has inherited, until the parent is done
        os.close(ours)
        os._exit(len(os.read(theirs, 1)))
opened.put("a", b"2", b"m")
other = os.fork()
if other == 0:
    opened.put("a", b"3", b"m")
    os._exit(0)
os.waitpid(other, 0)
print(opened.get("a").data, flush=True)
"""
OTHERS: Final = """
import os, sys
import store
opened = store.open_url(sys.argv[1])
opened.put("a", b"1", b"m")
if sys.argv[1] == "memory:":
    opened._lock.__enter__()  # as another thread may have, when it is forked
if os.fork() == 0:
    try:
        opened.put("a", b"2", b"m")
    except store.ConfigError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
if sys.argv[1] != "memory:":
    print(opened.get("a").data, flush=True)
"""


@pytest.mark.parametrize("kind", ["file", "chassis"])
def test_a_fork_keeps_no_lock(kind: str, tmp_path: Path) -> None:
    """A child forked in the middle of a put holds nobody up, and can use the store itself."""
    with child(LOCKED, tmp_path / "root", kind) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (out, err) == (b"b'3'\n", b"")


INSIDE: Final = """
import os, sys
from store.file import FileStore
opened = FileStore(sys.argv[1], timeout_s=20)
with opened._tree.locked("00"):
    child = os.fork()
    if child == 0:
        own = os.open("/dev/null", os.O_RDONLY)
if child == 0:
    os.fstat(own)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_child_forked_inside_a_lock_keeps_its_files(tmp_path: Path) -> None:
    """Leaving the block closes nothing that the child has opened since."""
    with child(INSIDE, tmp_path / "root") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (out, err) == (b"7\n", b"")


@pytest.mark.parametrize("kind", ["memory", "object"])
def test_what_no_child_can_use_is_refused_at_once(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """A child that was forked is told to open a store of its own, and the parent's works on."""
    url = "memory:"
    if kind == "object":
        url = f"s3://{request.getfixturevalue('s3').new_bucket()}/fleet"
    with child(OTHERS, url) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert out.startswith(b"this store was opened by process")
    assert out.endswith(b"b'1'\n" if kind == "object" else b"after the fork\n")
    assert err == b""


# Temporary files.

PUT: Final = """
import sys
from store.file import FileStore
from store.chassis.backend import ChassisStore
root, kind = sys.argv[1:]
{"file": FileStore, "chassis": ChassisStore}[kind](root).put_from("a", sys.stdin.buffer, b"m")
"""
OPENERS: Final[dict[str, Callable[[str], object]]] = {"file": FileStore, "chassis": ChassisStore}


@pytest.mark.parametrize("kind", OPENERS)
def test_a_dead_writer_leaves_nothing_for_long(kind: str, tmp_path: Path) -> None:
    """What a killed writer wrote goes when the store is opened next; a living one's stays."""
    OPENERS[kind](str(tmp_path))
    tmp = tmp_path / ("tmp" if kind == "file" else "@sidecar/tmp")
    with child(PUT, tmp_path, kind) as process:
        assert process.stdin
        process.stdin.write(BIG)
        process.stdin.flush()
        wait_until(lambda: tmp.is_dir() and any(path.stat().st_size for path in tmp.iterdir()))
        written = set(tmp.iterdir())
        OPENERS[kind](str(tmp_path))
        assert set(tmp.iterdir()) == written
        process.kill()
        process.wait(PATIENCE_S)
    OPENERS[kind](str(tmp_path))
    assert not any(tmp.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_put_cleans_up(number: signal.Signals, tmp_path: Path) -> None:
    """`sidecar store put` that is told to stop takes its temporary file along, and dies of that."""
    FileStore(str(tmp_path))
    script = "from sidecar.__main__ import main; main()"
    how = ("store", "put", "a", "--data", "-", "--store", tmp_path.as_uri())
    with child(script, *how) as process:
        assert process.stdin
        process.stdin.write(BIG)
        process.stdin.flush()
        wait_until(lambda: any(one.stat().st_size for one in (tmp_path / "tmp").iterdir()))
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == -number
        assert process.stderr
        assert process.stderr.read() == b""
    assert not any((tmp_path / "tmp").iterdir())


# A clock that goes back.


class Clock(datetime):
    """Stands an hour earlier each time it is asked."""

    at = datetime(2026, 11, 30, 12, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return the time."""
        Clock.at -= timedelta(hours=1)
        return Clock.at.astimezone(tz)


@pytest.fixture(params=["file", "memory", "object"])
def back(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> VersionedStore:
    """A store whose writers' clock goes back between any two puts."""
    url = {"file": tmp_path.as_uri(), "memory": "memory:"}.get(request.param)
    if url is None:
        url = f"s3://{request.getfixturevalue('s3').new_bucket()}/fleet"
    opened = store.versioned(store.open_url(url))
    assert opened
    monkeypatch.setattr(store.record, "datetime", Clock)
    monkeypatch.setattr(store.object.layout, "datetime", Clock)
    return opened


@pytest.mark.parametrize("data", [b"data", BIG], ids=["inline", "object"])
def test_the_newest_is_the_one_put_last(back: VersionedStore, data: bytes) -> None:
    """Which manifest a checksum means, and in which order versions are, goes by the puts."""
    for number in range(4):
        back.put(REF, data, b"m%d" % number)
    back.put(REF, b"other", b"m")
    assert back.get(REF, checksum=checksum_of(data)) == (data, b"m3")
    manifests = [each.manifest_checksum for each in back.versions(REF)][1:]
    assert manifests == [checksum_of(b"m%d" % number) for number in (3, 2, 1, 0)]


def test_what_moves_no_ref_has_its_place_too(back: VersionedStore) -> None:
    """A version of an earlier position comes after what was put before, and before what follows."""
    for number in (5, 4, 6):
        back.put(REF, b"%d" % number, b"m", position=(number, 0))
    found = [each.checksum for each in back.versions(REF)]
    assert found == [checksum_of(data) for data in (b"6", b"4", b"5")]


def test_the_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep_last those stay that were put last, whatever the clock said."""
    monkeypatch.setattr(store.record, "datetime", Clock)
    files = FileStore(str(tmp_path))
    for data in (b"1", b"2", b"3", b"4"):
        files.put(REF, data, b"m")
    list(files.collect(Retention(grace_s=0, keep_last=3), tuple))
    found = [each.checksum for each in files.versions(REF)]
    assert found == [checksum_of(data) for data in (b"4", b"3", b"2")]


def test_a_newer_release_is_told_from_damage(tmp_path: Path) -> None:
    """A whole header that this release does not know is neither read, moved aside nor replaced.

    Verification tells of it, and of what else is wrong; collection takes it for in use.
    """
    files = FileStore(str(tmp_path))
    for data in (BIG, b"data"):
        files.put(REF, data, b"m")
    for ref in ("a", "z"):
        files.put(ref, b"data", b"m")
        (tmp_path / f"refs/{ref}@").write_bytes(b"damaged")
    current = tmp_path / f"refs/{REF}@"
    newer = with_line(describe(REF, "0" * 64, 1, b"m", None), b"record 1", b"record 2")
    current.unlink()
    current.write_bytes(newer)
    for attempt in (lambda: files.get(REF), lambda: files.put(REF, b"2", b"m")):
        with pytest.raises(Unavailable, match="newer release"):
            attempt()
    told = {each.where: each for each in files.verify(quarantine=True) if each.error}
    assert told.keys() == {str(tmp_path / f"refs/{name}@") for name in (REF, "a", "z")}
    assert told[str(current)].quarantined is None
    assert list(files.collect(Retention(grace_s=0), tuple)) == []
    assert current.read_bytes() == newer


def test_a_newer_record_in_a_bucket_is_told(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification names it and continues; collection takes it for in use."""
    s3 = request.getfixturevalue("s3")
    bucket = s3.new_bucket()
    opened = store.versioned(store.open_url(f"s3://{bucket}/fleet"))
    assert opened
    for ref, data in ((REF, b"1"), (REF, b"2"), ("z", b"3")):
        opened.put(ref, data, b"m")
    key = f"fleet/refs/{REF}@"
    newer = with_line(describe(REF, "0" * 64, 1, b"m", None), b"record 1", b"record 2")
    s3.write(bucket, key, s3.read(bucket, key)[:39] + newer)
    s3.write(bucket, "fleet/refs/z@", b"damaged")
    told = {each.where: each for each in opened.verify(quarantine=True) if each.error}
    assert len(told) == 2
    assert [each.quarantined for where, each in told.items() if where.endswith(key)] == [None]
    monkeypatch.setattr(opened, "_shortest_grace_s", 0.0)
    assert list(opened.collect(Retention(grace_s=0), tuple)) == []


def with_line(record: Record, old: bytes, new: bytes) -> bytes:
    """Return a record's header with something else in it, and with a checksum that is right."""
    lines, _, _ = header_of(record).replace(old, new).rpartition(b"header ")
    return lines + b"header %b\n\n" % checksum_of(lines).encode()


@pytest.mark.parametrize(
    "time", [b"9999-99-99T99:99:99.999999+00:00", b"2026-11-30T12:00:00.0000000+1:00"]
)
def test_a_time_that_is_none_is_damage(tmp_path: Path, time: bytes) -> None:
    """Such a record is told as damaged, by every way to it, and healed by a put."""
    files = FileStore(str(tmp_path))
    files.put(REF, b"data", b"m")
    current = tmp_path / f"refs/{REF}@"
    record = parse(current.read_bytes(), "")[0]
    current.write_bytes(with_line(record, record.stored.encode(), time) + b"mdata")
    for attempt in (lambda: files.get(REF), lambda: files.versions(REF)):
        with pytest.raises(Corrupt, match="damaged"):
            attempt()
    files.put(REF, b"data", b"m")
    assert files.get(REF) == (b"data", b"m")
    assert len(list(files.versions(REF))) == 1


@pytest.mark.parametrize("stored", ["9999-12-31T23:59:59.999999", "9999-12-31T23:59:59.999997"])
def test_a_put_after_the_end_of_time_is_read(tmp_path: Path, stored: str) -> None:
    """Whatever time a planted record says, what is put next can be read."""
    files = FileStore(str(tmp_path))
    files.put(REF, b"1", b"m")
    current = tmp_path / f"refs/{REF}@"
    record = parse(current.read_bytes(), "")[0]
    current.write_bytes(header_of(record._replace(stored=f"{stored}+00:00")) + b"m1")
    for data in (b"2", b"3"):
        files.put(REF, data, b"m")
        assert files.get(REF, checksum=checksum_of(data)).data == data
    assert len(list(files.versions(REF))) == 3


def test_a_nonce_is_never_longer_than_a_nonce() -> None:
    """After the highest there can be, a version is still seen."""
    nonce = new_nonce("2026-11-30T12:00:00.000000+00:00", "f" * 32, 2)
    assert version_key(f"versions/a@/{'0' * 64}/{'0' * 64}/{nonce}")


def test_the_time_of_a_put_is_its_own_where_the_clock_rises() -> None:
    """It is moved, by a microsecond, only where the clock alone would mislead, and read back."""
    record = describe(REF, "0" * 64, 1, b"m", (1, 2))
    assert record.after(record.order[0] - 1, moves=True) is record
    moved = record.after(record.order[0], moves=True)
    assert moved == record._replace(stored=moved.stored)
    assert moved.order[0] == record.order[0] + 2
    assert parse(header_of(moved), "")[0] == moved
    assert moved.order > record.after(record.order[0], moves=False).order > record.order


# Other users.


def test_damage_that_cannot_be_linked_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's damaged object or record, which Linux lets nobody link, is copied aside."""
    files = FileStore(str(tmp_path))
    files.put(REF, BIG, b"m")
    files.put("small", b"data", b"m")
    (data,) = tmp_path.glob("objects/sha256/*/*")
    data.chmod(0o644)
    data.write_bytes(BIG[:-1] + b"!")
    (tmp_path / "refs/small@").write_bytes(b"damaged")
    real = os.link

    def link(source: str, target: str, **how: Any) -> None:
        if how["src_dir_fd"] != files._tree.tmp_fd:
            raise PermissionError(errno.EPERM, "protected_hardlinks")
        real(source, target, **how)

    monkeypatch.setattr(os, "link", link)
    assert [each.where for each in files.verify("small", quarantine=True) if each.quarantined]
    files.put(REF, BIG, b"m")
    files.put("small", b"data", b"m")
    assert files.get(REF) == (BIG, b"m")
    assert files.get("small") == (b"data", b"m")
    kept = {path.read_bytes() for path in (tmp_path / "quarantine").iterdir()}
    assert kept == {b"damaged", BIG[:-1] + b"!"}
    assert not any((tmp_path / "tmp").iterdir())


def test_a_copy_without_its_empty_directories_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that hold nothing of anybody's are made again, and are its owner's.

    Others are named, with the fix.
    """
    files = FileStore(str(tmp_path))
    files.put(REF, b"data", b"m")
    for name in ("tmp", "quarantine", "objects"):
        (tmp_path / name).rmdir()
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "chown", lambda *how, **_: given.append(how))
    owner = os.stat(tmp_path / "refs")
    again = FileStore(str(tmp_path))
    again.put(REF, b"2", b"m")
    assert again.get(REF) == (b"2", b"m")
    with pytest.raises(Unavailable, match=r"objects is missing from the store.*mkdir"):
        again.put(REF, BIG, b"m")
    assert given == [(name, owner.st_uid, owner.st_gid) for name in ("quarantine", "tmp")]


def test_locks_are_never_made_anew(tmp_path: Path) -> None:
    """They are asked for by name: two processes with two directories of them share no lock."""
    files = FileStore(str(tmp_path))
    (tmp_path / "locks").rename(tmp_path / ".moved")
    with pytest.raises(Unavailable, match=r"locks is missing from the store.*mkdir"):
        FileStore(str(tmp_path))
    (tmp_path / ".moved").rename(tmp_path / "locks")
    files.put(REF, b"data", b"m")


def test_a_root_of_any_bytes(tmp_path: Path) -> None:
    """A root whose name is no text is written, verified and healed as another is."""
    root = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    files = FileStore(root)
    files.put(REF, b"data", b"m")
    Path(root, f"refs/{REF}@").write_bytes(b"damaged")
    (found,) = (each for each in files.verify(quarantine=True) if each.error)
    assert found.quarantined
    with pytest.raises(store.Corrupt) as caught:
        files.get(REF)
    assert found.quarantined in str(caught.value)


@pytest.mark.parametrize(
    "number", [errno.EMLINK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EUCLEAN]
)
def test_each_refusal_has_a_fix_of_its_own(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file system cannot do is not "try again"."""
    files = FileStore(str(tmp_path))

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unavailable) as caught:
        files.put(REF, b"data", b"m")
    assert os.strerror(number) in str(caught.value)
    assert "try again" not in str(caught.value)
