"""The fleet store's identity beside the notifications: no worker puts into another store."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import store
from sidecar.errors import UsageError
from sidecar.feed import AsyncFeed, Feed
from sidecar.wire.logbook import registered
from sidecar.worker import app
from sidecar.worker.settings import build
from store.memory import MemoryStore
from tests.sidecar.harness import PlainStore, Rig, SpyStore, eventually, ref_of, silent_log
from tests.sidecar.test_app import worker


def drained(rig: Rig, stores: dict[str, str], **options: Any) -> int:
    """Run the worker with --drain; return its exit code."""
    settings = build(redis=rig.url, drain=True, **stores, **({"lease_s": 1} | options))
    return app.run(settings, silent_log(), threading.Event())


def noted(rig: Rig) -> dict[str, str]:
    """Return what Redis has noted of the fleet's store."""
    found: Any = rig.client.hgetall(rig.keys.fleet)
    return {name.decode(): value.decode() for name, value in found.items()}


def test_the_first_worker_notes_the_store_and_registers_the_log(
    rig: Rig, stores: dict[str, str]
) -> None:
    """Redis has the store's identity, the store the log's id; a second start changes neither."""
    rig.emit_artifact("a")
    logs = set()
    for _ in range(2):
        assert drained(rig, stores) == 0
        told = noted(rig)
        logs.add(told["log"])
        assert (told["store"], told["store_url"]) == (rig.fleet.identity, "fleet:")
        (log,) = registered(rig.fleet)
        assert (log.id, log.stream, log.forgotten) == (told["log"], rig.notify, None)
    (only,) = logs
    assert len(list(rig.fleet.versions(f".sidecar/logs/{only}"))) == 1
    assert rig.published() == ["a"]


def test_a_worker_with_another_store_puts_nothing(rig: Rig, stores: dict[str, str]) -> None:
    """It is refused with both identities, before it reads or puts; the right one continues."""
    assert drained(rig, stores) == 0
    right = rig.fleet
    rig.fleet = SpyStore()
    rig.emit_artifact("a")
    with pytest.raises(UsageError) as caught:
        drained(rig, stores)
    assert caught.value.exit_code == 2
    for words in (right.identity, rig.fleet.identity, "--adopt-fleet-store"):
        assert words in str(caught.value)
    assert (rig.fleet.puts, list(rig.fleet.list()), rig.published()) == ([], [], [])
    rig.fleet = right
    assert drained(rig, stores) == 0
    rig.audit()


def test_a_store_without_an_identity_is_another(rig: Rig, stores: dict[str, str]) -> None:
    """Once an identity is noted, a backend that has none is not the store that is meant."""
    assert drained(rig, stores) == 0
    rig.fleet = PlainStore()
    with pytest.raises(UsageError, match="without an identity"):
        drained(rig, stores, allow_unpinned=True)


def test_a_backend_without_an_identity_works_as_before(rig: Rig, stores: dict[str, str]) -> None:
    """Only the log's id is noted; a store that lists nothing keeps no records."""
    rig.fleet = PlainStore()
    rig.emit_artifact("a")
    assert drained(rig, stores, allow_unpinned=True) == 0
    assert rig.published() == ["a"]
    assert list(noted(rig)) == ["log"]
    assert list(rig.fleet.pairs) == [ref_of("a")]


def test_a_move_is_adopted_and_recorded(rig: Rig, stores: dict[str, str]) -> None:
    """With adopt_fleet_store the new one is noted; who did it, when, from where, stays."""
    assert drained(rig, stores) == 0
    before = rig.fleet.identity
    rig.fleet = SpyStore()
    rig.emit_artifact("a")
    assert drained(rig, stores, adopt_fleet_store=True) == 0
    told = noted(rig)
    (record,) = [json.loads(v) for name, v in told.items() if name.startswith("adopted:")]
    assert told["store"] == record["to"] == rig.fleet.identity
    assert (record["from"], record["from_url"]) == (before, "fleet:")
    assert record["by"]
    assert [log.id for log in registered(rig.fleet)] == [told["log"]]
    assert drained(rig, stores) == 0


def test_nothing_is_adopted_under_a_worker_at_work(rig: Rig, stores: dict[str, str]) -> None:
    """While one publishes into the store that is noted, a move is refused."""
    with worker(rig, stores) as ran:
        eventually(lambda: rig.client.exists(rig.keys.lease))
        before, rig.fleet = noted(rig), SpyStore()
        with pytest.raises(UsageError, match="stop all workers"):
            drained(rig, stores, adopt_fleet_store=True)
        assert noted(rig) == before
        assert ran.codes == []


def test_a_worker_whose_store_is_another_meanwhile_ends_with_2(
    rig: Rig, stores: dict[str, str]
) -> None:
    """A standby, or whoever was not stopped for the move, does not continue with the old store."""
    with worker(rig, stores) as ran:
        eventually(lambda: rig.client.exists(rig.keys.lease))
        rig.client.hset(rig.keys.fleet, "store", "0" * 32)
        eventually(lambda: ran.codes == [2])


def test_a_redis_that_forgot_gets_the_note_back(rig: Rig, stores: dict[str, str]) -> None:
    """A worker that lives on notes its store and its log again: the same ones."""
    with worker(rig, stores) as ran:
        eventually(lambda: rig.client.exists(rig.keys.lease))  # whoever serves has joined
        before = noted(rig)
        rig.client.flushall()
        eventually(lambda: noted(rig) == before)
        assert ran.codes == []


