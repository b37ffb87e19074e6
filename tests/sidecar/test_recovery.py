"""What people do to the group with a Redis client, and how a worker finds its way again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from sidecar.ops.status import collect
from sidecar.redis.client import Side, connect
from sidecar.redis.ends import Ends
from sidecar.redis.finished import is_finished
from sidecar.redis.lag import is_beyond, is_skipped
from sidecar.redis.publisher import Publisher, Seen, dead_mark
from sidecar.redis.source import ControlStream, Entry, Pending
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.worker import recovery
from sidecar.worker.storepool import StorePool
from tests.sidecar.harness import CONTROL, Rig, data_of, eventually, last_said, ref_of, silent_log

CONTENT = b"c" * 16
AHEAD = "9999999999999-0"


def take(rig: Rig, count: int = 1, consumer: str = "debug") -> list[EntryId]:
    """Read entries of the group as somebody else; return their IDs."""
    answer: Any = rig.client.xreadgroup(rig.keys.group, consumer, {CONTROL: ">"}, count=count)
    return [EntryId(entry_id.decode()) for _, entries in answer for entry_id, _ in entries]


def relayed_once(rig: Rig) -> None:
    """Let a first worker make the group and finish one entry."""
    rig.emit("first")
    rig.drain()


# --- decisions -----------------------------------------------------------------------------------


def test_a_position_beyond_the_end() -> None:
    """A position is beyond the end only above the highest ID that the stream gave."""
    assert is_beyond(EntryId("10-0"), EntryId("9-9"))
    assert not is_beyond(EntryId("9-9"), EntryId("9-9"))
    assert not is_beyond(FIRST, FIRST)


@pytest.mark.parametrize(
    ("low", "first", "position", "lowest_pending", "skipped"),
    [
        ("5-0", "5-0", "7-0", "", True),
        ("5-0", "6-0", "7-0", "7-0", True),
        ("5-0", "5-0", "7-0", "5-0", False),
        ("5-0", "8-0", "7-0", "", False),
        ("5-0", "", "7-0", "", False),
        (LAST, LAST, LAST, "", False),
    ],
)
def test_what_was_skipped(
    low: str, first: str, position: str, lowest_pending: str, *, skipped: bool
) -> None:
    """The lowest unfinished entry is skipped when it was handed out and is not pending."""
    assert (
        is_skipped(EntryId(low), EntryId(first) or None, EntryId(position), EntryId(lowest_pending))
        is skipped
    )


def test_what_the_index_proves() -> None:
    """An entry is finished if its content is published, or its origin has its dead letter."""
    entry = Entry(EntryId("1-0"), {b"event": b"raw"})
    published, buried = Seen(CONTENT, 7), Seen(dead_mark(entry), 7)
    assert is_finished(entry, CONTENT, published, None)
    assert is_finished(entry, b"", None, buried)
    assert is_finished(entry, b"", None, Seen(b"-" * 16, 7))
    assert not is_finished(entry._replace(fields={b"event": b"other"}), b"", None, buried)
    assert not is_finished(entry, CONTENT, None, None)
    assert not is_finished(entry, b"d" * 16, published, None)
    assert is_finished(entry, CONTENT, None, None, published)
    assert not is_finished(entry, b"d" * 16, None, None, published)


class Stalled:
    """Both sides, as a worker sees them that stalled while another one began."""

    def __init__(self, *lows: str | None) -> None:
        self.lows = list(lows)

    def lowest_unfinished(self) -> str | None:
        """Return what is noted at that moment."""
        return self.lows.pop(0)

    def anchors(self) -> tuple[()]:
        """None is noted."""
        return ()

    def has_group(self) -> bool:
        """The other has made it."""
        return True

    def look(self, _: str) -> Ends:
        """Nothing is lost of the stream."""
        first, last, none = EntryId("1-0"), EntryId("5-0"), EntryId("")
        return Ends(0, last, last, first, none, has_known=False, below_known=none)

    def was_read(self) -> bool:
        """The other has read from it."""
        return True

    def last_delivered(self) -> str:
        """Up to here."""
        return "5-0"


@pytest.mark.parametrize(("lows", "lost"), [((None, "5-1"), []), ((None, None), ["notes"])])
def test_notes_are_missing_only_if_they_were_before_the_first_read(
    lows: tuple[str | None, ...], lost: list[str]
) -> None:
    """A worker that stalled before it looked at the group looks at the notes once more."""
    told: list[str] = []
    side: Any = Stalled(*lows)
    recovery.Recovery(
        "s", side, side, lambda: None, silent_log(), lambda part, *_: told.append(part)
    )._have_group()
    assert told == lost


# --- pending under another consumer --------------------------------------------------------------


def test_entries_under_another_consumer_come_first(rig: Rig) -> None:
    """What another consumer of the group read is taken over, before newer ones of its tenant."""
    relayed_once(rig)
    rig.emit("taken")
    take(rig)
    rig.emit("newer")
    rig.drain()
    assert rig.published() == ["first", "taken", "newer"]
    assert rig.pending() == 0


def test_many_entries_under_several_consumers_keep_their_order(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, by whom they were read, they come page by page in entry order."""
    monkeypatch.setattr("sidecar.worker.relay.BATCH", 7)
    monkeypatch.setattr("sidecar.worker.relay.WINDOW", 7)
    relayed_once(rig)
    wanted = ["first", *(f"e{n}" for n in range(60))]
    for event_id in wanted[1:]:
        rig.emit(event_id)
    for n in range(9):
        take(rig, 5, ("worker", "debug", "other")[n % 3])
    rig.drain()
    assert rig.published() == wanted
    assert rig.pending() == 0


