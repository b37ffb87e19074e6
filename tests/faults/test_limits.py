"""A worker with little of everything, and every hostile input at once: the good tenants are served.

256 descriptors, 256 MiB, one processor. Memory is bounded by RLIMIT_DATA, which counts what a
process may write to, and not the address space that threads and libraries only reserve.
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


def relayed_s(rig: Rig, source: Path, name: str, *, beside: bool = False) -> float:
    """Append good events, with as many bad ones between them if `beside`, all in one go.

    Return how long it took until the good ones were published, in seconds.
    """
    pipeline, events = rig.client.pipeline(transaction=False), good(source, name)
    for number, one in enumerate(events):
        if beside:
            pipeline.xadd(rig.control, {"event": bad(number)})
        pipeline.xadd(rig.control, {"event": one})
    began = time.monotonic()
    pipeline.execute()
    wanted = {f"good{n % GOOD}/{name}{n}" for n in range(EVENTS)}
    while not wanted <= set(rig.published()):
        assert time.monotonic() < began + PATIENCE_S, f"the good events of {name} do not come"
        time.sleep(0.1)  # each look takes time from the worker
    return time.monotonic() - began


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
        relayed_s(rig, source, "warm")
        alone_s = relayed_s(rig, source, "plain")
        stack.enter_context(touched(restless))
        stack.enter_context(dripping(port, CLIENTS))
        beside_s = relayed_s(rig, source, "beside", beside=True)
        eventually(lambda: set(rig.reasons()) >= REASONS, "each hostile kind has its end")
        most_open = len(os.listdir(f"/proc/{pid}/fd"))
        assert asked(port, "/livez").endswith(b"ok\n")
        assert json.loads(asked(port, "/readyz").rpartition(b"\r\n")[2])
        peak = peak_bytes(pid)
    print(  # noqa: T201
        f"{EVENTS} good events: {EVENTS / alone_s:.0f} per second alone, {EVENTS / beside_s:.0f}"
        f" beside hostile input (ratio {alone_s / beside_s:.2f}); peak {peak / (1 << 20):.0f} MiB,"
        f" {most_open} descriptors"
    )
    assert peak < MEMORY_BYTES
    assert most_open < DESCRIPTORS
