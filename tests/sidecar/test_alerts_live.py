"""A real Prometheus scrapes a real worker while trouble is brought about: what fires, and no more.

The rules are the shipped ones with minutes made seconds. A machine that stands still for half a
minute thus stands still for half an hour, and alerts are right to fire: what is asserted is what
fires in the end, when it runs again. tests/deploy/test_alerts.py sees what fires meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import store
from sidecar.redis import readers, tenants
from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Publisher
from sidecar.wire import logbook
from sidecar.wire.ids import EntryId
from sidecar.worker import app, gathering, housekeeping, wiring
from sidecar.worker.settings import build
from store import Unavailable
from tests.deploy.prometheus import Prometheus, queries, watching
from tests.servers import free_port
from tests.sidecar.harness import PATIENCE_S, Rig, eventually, silent_log
from tests.sidecar.test_metrics import scraped, value

QUIET_SCRAPES: Final = 3


@dataclass
class Scene:
    """A worker, and a Prometheus that watches it."""

    rig: Rig
    prometheus: Prometheus
    where: Path
    port: int
    """Of the worker's metrics."""

    @property
    def keys(self) -> Keys:
        """The key names."""
        return self.rig.keys

    def fires(self, alerts: set[str]) -> None:
        """Wait until these alerts fire, and see that no other does."""
        self.prometheus.wait_for(lambda: self.prometheus.firing() == alerts, f"wanted {alerts}")

    def shows_every_panel(self) -> None:
        """See that each panel of the dashboard has data."""
        for expr in queries():
            self.prometheus.wait_for(partial(self.prometheus.query, expr), expr)

    def is_quiet(self, scrapes: int = QUIET_SCRAPES) -> None:
        """Wait until nothing fired, nor was about to, in so many scrapes one after the other."""
        quiet = _Quiet(self.prometheus)
        self.prometheus.wait_for(lambda: quiet.scrapes() > scrapes, f"no {scrapes} quiet scrapes")


class _Quiet:
    """The time in which no alert fires or is pending: it begins anew when one is."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._ask, self._began = prometheus.query, time.monotonic()

    def scrapes(self) -> float:
        """Return how many it had so far."""
        since = f"[{max(1, int(time.monotonic() - self._began))}s]"
        if self._ask(f"max_over_time(ALERTS{since})"):
            self._began = time.monotonic()
            return 0.0
        found = self._ask(f"count_over_time(sidecar_build_info{since})")
        return float(found[0]["value"][1]) if found else 0.0


@contextmanager
def scene(
    rig: Rig, where: Path, fleet: str, *, hurry: bool = True, **options: Any
) -> Iterator[Scene]:
    """Run both, with a producer that sends now and then, and a reader that keeps up."""
    (where / "prometheus").mkdir()
    port, stop = free_port(), threading.Event()
    settings = build(
        redis=rig.url, source_store="source:", fleet_store=fleet, lease_s=10,
        http=f"127.0.0.1:{port}", **({"archive": True, "archive_every_s": 1} | options),
    )  # fmt: skip
    threads = [
        threading.Thread(target=app.run, args=(settings, silent_log(), stop), daemon=True),
        threading.Thread(target=_a_days_load, args=(rig, stop), daemon=True),
    ]
    with ExitStack() as stack:
        for thread in threads:
            stack.callback(thread.join, PATIENCE_S)
            thread.start()
        stack.callback(stop.set)
        _until_it_serves(port, rig.control)
        prometheus = stack.enter_context(watching(where / "prometheus", port, hurry=hurry))
        prometheus.wait_for(prometheus.has_looked, "a first scrape")
        prometheus.wait_for(lambda: not prometheus.firing(), "begun")  # it was absent until then
        yield Scene(rig, prometheus, where, port)


def _until_it_serves(port: int, stream: str) -> None:
    eventually(lambda: value(scraped(port), "sidecar_owner", stream=stream) == 1)
    eventually(lambda: value(scraped(port), "sidecar_lag_entries", stream=stream) is not None)


def _a_days_load(rig: Rig, stop: threading.Event) -> None:
    client, number = connect(rig.url), 0
    while not stop.wait(0.1):
        number += 1
        event = {"event_id": f"load{number}", "type": "run.abort", "tenant_id": f"l{number % 9}"}
        try:
            client.xadd(rig.control, {"event": json.dumps(event)})
            last: Any = client.xinfo_stream(rig.notify)["last-generated-id"]
            version = EntryId(last.decode()).control_version
            readers.passed(client, rig.keys, "steady", version, 3600)
        except Exception:  # noqa: BLE001 -- what the test brings about
            continue


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do often what is done now and then."""
    monkeypatch.setattr(gathering, "EVERY_S", 0.2)
    monkeypatch.setattr(wiring, "SELDOM_S", 0.2)
    monkeypatch.setattr(housekeeping, "TRIM_EVERY_S", 0.5)


# --- what is brought about -----------------------------------------------------------------------

Fault = Callable[[Scene], Any]
"""Brings something about for as long as the block lasts."""


