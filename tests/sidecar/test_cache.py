"""The cache of artifacts: its directory attacked, its store counted."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import resource
import signal
import stat
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

import store
from sidecar.errors import UsageError
from sidecar.feed import Cache, CacheFigures, cachedir
from sidecar.feed.kept import Pinned
from store import ArtifactReader, VersionedStore
from store.file.backend import FileStore
from store.memory import MemoryStore
from store.testing.wrappers import Wrapper
from tests.faults.disk import full, no_small_disk, small_disk
from tests.sidecar.harness import eventually

T = TypeVar("T")
LARGE: Final = 1 << 30
NOBODY: Final = 65534
MIB: Final = 1 << 20


class Fleet(Wrapper):
    """The fleet's store, which counts how often it was asked, and may be held up."""

    def __init__(self, inner: VersionedStore | None = None) -> None:
        super().__init__(inner or MemoryStore())
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def around(self, operation: Callable[[], T]) -> T:
        """Count a read once it is answered."""
        self.asked += 1
        self.may_answer.wait()
        return operation()

    def artifact(self, ref: str, data: bytes | None = None, manifest: bytes = b"{}") -> Pinned:
        """Put an artifact; return what pins it."""
        data = f"data of {ref}".encode() if data is None else data
        self.inner.put(ref, data, manifest)
        return Pinned(ref, store.checksum_of(data), store.checksum_of(manifest))

    def fetch(self, pin: Pinned) -> Callable[[], ArtifactReader]:
        """Return what opens the artifact here."""
        pinned: Any = {"checksum": pin.checksum, "manifest_checksum": pin.manifest_checksum}
        return lambda: self.open(pin.ref, **pinned)


@pytest.fixture
def fleet() -> Fleet:
    """A store with nothing in it."""
    return Fleet()


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """Where the cache is; nothing is there yet."""
    return tmp_path / "cache"


def whole(cache: Cache, fleet: Fleet, pin: Pinned) -> bytes:
    """Get an artifact as `Feed.resolve` does."""
    return (cache.find(pin) or cache.get(pin, fleet.fetch(pin))).data


def streamed(cache: Cache, fleet: Fleet, pin: Pinned) -> bytes:
    """Get an artifact as `Feed.open` does."""
    with cache.find_reader(pin) or cache.open(pin, fleet.fetch(pin)) as reader:
        return b"".join(iter(lambda: reader.read(1000), b""))


BOTH: Final = pytest.mark.parametrize("get", [whole, streamed])
Get = Callable[[Cache, Fleet, Pinned], bytes]


def file_of(where: Path, pin: Pinned) -> Path:
    """Return the file of an artifact."""
    return where / "kept" / pin.name


def left_in(where: Path) -> set[str]:
    """Return what lies in the cache, but its count."""
    return {path.name for path in where.glob("*/*")}


# --- once -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", [0, 9, 3 * MIB])
def test_an_artifact_is_fetched_once(fleet: Fleet, where: Path, get: Get, size: int) -> None:
    """The second who asks, in a process or after it, gets the same bytes without the store."""
    pin = fleet.artifact("a", os.urandom(size), b"manifest")
    cache = Cache(where, LARGE)
    assert {store.checksum_of(get(cache, fleet, pin)) for _ in range(3)} == {pin.checksum}
    again = Cache(str(where), LARGE)
    assert store.checksum_of(get(again, fleet, pin)) == pin.checksum
    assert again.find(pin) == (fleet.inner.get("a").data, b"manifest")
    assert fleet.asked == 1
    assert cache.figures() == CacheFigures(hits=2, misses=1)
    assert (again.figures().hits, again.figures().hit_rate) == (2, 1.0)


def test_what_is_asked_for_is_all_of_the_key(fleet: Fleet, where: Path) -> None:
    """Another ref, other data or another manifest is another artifact, though the rest is equal."""
    cache = Cache(where, LARGE)
    pins = [fleet.artifact("a", b"1", b"m"), fleet.artifact("a", b"1", b"n"),
            fleet.artifact("a", b"2", b"m"), fleet.artifact("b", b"1", b"m")]  # fmt: skip
    for pin in pins:
        assert cache.find(pin) is None
        whole(cache, fleet, pin)
    assert [whole(cache, fleet, pin) for pin in pins] == [b"1", b"1", b"2", b"1"]
    assert fleet.asked == len(pins)
    assert cache.find(pins[3]._replace(ref="c")) is None


