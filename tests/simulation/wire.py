"""Connections of redis-py to the simulated server: the seam, and where the wire's faults are."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from math import log
from typing import Any, Final

import redis
from redis.connection import ConnectionInterface
from redis.retry import Retry

from tests.simulation.faults import WIRE, Fault, Faults
from tests.simulation.schedule import Process, Schedule, Task
from tests.simulation.server import Blocked, Refused, Server, error_of
from tests.simulation.streams import Id, Stream

Command = tuple[bytes, ...]
HOP_S: Final = 0.0002
"""One way between a worker and the server, on average."""
HOPS_A_S: Final = 1 / HOP_S
DELAYS_S: Final = (0.01, 0.3, 2.0, 7.0)
"""The most that something late is late by; a client gives up after five seconds."""


class Link:
    """One TCP connection, as both its ends see it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.replies: deque[Any] = deque()
        self.reader: Task | None = None
        self.broken = False
        """The client's end: nothing more will come."""
        self.closed = False
        """The server's end: nothing more is applied."""
        self.silent = False
        """Nothing more comes, and nobody says so."""
        self.arrives_at = 0.0
        """When the last command arrives: those of one connection arrive in order."""
        self.answered_at = 0.0
        """The same of answers."""
        self.blocked: _Blocked | None = None
        self.queued: list[Command] | None = None
        """Commands since MULTI."""
        self.behind: deque[tuple[Command, Fault | None]] = deque()
        """Commands that came while one before them waits."""


@dataclass(eq=False)
class _Blocked:
    link: Link
    command: Command
    stream: bytes
    group: bytes | None
    after: Id