@contextmanager
def repeated(what: Callable[[], Any], every_s: float = 0.5) -> Iterator[None]:
    """Do something again and again while the block lasts."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            what()
            stop.wait(every_s)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def halted(on: Scene) -> Iterator[None]:
    """Somebody pauses the stream."""
    on.rig.client.hset(on.keys.halt, "reason", "by hand")
    yield
    on.rig.client.hdel(on.keys.halt, "reason")


@contextmanager
def tenant_paused(on: Scene) -> Iterator[None]:
    """Somebody pauses a tenant."""
    who = {"tenant": "t", "by": "op", "now": "now"}
    tenants.pause_tenant(on.rig.client, on.keys, reason="by hand", **who)
    yield
    tenants.resume_tenant(on.rig.client, on.keys, reason="fixed", **who)


@contextmanager
def dead_letters(on: Scene) -> Iterator[None]:
    """A producer sends what is no event."""
    with repeated(lambda: on.rig.add("{")):
        yield


@contextmanager
def out_of_ids(on: Scene) -> Iterator[None]:
    """Somebody gives the dead-letter stream the highest ID."""
    on.rig.client.xadd(on.keys.dead, {"x": "y"}, id="18446744073709551615-1")
    yield
    on.rig.client.delete(on.keys.dead)


@contextmanager
def damaged_register(on: Scene) -> Iterator[None]:
    """The register of workers is overwritten with a string."""
    on.rig.client.set(on.keys.workers, "x")
    yield
    on.rig.client.delete(on.keys.workers)


@contextmanager
def no_owner(on: Scene) -> Iterator[None]:
    """A worker that nobody scrapes takes the lease, and lives."""
    other = Publisher(connect(on.rig.url), on.keys, lease_s=600, dedup_window_s=3600)
    on.rig.client.delete(on.keys.lease)
    while other.acquire() is None:
        on.rig.client.delete(on.keys.lease)
    yield
    other.release()


@contextmanager
def waiting(on: Scene) -> Iterator[None]:
    """The control stream is no stream."""
    client, aside = on.rig.client, f"{on.rig.control}:aside"
    client.rename(on.rig.control, aside)
    client.set(on.rig.control, "x")
    yield
    client.rename(aside, on.rig.control)


@contextmanager
def store_failing(on: Scene) -> Iterator[None]:
    """The source store is away."""

    def away(_: str) -> None:
        raise Unavailable("away")

    on.rig.source.on_get = away
    on.rig.emit_artifact("waits", tenant="w")
    yield
    on.rig.source.on_get = lambda _: None


@contextmanager
def overloaded(on: Scene) -> Iterator[None]:
    """One artifact takes for ever, and its tenant's events fill the window behind it."""
    let_go, sent, client = threading.Event(), count(), connect(on.rig.url)
    on.rig.source.on_get = lambda ref: (let_go.wait(), None)[1] if "flood" in ref else None
    on.rig.emit_artifact("flood", tenant="f")

    def flood() -> None:
        pipeline = client.pipeline(transaction=False)
        for number in islice(sent, 300):
            event = {"event_id": f"behind{number}", "type": "run.abort", "tenant_id": "f"}
            pipeline.xadd(on.rig.control, {"event": json.dumps(event)})
        pipeline.execute()

    try:
        with repeated(flood):
            yield
    finally:
        let_go.set()
    on.rig.source.on_get = lambda _: None


@contextmanager
def redis_filling(on: Scene) -> Iterator[None]:
    """Redis has little more than it uses."""
    client = on.rig.client

    def little() -> None:
        client.config_set("maxmemory", int(client.info()["used_memory"] * 1.08))

    with repeated(little, 0.1):
        yield
    client.config_set("maxmemory", 0)


@contextmanager
def redis_full(on: Scene) -> Iterator[None]:
    """Redis has less than it uses."""
    on.rig.client.config_set("maxmemory", 1_000_000)
    yield
    on.rig.client.config_set("maxmemory", 0)


@contextmanager
def reader_stuck(on: Scene) -> Iterator[None]:
    """A controller that registered does not come back."""
    first: Any = on.rig.client.xrange(on.rig.notify, count=1)
    version = EntryId(first[0][0].decode()).control_version
    readers.passed(on.rig.client, on.keys, "stuck", version, 3600)
    yield
    on.rig.client.delete(on.keys.reader("stuck"))


@contextmanager
def archive_behind(on: Scene) -> Iterator[None]:
    """Another process has the claim to archive, and archives nothing."""
    client, claim = connect(on.rig.url), on.keys.archiving(on.rig.control)
    with repeated(lambda: client.set(claim, "another", px=60_000), 0.05):
        yield
    client.delete(claim)


@contextmanager
def two_fleets(on: Scene) -> Iterator[None]:
    """Another log registers in the fleet store."""
    fleet = logbook.keeper_of(store.open_url(f"file://{on.where}/fleet"))
    assert fleet
    log = logbook.Log("f" * 32, "another", "redis://elsewhere", "2026-01-01T00:00:00Z")
    logbook.register(fleet, log)
    yield
    logbook.forget(fleet, log, logbook.Forgotten("test", "2026-01-01T00:00:00Z", "over"))


