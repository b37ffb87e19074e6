"""What tenures leave behind: nothing that grows with their number, or with how many events came."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId, Origin
from sidecar.worker.carrying import Carrying
from sidecar.worker.width import STALL_S, STALL_WIDTH, Fixed, Tried
from sidecar.worker.window import Item, Trouble, Window
from tests.sidecar.harness import PlainStore, Rig, eventually

TENURES = 12
EVENTS = 60


def items_alive() -> int:
    """Return how many items anything holds."""
    gc.collect()
    return sum(type(found) is Item for found in gc.get_objects())


def item(number: int) -> Item:
    """Return an item."""
    return Item(
        Entry(EntryId(f"{number}-1"), {}),
        EntryId(f"{number}-1"),
        Origin(f"s/{number}-1"),
        Trouble(0.0),
        ref=f"r/{number}",
    )


def test_tenures_under_hung_stores_leave_only_what_hangs() -> None:
    """However many tenures end while stores hang, only items at the stores are kept."""
    before, go_on, at_store = items_alive(), threading.Event(), SimpleQueue[Item]()

    def hang(at: Item) -> None:
        at_store.put(at)
        go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        carrying = Carrying(pool, hang, Fixed(2))
        for _ in range(TENURES):
            for number in range(EVENTS):
                carrying.carry(item(number))
            carrying.forget()
        assert items_alive() - before <= 2
        assert pool._work_queue.qsize() <= 2
        go_on.set()


def test_the_next_tenure_goes_on_where_a_store_is_free() -> None:
    """What a later tenure has carried is carried, each once, though an earlier one left some."""
    with ThreadPoolExecutor(3) as pool:
        carried: SimpleQueue[Item] = SimpleQueue()
        carrying = Carrying(pool, carried.put, Fixed(2))
        for number in range(EVENTS):
            carrying.carry(item(number))
        carrying.forget()
        wanted = [item(number) for number in range(1000, 1000 + EVENTS)]
        for one in wanted:
            carrying.carry(one)
        done: list[Item] = []
        while carrying.out:
            done += carrying.collect(wait_s=60)
    assert {id(one) for one in done} == {id(one) for one in wanted}
    assert len(done) == len(wanted)


def test_what_left_the_window_is_not_carried() -> None:
    """An item that is put off while it waits for a thread costs the stores nothing."""
    carried: list[Item] = []
    with ThreadPoolExecutor(1) as pool:
        carrying = Carrying(pool, carried.append, Fixed(1))
        gone, there = item(1), item(2)
        window = Window()
        window.add(gone)
        window.drop(gone)
        for one in (gone, there):
            carrying.carry(one)
        done: list[Item] = []
        while carrying.out:
            done += carrying.collect(wait_s=60)
    assert (carried, done) == ([there], [gone, there])


def test_the_next_of_a_ref_and_of_a_tenant_both_go_on() -> None:
    """For the end of one item two may go on, each in a thread of its own."""
    first, of_ref, of_tenant = (item(number) for number in (1, 2, 3))
    first.tenant = of_tenant.tenant = "busy"
    of_ref.ref = first.ref
    end, both = threading.Event(), threading.Barrier(3)

    def carry(one: Item) -> None:
        if one is first:
            end.wait(60)
        else:
            both.wait(60)

    with ThreadPoolExecutor(2) as pool:
        carrying = Carrying(pool, carry, Fixed(2))  # of which a tenant has one
        for one in (first, of_ref, of_tenant):
            carrying.carry(one)
        eventually(lambda: not carrying._turns)
        end.set()
        both.wait(60)
        done: list[Item] = []
        while carrying.out:
            done += carrying.collect(wait_s=60)
    assert len(done) == 3


def test_no_more_are_carried_at_once_than_was_said() -> None:
    """A pool of many threads carries only so many of one relay at a time."""
    busy, most, lock = 0, 0, threading.Lock()

    def watch(_: Item) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        threading.Event().wait(0.001)
        with lock:
            busy -= 1

    with ThreadPoolExecutor(8) as pool:
        carrying = Carrying(pool, watch, Fixed(3))
        for number in range(EVENTS):
            carrying.carry(item(number))
        while carrying.out:
            list(carrying.collect(wait_s=60))
    assert most <= 3


def test_a_relay_forgets_its_tenures_while_the_source_hangs(rig: Rig) -> None:
    """A relay whose tenures end again and again beside a hung source holds one window of items."""
    before, go_on = items_alive(), threading.Event()
    rig.source.on_get = lambda _: (go_on.wait(60), None)[1]
    for number in range(EVENTS):
        rig.emit_artifact(f"e{number}", tenant=f"t{number}")
    with rig.relay(lease_s=0.3) as run:
        try:
            eventually(lambda: run.observer.state_now == "active")
            for number in range(TENURES):
                eventually(lambda: rig.pending() == EVENTS and rig.source.gets)
                rig.client.hset(rig.keys.halt, "reason", "by hand")
                eventually(lambda n=number: run.observer.count("halted") > n)  # type: ignore[misc]
                rig.client.hdel(rig.keys.halt, "reason")
                eventually(lambda n=number: run.observer.count("active") > n + 1)  # type: ignore[misc]
            assert items_alive() - before <= 2 * EVENTS + rig.threads
        finally:
            go_on.set()
        eventually(lambda: len(rig.published()) == EVENTS)
    rig.audit()


class SlowStore(PlainStore):
    """A store of one version a ref, whose first Put takes long; it counts those at one ref."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.first, self.done = threading.Event(), threading.Lock(), threading.Event()
        self.at: Counter[str] = Counter()
        self.most = 0

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Keep the pair, the first one late."""
        self.at[ref] += 1
        self.most = max(self.most, self.at[ref])
        is_first = self.first.acquire(blocking=False)
        if is_first:
            self.go_on.wait(60)
        super().put(ref, data, manifest)
        self.at[ref] -= 1
        if is_first:
            self.done.set()


def test_a_put_of_an_earlier_tenure_overtakes_none(rig: Rig) -> None:
    """A store that keeps one version has the last one published, though the first Put was slow."""
    rig.fleet = fleet = SlowStore()
    for version in ("one", "two"):
        rig.emit_artifact(version, ref="the/ref", data=version.encode())
    with rig.relay(lease_s=0.3) as run:
        try:
            eventually(lambda: fleet.at["the/ref"])
            rig.client.hset(rig.keys.halt, "reason", "by hand")
            eventually(lambda: run.observer.count("halted"))
            rig.client.hdel(rig.keys.halt, "reason")
            rig.emit_artifact("other", tenant="other")
            eventually(lambda: "other" in rig.published())
        finally:
            fleet.go_on.set()
        eventually(lambda: len(rig.published()) == 3 and fleet.done.is_set())
    assert (fleet.get("the/ref").data, fleet.most) == (b"two", 1)


def test_events_that_waited_for_a_ref_leave_no_count(rig: Rig) -> None:
    """Once events that waited for one ref are through, nothing is kept of what they waited for."""
    for number in range(EVENTS):
        rig.emit_artifact(f"e{number}", ref="the/ref", data=b"one", tenant=f"t{number % 7}")
    with rig.relay() as run:
        eventually(lambda: len(rig.published()) == EVENTS and rig.pending() == 0)
        window = run.relay.window
        claims, turns = window._claims, run.relay._carrying._turns
        left = (
            claims, claims._queues, claims._came_first, window, run.relay._holds,
            turns._refs, turns._busy, turns._over, turns._at_stores, turns,
        )  # fmt: skip
        eventually(lambda: not any(left), "nothing is left")
    rig.audit()


def test_what_hangs_alone_leaves_the_rest_of_its_tenant() -> None:
    """When nothing came through for long, more are carried, also of the tenant of what hangs."""
    now, go_on, carried = [0.0], threading.Event(), SimpleQueue[str]()

    def carry(at: Item) -> None:
        if at.ref == "r/0":
            go_on.wait(60)
        carried.put(at.ref)

    with ThreadPoolExecutor(STALL_WIDTH) as pool:
        carrying = Carrying(pool, carry, Tried(STALL_WIDTH, lambda: now[0]))
        for number in range(10):
            carrying.carry(item(number))
        assert list(carrying.collect(wait_s=0)) == []
        now[0] += STALL_S
        done = 0
        while done < 9:
            done += len(list(carrying.collect(wait_s=60)))
        go_on.set()
        assert [one.ref for one in carrying.collect(wait_s=60)] == ["r/0"]
