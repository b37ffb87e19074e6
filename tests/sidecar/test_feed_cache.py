"""The feed with a cache, both faces, against a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

import store
from sidecar.feed import Cache, CacheFigures, UsageError
from sidecar.feed.kept import Pinned
from store import Capability
from store.memory import MemoryStore
from store.testing.wrappers import Wrapper
from tests.sidecar.faces import FACES
from tests.sidecar.harness import eventually
from tests.sidecar.test_feed_faces import published

T = TypeVar("T")
Make = Callable[..., Any]


class Fleet(Wrapper):
    """The fleet's store, which counts its reads, and may be away or held up."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.asked = self.under_way = self.most = 0
        self.is_away = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._lock = threading.Lock()

    @property
    def identity(self) -> str | None:
        """As of the store, unless it is away."""
        self._check()
        return self.inner.identity

    def around(self, operation: Callable[[], T]) -> T:
        """Count a read."""
        with self._lock:
            self.asked += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            self._check()
            self.may_answer.wait()
            return operation()
        finally:
            with self._lock:
                self.under_way -= 1

    def _check(self) -> None:
        if self.is_away:
            raise store.Unavailable("it is away")


class Streamless(Fleet):
    """One that pins, and does not stream."""

    capabilities = frozenset({Capability.PINNED_GET})


@pytest.fixture
def fleet() -> Fleet:
    """A store with nothing in it."""
    return Fleet()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache with nothing in it."""
    return Cache(tmp_path / "cache", 1 << 30)


@pytest.fixture(params=FACES)
def make(
    request: pytest.FixtureRequest, redis_url: str, fleet: Fleet, cache: Cache
) -> Iterator[Make]:
    """Makes a feed, of either face, with the cache."""
    with ExitStack() as stack:

        def make(**options: Any) -> Any:
            feed = FACES[request.param](redis_url, **{"store": fleet, "cache": cache} | options)
            stack.callback(feed.close)
            return feed

        yield make


def noted(client: Any, fleet: Fleet, count: int = 1, **fields: str) -> None:
    """Put artifacts, and append their notifications."""
    for number in range(1, count + 1):
        ref, data = f"rows/{number}", f"data {number}".encode()
        fleet.inner.put(ref, data, b"{}")
        pins = {
            "checksum": store.checksum_of(data), "manifest_checksum": store.checksum_of(b"{}"),
        }  # fmt: skip
        published(client, 1000 * number, **({"artifact_ref": ref} | pins | fields))


def test_controllers_of_a_host_read_the_store_once(client: Any, make: Make, fleet: Fleet) -> None:
    """What one has resolved the others resolve and open without it, and while it is away."""
    noted(client, fleet, 3)
    client.hset("{control:notifications}:fleet", "store", fleet.identity or "")
    feed, other = make(), make()
    found = [feed.resolve(n) for n in feed.poll()]
    assert [one.data for one in found] == [b"data 1", b"data 2", b"data 3"]
    assert fleet.asked == 3
    fleet.is_away = True
    assert [other.resolve(n) for n in other.poll()] == found
    for n, one in zip(other.poll(), found, strict=True):
        with other.open(n) as reader:
            assert (reader.readall(), reader.manifest) == one
    with pytest.raises(store.Unavailable):
        other.resolve(n.model_copy(update={"checksum": store.checksum_of(b"other")}))


def test_the_first_who_opens_keeps_it_for_all(
    client: Any, make: Make, fleet: Fleet, cache: Cache
) -> None:
    """An artifact that was opened is resolved from the cache, also of a store without streams."""
    for streams in (fleet, Streamless()):
        client.delete("control:notifications")
        noted(client, streams, 2 if streams is fleet else 3)
        feed = make(store=streams)
        *_, n = feed.poll()
        with feed.open(n) as reader:
            data = reader.readall()
        assert feed.resolve(n).data == data
        assert streams.asked == 1
    assert cache.figures() == CacheFigures(hits=2, misses=2)


def test_what_pins_no_version_is_not_kept(
    client: Any, make: Make, fleet: Fleet, cache: Cache
) -> None:
    """Without the manifest's checksum the newest manifest is meant, which only the store knows."""
    noted(client, fleet, manifest_checksum="")
    feed = make()
    (n,) = feed.poll()
    assert feed.resolve(n).manifest == b"{}"
    fleet.inner.put("rows/1", b"data 1", b"newer")
    assert feed.resolve(n).manifest == b"newer"
    with feed.open(n) as reader:
        assert reader.manifest == b"newer"
    assert list(feed.prefetch([n])) == [n]
    assert cache.figures() == CacheFigures()


