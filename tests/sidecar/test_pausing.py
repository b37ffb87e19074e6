"""One tenant paused, by its dead letters or by hand, while the others continue (G9)."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from sidecar.redis import halts
from sidecar.redis.publisher import Outbound, Publisher, TenantsChanged
from sidecar.redis.tenants import pause_tenant, read_paused, resume_tenant
from sidecar.wire.event import MAX_ENTRY_BYTES, Reason
from sidecar.wire.ids import EntryId
from sidecar.worker import committing
from sidecar.worker.pipeline import Rules
from store import Unavailable
from tests.sidecar.harness import Rig, data_of, eventually, ref_of

BAD = "no.such.kind"


def bad(rig: Rig, tenant: str, count: int = 1) -> None:
    """Append events that can only end as dead letters of this tenant."""
    for n in range(count):
        rig.emit(f"bad {tenant} {n}", tenant=tenant, kind=BAD)


def pause(rig: Rig, tenant: str) -> None:
    """Pause a tenant as an operator does."""
    pause_tenant(rig.client, rig.keys, tenant=tenant, reason="by hand", by="op", now="now")


def resume(rig: Rig, tenant: str) -> None:
    """Resume a tenant as an operator does."""
    resume_tenant(rig.client, rig.keys, tenant=tenant, reason="fixed", by="op", now="now")


def paused(rig: Rig) -> list[str]:
    """Return who is paused."""
    return sorted(read_paused(rig.client, rig.keys).tenants)


def records(rig: Rig) -> list[dict[bytes, bytes]]:
    """Return what is on record of halts and pauses."""
    found: Any = rig.client.xrange(rig.keys.halts)
    return [fields for _, fields in found]


def is_dead(rig: Rig, count: int) -> bool:
    """Tell whether there are so many dead letters."""
    return len(rig.letters()) == count


def is_halted(rig: Rig) -> bool:
    """Tell whether the stream is halted."""
    return halts.in_force(rig.client, rig.keys) is not None


# --- by dead letters in a row --------------------------------------------------------------------


def test_a_tenant_whose_dead_letters_come_in_a_row_is_paused_alone(rig: Rig) -> None:
    """Its next events wait, good and bad; the stream is not halted, and others are published."""
    bad(rig, "t", 5)
    rig.emit("good of t", tenant="t")
    for n in range(4):
        rig.emit(f"u{n}", tenant="u")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert not run.finish(), "what waits is left"
    assert len(rig.letters()) == 3
    assert rig.published() == ["u0", "u1", "u2", "u3"]
    assert rig.pending() == 3
    assert paused(rig) == ["t"]
    assert not is_halted(rig)
    (record,) = records(rig)
    assert (record[b"what"], record[b"tenant"], record[b"by"]) == (b"paused", b"t", b"sidecar")
    assert record[b"reason"] == b"3 dead letters in a row, the last for unknown_type"


def test_many_tenants_are_paused_at_once(rig: Rig) -> None:
    """Where the rows of many end in one run, each is paused at its own, and nothing is lost."""
    tenants = [f"t{n}" for n in range(12)]
    for n in range(4):
        for tenant in tenants:
            bad(rig, tenant)
            rig.emit(f"good {tenant} {n}", tenant=f"good {tenant}")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert not run.finish()
    assert paused(rig) == sorted(tenants)
    assert len(rig.letters()) == 3 * len(tenants)
    assert rig.published() == [f"good {tenant} {n}" for n in range(4) for tenant in tenants]
    assert rig.pending() == len(tenants)
    for tenant in tenants:
        resume(rig, tenant)
    rig.drain(max_consecutive_dead=0)
    assert len(rig.letters()) == 4 * len(tenants)
    rig.audit()


def test_who_is_resumed_continues_in_order_with_nothing_lost(rig: Rig) -> None:
    """After the cause is fixed, what waited is published in entry order, and rows begin anew."""
    bad(rig, "t", 3)
    for n in range(3):
        rig.emit_artifact(f"t{n}", tenant="t")
    with rig.relay(max_consecutive_dead=3) as run:
        eventually(lambda: paused(rig) == ["t"])
        rig.emit("u", tenant="u")
        eventually(lambda: rig.published() == ["u"])
        resume(rig, "t")
        eventually(lambda: rig.published() == ["u", "t0", "t1", "t2"])
        bad(rig, "t", 2)
        eventually(lambda: len(rig.letters()) == 5)
        assert run.observer.count("halted") == 0
    assert paused(rig) == []
    rig.audit()


def test_only_a_tenants_own_event_ends_its_row(rig: Rig) -> None:
    """Events of others between its dead letters, and duplicates of its own, end no row of it."""
    rig.emit("old", tenant="t")
    rig.drain()
    for n in range(3):
        bad(rig, "t")
        rig.emit(f"u{n}", tenant="u")
        rig.emit("old", tenant="t")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        run.finish()
    assert paused(rig) == ["t"]


@pytest.mark.parametrize("at_once", [True, False], ids=["one run", "one by one"])
def test_a_tenants_own_event_ends_its_row(rig: Rig, at_once: bool) -> None:
    """A tenant that publishes between its dead letters is never paused, be they read in one go."""
    for n in range(4):
        bad(rig, "t")
        if not at_once:
            rig.drain(max_consecutive_dead=2)
        rig.emit(f"new {n}", tenant="t")
        if not at_once:
            rig.drain(max_consecutive_dead=2)
    rig.drain(max_consecutive_dead=2)
    assert paused(rig) == []


def test_a_row_outlives_a_worker(rig: Rig) -> None:
    """A restart does not forget how many of a tenant's dead letters came in a row."""
    for _ in range(2):
        bad(rig, "t")
        rig.drain(max_consecutive_dead=3)
    bad(rig, "t")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        run.finish()
    assert paused(rig) == ["t"]


