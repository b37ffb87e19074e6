"""What is asked of the servers before each tenure, and not at the start of the worker only."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis

from sidecar.errors import UsageError
from sidecar.redis.client import Side, connect
from sidecar.redis.fitness import Fitness
from sidecar.redis.keys import Keys
from sidecar.worker import app
from sidecar.worker.settings import build
from tests import servers
from tests.faults.proxy import CALM, Proxy
from tests.sidecar.harness import (
    CONTROL,
    NOTIFICATIONS,
    Rig,
    at_work,
    eventually,
    silent_log,
)

pytestmark = pytest.mark.server

TWINS = [("x", "{x}"), ("{x}", "x")]


@contextmanager
def worker(rig: Rig, stores: dict[str, str]) -> Iterator[int]:
    """Run the worker for as long as the block lasts; yield the port of its health."""
    port = servers.free_port()
    settings = build(redis=rig.url, lease_s=1, http=f"127.0.0.1:{port}", **stores)
    with at_work(settings):
        yield port


def state(port: int) -> dict[str, Any]:
    """Return what `/readyz` says of the control stream."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/readyz")
        found: dict[str, Any] = json.loads(connection.getresponse().read())[CONTROL]
    return found


def drained(rig: Rig, stores: dict[str, str], notify: str, dead: str | None = None) -> int:
    """Run the worker with --drain into this notification stream; return its exit code."""
    settings = build(
        redis=rig.url, notify_stream=notify, dead_stream=dead, drain=True, lease_s=1, **stores
    )
    return app.run(settings, silent_log(), threading.Event())


@pytest.mark.parametrize(("first", "second"), TWINS)
def test_names_that_differ_in_braces_only_are_refused(
    rig: Rig, stores: dict[str, str], first: str, second: str
) -> None:
    """The keys of `x` are those of `{x}`: the second to come is refused, and nothing is shared."""
    rig.emit("a")
    assert drained(rig, stores, first) == 0
    rig.emit("b")
    with pytest.raises(UsageError, match="belong to the notification stream"):
        drained(rig, stores, second)
    assert not rig.client.exists(second)
    assert drained(rig, stores, first) == 0
    assert rig.client.xlen(first) == 2


@pytest.mark.parametrize("dead", ["graveyard", "{mine}:dead", "mine"])
def test_dead_letters_of_two_notification_streams_do_not_mix(
    rig: Rig, stores: dict[str, str], dead: str
) -> None:
    """An origin does not say by whom an entry is dead: the second to come is refused."""
    rig.client.xadd(CONTROL, {"event": "no JSON"})
    first = dead if dead == "graveyard" else None
    assert drained(rig, stores, "mine", first) == 0
    with pytest.raises(UsageError, match="it belongs to the notification stream"):
        drained(rig, stores, "other", dead)
    assert rig.client.xlen(first or "{mine}:dead") == 1
    assert drained(rig, stores, "other") == drained(rig, stores, "mine", first) == 0


def test_who_comes_first_has_the_keys(rig: Rig) -> None:
    """Of two workers that have started already, only one gets to a tenure."""
    one, other = (
        Fitness(Side(rig.client, rig.url), Side(rig.client, rig.url), Keys.of(CONTROL, name))
        for name in ("x", "{x}")
    )
    one.check()
    one.check()
    with pytest.raises(UsageError, match=r"delete the key \{x\}:stream"):
        other.check()
    rig.client.delete("{x}:stream")
    other.check()


def cut_idle(operator: redis.Redis) -> None:
    """Cut each connection that waits for no answer; who holds it is told by nothing."""
    clients: Any = operator.client_list()
    for one in clients:
        if "b" not in one["flags"] and one["cmd"] != "client|list":
            operator.client_kill_filter(_id=one["id"])


@contextmanager
def copy_of(rig: Rig) -> Iterator[redis.Redis]:
    """Run a server that has all that the rig's has, and is a master, as after a failover."""
    port = rig.client.connection_pool.connection_kwargs["port"]
    with servers.running(servers.usual()) as server, redis.Redis(port=server.port) as copy:
        copy.replicaof("127.0.0.1", port)
        eventually(lambda: copy.info("replication")["master_link_status"] == "up")
        offset = rig.client.info("replication")["master_repl_offset"]
        eventually(lambda: copy.info("replication")["slave_repl_offset"] >= offset)
        copy.replicaof("NO", "ONE")
        yield copy


