"""The relay, end to end: what becomes of every entry, whatever happens meanwhile."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import redis

from sidecar.redis.publisher import Publisher, origin_digest
from sidecar.redis.source import ControlStream, Entry
from sidecar.wire.event import KNOWN_TYPES, MAX_ENTRY_BYTES
from sidecar.wire.ids import EntryId
from sidecar.worker import relay as relay_module
from sidecar.worker.pipeline import Pipeline, Rules
from store import Corrupt, InvalidRef, NotFound, Position, StoreError, Unavailable, checksum_of
from tests.sidecar.harness import (
    CONTROL,
    NOTIFICATIONS,
    PlainStore,
    Rig,
    Running,
    SpyStore,
    data_of,
    eventually,
    manifest_of,
    ref_of,
)

NEVER = "sha256:" + "0" * 64
LETTER = {
    "event", "reason", "detail", "origin", "attempts", "first_seen", "dead_at",
}  # fmt: skip


def small_windows(monkeypatch: pytest.MonkeyPatch, batch: int = 4, window: int = 8) -> None:
    """Make the window so small that few entries overflow it."""
    monkeypatch.setattr(relay_module, "BATCH", batch)
    monkeypatch.setattr(relay_module, "WINDOW", window)


def failing(error: Callable[[], BaseException], only: Iterable[str]) -> Callable[[str], None]:
    """Return a hook that raises for these refs."""
    refs = set(only)

    def hook(ref: str) -> None:
        if ref in refs:
            raise error()

    return hook


# --- the straight way ----------------------------------------------------------------------------


def test_an_event_becomes_a_notification(rig: Rig) -> None:
    """An event with an artifact ends as one notification whose artifact is in the fleet."""
    entry_id = rig.emit_artifact("e", version=3, region="eu")
    observer = rig.drain()
    (note,) = rig.notifications()
    data, manifest = rig.fleet.get(ref_of("e"))
    assert (data, manifest) == (data_of("e"), manifest_of(data_of("e")))
    stamp = note["control_version"]
    assert note == {
        "id": 0,
        "event_id": "e",
        "type": "run.abort",
        "tenant_id": "t",
        "version": 3,
        "artifact_ref": ref_of("e"),
        "checksum": checksum_of(data),
        "manifest_checksum": checksum_of(manifest),
        "control_version": stamp,
        "region": "eu",
        "origin": f"{CONTROL}/{entry_id}",
        "entry": f"{stamp // 1000}-{stamp % 1000}",
    }
    assert rig.pending() == 0
    assert observer.outcomes == {"published": 1}
    assert not rig.letters()


def test_an_event_without_an_artifact_touches_no_store(rig: Rig) -> None:
    """An event that names no artifact is published, and no store is asked."""
    rig.emit("e")
    rig.drain()
    assert rig.published() == ["e"]
    assert rig.source.gets == rig.fleet.puts == []


def test_the_trace_is_carried_through(rig: Rig) -> None:
    """`traceparent` is on the notification, and only where the entry had one."""
    rig.add('{"event_id":"a","type":"run.abort"}', traceparent="00-ab-cd-01")
    rig.add('{"event_id":"b","type":"run.abort"}', other="field")
    rig.drain()
    found: Any = rig.client.xrange(rig.notify)
    (_, first), (_, second) = found
    assert first[b"traceparent"] == b"00-ab-cd-01"
    assert second.keys() == {b"event", b"origin"}


def test_many_events_keep_their_order(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """More events than the window holds, of several tenants, are all published in order."""
    small_windows(monkeypatch)
    for n in range(60):
        if n % 3:
            rig.emit_artifact(f"e{n}", tenant=f"t{n % 4}")
        else:
            rig.emit(f"e{n}", tenant=f"t{n % 4}")
    rig.drain()
    assert sorted(rig.published()) == sorted(f"e{n}" for n in range(60))
    rig.audit()
    assert rig.pending() == 0


def test_entries_appended_while_it_runs(rig: Rig) -> None:
    """An idle relay takes new entries as they come."""
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "active")
        for n in range(3):
            rig.emit_artifact(f"e{n}")
            eventually(lambda n=n: len(rig.published()) == n + 1)  # type: ignore[misc]
    rig.audit()


def test_no_tenant_is_a_tenant(rig: Rig) -> None:
    """Events without a tenant keep their order among themselves when one is held."""
    rig.emit_artifact("a", tenant="", put=False)
    rig.emit("b", tenant="")
    rig.emit("c", tenant="other")
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: rig.published() == ["c"])
        eventually(lambda: run.observer.retries)
        rig.plant(ref_of("a"), data_of("a"))
        eventually(lambda: rig.published() == ["c", "a", "b"])


def test_third_party_stores(rig: Rig) -> None:
    """Stores with put, get, exists and name alone serve as source and as fleet."""
    rig.source, rig.fleet = PlainStore(), PlainStore()
    rig.source.put("r", b"data", b"manifest")
    rig.emit("e", artifact_ref="r", checksum=checksum_of(b"data"))
    rig.emit("x", artifact_ref="r", checksum=NEVER)
    rig.drain()
    assert rig.published() == ["e"]
    assert rig.fleet.pairs["r"] == (b"data", b"manifest")
    assert rig.reasons() == ["checksum_mismatch"]


def test_a_store_of_one_version_keeps_it_until_it_is_published(rig: Rig) -> None:
    """Nothing is put at a ref before the notification of what is there, where that replaces it."""
    published: list[list[str]] = []

    class Plain(PlainStore):
        def put(self, ref: str, data: bytes, manifest: bytes) -> None:
            published.append(rig.published())
            super().put(ref, data, manifest)

    rig.fleet = Plain()
    for number in range(3):
        rig.emit_artifact(f"e{number}", ref="the/ref", data=b"%d" % number)
    rig.drain()
    assert published == [["e0", "e1"][:number] for number in range(3)]


def test_the_put_has_the_entrys_position(rig: Rig) -> None:
    """The fleet's ref carries the entry's ID as position, so a stalled Put moves it never back."""
    first = rig.emit_artifact("a", ref="r", data=b"old")
    rig.emit_artifact("b", ref="r", data=b"new")
    rig.drain()
    ms, seq = (int(part) for part in first.split("-"))
    rig.fleet.put("r", b"stalled", b"", position=(ms, seq))
    assert rig.fleet.get("r").data == b"new"
    rig.audit()


@pytest.mark.parametrize("first", ["pin", "sane"])
def test_an_entry_ahead_of_time_pins_no_ref(rig: Rig, first: str) -> None:
    """Whatever ID a producer gives its entry: the ref is what the last event of this time says."""
    beside = Rig(rig.url, rig.client, control="control:beside")
    beside.source, beside.fleet = rig.source, rig.fleet
    rig.plant("r", b"pinned")
    pin = {"event_id": "pin", "type": "run.abort", "artifact_ref": "r"}
    raw = json.dumps(pin | {"checksum": checksum_of(b"pinned")})
    if first == "sane":
        beside.emit_artifact("a", ref="r", data=b"before")
        beside.drain()
        rig.plant("r", b"pinned")
    rig.client.xadd(rig.control, {"event": raw}, id="9999999999999999-0")
    rig.drain()
    assert rig.fleet.get("r").data == (b"pinned" if first == "pin" else b"before")
    assert rig.fleet.get("r", checksum=checksum_of(b"pinned")).data == b"pinned"
    beside.emit_artifact("b", ref="r", data=b"new")
    beside.drain()
    assert rig.fleet.get("r").data == b"new"


def test_a_rewritten_ref_is_resolved_as_pinned(rig: Rig) -> None:
    """An event that waited finds the version that it names, whatever was put there since."""
    rig.emit_artifact("a", ref="r", data=b"old")
    rig.emit_artifact("b", ref="r", data=b"new")
    rig.drain()
    assert rig.published() == ["a", "b"]
    rig.audit()


# --- dead letters --------------------------------------------------------------------------------


def body(**fields: Any) -> str:
    """Return an event's JSON."""
    return json.dumps({"event_id": "e", "type": "run.abort", **fields})


DEAD: dict[str, tuple[str, str]] = {
    "malformed": ("{", ""),
    "invalid_event": (body(version="1"), "version"),
    "unknown_type": (body(type="no.such"), "no.such"),
    "forbidden_id": (body(event_id="b/1", tenant_id="a"), "b/1"),
    "bad_ref": (body(artifact_ref="a//b", checksum=NEVER), "artifact_ref"),
    "forbidden_ref": (body(artifact_ref="b/x", checksum=NEVER, tenant_id="a"), "b/x"),
    "too_large": (body(pad="x" * 8192), "notification"),
    "artifact_missing": (body(artifact_ref="a/none", checksum=NEVER, tenant_id="a"), "a/none"),
    "checksum_mismatch": (body(artifact_ref="a/r", checksum=NEVER, tenant_id="a"), NEVER),
    "artifact_too_large": (
        body(artifact_ref="a/big", checksum=checksum_of(b"b" * 101), tenant_id="a"),
        "101",
    ),
}


