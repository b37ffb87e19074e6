"""A worker with little of everything, and every hostile input at once: the good tenants are served.

256 descriptors, 256 MiB, one processor. Memory is bounded by RLIMIT_DATA, which counts what a
process may write to, and not the address space that threads and libraries only reserve.

The ratio is of processor time: what the worker spends until so many good events are published,
alone, against the same beside hostile input. On its one processor that is the ratio of the rates,
and it is not the other processes' business how busy the machine is. An entry must be read before
it can be refused: so the ratio depends on how many hostile ones there are for each good one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from store import checksum_of
from tests import servers
from tests.sidecar.harness import PATIENCE_S, Rig, eventually
from tests.sidecar.test_descriptors import asked, dripping
from tests.sidecar.test_unsettled import touched, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")
Event = bytes
DESCRIPTORS = 256
MEMORY_BYTES = 256 << 20
STACK_BYTES = 1 << 20
EVENTS = int(os.environ.get("LIMITS_EVENTS", "400"))
"""Good events of each half of the run."""
GOOD, RESTLESS, CLIENTS = 4, 30, 300
WANTED, SHARES = 0.8, (4, 1)
"""The ratio to reach with as many good entries for each hostile one as the first share says."""
ROUNDS = 2
"""Of each share the best round counts: other processes take the caches from the worker."""
REASONS = {"forbidden_id", "malformed", "too_large", "forbidden_ref", "artifact_too_large"}
RULES = (
    "--event-id-scope", "{tenant}/*", "--tenant-scope", "{tenant}/*",
    "--tenant-scope", "**/{tenant}/**/*.json", "--max-artifact-size", "1MiB",
    "--max-consecutive-dead", "0", "--retry-budget", "2", "--lease", "2",
)  # fmt: skip


@pytest.fixture
def rig(redis_url: str, client: redis.Redis) -> Rig:
    """Return what emits and looks, on the real, empty server."""
    return Rig(redis_url, client)


def _limit() -> None:
    """Run in the worker, before it is one."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, STACK_BYTES))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@contextmanager
def worker(rig: Rig, directory: Path, port: int) -> Iterator[int]:
    """Run a worker that has little; yields its process ID. It must live at the end."""
    command = [
        sys.executable, "-m", "sidecar", "run", "--source-store",
        f"chassis-file://{directory}/source", "--fleet-store", f"file://{directory}/fleet",
        "--http", f"127.0.0.1:{port}", *RULES,
    ]  # fmt: skip
    env = {**os.environ, "SIDECAR_REDIS": rig.url}
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, env=env, stderr=log, preexec_fn=_limit) as process,  # noqa: PLW1509
    ):
        try:
            yield process.pid
            assert process.poll() is None, (directory / "log").read_text()[-3000:]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()


def good(source: Path, name: str) -> list[Event]:
    """Put artifacts of the good tenants; return their events."""
    events: list[Event] = []
    for number in range(EVENTS):
        tenant, data = f"good{number % GOOD}", f"{name} {number}".encode()
        ref = f"{tenant}/{name}{number}"
        for path in write(source, ref, data):
            os.utime(path, (1e9, 1e9))  # it has lain still for long
        events.append(event(ref, tenant, ref, checksum_of(data)))
    return events


def event(event_id: str, tenant: str, ref: str = "", checksum: str = "", **more: int) -> Event:
    """Return the bytes of an event."""
    body = {"event_id": event_id, "type": "run.abort", "tenant_id": tenant, "artifact_ref": ref,
            "checksum": checksum, **more}  # fmt: skip
    return json.dumps(body).encode()


