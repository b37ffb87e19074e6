"""Small data at a ref that is taken for new is put without a look: two requests, nothing lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from store import Unavailable, checksum_of
from store.object.layout import new_nonce
from tests.servers import START_TIMEOUT_S
from tests.store.buckets import open_bucket
from tests.store.object_server import (
    held,
    lost_reply,
    refused,
    status,
    unconditional,
)
from tests.store.working import PASSING, REF

if TYPE_CHECKING:
    from store.object import ObjectStore
    from tests.store.object_server import Fault, Proxy, S3Server

NEW_IN_A_ROW = 8


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


def eager(bucket: str, timeout_s: float = 20.0) -> ObjectStore:
    """Open a store that takes the next ref for new, as after so many that were."""
    opened = open_bucket(bucket, timeout_s=timeout_s, shortest_grace_s=0.0)
    opened._writer._new_in_a_row = NEW_IN_A_ROW
    assert opened._bucket.conditions.hold()  # it is asked at the first write
    return opened


def test_two_requests_for_a_new_ref(bucket: str, proxy: Proxy) -> None:
    """After refs that were new a Put of small data at a new one takes two requests."""
    opened = open_bucket(bucket)
    for i in range(NEW_IN_A_ROW):
        opened.put(f"{REF}/{i}", b"data", b"m", position=(1, 0))
    proxy.heal()
    opened.put(REF, b"data", b"m", position=(1, 0))
    assert proxy.seen() == 2
    assert opened.get(REF) == (b"data", b"m")


def test_refs_that_are_not_new_are_looked_at(bucket: str, proxy: Proxy) -> None:
    """One that was not new makes the next ones be looked at: three requests, as they move."""
    opened = eager(bucket)
    open_bucket(bucket).put(REF, b"other's", b"m")
    opened.put(REF, b"0", b"m")
    for i in range(1, 4):
        proxy.heal()
        opened.put(REF, b"%d" % i, b"m")
        assert proxy.seen() == 3
    assert opened.get(REF) == (b"3", b"m")


@pytest.mark.parametrize("earlier", [None, (1, 0), (3, 0)])
@pytest.mark.parametrize("position", [None, (2, 0)])
def test_a_ref_that_was_not_new(
    bucket: str, earlier: tuple[int, int] | None, position: tuple[int, int] | None
) -> None:
    """What is put at a ref taken for new, and is not, moves it as a Put does that has looked."""
    opened = eager(bucket)
    open_bucket(bucket).put(REF, b"old", b"m", position=earlier)
    opened.put(REF, b"new", b"m", position=position)
    bars = earlier == (3, 0) and position is not None
    assert opened.get(REF).data == (b"old" if bars else b"new")
    for data in (b"old", b"new"):
        assert opened.get(REF, checksum=checksum_of(data)) == (data, b"m")
    assert [each.error for each in opened.verify()].count(None) == len(list(opened.verify()))


def test_the_same_again_at_a_ref_that_was_not_new(bucket: str) -> None:
    """The same content keeps what its ref bars, also where a copy was written in vain."""
    opened = eager(bucket)
    open_bucket(bucket).put(REF, b"data", b"m", position=(5, 0))
    opened.put(REF, b"data", b"m", position=(3, 0))
    opened.put(REF, b"between", b"m", position=(4, 0))
    assert opened.get(REF) == (b"data", b"m")
    assert len(list(opened.versions(REF))) == 2
    assert opened.get(REF, checksum=checksum_of(b"between")) == (b"between", b"m")


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("fault", PASSING, ids=range(len(PASSING)))
def test_one_fault_anywhere_is_not_noticed(
    bucket: str, proxy: Proxy, fault: Fault, was_there: bool
) -> None:
    """Whichever request of such a Put meets a passing fault, it succeeds, and once."""
    opened, other = eager(bucket), open_bucket(bucket)
    for skip in range(5 if was_there else 2):
        ref = f"{REF}/{skip}"
        opened._writer._new_in_a_row = NEW_IN_A_ROW
        if was_there:
            other.put(ref, b"old", b"m", position=(1, 0))
        proxy.heal()
        proxy.plan("", "", fault, skip=skip)
        opened.put(ref, b"new", b"m", position=(2, 0))
        assert proxy.seen() > skip
        assert opened.get(ref) == (b"new", b"m")
        assert len(list(opened.versions(ref))) == 1 + was_there


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("is_applied", [False, True])
def test_a_writer_that_stops_at_any_request(
    bucket: str, proxy: Proxy, is_applied: bool, was_there: bool
) -> None:
    """After each number of requests, the last one applied or not, the ref has a whole pair.

    It is the old one, or nothing, or the new one. The next Put continues from there.
    """
    other = open_bucket(bucket)
    stopping = eager(bucket, timeout_s=0.5)
    for skip in range(5 if was_there else 2):
        ref = f"{REF}/{skip}"
        stopping._writer._new_in_a_row = NEW_IN_A_ROW
        if was_there:
            other.put(ref, b"old", b"m", position=(1, 0))
        proxy.heal()
        proxy.plan("", "", lost_reply if is_applied else refused, skip=skip, times=1)
        proxy.plan("", "", refused, times=9999)
        with pytest.raises(Unavailable):
            stopping.put(ref, b"new", b"m", position=(2, 0))
        proxy.heal()
        before = {b"old"} if was_there else set()
        found = {other.get(ref)} if other.exists(ref) else set()
        assert {data for data, _ in found} in (before, {b"new"})
        assert all(each.error is None for each in other.verify(ref))
        other.put(ref, b"next", b"m", position=(3, 0))
        assert other.get(ref) == (b"next", b"m")
        for data in before:
            assert other.get(ref, checksum=checksum_of(data)) == (data, b"m")


def test_several_take_one_ref_for_new(bucket: str) -> None:
    """Of writers that put at a new ref at once the last position wins, and no version is lost."""
    writers = [eager(bucket) for _ in range(4)]
    together = threading.Barrier(len(writers), timeout=START_TIMEOUT_S)

    def write(number: int) -> None:
        for i in range(6):
            writers[number]._writer._new_in_a_row = NEW_IN_A_ROW
            together.wait()
            writers[number].put(f"{REF}/{i}", b"%d" % number, b"m", position=(1, number))

    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(write, range(len(writers))))
    for i in range(6):
        assert writers[0].get(f"{REF}/{i}") == (b"3", b"m")
        for number in range(len(writers)):
            data = b"%d" % number
            assert writers[0].get(f"{REF}/{i}", checksum=checksum_of(data)) == (data, b"m")


def test_a_first_write_that_arrives_late_undoes_nothing(bucket: str, proxy: Proxy) -> None:
    """A Put that was given up, and is applied after another one, does not take its place."""
    hasty = eager(bucket, timeout_s=1.5)
    released = threading.Event()
    proxy.plan("PUT", "/refs/", held(released), times=99)
    with pytest.raises(Unavailable):
        hasty.put(REF, b"late", b"m")
    proxy.heal()
    open_bucket(bucket).put(REF, b"new", b"m")
    released.set()
    assert proxy.late.acquire(timeout=START_TIMEOUT_S)
    assert open_bucket(bucket).get(REF) == (b"new", b"m")


@pytest.mark.parametrize("fault", [unconditional, status(501, "NotImplemented")], ids=range(2))
def test_without_conditions_each_ref_is_looked_at(bucket: str, proxy: Proxy, fault: Fault) -> None:
    """A service that would write over what is there is never asked to put without a look."""
    opened = open_bucket(bucket, timeout_s=3.0)
    opened._writer._new_in_a_row = NEW_IN_A_ROW
    proxy.plan("PUT", "/STORE", fault, times=99)
    proxy.plan("PUT", "/refs/", unconditional, times=99)
    open_bucket(bucket).put(REF, b"newer", b"m", position=(2, 0))
    opened.put(REF, b"older", b"m", position=(1, 0))
    assert opened.get(REF) == (b"newer", b"m")


def test_a_clock_that_went_back(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock went back, what is put at a ref that was not new is the newer version."""
    opened = eager(bucket)
    open_bucket(bucket).put(REF, b"data", b"first")
    monkeypatch.setattr("store.object.put.new_nonce", _an_hour_ago)
    opened.put(REF, b"data", b"second")
    open_bucket(bucket).put(REF, b"other", b"m")
    assert opened.get(REF, checksum=checksum_of(b"data")) == (b"data", b"second")


def _an_hour_ago(stored: str, after: str = "", step: int = 1) -> str:
    earlier = datetime.fromisoformat(stored) - timedelta(hours=1)
    return new_nonce(earlier.isoformat(timespec="microseconds"), after, step)