@contextmanager
def disk_filling(on: Scene) -> Iterator[None]:
    """The disk of the fleet store is nearly full."""
    filler, disk = on.where / "fleet/filler", os.statvfs(on.where / "fleet")
    filler.write_bytes(bytes((disk.f_bavail - disk.f_blocks * 7 // 100) * disk.f_frsize))
    yield
    filler.unlink()


@contextmanager
def trim_blocked(on: Scene) -> Iterator[None]:
    """A foreign group reads nothing of the notifications."""
    on.rig.client.xgroup_create(on.rig.notify, "foreign", id="0")
    yield
    on.rig.client.xgroup_destroy(on.rig.notify, "foreign")


FAULTS: Final[list[tuple[Fault, set[str]]]] = [
    (halted, {"SidecarHalted"}),
    (tenant_paused, {"SidecarTenantPaused"}),
    (dead_letters, {"SidecarDeadLettersGrowing"}),
    (out_of_ids, {"SidecarOutOfIds"}),
    (damaged_register, {"SidecarBackgroundFailing"}),
    (no_owner, {"SidecarNoOwner"}),
    (waiting, {"SidecarWaiting"}),
    (store_failing, {"SidecarStoreFailing"}),
    (redis_filling, {"SidecarRedisFilling"}),
    (redis_full, {"SidecarRedisFull"}),
    (archive_behind, {"SidecarArchiveBehind"}),
    (two_fleets, {"SidecarTwoFleets"}),
    (disk_filling, {"SidecarDiskFilling"}),
    (trim_blocked, {"SidecarTrimBlocked"}),
    (reader_stuck, {"SidecarReaderStuck", "SidecarTrimBlocked"}),
    (overloaded, {"SidecarLagRising", "SidecarBehind"}),
]


def bring_about(on: Scene, faults: Sequence[tuple[Fault, set[str]]]) -> None:
    """Bring one after the other about; see its alerts fire alone, and end with it."""
    for fault, alerts in faults:
        with fault(on):
            on.fires(alerts)
        on.fires(set())


@pytest.fixture
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room, whatever other processes write to that of this machine."""
    disk = SimpleNamespace(f_bavail=9 << 20, f_frsize=4096, f_blocks=10 << 20, f_files=100,
                           f_favail=90)  # fmt: skip
    monkeypatch.setattr(os, "statvfs", lambda _: disk)


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("stores", "roomy_disk")
def test_alerts_live(rig: Rig, tmp_path: Path) -> None:
    """A healthy worker has no alert; a halt and a dead letter have theirs, and no other."""
    with scene(rig, tmp_path, f"file://{tmp_path}/fleet") as on:
        on.is_quiet()
        on.shows_every_panel()
        bring_about(on, [(halted, {"SidecarHalted"})])
        with dead_letters(on):
            on.fires({"SidecarDeadLettersGrowing"})


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("stores", "roomy_disk")
def test_no_alarm_on_a_healthy_day(rig: Rig, tmp_path: Path) -> None:
    """Nothing fires in as many minutes as `HEALTHY_MINUTES` says, with the rules as they are
    shipped, while events with and without artifacts come and a reader keeps up.
    """
    lasts_s = 60 * float(os.environ.get("HEALTHY_MINUTES", "1"))
    with scene(rig, tmp_path, f"file://{tmp_path}/fleet", hurry=False) as on:
        began, number = time.monotonic(), 0
        while (spent_s := time.monotonic() - began) < lasts_s:
            number += 1
            rig.emit_artifact(f"day{number}", data=b"%d" % number * 1000)
            time.sleep(1)
        eventually(lambda: value(scraped(on.port), "sidecar_lag_entries", stream=rig.control) == 0)
        lags = on.prometheus.query(f"sidecar_archive_lag_seconds[{spent_s:.0f}s:60s]")
        assert on.prometheus.firing(spent_s) == set(), lags
        samples = on.prometheus.query(f"count_over_time(sidecar_build_info[{spent_s:.0f}s])")
        assert float(samples[0]["value"][1]) > spent_s / 2, "it was hardly looked at"
        published = len(rig.published())
    assert published > number


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("stores")
def test_every_alert_live(rig: Rig, tmp_path: Path) -> None:
    """What has an alert is brought about, one after the other: that one fires, and no other."""
    with ExitStack() as stack:
        _small_disk(tmp_path / "fleet", stack)
        on = stack.enter_context(scene(
            rig, tmp_path, f"file://{tmp_path}/fleet",
            trim_notifications="length=5", dedup_window_s=1, retry_budget_s=600,
        ))  # fmt: skip
        on.is_quiet(20)
        bring_about(on, FAULTS)


def _small_disk(where: Path, stack: ExitStack) -> None:
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(where)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    stack.callback(subprocess.run, ["umount", "-l", str(where)], check=False)
