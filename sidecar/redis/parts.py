"""How much memory a deployment takes in Redis, by part: its streams, its index, its other keys.

About so much, for a bounded number of commands: of the index some shards are asked, and of each key
the server looks at some elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.errors import Refused
from sidecar.redis.keys import SHARDS, Keys, records_of

SHARDS_ASKED: Final = 64


def sizes(controls: Mapping[str, Client], notify: Client, keys: list[Keys]) -> dict[str, int]:
    """Return bytes by part; nothing where the user may not ask.

    `controls` are connections by control stream. Raises `RedisError`.
    """
    one = keys[0]
    shards = [one.seen((n * SHARDS // SHARDS_ASKED).to_bytes(2)) for n in range(SHARDS_ASKED)]
    try:
        return {
            "control": sum(_bytes(client, [stream]) for stream, client in controls.items()),
            "notifications": _bytes(notify, [one.notifications]),
            "dead": _bytes(notify, [one.dead]),
            "index": _bytes(notify, shards) * SHARDS // SHARDS_ASKED,
            "own": _bytes(notify, _own(keys)),
        }
    except Refused:
        return {}


def _bytes(client: Client, names: Iterable[str]) -> int:
    """Return what keys take; those that are not there take nothing."""
    asked = client.pipeline(transaction=False)
    for name in names:
        asked.memory_usage(name)
    found: list[Any] = asked.execute()
    return sum(one or 0 for one in found)


def _own(keys: list[Keys]) -> set[str]:
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