@dataclass
class Wire:
    """The network between the workers and one server."""

    schedule: Schedule
    server: Server
    faults: Faults
    step: Callable[[Process], None]
    """Is called where a worker may crash or stall."""
    note: Callable[..., None]
    served: Callable[[Process, Command, Callable[[], Any]], Any]
    """Runs a command for a process: the hook of those who watch."""
    links: dict[Link, None] = field(default_factory=dict)
    away_until: float = 0.0
    cut_off: dict[Process, float] = field(default_factory=dict)
    blocked: list[_Blocked] = field(default_factory=list)
    seen_changes: int = 0
    """What the server's count was when the reads that wait were looked at last."""
    late_s: float = 0.0
    """By how much all that was late has been, together."""
    is_local: bool = False
    """Whether a command of the simulation's own is being applied."""

    # --- the network's ups and downs -----------------------------------------------------------

    def reachable(self, process: Process) -> bool:
        """Tell whether a new connection would succeed."""
        now = self.schedule.now
        return now >= self.away_until and now >= self.cut_off.get(process, 0.0)

    def cut(self, links: Iterable[Link]) -> None:
        """Break connections: both ends learn of it at once."""
        for link in list(links):
            self.break_client(link)
            self.close(link)

    def break_client(self, link: Link) -> None:
        """Let the client find the connection broken."""
        link.broken = True
        if link.reader:
            self.schedule.wake(link.reader)

    def close(self, link: Link) -> None:
        """Let the server find the connection closed: what is on its way is dropped."""
        link.closed = True
        self.links.pop(link, None)
        if link.blocked:
            self.blocked.remove(link.blocked)
            link.blocked = None

    def leave(self, process: Process) -> None:
        """A worker died. The server learns of it now, or later: until then it serves on."""
        for link in [link for link in self.links if link.process is process]:
            if self.faults.draw((Fault.HALF_OPEN,)):
                delay_s = self.faults.chance.uniform(0.0, 4.0)
                self.schedule.after(delay_s, lambda link=link: self.close(link))  # type: ignore[misc]
            else:
                self.close(link)

    def restart(self, away_s: float) -> None:
        """Restart the server: it keeps its data, and loses its scripts and connections."""
        self.server.scripts.clear()
        self.go_away(away_s)

    def go_away(self, away_s: float) -> None:
        """Let the server be out of reach for a while."""
        self.away_until = self.schedule.now + away_s
        self.cut(self.links)

    # --- commands ------------------------------------------------------------------------------

    def send(self, link: Link, command: Command) -> None:
        """Put a command on its way; it may be lost, or late, or its answer."""
        schedule = self.schedule
        fault = self.faults.draw(WIRE)
        delay_s = -log(1.0 - self.faults.chance.random()) / HOPS_A_S  # random.expovariate
        if fault is not None:
            self.note("wire", link.process.name, fault.name, command[0])
        if fault is Fault.LATE_REQUEST:
            delay_s += self._lateness_s()
        when = link.arrives_at = max(link.arrives_at, schedule.now + delay_s)
        if fault is Fault.LOST_REQUEST:
            schedule.at(when, lambda: self.cut((link,)))
        elif fault is Fault.SILENT_REQUEST:
            schedule.at(when, lambda: self._fall_silent(link))
        else:
            schedule.at(when, partial(self._arrive, link, command, fault))

    def _lateness_s(self) -> float:
        late_s = self.faults.chance.choice(DELAYS_S) * self.faults.chance.random()
        self.late_s += late_s
        return late_s

    def _fall_silent(self, link: Link) -> None:
        link.silent = True
        self.close(link)

    def _arrive(self, link: Link, command: Command, fault: Fault | None) -> None:
        if link.closed:
            return
        if link.blocked:
            link.behind.append((command, fault))
            return
        try:
            reply = self._apply(link, command)
        except Refused as refused:
            reply = error_of(refused)
        except Blocked as blocked:
            self._block(link, command, blocked)
            return
        finally:
            if self.seen_changes != self.server.changes:
                self._serve_blocked()
        self._answer(link, reply, fault)

    def _apply(self, link: Link, command: Command) -> Any:
        if command[0] == b"MULTI":
            link.queued = []
            return b"OK"
        if link.queued is None:
            return self._call(link.process, command, may_block=True)
        if command[0] != b"EXEC":
            link.queued.append(command)
            return b"QUEUED"
        queued, link.queued = link.queued, None
        return [self._within(link.process, each) for each in queued]

    def _call(self, process: Process, command: Command, *, may_block: bool) -> Any:
        return self.served(
            process, command, partial(self.server.call, command, may_block=may_block)
        )

    def _within(self, process: Process, command: Command) -> Any:
        try:
            return self._call(process, command, may_block=False)
        except Refused as refused:
            return error_of(refused)

    def _answer(self, link: Link, reply: Any, fault: Fault | None) -> None:
        if fault is None:
            self._reply(link, reply)
        elif fault is Fault.LOST_REPLY:
            self.cut((link,))
        elif fault is Fault.SILENT_REPLY:
            self._fall_silent(link)
        else:
            self._reply(link, reply, late=fault is Fault.LATE_REPLY)

    def _reply(self, link: Link, reply: Any, *, late: bool = False) -> None:
        now = self.schedule.now
        if late:
            link.answered_at = max(link.answered_at, now + self._lateness_s())
        if link.answered_at > now:
            self.schedule.at(link.answered_at, partial(self._deliver, link, reply))
        else:
            self._deliver(link, reply)

    def _deliver(self, link: Link, reply: Any) -> None:
        if link.silent or link.broken:
            return
        link.replies.append(reply)
        if link.reader:
            self.schedule.wake(link.reader)

    # --- reads that wait -----------------------------------------------------------------------

    def _block(self, link: Link, command: Command, blocked: Blocked) -> None:
        self.seen_changes = -1
        waiting = link.blocked = _Blocked(
            link, command, blocked.stream, blocked.group, blocked.after
        )
        self.blocked.append(waiting)
        self.schedule.after(blocked.timeout_ms / 1000, lambda: self._give_up(waiting))

    def _give_up(self, waiting: _Blocked) -> None:
        if waiting.link.blocked is waiting:
            self._unblock(waiting, None)

    def _unblock(self, waiting: _Blocked, reply: Any) -> None:
        self.blocked.remove(waiting)
        link = waiting.link
        link.blocked = None
        self._reply(link, reply)
        while link.behind and not link.blocked:
            self._arrive(link, *link.behind.popleft())

    def _serve_blocked(self) -> None:
        """Serve the reads that need wait no longer, those that waited longest first."""
        self.seen_changes = self.server.changes
        for waiting in list(self.blocked):
            if waiting.link.blocked is not waiting or not self._may_go_on(waiting):
                continue
            try:
                reply = self._apply(waiting.link, waiting.command)
            except Blocked:
                continue
            except Refused as refused:
                reply = error_of(refused)
            self._unblock(waiting, reply)

    def _may_go_on(self, waiting: _Blocked) -> bool:
        stream = self.server.data.get(waiting.stream)
        if waiting.group is None:
            return isinstance(stream, Stream) and bool(stream.after(waiting.after))
        group = stream.groups.get(waiting.group) if stream else None
        return stream is None or group is None or bool(stream.after(group.last))

    def local(self, *args: bytes) -> Any:
        """Apply a command of the simulation's own, at once."""
        self.is_local = True
        try:
            return self.server.execute(args)
        finally:
            self.is_local = False
            if self.seen_changes != self.server.changes:
                self._serve_blocked()


