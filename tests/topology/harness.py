"""Redis as it is in production: processes that fail over, stop, wake up and lose each other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from tests import servers

MASTER: Final = "fleet"
DOWN_AFTER_MS: Final = 2000
"""Eight pings: with fewer the Sentinels of a busy machine take a master away that is well."""
PATIENCE_S: Final = 60.0


def until(holds: Callable[[], object], what: str) -> Any:
    """Wait until `holds()` is true, and return what it returned. Redis may be away meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = None
        with suppress(redis.RedisError):
            found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.02)


@dataclass(eq=False)
class Node:
    """One server process, which can be killed, frozen and started again."""

    binary: str
    port: int
    directory: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL of this very node."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *arguments: str) -> None:
        """Start it, with these arguments besides; wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = servers.started(
                self.binary, *self.arguments, *arguments, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if not servers.answers(self.port, self.process):
            raise RuntimeError(f"{self} does not start: {(self.directory / 'log').read_text()}")

    def call(self, *command: str | int) -> Any:
        """Return its answer to one command."""
        with redis.Redis(port=self.port, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*command)

    def role(self) -> str:
        """Return what it takes itself for."""
        return str(self.call("ROLE")[0])

    def freeze(self) -> None:
        """Stop it in mid-work: its connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it continue, as if no time had passed."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once. What it had only in memory is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Remove its files, once it is dead."""
        shutil.rmtree(self.directory)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


def server(directory: Path, *arguments: str, binary: str | None = None) -> Node:
    """Return a server that keeps its data in memory only."""
    binary = binary or servers.path_of(servers.usual())
    port = servers.free_port()
    home = directory / f"server-{port}"
    return Node(
        binary, port, home,
        ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(home), "--save", "",
         "--appendonly", "no", "--repl-diskless-sync-delay", "0", *arguments),
    )  # fmt: skip


