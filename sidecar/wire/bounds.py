"""How much of what lies in a store is read: sizes are looked at before anything of that size is."""

from __future__ import annotations

import sys
from typing import Any, Final

from store import Capability, Limit, Store, capabilities

MAX_MANIFEST_BYTES: Final = 16 << 20
"""A manifest is held in memory, whole."""
ARTIFACT: Final = Limit(sys.maxsize, MAX_MANIFEST_BYTES)
"""Of an artifact whose data is streamed, or that somebody asked for."""


def bounded(store: Store, limit: Limit = ARTIFACT) -> dict[str, Any]:
    """Return the arguments that bound `get` and `open`; none for a store that knows no limits.

    What is larger raises `store.TooLarge` then, and is not read.
    """
    return {"limit": limit} if Capability.LIMIT in capabilities(store) else {}
