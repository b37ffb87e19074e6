"""The producers of a whole run: one a control stream, with IDs of the server's or of their own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tests.simulation.producer import Producer, Sent
from tests.simulation.stores import sha256

if TYPE_CHECKING:
    from tests.simulation.whole.world import Fleet, World

LATE_S = 5.0
"""The latest that an artifact comes after its event."""
AGAIN_S = 0.3
"""How long a producer waits that was refused."""


class WholeProducer(Producer):
    """Appends events of several tenants to one control stream."""

    def __init__(self, world: World, fleet: Fleet, stream: str, ids: str, number: int) -> None:
        plan = world.plan
        share = max(1, fleet.plan.events // len(fleet.keys))
        super().__init__(cast("Any", SimpleNamespace(
            plan=SimpleNamespace(
                events=share, pauses=plan.pauses, chaos_s=plan.chaos_s,
                retry_budget_s=plan.retry_budget_s,
            ),
            schedule=world.schedule, source=fleet.source, chance=world.chance,
        )))  # fmt: skip
        self._whole, self._fleet = world, fleet
        self._stream, self._ids = stream.encode(), ids
        self._number = 1000 * number
        self._given = 0
        self._activations = 0

    def _choose(self) -> Sent:
        if self._chance.random() < self._whole.plan.stacks:
            return self._activated()
        return super()._choose()

    def _activated(self) -> Sent:
        self._activations += 1
        version = self._activations
        tenant = self._chance.choice(self._tenants) or "t"
        stack, ref = "web", f"stacks/{tenant}/web/{version}@{self._number}"
        if self._whole.plan.plain_versions:
            stack = self._stream.decode().replace(":", "-")  # each stream counts for itself
            ref = f"stacks/{tenant}/{stack}/{version}"
        data, manifest = f"{ref} activated".encode(), b"{}"
        wait_s = self._chance.choice((0.0, 0.0, 0.5, LATE_S))
        inner = self._fleet.source.inner
        if wait_s:
            self._whole.schedule.after(wait_s, lambda: inner.put(ref, data, manifest))
        else:
            inner.put(ref, data, manifest)
        pin = (ref, sha256(data), sha256(manifest))
        body = self._body(
            type="stack.activated", tenant_id=tenant, stack_id=stack, version=version,
            artifact_ref=ref, checksum=pin[1],
        )  # fmt: skip
        reasons = frozenset({"artifact_missing", "checksum_mismatch"} if wait_s else ())
        here_at = self._whole.schedule.now + wait_s
        sent = self._sent(body, pin=pin, here_at=here_at, reasons=reasons)
        if wait_s and self._whole.plan.sends_again:
            self._whole.schedule.after(wait_s, partial(self._send_again, sent))
        return sent

    def _send_again(self, sent: Sent) -> None:
        self._whole.schedule.spawn(self._whole.producing, partial(self._append, sent))

    def _append(self, sent: Sent) -> None:
        fields = [b"event", sent.raw] if sent.raw is not None else [b"other", b"x"]
        if self._chance.random() < 0.1:
            fields += [b"traceparent", b"00-%032x-%016x-01" % (self._number, self._number)]
        box = self._fleet.control
        while not self._whole.reaches(box) or (box.full and self._whole.refuses(box)):
            self._whole.schedule.wait(AGAIN_S)
        self._whole.append(box, self._stream, self._next_id(), fields, sent)
        if sent.event_id:
            self._again.append(sent)

    def _next_id(self) -> bytes:
        """Return what to give for an ID: `low` is no time, `early` lies in the future."""
        self._given += 1
        if self._ids == "auto" or (self._ids == "early" and self._given > 1):
            return b"*"
        if self._ids == "low":
            return b"%d-1" % self._given
        return b"%d-7" % (self._fleet.control.now_us() // 1000 + 3_600_000)

    def probe(self) -> None:
        """Append one event more, of a tenant of its own."""
        self._append(self._sent(self._body(tenant_id="probe")))
