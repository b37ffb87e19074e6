"""A small fleet for incidents: a real server, real workers, producers, and operators at hand.

A scene plays on it (`scenes`). Everything goes its ordinary way meanwhile: `wait` and `settle` send
events of tenants that have no part in the incident.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis

import store
from sidecar.feed import Feed
from sidecar.producer import Producer
from sidecar.redis.embedded import EmbeddedServer

CONTROL: Final = "control:events"
NOTIFY: Final = "control:notifications"
DEAD: Final = "{control:notifications}:dead"
GROUP: Final = "sidecar:control:notifications"
BYSTANDERS: Final = tuple(f"t_{name}" for name in ("ash", "birch", "cedar", "elm", "fir", "oak"))
PATIENCE_S: Final = 90.0
BUDGET_S: Final = 6
"""How long the workers try again (--retry-budget)."""
ROW: Final = 25
"""So many dead letters in a row halt or pause (--max-consecutive-dead)."""
LARGEST: Final = 100_000
"""The workers' --max-artifact-size, in bytes."""
SETTINGS: Final = {
    "lease": "2s", "retry-budget": f"{BUDGET_S}s", "max-consecutive-dead": str(ROW),
    "max-artifact-size": str(LARGEST), "log-level": "error",
    "tenant-scope": ("stacks/{tenant}/*", "rows/{tenant}/*"),
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A cause that has to be named, or one that may be: it is true as well."""

    kind: str
    about: str = ""
    """What the finding is about: a tenant, a stack, a ref, an event, a stream; empty is any."""
    ask: str = ""
    """What `explain` is asked for; empty is for everything."""


@dataclass
class Answer:
    """What is true of an incident."""

    causes: list[Named]
    may: list[Named]

    def to_json(self) -> dict[str, Any]:
        """Return it as it lies beside its bundle."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Answer:
        """Return what `to_json` made."""
        return cls(*([Named(**one) for one in told[name]] for name in ("causes", "may")))


class Fleet:
    """What a scene plays on. Everything of it lies in one directory."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.answer = Answer([], [])
        self.source, self.fleet = (directory / name for name in ("source", "fleet"))
        self._server = EmbeddedServer(directory)
        self.url = self._server.url
        self.redis: Any = redis.Redis.from_url(self.url)
        self.store = store.open_url(self.source.absolute().as_uri())
        self.producer = Producer(self.url, CONTROL, self.store)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.environment: dict[str, str] = {}
        """What workers find in their environment, besides what is there."""
        self.rows = 0
        """So many rows were sent; the number of the last is in its event_id."""
        self._versions: dict[str, int] = {}

    def close(self) -> None:
        """End all that runs."""
        while self.workers:
            self.stop(kill=True)
        self.producer.close()
        self.redis.close()
        self._server.close()

    # --- what is true ---------------------------------------------------------------------------

    def caused(self, kind: str, about: str = "", *, ask: str = "") -> None:
        """Put into the answer what `explain` has to name."""
        self.answer.causes.append(Named(kind, about, ask))

    def may(self, kind: str, about: str = "") -> None:
        """Put into the answer what is true as well, but need not be named."""
        self.answer.may.append(Named(kind, about))

    # --- producers ------------------------------------------------------------------------------

    def activate(self, tenant: str, version: int, *, stack: str = "web", **more: Any) -> str:
        """Send a new version of a stack, with its artifact; return its event_id.

        `data` (bytes) is the artifact; None appends an event whose artifact nobody has put.
        """
        ref = more.pop("ref", f"stacks/{tenant}/{stack}/{version}")
        event_id = more.pop("event_id", f"{tenant}-{stack}-{version}")
        data = more.pop("data", f"{tenant} {stack} {version}".encode())
        told = {"type": "stack.activated", "tenant_id": tenant, "stack_id": stack,
                "version": version, "base_version": version - 1, **more}  # fmt: skip
        if data is None:
            self.append(event_id=event_id, artifact_ref=ref, **{"checksum": checksum(ref), **told})
        else:
            self.producer.publish(ref=ref, data=data, manifest=b"{}", event_id=event_id, **told)
        return str(event_id)

    def change(self, tenant: str, **more: Any) -> str:
        """Send a row of a tenant, each time of another; return its event_id."""
        self.rows += 1
        event_id = more.pop("event_id", f"{tenant}-row-{self.rows}")
        ref = more.pop("ref", f"rows/{tenant}/{self.rows}")
        told = {"type": "key.changed", "tenant_id": tenant, **more}
        self.producer.publish(ref=ref, data=event_id.encode(), event_id=event_id, **told)
        return str(event_id)

    def append(self, **event: Any) -> str:
        """Append an event as it is, right or wrong, and no artifact; return its entry's ID."""
        return str(self.redis.xadd(CONTROL, {"event": json.dumps(event)}).decode())

    def ordinary(self, rounds: int = 1) -> None:
        """Send what tenants without a part in the incident send all day."""
        for tenant in BYSTANDERS * rounds:
            if self.random.random() < 0.3:
                self._versions[tenant] = self._versions.get(tenant, 0) + 1
                self.activate(tenant, self._versions[tenant])
            else:
                self.change(tenant)

    def reader(self, name: str, *, ttl_s: int = 600) -> Feed:
        """Return the feed of a controller that registers under this name."""
        return Feed(self.url, notify_stream=NOTIFY, reader=name, reader_ttl_s=ttl_s)

    # --- time -----------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass, with what is ordinary."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.ordinary()
            time.sleep(min(left, self.random.uniform(0.1, 0.4)))

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds. Raises `TimeoutError`, which names it."""
        ends = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > ends:
                raise TimeoutError(f"{what} did not come within {PATIENCE_S:.0f} s")
            time.sleep(0.05)

    def settle(self) -> None:
        """Wait until the workers have finished all that was sent."""
        self.until(self._is_settled, "the end of the queue")

    def _is_settled(self) -> bool:
        try:
            groups = {one["name"].decode(): one for one in self.redis.xinfo_groups(CONTROL)}
            last = self.redis.xinfo_stream(CONTROL)["last-generated-id"]
        except redis.ResponseError:
            return False  # nobody has made it yet
        one = groups.get(GROUP)
        return bool(one and one["pending"] == 0 and one["last-delivered-id"] == last)

    def dead(self, event_id: str) -> str:
        """Wait until an event is dead; return the ID of its dead letter."""
        found: list[str] = []

        def look() -> bool:
            for letter, fields in self.redis.xrange(DEAD):
                if f'"{event_id}"'.encode() in fields[b"event"]:
                    found.append(letter.decode())
            return bool(found)

        self.until(look, f"the dead letter of {event_id}")
        return found[-1]

    # --- workers and operators ------------------------------------------------------------------

    def start(self, **settings: str) -> None:
        """Start a worker, and wait until one serves; `max_artifact_size="5000"` is an option."""
        named = SETTINGS | {name.replace("_", "-"): value for name, value in settings.items()}
        options = [
            word for name, value in named.items()
            for one in ([value] if isinstance(value, str) else value) for word in (f"--{name}", one)
        ]  # fmt: skip
        command = [*_SIDECAR, "run", "--data-dir", str(self.directory), *options]
        environment = clean() | self.environment
        self.workers.append(subprocess.Popen(command, env=environment, start_new_session=True))
        self.until(lambda: self.redis.exists(key(f"lease:{CONTROL}")), "a worker that serves")

    def stand_by(self) -> None:
        """Start a worker beside the one that serves, and wait until it stands by."""
        self.start()
        name, members = f':{self.workers[-1].pid}"'.encode(), key("workers")
        self.until(lambda: any(name in one for one in self.redis.hvals(members)),
                   "a worker that stands by")  # fmt: skip

    def stop(self, *, kill: bool = False) -> None:
        """Stop the worker that was started first, in good order or by SIGKILL."""
        worker = self.workers.pop(0)
        worker.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        worker.wait()

    def restart(self, **settings: str) -> None:
        """Stop the worker in good order, and start one with other settings."""
        self.stop()
        self.start(**settings)

    def freeze(self, seconds: float) -> None:
        """Stop all workers with SIGSTOP for so long."""
        for worker in self.workers:
            worker.send_signal(signal.SIGSTOP)
        self.wait(seconds)
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)

    def sidecar(self, *words: str) -> str:
        """Run a command of the sidecar on this fleet; return what it prints.

        Raises `RuntimeError` with what it says, unless it exits with 0 or 3.
        """
        command = [*_SIDECAR, *words, "--data-dir", str(self.directory)]
        ran = subprocess.run(command, env=clean(), capture_output=True, text=True, check=False)
        if ran.returncode not in (0, 3):
            raise RuntimeError(f"sidecar {' '.join(words)} exits {ran.returncode}: {ran.stderr}")
        return ran.stdout


_SIDECAR: Final = [sys.executable, "-m", "sidecar"]


def checksum(what: str) -> str:
    """Return the checksum of a text, as events pin it."""
    return store.checksum_of(what.encode())


def key(name: str) -> str:
    """Return the name of one of the sidecar's keys, beside the notification stream."""
    return "{control:notifications}:" + name


def clean() -> dict[str, str]:
    """Return the environment without settings of the sidecar."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
