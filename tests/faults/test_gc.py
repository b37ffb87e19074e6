"""Garbage collection beside a worker, a producer and a reader at full speed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

import store
from tests.cli.harness import DEAD, NOTIFICATIONS, STREAM, Cli

NOW: Final = ("--grace", "0", "--allow-short-grace")
GRACE: Final = ("--grace", "1s", "--allow-short-grace")
RETAINED: Final = 50
"""Notifications that trimming leaves behind the reader: their artifacts must stay."""
PATIENCE_S: Final = 120.0
STALL_EVERY_S: Final = 4.0
STALL_S: Final = 2.5
"""The worker stands still that long: what waits is superseded by then, and older than the grace."""

_PRODUCER: Final = """
import itertools, random, sys
import store
from sidecar.producer import Producer

url, source = sys.argv[1:]
producer = Producer(url, "control:events", store.open_url(source))
rng = random.Random(1)
for i in itertools.count():
    # Few refs and few contents: refs come back to contents that they had, and share objects.
    data = b"%d" % rng.randrange(200) + b"x" * rng.choice((10, 100_000))
    producer.publish(
        type="key.changed", ref=f"rows/{rng.randrange(4)}", data=data, manifest=b"m%d" % (i % 3)
    )
"""


@pytest.fixture
def sidecar(redis_url: str, client: redis.Redis, tmp_path: Path) -> Cli:
    """The commands, on the real, empty server and an empty data directory."""
    return Cli(redis_url, tmp_path, client)


class _Collector(threading.Thread):
    """Collects the garbage of one store in a loop, each time by a process of its own."""

    def __init__(self, sidecar: Cli, url: str, stop: threading.Event) -> None:
        super().__init__()
        self._sidecar = sidecar
        self._url = url
        self._stopped = stop
        self.removed: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            ran = self._sidecar.process("store", "gc", "--store", self._url, *GRACE, "--json")
            if ran.code:
                self.failures.append(ran.err)
                return
            summary = ran.objects()[-1]["summary"]
            self.removed.update(versions=summary["versions"], objects=summary["objects"])


class _Staller(threading.Thread):
    """Stops the worker now and then, so that events wait."""

    def __init__(self, worker: subprocess.Popen[bytes], stop: threading.Event) -> None:
        super().__init__()
        self._worker = worker
        self._stopped = stop

    def run(self) -> None:
        while not self._stopped.wait(STALL_EVERY_S - STALL_S):
            self._worker.send_signal(signal.SIGSTOP)
            self._stopped.wait(STALL_S)
            self._worker.send_signal(signal.SIGCONT)


class _Reader:
    """Resolves every notification by its pin, then trims what it has passed."""

    def __init__(self, client: redis.Redis, fleet: store.VersionedStore) -> None:
        self._client = client
        self._fleet = fleet
        self._passed: list[tuple[str, str]] = []
        self._last = "-"
        self.resolved = 0

    def advance(self) -> None:
        """Read on to the end, and trim both streams up to a few notifications before it."""
        found: Any = self._client.xrange(NOTIFICATIONS, self._last, count=100)
        for entry, fields in found:
            self.resolve(fields)
            origin = fields[b"origin"].decode().rpartition("/")[2]
            self._passed.append((entry.decode(), origin))
            self._last = f"({entry.decode()}"
        if len(self._passed) > RETAINED:
            del self._passed[:-RETAINED]
            self._client.xtrim(NOTIFICATIONS, minid=self._passed[0][0], approximate=False)
            # All of one tenant, so in order: whatever lies before it is done.
            self._client.xtrim(STREAM, minid=self._passed[-1][1], approximate=False)

    def resolve(self, fields: dict[bytes, bytes]) -> None:
        event = json.loads(fields[b"event"])
        pin = {name: event[name] for name in ("checksum", "manifest_checksum")}
        data, manifest = self._fleet.get(event["artifact_ref"], **pin)
        assert store.checksum_of(data) == pin["checksum"]
        assert store.checksum_of(manifest) == pin["manifest_checksum"]
        self.resolved += 1


@contextmanager
def _producer(sidecar: Cli, source: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _PRODUCER, sidecar.url, source]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "duration_s",
    [pytest.param(4, marks=pytest.mark.proof), pytest.param(60, marks=pytest.mark.slow)],
)
def test_whatever_is_named_stays(sidecar: Cli, client: redis.Redis, duration_s: int) -> None:
    """Every notification resolves by its pin, no event dies, and garbage goes."""
    root = sidecar.directory / "data-dir"
    urls = [(root / name).as_uri() for name in ("source", "fleet")]
    source, fleet = map(store.open_url, urls)
    versioned = store.versioned(fleet, store.Capability.PINNED_GET)
    assert versioned
    reader = _Reader(client, versioned)
    stop = threading.Event()
    collectors = [_Collector(sidecar, url, stop) for url in urls]
    with sidecar.running("run", "--retry-budget", "0", "--log-level", "error") as worker:
        with _producer(sidecar, urls[0]) as producer:
            _until(lambda: client.xlen(NOTIFICATIONS) > 0)
            threads = [*collectors, _Staller(worker, stop)]
            for thread in threads:
                thread.start()
            try:
                started = time.monotonic()
                while not (_went(collectors) and time.monotonic() > started + duration_s):
                    reader.advance()
                    assert producer.poll() is None
                    assert time.monotonic() < started + duration_s + PATIENCE_S
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        _until(lambda: _all_done(client, reader))
    assert [collector.failures for collector in collectors] == [[], []]
    assert client.xlen(DEAD) == 0
    for url in urls:  # once more, now that nobody stores
        assert sidecar("store", "gc", "--store", url, *NOW).code == 0
    retained: Any = client.xrange(NOTIFICATIONS)
    assert len(retained) >= RETAINED
    for _, fields in retained:
        reader.resolve(fields)
    for opened in (source, fleet):
        assert _damage(opened) == []


def _went(collectors: list[_Collector]) -> bool:
    """Tell whether garbage of either kind went from each store."""
    return all(one.removed["versions"] and one.removed["objects"] for one in collectors)


def _until(happens: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _all_done(client: redis.Redis, reader: _Reader) -> bool:
    reader.advance()
    group: Any = client.xinfo_groups(STREAM)[0]
    last: Any = client.xinfo_stream(STREAM)["last-generated-id"]
    return bool(group["last-delivered-id"] == last and not group["pending"])


def _damage(opened: store.Store) -> list[store.Checked]:
    verified = store.versioned(opened, store.Capability.VERIFY)
    assert verified
    return [checked for checked in verified.verify() if checked.error]