def bad(number: int) -> Event:
    """Return one hostile entry, of each kind in turn."""
    never, victim = checksum_of(b"never"), f"good{number % GOOD}"
    longest = "/".join(["x" * 200, victim, "a.json/" * 90 + "b"])
    file = number % RESTLESS
    kinds: list[Event] = [
        b"{" * 4000, b"[" * 16_000, b"\xff" * 60_000,
        event(f"{victim}/plain{number}", "thief"),
        event("thief/1", "thief", version=number),
        event(f"thief/s{number}", "thief", longest, never),
        event(f"thief/m{number}", "thief", "thief/none", never),
        event(f"huge/{number}", "huge", "huge/huge", checksum_of(b"huge")),
        event(f"restless/{number}", "restless", f"restless/{file}",
              checksum_of(b"restless %d" % file)),
    ]  # fmt: skip
    return kinds[number % len(kinds)]


def plant(source: Path) -> list[Path]:
    """Write what events will name: files that are touched all the time, a manifest of a GiB."""
    _, manifest = write(source, "huge/huge", b"huge")[::-1]
    with manifest.open("r+b") as file:
        file.truncate(1 << 30)
    return [
        path for n in range(RESTLESS) for path in write(source, f"restless/{n}", b"restless %d" % n)
    ]


def spent_s(pid: int) -> float:
    """Return the processor time that a process has spent, with all its threads, in seconds."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def relayed_s(rig: Rig, pid: int, source: Path, name: str, share: int = 0) -> float:
    """Append good events, all in one go; before every `share`-th of them a bad one, but for 0.

    Return the processor time that the worker took until the good ones were published, in seconds.
    """
    pipeline, events = rig.client.pipeline(transaction=False), good(source, name)
    for number, one in enumerate(events):
        if share and number % share == 0:
            pipeline.xadd(rig.control, {"event": bad(number // share)})
        pipeline.xadd(rig.control, {"event": one})
    before, began = spent_s(pid), time.monotonic()
    pipeline.execute()
    wanted = {f"good{n % GOOD}/{name}{n}" for n in range(EVENTS)}
    while not wanted <= set(rig.published()):
        assert time.monotonic() < began + PATIENCE_S, f"the good events of {name} do not come"
        time.sleep(0.1)  # each look takes time from the worker
    return spent_s(pid) - before


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.slow
@pytest.mark.server
def test_good_tenants_are_served_beside_every_hostile_input(rig: Rig, tmp_path: Path) -> None:
    """All their events are published, the worker lives within its limits, and answers probes."""
    source, port = tmp_path / "source", servers.free_port()
    restless = plant(source)
    most_open = 0
    with ExitStack() as stack:
        pid = stack.enter_context(worker(rig, tmp_path, port))
        eventually(lambda: asked(port, "/livez").endswith(b"ok\n"))
        relayed_s(rig, pid, source, "warm")
        alone_s = min(relayed_s(rig, pid, source, f"plain{n}-") for n in range(ROUNDS))
        stack.enter_context(touched(restless))
        stack.enter_context(dripping(port, CLIENTS))
        beside_s = {
            share: min(relayed_s(rig, pid, source, f"{share}-{n}-", share) for n in range(ROUNDS))
            for share in SHARES
        }
        eventually(lambda: set(rig.reasons()) >= REASONS, "each hostile kind has its end")
        most_open = len(os.listdir(f"/proc/{pid}/fd"))
        assert asked(port, "/livez").endswith(b"ok\n")
        assert json.loads(asked(port, "/readyz").rpartition(b"\r\n")[2])
        peak = peak_bytes(pid)
    for share, spent in beside_s.items():
        wanted = f", wanted {WANTED}" if share == SHARES[0] else ""
        print(  # noqa: T201
            f"{EVENTS} good events, a hostile entry for each {share} of them: ratio"
            f" {alone_s / spent:.2f}{wanted} ({1e3 * alone_s / EVENTS:.2f} ms of the processor for"
            f" each good event alone, {1e3 * spent / EVENTS:.2f} beside)"
        )
    print(f"peak {peak / (1 << 20):.0f} MiB, {most_open} descriptors")  # noqa: T201
    assert peak < MEMORY_BYTES
    assert most_open < DESCRIPTORS
