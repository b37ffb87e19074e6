"""Where the archive lies in the fleet's store, and whose it is.

Its place says the name of the notification stream, and several logs may publish into one store.
"""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

from sidecar.redis.client import Client
from sidecar.redis.errors import NotPermitted
from sidecar.redis.fleet import log_of
from sidecar.redis.keys import Keys
from sidecar.wire.event import RESERVED
from sidecar.wire.logbook import Log, archiving, keeper_of, registered
from store import Store

ROOT: Final = RESERVED + "archive"
_MAX_NAME: Final = 200


def escaped(name: str) -> str:
    """Return a stream's name as a segment of a ref, without `@`: what is long, by its digest."""
    text = quote(name, safe="")
    return text if len(text) <= _MAX_NAME else hashlib.sha256(name.encode()).hexdigest()


def archive_of_another(store: Store, client: Client, keys: Keys) -> Log | None:
    """Return the log whose archive lies where that of `keys` would; None where it is their own.

    A Redis that lost its memory has another log at the same address: its archive stays its own.
    Raises `store.StoreError` and `RedisError`.
    """
    keeper = keeper_of(store)
    try:
        own = log_of(client, keys) if keeper else None
    except NotPermitted:
        return None
    logs = registered(keeper) if keeper and own else []
    owner = archiving(logs, keys.notifications)
    address = next((one.redis for one in logs if one.id == own), None)
    return None if owner is None or own == owner.id or address == owner.redis else owner
