"""Processes of several releases beside each other: workers, a producer, a feed, commands."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests import servers
from tests.faults.zygote import REPOSITORY

PRODUCER: Final = """
import sys, time, store
from sidecar.producer import Producer
url, source, _, name = sys.argv[1:]
producer = Producer(url, "control:events", store.open_url(source))
for number in range(1_000_000):
    producer.publish(type="actor.changed", event_id=f"{name}:{number}", manifest=b"of it",
                     tenant_id=f"{name}{number % 3}", ref=f"{name}/{number % 50}",
                     data=b"%d" % number)
    print(f"{name}:{number}", flush=True)
    time.sleep(0.1)
"""
FEED: Final = """
import sys, store
from sidecar.feed import Feed
url, _, fleet, name = sys.argv[1:]
feed = Feed(url, store=store.open_url(fleet), reader=name)
for one in feed.follow(since=0):
    if one.artifact_ref:
        feed.resolve(one)
    feed.passed(feed.position)
    print(one.event_id, flush=True)
"""


@dataclass(frozen=True)
class Release:
    """A release's code, in a directory."""

    product: Path
    name: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of Python in which this release is imported."""
        return [sys.executable, "-P", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """What has this release imported, and no other."""
        return {**os.environ, "PYTHONPATH": str(self.product)}

    def sidecar(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command("-m", "sidecar", *arguments), env=self.environment, text=True,
            check=False, capture_output=True, timeout=300,
        )  # fmt: skip


TODAY: Final = Release(REPOSITORY, "today")


def earlier(commit: str, directory: Path) -> Release:
    """Unpack the code of a commit; without the history, skip the test, or fail it in CI."""
    packed = subprocess.run(
        ["git", "archive", commit, "sidecar", "store"], cwd=REPOSITORY, check=False,
        capture_output=True,
    )  # fmt: skip
    if packed.returncode:
        servers.missing(f"the commit {commit}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return Release(directory, commit)


@dataclass
class Workers:
    """Starts workers of the release that is chosen at the time."""

    release: Release
    _started: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, arguments: list[str], log: Path) -> int:
        """Start `sidecar` with these arguments, its standard error in `log`; return its PID."""
        with log.open("ab") as err:
            process = subprocess.Popen(
                self.release.command("-m", "sidecar", *arguments), stderr=err,
                env=self.release.environment, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self._started[process.pid] = process
        return process.pid

    def poll(self, pid: int) -> int | None:
        """Return a worker's exit code, None while it lives."""
        return self._started[pid].poll()

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return a worker's exit code, None when it lives on after `timeout_s`."""
        try:
            return self._started[pid].wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Kill every worker that is left."""
        for process in self._started.values():
            process.kill()
            process.wait()


@dataclass
class Party:
    """A producer or a feed that runs, and what it printed."""

    process: subprocess.Popen[bytes]
    log: Path

    def printed(self) -> list[str]:
        """Return its whole lines so far; it must live."""
        assert self.process.poll() is None, self.log.read_text()
        return self.log.read_text().rpartition("\n")[0].splitlines()

    def stop(self) -> list[str]:
        """End it; return its lines."""
        printed = self.printed()
        self.process.kill()
        self.process.wait()
        return printed


@contextmanager
def party(release: Release, script: str, name: str, where: Sequence[str]) -> Iterator[Party]:
    """Run a script with this release: its Redis, source store and fleet store, and its name."""
    log = Path(where[-1].removeprefix("file://")).with_name(f"{name}.out")
    with log.open("wb") as out:
        process = subprocess.Popen(
            release.command("-c", script, *where, name), env=release.environment, stdout=out,
            stderr=out,
        )  # fmt: skip
    try:
        yield Party(process, log)
    finally:
        process.kill()
        process.wait()


def wait_for(party: Party, words: set[str], timeout_s: float = 120.0) -> None:
    """Wait until a party has printed all these lines."""
    deadline = time.monotonic() + timeout_s
    while missing := words - set(party.printed()):
        assert time.monotonic() < deadline, f"{len(missing)} never came: {sorted(missing)[:5]}"
        time.sleep(0.05)