@pytest.mark.parametrize("reason", DEAD)
def test_dead_letter(rig: Rig, reason: str) -> None:
    """Each reason is reached end to end, and the letter has exactly the fields to redrive it."""
    rig.rules = Rules(
        tenant_scope=("{tenant}/*",), max_artifact_bytes=100, event_id_scope=("{tenant}/*", "e")
    )
    rig.source.plant("a/r", b"data")
    rig.source.plant("a/big", b"b" * 101, b"")
    raw, detail = DEAD[reason]
    entry_id = rig.add(raw, traceparent="00-ab-cd-01", other="not kept")
    observer = rig.drain()
    (letter,) = rig.letters()
    assert letter.keys() == LETTER | {"traceparent"}
    assert letter["event"] == raw.encode()
    assert letter["traceparent"] == b"00-ab-cd-01"
    assert letter["reason"] == reason.encode()
    assert detail.encode() in letter["detail"]
    assert letter["origin"] == f"{CONTROL}/{entry_id}".encode()
    tried = reason.startswith(("artifact_", "checksum_"))
    assert int(letter["attempts"]) == (1 if tried else 0)
    for moment in ("first_seen", "dead_at"):
        assert letter[moment].startswith(b"20")
        assert letter[moment].endswith(b"Z")
    assert letter["first_seen"] <= letter["dead_at"]
    assert observer.outcomes == {reason: 1}
    assert rig.pending() == 0
    assert not rig.notifications()


def test_no_event_field(rig: Rig) -> None:
    """An entry without the field `event` is buried as malformed, with an empty event."""
    rig.client.xadd(CONTROL, {"payload": "x"})
    rig.drain()
    (letter,) = rig.letters()
    assert (letter["reason"], letter["event"]) == (b"malformed", b"")


def test_bytes_of_a_letter_are_the_original(rig: Rig) -> None:
    """A letter has the event's bytes as they came, were they no UTF-8."""
    raw = bytes(range(256))
    rig.add(raw)
    rig.drain()
    assert rig.letters()[0]["event"] == raw


@pytest.mark.parametrize("lost", ["deleted", "trimmed"])
def test_an_entry_that_is_gone(rig: Rig, lost: str) -> None:
    """A pending entry that someone deleted or trimmed is buried as entry_lost, others continue."""
    gone = rig.emit("gone")
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    rig.emit("stays")
    if lost == "deleted":
        rig.client.xdel(CONTROL, gone)
    else:
        rig.client.xtrim(CONTROL, maxlen=1, approximate=False)
    rig.drain()
    (letter,) = rig.letters()
    assert letter["reason"] == b"entry_lost"
    assert letter["event"] == b""
    assert letter["origin"] == f"{CONTROL}/{gone}".encode()
    assert rig.published() == ["stays"]
    assert rig.pending() == 0


def test_a_held_entry_that_is_gone(rig: Rig) -> None:
    """A held entry that is deleted is buried as entry_lost, and what waited behind it continues."""
    held = rig.emit_artifact("held", put=False)
    rig.emit("behind")
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        rig.client.xdel(CONTROL, held)
        eventually(lambda: rig.published() == ["behind"])
    assert rig.reasons() == ["entry_lost"]


@pytest.mark.parametrize("size", [MAX_ENTRY_BYTES + 1, 3 * MAX_ENTRY_BYTES])
def test_a_giant_is_cut(rig: Rig, size: int) -> None:
    """The letter of an event over 16 KiB has its first 16 KiB and says that it is cut."""
    rig.add("g" * size)
    rig.drain()
    (letter,) = rig.letters()
    assert letter["reason"] == b"too_large"
    assert letter["event"] == b"g" * MAX_ENTRY_BYTES
    assert letter["truncated"] == b"1"


def test_a_giant_by_other_fields_is_not_cut(rig: Rig) -> None:
    """An entry too large for its other fields keeps its whole event, and can be redriven."""
    raw = body()
    rig.add(raw, pad="p" * MAX_ENTRY_BYTES)
    rig.drain()
    (letter,) = rig.letters()
    assert letter["reason"] == b"too_large"
    assert letter["event"] == raw.encode()
    assert "truncated" not in letter


def test_an_entrys_repeated_fields_all_count(rig: Rig) -> None:
    """The size of an entry is that of all its fields, of those that repeat a name, too."""
    parts: list[Any] = ["event", body(), "pad", "p" * 9000, "pad", "p" * 9000]
    rig.client.execute_command("XADD", CONTROL, "*", *parts)  # type: ignore[no-untyped-call]
    rig.drain()
    assert rig.reasons() == ["too_large"]


def test_corrupt_at_the_source(rig: Rig) -> None:
    """What is corrupt at the source ends as checksum_mismatch after the budget."""
    rig.emit_artifact("e")
    rig.source.on_get = failing(lambda: Corrupt("bits"), [ref_of("e")])
    rig.drain()
    assert rig.reasons() == ["checksum_mismatch"]


@pytest.mark.parametrize("side", ["source", "fleet"])
def test_a_ref_that_a_backend_cannot_hold(rig: Rig, side: str) -> None:
    """A legal ref that the source or the fleet cannot hold is bad_ref, at once."""
    rig.emit_artifact("e")
    hook = failing(lambda: InvalidRef("too long for me"), [ref_of("e")])
    if side == "source":
        rig.source.on_get = hook
    else:
        rig.fleet.on_put = hook
    rig.drain(retry_budget_s=60)
    assert rig.reasons() == ["bad_ref"]


def test_a_pinned_manifest_must_match(rig: Rig) -> None:
    """An event that names its manifest's checksum gets exactly that pair, or none."""
    rig.emit_artifact("good", manifest_checksum=checksum_of(manifest_of(data_of("good"))))
    rig.emit_artifact("bad", manifest_checksum=NEVER)
    rig.drain()
    assert rig.published() == ["good"]
    assert rig.reasons() == ["checksum_mismatch"]


def test_a_source_that_lies_is_found_out(rig: Rig) -> None:
    """What the source returns is verified, though it promises pinned reads."""

    class Liar(SpyStore):
        def open(self, ref: str, **_: Any) -> Any:
            del ref
            return super().open("other")

    rig.source = Liar()
    rig.source.plant("other", b"other data")
    rig.emit_artifact("e")
    rig.drain()
    assert rig.reasons() == ["checksum_mismatch"]
    assert not rig.fleet.puts


def test_a_source_that_swaps_the_manifest_is_found_out(rig: Rig) -> None:
    """The manifest is verified like the data when the event names its checksum."""

    class Liar(SpyStore):
        def open(self, ref: str, **pin: Any) -> Any:
            artifact = super().open(ref, **pin)
            artifact.manifest = b"another"
            return artifact

    rig.source = Liar()
    rig.emit_artifact("e", manifest_checksum=checksum_of(manifest_of(data_of("e"))))
    rig.drain()
    assert rig.reasons() == ["checksum_mismatch"]


def test_the_notification_has_the_manifest_that_was_put(rig: Rig) -> None:
    """Without a manifest checksum in the event, the stamp is that of the pair in the fleet."""
    rig.source.plant("r", b"data", b"first")
    rig.source.plant("r", b"data", b"second")
    rig.emit("e", artifact_ref="r", checksum=checksum_of(b"data"))
    rig.drain()
    assert rig.notifications()[0]["manifest_checksum"] == checksum_of(b"second")
    assert rig.fleet.get("r").manifest == b"second"


def test_an_artifact_at_the_limit(rig: Rig) -> None:
    """Data and manifest together count against the operator's limit; at it they pass."""
    data = b"d" * 100
    rig.rules = Rules(max_artifact_bytes=100 + len(manifest_of(data)))
    rig.emit_artifact("fits", data=data)
    rig.emit_artifact("over", data=data + b"d")
    rig.drain()
    assert rig.published() == ["fits"]
    assert rig.reasons() == ["artifact_too_large"]


def test_a_letter_that_cannot_be_written_acknowledges_nothing(rig: Rig) -> None:
    """While the dead-letter stream cannot be written, the entry stays; it is buried afterwards."""
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "active")
        rig.client.set(rig.keys.dead, "in the way")
        rig.add("{")
        eventually(lambda: run.observer.count("waiting"))
        assert rig.pending() == 1
        rig.client.delete(rig.keys.dead)
        eventually(lambda: rig.pending() == 0)
        assert rig.reasons() == ["malformed"]


def test_dead_letters_in_a_row_halt_the_stream(rig: Rig) -> None:
    """The stream halts at the limit, says why, and continues with the next entry when resumed."""
    for _ in range(5):
        rig.add("{")
    rig.emit("good")
    with rig.relay(max_consecutive_dead=3) as run:
        eventually(lambda: run.observer.state_now == "halted")
        assert len(rig.letters()) == 3
        assert rig.published() == []
        halt: Any = rig.client.hgetall(rig.keys.halt)
        assert b"malformed" in halt[b"reason"]
        assert halt[b"by"] == b"sidecar"
        assert rig.client.ttl(rig.keys.halt) == -1
        rig.client.hdel(rig.keys.halt, "reason", "dead_in_a_row")
        eventually(lambda: rig.published() == ["good"])
    assert len(rig.letters()) == 5
    rig.audit()