def test_a_deleted_entry_under_another_consumer_is_told(rig: Rig) -> None:
    """What was deleted while another consumer had it ends as entry_lost, in its place."""
    relayed_once(rig)
    for event_id in ("a", "gone", "b"):
        rig.emit(event_id)
    take(rig, 3)
    rig.client.xdel(CONTROL, rig.sent["gone"])
    rig.drain()
    assert rig.published() == ["first", "a", "b"]
    assert rig.reasons() == ["entry_lost"]
    assert rig.pending() == 0


@pytest.mark.parametrize("more", [False, True])
def test_a_live_worker_takes_over_what_another_reads(rig: Rig, *, more: bool) -> None:
    """Beside a live worker, what another consumer reads is taken over, who is named if idle."""
    with rig.relay(lease_s=0.4) as run:
        rig.emit("first")  # once that is published, a tenure's beginning is over
        eventually(lambda: rig.published() == ["first"] and not rig.pending())
        together = rig.client.pipeline(transaction=True)
        together.xadd(CONTROL, {"event": '{"event_id":"taken","type":"run.abort"}'})
        together.xreadgroup(rig.keys.group, "debug", {CONTROL: ">"})
        if more:
            together.xadd(CONTROL, {"event": '{"event_id":"newer","type":"run.abort"}'})
        together.execute()
        eventually(lambda: len(rig.published()) == 2 + more)
        eventually(lambda: rig.pending() == 0)
        told = [detail for state, detail in run.observer.states if state == "recovering"]
        assert more or any("'debug'" in detail for detail in told)
    assert rig.published() == ["first", "taken", "newer"][: 2 + more]


def test_who_reads_while_the_group_is_looked_at_is_named(rig: Rig) -> None:
    """Between a look at what is pending and one at the position, too."""
    robbed: list[str] = []

    class Robbed(ControlStream):
        def last_delivered(self) -> EntryId:
            if run.observer.state_now == "active" and not robbed:
                rig.emit("taken")
                robbed.extend(take(rig))
            return super().last_delivered()

    rig.stream_class = Robbed
    with rig.relay(lease_s=0.4) as run:
        eventually(lambda: rig.published() == ["taken"])
        told = [detail for state, detail in run.observer.states if state == "recovering"]
        assert any("'debug'" in detail for detail in told), told


def test_what_is_claimed_from_a_live_worker_comes_back(rig: Rig) -> None:
    """Entries that wait behind a held one and are claimed by another consumer keep their turn."""
    rig.emit_artifact("held", put=False)
    rig.emit("behind")
    with rig.relay(lease_s=0.4, retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries and run.observer.read_count == 2)
        rig.client.xclaim(CONTROL, rig.keys.group, "debug", 0, [rig.sent["behind"]])
        rig.plant(ref_of("held"), data_of("held"))
        eventually(lambda: len(rig.published()) == 2)
        eventually(lambda: rig.pending() == 0)
    assert rig.published() == ["held", "behind"]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("alive", [False, True])
