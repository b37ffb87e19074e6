"""Whether a server is full: at its `maxmemory` it refuses all that needs memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.errors import FULL_FIX, NotPermitted

NEARLY: Final = 0.85
"""Of `maxmemory`: from there on a server is nearly full; `SidecarRedisFilling` has it, too."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one server."""

    url: str
    """Without secrets."""
    used_bytes: int
    """As it counts against the limit: without what replicas have yet to get, for one."""
    max_bytes: int
    """`maxmemory`; 0 is no limit."""

    @property
    def is_full(self) -> bool:
        """Whether it refuses what is new."""
        return 0 < self.max_bytes <= self.used_bytes

    @property
    def is_nearly_full(self) -> bool:
        """Whether what may be trimmed early is."""
        return 0 < self.max_bytes * NEARLY <= self.used_bytes

    def __str__(self) -> str:
        """Return it for a person who is to set a full one right."""
        return (
            f"{self.url} uses {self.used_bytes:,} bytes of its maxmemory of {self.max_bytes:,}, and"
            f" refuses what is new{FULL_FIX}"
        )


def memories(servers: Iterable[tuple[str, Client]]) -> list[Memory]:
    """Return the memory of each server once, whatever leads there; nothing where INFO is denied.

    `servers` are URLs without secrets, and clients. Raises `RedisError`.
    """
    found: dict[str, Memory] = {}
    for url, client in servers:
        try:
            info: dict[str, Any] = client.info()
        except NotPermitted:
            continue
        used = int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0))
        found.setdefault(info["run_id"], Memory(url, used, int(info.get("maxmemory", 0))))
    return list(found.values())
