"""One pass of the keep rules over a store, as a worker does it: see `sidecar.worker.retaining`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from sidecar.ops.asking import ask_there, check_all_asked, to_ask
from sidecar.ops.keeping import Keeping, Pace, Retired
from sidecar.ops.pins import Announced, Pins, UnfinishedPins
from sidecar.ops.published import PublishedRefs
from sidecar.redis.census import Named
from sidecar.stores import explained
from sidecar.wire.keeping import KeepRule, Published, written
from sidecar.wire.logbook import Log
from sidecar.wire.moments import rfc3339
from sidecar.wire.removals import Removal, announce, put_on_record
from sidecar.worker.retaining import SweepOrder, Swept
from store import Capability, Pin, Retention, capabilities


def sweep(order: SweepOrder) -> Swept:
    """Do the pass. Nothing goes while a log that names the store is on another server.

    Raises `UsageError` then, `Unreachable`, and whatever `order.breathe` raises.
    """
    keys = order.keys[0]
    if not order.notify.client.exists(keys.notifications):
        return Swept()  # nobody has announced anything
    with explained():
        asked = _asked(order)
        with _recorded(order) as removal:
            retiring = _Retiring(order, asked, removal)
            for one in retiring.run():
                removal.ref_went(one.ref, one.checksum, one.size_bytes)
            refs, size_bytes = removal.counts.get("ref", 0), removal.size_bytes
            is_due = order.collects and refs + order.went and retiring.reached <= order.after
            collected = bool(is_due) and _collect(order, asked.pins, removal)
    return Swept(refs, size_bytes, retiring.reached, collected)


class _Asked(NamedTuple):
    """Who publishes into the store, and what they name."""

    logs: list[Log]
    pins: Pins


def _asked(order: SweepOrder) -> _Asked:
    """Ask all that publish into the store. Raises `UsageError` where one is out of reach."""
    kind = UnfinishedPins if isinstance(order.place.rules, Published) else Pins
    logs = to_ask(order.place.store, ())
    served = [one.control for one in order.keys]
    there = [name for name in served if order.control.at(name).exists(name)]
    named = Named(there, dead=(order.keys[0].dead,))
    asked = ask_there(order.control, order.notify, named, kind)
    check_all_asked(logs, [asked])
    return _Asked(logs, asked.pins)


@contextmanager
def _recorded(order: SweepOrder) -> Iterator[Removal]:
    """Put on record what went meanwhile, also when it ends early."""
    said = written(order.place.rules)
    removal = Removal(rfc3339(time.time_ns() // 1000), order.by, said)
    try:
        yield removal
        removal.complete = True
    finally:
        put_on_record(order.place.store, removal)


def _collect(order: SweepOrder, pins: Pins, removal: Removal) -> bool:
    """Remove what nothing names any more, if the store can; tell whether it can."""
    store = order.place.store
    if Capability.COLLECT not in capabilities(store):
        return False
    retention = Retention(order.grace_s, breathe=order.breathe)
    for piece in store.collect(retention, _breathing(pins, order.breathe)):
        removal.went(piece.kind, piece.size_bytes)
        order.breathe()
    return True


class _Retiring:
    """The refs of one pass."""

    def __init__(self, order: SweepOrder, asked: _Asked, removal: Removal) -> None:
        self._order, self._asked = order, asked
        begin = partial(announce, order.place.store, removal)
        self._pace = Pace(order.most, order.after, order.breathe, begin)
        self.reached = ""
        """Where the pass ended; empty when it was through."""

    def run(self) -> Iterator[Retired]:
        """Delete what may go, and yield each."""
        rules = self._order.place.rules
        return self._published(rules) if isinstance(rules, Published) else self._kept(rules)

    def _kept(self, rules: Sequence[KeepRule]) -> Iterator[Retired]:
        order, pins = self._order, self._asked.pins
        streams = [log.stream.encode() for log in self._asked.logs if not log.reads]
        keeping = Keeping(order.place.store, rules, order.grace_s, streams, self._pace)
        yield from keeping.run(pins.announced(), pins, pins.now_s(), dry_run=False)
        self.reached = keeping.reached

    def _published(self, rule: Published) -> Iterator[Retired]:
        """Go through the whole store: what is named is asked anew for every so many refs."""
        place, now_s = self._order.place, self._asked.pins.now_s()
        if place.fleet:
            refs = PublishedRefs(place.store, place.fleet, rule, now_s, self._pace)
            yield from refs.run(self._pins_now, lambda: (one.ref for one in self._announced_now()))

    def _pins_now(self) -> Iterator[Pin]:
        return _asked(self._order).pins()

    def _announced_now(self) -> Iterator[Announced]:
        return _asked(self._order).pins.announced()


def _breathing(
    pins: Callable[[], Iterable[Pin]], breathe: Callable[[], None]
) -> Callable[[], Iterator[Pin]]:
    def breathing() -> Iterator[Pin]:
        for pin in pins():
            breathe()
            yield pin

    return breathing