def test_another_server_after_an_idle_connection_was_cut(rig: Rig, stores: dict[str, str]) -> None:
    """What answers behind the same address may be unfit: an idle worker notices at a renewal."""
    proxy = Proxy(rig.client.connection_pool.connection_kwargs["port"], 1, CALM)
    with proxy.running():
        behind = replace(rig, url=f"redis://127.0.0.1:{proxy.port}/0")
        with worker(behind, stores) as port:
            rig.emit("a")
            eventually(lambda: rig.published() == ["a"] and state(port)["state"] == "active")
            with copy_of(rig) as other:
                other.config_set("maxmemory-policy", "allkeys-lru")
                proxy.target_port = other.connection_pool.connection_kwargs["port"]
                cut_idle(rig.client)
                eventually(lambda: "maxmemory-policy allkeys-lru" in state(port)["detail"])
                other.config_set("maxmemory-policy", "noeviction")
                eventually(lambda: state(port)["state"] == "active")
                other.xadd(CONTROL, {"event": '{"event_id":"b","type":"run.abort"}'})
                eventually(lambda: other.xlen(rig.notify) == 2, "it is read from there, too")


def test_an_empty_server_after_an_idle_connection_was_cut(rig: Rig, stores: dict[str, str]) -> None:
    """No group, no fence: all is made there and read from there, nothing from the one before."""
    proxy = Proxy(rig.client.connection_pool.connection_kwargs["port"], 1, CALM)
    with proxy.running():
        behind = replace(rig, url=f"redis://127.0.0.1:{proxy.port}/0")
        with worker(behind, stores) as port, servers.running(servers.usual()) as server:
            rig.emit("a")
            eventually(lambda: rig.published() == ["a"] and state(port)["state"] == "active")
            proxy.target_port = server.port
            cut_idle(rig.client)
            with redis.Redis(port=server.port) as other:
                eventually(lambda: other.exists(rig.keys.fence))
                rig.emit("unread")
                other.xadd(CONTROL, {"event": '{"event_id":"b","type":"run.abort"}'})
                eventually(lambda: other.xlen(rig.notify) == 1)
            assert rig.published() == ["a"]


def told_after_a_cut(operator: redis.Redis, port: int) -> bool:
    """Cut all connections; tell whether the worker says within some seconds what is wrong."""
    operator.client_kill_filter(_type="normal")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if "maxmemory-policy allkeys-lru" in state(port)["detail"]:
            return True
        time.sleep(0.01)
    return False


def test_an_eviction_policy_that_comes_with_a_failover(rig: Rig, stores: dict[str, str]) -> None:
    """A server that may evict keys is not published into, whenever it took over.

    A cut between two commands goes unnoticed, for the pool connects anew: so it is cut again.
    """
    with connect(rig.url) as operator, worker(rig, stores) as port:
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        operator.config_set("maxmemory-policy", "allkeys-lru")
        try:
            eventually(lambda: told_after_a_cut(operator, port))
            assert state(port)["state"] == "waiting"
            rig.emit("b")
            eventually(lambda: not rig.client.exists(rig.keys.lease), "the lease is for nobody")
        finally:
            operator.config_set("maxmemory-policy", "noeviction")
        eventually(lambda: rig.published() == ["a", "b"])


@pytest.mark.parametrize("newer", ["2", "10", "soon"])
def test_keys_of_a_newer_release_are_refused(rig: Rig, stores: dict[str, str], newer: str) -> None:
    """It may mean other things by them: the worker says both formats, and reads nothing."""
    rig.emit("a")
    rig.client.hset(rig.keys.fleet, "format", newer)
    with pytest.raises(UsageError, match=f"the format '{newer}', and this release reads '1'"):
        drained(rig, stores, NOTIFICATIONS)
    assert not rig.client.exists(NOTIFICATIONS, rig.keys.fence)


def test_a_format_that_changes_meanwhile_is_seen_before_the_next_tenure(
    rig: Rig, stores: dict[str, str]
) -> None:
    """A newer release that took over has left its keys to a worker that cannot read them."""
    with worker(rig, stores) as port:
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        rig.client.hset(rig.keys.fleet, "format", "2")
        rig.client.delete(rig.keys.lease)
        rig.client.set(rig.keys.fence, "f" * 32)
        eventually(lambda: "this release reads '1'" in state(port)["detail"])


@pytest.mark.parametrize("format_", [None, "1"])
def test_keys_of_this_format_are_read(
    rig: Rig, stores: dict[str, str], format_: str | None
) -> None:
    """Where none is noted, they have the first."""
    rig.emit("a")
    if format_:
        rig.client.hset(rig.keys.fleet, "format", format_)
    assert drained(rig, stores, NOTIFICATIONS) == 0
