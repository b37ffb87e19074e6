"""`python -m bench.keeping`: what retention of a store with many refs costs, and what it leaves a
worker.

The store lies on a memory disk unless `--dir` names another; each stack has `--versions` refs, of
which ten stay, and Redis a notification of the newest. The passes run in a process of their own,
one after the other until nothing more may go: without rests, as `store gc` does it, or with
`--rests` as a worker does, which takes twenty times as long.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import redis

from bench.million import MEMORY_DISK
from bench.neighbours import disk_at
from sidecar.ops.sweeping import sweep
from sidecar.redis.client import Side
from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.keys import Keys
from sidecar.wire.keeping import unattended
from sidecar.worker.retaining import LONGEST_REST_S, MOST, REST, SLICE_S, Place, SweepOrder
from store import checksum_of
from store.file import FileStore

KEYS = Keys.of("control:events", "control:notifications")
KEPT = 10
DATA = b"x" * 512
SLICE = 100


def main() -> None:
    """Fill, retain, print."""
    parser = argparse.ArgumentParser(prog="bench.keeping", description=__doc__)
    parser.add_argument("--refs", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--rests", action="store_true")
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
            print(f"{options.refs:,} refs were put in {time.perf_counter() - began:.0f} s")
            done = subprocess.run(
                [sys.executable, "-m", "bench.keeping", "run", server.url, str(work / "fleet"),
                 str(int(options.rests))],
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        finally:
            server.close()
    found = json.loads(done.stdout)
    how = "with rests" if options.rests else "without rests"
    print(
        f"{found['gone']:,} refs went in {found['passes']} passes, {how}: {found['wall_s']:.1f} s,"
        f" {found['processor_s']:.1f} s of a processor,"
        f" {found['peak_mib']:.1f} MiB at most, {found['began_mib']:.1f} MiB before"
    )


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


def retain(url: str, root: str, *, rests: bool) -> None:
    """Do passes until nothing more may go."""
    store, side = FileStore(root), Side(redis.Redis.from_url(url), url)
    place = Place("fleet", store, [unattended(f"last={KEPT}")])
    gone = passes = 0
    after, began_mib, began = "", _peak_mib(), time.perf_counter()
    breathe = _Breathing().breathe if rests else lambda: None
    while not passes or after:
        done = sweep(SweepOrder(
            place, side, side, [KEYS], 0.0, MOST, after, "me", collects=False, breathe=breathe
        ))  # fmt: skip
        gone, passes, after = gone + done.refs, passes + 1, done.reached
    print(json.dumps({
        "gone": gone, "passes": passes, "wall_s": time.perf_counter() - began,
        "processor_s": time.process_time(), "peak_mib": _peak_mib(), "began_mib": began_mib,
    }))  # fmt: skip


class _Breathing:
    """Rests as `worker.retaining` does."""

    def __init__(self) -> None:
        self._woke = time.monotonic()

    def breathe(self) -> None:
        """Rest after each slice of work."""
        worked_s = time.monotonic() - self._woke
        if worked_s >= SLICE_S:
            time.sleep(min(REST * worked_s, LONGEST_REST_S))
            self._woke = time.monotonic()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        retain(sys.argv[2], sys.argv[3], rests=sys.argv[4] == "1")
    else:
        main()
