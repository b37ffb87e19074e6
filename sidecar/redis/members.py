"""The workers beside this one, as they tell of themselves. Nothing here is a guarantee.

Each worker writes what it serves and owns into one hash, again and again. Who has written nothing
new for longer than a lease is gone, by the clock of who looks: no two clocks are compared.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys

GONE_AFTER_LEASES: Final = 1.5
FORGOTTEN_AFTER_LEASES: Final = 10


@dataclass(frozen=True, slots=True)
class Member:
    """One worker: the control streams that it serves, and those of them that it owns."""

    id: str
    name: str
    """host:pid, for people."""
    serves: frozenset[str]
    owns: frozenset[str]


class Members:
    """The register of the workers of one notification stream. Methods raise redis-py's errors."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        name: str,
        serves: Sequence[str],
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = secrets.token_hex(8)
        self._client = client
        self._key = keys.workers
        self._name = name
        self._serves = list(serves)
        self._lease_s = lease_s
        self._clock = clock
        self._beats = 0
        self._seen: dict[bytes, tuple[bytes, float]] = {}
        """By member: what it wrote last, and when that was new to us."""

    def beat(self, owns: Collection[str]) -> list[Member]:
        """Tell of this worker, and return the others that are alive."""
        self._beats += 1
        told = {"name": self._name, "serves": self._serves, "owns": sorted(owns)}
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hset(self._key, self.id, json.dumps(told | {"beat": self._beats}))
        pipeline.expire(self._key, int(FORGOTTEN_AFTER_LEASES * self._lease_s) + 1)
        pipeline.hgetall(self._key)
        *_, found = pipeline.execute()
        return self._alive(found)

    def leave(self) -> None:
        """Take this worker off the register."""
        self._client.hdel(self._key, self.id)

    def _alive(self, found: dict[bytes, bytes]) -> list[Member]:
        now = self._clock()
        before = self._seen
        self._seen = {id_: (told, now) for id_, told in found.items()}
        self._seen |= {id_: seen for id_, seen in before.items() if found.get(id_) == seen[0]}
        ages = {id_: (now - since) / self._lease_s for id_, (_, since) in self._seen.items()}
        forgotten = [id_ for id_, age in ages.items() if age > FORGOTTEN_AFTER_LEASES]
        if forgotten:
            self._client.hdel(self._key, *forgotten)
        return [
            member
            for member in _parse(found)
            if member.id != self.id and ages[member.id.encode()] <= GONE_AFTER_LEASES
        ]


def registered_workers(client: Client, keys: Keys) -> list[Member]:
    """Return the workers that told of themselves of late. Raises redis-py's errors."""
    found: Any = client.hgetall(keys.workers)
    return _parse(found)


def _parse(found: dict[bytes, bytes]) -> list[Member]:
    """Read the register; whatever is no worker's is left out."""
    members = []
    for id_, raw in sorted(found.items()):
        try:
            told: Any = json.loads(raw)
            members.append(
                Member(id_.decode(), str(told["name"]), frozenset(told["serves"]),
                       frozenset(told["owns"]))
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            continue
    return members
