"""How much memory a deployment takes in Redis, by part: its streams, its index, its other keys.

About so much, for a bounded number of commands: of the index some shards are asked, and of each key
the server looks at some elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.errors import Refused
from sidecar.redis.keys import SHARDS, Keys, records_of

SHARDS_ASKED: Final = (64, 1024)
"""So many shards of the index are asked, and so many where most of the first are empty."""
ENOUGH: Final = 16
"""So many of them must hold anything for an estimate; of fewer it is said what they are at most."""
SHARD_BYTES: Final = 256
"""A shard that holds one event takes less."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes by part, about."""

    control: int
    notifications: int
    dead: int
    index: int
    own: int
    index_at_most: bool = False
    """Whether `index` is what it takes at most: it holds too few events for an estimate."""

    @property
    def by_name(self) -> dict[str, int]:
        """The bytes of each part."""
        return {name: getattr(self, name) for name in PARTS}


PARTS: Final = ("control", "notifications", "dead", "index", "own")


def sizes(controls: Mapping[str, Client], notify: Client, keys: Sequence[Keys]) -> Parts | None:
    """Return bytes by part; None where the user may not ask.

    `controls` are connections by control stream. Raises `RedisError`.
    """
    one = keys[0]
    try:
        index, at_most = _index(notify, one)
        return Parts(
            sum(sum(_bytes(client, [stream])) for stream, client in controls.items()),
            sum(_bytes(notify, [one.notifications])), sum(_bytes(notify, [one.dead])), index,
            sum(_bytes(notify, _own(keys))), at_most,
        )  # fmt: skip
    except Refused:
        return None


def _index(client: Client, keys: Keys) -> tuple[int, bool]:
    """Return what the index takes, by some of its shards, and whether that is at most.

    Of k shards that happen to hold anything there are hardly ever more than k + 2√k + 3 to be
    expected (one time in forty, of numbers of Poisson's).
    """
    held, asked = list[int](), 0
    for asked in SHARDS_ASKED:
        shards = [keys.seen((n * SHARDS // asked).to_bytes(2)) for n in range(asked)]
        held = [one for one in _bytes(client, shards) if one]
        if len(held) >= ENOUGH:
            return sum(held) * SHARDS // asked, False
    largest = max(held, default=SHARD_BYTES)
    most = len(held) + 2 * math.sqrt(len(held)) + 3
    return math.ceil(most * largest * SHARDS / asked), True


def _bytes(client: Client, names: Iterable[str]) -> list[int]:
    """Return what each key takes; one that is not there takes nothing."""
    asked = client.pipeline(transaction=False)
    for name in names:
        asked.memory_usage(name)
    found: list[Any] = asked.execute()
    return [one or 0 for one in found]


def _own(keys: Sequence[Keys]) -> set[str]:
    """Return the keys beside streams and index, but for those of each reader."""
    one = keys[0]
    found = {
        *records_of(one), one.takeovers, one.resent, one.anchors, one.workers, one.registered,
        one.readers, one.trimmed, one.archived, one.fleet, one.segments, one.incarnations,
        one.pruned, one.stream,
    }  # fmt: skip
    for each in keys:
        found |= {each.fence, each.lease, each.low, each.halt, each.paused, each.rows}
    return found