def test_what_a_deleted_consumer_had_is_found_again(rig: Rig, *, alive: bool, held: bool) -> None:
    """Entries lost with another consumer are delivered again, whatever else is still pending."""
    relayed_once(rig)
    if held:
        rig.emit_artifact("held", tenant="held", put=False)

    def lose() -> None:
        together = rig.client.pipeline(transaction=True)
        together.xadd(CONTROL, {"event": '{"event_id":"lost","type":"run.abort","tenant_id":"t"}'})
        together.xreadgroup(rig.keys.group, "debug", {CONTROL: ">"})
        together.xgroup_delconsumer(CONTROL, rig.keys.group, "debug")
        together.execute()

    with rig.relay(lease_s=0.4, retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries if held else run.observer.state_now == "active")
        if alive:
            lose()
            eventually(lambda: "lost" in rig.published())
    if not alive:
        lose()
    rig.plant(ref_of("held"), data_of("held"))
    rig.emit("newer")
    rig.drain()
    published = rig.published()
    assert set(published) == {"first", "lost", "newer"} | ({"held"} if held else set())
    assert [event for event in published if event in {"lost", "newer"}] == ["lost", "newer"]
    rig.audit()


def test_a_drain_leaves_nothing_under_another_consumer(rig: Rig) -> None:
    """A drain is not complete while another consumer of the group has entries."""
    relayed_once(rig)
    rig.emit("last")
    robbed: list[str] = []

    class Robbed(ControlStream):
        def read_new(self, count: int, block_ms: int | None) -> list[Any]:
            if not robbed:
                robbed.extend(take(rig))
            return super().read_new(count, block_ms)

    rig.stream_class = Robbed
    rig.drain()
    assert robbed
    assert rig.published() == ["first", "last"]
    assert rig.pending() == 0


def test_the_status_names_the_consumer(rig: Rig) -> None:
    """The status tells by consumer how many entries are pending."""
    relayed_once(rig)
    rig.emit("a")
    rig.emit("b")
    take(rig, 1, "worker")
    take(rig, 1, "debug")
    (stream,) = status_of(rig).streams
    assert stream.pending == 2
    assert stream.pending_by_consumer == {"worker": 1, "debug": 1}


# --- the position --------------------------------------------------------------------------------


def status_of(rig: Rig) -> Any:
    """Return what `sidecar status` tells."""
    side = Side(rig.client, rig.url)
    return collect(side, side, [rig.keys])


@pytest.mark.parametrize("position", [AHEAD, LAST])
def test_a_position_ahead_of_a_live_worker(rig: Rig, position: str) -> None:
    """A position set beyond the end of an idle stream is set back, and what comes is read."""
    with rig.relay(lease_s=0.4) as run:
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        rig.client.xgroup_setid(CONTROL, rig.keys.group, position)
        rig.emit("b")
        eventually(lambda: rig.published() == ["a", "b"])
        assert run.observer.count("recovering") >= 1
        rig.client.xgroup_setid(CONTROL, rig.keys.group, position)
        eventually(lambda: run.observer.count("recovering") >= 2)
        rig.emit("c")
        eventually(lambda: rig.published() == ["a", "b", "c"])


class Died(Exception):
    """A worker dies."""


@pytest.mark.parametrize("position", ["$", "1", AHEAD])
def test_a_position_ahead_of_a_group_whose_maker_died_at_once(rig: Rig, position: str) -> None:
    """Before it noted anything else; the next worker reads from the beginning."""

    class Mortal(ControlStream):
        def create_group(self, after: EntryId) -> bool:
            super().create_group(after)
            raise Died

    first = rig.emit("first")
    rig.emit("second")
    rig.stream_class = Mortal
    with pytest.raises(Died), rig.relay() as run:
        run.finish()
    position = first if position == "1" else position
    rig.client.xgroup_setid(CONTROL, rig.keys.group, position)
    rig.stream_class = ControlStream
    rig.drain()
    assert rig.published() == ["first", "second"]


def test_a_position_ahead_while_no_worker_runs(rig: Rig) -> None:
    """The next worker sets back a position beyond the end, though nothing was appended yet."""
    relayed_once(rig)
    rig.client.xgroup_setid(CONTROL, rig.keys.group, AHEAD)
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "active")
        rig.emit("b")
        eventually(lambda: rig.published() == ["first", "b"])


