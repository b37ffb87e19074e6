"""What grows for ever unless somebody says how much is to be kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from sidecar.redis.client import Client, Side
from sidecar.redis.damage import or_else
from sidecar.redis.errors import translated
from sidecar.redis.keys import Keys
from sidecar.redis.tenures import newest_settings
from sidecar.telemetry.added import Added, added
from store import Store


@dataclass(frozen=True, slots=True)
class Growing:
    """What a day adds to the stores, and by which rules it goes. What is unknown is None."""

    refs_a_day: int | None
    bytes_a_day: int | None
    keep: str | None
    """Rules for the fleet's store that the worker follows which began last; empty is none."""
    source_keep: str | None
    """The same for the producers' store."""


def growing(notify: Side, keys: Keys, fleet: Store | None) -> Growing:
    """Read what is known of it; `fleet` tells sizes. Raises `Unreachable` for Redis."""
    with translated(notify.url):
        found: Added | None = or_else(
            None, partial(added, notify.client, keys.notifications, fleet)
        )
        rules = or_else(dict[str, Any](), partial(_settings, notify.client, keys))
    refs, size_bytes = found or (None, None)
    return Growing(refs, size_bytes, _rule(rules, "keep"), _rule(rules, "source_keep"))


def _settings(client: Client, keys: Keys) -> dict[str, Any]:
    try:
        found = json.loads(newest_settings(client, keys) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rule(rules: dict[str, Any], name: str) -> str | None:
    value = rules.get(name)
    return value if isinstance(value, str) else None
