"""Real servers with the users of deploy/redis/users.acl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import yaml

from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from tests import servers
from tests.proofs import sampled

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
STREAM: Final = "control:events"
NOTIFY_STREAM: Final = "control:notifications"
KEYS: Final = Keys.of(STREAM, NOTIFY_STREAM)
USERS: Final = (
    "sidecar", "producer", "waiter", "controller", "operator", "halter", "redriver",
    "repairer", "collector", "eraser", "rescuer", "health",
)  # fmt: skip

ALSO_ON_A_CLUSTER: Final = sampled([servers.usual(), "cluster"], [servers.usual()])
ON_EACH_SERVER: Final = sampled(["valkey", "redis-6.2", "path"], ["valkey"])
WAY: Final = {"role", "cluster|slots"}
"""What is sent only where a Sentinel or a Cluster tells the way."""


@dataclass(frozen=True)
class Server:
    """A running server, and what `deploy/secrets.sh` made for it."""

    port: int
    secrets: Path
    root: Path
    is_cluster: bool = False

    def url(self, user: str) -> str:
        """Return the Redis URL that was made for `user`."""
        return (self.secrets / f"{user}-redis-url").read_text().strip()

    def client(self, user: str) -> redis.Redis:
        """Return a client that logs in as `user`."""
        if user == "admin":  # the test's own
            return connect(f"redis://admin:any@127.0.0.1:{self.port}/0")
        if user == "health":
            password = (self.secrets / "health-password").read_text()
            return connect(f"redis://health:{password}@127.0.0.1:{self.port}/0")
        return connect(self.url(user), key=STREAM if user == "producer" else NOTIFY_STREAM)

    def call(self, user: str, *command: str | int | bytes) -> Any:
        """Return the answer to one command, sent as `user`."""
        with closing(self.client(user)) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def denials(self) -> set[tuple[str, str]]:
        """Who was denied what so far; without redis-py's greeting, which may fail."""
        log: list[dict[bytes, bytes]] = self.call("admin", "ACL", "LOG", "1000")
        found = {(entry["username"], entry["object"]) for entry in map(_texts, log)}
        return {(user, what) for user, what in found if what not in {"client|setinfo", "client"}}


def _texts(entry: Any) -> dict[str, str]:
    pairs = entry.items() if isinstance(entry, dict) else zip(entry[::2], entry[1::2], strict=True)
    return {_text(key): _text(value) for key, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def run_server(binary: str, acl: str, root: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a server with these users, and one more for the test itself."""
    (root / "users.acl").write_text(acl + "user admin on nopass ~* &* +@all\n")
    options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": root}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return servers.started(
        binary,
        *arguments,
        *more,
        "--aclfile",
        str(root / "users.acl"),
        stdout=subprocess.DEVNULL,
    )


def wait_until_up(ping: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    """Wait for a server that was started to answer."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(redis.ConnectionError):
            ping()
            return
        time.sleep(0.01)
    pytest.fail(f"the server does not start with this ACL file; it ended with {process.poll()}")


_WITH_COMMANDS_BELOW: Final = {"cluster", "memory", "script", "xgroup", "xinfo"}


def _grants(user: str) -> Iterator[tuple[str, str]]:
    """Yield the commands that the file grants, each with the key that alone may come first."""
    lines = (DEPLOY / "redis" / "users.acl").read_text().splitlines()
    words = next(line for line in lines if line.startswith(f"user {user} ")).split()
    for grant in (word[1:] for word in words if word.startswith("+")):
        command, _, key = grant.partition("|")
        below = command in _WITH_COMMANDS_BELOW
        yield (grant, "") if below else (command, key)


def granted(user: str) -> set[str]:
    """Return the commands that the file grants."""
    return {command for command, _ in _grants(user)}


def only_on(user: str) -> dict[str, set[str]]:
    """Return of the commands that the file grants for some keys alone, which these are."""
    found: dict[str, set[str]] = {}
    for command, key in _grants(user):
        if key:
            found.setdefault(command, set()).add(key)
    return found


def unused(server: Server, user: str) -> set[str]:
    """Return which of a user's grants nobody has made use of since CONFIG RESETSTAT."""
    with closing(server.client("admin")) as client:
        stats: Any = client.info("commandstats")
    used = {name.removeprefix("cmdstat_") for name, stat in stats.items() if stat["calls"]}
    if not any("|" in name for name in used):  # 6.2 counts a command and all below it as one
        used |= {grant for grant in granted(user) if grant.split("|")[0] in used}
    return granted(user) - used - {"ping"} - (set() if server.is_cluster else WAY)


def tool(name: str) -> str:
    """Find a program; without it, skip here and fail in CI, where it must be."""
    venv = Path(sys.executable).parent
    found = shutil.which(name, path=os.pathsep.join([str(venv), os.environ.get("PATH", "")]))
    return found or servers.missing(name)


@cache
def manifests(overlay: str) -> str:
    """Return what `kubectl apply -k` would send for an overlay of deploy/kubernetes."""
    command = [tool("kubectl"), "kustomize", str(DEPLOY / "kubernetes" / overlay)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifest(overlay: str, kind: str) -> Any:
    """Return the one object of a kind that an overlay has."""
    (found,) = (one for one in yaml.safe_load_all(manifests(overlay)) if one["kind"] == kind)
    return found


def pod(overlay: str) -> Any:
    """Return the pod in which an overlay has the worker."""
    kind = {"sidecar": "StatefulSet", "standalone": "Deployment"}[overlay]
    return manifest(overlay, kind)["spec"]["template"]["spec"]


def containers(overlay: str) -> dict[str, Any]:
    """Return the containers of that pod, also the native sidecars, by their names."""
    spec = pod(overlay)
    return {one["name"]: one for one in [*spec.get("initContainers", []), *spec["containers"]]}
