"""Show, at, trace, explain, the report and dead letters answer from one history: they agree."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sidecar.history import History
from sidecar.history.bundle import BundleHistory
from sidecar.history.state import state_at
from sidecar.redis.source import Entry
from sidecar.replay.backs import Backs
from sidecar.replay.changes import changes
from sidecar.replay.explain.explaining import explain
from sidecar.replay.explain.subjects import WENT_BACK
from sidecar.replay.letters import RecordedLetters, became
from sidecar.replay.moment import at
from sidecar.replay.report import Report
from sidecar.replay.timeline import End, lives
from sidecar.replay.trace import find, traces
from sidecar.replay.window import LifeSelection, Window
from sidecar.wire.ids import Origin
from tests.proofs import sampled
from tests.sidecar.planted_history import CHECKSUM, CONTROLS, NOTIFICATIONS, TRIMMED, Planted, Sent

WHOLE = Window()
SEEDS = 400
SAMPLE = 20
AROUND_US = 10**12


@pytest.mark.parametrize("seed", sampled(range(SEEDS), [str(n) for n in range(SAMPLE)]))
def test_commands_agree(seed: int, tmp_path: Path) -> None:
    """Of each event on how it ended, as what and why, and whether its subject went back with it;
    at each instant on what was published, waited and was dead.
    """
    agree(Planted(random.Random(seed)).play(), tmp_path)


def agree(planted: Planted, path: Path) -> None:
    """Compare what commands say of a history with what is true, and so with each other."""
    history = planted.write(path)
    ends, backs = ended(planted), planted.went_back()
    assert shown(history) == (ends, backs)
    assert reported(history) == (ends, backs)
    assert explained(history) == {one.end_id for one in planted.sent if one.origin in backs}
    for one in planted.sent:
        if one.origin in ends:
            assert traced(history, one) == (ends[one.origin], one.origin in backs)
    assert letters(history) == {one.end_id for one in planted.sent if one.end == "dead"}
    by_origin = {one.origin: one for one in planted.sent}
    for _, _, entry in planted.records:
        assert became(history, Origin(entry)) == outcome(planted, by_origin[Origin(entry)])
    times = instants(planted)
    for us in times:
        assert was_there(history, us) == was(planted, us, backs), us
    for old_us, new_us in pairwise([*times[::7], times[-1]] if times else []):
        assert compared(history, old_us, new_us) == differ(planted, old_us, new_us)


# --- where they did not --------------------------------------------------------------------------


def event(n: int, version: int) -> dict[str, Any]:
    """Return an event of a stack."""
    return {"event_id": f"e{n}", "type": "stack.activated", "tenant_id": "t", "stack_id": "web",
            "version": version, "artifact_ref": f"r/{version}", "checksum": CHECKSUM}  # fmt: skip


@pytest.fixture
def planted() -> Planted:
    """Version 6, which died, and 7, half a second and a second later."""
    planted = Planted(random.Random(7))
    for n in (6, 7):
        planted.append(CONTROLS[0], event(n, n))
        planted.now_ms += 500
    planted.bury(planted.sent[0])
    return planted


def wait(planted: Planted) -> None:
    """Let a second pass."""
    planted.now_ms += 1000


@pytest.mark.parametrize("release", [0, 1, 2])
def test_a_subject_went_back_whatever_the_record_says(
    planted: Planted, tmp_path: Path, release: int
) -> None:
    """Older releases did not note what a redrive overrode; the notifications show it."""
    planted.publish(planted.sent[1])
    planted.now_ms += 3_600_000
    again = planted.redrive(planted.sent[0], release)
    wait(planted)
    planted.publish(again)
    assert planted.went_back() == {again.origin}
    agree(planted, tmp_path)


def test_what_is_older_or_of_another_subject_sets_nothing_back(
    planted: Planted, tmp_path: Path
) -> None:
    """An older version, published before the redrive, and a newer one of a stack with its ref."""
    beside = planted.append(CONTROLS[0], event(8, 8) | {"stack_id": "db", "artifact_ref": "r/7"})
    wait(planted)
    seven, six = planted.sent[1], planted.redrive(planted.sent[0], 2)
    planted.bury(seven)
    for one in (six, beside, planted.redrive(seven, 2)):
        wait(planted)
        planted.publish(one)
    assert planted.went_back() == set()
    agree(planted, tmp_path)


def test_what_overrode_an_event_that_died_since_set_nothing_back(
    planted: Planted, tmp_path: Path
) -> None:
    """The record names what waited then, and that was never published."""
    again = planted.redrive(planted.sent[0], 2)
    wait(planted)
    planted.bury(planted.sent[1])
    wait(planted)
    planted.publish(again)
    assert planted.went_back() == set()
    agree(planted, tmp_path)


def test_a_dead_letter_does_not_wait_until_it_is_redriven(planted: Planted, tmp_path: Path) -> None:
    """Between its death and its redrive it was dead, and only that."""
    wait(planted)
    planted.redrive(planted.sent[0], 2)
    agree(planted, tmp_path)


def test_an_entry_that_was_trimmed_since_is_found_by_its_end(
    planted: Planted, tmp_path: Path
) -> None:
    """By `trace`; and it waited until then, for `replay at`."""
    planted.publish(planted.sent[1])
    wait(planted)
    planted.append(CONTROLS[0], event(8, 8))
    del planted.rows[CONTROLS[0]][:2]
    agree(planted, tmp_path)


def test_the_row_that_went_back_is_not_that_of_a_repeat(planted: Planted, tmp_path: Path) -> None:
    """A repeat has the notification of the first, and set nothing back."""
    planted.publish(planted.sent[1])
    wait(planted)
    again = planted.redrive(planted.sent[0], 2)
    wait(planted)
    planted.publish(again)
    repeat = planted.append(CONTROLS[0], again.said)
    repeat.end, repeat.end_id, repeat.ended_us = "duplicate", again.end_id, again.ended_us
    agree(planted, tmp_path)


def test_a_window_that_begins_behind_what_is_newer_tells_it(
    planted: Planted, tmp_path: Path
) -> None:
    """`explain --since` says what `replay show --since` says."""
    planted.publish(planted.sent[1])
    wait(planted)
    again = planted.redrive(planted.sent[0], 2)
    wait(planted)
    planted.publish(again)
    found = explain(planted.write(tmp_path), Window(again.ended_us - 1)).findings
    assert [one.place for one in found if one.kind == WENT_BACK.name] == [again.end_id]


def test_two_tenants_with_one_ref_have_no_order(tmp_path: Path) -> None:
    """The older event of the one, published behind the other's, has set nothing back."""
    planted = Planted(random.Random(7))
    for n, tenant in enumerate("tu"):
        said = event(n, 1) | {"tenant_id": tenant, "type": "artifact.published"}
        del said["stack_id"], said["version"]
        planted.append(CONTROLS[0], said)
        wait(planted)
    planted.publish(planted.sent[1])
    wait(planted)
    planted.publish(planted.sent[0])
    agree(planted, tmp_path)