class SimulatedConnection(ConnectionInterface):
    """What redis-py takes for a connection."""

    def __init__(
        self, *, wire: Wire, process: Process, socket_timeout: float, retry: Retry, **_: Any
    ) -> None:
        self.pid = os.getpid()
        self.db = 0
        self.host = "simulated"
        self.port = 0
        self.retry = retry
        self.socket_timeout = socket_timeout
        self._wire = wire
        self._process = process
        self._link: Link | None = None

    def connect(self) -> None:
        """Open a connection. Raises `redis.ConnectionError` while the server is away."""
        if self._link is not None:
            return
        wire = self._wire
        wire.step(self._process)
        if not wire.reachable(self._process):
            wire.schedule.wait(HOP_S)
            raise redis.ConnectionError("simulated: connection refused")
        self._link = Link(self._process)
        wire.links[self._link] = None

    def disconnect(self, *_: Any, **__: Any) -> None:
        """Close the connection. What was sent may still arrive, as with TCP."""
        link, self._link = self._link, None
        if link is not None and not link.closed:
            link.broken = True
            wire = self._wire
            closed_at = max(link.arrives_at, wire.schedule.now + HOP_S)
            wire.schedule.at(closed_at, lambda: wire.close(link))

    def pack_command(self, *args: Any) -> list[Command]:
        """Return the command as it is sent."""
        return [command_of(args)]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[Command]:
        """Return commands as they are sent."""
        return [command_of(args) for args in commands]

    def send_command(self, *args: Any, **_: Any) -> None:
        """Send one command."""
        self.send_packed_command([command_of(args)])

    def send_packed_command(
        self,
        command: list[Command],
        check_health: bool = True,  # noqa: ARG002 -- redis-py's
    ) -> None:
        """Send commands; connect first if need be."""
        if self._link is None:
            self.connect()
        link = self._link
        assert link is not None
        self._wire.step(self._process)
        if link.broken:
            self.disconnect()
            raise redis.ConnectionError("simulated: broken pipe")
        for each in command:
            self._wire.send(link, each)

    def can_read(self, timeout: float = 0) -> bool:  # noqa: ARG002 -- redis-py's
        """Tell whether an answer is there. Raises `redis.ConnectionError` when it is broken."""
        assert self._link is not None
        if self._link.broken:
            raise redis.ConnectionError("simulated: connection closed")
        return bool(self._link.replies)

    def is_ready(self) -> bool:
        """Tell whether it is open, whole, and without an answer that nobody took."""
        link = self._link
        return link is not None and not link.broken and not link.replies

    def read_response(self, *_: Any, **__: Any) -> Any:
        """Wait for the next answer, and return it. Raises what it says, and what redis-py would."""
        schedule, link = self._wire.schedule, self._link
        assert link is not None
        deadline = schedule.now + self.socket_timeout
        link.reader = schedule.current
        try:
            while not link.replies:
                if link.broken:
                    self.disconnect()
                    raise redis.ConnectionError("simulated: connection reset by peer")
                if schedule.now >= deadline:
                    self.disconnect()
                    raise redis.TimeoutError("simulated: timed out")
                schedule.wait(deadline - schedule.now)
        finally:
            link.reader = None
        self._wire.step(self._process)
        reply = link.replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def should_reconnect(self) -> bool:
        """Never: maintenance is not simulated."""
        return False

    @property
    def is_connected(self) -> bool:
        """Whether it is open, as far as the client knows."""
        return self._link is not None

    def repr_pieces(self) -> list[tuple[str, Any]]:
        """Return what identifies it."""
        return [("process", self._process.name)]


def command_of(args: Sequence[Any]) -> Command:
    """Return a command as it is sent: words, each of them bytes."""
    rest = [
        arg if type(arg) is bytes else arg.encode() if type(arg) is str else _bytes(arg)
        for arg in args[1:]
    ]
    return (*_words(args[0]), *rest)


@cache
def _words(name: str | bytes) -> Command:
    return tuple(_bytes(name).split())


def _bytes(arg: Any) -> bytes:
    return str(arg).encode() if isinstance(arg, (str, int, float)) else bytes(arg)