def test_threads_that_want_the_same_wait_for_one_of_them(fleet: Fleet, where: Path) -> None:
    """Sixteen threads ask at once, and the store is read once."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    fleet.may_answer.clear()
    with ThreadPoolExecutor(16) as pool:
        found = [pool.submit(whole, cache, fleet, pin) for _ in range(16)]
        eventually(lambda: fleet.asked, "one asks the store")
        fleet.may_answer.set()
        assert {one.result() for one in found} == {b"data of a"}
    assert fleet.asked == 1
    figures = cache.figures()
    assert (figures.hits, figures.misses, figures.bypassed) == (15, 1, 0)
    assert figures.hit_rate == 15 / 16


@contextmanager
def forked(do: Callable[[], object]) -> Iterator[int]:
    """Run a process that does something; yield its ID. It is killed unless it has ended."""
    with warnings.catch_warnings():
        # From 3.12 on Python warns of a fork beside threads; the child uses none of the parent's.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def shared(tmp_path: Path) -> Fleet:
    """Return a store that forked children may read, too."""
    return Fleet(FileStore(str(tmp_path / "fleet")))


def test_processes_that_want_the_same_wait_for_one_of_them(where: Path, tmp_path: Path) -> None:
    """Four processes begin at once with a hundred artifacts, and each is fetched once."""
    fleet, refs = shared(tmp_path), [f"stacks/t_1/{number}" for number in range(100)]
    pins = [fleet.artifact(ref) for ref in refs]
    begin, begun = os.pipe()

    def controller() -> None:
        cache, count = Cache(where, LARGE), tmp_path.joinpath("asked").open("a", buffering=1)
        os.read(begin, 1)
        for pin in pins:
            asked = fleet.asked
            assert whole(cache, fleet, pin) == f"data of {pin.ref}".encode()
            count.write(f"{pin.ref}\n" * (fleet.asked - asked))

    with ExitStack() as stack:
        controllers = [stack.enter_context(forked(controller)) for _ in range(4)]
        os.write(begun, b"!" * 4)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in controllers] == [0] * 4
    for fd in (begin, begun):
        os.close(fd)
    assert sorted((tmp_path / "asked").read_text().split()) == sorted(refs)


def test_what_another_fetches_is_not_waited_for_to_prefetch_it(fleet: Fleet, where: Path) -> None:
    """Nobody has asked for it yet, and it comes."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    fleet.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(whole, cache, fleet, pin)
        eventually(lambda: fleet.asked, "one asks the store")
        cache.prefetch(pin, fleet.fetch(pin))
        fleet.may_answer.set()
        assert other.result() == b"data of a"
    assert cache.figures() == CacheFigures(misses=1)


# --- files that are not what was kept ---------------------------------------------------------


def flipped(at: int) -> Callable[[Path], None]:
    """Return what flips one bit of a file."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return flip


def cut(to: int) -> Callable[[Path], None]:
    """Return what cuts a file, or makes it longer."""
    return lambda path: os.truncate(path, path.stat().st_size + to if to < 0 else to)


def linked(path: Path) -> None:
    """Put a link to the same bytes in a file's place."""
    os.symlink(path.rename(path.with_name("elsewhere")), path)


def fifo(path: Path) -> None:
    """Put a FIFO in a file's place, which nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def claims(path: Path) -> None:
    """Have the header claim a manifest as large as no memory."""
    content = path.read_bytes()
    at = content.index(b"0" * 19)
    path.write_bytes(content[:at] + b"9" * 19 + content[at + 19 :])


def from_elsewhere(path: Path) -> None:
    """Put another artifact's file there."""
    path.write_bytes(next(p for p in path.parent.iterdir() if p != path).read_bytes())