def test_a_report_reads_its_window_once(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sentences come of the events that its rows come of."""
    planted.publish(planted.sent[1])
    history, read = planted.write(tmp_path), []
    entries = BundleHistory.entries

    def counted(self: BundleHistory, stream: str, *span: Any, **more: Any) -> Iterator[Entry]:
        read.append(stream)
        return entries(self, stream, *span, **more)

    monkeypatch.setattr(BundleHistory, "entries", counted)
    reported(history)
    assert read.count(CONTROLS[0]) == read.count(NOTIFICATIONS) == 1


# --- what each says ------------------------------------------------------------------------------


Ends = dict[Origin, tuple[str, str, str]]


def ended(planted: Planted) -> Ends:
    """Return how each event ended that anything is left of, as what, and why."""
    there = set().union(*map(planted.there, CONTROLS))
    return {
        one.origin: ("unknown" if one.end == TRIMMED else one.end, one.end_id, one.reason)
        for one in planted.sent
        if one.origin in there or one.end in ("published", "dead", "redriven")
    }  # fmt: skip


def shown(history: History) -> tuple[Ends, set[Origin]]:
    """Return what `replay show` says."""
    found, backs = list(lives(history, WHOLE)), Backs(history)
    ends = {one.origin: (one.end.value, one.end_id or "", one.reason) for one in found}
    return ends, {
        one.origin for one in found
        if one.end is End.PUBLISHED and backs.did(one.event, one.origin, one.ended_us)
    }  # fmt: skip


def reported(history: History) -> tuple[Ends, set[Origin]]:
    """Return what the report says."""
    report = Report(history, WHOLE, LifeSelection(), [])
    for life in lives(history, WHOLE):
        report.add(life)
    data: dict[str, Any] = json.loads(report.data())
    columns, strings = data["columns"], data["strings"]
    rows = [
        (Origin(strings[columns["origin"][n]]), data["ends"][end],
         strings[columns["end_id"][n]], strings[columns["reason"][n]])
        for n, end in enumerate(columns["end"])
    ]  # fmt: skip
    backs = {rows[one["row"]][0] for one in data["causes"] if one["back"]}
    return {origin: (end, end_id, why) for origin, end, end_id, why in rows}, backs


def explained(history: History) -> set[str]:
    """Return with which notifications `explain` says that a subject went back."""
    found = explain(history, WHOLE).findings
    return {one.place for one in found if one.kind == WENT_BACK.name}


def traced(history: History, one: Sent) -> tuple[tuple[str, str, str], bool]:
    """Return what `trace` says of an entry, and whether its subject went back with it."""
    first = next(traces(history, find(history, one.origin, WHOLE, AROUND_US)))
    life, hops = first.life, [hop.name for hop in first.hops]
    assert life.origin == one.origin
    return (life.end.value, life.end_id or "", life.reason), "went back" in hops


def letters(history: History) -> set[str]:
    """Return what `dead ls` lists."""
    return {str(one.id) for one in RecordedLetters(history).all()}


def outcome(planted: Planted, one: Sent) -> tuple[str, str]:
    """Return what became of what was redriven as this."""
    if one.end in ("published", "duplicate") and ended(planted).get(one.origin):
        return "published", str(one.ended_us)
    if one.end == "redriven":
        return one.end, next(new for _, old, new in planted.records if old == one.origin)
    return (one.end, one.end_id) if one.end == "dead" else ("", "")


def compared(history: History, old_us: int, new_us: int) -> set[tuple[str, ...]]:
    """Return what `diff --at` says: which event each changed subject had before, and has now."""
    return {
        tuple(one.event_id if one else "" for one in (each.old, each.new))
        for each in changes(state_at(history, old_us), state_at(history, new_us))
    }  # fmt: skip


def differ(planted: Planted, old_us: int, new_us: int) -> set[tuple[str, ...]]:
    """Return the same of what was published."""
    old, new = (published(planted, us) for us in (old_us, new_us))
    states = [(old.get(one), new.get(one)) for one in old | new]
    return {
        tuple(one.event_id if one else "" for one in pair)
        for pair in states if pair[0] is not pair[1]
    }  # fmt: skip


def published(planted: Planted, us: int) -> dict[Any, Sent]:
    """Return what each subject had, as its notification is still there."""
    found = sorted((one for one in planted.sent if one.end == "published" and one.ended_us <= us),
                   key=lambda one: one.ended_us)  # fmt: skip
    return {planted.change(one).subject: one for one in found}


# --- at an instant -------------------------------------------------------------------------------


def instants(planted: Planted) -> list[int]:
    """Return moments before, at and after each thing that happened."""
    times = {us for one in planted.sent for us in (one.begun_us, one.died_us, one.ended_us) if us}
    times |= {us for halt in planted.halts for us in halt if us}
    ms = {us // 1000 for us in times}
    return sorted(times | {one * 1000 - 1 for one in ms} | {one * 1000 + 999 for one in ms})


Rows = set[tuple[str, str, bool]]


def was_there(history: History, us: int) -> Rows:
    """Return what `replay at` shows."""
    moment = at(history, us, AROUND_US)
    return {
        (one.what, one.event_id, one.detail.startswith("went back"))
        for one in (*moment.rows(), *moment.halts())
    }  # fmt: skip


def was(planted: Planted, us: int, backs: set[Origin]) -> Rows:
    """Return what was there."""
    rows: Rows = set()
    ms = us // 1000 * 1000
    ended_ones = (one for one in planted.sent if one.end not in ("duplicate", TRIMMED))
    for one in sorted(ended_ones, key=lambda one: one.ended_us):
        if one.end == "published" and one.ended_us <= us:
            continue
        if 0 < one.died_us <= ms + 999:
            if one.end == "dead" or one.ended_us > us:
                rows.add(("dead", one.event_id, False))
        elif one.begun_us <= us and (one.end == "waiting" or one.ended_us > us):
            rows.add(("waiting", one.event_id, False))
    for subject, one in published(planted, us).items():
        rows.add(("stack" if subject.stack_id else "ref", one.event_id, one.origin in backs))
    if any(begun <= us and (over is None or over >= us) for begun, over in planted.halts):
        rows.add(("halt", "", False))
    return rows
