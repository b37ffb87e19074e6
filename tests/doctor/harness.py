"""A deployment that doctor looks at."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import redis

from sidecar import __version__
from tests import servers
from tests.cli.harness import KEYS, NOTIFICATIONS, STREAM, Cli, Ran
from tests.deploy.harness import DEPLOY
from tests.servers import Server

AOF: Final = ("--appendonly", "yes")
_AS_IT_WAS: Final = {
    "maxmemory-policy": "noeviction", "maxmemory": "0", "appendonly": "yes",
    "appendfsync": "everysec", "min-replicas-to-write": "0", "maxclients": "4000",
}  # fmt: skip


def settled(client: redis.Redis) -> None:
    """Undo what a test before did to the server."""
    for name, value in _AS_IT_WAS.items():
        client.config_set(name, value)
    client.flushall()
    others: list[Any] = [user for user in client.acl_users() if user != "default"]
    if others:
        client.acl_deluser(*others)


@dataclass
class Place:
    """One deployment; `break_it` functions get it."""

    cli: Cli
    monkeypatch: pytest.MonkeyPatch
    disk: SimpleNamespace
    """What statvfs says."""
    mounts: Path
    """What stands for /proc/mounts."""
    args: list[str] = field(default_factory=list)
    """What doctor is told besides."""
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def client(self) -> redis.Redis:
        """A connection to its server, with every right."""
        return self.cli.client

    @property
    def root(self) -> Path:
        """The directory with the stores."""
        return self.cli.directory / "data-dir"

    def send(self, *words: str) -> None:
        """Send a command, with every right."""
        self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def live(self) -> None:
        """Relay an event with an artifact."""
        self.cli.bring("e-1", "rows/a", b"x" * 9000)
        self.cli.work()

    def doctor(self) -> tuple[Ran, list[dict[str, Any]]]:
        """Run doctor; return how it ended, and what it found."""
        ran = self.cli("doctor", "--json", *self.args, env=self._stores())
        return ran, ran.objects()

    def check(self) -> Ran:
        """Run what looks at the same before a start."""
        return self.cli("run", "--check", *self.args, env=self._stores())

    def _stores(self) -> dict[str, str]:
        return self.cli.stores(wanted=True) if self.cli.url else {}

    def server(self, kind: str, *arguments: str) -> Server:
        """Run another server, until the test ends; the deployment moves there, empty."""
        server = self.stack.enter_context(servers.running(kind, arguments=(*AOF, *arguments)))
        self.cli.url = server.url
        self.cli.client = self.stack.enter_context(redis.Redis.from_url(server.url, protocol=2))
        return server

    def as_user(self, *more: str, user: str = "sidecar") -> None:
        """Ask as a user with the rights of a worker, or another, then changed by `more`."""
        lines = (DEPLOY / "redis" / "users.acl").read_text().splitlines()
        words = next(line for line in lines if line.startswith(f"user {user} ")).split()[2:]
        rights = [word for word in words if not word.startswith("#")]
        self.send("ACL", "SETUSER", user, *rights, ">pass", *more)
        self.cli.url = f"redis://{user}:pass@127.0.0.1:{urlsplit(self.cli.url).port}/0"

    def reader(self, name: str, age_s: float, silent_s: float, ttl_s: int = 600) -> None:
        """Plant a registered reader."""
        now = time.time_ns() // 1000
        line = f"{now - int(age_s * 1e6)} {now - int(silent_s * 1e6)} {ttl_s}"
        self.client.set(KEYS.reader(name), line)
        self.client.sadd(KEYS.registered, name)

    def worker(self, name: str = "other:1", **more: Any) -> None:
        """Plant a worker in the register."""
        told = {"name": name, "version": __version__, "serves": [STREAM], "owns": [],
                "held": [], "beat": 1}  # fmt: skip
        self.client.hset(KEYS.workers, name.encode().hex().zfill(16), json.dumps(told | more))

    def notification(self, at_ms: int) -> None:
        """Plant a notification with the ID of a time, in milliseconds since the epoch."""
        event = {"id": 0, "event_id": "planted", "type": "run.abort", "control_version": 1}
        self.cli.notification(event, f"{at_ms}-0", f"{STREAM}/{at_ms}-0")

    def append(self, entry_id: str = "*", stream: str = STREAM) -> None:
        """Append an event by hand."""
        event = json.dumps({"event_id": entry_id, "type": "run.abort", "tenant_id": "t"})
        self.client.xadd(stream, {"event": event}, id=entry_id)


__all__ = ["KEYS", "NOTIFICATIONS", "STREAM", "Place", "settled"]
