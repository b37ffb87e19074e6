"""Which store the notifications name, and which log they are: the hash `{N}:fleet`.

Its fields: `log`, a random id of this notification stream, made once and kept beside it, for URLs
differ by client; `store` and `store_url`, the fleet store's identity and where the worker that
noted it found it; `adopted:<milliseconds>`, a record of each move to another store; `format`,
that of all keys of this notification stream, once they have another than the first.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys

LOG: Final = b"log"
STORE: Final = b"store"
STORE_URL: Final = b"store_url"
ADOPTED: Final = "adopted:"
FORMAT: Final = "1"
"""Of the keys, as this release reads and writes them."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What Redis knows of the fleet's store."""

    log: str | None
    """None before any worker came that notes it."""
    store: str | None
    """The identity; None when the fleet's store has none, or nothing was noted yet."""
    url: str | None
    """Where the store was, by the words of who noted it, without secrets."""

    def is_other(self, identity: str | None) -> bool:
        """Tell whether a store with this identity is not the one that was noted."""
        return self.store is not None and self.store != identity


def noted(client: Client, keys: Keys) -> Noted:
    """Return what is noted. Raises `RedisError`."""
    return read(client.hmget(keys.fleet, [LOG.decode(), STORE.decode(), STORE_URL.decode()]))


def format_of(client: Client, keys: Keys) -> str:
    """Return the format of the keys: the first where none is noted. Raises `RedisError`."""
    found: Any = client.hget(keys.fleet, "format")
    return found.decode(errors="backslashreplace") if found else "1"


def log_of(client: Client, keys: Keys) -> str | None:
    """Return the log's id alone, as a controller may ask. Raises `RedisError`."""
    found: Any = client.hget(keys.fleet, LOG.decode())
    return found.decode(errors="replace") if found else None


def read(values: Any) -> Noted:  # noqa: ANN401 -- redis-py's answer
    """Return what the values of `log`, `store` and `store_url` say."""
    return Noted(*(value.decode(errors="replace") if value else None for value in values))


def note(client: Client, keys: Keys, log: str | None, identity: str | None, url: str) -> Noted:
    """Note the log's id and the store's identity, unless there are any; return what is noted then.

    `log` is the id that this worker knows: a Redis that lost it gets it back. Nothing is written
    where nothing lacks: a full server refuses it. Raises `RedisError`.
    """
    there = noted(client, keys)
    if there.log is None:
        client.hsetnx(keys.fleet, LOG.decode(), log or secrets.token_hex(16))
    if there.store is None and identity is not None:
        client.hsetnx(keys.fleet, STORE.decode(), identity)
    there = noted(client, keys)
    if there.url is None and there.store is not None and there.store == identity:
        client.hsetnx(keys.fleet, STORE_URL.decode(), url)  # not of another's store
        there = replace(there, url=url)
    return there


def adopt(  # what is kept of a move: who, when, from where, to where
    client: Client, keys: Keys, before: Noted, identity: str | None, url: str, *, by: str
) -> None:
    """Note another store, and that it was done. Raises `RedisError`."""
    seconds, microseconds = client.time()
    record = {
        "by": by, "from": before.store, "from_url": before.url, "to": identity, "to_url": url,
    }  # fmt: skip
    fields: dict[Any, Any] = {
        STORE.decode(): identity or "",
        STORE_URL.decode(): url,
        f"{ADOPTED}{seconds * 1000 + microseconds // 1000}": json.dumps(record),
    }
    client.hset(keys.fleet, mapping=fields)
