"""Pruning the deduplication index: what is older than the window goes, and nothing else does.

Each shard has its turn a few times a window, by the server's clock: so the index never holds much
more than a window's events, however many they are, and publishing pays nothing for it. How far
pruning is stands in Redis: workers that come and go, or run now and then, take up where it was
left, and share the work.

What the owner of a control stream needs to tell whether an entry is finished stays, however old it
is (`anchors`): the index is what proves it. Shards do not expire, for they would take that along.

Like trimming it needs no fence: what is older nobody looks for, whoever prunes.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.redis.anchors import kept_since
from sidecar.redis.client import Client
from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.scan import server_time_us
from sidecar.redis.scripts import script_of

TURNS_A_WINDOW: Final = 4
"""So often has each shard its turn. What is remembered stays a quarter of the window too long, at
most; more turns would save little memory and cost as much again."""
SHORTEST_US: Final = 1000
"""Between the turns of two shards, however short the window is: all have theirs in a minute, and
Redis is left to its other clients."""
ROUND: Final = 200
"""Shards pruned in one go: more would keep Redis from its other clients."""


class Pruning:
    """Prunes the index of one notification stream. Methods raise `RedisError`."""

    def __init__(self, client: Client, keys: Keys, *, dedup_window_s: float) -> None:
        self._client = client
        self._keys = keys
        self._window_s = int(dedup_window_s)
        self._step_us = max(SHORTEST_US, int(dedup_window_s * 1e6) // (TURNS_A_WINDOW * SHARDS))
        """Between the turns of two shards."""
        self._prune = script_of(client, "prune")

    def prune(self) -> bool:
        """Prune the next shards whose turn has come; tell whether more are due at once."""
        noted: Any = self._client.get(self._keys.pruned)  # before the time, so never above it
        now_us = server_time_us(self._client)
        now = now_us // self._step_us
        first = max(self._next_turn(noted, now), now - SHARDS + 1)
        turns = range(first, min(now + 1, first + ROUND))
        if not turns:
            return False
        shards = [self._keys.seen((turn % SHARDS).to_bytes(2)) for turn in turns]
        # Read before, it is no higher than now: an anchor only moves on.
        kept_us = kept_since(self._client, self._keys, now_us, self._window_s * 1_000_000)
        args = [self._window_s, turns[-1] * self._step_us, kept_us]
        self._prune(keys=[self._keys.pruned, *shards], args=args)
        return turns[-1] < now

    def _next_turn(self, noted: bytes | None, now: int) -> int:
        """Return the first turn that nobody had; that of all shards when it is not known.

        Nor is it where it lies ahead: the clock was set back since, or a failover has another one.
        """
        turn = int(noted) // self._step_us if noted and noted.isdigit() else now + 1
        return turn + 1 if turn <= now else 0
