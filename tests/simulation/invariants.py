"""What must hold, checked at the moment of every write, by what the simulation itself knows.

Nothing here is the product's: what was sent is in the producers' book, what is stored on the
shelf, and what the server does it says at the moment that it does it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.producer import Sent, content_of
from tests.simulation.stores import sha256
from tests.simulation.streams import Id, parse_id, show_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.schedule import Process, Schedule
    from tests.simulation.world import World

MAX_NOTIFICATION_BYTES: Final = 8192
DEATHS_OF_POISON: Final = 3


class Violation(Exception):
    """A guarantee was broken."""


def guarded(schedule: Schedule, check: Callable[..., None]) -> Callable[..., None]:
    """Return a check whose violation ends the run: a worker would take it for a fault."""

    def guarded(*args: Any) -> None:
        try:
            check(*args)
        except Violation as violation:
            schedule.fail(violation)

    return guarded


class Watch:
    """Looks at each write, and at the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._plan = world.plan
        self._control = world.plan.control.encode()
        self._notifications = world.plan.notifications.encode()
        prefix = b"{" + self._notifications + b"}:"
        self.dead = prefix + b"dead"
        self.fence = prefix + b"fence:" + self._control
        self.lease = prefix + b"lease:" + self._control
        self.low = prefix + b"low:" + self._control
        self.halt = prefix + b"halt:" + self._control
        self.halts = prefix + b"halts"
        self.paused = prefix + b"paused:" + self._control
        self.tenures = prefix + b"tenures"
        self.group = b"sidecar:" + self._notifications
        self.published: dict[str, str] = {}
        """What each published event said, by event_id."""
        self.notified: set[Id] = set()
        self.buried: dict[Id, str] = {}
        self.takeovers = 0
        self._first_delivered: dict[Id, int] = {}
        self._last_of_tenant: dict[str, Id] = {}
        self._last_version = 0
        self._low: bytes | None = None
        self._recorded = b"resumed"
        self._actor: Process | None = None

    # --- at every command ----------------------------------------------------------------------

    def serve(self, process: Process, command: tuple[bytes, ...], run: Any) -> Any:
        """Run a worker's command, and look at what it did."""
        data, server = self._world.server.data, self._world.server
        fence, changes = data.get(self.fence), server.changes
        self._actor = process
        try:
            return run()
        finally:
            self._actor = None
            after = data.get(self.fence)
            if after != fence:
                self.takeovers += 1
            token = self._world.token(process)
            changed = server.changes != changes and self.tenures not in command
            if command[0] in {b"EVALSHA", b"EVAL"} and changed:
                self._expect(
                    token in (fence, after), "G7", f"{process} changed something without the fence"
                )
            low = data.get(self.low)
            if low != self._low:
                self._low = low
                self._check_low()

    def _check_low(self) -> None:
        if self._low is None or self._world.book.forgotten:
            return
        low = parse_id(self._low)
        for entry_id in self._world.book.sent:
            if entry_id < low and entry_id not in self._world.book.deleted:
                self._expect(
                    self._has_ended(entry_id), "G3",
                    f"the lowest unfinished entry is noted as {self._low!r}, and"
                    f" {show_id(entry_id)!r} is unfinished",
                )  # fmt: skip

    def appended(self, key: bytes, entry_id: Id, fields: list[bytes]) -> None:
        """Look at an entry that can be read from now on."""
        if key == self._control:
            self._world.remember(key, entry_id, fields)
            return
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        halt = self._world.server.data.get(self.halt) or {}
        if key == self.halts:
            self._halt_record(named, is_halted=b"reason" in halt)
            return
        if key == self.tenures:  # nothing here loses more than the group
            self._expect(named[b"lost"] == b"group", "told", f"a false alarm: {named}")
            return
        self._expect(b"reason" not in halt, "halt", f"{key!r} grew while halted")
        assert self._actor is not None
        self._expect(
            self._world.server.data.get(self.fence) == self._world.token(self._actor),
            "G7", f"{self._actor} appended to {key!r} without the fence",
        )  # fmt: skip
        if key == self._notifications:
            self._notification(entry_id, named, sum(map(len, fields)))
        elif key == self.dead:
            self._letter(named)

    def _halt_record(self, named: dict[bytes, bytes], *, is_halted: bool) -> None:
        what = named[b"what"]
        if b"tenant" in named:  # who is paused is looked at as a whole
            return
        wanted = b"halted" if is_halted else b"resumed"
        self._expect(what == wanted, "halt", f"the record says {what!r}, and it is {wanted!r}")
        self._expect(what != self._recorded, "halt", f"it is on record twice as {what!r}")
        self._recorded = what

    def delivered(self, _: bytes, entry_id: Id) -> None:
        """Note how many owners there had been when an entry was handed out first."""
        self._first_delivered.setdefault(entry_id, self.takeovers)

    def _notification(self, entry_id: Id, fields: dict[bytes, bytes], size_bytes: int) -> None:
        event = json.loads(fields[b"event"])
        origin, sent = self._origin(fields)
        version, event_id = event["control_version"], event["event_id"]
        what = f"notification of {fields[b'origin'].decode()} ({event_id})"
        self._expect(size_bytes <= MAX_NOTIFICATION_BYTES, "G5", f"{what} has {size_bytes} bytes")
        self._expect(event_id not in self.published, "G2", f"{what}: published twice")
        self._expect(origin not in self.notified, "G3", f"{what}: its origin is published twice")
        self._expect(origin not in self.buried, "G3", f"{what}: its origin is a dead letter")
        self._expect(
            event_id == sent.event_id and content_of(event) == sent.content,
            "G3", f"{what} says something else than its entry: {event}",
        )  # fmt: skip
        self._expect(
            version > self._last_version and divmod(version, 1000) == entry_id,
            "G4", f"{what}: control_version {version}, entry {entry_id}",
        )  # fmt: skip
        tenant = event.get("tenant_id", "")
        self._expect(
            origin > self._last_of_tenant.get(tenant, (0, 0)), "G4", f"{what}: tenant out of order"
        )
        if sent.pin:
            ref, checksum, manifest_checksum = sent.pin
            self._expect(
                (event["artifact_ref"], event["checksum"], event["manifest_checksum"])
                == (ref, checksum, manifest_checksum),
                "G1", f"{what} pins something else",
            )  # fmt: skip
            self._expect(self._world.fleet.holds(sent.pin), "G1", f"{what} cannot be resolved")
        self.published[event_id] = sent.content
        self.notified.add(origin)
        self._last_of_tenant[tenant] = origin
        self._last_version = version

    def _letter(self, fields: dict[bytes, bytes]) -> None:
        origin, sent = self._origin(fields)
        reason = fields[b"reason"].decode()
        what = f"dead letter of {fields[b'origin'].decode()} ({sent.event_id}, {reason})"
        self._expect(origin not in self.buried, "G3", f"{what}: it has one")
        deleted = origin in self._world.book.deleted
        # Only the entry told which event it was: that it had been published cannot be seen.
        self._expect(
            origin not in self.notified or (deleted and reason == "entry_lost"),
            "G3", f"{what}: its origin is published",
        )  # fmt: skip
        said = self.published.get(sent.event_id)
        self._expect(said != sent.content or deleted, "G3", f"{what}: its event is published")
        self._expect(
            self._may_end_as(reason, origin, sent, said), "G3", f"{what}: not for that reason"
        )
        if reason != "entry_lost":
            raw = sent.raw or b""
            self._expect(fields[b"event"] == raw[:16384], "G3", f"{what} has other bytes")
        self.buried[origin] = reason

    def _may_end_as(self, reason: str, origin: Id, sent: Sent, said: str | None) -> bool:
        if reason == "entry_lost":
            return origin in self._world.book.deleted
        if reason == "id_conflict":
            return said is not None and said != sent.content
        if reason == "poison":
            return self.takeovers - self._first_delivered[origin] >= DEATHS_OF_POISON
        return reason in sent.reasons

    def acknowledged(self, _: bytes, entry_id: Id) -> None:
        """Look at an entry that was taken off the pending list."""
        self._expect(
            self._has_ended(entry_id), "G3", f"{show_id(entry_id)!r} acknowledged before its end"
        )

    def _origin(self, fields: dict[bytes, bytes]) -> tuple[Id, Sent]:
        stream, _, raw = fields[b"origin"].rpartition(b"/")
        entry_id = parse_id(raw)
        sent = self._world.book.sent.get(entry_id)
        if stream != self._control or sent is None:
            raise Violation(f"G3: nobody sent {fields[b'origin']!r}")
        return entry_id, sent

    def _has_ended(self, entry_id: Id) -> bool:
        if entry_id in self.notified or entry_id in self.buried:
            return True
        sent = self._world.book.sent[entry_id]
        return bool(sent.event_id) and self.published.get(sent.event_id) == sent.content

    # --- at the end ----------------------------------------------------------------------------

    def unfinished(self) -> list[Id]:
        """Return the entries that have no end, of those that can have one."""
        book = self._world.book
        gone = book.deleted if book.forgotten else set()
        return [i for i in book.sent if i not in gone and not self._has_ended(i)]

    def pending(self) -> int | None:
        """Return how many entries are pending; None without a group."""
        stream = self._world.server.data.get(self._control)
        group = stream and stream.groups.get(self.group)
        return len(group.pending) if group else None

    def finally_(self) -> None:
        """Look at what is left when all is quiet."""
        newest: dict[str, Id] = {}
        for origin in self.notified:
            pin = self._world.book.sent[origin].pin
            if pin:
                newest[pin[0]] = max(origin, newest.get(pin[0], (0, 0)))
        for ref, origin in newest.items():
            data, manifest = self._world.fleet.inner.get(ref)
            position = self._world.fleet.durable[ref, sha256(data), sha256(manifest)]
            self._expect(
                position >= origin,
                "G1", f"{ref} moved back to {position}, and {origin} is published",
            )  # fmt: skip

    @staticmethod
    def _expect(holds: bool, guarantee: str, otherwise: str) -> None:
        if not holds:
            raise Violation(f"{guarantee}: {otherwise}")
