"""A producer that continues while everything around it dies.

It emits new refs, rewritten refs, repeats of what it sent before, and entries that are no event.
What it does not know to be appended, as Redis died meanwhile, it sends again with the same
event_id. So it knows of every event whether there must be a notification in the end.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import redis

import store
from tests.faults import outside

TENANTS = 7
SMALL_BYTES, LARGE_BYTES = 2_000, 100_000
BACKLOG = 3_000
"""Entries that nobody has read, at most, until it waits."""
BAD = (b'{"event_id":"no type"}', b"{", b'{"event_id":"x","type":"unheard.of"}')


class Load:
    """Emits `per_second` entries a second, all of them drawn from `seed`."""

    def __init__(self, url: str, source: Path, seed: int, per_second: float) -> None:
        source.mkdir(exist_ok=True)
        self._client: Any = redis.Redis.from_url(url, socket_timeout=1, protocol=2)
        self._store = store.open_url(source.as_uri())
        self._random = random.Random(f"load {seed}")
        self._pause_s = 1 / per_second
        self._stop = threading.Event()
        self._sent: list[bytes] = []
        self._rewritten: dict[str, bytes] = {}
        self._count = 0
        self.resent = 0
        """How often it did not know whether an entry was appended."""

    @property
    def event_ids(self) -> frozenset[str]:
        """Events that must be published in the end."""
        return frozenset(f"evt_{n}" for n in range(1, self._count + 1))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Produce in a thread of its own; the block's end waits until its last entry is there."""
        self._stop.clear()
        thread = threading.Thread(target=self._produce)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._client.close()

    def emit(self) -> None:
        """Append one entry."""
        kind = self._random.random()
        if kind < 0.05 and self._sent:
            raw = self._random.choice(self._sent[-200:])
        elif kind < 0.08:
            raw = self._random.choice(BAD)
        else:
            raw = self._event(with_artifact=kind < 0.7)
            self._sent = [*self._sent[-200:], raw]
        self._append(raw)

    def _produce(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.emit()
            if self._count % 100 == 0:
                self._wait_for_readers()

    def _append(self, raw: bytes) -> None:
        while True:
            try:
                self._client.xadd(outside.CONTROL, {"event": raw})
            except (redis.ConnectionError, redis.TimeoutError):
                self.resent += 1
                threading.Event().wait(0.01)
            else:
                return

    def _wait_for_readers(self) -> None:
        while not self._stop.wait(0.01):
            try:
                groups = self._client.xinfo_groups(outside.CONTROL)
            except (redis.ConnectionError, redis.TimeoutError):
                continue
            if not groups or (groups[0].get("lag") or 0) < BACKLOG:
                return

    def _event(self, *, with_artifact: bool) -> bytes:
        self._count += 1
        tenant = f"t_{self._random.randrange(TENANTS)}"
        event: dict[str, Any] = {
            "event_id": f"evt_{self._count}",
            "type": "actor.changed",
            "tenant_id": tenant,
        }
        if with_artifact:
            event |= self._artifact(tenant)
        return json.dumps(event).encode()

    def _artifact(self, tenant: str) -> dict[str, str]:
        """Put an artifact; a rewritten ref now and then gets what it had before once more."""
        large = self._random.random() < 0.05
        data = self._random.randbytes(LARGE_BYTES if large else SMALL_BYTES)
        ref = f"stacks/{tenant}/{self._count}"
        if self._random.random() < 0.3:
            ref = f"rows/{tenant}/1"
            if self._random.random() < 0.1:
                data = self._rewritten.get(ref, data)
            self._rewritten[ref] = data
        self._store.put(ref, data, str(self._count).encode())
        return {"artifact_ref": ref, "checksum": "sha256:" + sha256(data).hexdigest()}
