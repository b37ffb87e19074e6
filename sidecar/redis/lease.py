"""The lease of one control stream, and what its owners leave for each other.

A lease shows that an owner lives; the fence, which never expires, shows who was the last.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

from sidecar.redis.anchors import Anchor, anchors_of, written
from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged, low_of, misplaced
from sidecar.redis.keys import Keys
from sidecar.redis.pruning import forgotten_until
from sidecar.redis.scan import server_time_us
from sidecar.redis.scripts import script_of
from sidecar.wire.ids import EntryId

WORKER_ID: Final = 16
"""So many hex digits at the beginning of a token are the id of its worker."""


class Fenced(Exception):
    """Another worker owns the control stream now, or the fence was lost with Redis's memory."""


class Lease:
    """What one worker does to become, stay and end as the owner of a control stream.

    Not for use from several threads. Every method may raise `RedisError`.
    """

    def __init__(self, client: Client, keys: Keys, *, lease_s: float, worker: str = "") -> None:
        """Each instance is another owner. `worker` is the id of a worker in the register: the fence
        begins with it, so that people see who holds it.
        """
        self._client = client
        self._keys = keys
        self._token = worker + secrets.token_hex(16)[len(worker) :]
        self._lease_ms = int(lease_s * 1000)
        self._other = b""
        self._owning = {name: script_of(client, name) for name in _SCRIPTS}

    def acquire(self) -> int | None:
        """Become the owner of the control stream.

        Returns None while another owns it, else how many owners in a row ended without
        settling or giving the lease back.
        """
        args = [self._token, self._lease_ms]
        owner, _, unclean, other = self._call("acquire", self._lease_keys, args)
        self._other = other or self._other
        return int(unclean) if owner else None

    def is_owned(self) -> bool:
        """Tell whether a lease of the control stream runs."""
        owner: Any = self._client.get(self._keys.lease)
        self._other = owner or self._other
        return owner is not None

    def is_anothers(self) -> bool:
        """Tell whether another worker owned the control stream last; not where nobody did."""
        owner: Any = self._client.get(self._keys.fence)
        return owner is not None and owner.decode(errors="replace") != self._token

    def other(self) -> str:
        """Return the id of the worker that had the lease when another was last seen to have it;
        empty when none was.
        """
        return self._other.decode(errors="replace")[:WORKER_ID]

    def renew(self) -> str:
        """Keep the lease; return why the stream is halted, or an empty string.

        Raises `Fenced` when another worker has taken over.
        """
        return self._renew()[0]

    def has_room(self) -> bool:
        """Keep the lease; tell whether the server has memory for what is new.

        Raises `Fenced` when another worker has taken over.
        """
        return not self._renew()[1]

    def _renew(self) -> tuple[str, bool]:
        owner, halted, full = self._call("renew", self._lease_keys, [self._token, self._lease_ms])
        if not owner:
            raise Fenced
        return str(halted.decode(errors="replace")), bool(full)

    def release(self) -> None:
        """Give the lease back in good order, if it is still ours."""
        self._call("release", self._lease_keys, [self._token, 0, ""])

    def yield_lease(self, alone: str = "") -> bool:
        """Give the lease back because this worker cannot serve; tell whether it was ours.

        That is no crash of its own, nor does it take back those of others. `alone` is the entry
        that ran alone, if one did: it did not take the worker with it.
        """
        return bool(self._call("release", self._lease_keys, [self._token, 1, alone]))

    def lowest_unfinished(self) -> EntryId | None:
        """Return the lowest entry that may be unfinished, as last noted. Raises `Damaged`."""
        return low_of(self._client, self._keys)

    def anchors(self) -> tuple[Anchor, ...]:
        """Return the anchors of the control stream, the newest first."""
        return anchors_of(self._client, self._keys)

    def forgotten_us(self) -> int:
        """Return the time before which the deduplication index may have forgotten what ended."""
        return forgotten_until(self._client, self._keys)

    def stand(self, *, low: EntryId | None = None, anchors: Sequence[Anchor] = ()) -> None:
        """Note the lowest entry that may be unfinished, and the anchors, where they are given.

        Raises `Fenced` when another worker has taken over.
        """
        keys = [self._keys.fence, self._keys.low, self._keys.anchors]
        if not self._call(
            "stand", keys, [self._token, low or "", self._keys.control, written(anchors)]
        ):
            raise Fenced

    def now_us(self) -> int:
        """Return the server's time."""
        return server_time_us(self._client)

    def settle(self) -> None:
        """Note that this owner got through what its predecessors left."""
        self._client.hdel(self._keys.halt, "unclean", "alone", "alone_deaths")

    def run_alone(self, entry_id: EntryId) -> int:
        """Note that `entry_id` is about to be run alone.

        Returns how often that was noted before without the worker living to note another.
        Raises `Damaged`.
        """
        found: Any = self._client.hmget(self._keys.halt, "alone", "alone_deaths")
        before, deaths = found
        if deaths and not deaths.isdigit():
            raise Damaged(self._keys.halt, deaths, "HDEL its field alone_deaths")
        count = int(deaths or 0) if before == entry_id.encode() else 0
        self._client.hset(self._keys.halt, mapping={"alone": entry_id, "alone_deaths": count + 1})
        return count

    def survived_alone(self) -> None:
        """Note that the entry that ran alone did not take the worker with it."""
        self._client.hdel(self._keys.halt, "alone", "alone_deaths")

    def misplaced(self) -> list[str]:
        """Name the keys that are there as something else than what the sidecar makes of them."""
        return list(map(str, misplaced(self._client, self._keys)))

    @property
    def _lease_keys(self) -> list[str]:
        return [self._keys.fence, self._keys.lease, self._keys.halt]

    def _call(self, name: str, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 -- Lua
        return self._owning[name](keys=keys, args=args)


_SCRIPTS: Final = ("acquire", "renew", "release", "stand")