def test_a_position_beyond_the_end_is_no_lag_of_nothing(rig: Rig) -> None:
    """Status does not call the lag 0 while the position lies beyond the end, or passed entries."""
    relayed_once(rig)
    (before,) = status_of(rig).streams
    assert before.lag == 0
    rig.client.xgroup_setid(CONTROL, rig.keys.group, AHEAD)
    (beyond,) = status_of(rig).streams
    assert beyond.lag is None
    assert beyond.position_beyond_end
    last = rig.emit("passed")
    rig.client.xgroup_setid(CONTROL, rig.keys.group, last)
    (passed,) = status_of(rig).streams
    assert passed.lag is None
    assert not passed.position_beyond_end


@pytest.mark.parametrize("alive", [False, True])
def test_a_position_set_back_publishes_nothing_again(rig: Rig, *, alive: bool) -> None:
    """A position set back is set to the lowest unfinished entry; what is finished is not redone."""
    for n in range(5):
        rig.emit(f"e{n}")
    rig.drain()
    wanted = [f"e{n}" for n in range(5)]
    if not alive:
        rig.client.xgroup_setid(CONTROL, rig.keys.group, "0")
    with rig.relay(lease_s=0.4) as run:
        eventually(lambda: run.observer.state_now == "active")
        if alive:
            rig.client.xgroup_setid(CONTROL, rig.keys.group, "0")
            eventually(lambda: run.observer.count("recovering") >= 1)
        rig.emit("new")
        eventually(lambda: rig.published() == [*wanted, "new"])
        eventually(lambda: rig.pending() == 0)
    assert not rig.letters()


@pytest.mark.parametrize("group", ["", "$", "0"])
def test_a_stream_made_anew_with_lower_ids(rig: Rig, group: str) -> None:
    """A control stream deleted and made anew with lower IDs is read from its beginning."""
    with rig.relay(lease_s=0.4) as run:
        rig.emit("old")
        eventually(lambda: rig.published() == ["old"])
        anew = rig.client.pipeline(transaction=True)
        anew.delete(CONTROL)
        for n in range(1, 4):
            anew.xadd(CONTROL, {"event": f'{{"event_id":"n{n}","type":"run.abort"}}'}, id=f"{n}-1")
        if group:
            anew.xgroup_create(CONTROL, rig.keys.group, group)
        anew.execute()
        eventually(lambda: rig.published() == ["old", "n1", "n2", "n3"])
        rig.emit("new")
        eventually(lambda: rig.published()[-1] == "new")
        assert run.observer.count("recovering") >= 1


def test_a_stream_made_anew_and_on_beyond_the_old_ones_end(rig: Rig) -> None:
    """Lower IDs of a stream made anew are not passed over because higher ones followed."""
    relayed_once(rig)
    rig.client.delete(CONTROL)
    rig.client.xadd(CONTROL, {"event": '{"event_id":"lower","type":"run.abort"}'}, id="1-1")
    rig.emit("higher")
    rig.drain()
    assert rig.published() == ["first", "lower", "higher"]