DAMAGE: Final[dict[str, Callable[[Path], None]]] = {
    "format": flipped(0), "ref": flipped(17), "size of the manifest": flipped(-30),
    "end of the header": flipped(-15),
    "manifest": flipped(-12), "data": flipped(-1), "half": cut(100), "cut by one": cut(-1),
    "empty": cut(0), "grown": cut(4096), "a link": linked, "a FIFO": fifo, "claims": claims,
    "another's": from_elsewhere,
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_fetched_again(
    fleet: Fleet, where: Path, get: Get, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is in a file's place, its readers get what was pinned, and it is right after."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a", b"d" * 10, b"mani")
    other = fleet.artifact("b")
    for one in (pin, other):
        get(cache, fleet, one)
    DAMAGE[damage](file_of(where, pin))
    assert get(cache, fleet, pin) == get(cache, fleet, pin) == b"d" * 10
    assert fleet.asked == 3
    assert cache.figures().damaged == 1
    assert "had a damaged file, and fetches it again" in caplog.text
    assert get(cache, fleet, other) == b"data of b"


def test_a_file_larger_than_memory_is_not_read(fleet: Fleet, where: Path) -> None:
    """A file of holes, of 8 TiB, takes no memory like that."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    whole(cache, fleet, pin)
    path = file_of(where, pin)
    size = path.stat().st_size
    os.truncate(path, 1 << 43)
    assert whole(cache, fleet, pin) == b"data of a"
    assert path.stat().st_size == size
    assert cache.figures().damaged == 1


def test_a_directory_in_a_files_place(fleet: Fleet, where: Path) -> None:
    """What cannot be removed is passed by: the store has it."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    file_of(where, pin).mkdir()
    assert whole(cache, fleet, pin) == streamed(cache, fleet, pin) == b"data of a"
    assert cache.figures().hits == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_of_another_user_is_worth_what_is_in_it(
    fleet: Fleet, where: Path, mode: int
) -> None:
    """One that cannot be read is fetched again; one that can is verified like any."""
    pin = fleet.artifact("a")
    whole(Cache(where, LARGE), fleet, pin)
    os.chmod(file_of(where, pin), mode)
    with as_nobody(where):
        cache = Cache(where, LARGE)
        assert whole(cache, fleet, pin) == b"data of a"
        assert whole(cache, fleet, pin) == b"data of a"
    assert fleet.asked == (2 if mode == 0o600 else 1)


@contextmanager
def as_nobody(where: Path) -> Iterator[None]:
    """Own the directories of the cache as another user, and be that for the block."""
    above = [p for p in where.parents if p.stat().st_mode & 0o077 == 0]
    for path in [where, where / "kept", where / "coming"]:
        os.chown(path, NOBODY, NOBODY)
    for path in above:
        path.chmod(0o711)
    os.remove(where / "used")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for path in above:
            path.chmod(0o700)


def test_a_file_that_changes_while_it_is_read(fleet: Fleet, where: Path) -> None:
    """What is verified when it is opened is verified again as it is read."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a", os.urandom(2 * MIB))
    streamed(cache, fleet, pin)
    found = cache.find_reader(pin)
    assert found
    with found as reader:
        flipped(-1)(file_of(where, pin))
        with pytest.raises(store.Corrupt, match="fails its checksum"):
            reader.readall()


# --- stores that fail, fetchers that die ------------------------------------------------------


@BOTH
def test_what_the_store_raises_comes_through(fleet: Fleet, where: Path, get: Get) -> None:
    """An absent artifact is absent, nothing of it is left, and a later try brings it."""
    cache = Cache(where, LARGE)
    pin = Pinned("a", store.checksum_of(b"1"), store.checksum_of(b"m"))
    with pytest.raises(store.NotFound):
        get(cache, fleet, pin)
    assert left_in(where) == set()
    assert get(cache, fleet, fleet.artifact("a", b"1", b"m")) == b"1"


class Torn(ArtifactReader):
    """A reader of which the network breaks in the middle."""

    def read(self, size: int = -1, /) -> bytes:
        """Raise once some were read."""
        if self._left < self.size_bytes:
            raise store.Unavailable("the network broke")
        return super().read(min(size, 10))


def reader_of(data: bytes, kind: type[ArtifactReader] = ArtifactReader) -> ArtifactReader:
    """Return a reader that verifies nothing."""
    return kind(io.BytesIO(data), checksum=None, size_bytes=len(data), manifest=b"{}", where="a")


@BOTH
def test_a_store_that_breaks_in_the_middle(fleet: Fleet, where: Path, get: Get) -> None:
    """Half an artifact is never kept."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a", b"x" * 100)
    with pytest.raises(store.Unavailable):
        cache.get(pin, lambda: reader_of(b"x" * 100, Torn))
    assert left_in(where) == set()
    assert get(cache, fleet, pin) == b"x" * 100


@pytest.mark.parametrize("part", ["data", "manifest"])
def test_a_store_that_has_other_bytes(fleet: Fleet, where: Path, part: str) -> None:
    """What is not what was pinned is neither kept nor returned, whatever the store verifies."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a", b"right")
    if part == "manifest":
        pin = pin._replace(manifest_checksum=store.checksum_of(b"another"))
    with pytest.raises(store.Corrupt, match="other bytes at a than are pinned"):
        cache.get(pin, lambda: reader_of(b"wrong" if part == "data" else b"right"))
    assert left_in(where) == set()


@contextmanager
def fetching(where: Path, pin: Pinned) -> Iterator[int]:
    """Run a process that is in the middle of fetching an artifact; yield its ID."""
    said, says = os.pipe()

    class Slow(ArtifactReader):
        def read(self, size: int = -1, /) -> bytes:
            if self._left < self.size_bytes:
                os.write(says, b"!")
                signal.pause()
            return super().read(min(size, 10))

    cache = Cache(where, LARGE)
    with forked(lambda: cache.get(pin, lambda: reader_of(b"x" * 100, Slow))) as pid:
        os.read(said, 1)
        os.close(said)
        os.close(says)
        yield pid


def test_a_process_that_is_killed_in_the_middle(fleet: Fleet, where: Path) -> None:
    """Who waits for it fetches the artifact then; what it left of another goes at the next open."""
    pins = [fleet.artifact(ref, b"x" * 100) for ref in "ab"]
    cache = Cache(where, LARGE)
    with fetching(where, pins[0]) as one, fetching(where, pins[1]) as other:
        assert len(left_in(where)) == 2
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(whole, cache, fleet, pins[0])
            os.kill(one, signal.SIGKILL)
            assert waiting.result() == b"x" * 100
        Cache(where, LARGE)
        assert left_in(where) == {pins[0].name, f"{pins[1].name}.held"}  # the other lives
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    Cache(where, LARGE)
    assert left_in(where) == {pins[0].name}
    assert whole(cache, fleet, pins[0]) == b"x" * 100


def test_a_process_that_is_stopped_in_the_middle(
    fleet: Fleet, where: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits for one that makes no progress goes to the store in the end."""
    pin = fleet.artifact("a", b"x" * 100)
    cache = Cache(where, LARGE)
    monkeypatch.setattr(cachedir, "PATIENCE_S", 0.05)
    with fetching(where, pin) as process:
        os.kill(process, signal.SIGSTOP)
        assert whole(cache, fleet, pin) == b"x" * 100
    assert cache.figures() == CacheFigures(misses=1, bypassed=1)
    assert "held by another that writes nothing: is it stopped?" in caplog.text
    assert whole(cache, fleet, pin) == b"x" * 100
    assert left_in(where) == {pin.name}


def test_a_child_that_is_forked_in_the_middle(fleet: Fleet, where: Path) -> None:
    """A child that inherited the lock of a fetch, and lives on, holds nobody up."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    with ExitStack() as stack:

        def fetch() -> ArtifactReader:
            stack.enter_context(forked(signal.pause))
            raise store.Unavailable("not now")

        with pytest.raises(store.Unavailable):
            cache.get(pin, fetch)
        assert whole(cache, fleet, pin) == b"data of a"
        assert cache.figures() == CacheFigures(misses=1)


@pytest.mark.parametrize("has_child", [False, True])
def test_who_waits_for_a_fetch_that_fails(fleet: Fleet, where: Path, has_child: bool) -> None:
    """The next in turn fetches it, and keeps it; also where a child holds the lock of the first."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    may_fail = threading.Event()

    def fails() -> ArtifactReader:
        if has_child:
            stack.enter_context(forked(signal.pause))
        may_fail.wait()
        raise store.Unavailable("not now")

    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, pin, fails)
        eventually(lambda: opened(pin) == 1, "the first fetches")
        second = pool.submit(whole, cache, fleet, pin)
        eventually(lambda: opened(pin) == 2, "the second waits")
        may_fail.set()
        with pytest.raises(store.Unavailable):
            first.result()
        assert second.result() == b"data of a"
    assert cache.figures() == CacheFigures(misses=1)
    assert left_in(where) == {pin.name}