@dataclass
class Watched:
    """A master, its replicas, and the Sentinels that watch them."""

    servers: list[Node]
    sentinels: list[Node]

    @property
    def url(self) -> str:
        """The URL that asks the Sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}"

    @property
    def master(self) -> Node:
        """The master, as most of the Sentinels know it."""
        ports = [sentinel.call("SENTINEL", "MASTER", MASTER)["port"] for sentinel in self.sentinels]
        port = max(ports, key=ports.count)
        return next(one for one in self.servers if one.port == int(port))

    @property
    def replicas(self) -> list[Node]:
        """All servers but the master."""
        master = self.master
        return [one for one in self.servers if one is not master]

    def whole(self, replicas: int) -> bool:
        """Tell whether the Sentinels agree on a master that has so many replicas in step."""
        known = [sentinel.call("SENTINEL", "MASTER", MASTER) for sentinel in self.sentinels]
        others = len(self.sentinels) - 1
        if len({one["port"] for one in known}) > 1:
            return False
        if any(
            one["flags"] != "master" or int(one["num-other-sentinels"]) < others for one in known
        ):
            return False
        role = self.master.call("ROLE")
        return role[0] == "master" and len(role[2]) >= replicas

    def fail_over(self, *, frozen: bool = False) -> Node:
        """Take the master away, wait for the next one, and return the one that is gone."""
        gone = self.master
        gone.freeze() if frozen else gone.kill()
        until(lambda: self.master is not gone and self.master.role() == "master", "a new master")
        return gone

    def bring_back(self, node: Node) -> None:
        """Let a server that was killed be a replica of the one that is the master now."""
        node.start("--replicaof", "127.0.0.1", str(self.master.port))


@contextmanager
def watched(directory: Path, *, replicas: int = 2) -> Iterator[Watched]:
    """Run a master, its replicas and three Sentinels, until all of them know each other."""
    with ExitStack() as stack:
        nodes = [server(directory) for _ in range(1 + replicas)]
        for node in nodes:
            stack.callback(node.kill)
            node.start(
                *(("--replicaof", "127.0.0.1", str(nodes[0].port)) if node != nodes[0] else ())
            )
        until(lambda: len(nodes[0].call("ROLE")[2]) == replicas, "the replicas are in step")
        sentinels = [_sentinel(directory, nodes[0]) for _ in range(3)]
        for sentinel in sentinels:
            stack.callback(sentinel.kill)
            sentinel.start(str(sentinel.directory / "conf"), "--sentinel")
            with suppress(redis.ResponseError):  # Redis 6.2 is as slow as it is
                sentinel.call(
                "SENTINEL", "DEBUG", "info-period", "200", "ping-period", "250", "ask-period",
                "100", "publish-period", "200", "min-link-reconnect-period", "200",
            )  # fmt: skip
        found = Watched(nodes, sentinels)
        until(lambda: found.whole(replicas), "the Sentinels know everyone")
        yield found


def _sentinel(directory: Path, master: Node) -> Node:
    port = servers.free_port()
    home = directory / f"sentinel-{port}"
    home.mkdir(parents=True)
    (home / "conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {home}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2\n"
        f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {MASTER} 1500\nsentinel parallel-syncs {MASTER} 2\n"
    )
    return Node(master.binary, port, home)


@dataclass
class Cluster:
    """Masters that share the slots, and a replica of each."""

    masters: list[Node]
    replicas: list[Node]

    @property
    def url(self) -> str:
        """The URL that names two of the masters."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.masters[:2])
        return f"redis+cluster://{hosts}"

    def owner(self, key: str) -> Node:
        """Return the node that has the key's slot."""
        slot = self.masters[-1].call("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in _slots(self.masters[-1]):
            if first <= slot <= last:
                return next(n for n in (*self.masters, *self.replicas) if n.port == port)
        raise AssertionError(f"no node owns slot {slot}")

    def move(self, key: str, target: Node) -> None:
        """Move the key's slot, and all that is in it, as `--cluster reshard` does."""
        source, slot = self.owner(key), self.masters[-1].call("CLUSTER", "KEYSLOT", key)
        ids = {node: node.call("CLUSTER", "MYID") for node in (source, target)}
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while names := source.call("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
        for node in (target, source, *self.masters):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


def _slots(node: Node) -> Any:
    with redis.Redis(port=node.port, decode_responses=True) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("CLUSTER", "SLOTS")
        return connection.read_response()


@contextmanager
def cluster(
    directory: Path, *, replicas: bool = False, binary: str | None = None
) -> Iterator[Cluster]:
    """Run three masters that own a third of the slots each, with a replica each if wanted."""
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
                   "--cluster-replica-validity-factor", "0")  # fmt: skip
        nodes = [server(directory, *options, binary=binary) for _ in range(6 if replicas else 3)]
        for number, node in enumerate(nodes):
            stack.callback(node.kill)
            node.start()
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        masters, others = nodes[:3], nodes[3:]
        bounds = [0, 5461, 10923, 16384]
        for node, first, end in zip(masters, bounds, bounds[1:], strict=False):
            node.call("CLUSTER", "ADDSLOTS", *range(first, end))
        for node in nodes[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        until(lambda: all(_knows(node, len(nodes)) for node in nodes), "the nodes know each other")
        for master, replica in zip(masters, others, strict=False):
            replica.call("CLUSTER", "REPLICATE", master.call("CLUSTER", "MYID"))
        until(lambda: all(_is_up(node, bool(replicas)) for node in nodes), "the Cluster is up")
        yield Cluster(masters, others)


def _knows(node: Node, count: int) -> bool:
    return f"cluster_known_nodes:{count}" in _info(node)


def _info(node: Node) -> str:
    with redis.Redis(port=node.port) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("CLUSTER", "INFO")
        return str(connection.read_response())


def _is_up(node: Node, replicas: bool) -> bool:
    if "cluster_state:ok" not in _info(node):
        return False
    return all(len(entry) == (4 if replicas else 3) for entry in _slots(node))
