"""Real workers on one control stream: who is active, who died, how long a takeover takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from tests import servers
from tests.faults import outside

OPTIONS: Final = ("--max-consecutive-dead", "0", "--store-threads", "4")
LEASE_KEY: Final = "{control:notifications}:lease:control:events"
STATES: Final = frozenset({"active", "standby", "waiting", "recovering", "halted", "stopped"})
POLL_S: Final = 0.002
PATIENCE_S: Final = 60.0
"""How long nothing may come of a fleet that has work."""
REDIS_AWAY: Final = 4
"""The exit code of a worker that finds no Redis when it starts; whoever watches it starts it
again."""


def worker(url: str, data_dir: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a worker by the plain command."""
    command = [sys.executable, "-m", "sidecar", "run", *servers.stores(data_dir)]
    command += ["--lease", "0.3", "--max-consecutive-dead", "0", "--log-level", "error", *options]
    return subprocess.Popen(command, env={**os.environ, "SIDECAR_REDIS": url})


class Stuck(Exception):
    """Nothing comes of the fleet any more."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker, and what its log says."""

    pid: int
    log: Path
    state: str = ""
    since: str = ""
    """When it came into its state, in the words of its log."""
    stalled: bool = False
    _read_bytes: int = 0

    def refresh(self) -> None:
        """Read what is new in the log."""
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            said = _json(line)
            if said.get("event") in STATES:
                self.state, self.since = said["event"], said["timestamp"]

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]


class Starter(Protocol):
    """Starts workers and says what became of them, as `Zygote` does."""

    def start(self, arguments: list[str], log: Path) -> int:
        """Start `sidecar` with these arguments, its standard error in `log`; return its PID."""

    def poll(self, pid: int) -> int | None:
        """Return a worker's exit code, minus the signal that killed it, None while it lives."""

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return a worker's exit code, None when it lives on after `timeout_s`."""


@dataclass
class Fleet:
    """So many workers, kept alive; every one that is gone is replaced."""

    zygote: Starter
    client: Any
    url: str
    """Through the proxy, if there is one."""
    data_dir: Path
    size: int
    lease_s: float
    workers: list[Worker] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _started: int = 0

    def start(self, *options: str) -> Worker:
        """Start a worker."""
        self._started += 1
        log = self.data_dir / f"worker{self._started}.log"
        arguments = ["run", "--redis", self.url, *servers.stores(self.data_dir)]
        arguments += ["--lease", str(self.lease_s), *OPTIONS, *options]
        log.touch()
        return Worker(self.zygote.start(arguments, log), log)

    def fill(self) -> None:
        """Replace who is gone."""
        for each in list(self.workers):
            code = self.zygote.poll(each.pid)
            if code is None:
                continue
            self.workers.remove(each)
            if code != REDIS_AWAY:
                self.violations.append(f"a worker ended by itself with {code}: {each.tail()}")
        while len(self.workers) < self.size:
            self.workers.append(self.start())

    def kill(self, victim: Worker) -> None:
        """Kill a worker with -9."""
        os.kill(victim.pid, signal.SIGKILL)
        self.zygote.wait(victim.pid, PATIENCE_S)
        self.workers.remove(victim)

    def stall(self, victim: Worker) -> None:
        """Stop a worker with SIGSTOP."""
        os.kill(victim.pid, signal.SIGSTOP)
        victim.stalled = True

    def go_on(self, victim: Worker) -> None:
        """Let a stalled worker continue."""
        os.kill(victim.pid, signal.SIGCONT)
        victim.stalled = False

    def terminate(self, victim: Worker) -> None:
        """Ask a worker to stop, and do not wait."""
        os.kill(victim.pid, signal.SIGTERM)
        self.workers.remove(victim)

    def see_off(self, stopped: Worker) -> None:
        """Wait for the end of a worker that was asked to stop."""
        code = self.zygote.wait(stopped.pid, PATIENCE_S)
        if code == -signal.SIGTERM and not stopped.tail():
            return  # it was so young that it could not handle signals yet
        if code not in (0, REDIS_AWAY):
            self.violations.append(f"a worker that was asked to stop: {code}: {stopped.tail()}")

    def active(self) -> Worker | None:
        """Return the worker that says it is active, the last to say so."""
        for each in self.workers:
            each.refresh()
        active = [each for each in self.workers if each.state == "active"]
        return max(active, key=lambda each: each.since, default=None)

    def standbys(self) -> list[Worker]:
        """Return those that are not the active worker."""
        active = self.active()
        return [each for each in self.workers if each is not active and not each.stalled]

    def token(self) -> bytes | None:
        """Return what the lease holds."""
        token: bytes | None = self.client.get(LEASE_KEY)
        return token

    def takeover(self, before: bytes | None, began: float) -> float | None:
        """Wait until the lease holds another token; return the seconds since `began`.

        None when it still holds the token `before` after its time: then its owner lives, and the
        log had not told yet who it was. Raises `Stuck`.
        """
        while True:
            token, now = self.token(), time.monotonic()
            if token not in (None, before):
                return now - began
            if token == before is not None and now > began + self.lease_s + 1:
                return None
            if now > began + PATIENCE_S:
                raise Stuck(f"nobody took over in {PATIENCE_S:g} s: {self.told()}")
            self.fill()
            time.sleep(POLL_S)

    def progress(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait for the next notification. Raises `Stuck`."""
        deadline = time.monotonic() + timeout_s
        before = self.client.xlen(outside.NOTIFICATIONS)
        while self.client.xlen(outside.NOTIFICATIONS) == before:
            if time.monotonic() > deadline:
                raise Stuck(f"nothing was published in {timeout_s:g} s: {self.told()}")
            self.fill()
            time.sleep(POLL_S)

    def until_standby(self) -> bool:
        """Wait a while for a standby that is ready to take over; tell whether there is one."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            self.fill()
            if self.active() and any(each.state == "standby" for each in self.standbys()):
                return True
            time.sleep(POLL_S)
        return False

    def stop(self) -> None:
        """Stop all workers, cleanly."""
        stopping = list(self.workers)
        for each in stopping:
            self.terminate(each)
        for each in stopping:
            self.see_off(each)

    def drain(self) -> None:
        """Let one more worker finish what is there."""
        last = self.start("--drain")
        code = self.zygote.wait(last.pid, 2 * PATIENCE_S)
        if code != 0:
            self.violations.append(f"the drain ended with {code}: {last.tail()}")

    def said(self, event: str) -> int:
        """Return how often any worker, dead or alive, has logged this event."""
        logs = self.data_dir.glob("worker*.log")
        return sum(log.read_bytes().count(f'"event": "{event}"'.encode()) for log in logs)

    def told(self) -> str:
        """Return the ends of the living workers' logs."""
        return " | ".join(f"{each.pid}: {each.tail()[-600:]}" for each in self.workers)


def _json(line: bytes) -> dict[str, Any]:
    """Return what a line says, nothing when it is no JSON object: a traceback, a warning."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def points(kinds: dict[str, int], shuffle: Any) -> Iterator[str]:
    """Yield every kind so many times, in the order that `shuffle` makes of them."""
    drawn = [kind for kind, count in kinds.items() for _ in range(count)]
    shuffle(drawn)
    yield from drawn