def test_many_tenants_at_once_halt_the_stream(rig: Rig) -> None:
    """Where the dead letters in a row are of as many tenants, nobody alone is to blame."""
    for n in range(5):
        bad(rig, f"t{n}")
    with rig.relay(max_consecutive_dead=4, drain=True) as run:
        assert not run.finish()
    assert is_halted(rig)
    assert paused(rig) == []
    assert len(rig.letters()) == 4


def test_what_names_no_tenant_halts_the_stream(rig: Rig) -> None:
    """A row nobody can be blamed for is the stream's."""
    for _ in range(3):
        rig.add("{")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert not run.finish()
    assert is_halted(rig)


def test_who_makes_tenants_up_fills_no_memory_and_halts_the_stream(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are counted for so many tenants; what comes beyond counts for the stream."""
    monkeypatch.setattr(committing, "MOST_ROWS", 3)
    for n in range(7):
        bad(rig, f"made up {n}")
    with rig.relay(max_consecutive_dead=6, drain=True) as run:
        assert not run.finish()
    assert is_halted(rig)
    assert rig.client.hlen(rig.keys.rows) <= 3


@pytest.mark.parametrize(
    ("kind", "more"),
    [(Reason.INVALID_EVENT, {}), (Reason.TOO_LARGE, {"more": "x" * MAX_ENTRY_BYTES})],
)
def test_what_is_no_event_waits_with_the_tenant_that_it_names(
    rig: Rig, kind: Reason, more: dict[str, str]
) -> None:
    """A bad release of one producer does not fill the dead-letter stream."""
    for n in range(6):
        body = {"event_id": f"e{n}", "type": "run.abort", "tenant_id": "t", "version": "x"}
        rig.add(json.dumps(body | more))
    with rig.relay(max_consecutive_dead=2, drain=True) as run:
        assert not run.finish()
    assert rig.reasons() == [kind] * 2
    assert paused(rig) == ["t"]
    resume(rig, "t")
    rig.drain(max_consecutive_dead=0)
    assert len(rig.letters()) == 6


def test_zero_pauses_nobody(rig: Rig) -> None:
    """Without a limit no row ends in a pause."""
    bad(rig, "t", 9)
    rig.drain(max_consecutive_dead=0)
    assert paused(rig) == []


def test_who_is_resumed_has_no_row_left(rig: Rig) -> None:
    """One bad event more does not pause the tenant again at once."""
    bad(rig, "t", 3)
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        run.finish()
    assert paused(rig) == ["t"]
    resume(rig, "t")
    bad(rig, "t")
    rig.drain(max_consecutive_dead=3)
    assert paused(rig) == []


def test_what_does_not_count_takes_no_room_of_rows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters that are in no row leave a worker the room to pause who is in trouble."""
    monkeypatch.setattr(committing, "MOST_ROWS", 3)
    rig.rules = Rules(event_id_scope=("{tenant}/*",))
    with rig.relay(max_consecutive_dead=3) as run:
        for n in range(5):
            rig.emit("victim/1", tenant=f"thief {n}")
        eventually(lambda: len(rig.letters()) == 5)
        for n in range(3):
            rig.emit(f"t/{n}", tenant="t", kind=BAD)
            eventually(partial(is_dead, rig, 6 + n))
        eventually(lambda: paused(rig) == ["t"])
        assert run.observer.count("halted") == 0


def test_who_makes_tenants_up_leaves_room_for_those_that_come_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When rows are full the shortest are forgotten: a tenant in trouble is paused all the same."""
    monkeypatch.setattr(committing, "MOST_ROWS", 4)
    for n in range(9):
        bad(rig, f"made up {n}")
        rig.emit(f"u{n}", tenant="u")
        rig.drain(max_consecutive_dead=3)
    assert rig.client.hlen(rig.keys.rows) <= 4
    bad(rig, "t", 3)
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        run.finish()
    assert paused(rig) == ["t"]
    assert not is_halted(rig)


# --- by hand -------------------------------------------------------------------------------------


def test_nothing_of_a_paused_tenant_is_published_once_the_command_is_through(rig: Rig) -> None:
    """A worker publishes nothing without knowing of every pause."""
    publisher = Publisher(rig.client, rig.keys, lease_s=60, dedup_window_s=3600)
    publisher.acquire()
    pause(rig, "t")
    event = Outbound(b"i" * 32, b'{"tenant_id":"t","control_version":', "s/1-0", b"")
    with pytest.raises(TenantsChanged):
        publisher.publish([event], EntryId("1-0"))
    assert not rig.published()
    assert list(publisher.paused()) == ["t"]
    publisher.publish([event], EntryId("1-0"))  # it knows, and answers for what it sends


def test_what_a_paused_tenant_has_in_the_window_waits_too(rig: Rig) -> None:
    """What is read, and even stored, when somebody pauses its tenant is put off, in order."""
    for n in range(3):
        rig.emit_artifact(f"t{n}", tenant="t")
        rig.emit_artifact(f"u{n}", tenant="u")
    hooked: list[str] = []

    def on_get(ref: str) -> None:
        if ref == ref_of("t1") and not hooked:
            hooked.append(ref)
            pause(rig, "t")

    rig.source.on_get = on_get
    with rig.relay() as run:
        eventually(lambda: {"u0", "u1", "u2"} <= set(rig.published()))
        eventually(lambda: paused(rig) == ["t"])
        before = rig.published()
        rig.emit_artifact("u3", tenant="u")
        eventually(lambda: "u3" in rig.published())
        assert [one for one in rig.published() if one[0] == "t"] == [
            one for one in before if one[0] == "t"
        ]
        resume(rig, "t")
        eventually(lambda: [one for one in rig.published() if one[0] == "t"] == ["t0", "t1", "t2"])
        assert run.observer.count("halted") == 0
    rig.audit()


def test_a_pause_outlives_a_worker(rig: Rig) -> None:
    """The next worker reads back what waits, and puts it off again."""
    pause(rig, "t")
    rig.emit("t0", tenant="t")
    for _ in range(2):
        rig.emit("u", tenant="u")
        with rig.relay(drain=True) as run:
            assert not run.finish()
    assert rig.published() == ["u"]
    resume(rig, "t")
    rig.drain()
    assert rig.published() == ["u", "t0"]


def test_an_idle_worker_learns_of_who_is_resumed(rig: Rig) -> None:
    """Nothing else need come for a resumed tenant to continue."""
    pause(rig, "t")
    rig.emit("t0", tenant="t")
    with rig.relay(lease_s=0.6) as run:
        eventually(lambda: run.observer.paused_now == 1)
        eventually(lambda: rig.pending() == 1)
        resume(rig, "t")
        eventually(lambda: rig.published() == ["t0"])
        assert run.observer.paused_now == 0


def test_a_held_event_of_a_paused_tenant_is_not_tried_until_it_is_resumed(rig: Rig) -> None:
    """A tenant that waits for its artifact may be paused; it is tried at once when resumed."""
    away = True

    def on_get(ref: str) -> None:
        if away and ref == ref_of("t0"):
            raise Unavailable("away")

    rig.source.on_get = on_get
    rig.emit_artifact("t0", tenant="t")
    rig.emit("t1", tenant="t")
    with rig.relay(retry_budget_s=60.0, lease_s=0.6) as run:
        eventually(lambda: run.observer.retries)
        pause(rig, "t")
        eventually(lambda: run.observer.paused_now == 1)
        tried, away = len(run.observer.retries), False
        rig.emit("u", tenant="u")
        eventually(lambda: rig.published() == ["u"])
        assert len(run.observer.retries) == tried
        resume(rig, "t")
        eventually(lambda: rig.published() == ["u", "t0", "t1"])


def test_who_waits_behind_another_tenants_pause_is_read_back_in_order(rig: Rig) -> None:
    """Reading back for one tenant passes over what waits of one that is paused."""
    pause(rig, "t")
    for n in range(20):
        rig.emit_artifact(f"t{n}", tenant="t")
        rig.emit_artifact(f"u{n}", tenant="u", put=n != 3)
    with rig.relay(retry_budget_s=60.0) as run:
        eventually(lambda: run.observer.retries)
        eventually(lambda: rig.pending() == 20 + 17)
        rig.plant(ref_of("u3"), data_of("u3"))
        eventually(lambda: rig.published() == [f"u{n}" for n in range(20)])
        resume(rig, "t")
        eventually(lambda: len(rig.published()) == 40)
    assert rig.published()[20:] == [f"t{n}" for n in range(20)]
    rig.audit()


def test_a_pause_keeps_its_first_reason_and_a_resume_says_what_there_was(rig: Rig) -> None:
    """Two operators do not overwrite each other; to resume what is not paused changes nothing."""
    pause(rig, "t")
    again = pause_tenant(rig.client, rig.keys, tenant="t", reason="me too", by="b", now="later")
    assert not again.changed
    assert again.halt == ("by hand", "now", "op")
    assert resume_tenant(rig.client, rig.keys, tenant="t", reason="", by="b", now="n").changed
    assert not resume_tenant(rig.client, rig.keys, tenant="t", reason="", by="b", now="n").changed
    assert [one[b"what"] for one in records(rig)] == [b"paused", b"unpaused"]


@pytest.mark.parametrize("noted", [b"{", b"[]", b"\xff", b"{}"])
def test_garbage_as_a_pause_pauses_and_is_shown(rig: Rig, noted: bytes) -> None:
    """What no sidecar wrote there stops nobody from looking, nor from resuming."""
    rig.client.hset(rig.keys.paused, "t", noted)
    assert paused(rig) == ["t"]
    resume(rig, "t")
    assert paused(rig) == []


@pytest.mark.parametrize("noted", ["many", "9" * 400])
def test_a_count_of_changes_that_no_sidecar_wrote_gives_way(rig: Rig, noted: str) -> None:
    """A pause is noticed whatever stands in its place."""
    rig.client.hset(rig.keys.halt, "tenants", noted)
    publisher = Publisher(rig.client, rig.keys, lease_s=60, dedup_window_s=3600)
    publisher.acquire()
    publisher.paused()
    pause(rig, "t")
    with pytest.raises(TenantsChanged):
        publisher.check_tenants()
