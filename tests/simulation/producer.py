"""The producers' side: what they append, and what the simulation remembers of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.stores import Pin, sha256
from tests.simulation.streams import Id, parse_id

if TYPE_CHECKING:
    from tests.simulation.world import World

NEVER: Final = float("inf")
UNSAID: Final = ("id", "created_at", "control_version", "manifest_checksum")
"""Not part of what an event says: a producer that sends again may change them."""


@dataclass(frozen=True)
class Sent:
    """An entry that a producer appended, and what may become of it."""

    raw: bytes | None
    event_id: str = ""
    """Empty for what can never be published."""
    tenant: str = ""
    content: str = ""
    pin: Pin | None = None
    at: float = 0.0
    here_at: float = 0.0
    """When its artifact is at the source."""
    reasons: frozenset[str] = frozenset()
    """Why it may end as a dead letter, whatever the weather."""
    entry: Id = (0, 0)


@dataclass
class Book:
    """Every entry that was appended, by its ID."""

    sent: dict[Id, Sent] = field(default_factory=dict)
    deleted: set[Id] = field(default_factory=set)
    """Entries that the operator deleted while they were pending."""
    forgotten: bool = False
    """Whether the operator deleted a pending list after an entry on it."""


def content_of(body: dict[str, Any]) -> str:
    """Return what an event says, in one way of writing."""
    return json.dumps({k: v for k, v in body.items() if k not in UNSAID and v}, sort_keys=True)


class Producer:
    """Appends events of several tenants: good ones, bad ones, and some of them again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance: random.Random = world.chance
        self._number = 0
        self._tenants = self._chance.sample(["", "a", "b", "c", "d"], self._chance.randint(1, 4))
        self._weights = [self._chance.choice((0, 1, 4)) * each for each in _USUAL]
        self._again: list[Sent] = []

    def run(self) -> None:
        """Append all of it, with pauses."""
        plan = self._world.plan
        for _ in range(plan.events):
            if self._chance.random() < plan.pauses:
                pause_s = self._chance.expovariate(plan.events * plan.pauses / plan.chaos_s)
                self._world.schedule.wait(min(pause_s, plan.chaos_s))
            self._append(self._choose())

    def _choose(self) -> Sent:
        if not any(self._weights):
            return self._plain()
        [make] = self._chance.choices(_KINDS, self._weights)
        return make(self)

    def _append(self, sent: Sent) -> None:
        world = self._world
        fields = [b"event", sent.raw] if sent.raw is not None else [b"other", b"x"]
        if self._chance.random() < 0.1:
            fields += [b"traceparent", b"00-%032x-%016x-01" % (self._number, self._number)]
        book, stream = world.book, world.plan.control.encode()

        def remember(_: bytes, entry_id: Id, __: Any) -> None:
            book.sent[entry_id] = replace(sent, at=world.schedule.now, entry=entry_id)

        world.remember = remember
        answer = world.wire.local(b"XADD", stream, b"*", *fields)
        assert parse_id(answer) in book.sent
        world.note("producer", answer, sent.raw and sent.raw[:60])
        if sent.event_id:
            self._again.append(sent)

    # --- kinds of events -----------------------------------------------------------------------

    def _body(self, **more: Any) -> dict[str, Any]:
        self._number += 1
        body = {
            "id": self._number,
            "event_id": f"e{self._number}",
            "type": "run.abort",
            "tenant_id": self._chance.choice(self._tenants),
        }
        return {name: value for name, value in (body | more).items() if value != ""}

    @staticmethod
    def _sent(body: dict[str, Any], **more: Any) -> Sent:
        return Sent(
            json.dumps(body).encode(), body["event_id"], body.get("tenant_id", ""),
            content_of(body), **more,
        )  # fmt: skip

    def _plain(self) -> Sent:
        return self._sent(self._body())

    def _artifact(self, delay_s: float = 0.0, *, wrong: bool = False) -> Sent:
        body = self._body()
        ref = f"rows/{body.get('tenant_id', 'none')}/{self._chance.randint(1, 2)}"
        data, manifest = f"{ref} as of {body['id']}".encode(), b"{%d}" % (body["id"] % 2)
        here_at = self._world.schedule.now + delay_s
        if wrong:
            here_at = NEVER
        put: Callable[[], None] = lambda: self._world.source.inner.put(ref, data, manifest)  # noqa: E731
        if delay_s == 0.0 and not wrong:
            put()
        elif here_at < NEVER:
            self._world.schedule.after(delay_s, put)
        pin = (ref, sha256(data), sha256(manifest))
        body |= {"artifact_ref": ref, "checksum": pin[1]}
        if self._chance.random() < 0.3:
            body["manifest_checksum"] = pin[2]
        missing = {"artifact_missing", "checksum_mismatch"} if delay_s or wrong else set()
        return self._sent(body, pin=pin, here_at=here_at, reasons=frozenset(missing))

    def _present(self) -> Sent:
        return self._artifact()

    def _late(self) -> Sent:
        budget_s = self._world.plan.retry_budget_s
        return self._artifact(self._chance.uniform(0.01, 1.5 * budget_s + 0.1))

    def _missing(self) -> Sent:
        return self._artifact(wrong=True)

    def _resent(self) -> Sent:
        """The same event once more: soon or late, whatever became of the first."""
        if not self._again:
            return self._plain()
        sent = self._chance.choice(self._again[-6:])
        assert sent.raw is not None
        body = json.loads(sent.raw)
        if self._chance.random() < 0.5:
            body |= {"id": body["id"] + 1000, "created_at": "2026-01-01T00:00:00Z"}
        return replace(sent, raw=json.dumps(body).encode())

    def _conflict(self) -> Sent:
        """The event_id of an earlier event, and other content."""
        if not self._again:
            return self._plain()
        before = self._chance.choice(self._again[-6:])
        return self._sent(self._body(event_id=before.event_id, version=self._number))

    def _invalid(self) -> Sent:
        self._number += 1
        raw, reason = self._chance.choice((
            (b"\xff", "malformed"),
            (b"{", "malformed"),
            (None, "malformed"),
            (b'{"event_id":"","type":"run.abort"}', "invalid_event"),
            (b'{"event_id":"i%d","type":"no.such"}' % self._number, "unknown_type"),
            (
                b'{"event_id":"i%d","type":"run.abort","artifact_ref":"/x","checksum":"sha256:%064d"}'
                % (self._number, 0),
                "bad_ref",
            ),
            (b" " * 20_000, "too_large"),
        ))  # fmt: skip
        return Sent(raw, reasons=frozenset({reason}))


_KINDS: Final[tuple[Callable[[Producer], Sent], ...]] = (
    Producer._plain,
    Producer._present,
    Producer._late,
    Producer._missing,
    Producer._resent,
    Producer._conflict,
    Producer._invalid,
)
_USUAL: Final = (8, 8, 2, 1, 4, 1, 1)