def test_what_is_no_artifact_or_absent(client: Any, make: Make) -> None:
    """An event without artifact, and an artifact that is not there, are told as without a cache."""
    published(client, 1000)
    noted_at = {"checksum": store.checksum_of(b"1"), "manifest_checksum": store.checksum_of(b"m")}
    published(client, 2000, artifact_ref="rows/gone", **noted_at)
    feed = make()
    without, gone = feed.prefetch(feed.poll())
    for read in (feed.resolve, feed.open):
        with pytest.raises(ValueError, match="names no artifact"):
            read(without)
        with pytest.raises(store.NotFound):
            read(gone)


def test_a_store_that_is_another_is_refused_before_it_is_read(
    client: Any, make: Make, fleet: Fleet, cache: Cache
) -> None:
    """The store's identity is compared before anything of it is kept."""
    noted(client, fleet)
    client.hset("{control:notifications}:fleet", "store", "0" * 32)
    feed = make()
    (n,) = feed.poll()
    with pytest.raises(UsageError, match="open that one"):
        feed.resolve(n)
    assert cache.figures() == CacheFigures()


def test_a_cache_needs_a_store_that_pins(make: Make) -> None:
    """A cache beside no store, and prefetching without a cache, are refused in words."""
    with pytest.raises(UsageError, match="beside a cache, the feed needs the fleet's store"):
        make(store=None)
    with pytest.raises(UsageError, match="to prefetch, the feed needs a cache"):
        next(make(cache=None).prefetch([]))
    for ahead in (0, 65):
        with pytest.raises(ValueError, match=f"ahead is {ahead}: it must be from 1 to 64"):
            next(make().prefetch([], ahead=ahead))


# --- prefetching ------------------------------------------------------------------------------


def test_what_comes_is_fetched_ahead(client: Any, make: Make, fleet: Fleet, cache: Cache) -> None:
    """So many are under way at once, and no more; each is read once, in order, for every reader."""
    noted(client, fleet, 20)
    feed = make()
    fleet.may_answer.clear()
    coming = feed.prefetch(feed.poll(), ahead=4)
    first = next(coming)
    eventually(lambda: fleet.under_way >= 4, "four are fetched")
    fleet.may_answer.set()
    found = [feed.resolve(n).data for n in [first, *coming]]
    assert found == [f"data {number}".encode() for number in range(1, 21)]
    assert fleet.asked == 20
    assert 4 <= fleet.most <= 5  # and the one that is resolved
    figures = cache.figures()
    assert figures.hits + figures.misses == 20
    assert figures.misses + figures.prefetched == 20


def test_no_more_is_fetched_than_is_ahead(
    client: Any, make: Make, fleet: Fleet, tmp_path: Path
) -> None:
    """What is handed out before its turn came is left to its reader; who stops causes no more."""
    noted(client, fleet, 20)
    feed = make()
    fleet.may_answer.clear()
    batch = feed.poll()
    coming = feed.prefetch(batch, ahead=2)
    for _ in range(10):
        next(coming)
    eventually(lambda: fleet.under_way == 2, "two are fetched")
    fleet.may_answer.set()
    eventually(lambda: len(kept(tmp_path)) == 4, "the next two, too")
    assert kept(tmp_path) == {Pinned(*pins(batch[number])).name for number in (0, 1, 10, 11)}
    fleet.may_answer.clear()
    next(coming)
    eventually(lambda: fleet.under_way == 1, "one more is fetched")
    next(coming)
    next(coming)
    coming.close()
    fleet.may_answer.set()
    eventually(lambda: not fleet.under_way, "what was begun ends")
    assert fleet.asked <= 6


def pins(n: Any) -> tuple[str, str, str]:
    """Return what a notification pins."""
    return n.artifact_ref, n.checksum, n.manifest_checksum


def kept(tmp_path: Path) -> set[str]:
    """Return the names of what is kept."""
    return {path.name for path in tmp_path.glob("cache/kept/*")}


def test_what_is_kept_is_not_fetched_ahead(client: Any, make: Make, fleet: Fleet) -> None:
    """To prefetch what is there asks the store for nothing."""
    noted(client, fleet, 5)
    feed = make()
    for n in feed.poll():
        feed.resolve(n)
    for n in feed.prefetch(feed.poll()):
        feed.resolve(n)
    assert fleet.asked == 5
