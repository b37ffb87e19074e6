"""Pruning the deduplication index: what is older than the window goes, and nothing else does.

Each shard has its turn a few times a window, by the server's clock: so the index never holds much
more than a window's events, however many they are, and publishing pays nothing for it. How far
pruning is stands in Redis: workers that come and go, or run now and then, take up where it was
left, and share the work.

What the owner of a control stream needs to tell whether an entry is finished stays, however old it
is (`anchors`): the index is what proves it. Shards do not expire, for they would take that along.
While an anchor stands still, or nobody prunes, the index remembers for very long, and a duplicate
may be absorbed long after its first. An audit has to know until when that was: it is noted beside
how far pruning is. So is what may be forgotten by now: an anchor that is older proves nothing.

Like trimming it needs no fence: nobody looks for what is older. Any worker may prune.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple, Self

from sidecar.redis.anchors import kept_since
from sidecar.redis.client import Client
from sidecar.redis.damage import PRUNED, or_else
from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.scripts import script_of
from sidecar.wire.expiring import Memory, slack_of
from sidecar.wire.ids import HIGHEST_VERSION, EntryId

TURNS_A_WINDOW: Final = 4
"""So often has each shard its turn. What is remembered stays a quarter of the window too long, at
most; more turns would save little memory and cost as much again."""
SHORTEST_US: Final = 1000
"""Between the turns of two shards, however short the window is: all have theirs in a minute, and
Redis is left to its other clients."""
ROUND: Final = 200
"""Shards pruned in one go: more would keep Redis from its other clients."""


class Pruned(NamedTuple):
    """What is noted of pruning, in microseconds since the epoch."""

    until_us: int
    """How far it is."""
    overlong_us: int | None
    """Up to which control_version the index may have remembered for longer than its window and a
    round of pruning explain (`wire.expiring`); None where an older release noted nothing."""
    forgotten_us: int = 0
    """What ended before may be forgotten; of what ended later, nothing is."""
    began_us: int | None = None
    """Before, nothing had ended; 0 where nobody could tell, None where nobody looked."""

    @classmethod
    def parse(cls, noted: bytes | None) -> Self | None:
        """Read what is noted; None for nothing, and for garbage."""
        words = PRUNED.fullmatch(noted or b"")
        if words is None:
            return None
        until, overlong, forgotten, began = (int(one) if one else None for one in words.groups())
        return cls(until or 0, overlong, forgotten or 0, began)

    def __str__(self) -> str:
        return f"{self.until_us} {self.overlong_us} {self.forgotten_us} {self.began_us or 0}"


def memory_of(client: Client, keys: Keys, now_us: int, window_s: float) -> Memory:
    """Return what is known of how long the index remembered. Raises `RedisError`.

    Where nobody prunes, it may have been very long.
    """
    noted: Any = client.get(keys.pruned)
    pruned = Pruned.parse(noted)
    if pruned is None:
        return Memory()
    began = EntryId.of((pruned.began_us or 0) // 1000)
    late_us = now_us - pruned.until_us
    is_late = not 0 <= late_us <= slack_of(int(window_s * 1e6))
    if is_late or pruned.overlong_us is None:
        return Memory(began=began)
    return Memory(EntryId.of_version(pruned.overlong_us), began)


def forgotten_until(client: Client, keys: Keys) -> int:
    """Return the time before which what ended may be forgotten, in microseconds.

    Raises `RedisError`.
    """
    noted: Any = or_else(None, partial(client.get, keys.pruned))
    pruned = Pruned.parse(noted)
    return pruned.forgotten_us if pruned else 0


class Pruning:
    """Prunes the index of one notification stream. Methods raise `RedisError`."""

    def __init__(self, client: Client, keys: Keys, *, dedup_window_s: float) -> None:
        self._client = client
        self._keys = keys
        self._window_us = int(dedup_window_s) * 1_000_000
        self._step_us = max(SHORTEST_US, int(dedup_window_s * 1e6) // (TURNS_A_WINDOW * SHARDS))
        """Between the turns of two shards."""
        self._slack_us = slack_of(self._window_us)
        self._prune = script_of(client, "prune")

    def prune(self) -> bool | None:
        """Prune the next shards whose turn has come; tell whether more are due at once.

        None when none was due.
        """
        noted: Any = self._client.get(self._keys.pruned)  # before the time, so never above it
        pruned = Pruned.parse(noted)
        now_us = server_time_us(self._client)
        now = now_us // self._step_us
        next_turn = self._next_turn(pruned, now)
        first = max(next_turn, now - SHARDS + 1)
        turns = range(first, min(now + 1, first + ROUND))
        if not turns:
            return None
        shards = [self._keys.seen((turn % SHARDS).to_bytes(2)) for turn in turns]
        # Read before, it is no higher than now: an anchor only moves on.
        kept_us = kept_since(self._client, self._keys, now_us, self._window_us)
        late_us = now_us - next_turn * self._step_us
        held_us = now_us - kept_us - self._window_us
        overlong_us = self._overlong_us(pruned, now_us, max(late_us, held_us))
        before_us = max(0, min(now_us - self._window_us, kept_us))
        forgotten_us = max(pruned.forgotten_us if pruned else 0, before_us)
        began_us = self._began_us(pruned, now_us)
        note = Pruned(turns[-1] * self._step_us, overlong_us, forgotten_us, began_us)
        keys = [self._keys.pruned, *shards, self._keys.resent]
        self._prune(keys=keys, args=[str(note), before_us])
        return turns[-1] < now

    def _next_turn(self, pruned: Pruned | None, now: int) -> int:
        """Return the first turn that nobody had; that of all shards when it is not known.

        Nor is it where it lies ahead: the clock was set back since, or a failover has another one.
        """
        turn = pruned.until_us // self._step_us if pruned else now + 1
        return turn + 1 if turn <= now else 0

    def _overlong_us(self, pruned: Pruned | None, now_us: int, beyond_us: int) -> int:
        """Return until when the index may remember for very long, given how much longer it does.

        A shard that is pruned too little, or was too late, has its next turn in a round.
        """
        noted_us = pruned.overlong_us if pruned else None
        if noted_us is not None and beyond_us <= self._slack_us:
            return noted_us
        info = stream_info(self._client, self._keys.notifications)
        newest_us = info.last_id.control_version if info else 0  # maybe ahead of the clock
        begin_us = max(now_us, min(newest_us, HIGHEST_VERSION))
        round_us = SHARDS * self._step_us + self._slack_us
        return max(noted_us or 0, begin_us + round_us)

    def _began_us(self, pruned: Pruned | None, now_us: int) -> int:
        """Return the time before which nothing had ended; 0 where nobody can tell any more.

        It goes back with a clock that is set back, for so do the times of what ends then.
        """
        if pruned and pruned.began_us is not None:
            return min(pruned.began_us, now_us)
        first_us = now_us
        for stream in (self._keys.notifications, self._keys.dead):
            info = stream_info(self._client, stream)
            if info and info.added != info.length:
                return 0
            if info and info.first_id:
                first_us = min(first_us, info.first_id.ms * 1000)
        return first_us
