"""Who works while Redis fails over: a producer, the worker, a fleet controller; and their judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import redis

import store
from sidecar.errors import Unreachable
from sidecar.feed import Feed, FeedGap
from sidecar.redis.client import Side, connect
from sidecar.wire.notification import Notification
from tests.faults import outside
from tests.servers import stores
from tests.topology.harness import until

TENANTS: Final = 5
REPLICATED_WITHIN_MS: Final = 500


class _Thread:
    """Does one thing over and over until it is told to stop; what kills it is raised at the end."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Thread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._step()
        except BaseException as error:  # noqa: BLE001 -- raised where the thread is joined
            self._error = error

    def _step(self) -> None:
        raise NotImplementedError


class Producer(_Thread):
    """Sends events one after the other, each until so many replicas have it."""

    def __init__(self, url: str, source: Path, *, replicas: int, pause_s: float = 0.004) -> None:
        super().__init__()
        self._client = connect(url, key=outside.CONTROL)
        self._store = store.open_url(source.as_uri())
        self._replicas = replicas
        self._pause_s = pause_s
        self._next: bytes | None = None
        self.accepted: list[str] = []
        """The event_ids that replicas have, in the order in which they were sent."""

    def _step(self) -> None:
        number = len(self.accepted) + 1
        if self._next is None:
            self._next = self._event(number)
        with suppress(redis.RedisError):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.xadd(outside.CONTROL, {"event": self._next})
            pipeline.wait(self._replicas, REPLICATED_WITHIN_MS)
            if pipeline.execute()[1] >= self._replicas:
                self.accepted.append(f"e{number}")
                self._next = None
        self._stop.wait(self._pause_s)

    def _event(self, number: int) -> bytes:
        tenant = f"t_{number % TENANTS}"
        event: dict[str, Any] = {
            "event_id": f"e{number}", "type": "actor.changed", "tenant_id": tenant,
        }  # fmt: skip
        if number % 4 == 0:
            data, ref = f"data of {number}".encode(), f"rows/{tenant}/{number}"
            self._store.put(ref, data, b"{}")
            event |= {"artifact_ref": ref, "checksum": "sha256:" + sha256(data).hexdigest()}
        return json.dumps(event).encode()


class Controller(_Thread):
    """Follows the feed, and applies each event_id once: the guard that the README asks for."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._feed = Feed(url)
        self._cursor = 0
        self.applied: dict[str, Notification] = {}
        """By event_id, in the order of being applied."""
        self.seen_again = 0
        self.changed: list[str] = []
        """event_ids that came again with another content."""

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._feed.close()

    def _step(self) -> None:
        try:
            found = self._feed.poll(self._cursor, wait_s=0.1)
        except Unreachable:
            self._stop.wait(0.05)
            return
        except FeedGap:
            self._cursor = 0  # a failover took the tail: begin with the oldest, the guard drops it
            return
        for one in found:
            self._cursor = one.control_version
            before = self.applied.setdefault(one.event_id, one)
            if before is not one:
                self.seen_again += 1
                if before.checksum != one.checksum or before.type != one.type:
                    self.changed.append(one.event_id)


class ByKey:
    """A client whose commands go to the node that has their key."""

    def __init__(self, url: str) -> None:
        self._side = Side.open(url, outside.NOTIFICATIONS)

    def __getattr__(self, command: str) -> Any:
        return lambda key, *args, **options: getattr(self._side.at(key), command)(
            key, *args, **options
        )


@dataclass
class Work:
    """All of them at work on one Redis, and what came of it."""

    url: str
    directory: Path
    producer: Producer
    controller: Controller
    worker: subprocess.Popen[bytes]
    troubles: list[str] = field(default_factory=list)

    def goes_on(self) -> None:
        """Wait until what is accepted from now on is applied, too."""
        accepted = len(self.producer.accepted)
        until(lambda: len(self.producer.accepted) > accepted + 5, "the producer continues")
        newest = self.producer.accepted[-1]
        until(lambda: newest in self.controller.applied, "what was accepted is applied")

    def waits(self) -> None:
        """Wait until the worker says from now on that it waits."""
        said = self._said_waiting()
        until(lambda: self._said_waiting() > said, "the worker waits")

    def _said_waiting(self) -> int:
        return sum('"waiting"' in line for line in self.log())

    def log(self) -> list[str]:
        """Return the lines of the worker's log."""
        return (self.directory / "worker.log").read_text().splitlines()

    def violations(self) -> list[str]:
        """Return what is wrong once the producer has stopped; empty when everything holds."""
        accepted, applied = self.producer.accepted, self.controller.applied
        until(lambda: accepted[-1] in applied, "the last accepted event is applied")
        client: Any = ByKey(self.url)
        until(
            lambda: not client.xpending(outside.CONTROL, outside.GROUP)["pending"],
            "everything is finished",
        )
        found = outside.violations(client, self.directory / "fleet")
        notifications = client.xrange(outside.NOTIFICATIONS)
        final = {json.loads(fields[b"event"])["event_id"] for _, fields in notifications}
        found += [f"accepted and not applied: {one}" for one in accepted if one not in applied]
        found += [f"accepted and not published: {one}" for one in accepted if one not in final]
        found += [f"applied and not published: {one}" for one in applied if one not in final]
        found += [f"came again as something else: {one}" for one in self.controller.changed]
        by_tenant: dict[str, list[int]] = {}
        for one in applied.values():
            by_tenant.setdefault(one.tenant_id, []).append(int(one.event_id[1:]))
        found += [
            f"{t} out of order" for t, numbers in by_tenant.items() if numbers != sorted(numbers)
        ]
        return found


@contextmanager
def at_work(url: str, directory: Path, *, replicas: int) -> Iterator[Work]:
    """Let a producer, a worker in a process of its own and a controller work on this Redis."""
    (directory / "source").mkdir()
    with ExitStack() as stack:
        log = stack.enter_context((directory / "worker.log").open("wb"))
        worker = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "run", *stores(directory), "--lease", "1",
             "--wait-replicas", str(replicas)],
            env={**os.environ, "SIDECAR_REDIS": url}, stdout=log, stderr=log,
        )  # fmt: skip
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        controller, producer = (
            Controller(url),
            Producer(url, directory / "source", replicas=replicas),
        )
        stack.enter_context(controller)
        with producer:
            work = Work(url, directory, producer, controller, worker)
            work.goes_on()
            yield work
        work.troubles = work.violations()
