"""The workers beside this one, as they register. Nothing here is a guarantee.

Each worker writes what it serves and owns into one hash, again and again. Who has written nothing
new for longer than a lease is gone, by the clock of who looks: no two clocks are compared.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sidecar import __version__
from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged
from sidecar.redis.keys import Keys
from sidecar.redis.scripts import noting

GONE_AFTER_LEASES: Final = 1.5
FORGOTTEN_AFTER_LEASES: Final = 10
MOST_HELD: Final = 20


class Held(NamedTuple):
    """An event that is tried again, and with which its tenant's later ones wait."""

    entry: str
    """`<control stream>/<entry ID>`."""
    tenant_id: str
    event_id: str
    error: str
    attempts: int
    since: str
    """When a worker first saw it, RFC 3339."""
    next_at: str
    """When it is tried again, RFC 3339."""
    outage: bool
    """Whether it waits as long as that lasts; else it is a dead letter after the retry budget."""

    @property
    def stream(self) -> str:
        """The control stream."""
        return self.entry.rpartition("/")[0]


_HELD: Final = (str, str, str, str, int, str, str, bool)
"""What the values of a `Held` are."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker: the control streams that it serves, and those of them that it owns."""

    id: str
    name: str
    """host:pid, for people."""
    serves: frozenset[str]
    owns: frozenset[str]
    held: tuple[Held, ...] = ()
    """The first of what it holds back, at most `MOST_HELD`."""
    version: str = ""
    """Its release; empty of one that did not say."""
    signs: str | None = None
    """The id of the key that it signs with, empty without one; None of one that did not say."""


def new_id() -> str:
    """Return the id of a new worker: 16 hex digits."""
    return secrets.token_hex(8)


class Members:
    """The register of the workers of one notification stream. Methods raise `RedisError`."""

    def __init__(
        self, client: Client, keys: Keys, *, name: str, serves: Sequence[str], lease_s: float,
        clock: Callable[[], float] = time.monotonic, worker: str = "", signs: str = "",
    ) -> None:  # fmt: skip
        """`worker` is the id of this one, else it has a new one. `signs` is that of its key."""
        self.id = worker or new_id()
        self._client = client
        self._note = noting(client)
        self._key = keys.workers
        self._name = name
        self._serves = list(serves)
        self._lease_s = lease_s
        self._signs = signs
        self._clock = clock
        self._beats = 0
        self._seen: dict[bytes, tuple[bytes, float]] = {}
        """By member: what it wrote last, and when that was new to us."""

    def beat(
        self, owns: Collection[str], unable: Collection[str] = (), held: Sequence[Held] = ()
    ) -> list[Member]:
        """Register this worker, and return the others that are alive.

        `held` is what it holds back, for people. What it is `unable` to serve now it leaves out:
        nobody is to leave that to it.
        """
        self._beats += 1
        serves = [stream for stream in self._serves if stream not in unable]
        told: dict[str, Any] = {
            "name": self._name, "version": __version__, "serves": serves, "owns": sorted(owns),
            "signs": self._signs,
        }  # fmt: skip
        told["held"] = [one._asdict() for one in held[:MOST_HELD]]
        pipeline = self._client.pipeline(transaction=False)
        told["beat"] = self._beats
        self._note(keys=[self._key], args=[self.id, json.dumps(told)], client=pipeline)
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
    """Return the workers that registered of late. Raises `RedisError`."""
    found: Any = client.hgetall(keys.workers)
    return _parse(found)


def holder(client: Client, keys: Keys, workers: Sequence[Member]) -> Member | None:
    """Return which of the workers holds the fence of a control stream; None for none of them.

    Raises `RedisError`.
    """
    fence: Any = client.get(keys.fence)
    return next((one for one in workers if fence and fence.startswith(one.id.encode())), None)


def damaged_workers(client: Client, keys: Keys) -> list[Damaged]:
    """Return what no worker wrote into the register. Raises `RedisError`."""
    found: Any = client.hgetall(keys.workers)
    fix = "nothing rests on it; a worker removes it after ten leases"
    return [
        Damaged(keys.workers, raw, fix)
        for id_, raw in sorted(found.items())
        if _member(id_, raw) is None
    ]


def _parse(found: dict[bytes, bytes]) -> list[Member]:
    """Read the register; whatever is no worker's is left out."""
    return [member for one in sorted(found.items()) if (member := _member(*one))]


def _member(id_: bytes, raw: bytes) -> Member | None:
    try:
        told: Any = json.loads(raw)
        lists = told["serves"], told["owns"]
        if not all(isinstance(one, list) for one in lists):
            return None
        serves, owns = map(frozenset, lists)
        if not all(isinstance(stream, str) for stream in serves | owns):
            return None
        held = tuple(Held(**one) for one in told.get("held", ()))
        if [type(value) for one in held for value in one] != [*_HELD] * len(held):
            return None
        version = str(told.get("version", ""))
        signs = None if told.get("signs") is None else str(told["signs"])
        return Member(id_.decode(), str(told["name"]), serves, owns, held, version, signs)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
