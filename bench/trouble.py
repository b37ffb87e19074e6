"""`python -m bench.trouble`: what tenants in trouble cost the others.

Two hundred tenants send in turns to a worker of its own process, whose stores are below `--dir`. Of
a part of them every artifact is missing (`missing`: held back, and tried again), or no event has a
ref that is one (`dead`: dead letters in a row, until each such tenant is paused). Told of the
others: how many a second are published while all that was sent is worked through, and from entry
to notification the median and the 99th percentile at `--rate`. The rate is held against the share
that the others have of a run without trouble.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis

import store
from bench.events import CONTROL, MANIFEST, NOTIFICATIONS, artifact
from sidecar.redis.keys import Keys
from store import checksum_of
from tests.servers import running, usual
from tests.sidecar.harness import note_nothing_to_prune

TENANTS: Final = 200
KINDS: Final = ("missing", "dead")
WAIT_S: Final = 120.0


class Told(NamedTuple):
    """Of the tenants that are not in trouble."""

    rate: float
    median_ms: float
    p99_ms: float


def main() -> None:
    """Measure, each part beside none, in turns; print."""
    options = argparse.ArgumentParser(prog="python -m bench.trouble", description=__doc__)
    options.add_argument("--count", type=int, default=6000, help="events")
    options.add_argument("--rate", type=int, default=400, help="events a second, of all tenants")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--dir", default="/dev/shm")
    chosen = options.parse_args()
    parts = [(kind, part) for kind in KINDS for part in (1, 10, 50)]
    ratios: dict[tuple[str, int], list[Told]] = {case: [] for case in parts}
    for _ in range(chosen.rounds):
        for kind, part in parts:
            none, some = (measured(chosen, kind, of) for of in (0, part))
            share = none._replace(rate=none.rate * (1 - part / 100))  # what the others have alone
            ratios[kind, part].append(Told(*(b / a for a, b in zip(share, some, strict=True))))
            print(f"{kind} {part:>2} %: {_said(some)}; beside none: {_said(none)}", flush=True)
    for (kind, part), found in ratios.items():
        rate, median, p99 = (statistics.median(each) for each in zip(*found, strict=True))
        print(
            f"{kind} {part:>2} % of tenants: {rate:.2f} of the rate, {median:.2f} times the median,"
            f" {p99:.2f} times the 99th percentile"
        )


def _said(told: Told) -> str:
    return f"{told.rate:,.0f}/s, {told.median_ms:.1f} ms, p99 {told.p99_ms:.1f} ms"


def measured(chosen: argparse.Namespace, kind: str, part: int) -> Told:
    """Measure with `part` of a hundred tenants in trouble."""
    with tempfile.TemporaryDirectory(dir=chosen.dir) as directory, running(usual()) as server:
        client: Any = redis.Redis.from_url(server.url)
        note_nothing_to_prune(client, Keys.of(CONTROL, NOTIFICATIONS))
        events = list(_events(Path(directory), chosen.count, kind, part))
        good = sum(is_good for is_good, _ in events)
        for _, event in events:
            client.xadd(CONTROL, {"event": event})
        began = time.monotonic()
        with _worker(server.url, Path(directory)):
            _until(client, good)
            rate = good / (time.monotonic() - began)
            last = client.xrevrange(NOTIFICATIONS, count=1)[0][0].decode()
            for number, (_, event) in enumerate(events[: chosen.count // 2]):
                again = event.replace(b'"evt', b'"again')
                time.sleep(max(0.0, began_at(number, chosen.rate) - time.monotonic()))
                client.xadd(CONTROL, {"event": again})
            _until(client, good + sum(is_good for is_good, _ in events[: chosen.count // 2]))
        found = client.xrange(NOTIFICATIONS, f"({last}")
    took = sorted(_took_ms(entry, fields) for entry, fields in found)
    return Told(rate, statistics.median(took), took[int(len(took) * 0.99)])


_BEGAN: list[float] = []


def began_at(number: int, rate: int) -> float:
    """Return when the event of this number is due; the first begins the count."""
    if number == 0:
        _BEGAN[:] = [time.monotonic()]
    return _BEGAN[0] + number / rate


def _events(directory: Path, count: int, kind: str, part: int) -> Iterator[tuple[bool, bytes]]:
    source = store.open_url((directory / "source").as_uri())
    for n in range(count):
        tenant = n % TENANTS
        is_good = tenant * part % 100 >= part  # in between: a row of many halts the stream
        ref, data = f"stacks/t{tenant}/web/{n}", artifact(n)
        if is_good or kind == "dead":
            source.put(ref, data, MANIFEST)
        event: dict[str, Any] = {
            "event_id": f"evt_{n}", "type": "run.abort", "tenant_id": f"t{tenant}",
            "artifact_ref": ref, "checksum": checksum_of(data),
        }  # fmt: skip
        if kind == "dead" and not is_good:
            event["artifact_ref"] = f"../{ref}"
        yield is_good, json.dumps(event).encode()


@contextmanager
def _worker(url: str, directory: Path) -> Iterator[None]:
    env = os.environ | {
        "SIDECAR_REDIS": url, "SIDECAR_SOURCE_STORE": (directory / "source").as_uri(),
        "SIDECAR_FLEET_STORE": (directory / "fleet").as_uri(), "SIDECAR_RETRY_BUDGET": "1h",
        "SIDECAR_MAX_CONSECUTIVE_DEAD": "10",
    }  # fmt: skip
    command = [sys.executable, "-m", "sidecar", "run"]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def _until(client: Any, count: int) -> None:  # noqa: ANN401 -- redis-py
    ends = time.monotonic() + WAIT_S
    while client.xlen(NOTIFICATIONS) < count:
        if time.monotonic() > ends:
            raise SystemExit(f"{client.xlen(NOTIFICATIONS)} of {count} were published")
        time.sleep(0.005)


def _took_ms(entry: bytes, fields: dict[bytes, bytes]) -> float:
    ms, _, micros = entry.decode().partition("-")
    came = fields[b"origin"].rpartition(b"/")[2].partition(b"-")[0]
    return int(ms) + int(micros) / 1000 - int(came)


if __name__ == "__main__":
    main()
