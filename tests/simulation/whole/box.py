"""One server of a whole run: its clock, its memory, whom it lets do what, and its way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.server import Server
from tests.simulation.streams import Group, Id, Stream
from tests.simulation.whole.truth import Place
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.whole.world import World

GROWS: Final = frozenset({
    b"SET", b"HSET", b"HSETNX", b"HINCRBY", b"XADD", b"INCR", b"INCRBY",
})  # fmt: skip
FULL: Final = "OOM command not allowed when used memory > 'maxmemory'."
BUSY: Final = (
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
)


class Box:
    """One server, and the network before it."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._offset_us = 0
        self.ahead_us = 0
        """All steps forwards of its clock: what expires may do so by so much earlier."""
        self.busy_until = 0.0
        self.is_behind = False
        """Whether there is a replica that lacks what comes from now on, soon to be promoted."""
        self.denied: dict[tuple[bytes, bytes | None], float] = {}
        """Until when a command is denied, on one key or on all."""
        self.limit_bytes: int | None = None
        self._world = world
        self._sizes: dict[Place, int] = {}
        self.used_bytes = 0
        self.server = Server(self.now_us)
        self.server.run_id = name.encode().ljust(40, b"0")
        guarded, oracle = world.guarded, world.oracle
        self.server.appended = guarded(self._appended)
        self.server.removed = guarded(self._removed)
        self.server.acknowledged = guarded(lambda k, i: oracle.acknowledged(self, k, i))
        self.server.delivered = lambda key, entry_id: oracle.delivered(self, key, entry_id)
        self.server.admits = self._admits
        self.wire = Wire(
            world.schedule, self.server, world.faults, world.step, world.note, world.serve
        )

    def now_us(self) -> int:
        """Return the server's clock, in microseconds since the epoch."""
        return int((self._world.epoch_s + self._world.schedule.now) * 1e6) + self._offset_us

    def step_clock(self, seconds: float) -> None:
        """Let the server's clock step."""
        self._offset_us += int(seconds * 1e6)
        self.ahead_us += max(0, int(seconds * 1e6))

    @property
    def full(self) -> bool:
        """Whether maxmemory is reached."""
        return self.limit_bytes is not None and self.used_bytes > self.limit_bytes

    # --- what the server asks and tells --------------------------------------------------------

    def _admits(self, name: bytes, args: Sequence[bytes], has_written: bool) -> str | None:
        now = self._world.schedule.now
        if self.wire.is_local:
            return None
        if now < self.busy_until:
            return BUSY
        if self.denied and self._is_denied(name, args, now):
            return f"NOPERM User sidecar has no permissions to run the '{name.decode()}' command"
        if self.limit_bytes is not None and not has_written and self.full:
            creates = name == b"XGROUP" and args[1].upper() == b"CREATE"
            if name in GROWS or creates:
                return FULL
        return None

    def _is_denied(self, name: bytes, args: Sequence[bytes], now: float) -> bool:
        for (command, key), until in self.denied.items():
            if command == name and now < until and (key is None or key in args):
                return True
        return False

    def _appended(self, key: bytes, entry_id: Id, fields: list[bytes]) -> None:
        size = sum(map(len, fields)) + 40
        self._sizes[key, entry_id] = size
        self.used_bytes += size
        self._world.oracle.appended(self, key, entry_id, fields)

    def _removed(self, key: bytes, ids: Sequence[Id]) -> None:
        for entry_id in ids:
            self.used_bytes -= self._sizes.pop((key, entry_id), 0)
        self._world.oracle.removed(self, key, list(ids))

    # --- memory --------------------------------------------------------------------------------

    def snapshot(self) -> tuple[dict[bytes, Any], dict[bytes, int], int]:
        """Return all that the server has now."""
        data = {key: _copy(value) for key, value in self.server.data.items()}
        return data, dict(self.server.expires_ms), self._world.oracle.truth.tick()

    def restore(self, snapshot: tuple[dict[bytes, Any], dict[bytes, int], int]) -> None:
        """Let the server have what it had, as a replica that lacks the tail."""
        data, expires_ms, number = snapshot
        keys = {*self.server.data, *data}
        self.server.data.clear()
        self.server.data.update({key: _copy(value) for key, value in data.items()})
        self.server.expires_ms = dict(expires_ms)
        self.server.scripts.clear()
        self.server.changes += 1
        there = {
            (key, entry_id)
            for key, value in data.items()
            if isinstance(value, Stream)
            for entry_id in value.ids
        }
        self._world.oracle.truth.restore(keys, number, there)
        for fleet in self._world.fleets:
            if self in (fleet.notify, fleet.control):
                self._world.oracle.forgive(fleet)


def _copy(value: Any) -> Any:
    if isinstance(value, Stream):
        groups = {name: _copy_group(group) for name, group in value.groups.items()}
        return replace(value, ids=list(value.ids), fields=dict(value.fields), groups=groups)
    return value.copy() if isinstance(value, dict | set) else value


def _copy_group(group: Group) -> Group:
    pending = {entry_id: replace(mark) for entry_id, mark in group.pending.items()}
    return replace(group, pending=pending, consumers=set(group.consumers))
