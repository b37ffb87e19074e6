"""Bytes of artifacts on their way, so that many at once do not fill the memory.

An artifact that streams takes so much memory as it has bytes, up to what a store buffers of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MOST_BYTES: Final = 256 << 20
BUFFERED_BYTES: Final = 32 << 20
"""Of one artifact: a store of objects has three parts of 8 MiB, and what was read."""
SMALL_BYTES: Final = 64 << 10
"""Not counted: as many as there can be take little."""


class InFlight:
    """Lets so many bytes pass at a time, of one tenant three quarters. For many threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._of_tenant = most_bytes - most_bytes // 4
        self._held: Counter[str] = Counter()
        """Of each tenant, how many bytes are on their way."""
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, tenant: str, size_bytes: int) -> Iterator[None]:
        """Wait until so many bytes of a tenant's may be on their way, and count them meanwhile."""
        if size_bytes <= SMALL_BYTES:
            yield
            return
        weight = min(size_bytes, BUFFERED_BYTES)
        with self._changed:
            self._changed.wait_for(lambda: self._fits(tenant, weight))
            self._held[tenant] += weight
        try:
            yield
        finally:
            with self._changed:
                self._held[tenant] -= weight
                if not self._held[tenant]:
                    del self._held[tenant]
                self._changed.notify_all()

    def _fits(self, tenant: str, weight: int) -> bool:
        return (
            self._held.total() + weight <= self._most
            and self._held[tenant] + weight <= self._of_tenant
        )
