"""`sidecar tenant erase`, killed at random beside a worker, producers and garbage collection."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest
import redis

import store
from sidecar.redis.tenants import read_paused
from sidecar.wire.erasures import Erasures, erasures
from store import checksum_of
from tests.cli.harness import KEYS, NOTIFICATIONS, STREAM, Cli
from tests.store.harness import raw_files

KILLS: Final = int(os.environ.get("ERASE_KILLS", "20"))
TAKEN: Final = b"all that is t1's"
STEADY: Final = "t2"
DEADLINE_S: Final = 60.0


class Producers:
    """Two tenants' producers: each puts a new version, announces it, and begins again."""

    def __init__(self, sidecar: Cli) -> None:
        self._source = store.open_url((sidecar.directory / "data-dir/source").as_uri())
        self._client = redis.Redis.from_url(sidecar.url)
        self.put: dict[str, list[tuple[str, bytes]]] = {"t1": [], STEADY: []}
        self.at_work = threading.Event()

    def bring(self, tenant: str) -> None:
        """Put one version, large or small, and announce it."""
        number = len(self.put[tenant])
        what = TAKEN if tenant == "t1" else b"what stays"
        data = b"%b %d " % (what, number) + bytes(70_000 * (number % 3 == 0))
        ref = f"stacks/{tenant}/web/{number}"
        self._source.put(ref, data, b"{}")
        event = {
            "event_id": ref, "type": "stack.activated", "tenant_id": tenant, "stack_id": "web",
            "version": number + 1, "artifact_ref": ref, "checksum": checksum_of(data),
        }  # fmt: skip
        self._client.xadd(STREAM, {"event": json.dumps(event)})
        self.put[tenant].append((ref, data))

    @contextmanager
    def working(self, tenant: str) -> Iterator[None]:
        """Let a producer work for the block."""
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                self.bring(tenant)
                done.wait(0.01)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@pytest.mark.slow
def test_killed_at_random_beside_all_others(sidecar: Cli) -> None:
    """The other tenant loses nothing; of the one that left no byte is left, and none comes back."""
    sidecar.lay_out("source", "fleet")
    producers, chance = Producers(sidecar), random.Random(7)
    fleet = store.versioned(
        store.open_url((sidecar.directory / "data-dir/fleet").as_uri()), store.Capability.PURGE
    )
    assert fleet
    with sidecar.running("run", "--retry-budget", "0"), producers.working(STEADY):
        took_s, killed = 1.5, 0
        for turn in range(KILLS):
            for _ in range(5):
                producers.bring("t1")
            _ended(sidecar, "t1", len(producers.put["t1"]))
            argv = ("tenant", "erase", "t1", "--reason", f"turn {turn}", "--continue")
            began = time.monotonic()
            with sidecar.running(*argv) as erasing:
                with suppress(subprocess.TimeoutExpired):  # wherever in it, whatever the load is
                    erasing.wait(chance.uniform(0.2, 1.1) * took_s)
                    took_s = (took_s + time.monotonic() - began) / 2
                if erasing.poll() is None:
                    took_s *= 1.02
                    killed += 1
                erasing.kill()
                erasing.wait()
            if turn % 5 == 0:
                ran = sidecar("store", "gc", "--grace", "0", "--allow-short-grace")
                assert ran.code == 0, ran.err
        deadline = time.monotonic() + DEADLINE_S
        while (
            ran := sidecar("tenant", "erase", "t1", "--reason", "at last", "--continue")
        ).code == 2:
            assert time.monotonic() < deadline, ran.err
            time.sleep(0.1)
        assert ran.code == 0, ran.err
        assert TAKEN not in raw_files(sidecar.directory / "data-dir")
    sidecar.work()
    assert killed > KILLS / 2
    _check(sidecar, producers, fleet)
    producers.close()


def _ended(sidecar: Cli, tenant: str, count: int) -> None:
    """Wait until so many events of the tenant were published."""
    deadline = time.monotonic() + DEADLINE_S
    needle = f'"tenant_id":"{tenant}"'.encode()
    while True:
        if read_paused(sidecar.client, KEYS).tenants:  # of a run that was killed
            return
        found = sidecar.client.xrange(NOTIFICATIONS)
        if sum(needle in fields[b"event"] for _, fields in found or ()) >= count:  # type: ignore[index]
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _check(sidecar: Cli, producers: Producers, fleet: store.VersionedStore) -> None:
    on_record = Erasures(fleet)
    for ref, data in producers.put[STEADY]:
        assert fleet.get(ref, checksum=checksum_of(data)).data == data
    for ref, data in producers.put["t1"]:
        assert on_record.find(ref, checksum_of(data)), ref
    assert not read_paused(sidecar.client, KEYS).tenants
    assert erasures(fleet)[-1].complete
    ran = sidecar("audit", "--json")
    assert ran.code == 0, ran.out
