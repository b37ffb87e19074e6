"""Whether registered readers have passed a notification.

A reader writes a key of its own, and nothing tells of that: so the keys are read again and again. A
reader that was seen to have passed has passed, whatever it says later.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.readers import registered

LOOK_S: Final = 0.1
"""From one look to the next."""


class Readership:
    """The readers that are waited for."""

    def __init__(self, client: Client, keys: Keys, names: Collection[str] | None) -> None:
        """Without names, all that are registered at the first look, and not expired."""
        self._client, self._keys = client, keys
        self._passed = None if names is None else dict.fromkeys(names, False)

    def passed(self, control_version: int, timeout_s: float) -> dict[str, bool]:
        """Tell of each whether it has passed, after at most `timeout_s`. Raises `RedisError`."""
        deadline = time.monotonic() + timeout_s
        found = self._look(control_version)
        while not all(found.values()) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
            found = self._look(control_version)
        return found

    def _look(self, control_version: int) -> dict[str, bool]:
        readers = registered(self._client, self._keys).good
        if self._passed is None:
            self._passed = {one.name: False for one in readers if not one.expired}
        for one in readers:
            if one.name in self._passed and one.control_version >= control_version:
                self._passed[one.name] = True
        return self._passed