def opened(pin: Pinned) -> int:
    """Return how often this process has the place of an artifact open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(pin.name in link for link in links)


def test_a_child_that_is_forked_while_files_are_counted(
    fleet: Fleet, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that inherited the lock of the count holds nobody up either."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    monkeypatch.setattr(cachedir, "PATIENCE_S", 0.05)
    root_fd = os.open(where, os.O_RDONLY)
    with ExitStack() as stack:
        with cache._directory._used(root_fd):
            stack.enter_context(forked(signal.pause))
        whole(cache, fleet, pin)
    os.close(root_fd)
    assert cache.figures() == CacheFigures(misses=1)


def test_a_process_that_is_stopped_while_it_counts(
    fleet: Fleet, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be kept then: who found that out does not wait for it at each artifact."""
    cache, pins = Cache(where, LARGE), [fleet.artifact(ref) for ref in "ab"]
    held = os.open(where / "used", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(cachedir, "PATIENCE_S", 0.05)
    assert whole(cache, fleet, pins[0]) == b"data of a"
    monkeypatch.setattr(cachedir, "PATIENCE_S", 3600.0)
    assert whole(cache, fleet, pins[1]) == b"data of b"
    os.close(held)
    assert cache.figures() == CacheFigures(misses=2, bypassed=2)


# --- how much is kept -------------------------------------------------------------------------


def filled(cache: Cache, fleet: Fleet, count: int) -> list[Pinned]:
    """Keep artifacts of 8 KiB, each used a second after the one before, the last just now."""
    pins = [fleet.artifact(f"{number}", bytes(6000)) for number in range(count)]
    for back, pin in enumerate(reversed(pins)):
        whole(cache, fleet, pin)
        os.utime(file_of(where_of(cache), pin), (0, time.time() - 1000 - back))
    return pins


def where_of(cache: Cache) -> Path:
    """Return its directory."""
    return cache._directory.path


def kept(where: Path, pins: list[Pinned]) -> list[int]:
    """Return which of them are there."""
    return [number for number, pin in enumerate(pins) if file_of(where, pin).exists()]


def test_what_was_used_least_lately_goes(fleet: Fleet, where: Path) -> None:
    """A cache that is full makes room to nine tenths, and keeps what was used."""
    cache = Cache(where, 20 * 8192)
    pins = filled(cache, fleet, 20)
    assert kept(where, pins) == [*range(20)]
    assert whole(cache, fleet, pins[0]) == streamed(cache, fleet, pins[1]) == bytes(6000)
    whole(cache, fleet, fleet.artifact("more"))
    assert kept(where, pins) == [0, 1, *range(5, 20)]
    assert cache.figures().evicted == 3
    assert fleet.asked == 21


def test_the_disk_is_used_up_to_max_bytes(fleet: Fleet, where: Path) -> None:
    """Files of any size, through two caches of one directory, take no more blocks than that."""
    caches = [Cache(where, MIB // 2), Cache(where, MIB // 2)]
    for number in range(100):
        pin = fleet.artifact(f"{number}", bytes(number * 397 % 60_000))
        whole(caches[number % 2], fleet, pin)
        assert whole(caches[0], fleet, pin) == whole(caches[1], fleet, pin)
        if number % 25 == 0:
            assert taken(where) <= MIB // 2
    assert MIB // 4 < taken(where) <= MIB // 2
    assert fleet.asked == 100


def taken(where: Path) -> int:
    """Return how many bytes of the disk the artifacts take."""
    return sum(512 * path.stat().st_blocks for path in where.glob("kept/*"))


@pytest.mark.parametrize("content", [b"", b"junk\n", b"-5\n", b"1" * 40, b"\xb2"])
def test_a_count_that_is_none(fleet: Fleet, where: Path, content: bytes) -> None:
    """Without a count that can be read, the files are counted."""
    cache = Cache(where, 20 * 8192)
    pins = filled(cache, fleet, 20)
    (where / "used").write_bytes(content)
    whole(cache, fleet, fleet.artifact("more"))
    assert kept(where, pins) == [*range(3, 20)]
    assert int((where / "used").read_text()) == 17 * 8192 + 4096


@pytest.mark.parametrize(("ahead_s", "stays"), [(3600, False), (30, True), (-3600, False)])
def test_a_clock_that_steps(fleet: Fleet, where: Path, ahead_s: float, stays: bool) -> None:
    """What was used while the clock was an hour ahead does not stay for ever; it goes first."""
    cache = Cache(where, 20 * 8192)
    pins = filled(cache, fleet, 20)
    os.utime(file_of(where, pins[10]), (0, time.time() + ahead_s))
    whole(cache, fleet, fleet.artifact("more"))
    assert (10 in kept(where, pins)) == stays
    assert len(kept(where, pins)) == 17


@BOTH
def test_what_is_larger_than_half_of_it_is_not_kept(
    fleet: Fleet, where: Path, get: Get, caplog: pytest.LogCaptureFixture
) -> None:
    """A max_bytes that is too small for an artifact leaves it, and what is kept, as it was."""
    cache = Cache(where, 64 * 1024)
    small, large = fleet.artifact("small"), fleet.artifact("large", os.urandom(33_000))
    get(cache, fleet, small)
    get(cache, fleet, fleet.artifact("larger", bytes(40_000)))
    for _ in range(2):
        assert store.checksum_of(get(cache, fleet, large)) == large.checksum
    assert left_in(where) == {small.name}
    assert cache.figures().bypassed == 3
    warned = [one.getMessage() for one in caplog.records]
    assert len(warned) == 1
    assert "larger than half of its max_bytes, such as 40" in warned[0]
    assert get(Cache(where, 1), fleet, small) == b"data of small"


def test_what_is_read_may_go_meanwhile(fleet: Fleet, where: Path) -> None:
    """A reader that is open reads to its end, though its file went."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a", os.urandom(2 * MIB))
    with cache.open(pin, fleet.fetch(pin)) as reader:
        begin = reader.read(1000)
        file_of(where, pin).unlink()
        assert store.checksum_of(begin + reader.readall()) == pin.checksum


# --- a directory that goes, or takes nothing --------------------------------------------------


@BOTH
def test_a_directory_that_is_removed(fleet: Fleet, where: Path, get: Get) -> None:
    """Somebody may delete the cache at any moment: it is made anew, for its user alone."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    get(cache, fleet, pin)
    subprocess.run(["rm", "-r", str(where)], check=True)
    previous = os.umask(0)
    try:
        assert get(cache, fleet, pin) == get(cache, fleet, pin) == b"data of a"
        Cache(where.with_name("above") / "cache", LARGE)
    finally:
        os.umask(previous)
    assert fleet.asked == 2
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [where, *where.rglob("*")]}
    assert modes == {0o600, 0o700}
    assert stat.S_IMODE(where.with_name("above").stat().st_mode) == 0o755


@pytest.mark.parametrize("what", ["", "kept", "coming", "used"])
def test_a_part_that_is_removed_in_the_middle_of_a_fetch(
    fleet: Fleet, where: Path, what: str
) -> None:
    """Whatever of it goes while an artifact is fetched, that is returned, whole."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")

    def fetch() -> ArtifactReader:
        subprocess.run(["rm", "-rf", str(where / what)], check=True)
        return fleet.fetch(pin)()

    assert cache.get(pin, fetch).data == b"data of a"
    assert [whole(cache, fleet, pin) for _ in range(3)] == [b"data of a"] * 3
    assert cache.figures().hits >= 1


@BOTH
def test_a_full_disk(
    fleet: Fleet, tmp_path: Path, get: Get, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk the store is read, and what is kept; with room, it continues to keep."""
    if why := no_small_disk():
        pytest.skip(why)
    kept, pins = fleet.artifact("kept"), [fleet.artifact(f"{n}", bytes(MIB)) for n in range(3)]
    with small_disk(disk := tmp_path / "disk", 4):
        where = disk / "cache"
        cache = Cache(where, LARGE)
        get(cache, fleet, kept)
        with full(disk):
            assert [get(cache, fleet, pin) for pin in pins] == [bytes(MIB)] * 3
            assert get(cache, fleet, kept) == b"data of kept"
            assert fleet.asked == 5  # the first was tried; the others did not try
            assert get(Cache(disk / "another", LARGE), fleet, kept) == b"data of kept"
        assert "No space left on device" in caplog.text
        assert left_in(where) == {kept.name}
        cache._rests_until = 0.0
        assert get(cache, fleet, pins[0]) == get(cache, fleet, pins[0]) == bytes(MIB)
        assert (cache.figures().bypassed, cache.figures().hits) == (3, 2)


@pytest.mark.parametrize(
    ("limit", "most"), [(resource.RLIMIT_FSIZE, 8192), (resource.RLIMIT_NOFILE, 0)]
)
def test_limits_of_the_process(where: Path, limit: int, most: int) -> None:
    """A process that may write no such file, or open no more, reads the store."""
    cache, data = Cache(where, LARGE), bytes(20_000)
    pin = Pinned("a", store.checksum_of(data), store.checksum_of(b"{}"))

    def limited() -> None:
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
        for one in (cache, Cache(where, LARGE)):
            assert one.find(pin) is None
            assert one.get(pin, lambda: reader_of(data)).data == data
            assert one.figures() == CacheFigures(misses=1, bypassed=1)

    with forked(limited) as pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert left_in(where) == set()


# --- directories that are refused -------------------------------------------------------------


def refused(directory: str | Path, max_bytes: Any = LARGE) -> str:
    """Return what is said when a cache is refused."""
    with pytest.raises(UsageError) as caught:
        Cache(directory, max_bytes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_directory_of_anybody_else_is_refused(where: Path, tmp_path: Path) -> None:
    """Each directory into which another may put files is refused, with what to do."""
    where.mkdir(mode=0o700)
    (link := tmp_path / "link").symlink_to(where)
    assert "is a link, or no directory: name the directory itself" in refused(link)
    for mode in (0o777, 0o770, 0o1777):
        where.chmod(mode)
        assert f"others may write to it: chmod go-w {where}," in refused(where)
    where.chmod(0o755)  # as systemd makes it
    Cache(where, LARGE)
    assert (where / "kept").stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(where, NOBODY, NOBODY)
        assert f"belongs to the user {NOBODY}, and this is 0: each user" in refused(where)


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file, one below a file, one with other files in it, and no name at all."""
    (file := tmp_path / "file").write_text("mine")
    assert "no directory" in refused(file)
    assert "name one that this user may make and write" in refused(file / "below")
    assert "it has other files in it: name a directory for the cache alone" in refused(tmp_path)
    assert "empty text" in refused("")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("max_bytes", [0, -1, True, 1.5, "1GiB", None])
def test_a_size_that_is_none_is_refused(where: Path, max_bytes: Any) -> None:
    """A cache of nothing, or of what is no number, is named before anything is made."""
    assert f"max_bytes is {max_bytes!r}: give a number of bytes" in refused(where, max_bytes)
    assert not where.exists()


def test_a_directory_that_others_may_write_to_later(
    fleet: Fleet, where: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is opened to others meanwhile is not used any more, which is logged once."""
    cache, pin = Cache(where, LARGE), fleet.artifact("a")
    whole(cache, fleet, pin)
    where.chmod(0o777)
    assert whole(cache, fleet, pin) == streamed(cache, fleet, pin) == b"data of a"
    assert fleet.asked == 3
    assert [one.levelno for one in caplog.records] == [logging.WARNING]
    assert "is not used, and artifacts are read from the store: others may" in caplog.text
    where.chmod(0o700)
    assert whole(cache, fleet, pin) == b"data of a"
    assert fleet.asked == 3
    cache._rests_until = 0.0
    whole(cache, fleet, fleet.artifact("b"))
    where.chmod(0o777)
    whole(cache, fleet, pin)
    assert len(caplog.records) == 2