def test_a_long_gap_is_looked_through_while_the_lease_is_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lost entry among many finished ones behind a held one is found, page by page."""
    monkeypatch.setattr(recovery, "PAGE", 3)
    rig.emit_artifact("held", tenant="held", put=False)
    wanted = [f"e{n}" for n in range(20)]
    for event_id in wanted:
        rig.emit(event_id)
    with rig.relay(retry_budget_s=60):
        eventually(lambda: rig.published() == wanted)
        eventually(lambda: rig.pending() == 1)
    lost = rig.emit("lost")
    take(rig)
    rig.client.xack(CONTROL, rig.keys.group, lost)
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert sorted(rig.published()) == sorted(["held", *wanted, "lost"])


# --- who cannot serve ----------------------------------------------------------------------------


def denying(rig: Rig, *commands: str) -> str:
    """Return a URL whose user may do everything but these commands."""
    rig.client.acl_setuser(
        "limited", enabled=True, passwords=["+secret"], reset=True, keys=["*"], channels=["*"],
        commands=["+@all", *(f"-{command}" for command in commands)],
    )  # fmt: skip
    return rig.url.replace("redis://", "redis://limited:secret@")


@pytest.fixture
def limited(rig: Rig) -> Any:
    """A function that makes a user with less rights, who is removed afterwards."""
    yield lambda *commands: denying(rig, *commands)
    with suppress(redis.RedisError):
        rig.client.acl_deluser("limited")


@pytest.mark.parametrize("command", ["xreadgroup", "xack", "xpending"])
def test_who_may_not_read_leaves_the_lease_to_another(
    rig: Rig, limited: Callable[..., str], command: str
) -> None:
    """A worker whose rights on the control stream are revoked gives the lease to a healthy one."""
    rig.emit("a")
    sick = Rig(limited(), rig.client, rig.source, rig.fleet)
    with sick.relay(publisher_url=rig.url, lease_s=60) as first:
        eventually(lambda: rig.published() == ["a"])
        with rig.relay(lease_s=60) as second:
            eventually(lambda: second.observer.state_now == "standby")
            limited(command)
            rig.emit("b")
            eventually(lambda: second.observer.state_now == "active")
            eventually(lambda: rig.published() == ["a", "b"])
            eventually(lambda: rig.pending() == 0)
            eventually(lambda: any("given back" in said for _, said in first.observer.states))
            assert first.observer.given_back >= 1
    assert not rig.client.hexists(rig.keys.halt, "unclean")


def test_a_halted_stream_is_not_kept_by_who_cannot_reach_it(
    rig: Rig, limited: Callable[..., str]
) -> None:
    """While the stream is halted, too, the lease goes to a worker that reaches the stream."""
    rig.emit("a")
    sick = Rig(limited(), rig.client, rig.source, rig.fleet)
    with sick.relay(publisher_url=rig.url, lease_s=2) as first:
        eventually(lambda: rig.published() == ["a"])
        rig.client.hset(rig.keys.halt, mapping={"reason": "by hand"})
        eventually(lambda: first.observer.state_now == "halted")
        with rig.relay(lease_s=2) as second:
            limited("xpending")
            eventually(lambda: second.observer.state_now == "halted")
            eventually(lambda: first.observer.state_now == "waiting")
            rig.client.hdel(rig.keys.halt, "reason")


def test_the_lease_is_not_taken_by_who_cannot_reach_the_control_stream(
    rig: Rig, limited: Callable[..., str]
) -> None:
    """A worker that never reached the control stream never takes the lease, and says why."""
    sick = Rig(limited("xpending"), rig.client, rig.source, rig.fleet)
    with sick.relay(publisher_url=rig.url) as run:
        eventually(lambda: last_said(run, "permission"))
        assert run.observer.state_now == "waiting"
        assert not rig.client.exists(rig.keys.fence, rig.keys.lease)


def test_store_threads_that_cannot_start_give_the_lease_back(rig: Rig) -> None:
    """A worker that can start no thread for its stores leaves the lease to another."""
    rig.emit_artifact("a")
    with rig.relay() as run:
        eventually(lambda: rig.published() == ["a"])
        pool = run.relay._carrying._pool
        assert isinstance(pool, StorePool)
        pool.close()
        rig.emit_artifact("b")
        eventually(lambda: any("threads" in detail for _, detail in run.observer.states))
        assert run.observer.given_back
        with rig.relay() as second:
            eventually(lambda: rig.published() == ["a", "b"])
            assert second.observer.state_now == "active"


def test_a_lease_given_back_is_no_crash(rig: Rig) -> None:
    """Who cannot serve leaves the counts of crashes as its predecessors left them."""

    def publisher() -> Publisher:
        return Publisher(connect(rig.url), rig.keys, lease_s=60, dedup_window_s=60)

    crashed, sick, healthy = publisher(), publisher(), publisher()
    assert crashed.acquire() == 0
    rig.client.delete(rig.keys.lease)
    assert sick.acquire() == 1
    assert sick.run_alone(EntryId("1-0")) == 0
    assert sick.yield_lease("1-0")
    assert sick.yield_lease("1-0")  # once more takes nothing more off
    assert sick.acquire() == 1
    assert sick.run_alone(EntryId("1-0")) == 0
    rig.client.delete(rig.keys.lease)  # now it dies
    assert healthy.acquire() == 2
    assert healthy.run_alone(EntryId("1-0")) == 1
    assert not sick.yield_lease()
    healthy.settle()
    assert healthy.yield_lease()
    assert sick.acquire() == 0


def test_the_pending_list_tells_who_has_what(rig: Rig) -> None:
    """What is pending under others is counted by consumer, and said in words."""
    relayed_once(rig)
    for n in range(3):
        rig.emit(f"e{n}")
    take(rig, 1, "worker")
    taken = take(rig, 2)
    found = ControlStream(connect(rig.url), connect(rig.url), rig.keys).pending()
    assert found == Pending(3, found.lowest, taken[-1], {"debug": 2})
    assert found.told() == ", 2 of them under consumer 'debug'"
    assert found.lowest.before < taken[0]