def test_the_noted_url_is_of_the_noted_store(rig: Rig, stores: dict[str, str]) -> None:
    """Of two first workers with two stores, the one that came second leaves no URL of its own."""
    rig.client.hset(rig.keys.fleet, "store", "0" * 32)
    with pytest.raises(UsageError, match="unknown"):
        drained(rig, stores)
    assert "store_url" not in noted(rig)
    rig.client.hset(rig.keys.fleet, "store", rig.fleet.identity)
    assert drained(rig, stores) == 0
    assert noted(rig)["store_url"] == "fleet:"


def test_two_first_workers_agree(rig: Rig, stores: dict[str, str]) -> None:
    """Started at once they note one store and one log, whoever comes first."""
    with ThreadPoolExecutor(4) as pool:
        # A drain waits two leases for another's, no longer: here as long as the others take.
        codes = pool.map(lambda _: drained(rig, stores, lease_s=30), range(4))
        assert set(codes) == {0}
    assert [log.id for log in registered(rig.fleet)] == [noted(rig)["log"]]
    assert noted(rig)["store"] == rig.fleet.identity


def test_a_fleet_of_an_older_release_is_noted(rig: Rig, stores: dict[str, str]) -> None:
    """What older workers published, unnoted, stays; the first new one notes store and log."""
    rig.emit_artifact("old")
    assert drained(rig, stores) == 0
    rig.client.delete(rig.keys.fleet)
    del rig.fleet._entries[next(iter(rig.fleet.list(".sidecar/logs")))]
    rig.emit_artifact("new")
    assert drained(rig, stores) == 0
    assert rig.published() == ["old", "new"]
    assert [log.id for log in registered(rig.fleet)] == [noted(rig)["log"]]
    rig.audit()


def test_a_full_redis_keeps_no_worker_from_its_work(rig: Rig, stores: dict[str, str]) -> None:
    """On a full server nothing is noted, and nobody ends; with room again it is, and registered."""
    rig.client.config_set("maxmemory", 1)
    try:
        with worker(rig, stores) as ran:
            eventually(lambda: rig.client.exists(rig.keys.workers))
            assert noted(rig) == {}
            rig.client.config_set("maxmemory", 0)
            (log,) = eventually(lambda: list(registered(rig.fleet)))
            assert log.id == noted(rig)["log"]
            rig.client.config_set("maxmemory", 1)
            assert ran.codes == []
        assert drained(rig, stores) == 0
    finally:
        rig.client.config_set("maxmemory", 0)


def test_memory_is_another_store_at_each_start(rig: Rig, stores: dict[str, str]) -> None:
    """What was put is gone with the process: the next one says so, and publishes nothing."""
    stores |= {"fleet_store": "memory:"}
    assert drained(rig, stores) == 0
    with pytest.raises(UsageError, match="--adopt-fleet-store"):
        drained(rig, stores)
    assert drained(rig, stores, adopt_fleet_store=True) == 0


# --- the feed ------------------------------------------------------------------------------------


def _resolve(url: str, fleet: store.Store) -> store.Artifact:
    with Feed(url, store=fleet) as feed:
        return feed.resolve(feed.poll()[-1])


def _resolve_async(url: str, fleet: store.Store) -> store.Artifact:
    async def resolve() -> store.Artifact:
        async with AsyncFeed(url, store=fleet) as feed:
            return await feed.resolve((await feed.poll())[-1])

    return asyncio.run(resolve())


FACES = pytest.mark.parametrize("resolve", [_resolve, _resolve_async])
Resolve = Callable[[str, store.Store], store.Artifact]


@FACES
def test_a_feed_compares_before_it_resolves(
    rig: Rig, stores: dict[str, str], resolve: Resolve
) -> None:
    """With another store it says so, by both identities, in place of a ref that is not found."""
    rig.emit_artifact("a")
    assert drained(rig, stores) == 0
    assert resolve(rig.url, rig.fleet).data == b"data of a"
    other = MemoryStore()
    with pytest.raises(UsageError) as caught:
        resolve(rig.url, other)
    assert rig.fleet.identity in str(caught.value)
    assert other.identity in str(caught.value)


@FACES
def test_a_feed_without_the_right_to_look_works(
    rig: Rig, stores: dict[str, str], resolve: Resolve
) -> None:
    """A user that may not read the note, and a log that has none, resolve as ever."""
    rig.emit_artifact("a")
    assert drained(rig, stores) == 0
    rig.client.acl_setuser(
        "reader", enabled=True, passwords=["+pw"], commands=["+@all"],
        keys=[rig.notify, rig.keys.trimmed],
    )  # fmt: skip
    try:
        url = rig.url.replace("redis://", "redis://reader:pw@")
        with redis.Redis.from_url(url) as reader, pytest.raises(redis.exceptions.NoPermissionError):
            reader.hget(rig.keys.fleet, "store")
        assert resolve(url, rig.fleet).data == b"data of a"
    finally:
        rig.client.acl_deluser("reader")
    rig.client.delete(rig.keys.fleet)
    assert resolve(rig.url, rig.fleet).data == b"data of a"
