"""`python -m bench.keeping`: what retention of a store with many refs costs, and what it leaves a
worker.

The store lies on a memory disk unless `--dir` names another; each stack has `--versions` refs, of
which ten stay, and Redis a notification of the newest. `--how` says who retains it:

    gc      passes in a process of their own, without rests, as `sidecar store gc` does it
    worker  `sidecar run --keep`, beside whose relay nothing comes: until all went
    busy    `sidecar run`, with `--keep` and without in turns, while its relay carries `--events`
            artifacts of 4 KiB as fast as it can: the ratio of the two rates

A worker's first pass is due at once here; all else is as it is.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.million import MEMORY_DISK
from bench.neighbours import disk_at
from sidecar.cli import main as sidecar
from sidecar.ops.sweeping import sweep
from sidecar.redis.client import Side
from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.keys import Keys
from sidecar.wire.keeping import unattended
from sidecar.wire.removals import removals
from sidecar.worker import retaining
from sidecar.worker.retaining import Place, SweepOrder
from store import checksum_of
from store.file import FileStore

KEYS = Keys.of("control:events", "control:notifications")
KEPT = 10
DATA = b"x" * 512
SLICE = 100
SETTLES_S = 3.0
GRACE_S = 60


def main() -> None:
    """Fill, retain, print."""
    parser = argparse.ArgumentParser(prog="bench.keeping", description=__doc__)
    parser.add_argument("--refs", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--how", choices=("gc", "worker", "busy"), default="gc")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=disk_at, default=MEMORY_DISK)
    options = parser.parse_args()
    stacks = options.refs // options.versions
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        work = Path(directory)
        server = EmbeddedServer(work / "server")
        try:
            _announce(server.url, stacks, options.versions)
            began = time.perf_counter()
            _fill(work / "fleet", stacks, options.versions)
            print(
                f"{options.refs:,} refs were put in {time.perf_counter() - began:.0f} s", flush=True
            )
            if options.how == "gc":
                _by_hand(server.url, work)
                return
            time.sleep(GRACE_S)  # a worker spares what is younger
            if options.how == "worker":
                _beside_nothing(server.url, work, stacks * (options.versions - KEPT))
            else:
                _beside_events(server.url, work, options.events, options.rounds)
        finally:
            server.close()


def _by_hand(url: str, work: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.keeping", "run", url, str(work / "fleet")],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    print(
        f"{found['gone']:,} refs went in {found['passes']} passes, without rests:"
        f" {found['wall_s']:.1f} s, {found['processor_s']:.1f} s of a processor,"
        f" {found['peak_mib']:.1f} MiB at most, {found['began_mib']:.1f} MiB before"
    )


def _beside_nothing(url: str, work: Path, going: int) -> None:
    fleet, began = FileStore(str(work / "fleet")), time.perf_counter()
    with _worker(url, work, keeps=True) as process:
        while _gone(fleet) < going:
            time.sleep(0.5)
            if process.poll() is not None:
                raise SystemExit(f"the worker ended with {process.returncode}")
        took_s, used = time.perf_counter() - began, psutil.Process(process.pid).cpu_times()
        peak_mib = _high_water_mib(process.pid)
    print(
        f"{_gone(fleet):,} refs went beside a worker without events: {took_s:.1f} s from its start,"
        f" {used.user + used.system:.1f} s of a processor, {peak_mib:.1f} MiB at most, all of it"
    )


def _gone(fleet: FileStore) -> int:
    """Return how many refs are on record as gone."""
    return sum(one.counts.get("ref", 0) for one in removals(fleet))


def _high_water_mib(pid: int) -> float:
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(lines["VmHWM"].split()[0]) / 1024


def _beside_events(url: str, work: Path, count: int, rounds: int) -> None:
    fleet, ratios = FileStore(str(work / "fleet")), list[float]()
    for turn in range(rounds):
        rates = {}
        for keeps in (True, False) if turn % 2 else (False, True):
            events, before = _put_events(work / "source", f"{turn}{keeps:d}", count), _gone(fleet)
            with _worker(url, work, keeps=keeps):
                rates[keeps] = _relayed(url, events)
            went = _gone(fleet) - before
            print(f"{rates[keeps]:,.0f} artifacts a second; {went:,} refs went", flush=True)
        ratios.append(rates[True] / rates[False])
    print(
        f"{statistics.median(ratios):.2f} of the rate beside retention; by round"
        f" {' '.join(f'{ratio:.2f}' for ratio in ratios)}"
    )


@contextmanager
def _worker(url: str, work: Path, *, keeps: bool) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "bench.keeping", "worker", "--redis", url,
        "--source-store", (work / "source").as_uri(), "--fleet-store", (work / "fleet").as_uri(),
        "--keep-grace", f"{GRACE_S}s", *(["--keep", f"last={KEPT}"] if keeps else []),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def _put_events(source: Path, name: str, count: int) -> list[bytes]:
    """Put artifacts; return the events that announce them."""
    opened, events = FileStore(str(source)), []
    for n in range(count):
        ref, data = f"rows/{name}/{n}", f"{name} {n} ".encode() * 500
        opened.put(ref, data[:4096], b"manifest")
        events.append(json.dumps({
            "event_id": ref, "type": "run.abort", "tenant_id": f"t{n % 50}", "artifact_ref": ref,
            "checksum": checksum_of(data[:4096]),
        }).encode())  # fmt: skip
    return events


def _relayed(url: str, events: list[bytes]) -> float:
    """Return how many of these the worker publishes a second, once it and retention are at it."""
    client = redis.Redis.from_url(url)
    _append(client, events[:1])
    before, settles = client.xlen(KEYS.notifications), time.perf_counter() + SETTLES_S
    while client.xlen(KEYS.notifications) == before or time.perf_counter() < settles:
        time.sleep(0.01)
    before, began = client.xlen(KEYS.notifications), time.perf_counter()
    _append(client, events[1:])
    while client.xlen(KEYS.notifications) < before + len(events) - 1:
        time.sleep(0.005)
    return (len(events) - 1) / (time.perf_counter() - began)


def _append(client: redis.Redis, events: list[bytes]) -> None:
    with client.pipeline(transaction=False) as pipe:
        for event in events:
            pipe.xadd(KEYS.control, {"event": event})
        pipe.execute()


def _ref(stack: int, version: int) -> str:
    return f"stacks/t{stack % 200}/s{stack}/{version}"


def _announce(url: str, stacks: int, versions: int) -> None:
    """Announce the newest version of each stack."""
    client = redis.Redis.from_url(url)
    with client.pipeline(transaction=False) as pipe:
        for stack in range(stacks):
            event = {
                "event_id": f"e{stack}", "type": "stack.activated", "tenant_id": f"t{stack % 200}",
                "stack_id": f"s{stack}", "version": versions, "checksum": checksum_of(DATA),
                "artifact_ref": _ref(stack, versions),
            }  # fmt: skip
            fields = {"event": json.dumps(event), "origin": f"{KEYS.control}/{stack + 1}-1"}
            pipe.xadd(KEYS.notifications, fields)  # type: ignore[arg-type]
            if not stack % 1000:
                pipe.execute()
        pipe.execute()


def _fill(root: Path, stacks: int, versions: int) -> None:
    FileStore(str(root))
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_put, str(root), versions), range(0, stacks, SLICE)))


def _put(root: str, versions: int, first: int) -> None:
    store = FileStore(root)
    for stack in range(first, first + SLICE):
        for version in range(1, versions + 1):
            store.put(_ref(stack, version), DATA, b"manifest")


# --- what runs in a process of its own -----------------------------------------------------


def retain(url: str, root: str) -> None:
    """Do passes until nothing more may go."""
    store, side = FileStore(root), Side(redis.Redis.from_url(url), url)
    place = Place("fleet", store, [unattended(f"last={KEPT}")])
    gone = passes = 0
    after, began_mib, began = "", _peak_mib(), time.perf_counter()
    while not passes or after:
        done = sweep(SweepOrder(
            place, side, side, [KEYS], 0.0, retaining.MOST, after, "me", collects=False,
            breathe=lambda: None,
        ))  # fmt: skip
        gone, passes, after = gone + done.refs, passes + 1, done.reached
    print(json.dumps({
        "gone": gone, "passes": passes, "wall_s": time.perf_counter() - began,
        "processor_s": time.process_time(), "peak_mib": _peak_mib(), "began_mib": began_mib,
    }))  # fmt: skip


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(arguments: list[str]) -> None:
    """Be a worker whose first pass is due at once."""
    soon: Any = retaining
    soon.FIRST_S, soon.LOOK_EVERY_S = 0.0, 0.1
    sys.argv = ["sidecar", "run", *arguments]
    sidecar()


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        retain(sys.argv[2], sys.argv[3])
    elif sys.argv[1:2] == ["worker"]:
        work(sys.argv[2:])
    else:
        main()