def test_dead_letters_in_a_row_are_counted_over_restarts(rig: Rig) -> None:
    """The count of dead letters in a row is Redis's: a restart does not forget it."""
    rig.add("{")
    rig.add("{")
    rig.drain(max_consecutive_dead=3)
    rig.add("{")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert not run.finish()
        assert "halted" in [state for state, _ in run.observer.states]
    assert len(rig.letters()) == 3


def test_conflicts_between_good_events_are_not_in_a_row(rig: Rig) -> None:
    """Letters count in entry order: conflicts that good events lie between do not add up."""
    for number in range(20):
        rig.emit(f"good {number}")
        rig.emit(f"good {number}", kind="key.changed")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert run.finish(), run.observer.states
    assert len(rig.published()) == 20
    assert rig.reasons() == ["id_conflict"] * 20


def test_who_claims_anothers_ids_halts_nothing(rig: Rig) -> None:
    """Conflicts with another tenant's events are counted and told, and are in no row."""
    for number in range(5):
        rig.emit(f"e{number}", tenant="thief")
    rig.emit("own", tenant="victim")
    rig.drain()
    for number in range(5):
        rig.emit(f"e{number}", tenant="victim", version=1)
    rig.emit("own", tenant="victim", version=1)
    observer = rig.drain(max_consecutive_dead=2)
    assert "halted" not in [state for state, _ in observer.states]
    assert observer.conflicts_of_tenants == 5
    *stolen, own = (letter["detail"].decode() for letter in rig.letters())
    assert all("by tenant 'thief'" in detail for detail in stolen)
    assert "tenant" not in own
    assert rig.client.hget(rig.keys.halt, "dead_in_a_row") == b"1"


def test_who_forges_ids_halts_nothing(rig: Rig) -> None:
    """Events whose ids are of another tenant's form are in no row; what else is dead counts on."""
    rig.rules = Rules(event_id_scope=("{tenant}/*",))
    rig.add("{")
    for number in range(5):
        rig.emit(f"victim/{number}", tenant="thief")
    rig.emit("victim/own", tenant="victim")
    observer = rig.drain(max_consecutive_dead=2)
    assert "halted" not in [state for state, _ in observer.states]
    assert rig.reasons() == ["malformed"] + ["forbidden_id"] * 5
    assert rig.published() == ["victim/own"]


def test_forged_ids_between_dead_letters_end_no_row(rig: Rig) -> None:
    """A forger cannot keep a stream from being halted that nothing good comes on."""
    rig.rules = Rules(event_id_scope=("{tenant}/*",))
    for number in range(3):
        rig.add("{")
        rig.emit(f"victim/{number}", tenant="thief")
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert not run.finish(), "it was not halted"
        assert run.observer.count("halted")


def test_conflicts_within_a_run_are_known_as_between_tenants(rig: Rig) -> None:
    """Also what conflicts with an event of the same run, which Redis alone finds."""
    for number in range(4):
        rig.emit(f"e{number}", tenant="thief")
    for number in range(4):
        rig.emit(f"e{number}", tenant="victim", version=1)
    observer = rig.drain(max_consecutive_dead=2)
    assert "halted" not in [state for state, _ in observer.states]
    assert observer.conflicts_of_tenants == 4


def test_zero_never_halts(rig: Rig) -> None:
    """A limit of zero buries on and on."""
    for _ in range(150):
        rig.add("{")
    rig.drain(max_consecutive_dead=0)
    assert len(rig.letters()) == 150


# --- waiting for an artifact ---------------------------------------------------------------------


