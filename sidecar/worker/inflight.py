"""Bytes of artifacts on their way, so that many at once do not fill the memory.

An artifact that streams takes so much memory as it has bytes, up to what a store buffers of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, NamedTuple

MOST_BYTES: Final = 256 << 20
BUFFERED_BYTES: Final = 32 << 20
"""Of one artifact: a store of objects has three parts of 8 MiB, and what was read."""
SMALL_BYTES: Final = 256 << 10
"""Not counted: as many as there can be take little."""
_NOTHING: Final = nullcontext()


class _Artifact(NamedTuple):
    tenant: str
    weight: int


class InFlight:
    """Lets so many bytes pass at a time, of one tenant three quarters. For many threads.

    First come, first served: a large one waits for no more than what was there before it.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """`most_bytes` are four times `BUFFERED_BYTES` at least, for all that is let pass fits."""
        self._most = most_bytes
        self._of_tenant = most_bytes - most_bytes // 4
        self._held: Counter[str] = Counter()
        """Of each tenant, how many bytes are on their way."""
        self._line: dict[object, _Artifact] = {}
        """What waits, in the order in which it came."""
        self._changed = threading.Condition()

    def hold(self, tenant: str, size_bytes: int) -> AbstractContextManager[None]:
        """Wait until so many bytes of a tenant's may be on their way, and count them meanwhile."""
        return _NOTHING if size_bytes <= SMALL_BYTES else self._hold(tenant, size_bytes)

    @contextmanager
    def _hold(self, tenant: str, size_bytes: int) -> Iterator[None]:
        one, place = _Artifact(tenant, min(size_bytes, BUFFERED_BYTES)), object()
        with self._changed:
            self._line[place] = one
            try:
                self._changed.wait_for(lambda: self._may_pass(place))
                self._held[tenant] += one.weight
            finally:
                del self._line[place]
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held[tenant] -= one.weight
                if not self._held[tenant]:
                    del self._held[tenant]
                self._changed.notify_all()

    def _may_pass(self, place: object) -> bool:
        """Tell whether there is room, and nobody before waits for room alone."""
        for other, one in self._line.items():
            if other is place:
                break
            if self._has_share(one):
                return False
        one = self._line[place]
        return self._has_share(one) and self._held.total() + one.weight <= self._most

    def _has_share(self, one: _Artifact) -> bool:
        return self._held[one.tenant] + one.weight <= self._of_tenant


def most_bytes_each(streams: int) -> int:
    """Return how many bytes of each of so many control streams may be on their way.

    Each has its own: none waits for the artifacts of another.
    """
    return max(4 * BUFFERED_BYTES, MOST_BYTES // streams)