def test_an_artifact_that_appears_within_the_budget(rig: Rig) -> None:
    """An artifact that appears before the budget is spent is published after all."""
    rig.emit_artifact("late", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        assert rig.pending() == 1
        rig.plant(ref_of("late"), data_of("late"))
        eventually(lambda: rig.published() == ["late"])
    assert not rig.letters()
    rig.audit()


def test_a_version_that_appears_within_the_budget(rig: Rig) -> None:
    """A wrong version at the ref is waited for like an absent one."""
    rig.plant(ref_of("late"), b"something else")
    rig.emit_artifact("late", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        rig.plant(ref_of("late"), data_of("late"))
        eventually(lambda: rig.published() == ["late"])


def test_the_letter_tells_of_the_attempts(rig: Rig) -> None:
    """After the budget the letter counts the attempts made."""
    rig.emit_artifact("never", put=False)
    rig.drain(retry_budget_s=0.5)
    (letter,) = rig.letters()
    assert letter["reason"] == b"artifact_missing"
    assert int(letter["attempts"]) == len(rig.source.gets) > 1


def test_an_outage_does_not_spend_the_budget(rig: Rig) -> None:
    """A source that was away for longer than the budget is asked for all of it once it answers."""
    rig.emit_artifact("never", put=False)
    absent_at: list[float] = []
    away_until = time.monotonic() + 1.5

    def away_at_first(_: str) -> None:
        if time.monotonic() < away_until:
            raise Unavailable("away")
        absent_at.append(time.monotonic())

    rig.source.on_get = away_at_first
    with rig.relay(retry_budget_s=1.0):
        eventually(rig.letters)
    assert time.monotonic() - absent_at[0] >= 1.0
    assert len(absent_at) > 1
    assert rig.reasons() == ["artifact_missing"]


def test_a_halt_does_not_spend_the_budget(rig: Rig) -> None:
    """A halt that is longer than the budget leaves of it what was left before."""
    rig.emit_artifact("never", put=False)
    asked_at: list[float] = []
    rig.source.on_get = lambda _: asked_at.append(time.monotonic())
    with rig.relay(retry_budget_s=2.0, lease_s=0.3) as run:
        eventually(lambda: run.observer.retries)
        rig.client.hset(rig.keys.halt, "reason", "by hand")
        eventually(lambda: run.observer.state_now == "halted")
        left_s = 2.0 - (time.monotonic() - asked_at[0])
        eventually(lambda: time.monotonic() - asked_at[0] > 3.0)
        resumed_at = time.monotonic()
        rig.client.hdel(rig.keys.halt, "reason")
        eventually(rig.letters)
        assert time.monotonic() - resumed_at >= left_s - 0.001
    assert rig.reasons() == ["artifact_missing"]


def test_a_held_event_holds_back_its_own_tenant_only(rig: Rig) -> None:
    """While one tenant waits the others continue; then its events come in order, each once."""
    for n in range(12):
        rig.emit_artifact(f"e{n}", tenant=f"t{n % 3}", put=n != 3)
    with rig.relay(retry_budget_s=60) as run:
        others = {f"e{n}" for n in range(12) if n % 3 or n < 3}
        eventually(lambda: set(rig.published()) == others)
        rig.emit("last", tenant="t0")
        rig.emit("free", tenant="t1")
        eventually(lambda: "free" in rig.published())
        assert "last" not in rig.published()
        assert not {"e6", "e9"} & set(rig.published())
        rig.plant(ref_of("e3"), data_of("e3"))
        eventually(lambda: rig.pending() == 0)
        assert run.observer.count("recovering") == 0
    assert len(rig.published()) == 14
    rig.audit()


def test_held_events_that_are_due_are_tried_again_a_few_at_a_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due, each is tried, and all of it costs a trip to Redis for a few."""
    monkeypatch.setattr(relay_module, "HELD_AT_ONCE", 3)
    asked: list[int] = []
    fetch = ControlStream.fetch

    def counted(self: ControlStream, entry_ids: Sequence[EntryId]) -> list[Entry]:
        asked.append(len(entry_ids))
        return fetch(self, entry_ids)

    monkeypatch.setattr(ControlStream, "fetch", counted)
    for n in range(10):
        rig.emit_artifact(f"e{n}", tenant=f"t{n}", put=False)
    with rig.relay(retry_budget_s=60.0) as run:
        eventually(lambda: len(run.observer.retries) >= 10)
        for n in range(10):
            rig.source.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        eventually(lambda: len(rig.published()) == 10)
    assert max(asked) == 3
    rig.audit()


def test_several_held_events_of_one_tenant(rig: Rig) -> None:
    """A tenant with several events that wait is released one by one, in order."""
    for n in range(9):
        rig.emit_artifact(f"e{n}", put=n % 3 != 0)
    with rig.relay(retry_budget_s=60) as run:
        for n in (0, 3, 6):
            eventually(lambda n=n: len(rig.published()) == n)  # type: ignore[misc]
            eventually(lambda: run.observer.retries)
            rig.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        eventually(lambda: rig.pending() == 0)
    assert rig.published() == [f"e{n}" for n in range(9)]


def test_what_waits_behind_many_missing_artifacts_is_not_read_for_each(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pending list is read back up to the tenant's next held event, and not to its end."""
    many, read = 60, list[int]()

    class Counting(ControlStream):
        def read_pending(self, *args: Any, **how: Any) -> list[Entry]:
            found = super().read_pending(*args, **how)
            read.append(len(found))
            return found

    monkeypatch.setattr(relay_module, "BATCH", 5)
    rig.stream_class = Counting
    for n in range(many):
        rig.emit_artifact(f"e{n}", put=False)
    rig.drain(retry_budget_s=0.01, max_consecutive_dead=0)
    assert rig.reasons() == ["artifact_missing"] * many
    assert sum(read) < many * many / 4, sum(read)
    rig.audit()


def test_held_in_many_tenants_with_a_small_window(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backlogs larger than the window, held in many tenants, drain in order when they may."""
    small_windows(monkeypatch)
    for n in range(90):
        rig.emit_artifact(f"e{n}", tenant=f"t{n % 9}", put=n % 5 != 0 or n > 60)
    missing = [n for n in range(61) if n % 5 == 0]
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: len(run.observer.retries) >= 9)
        for n in missing:
            rig.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        eventually(lambda: rig.pending() == 0 and len(rig.published()) == 90)
    rig.audit()


@pytest.mark.parametrize("first", ["fails", "succeeds"])
def test_a_later_event_that_fails_while_an_earlier_is_in_work(rig: Rig, first: str) -> None:
    """When a tenant's second event has to wait, its first is neither overtaken nor forgotten."""
    rig.emit_artifact("first")
    rig.emit_artifact("second", put=False)
    rig.emit("third")
    second_failed = threading.Event()
    failed: list[str] = []

    def slow_first(ref: str) -> None:
        if ref == ref_of("first"):
            second_failed.wait(60)
            if first == "fails" and not failed:
                failed.append(ref)
                raise Unavailable("for once")

    rig.source.on_get = slow_first
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        second_failed.set()
        eventually(lambda: "first" in rig.published())
        rig.plant(ref_of("second"), data_of("second"))
        eventually(lambda: len(rig.published()) == 3)
        assert rig.published() == ["first", "second", "third"]
        eventually(lambda: rig.pending() == 0)


def test_what_waits_behind_a_held_event_outlives_the_group(rig: Rig) -> None:
    """The lowest unfinished entry is noted as such, also when followers of a held one wait."""
    rig.emit_artifact("head", put=False)
    rig.emit_artifact("follower", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        rig.plant(ref_of("head"), data_of("head"))
        eventually(lambda: "head" in rig.published())
        eventually(lambda: any(ref_of("follower") in str(e) for e in run.observer.retries))
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
        rig.plant(ref_of("follower"), data_of("follower"))
        rig.emit("after")
        eventually(lambda: "after" in rig.published())
        eventually(lambda: rig.published() == ["head", "follower", "after"])


def test_what_is_finished_may_be_trimmed_though_what_waits_behind_it_is_not(rig: Rig) -> None:
    """On a full server the last finished entry may be all that can go."""
    rig.emit_artifact("head", put=False)
    rig.emit_artifact("follower", put=False)
    with rig.relay(retry_budget_s=60, lease_s=60.0) as run:
        eventually(lambda: run.observer.retries)
        rig.plant(ref_of("head"), data_of("head"))
        eventually(lambda: any(ref_of("follower") in str(e) for e in run.observer.retries))
        low: Any = rig.client.get(rig.keys.low)
        assert EntryId(rig.sent["head"]) < EntryId(low.decode()) <= EntryId(rig.sent["follower"])


def test_low_is_never_above_what_is_pending(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write the noted lowest unfinished entry is at most the first unfinished one."""
    small_windows(monkeypatch)
    finished: set[str] = set()
    entries: list[str] = []
    for n in range(40):
        tenant = f"t{n % 3}"
        entries.append(rig.emit_artifact(f"e{n}", tenant=tenant, put=n % 4 != 0))
    problems: list[str] = []
    begin, finish = Publisher.begin, Publisher.finish
    begun: list[Any] = []

    def remember(self: Any, events: Any, low: str, **more: Any) -> None:
        begun[:] = events
        begin(self, events, EntryId(low), **more)

    def watched(self: Any) -> Any:
        verdicts = finish(self)
        events = begun
        finished.update(event.origin.rpartition("/")[2] for event in events)
        lowest = next((entry for entry in entries if entry not in finished), None)
        noted = rig.client.get(rig.keys.low)
        assert isinstance(noted, bytes)
        if lowest is not None and EntryId(noted.decode()) > lowest:
            problems.append(f"{noted.decode()} is noted, and {lowest} unfinished")
        return verdicts

    monkeypatch.setattr(Publisher, "begin", remember)
    monkeypatch.setattr(Publisher, "finish", watched)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: len(run.observer.retries) >= 3)
        for n in range(0, 40, 4):
            rig.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        eventually(lambda: len(rig.published()) == 40)
    assert not problems
    rig.audit()


def test_a_restart_with_a_held_head_holds_back_nobody_else(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart with the oldest unfinished event held, all other tenants continue."""
    small_windows(monkeypatch)
    rig.emit("before")
    rig.drain()
    rig.emit_artifact("held", tenant="held", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
    for n in range(30):
        rig.emit(f"e{n}", tenant=f"t{n}")
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: len(rig.published()) == 31, "the other tenants' events are published")
        assert run.observer.count("recovering") <= 1
        rig.plant(ref_of("held"), data_of("held"))
        eventually(lambda: rig.pending() == 0)
    rig.audit()


def test_the_window_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the held backlog, only a window's worth of entries is in memory."""
    small_windows(monkeypatch)
    for n in range(120):
        rig.emit_artifact(f"e{n}", tenant=f"t{n % 2}", put=n > 1)
    sizes: list[int] = []
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        rig.source.on_get = lambda _: sizes.append(len(run.relay.window))
        eventually(lambda: run.observer.read_count == 120)
        assert rig.pending() == 120
        for n in range(2):
            rig.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        eventually(lambda: rig.pending() == 0)
    assert max(sizes) <= 8 + 4
    rig.audit()


def test_the_window_is_bounded_with_many_tenants_held(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When very many tenants' events fall due together, they do not all enter memory together."""
    small_windows(monkeypatch)
    for n in range(100):
        rig.emit_artifact(f"e{n}", tenant=f"t{n}", put=False)
    gate = threading.Event()
    sizes: list[int] = []
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: len(run.observer.retries) >= 100)

        def slow(_: str) -> None:
            sizes.append(len(run.relay.window))
            gate.wait(60)

        rig.source.on_get = slow
        eventually(lambda: sizes)
        held = list(run.relay._holds)
        eventually(lambda: all(one.due <= run.relay._clock() for one in held))
        for n in range(100):
            rig.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        sizes.append(len(run.relay.window))
        gate.set()
        eventually(lambda: rig.pending() == 0)
    assert max(sizes) <= 8 + 4


# --- outages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "fleet"])
@pytest.mark.parametrize(
    "error",
    [
        Unavailable("away"), StoreError("odd"), OSError(28, "full"), KeyError("bug"),
        RuntimeError(), MemoryError(), ConnectionResetError(), TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_outage_buries_nothing(rig: Rig, side: str, error: Exception) -> None:
    """Whatever a store raises in an outage, nothing is buried, and all continues afterwards."""
    rig.emit_artifact("a")
    rig.emit("b")
    hook = failing(lambda: error, [ref_of("a")])
    if side == "source":
        rig.source.on_get = hook
    else:
        rig.fleet.on_put = hook
    with rig.relay(retry_budget_s=0) as run:
        eventually(lambda: len(run.observer.retries) >= 3)
        assert not rig.letters()
        assert rig.published() == []
        rig.source.on_get = rig.fleet.on_put = lambda _: None
        eventually(lambda: rig.published() == ["a", "b"])
    assert not rig.letters()


def test_an_outage_of_a_store_is_told_once_it_is_over(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, with what the store said first; an artifact that is missing is no outage."""
    monkeypatch.setattr("sidecar.worker.outages.WORTH_TELLING_S", 0.0)
    rig.emit_artifact("a")
    rig.source.on_get = failing(lambda: Unavailable("away"), [ref_of("a")])
    with rig.relay(lease_s=0.3) as run:
        eventually(lambda: len(run.observer.retries) >= 2)
        assert not rig.outages
        rig.source.on_get = lambda _: None
        eventually(lambda: rig.published() == ["a"])
        rig.emit_artifact("b", put=False)
        eventually(rig.letters)
        eventually(lambda: rig.outages)
    (told,) = rig.outages
    assert (told.of, told.detail) == ("store", "away")


@pytest.mark.parametrize("error", [NotFound("x"), Corrupt("x")])
def test_trouble_in_the_fleet_is_an_outage(rig: Rig, error: StoreError) -> None:
    """Absence and corruption in the fleet's store are no verdict on the producer's artifact."""
    rig.emit_artifact("a")
    rig.fleet.on_put = failing(lambda: error, [ref_of("a")])
    with rig.relay(retry_budget_s=0) as run:
        eventually(lambda: len(run.observer.retries) >= 2)
        rig.fleet.on_put = lambda _: None
        eventually(lambda: rig.published() == ["a"])
    assert not rig.letters()


def test_a_panic_in_a_store_is_an_outage(rig: Rig) -> None:
    """An exception outside `Exception`, as Rust's panics are, does not strand its event."""

    class PanicException(BaseException):
        pass

    rig.emit_artifact("a")
    rig.source.on_get = failing(PanicException, [ref_of("a")])
    with rig.relay() as run:
        eventually(lambda: rig.source.gets)
        rig.source.on_get = lambda _: None
        eventually(lambda: rig.published() == ["a"])
        assert run.observer.retries


def test_an_outage_then_a_missing_artifact(rig: Rig) -> None:
    """An event is buried after an outage only once the store says that nothing is there."""
    rig.emit_artifact("a", put=False)
    rig.source.on_get = failing(lambda: Unavailable("away"), [ref_of("a")])
    with rig.relay(retry_budget_s=0) as run:
        eventually(lambda: len(run.observer.retries) >= 2)
        assert not rig.letters()
        rig.source.on_get = lambda _: None
        eventually(lambda: rig.reasons() == ["artifact_missing"])


# --- duplicates and conflicts --------------------------------------------------------------------


def test_a_duplicate_is_published_once_and_put_once(rig: Rig) -> None:
    """An event sent again, in one batch or later, is published once and stored once."""
    for _ in range(3):
        rig.emit_artifact("e")
    rig.drain()
    rig.emit_artifact("e")
    rig.emit_artifact("e", id=5, created_at="2026-11-22T12:00:00Z")
    observer = rig.drain()
    assert rig.published() == ["e"]
    assert rig.fleet.puts == [ref_of("e")]
    assert rig.source.gets == [ref_of("e")]
    assert observer.outcomes == {"duplicate": 2}
    assert not rig.letters()


def test_a_duplicate_without_an_artifact(rig: Rig) -> None:
    """Deduplication works alike for events without artifacts, in one batch and later."""
    rig.emit("e")
    rig.emit("e")
    rig.drain()
    rig.emit("e")
    observer = rig.drain()
    assert rig.published() == ["e"]
    assert observer.outcomes == {"duplicate": 1}


def test_a_duplicate_of_a_lost_artifact(rig: Rig) -> None:
    """A duplicate is recognised before anything is resolved: its artifact may be gone."""
    rig.emit_artifact("e")
    rig.drain()
    rig.source = SpyStore()
    rig.emit_artifact("e", put=False)
    rig.drain()
    assert rig.published() == ["e"]
    assert rig.source.gets == []
    assert not rig.letters()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("artifact", [True, False])
def test_other_content_under_a_used_id(rig: Rig, together: bool, artifact: bool) -> None:
    """An event_id with other content is id_conflict, whether in the same batch or later."""
    emit = rig.emit_artifact if artifact else rig.emit
    emit("e", version=1)
    if not together:
        rig.drain()
    second = emit("e", version=2)
    emit("after")
    rig.drain()
    assert rig.published() == ["e", "after"]
    (letter,) = rig.letters()
    assert letter["reason"] == b"id_conflict"
    assert letter["origin"] == f"{CONTROL}/{second}".encode()
    assert len(rig.fleet.puts) == (2 if artifact else 0)


def test_a_conflict_of_another_tenant(rig: Rig) -> None:
    """An event_id is one for all tenants: another tenant's use of it is a conflict."""
    rig.emit("e", tenant="a")
    rig.emit("e", tenant="b")
    rig.drain()
    assert rig.reasons() == ["id_conflict"]
    assert rig.notifications()[0]["tenant_id"] == "a"


def test_same_ref_different_events(rig: Rig) -> None:
    """Events at one ref are stored one after the other, and the ref ends at the last."""
    for n in range(6):
        rig.emit_artifact(f"e{n}", ref="one", data=f"v{n}".encode(), tenant=f"t{n}")
    rig.drain()
    assert rig.fleet.get("one").data == b"v5"
    assert len(rig.published()) == 6
    rig.audit()


def test_one_store_needs_no_second_put(rig: Rig) -> None:
    """Where source and fleet are one store, resolving and verifying is the whole job."""
    store = SpyStore()
    rig = Rig(rig.url, rig.client, store, store)
    rig.emit_artifact("e")
    rig.emit_artifact("missing", put=False)
    rig.drain()
    assert rig.published() == ["e"]
    assert store.puts == []
    assert store.gets
    assert rig.reasons() == ["artifact_missing"]
    assert rig.notifications()[0]["manifest_checksum"] == checksum_of(manifest_of(data_of("e")))


def test_two_handles_on_one_file_store_are_one_store(rig: Rig, tmp_path: Any) -> None:
    """Two handles with one identity count as one store."""
    import store

    url = tmp_path.joinpath("root").absolute().as_uri()
    first, second = store.open_url(url), store.open_url(url)
    rig.source, rig.fleet = first, second
    rig.emit_artifact("e")
    rig.drain()
    rig.audit()
    assert len(list(second.versions(ref_of("e")))) == 1  # type: ignore[attr-defined]


def test_a_dead_event_can_be_sent_again(rig: Rig) -> None:
    """A dead letter does not use its event_id up: the event, re-sent and fixed, is published."""
    rig.emit_artifact("e", put=False)
    rig.drain()
    rig.emit_artifact("e")
    rig.drain()
    assert rig.reasons() == ["artifact_missing"]
    assert rig.published() == ["e"]


def test_the_index_forgets_after_its_window(rig: Rig) -> None:
    """An event that the index forgot between two looks at it is done in full."""
    rig.emit_artifact("e")
    rig.drain()
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.state_now == "active")
        shard = next(iter(rig.client.scan_iter("{*}:seen:*")))
        real = run.relay._publisher.begin

        def forgetful(events: Any, low: str, **more: Any) -> Any:
            rig.client.delete(shard)
            return real(events, EntryId(low), **more)

        run.relay._publisher.begin = forgetful  # type: ignore[method-assign]
        rig.emit_artifact("e")
        eventually(lambda: rig.published() == ["e", "e"])
    assert len(rig.fleet.puts) == 2


# --- crashes, redelivery, takeover ---------------------------------------------------------------


class AckFails(ControlStream):
    """A control stream whose first acknowledgement does not arrive."""

    failed: list[str]

    def acknowledge(self, entry_ids: Iterable[str]) -> int:
        """Fail once, as when the connection breaks between publish and acknowledge."""
        ids = list(entry_ids)
        if not self.failed:
            self.failed.extend(ids)
            raise redis.ConnectionError("broken between publish and acknowledge")
        return super().acknowledge(ids)


@pytest.mark.parametrize("artifact", [True, False])
def test_publish_and_crash_before_the_acknowledgement(rig: Rig, artifact: bool) -> None:
    """What was published and not acknowledged comes again, and nothing happens twice."""
    AckFails.failed = []
    rig.stream_class = AckFails
    emit = rig.emit_artifact if artifact else rig.emit
    for n in range(5):
        emit(f"e{n}", tenant=f"t{n % 2}")
    rig.add("{")
    observer = rig.drain()
    assert AckFails.failed
    assert observer.count("waiting") == 1
    assert sorted(rig.published()) == [f"e{n}" for n in range(5)]
    for event_id, entry_id in rig.sent.items():
        if entry_id in AckFails.failed:
            assert rig.fleet.puts.count(ref_of(event_id)) == artifact
    assert len(rig.letters()) == 1
    assert rig.pending() == 0
    rig.audit()


def test_a_publish_that_does_not_arrive(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged before it is published: when that fails, all is still pending."""
    real = Publisher.begin
    pending: list[int] = []

    def broken_once(self: Publisher, events: Any, low: str, **more: Any) -> Any:
        if not pending:
            pending.append(rig.pending() - len(events))
            raise redis.ConnectionError("broken before publish")
        return real(self, events, EntryId(low), **more)

    monkeypatch.setattr(Publisher, "begin", broken_once)
    for n in range(5):
        rig.emit(f"e{n}")
    rig.drain()
    assert pending == [0]
    assert rig.published() == [f"e{n}" for n in range(5)]


def test_a_fast_event_does_not_overtake_a_slow_one(rig: Rig) -> None:
    """An event that is ready waits for its tenant's earlier one, and for no other tenant's."""
    gate = threading.Event()
    rig.emit_artifact("slow", tenant="a")
    rig.emit_artifact("fast", tenant="a")
    rig.emit("faster", tenant="a")
    rig.emit("other", tenant="b")
    rig.source.on_get = lambda ref: (gate.wait(60), None)[1] if ref == ref_of("slow") else None
    with rig.relay():
        eventually(lambda: "other" in rig.published() and ref_of("fast") in rig.fleet.puts)
        assert rig.published() == ["other"]
        gate.set()
        eventually(lambda: rig.pending() == 0)
    assert rig.published() == ["other", "slow", "fast", "faster"]


def test_bury_and_crash_before_the_acknowledgement(rig: Rig) -> None:
    """What was buried and not acknowledged comes again, and has one letter, counted once."""
    AckFails.failed = []
    rig.stream_class = AckFails
    rig.emit_artifact("missing", put=False)
    rig.drain(max_consecutive_dead=2)
    assert AckFails.failed
    assert rig.reasons() == ["artifact_missing"]
    assert rig.client.hget(rig.keys.halt, "dead_in_a_row") == b"1"


def test_a_buried_event_that_appears_after_the_crash(rig: Rig) -> None:
    """An entry has a letter or a notification, not both, even when its artifact appears late."""
    AckFails.failed = []
    rig.stream_class = AckFails
    rig.emit_artifact("late", put=False)
    original = AckFails.acknowledge

    class Appearing(AckFails):
        def acknowledge(self, entry_ids: Iterable[str]) -> int:
            rig.plant(ref_of("late"), data_of("late"))
            return original(self, entry_ids)

    rig.stream_class = Appearing
    rig.drain()
    assert rig.reasons() == ["artifact_missing"]
    assert rig.published() == []


def test_a_stale_workers_late_read(rig: Rig) -> None:
    """Entries that another reader took under the same name are found before later ones go out."""
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "active")
        # In one transaction, so that the relay cannot read them first.
        stolen = rig.client.pipeline(transaction=True)
        for n in range(3):
            stolen.xadd(CONTROL, {"event": body(event_id=f"stolen{n}", tenant_id="t")})
        stolen.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
        stolen.xadd(CONTROL, {"event": body(event_id="later", tenant_id="t")})
        stolen.execute()
        eventually(lambda: "later" in rig.published())
        assert rig.published() == ["stolen0", "stolen1", "stolen2", "later"]
        eventually(lambda: rig.pending() == 0)


def test_a_stale_workers_late_read_with_nothing_after(rig: Rig) -> None:
    """Entries that another reader took are not stranded when the stream falls silent."""
    with rig.relay(lease_s=0.4) as run:
        eventually(lambda: run.observer.state_now == "active")
        stolen = rig.client.pipeline(transaction=True)
        stolen.xadd(CONTROL, {"event": body(event_id="stolen")})
        stolen.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
        stolen.execute()
        eventually(lambda: rig.published() == ["stolen"])
        eventually(lambda: rig.pending() == 0)


def test_pending_entries_of_a_predecessor_come_first(rig: Rig) -> None:
    """A new owner reads the predecessor's pending entries back before anything new."""
    for n in range(4):
        rig.emit(f"old{n}")
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"}, count=3)
    rig.emit("new")
    rig.drain()
    assert rig.published() == ["old0", "old1", "old2", "old3", "new"]
    assert rig.pending() == 0


def test_a_deleted_consumer_loses_nothing(rig: Rig) -> None:
    """Pending entries that went with their consumer are delivered again, and published once."""
    rig.emit("before")
    rig.emit_artifact("held", tenant="held", put=False)
    rig.emit("behind", tenant="held")
    rig.emit("other")
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: set(rig.published()) == {"before", "other"})
        gone: Any = rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
        assert gone >= 2  # the relay may read them again at once
        rig.plant(ref_of("held"), data_of("held"))
        eventually(lambda: len(rig.published()) == 4)
        eventually(lambda: rig.pending() == 0)
        assert run.observer.count("recovering") >= 1
    rig.audit()


def test_a_deleted_consumer_between_two_workers(rig: Rig) -> None:
    """Someone who tidies up consumers while no worker runs loses nothing either."""
    rig.emit("before")
    rig.emit_artifact("held", tenant="held", put=False)
    rig.emit("other")
    with rig.relay(retry_budget_s=60):
        eventually(lambda: set(rig.published()) == {"before", "other"})
    rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert sorted(rig.published()) == ["before", "held", "other"]


def test_a_consumer_deleted_before_anything_was_published(rig: Rig) -> None:
    """What the first worker only read is not lost with its pending list."""
    rig.emit_artifact("held", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
    rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["held"]


def test_a_deleted_consumer_keeps_the_order(rig: Rig) -> None:
    """What was read after a consumer was deleted waits for what was lost with it."""
    ids = [rig.emit(f"e{n}") for n in range(4)]
    rig.client.set(rig.keys.low, ids[0])
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"}, count=3)
    rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    rig.drain()
    assert rig.published() == ["e0", "e1", "e2", "e3"]
    assert rig.pending() == 0


def test_a_worker_that_died_while_all_was_delivered_again(rig: Rig) -> None:
    """The next one continues where it ended, in order, with what is pending beyond that."""
    ids = [rig.emit(f"e{n}") for n in range(4)]
    rig.client.set(rig.keys.low, ids[0])
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    rig.client.xack(CONTROL, rig.keys.group, ids[1], ids[2])
    rig.client.xgroup_setid(CONTROL, rig.keys.group, ids[0])
    rig.drain()
    assert rig.published() == ["e0", "e1", "e2", "e3"]
    assert rig.pending() == 0


def test_a_consumer_deleted_while_all_is_delivered_again(rig: Rig) -> None:
    """What waits behind a held event is not passed over when its pending list goes meanwhile."""
    first = rig.emit_artifact("held", put=False)
    waiting = ["held", *(f"behind{n}" for n in range(9))]
    for event_id in (*waiting[1:], *(f"e{n}" for n in range(300))):
        rig.emit(event_id, tenant="t" if event_id in waiting else "other")
    rig.client.set(rig.keys.low, first)
    rig.client.xgroup_create(CONTROL, rig.keys.group, first)  # so it is set back, all to come again
    reads = 0

    class Deleted(ControlStream):
        def read_new(self, count: int, block_ms: int | None) -> list[Any]:
            nonlocal reads
            reads += 1
            if reads == 2:
                rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
                rig.plant(ref_of("held"), data_of("held"))
            if reads > 2 and "held" not in rig.published():
                time.sleep(0.05)  # the held event is due before all has come again
            return super().read_new(min(count, 8), block_ms)

    rig.stream_class = Deleted
    rig.drain(retry_budget_s=30.0)
    published = rig.published()
    assert sorted(published) == sorted(rig.sent)
    assert [event for event in published if event in waiting] == waiting


def test_a_stalled_worker_that_sets_the_group_back(rig: Rig) -> None:
    """What is delivered again below a held event does not stay pending for ever."""
    due: list[EntryId] = []

    class SetBack(ControlStream):
        def read_new(self, count: int, block_ms: int | None) -> list[Any]:
            if not due:
                return super().read_new(count, block_ms)
            self.deliver_again(EntryId("0-0"))
            entries = super().read_new(2, None)
            self.deliver_again(due.pop())
            return entries

    rig.stream_class = SetBack
    rig.emit("e0")
    rig.emit("e1")
    held = rig.emit_artifact("held", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        due.append(EntryId(held))
        eventually(lambda: not due)
        rig.plant(ref_of("held"), data_of("held"))
        eventually(lambda: len(rig.published()) == 3)
        eventually(lambda: rig.pending() == 0)
    rig.audit()


def test_a_late_read_while_all_is_delivered_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that a stalled worker takes then is missed at once, and nothing overtakes it."""
    monkeypatch.setattr(relay_module, "BATCH", 1)
    taken: list[Any] = []

    class Robbed(ControlStream):
        def read_new(self, count: int, block_ms: int | None) -> list[Any]:
            entries = super().read_new(count, block_ms)
            if not taken:
                taken.append(
                    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"}, count=1)
                )
            return entries

    rig.stream_class = Robbed
    ids = [rig.emit(f"e{n}") for n in range(8)]
    rig.client.set(rig.keys.low, ids[0])
    rig.drain()
    assert taken[0]
    assert rig.published() == [f"e{n}" for n in range(8)]


@pytest.mark.parametrize("held", [False, True])
def test_a_destroyed_group_is_made_again(rig: Rig, held: bool) -> None:
    """A group that is gone is made again where nothing is lost, and nothing comes twice."""
    rig.emit("a")
    rig.emit_artifact("b", tenant="b", put=not held)
    rig.emit("c")
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: {"a", "c"} <= set(rig.published()))
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
        rig.emit("d")
        eventually(lambda: "d" in rig.published())
        rig.plant(ref_of("b"), data_of("b"))
        eventually(lambda: len(rig.published()) == 4)
        eventually(lambda: rig.pending() == 0)
        assert run.observer.count("recovering") >= 1
    rig.audit()


def test_a_group_destroyed_between_two_workers(rig: Rig) -> None:
    """Entries that came while there was no group are not lost with it."""
    rig.emit("a")
    rig.drain()
    rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.emit("b")
    rig.drain()
    assert rig.published() == ["a", "b"]


def test_a_deleted_stream_is_made_again(rig: Rig) -> None:
    """A control stream that is deleted while the relay runs is read again when it is back."""
    rig.emit("a")
    with rig.relay() as run:
        eventually(lambda: rig.published() == ["a"])
        rig.client.delete(CONTROL)
        rig.emit("b")
        eventually(lambda: rig.published() == ["a", "b"])
        assert run.error is None
    rig.audit()


def test_flushall_while_it_runs(rig: Rig) -> None:
    """A Redis that lost its memory is used again, and control_version continues rising."""
    rig.emit("a")
    with rig.relay() as run:
        eventually(lambda: rig.published() == ["a"])
        before = rig.notifications()[0]["control_version"]
        rig.client.flushall()
        rig.emit("b")
        eventually(lambda: rig.published() == ["b"])
        assert rig.notifications()[0]["control_version"] > before
        assert run.error is None


def test_flushall_while_events_are_held(rig: Rig) -> None:
    """Held events that Redis forgot leave no trace, and their tenants continue."""
    rig.emit_artifact("held", put=False)
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        rig.client.flushall()
        rig.emit("new")
        eventually(lambda: rig.published() == ["new"])
        assert run.error is None
    assert not rig.letters()


def test_script_flush_while_it_runs(rig: Rig) -> None:
    """Scripts that the server forgot are loaded again."""
    with rig.relay():
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        rig.client.script_flush()
        rig.emit("b")
        rig.add("{")
        eventually(lambda: rig.published() == ["a", "b"])
        rig.client.script_flush()
        rig.add("{")
        eventually(lambda: len(rig.letters()) == 2)


def test_connections_that_break(rig: Rig) -> None:
    """Connections killed over and over lose nothing and double nothing."""
    for n in range(200):
        rig.emit_artifact(f"e{n}", tenant=f"t{n % 5}")
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "active")
        for _ in range(10):
            seen = run.observer.read_count
            rig.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
            eventually(lambda seen=seen: run.observer.read_count > seen or rig.pending() == 0)  # type: ignore[misc]
        eventually(lambda: len(rig.published()) == 200)
        eventually(lambda: rig.pending() == 0)
        assert run.error is None
    rig.audit()
    assert not rig.letters()


def test_a_fenced_worker_does_nothing_more(rig: Rig) -> None:
    """A worker whose fence is taken publishes, buries and acknowledges nothing more."""
    gate = threading.Event()
    slow = rig.emit_artifact("slow")
    rig.add("{")
    rig.source.on_get = lambda _: (gate.wait(60), None)[1]
    with rig.relay(lease_s=60) as run:
        eventually(lambda: rig.source.gets)
        eventually(lambda: len(rig.letters()) == 1)
        with rig.client.pipeline(transaction=True) as both:  # else it may come between
            both.set(rig.keys.fence, "another")
            both.set(rig.keys.lease, "another", px=600_000)
            both.execute()
        rig.add("[")
        gate.set()
        eventually(lambda: run.observer.state_now == "standby")
        assert rig.published() == []
        assert len(rig.letters()) == 1
        pending: Any = rig.client.xpending_range(CONTROL, rig.keys.group, "-", "+", 10)
        assert slow.encode() in [entry["message_id"] for entry in pending]
        assert rig.client.get(rig.keys.fence) == b"another"
    assert rig.client.get(rig.keys.lease) == b"another"


def test_takeover_by_a_second_relay(rig: Rig) -> None:
    """When a second relay has the fence, it finishes what the first held, once and in order."""
    gate = threading.Event()
    for n in range(6):
        rig.emit_artifact(f"e{n}", tenant=f"t{n % 2}")
    rig.source.on_get = lambda _: (gate.wait(60), None)[1]
    with rig.relay(lease_s=0.5) as first:
        eventually(lambda: rig.source.gets)
        rig.client.delete(rig.keys.lease)
        second_rig = Rig(rig.url, rig.client, SpyStore(), rig.fleet, lease_s=0.5)
        for n in range(6):
            second_rig.plant(ref_of(f"e{n}"), data_of(f"e{n}"))
        with contest(rig, second_rig, first) as second:
            eventually(lambda: len(rig.published()) == 6)
            gate.set()
            eventually(lambda: first.observer.count("standby") >= 1)
            eventually(lambda: rig.pending() == 0)
    assert second.observer.outcomes == {"published": 6}  # it counts after Redis has it
    assert not first.observer.outcomes
    rig.audit()


def contest(rig: Rig, second: Rig, first: Running) -> Any:
    """Start a second relay that gets the lease: the first stands back."""
    first.relay._ownership._stands_back_until = math.inf
    rig.client.delete(rig.keys.lease, rig.keys.fence)
    return second.relay(lease_s=60)


def test_a_second_worker_stands_by(rig: Rig) -> None:
    """Of two relays one works; the other takes over when it stops, with no wait for the lease."""
    with rig.relay(lease_s=60) as first:
        eventually(lambda: first.observer.state_now == "active")
        with rig.relay(lease_s=60) as second:
            eventually(lambda: second.observer.state_now == "standby")
            rig.emit("a")
            eventually(lambda: rig.published() == ["a"])
            first.stop()
            rig.emit("b")
            eventually(lambda: rig.published() == ["a", "b"])
            assert second.observer.state_now == "active"


def test_several_control_streams_share_a_notification_stream(rig: Rig) -> None:
    """Two control streams have a lease, a group and an order of their own, and one index."""
    other = Rig(rig.url, rig.client, rig.source, rig.fleet, control="control:other")
    with rig.relay(), other.relay():
        for n in range(20):
            rig.emit(f"a{n}")
            other.emit(f"b{n}")
        rig.emit("both")
        other.emit("both")
        eventually(lambda: len(rig.published()) == 41)
        eventually(lambda: rig.pending() == other.pending() == 0)
    clocks = [note["control_version"] for note in rig.notifications()]
    assert clocks == sorted(set(clocks))


def test_another_redis_for_notifications(rig: Rig, redis_url: str) -> None:
    """Control stream and notifications may lie on two servers, or in two databases of one."""
    url = redis_url.removesuffix("/0") + "/1"
    with redis.Redis.from_url(url, protocol=2) as there:
        rig.emit_artifact("e")
        rig.add("{")
        rig.drain(publisher_url=url)
        assert there.xlen(NOTIFICATIONS) == 1
        assert there.xlen(rig.keys.dead) == 1
        assert set(rig.client.scan_iter()) == {CONTROL.encode()}
        assert rig.pending() == 0


# --- halt, drain ---------------------------------------------------------------------------------


def test_pause_and_resume(rig: Rig) -> None:
    """A halt set from outside stops publishing and keeps the lease; lifting it continues."""
    with rig.relay(lease_s=0.5) as run:
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        rig.client.hset(rig.keys.halt, "reason", "by hand")
        rig.emit_artifact("b")
        rig.add("{")
        eventually(lambda: ("halted", "by hand") in run.observer.states)
        assert rig.published() == ["a"]
        assert not rig.letters()
        eventually(lambda: rig.client.exists(rig.keys.lease))
        rig.client.hdel(rig.keys.halt, "reason")
        eventually(lambda: rig.published() == ["a", "b"])
        eventually(lambda: len(rig.letters()) == 1)
    rig.audit()


def test_a_halt_before_the_start(rig: Rig) -> None:
    """A relay that starts on a halted stream publishes nothing."""
    rig.client.hset(rig.keys.halt, "reason", "earlier")
    rig.emit("a")
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "halted")
        assert rig.published() == []


def test_a_drain_of_nothing(rig: Rig) -> None:
    """A drain of an empty or absent stream ends at once, complete."""
    assert rig.drain().outcomes == {}


def test_a_drain_in_an_outage_ends_incomplete(rig: Rig) -> None:
    """A drain gives up what an outage holds once the budget is spent, and says so."""
    rig.emit_artifact("a", tenant="a")
    rig.emit("b", tenant="b")
    rig.emit("c", tenant="a")
    rig.source.on_get = failing(lambda: Unavailable("away"), [ref_of("a")])
    with rig.relay(drain=True, retry_budget_s=0) as run:
        assert not run.finish()
    assert rig.published() == ["b"]
    assert rig.pending() == 2
    assert not rig.letters()


def test_a_drain_of_a_halted_stream_is_incomplete(rig: Rig) -> None:
    """A drain of a halted stream ends, incomplete, with nothing done."""
    rig.client.hset(rig.keys.halt, "reason", "by hand")
    rig.emit("a")
    with rig.relay(drain=True) as run:
        assert not run.finish()
    assert rig.published() == []


def test_a_drain_beside_another_worker_is_incomplete(rig: Rig) -> None:
    """A drain that never gets the lease ends, incomplete."""
    rig.client.set(rig.keys.lease, "another")
    rig.emit("a")
    with rig.relay(drain=True, lease_s=0.2) as run:
        assert not run.finish()
    assert rig.published() == []


def test_a_drain_waits_for_the_budget(rig: Rig) -> None:
    """A drain waits for an artifact as long as the budget lasts, then buries and is complete."""
    rig.emit_artifact("late", put=False)
    rig.emit("behind")
    with rig.relay(drain=True, retry_budget_s=60) as run:
        eventually(lambda: run.observer.retries)
        rig.plant(ref_of("late"), data_of("late"))
        assert run.finish()
    assert rig.published() == ["late", "behind"]


def test_a_stop_gives_the_lease_back(rig: Rig) -> None:
    """A graceful stop gives the lease back and leaves the fence."""
    with rig.relay(lease_s=60) as run:
        eventually(lambda: run.observer.state_now == "active")
        assert rig.client.exists(rig.keys.lease)
    assert not rig.client.exists(rig.keys.lease)
    assert rig.client.exists(rig.keys.fence)
    assert run.observer.state_now == "stopped"


def test_the_fence_does_not_expire(rig: Rig) -> None:
    """The fence has no expiry, the lease has one."""
    with rig.relay(lease_s=60) as run:
        eventually(lambda: run.observer.state_now == "active")
        assert rig.client.pttl(rig.keys.fence) == -1
        remaining = rig.client.pttl(rig.keys.lease)
        assert isinstance(remaining, int)
        assert 0 < remaining <= 60_000


# --- poison --------------------------------------------------------------------------------------


def test_retries_after_crashes_are_not_poison(rig: Rig) -> None:
    """Right after crashes, an event that waits for its artifact is not taken for poison."""
    rig.emit_artifact("waits", tenant="a", put=False)
    rig.emit_artifact("slow", tenant="b")
    rig.client.hset(rig.keys.halt, "unclean", 5)
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    gate = threading.Event()
    rig.source.on_get = lambda ref: (gate.wait(60), None)[1] if ref == ref_of("slow") else None
    with rig.relay(retry_budget_s=60) as run:
        eventually(lambda: ref_of("slow") in rig.source.gets)
        eventually(lambda: len(run.observer.retries) >= 5 or rig.letters() or gate.is_set())
        assert rig.reasons() == []
        gate.set()
        rig.plant(ref_of("waits"), data_of("waits"))
        eventually(lambda: rig.pending() == 0)
    assert sorted(rig.published()) == ["slow", "waits"]


def test_after_crashes_entries_run_one_by_one(rig: Rig) -> None:
    """After several workers died in a row, the backlog runs one at a time, and then as ever."""
    for n in range(6):
        rig.emit_artifact(f"e{n}", tenant=f"t{n}")
    rig.client.hset(rig.keys.halt, "unclean", 5)
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    running: list[int] = []
    lock = threading.Lock()
    most = [0]

    def count(_: str) -> None:
        with lock:
            running.append(1)
            most[0] = max(most[0], len(running))

    def done(_: str) -> None:
        with lock:
            running.pop()

    rig.source.on_get = count
    rig.fleet.on_put = done
    rig.drain()
    assert most == [1]
    assert len(rig.published()) == 6
    assert not rig.client.hexists(rig.keys.halt, "unclean")
    assert not rig.client.hexists(rig.keys.halt, "alone")


@pytest.mark.parametrize("more", [True, False], ids=["then more comes", "then nothing comes"])
def test_a_late_read_whose_pending_list_is_deleted_is_noticed(rig: Rig, *, more: bool) -> None:
    """What a stalled worker read, and a deleted consumer made forget, is not passed over."""
    with rig.relay(lease_s=0.6) as run:
        eventually(lambda: run.observer.state_now == "active")
        pipeline = rig.client.pipeline(transaction=True)
        pipeline.xadd(CONTROL, {"event": '{"event_id":"taken","type":"run.abort"}'})
        pipeline.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
        pipeline.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
        pipeline.execute()
        if more:
            rig.emit("more", tenant="")
        eventually(lambda: rig.published() == (["taken", "more"] if more else ["taken"]))
    rig.audit()


def test_poison_is_buried_once_it_killed_alone(rig: Rig) -> None:
    """An entry noted as having killed three workers alone is buried as poison, once."""
    poison = rig.emit_artifact("poison")
    rig.emit("innocent")
    rig.client.hset(rig.keys.halt, mapping={"unclean": 6, "alone": poison, "alone_deaths": 3})
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    rig.drain()
    assert rig.reasons() == ["poison"]
    assert rig.published() == ["innocent"]
    assert rig.source.gets == []
    found = rig.client.hexists(
        rig.keys.seen(origin_digest(f"{CONTROL}/{poison}")),
        origin_digest(f"{CONTROL}/{poison}")[2:],
    )
    assert found


def test_what_is_published_is_not_buried_as_poison(rig: Rig) -> None:
    """A published entry whose workers died before they acknowledged it gets no dead letter."""
    published = rig.emit_artifact("published")
    rig.drain()
    rig.client.xgroup_setid(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    rig.client.hset(rig.keys.halt, mapping={"unclean": 6, "alone": published, "alone_deaths": 3})
    rig.drain()
    assert rig.reasons() == []
    assert rig.published() == ["published"]
    assert rig.pending() == 0


def test_what_kills_as_it_is_decoded_is_buried_unseen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poison that continues killing as its letter is prepared is buried without a look at it."""
    poison = rig.emit("poison")
    rig.client.hset(rig.keys.halt, mapping={"unclean": 9, "alone": poison, "alone_deaths": 6})
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    monkeypatch.setattr(Pipeline, "admit", lambda *_: pytest.fail("it was decoded"))
    rig.drain()
    assert rig.reasons() == ["poison"]


def test_a_worker_that_redis_leaves_alone_is_no_death(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that fails again and again while an entry runs alone makes no poison of it."""
    monkeypatch.setattr("sidecar.worker.ownership.MAX_PAUSE_S", 0.01)
    failures: list[int] = []

    class Failing(ControlStream):
        def acknowledge(self, entry_ids: Iterable[str]) -> int:
            if len(failures) < 5:
                failures.append(1)
                raise redis.ConnectionError
            return super().acknowledge(entry_ids)

    rig.stream_class = Failing
    rig.emit("e")
    rig.client.hset(rig.keys.halt, "unclean", 5)
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    rig.drain()
    assert len(failures) == 5
    assert rig.reasons() == []
    assert rig.published() == ["e"]


def test_a_clean_stop_is_no_crash(rig: Rig) -> None:
    """Workers that stop gracefully, however many, leave no suspicion."""
    rig.emit_artifact("held", put=False)
    for _ in range(5):
        with rig.relay(retry_budget_s=60) as run:
            eventually(lambda run=run: run.observer.retries)  # type: ignore[misc]
    assert not rig.client.hexists(rig.keys.halt, "unclean")


def test_known_types_and_added_ones(rig: Rig) -> None:
    """A type that the operator added is relayed like the known ones."""
    rig.rules = Rules(types=KNOWN_TYPES | {"mine"})
    rig.emit("e", kind="mine")
    rig.drain()
    assert rig.published() == ["e"]


def test_narrower_rules_do_not_bury_what_is_published(rig: Rig) -> None:
    """An entry that is read again under rules that refuse it has its end already."""
    rig.rules = Rules(types=KNOWN_TYPES | {"mine"})
    rig.emit("e", kind="mine")
    rig.drain()
    rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.client.delete(rig.keys.low)
    rig.rules = Rules()
    rig.emit("new", kind="mine")
    assert rig.drain().outcomes == {"duplicate": 1, "unknown_type": 1}
    assert rig.published() == ["e"]


def test_a_position_is_a_pair_of_integers(rig: Rig) -> None:
    """The position given to the fleet's Put is the entry's ID as two integers."""
    positions: list[Position | None] = []

    class Watching(SpyStore):
        def put(self, ref: str, data: Any, manifest: Any, *, position: Any = None) -> None:
            positions.append(position)
            super().put(ref, data, manifest, position=position)

    rig.fleet = Watching()
    entry_id = rig.emit_artifact("e")
    rig.drain()
    ms, _, seq = entry_id.partition("-")
    assert positions == [(int(ms), int(seq))]


def test_events_that_wait_for_each_others_refs_and_ids_all_end(rig: Rig) -> None:
    """Nobody overtakes who waits for a ref or an event_id: so no two events wait for each other."""
    gate = threading.Event()
    rig.emit_artifact("first", tenant="a", ref="r1", data=b"0")
    rig.emit_artifact("shared", tenant="c", ref="r2", data=b"1")
    rig.emit_artifact("shared", tenant="a", ref="r1", data=b"2")
    rig.emit_artifact("last", tenant="a", ref="r1", data=b"3")
    rig.source.on_get = lambda ref: (gate.wait(60), None)[1] if ref == "r2" else None
    with rig.relay():
        eventually(lambda: "first" in rig.published())
        gate.set()
        eventually(lambda: rig.pending() == 0)
    assert rig.published() == ["first", "shared", "last"]
    assert rig.reasons() == ["id_conflict"]


def test_a_proxy_that_answers_for_redis_is_an_outage(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is not Redis's kills no relay: it waits, and continues afterwards."""
    real = Publisher.acquire
    strange = iter([redis.exceptions.InvalidResponse("Protocol error, got 'H'")])

    def acquire(self: Publisher) -> int | None:
        for error in strange:
            raise error
        return real(self)

    monkeypatch.setattr(Publisher, "acquire", acquire)
    rig.emit("e")
    rig.drain()
    assert rig.published() == ["e"]


def test_what_is_stored_on_an_idle_stream_is_published_before_the_next_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is on its way, so it waits for nothing else."""
    monkeypatch.setattr(relay_module, "BUSY_WAIT_S", 30.0)
    is_put, published_at_reads = threading.Event(), []

    class Counting(ControlStream):
        def read_new(self, count: int, block_ms: int | None) -> list[Entry]:
            if is_put.is_set():
                published_at_reads.append(rig.client.xlen(NOTIFICATIONS))
            return super().read_new(count, block_ms)

    rig.stream_class = Counting
    rig.fleet.on_put = lambda _: is_put.set()
    rig.emit_artifact("e")
    rig.drain()
    assert set(published_at_reads) == {1}
