"""The rules of `sidecar explain`, each over what is on record, and what keeps it quiet."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, cast

import pytest

from sidecar.history import History
from sidecar.history.contract import Gap, Reach, Streams
from sidecar.history.halts import HaltPeriod
from sidecar.history.redrives import Redrive
from sidecar.redis.members import Held
from sidecar.redis.readers import Reader
from sidecar.redis.source import Entry
from sidecar.replay.explain.explaining import KINDS, explain_facts
from sidecar.replay.explain.facts import Facts
from sidecar.replay.explain.findings import Finding, Level
from sidecar.replay.explain.ordering import causal
from sidecar.replay.explain.settings import moved_since, moves
from sidecar.replay.explain.written import markdown
from sidecar.replay.timeline import End, Life
from sidecar.replay.window import Window
from sidecar.wire.event import Event
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin
from sidecar.wire.moments import rfc3339
from tests.explain_page import PAGE, page

BASE_MS: Final = 1_790_000_000_000
STREAM: Final = "control:events"
NOW_S: Final = 600.0


def us(at_s: float) -> int:
    """Return a moment of the tests, in microseconds since the epoch."""
    return BASE_MS * 1000 + round(at_s * 1e6)


class Recorded:
    """A history of which nothing is read but what it says here."""

    store = None

    def __init__(
        self, *held: Held, readers: tuple[Reader, ...] = (),
        reach: Reach = Reach(FIRST.after, LAST),  # noqa: B008 -- nothing changes it
    ) -> None:  # fmt: skip
        self._reach = reach
        self.streams = Streams((STREAM,), "n", "n:dead", "n:redriven", "n:halts", "n:tenures")
        self._held, self._readers = held, readers

    def now_us(self) -> int:
        """Return when the tests ask."""
        return us(NOW_S)

    def readers(self) -> tuple[Reader, ...]:
        """Return who is registered."""
        return self._readers

    def held(self) -> tuple[Held, ...]:
        """Return what workers tell that they hold back."""
        return self._held

    def reach(self, _: str) -> Reach:
        """Return that all can be read, unless told otherwise."""
        return self._reach


def life(
    end: End, event_id: str, begun_s: float, ended_s: float = 0.0, *, tenant: str = "t",
    version: int = 1, stack: str = "web", reason: str = "", detail: str = "", **more: Any,
) -> Life:  # fmt: skip
    """Return an event of a stack that came and ended then."""
    told = Event(event_id=event_id, type="stack.activated", tenant_id=tenant, stack_id=stack,
                 version=version, **more)  # fmt: skip
    fields = {b"reason": reason.encode(), b"detail": detail.encode()}
    ended_us = us(ended_s) if ended_s else 0
    origin = Origin(f"{STREAM}/{BASE_MS + round(begun_s * 1000)}-0")
    end_id = EntryId.of_version(ended_us) if ended_us else None
    return Life(
        origin, end, None, told, event_id, tenant, ended_us, end_id, fields, us(NOW_S),
    )  # fmt: skip


def published(event_id: str, begun_s: float, ended_s: float = 0.0, **more: Any) -> Life:
    """Return an event that was published, at once unless told otherwise."""
    return life(End.PUBLISHED, event_id, begun_s, ended_s or begun_s + 0.01, **more)


def dead(event_id: str, begun_s: float, reason: str, ended_s: float = 0.0, **more: Any) -> Life:
    """Return an event that died, at once unless told otherwise."""
    return life(End.DEAD, event_id, begun_s, ended_s or begun_s + 0.01, reason=reason, **more)


def waiting(event_id: str, begun_s: float, **more: Any) -> Life:
    """Return an event that waits."""
    return life(End.WAITING, event_id, begun_s, **more)


def redriven(one: Life, at_s: float, **more: Any) -> Redrive:
    """Return the record of a redrive of what was in the entry of this life, as it is one now."""
    told: dict[str, Any] = {
        "letter": EntryId.of(BASE_MS), "origin": Origin(f"{STREAM}/{BASE_MS + 2000}-0"),
        "event_id": one.event_id, "entry": one.origin, "reason": "ticket 7", "by": "root@vm",
        "forced": "overtaken", "overrode": "six", "overrode_version": 6,
        "dead_reason": "artifact_missing", "dead_detail": "nothing there",
    }  # fmt: skip
    return Redrive(us(at_s), **(told | more))


def record(at_s: float, **fields: str) -> Entry:
    """Return a record of the stream of tenures."""
    named = {name.encode(): value.encode() for name, value in fields.items()}
    return Entry(EntryId.of_version(us(at_s)), named)


def tenure(at_s: float, by: str = "a:1", **settings: Any) -> Entry:
    """Return the record of a tenure."""
    told = json.dumps(settings)
    return record(at_s, what="tenure", stream=STREAM, by=by, version="1", settings=told)


def facts(
    *lives: Life, held: tuple[Held, ...] = (), readers: tuple[Reader, ...] = (), **more: Any
) -> Facts:
    """Return what is on record: these events, and what else is said."""
    told: dict[str, Any] = {"halts": [], "redrives": [], "records": [], "now_us": us(NOW_S)}
    window = more.pop("window", Window())
    reach = more.pop("reach", Reach(FIRST.after, LAST))
    history = cast("History", Recorded(*held, readers=readers, reach=reach))
    return Facts(history, window, list(lives), 0, **(told | more))


def found(*lives: Life, what: str = "", **more: Any) -> list[Finding]:
    """Return what the rules find of them."""
    return explain_facts(facts(*lives, **more), what).findings


def kinds(*lives: Life, what: str = "", **more: Any) -> list[str]:
    """Return which kinds that is."""
    return [one.kind for one in found(*lives, what=what, **more)]


def others(*at_s: float) -> Iterator[Life]:
    """Yield events of other tenants, published at once."""
    for n, at in enumerate(at_s):
        yield published(f"o{n}", at, tenant=f"u{n}", stack="")


# --- subjects ------------------------------------------------------------------------------------


def test_an_hour_in_which_nothing_went_wrong_has_no_finding() -> None:
    """Neither for events in order, nor for a repeat, nor for what came a moment ago."""
    repeat = life(End.DUPLICATE, "a1", 3, 1.01)
    assert not kinds(*(published(f"a{n}", n, version=n) for n in range(1, 9)), repeat,
                     waiting("new", NOW_S - 1), *others(1, 2, 3),
                     records=[tenure(0)])  # fmt: skip


def test_a_subject_that_a_redrive_set_back_is_told_with_who_and_over_what() -> None:
    """By whom, why, behind which event, and what it had died of; still so."""
    six, five = published("six", 4, version=6), published("five", 9, version=5)
    (one,) = found(six, five, redrives=[redriven(five, 8.9)])
    assert (one.kind, one.level, one.by) == ("went_back", Level.ERROR, "root@vm")
    assert "t/web went back from @6 to @5" in one.what
    assert (
        'its dead letter was redriven by force by root@vm, reason given: "ticket 7", behind six'
        in one.what
    )
    assert "it had died: artifact_missing: nothing there. It is so still" in one.what


def test_what_set_it_right_since_is_told() -> None:
    """Then it is over: a warning, with the state since."""
    lives = [published("six", 4, version=6), published("five", 9, version=5),
             published("seven", 12, version=7)]  # fmt: skip
    (one,) = found(*lives, redrives=[redriven(lives[1], 8.9)])
    assert (one.level, one.until_us) == (Level.WARNING, us(12.01))
    assert "it is at @7" in one.what


def test_a_redrive_that_sets_nothing_back_is_no_finding() -> None:
    """Where what is newer had not been published before it."""
    five = published("five", 9, version=5)
    assert not kinds(five, published("six", 10, version=6), redrives=[redriven(five, 8.9)])


def test_an_older_version_in_an_event_of_its_own_is_its_producers() -> None:
    """A note: it may have been meant, and nothing in the sidecar did it."""
    (one,) = found(published("six", 4, version=6), published("five", 9, version=5))
    assert (one.kind, one.level) == ("older_version", Level.NOTE)
    assert not explain_facts(facts(published("six", 4))).is_wrong


def test_one_version_with_two_artifacts_is_told_once() -> None:
    """Two producers activate it; what is sent again, or pins the same, is nothing."""
    a, b = (f"sha256:{one * 64}" for one in "ab")
    sent = enumerate([("x", a), ("same", a), ("y", b), ("z", b)], 1)
    lives = [published(name, n, version=5, checksum=pin, artifact_ref="r")
             for n, (name, pin) in sent]  # fmt: skip
    (one,) = found(*lives)
    assert one.kind == "same_version"
    twice = "t/web@5 was activated twice with different content"
    assert one.what.startswith(f"{twice}: by x at {rfc3339(us(1.01))}, and by y at")
    assert (one.level, one.brief) == (Level.ERROR, f"{twice}; readers have that of y now")
    assert "Still" not in explain_facts(facts(*lives)).summary.lines[-1]
    over = found(*lives, published("next", 9, version=6))[0]
    assert (over.level, over.is_over) == (Level.WARNING, True)
    assert f"Readers had that of y until {rfc3339(us(9.01))}" in over.what
    assert kinds(*lives[:2]) == []


def test_two_control_streams_never_set_each_other_back() -> None:
    """Nobody can tell which of the two came first."""
    other = published("five", 9, version=5)
    elsewhere = Life(Origin(f"other/{BASE_MS}-0"), End.PUBLISHED, None, other.event, "five", "t",
                     other.ended_us, other.end_id)  # fmt: skip
    assert "went_back" not in kinds(published("six", 4, version=6), elsewhere)


def test_one_event_id_with_two_notifications_is_told() -> None:
    """With both control_versions; of more event_ids all at once, and how many."""
    (one,) = found(published("a", 1), published("a", 2))
    assert (one.kind, one.level) == ("twice", Level.ERROR)
    assert f"{us(1.01)} and {us(2.01)}" in one.what
    (two,) = found(*(published(name, at) for at, name in enumerate("abcabc", 1)))
    assert two.what.startswith("3 events of t were published more than once: the first, t/web@1")


def test_what_is_published_again_when_its_event_id_is_forgotten_is_not_twice() -> None:
    """What --dedup-window remembers no more is another event to the worker."""
    lives, forgets = (published("a", 1), published("a", 99)), tenure(0, dedup_window=60.0)
    assert kinds(*lives) == kinds(*lives, records=[tenure(0)]) == ["twice"]
    assert not kinds(*lives, records=[forgets])


def test_what_was_published_twice_was_not_late_the_second_time() -> None:
    """Its turn had come long before: it was published then."""
    lives = [published("a", 1), *others(3, 4, 5), published("a", 1, 10)]
    assert kinds(*lives) == ["twice"]


def test_what_was_published_twice_is_the_cause_of_what_went_back_with_it() -> None:
    """The older event came again, behind the newer one of its stack."""
    lives = [published("five", 1, version=5), published("six", 2, version=6),
             published("five", 1, 3, version=5)]  # fmt: skip
    first, second = found(*lives)
    assert (first.kind, second.kind, second.causes) == ("twice", "went_back", ("twice",))


def test_a_version_that_nobody_sent_is_told_when_asked_for() -> None:
    """With the highest that was sent; a tenant that there is not is nothing."""
    lives = [published("a", 1, version=6), published("b", 2, version=5)]
    (one,) = found(*lives, what="t/web@9")
    assert one.kind == "never_sent"
    assert "The highest version that was sent of t/web is @6" in one.what
    assert not found(*lives, what="nobody/web@9")


# --- deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("malformed", "malformed"), ("invalid_event", "malformed"), ("bad_ref", "malformed"),
        ("too_large", "malformed"), ("unknown_type", "unknown_type"),
        ("forbidden_ref", "forbidden"), ("forbidden_id", "forbidden"),
        ("id_conflict", "event_id_reused"), ("artifact_missing", "artifact_missing"),
        ("checksum_mismatch", "artifact_rewritten"), ("artifact_too_large", "artifact_too_large"),
        ("poison", "poison"), ("entry_lost", "trimmed_before_read"), ("of another day", "died"),
    ],
)  # fmt: skip
def test_what_died_is_told_by_its_reason(reason: str, kind: str) -> None:
    """Each reason of the contract has its kind, and an unknown one a kind, too."""
    (one,) = found(dead("a", 1, reason, version=7, detail="how"))
    assert (one.kind, one.level) == (kind, Level.ERROR)
    assert one.what.startswith(f"t/web@7 (event a) died at {rfc3339(us(1.01))}: ")
    assert f" ({reason}: how)" in one.what
    assert one.brief.startswith("t/web@7 died: ")


def test_what_died_and_arrived_all_the_same_is_over() -> None:
    """Redriven, or sent again under another event_id with the same version."""
    gone = dead("a", 1, "artifact_missing", version=7)
    (one,) = found(gone, published("b", 5, version=7))
    assert one.level is Level.WARNING
    assert one.what.startswith(f"t/web@7 (event a) arrived late, at {rfc3339(us(5.01))} (")
    assert "event b): it had died at" in one.what
    assert one.advice.startswith("nothing to do: it is over")


def test_who_redrove_what_arrived_all_the_same_is_told() -> None:
    """By whom, why, and whether by force."""
    again = published("a", 5, version=7)
    (one,) = found(dead("a", 1, "artifact_missing", version=7), again,
                   redrives=[redriven(again, 4.9)])  # fmt: skip
    assert '(redriven by force by root@vm, reason given: "ticket 7"; control_v' in one.what


def test_what_died_and_is_overtaken_is_said_to_be() -> None:
    """By the rule that a redrive goes by."""
    (one,) = found(dead("a", 1, "artifact_missing", version=7), published("b", 5, version=8))
    assert one.level is Level.WARNING
    assert "t/web@7 (event a) has been overtaken by t/web@8" in one.what


def test_an_event_id_used_again_names_the_first_use() -> None:
    """The published one is not taken for the arrival of the dead one."""
    (one,) = found(published("a", 1, version=3), dead("a", 5, "id_conflict", version=7))
    assert f"that was t/web@3, control_version {us(1.01)} of {rfc3339(us(1.01))}" in one.what
    assert one.what.startswith("t/web@7 (event a) died")


def test_a_release_that_breaks_a_producer_is_told() -> None:
    """All was right before, nothing since; not where something right came in between."""
    bad = [dead(f"b{n}", 10 + n, "invalid_event") for n in range(3)]
    (one,) = found(published("a", 1), *bad)
    assert "From then on none of its events was right, before all were" in one.what
    (other,) = found(published("a", 1), *bad, published("c", 11.5, version=2))
    assert not any(words in other.what for words in ("From then on", "rolled back"))


def test_a_release_that_was_rolled_back_is_told() -> None:
    """All was right before and since, and nothing in between."""
    bad = [dead(f"b{n}", 10 + n, "invalid_event") for n in range(3)]
    (one,) = found(published("a", 1), *bad, published("c", 15, version=2))
    assert f"Until {rfc3339(us(15))} none of its events was right, before and since" in one.what
    (other,) = found(*bad, published("c", 15, version=2))
    assert "rolled back" not in other.what


def test_what_names_no_tenant_is_told_by_how_its_event_ids_begin() -> None:
    """That is all that tells its producer."""
    bad = [dead(f"krill-r2-{n}", 10 + n, "invalid_event", tenant="", stack="") for n in range(3)]
    (one,) = found(*bad)
    assert "3 events that name no tenant (their event_ids begin with krill-r2-)" in one.what


# --- halts ---------------------------------------------------------------------------------------


def halt(
    by: str, until_s: float | None = 20.0, tenant: str | None = None, since_s: float = 10
) -> HaltPeriod:
    """Return a halt that began after ten seconds, unless told otherwise."""
    until_us = us(until_s) if until_s else None
    return HaltPeriod(STREAM, us(since_s), "why", by, until_us, "fixed", "ann", tenant)


def test_a_halt_in_a_row_of_dead_letters_is_linked_to_them() -> None:
    """To those that came after the last notification, and to no others."""
    early = dead("x", 2, "poison", tenant="u")
    row = [dead(f"b{n}", 9 + n / 100, "malformed") for n in range(3)]
    told = found(early, published("a", 5, tenant="v"), *row, halts=[halt("sidecar")])
    (one,) = (one for one in told if one.kind == "halted")
    assert (one.level, one.causes) == (Level.WARNING, ("died:malformed:t",))


def test_a_resume_before_the_cause_was_fixed_is_told() -> None:
    """Where it is held again, and nothing was published meanwhile; of a later one nothing."""
    twice = [halt("sidecar"), halt("sidecar", 40, since_s=30)]
    first, second = found(halts=twice)
    assert f"resumed too early: at {rfc3339(us(30))} it was held again" in first.what
    assert "too early" not in second.what
    fixed = found(published("a", 25), halts=twice)
    assert not any("too early" in one.what for one in fixed)


def test_a_pause_that_somebody_made_and_lifted_is_a_note() -> None:
    """One that lasts is an error, with the command that ends it."""
    over, lasts = halt("ann"), halt("ann", None)
    (one,) = found(published("a", 11, 20.5), halts=[over])
    assert (one.level, one.by) == (Level.NOTE, "ann")
    assert 'ann resumed it, reason given: "fixed"; 1 event of t waited' in one.what
    assert 'by ann, reason given: "why"' in one.what
    (other,) = found(halts=[lasts])
    assert other.level is Level.ERROR
    assert "sidecar resume --stream control:events" in other.fix


def test_a_halt_that_was_lifted_without_a_record_is_told() -> None:
    """What came after it was published: it is over, and nobody knows who did that."""
    (one,) = found(published("a", 15), halts=[halt("ann", None)])
    assert one.level is Level.WARNING
    assert one.advice == (
        f"ask ann whether it should still hold; if so: sidecar pause --stream {STREAM} --reason WHY"
    )
    unknown = "its key was probably deleted, by whom: not on record"
    assert f"It ended without a resume: {unknown}" in one.what
    look = explain_facts(facts(published("a", 15), halts=[halt("ann", None)])).summary.look
    assert f"and that ended after 5.0s without a resume; {unknown}" in look[0]
    assert f"to {rfc3339(us(15.01))} (5.0s)" in one.what
    (lasts,) = found(published("a", 5), halts=[halt("ann", None)])
    assert lasts.level is Level.ERROR


def test_a_paused_tenant_is_that_tenants() -> None:
    """Another tenant does not hear of it; of a halt everybody does whose events waited."""
    waited = published("a", 11, 20.5), published("b", 11, 11.1, tenant="u")
    assert kinds(*waited, what="t", halts=[halt("ann", tenant="t")]) == ["paused"]
    assert not kinds(*waited, what="u", halts=[halt("ann", tenant="t")])
    assert kinds(*waited, what="u", halts=[halt("ann")]) == ["halted"]
    assert not kinds(published("c", 30, tenant="w"), what="w", halts=[halt("ann")])


# --- waits ---------------------------------------------------------------------------------------


def test_what_came_late_while_others_went_on_waited_for_its_artifact() -> None:
    """With what waited behind it; not where nobody shows that the worker was there."""
    late = [published("a", 1, 9), published("b", 2, 9.1, version=2)]
    (one,) = found(*late, *others(3, 5))
    assert one.kind == "artifact_late"
    assert one.what.startswith("t/web@1 arrived 8.0s late")
    assert "1 event of its tenant waited behind it" in one.what
    assert "artifact_late" not in kinds(*late)
    paused = halt("x", tenant="t", since_s=0.5)
    assert "artifact_late" not in kinds(*late, *others(3, 5), halts=[paused])


def test_what_waited_behind_one_that_died_is_linked_to_it() -> None:
    """It is not told where nothing waited."""
    gone = dead("a", 1, "artifact_missing", 9)
    told = found(gone, published("b", 2, 9.1, version=2), *others(3, 5))
    (one,) = (one for one in told if one.kind == "held_behind")
    assert one.causes == ("died:artifact_missing:t",)
    assert "1 event of t waited behind t/web@1" in one.what
    assert kinds(gone, *others(3, 5)) == ["artifact_missing"]


def test_what_is_tried_again_is_told_by_its_worker() -> None:
    """Why, and how often; else by what others had done meanwhile."""
    head = waiting("a", 1)
    held = Held(head.origin, "t", "a", "nothing at the ref", 9, "since then", "next", outage=False)
    (one,) = found(head, waiting("b", 2), held=(held,))
    assert (one.kind, one.level) == ("held_behind", Level.ERROR)
    assert "1 event of its tenant behind it: tried 9 times since since then: nothing at" in one.what
    (other,) = found(head, *others(3))
    assert "others were published meanwhile" in other.what


def test_what_was_done_before_a_worker_stood_still_is_no_witness() -> None:
    """An event that came later and was done at once says nothing of one that waited for seconds."""
    lives = published("a", 10, 20), published("b", 10.1, 10.2, tenant="u")
    assert "artifact_late" not in kinds(*lives)
    assert "artifact_late" in kinds(*lives, published("c", 14, tenant="w"))


def test_a_halt_that_was_lifted_without_a_record_hides_nothing_that_came_after_it() -> None:
    """Its key was deleted: what was late since then was not halted."""
    lifted = published("x", 22, tenant="w")
    late = [*others(41), published("late", 40, 50)]
    assert kinds(lifted, *late, halts=[halt("ann", None)]) == ["halted", "artifact_late"]


def test_what_waits_without_a_worker_is_told() -> None:
    """Where nothing came of anything since; a halted stream has its own finding."""
    lives = published("a", 1), waiting("b", 2, tenant="u"), waiting("c", 3)
    (one,) = found(*lives)
    assert (one.kind, one.level) == ("not_served", Level.ERROR)
    assert kinds(*lives, halts=[halt("ann", None)]) == ["halted"]


def test_a_time_without_a_worker_ends_with_a_tenure() -> None:
    """Without one it is said that nobody knows what held it up; one tenant alone is no witness."""
    lives = [published("a", 1), published("b", 2, 30, tenant="u"), published("c", 3, 30.1)]
    (one,) = found(*lives, records=[tenure(29.5, "new:1")])
    assert (one.kind, one.by) == ("not_served", "new:1")
    assert "no worker served it until new:1 began" in one.what
    (other,) = found(*lives)
    assert "which of them is not on record" in other.what
    assert not kinds(published("a", 1), published("c", 3, 30.1, version=2))


def outage(since_s: float, until_s: float, of: str = "store", detail: str = "away") -> Entry:
    """Return the record of an outage."""
    since, until = (rfc3339(us(one)) for one in (since_s, until_s))
    return record(until_s + 1, what="outage", stream=STREAM, by="a:1", of=of, since=since,
                  until=until, detail=detail)  # fmt: skip


@pytest.mark.parametrize(
    ("of", "detail", "kind"),
    [("store", "x", "store_away"), ("redis", "Redis: x", "redis_away"),
     ("redis", "Redis is full: OOM", "redis_full")],
)  # fmt: skip
def test_an_outage_that_workers_put_on_record_is_told(of: str, detail: str, kind: str) -> None:
    """With who waited; what it explains is no late artifact, and no time without a worker."""
    lives = [published("a", 1), published("b", 2, 30, tenant="u"), published("c", 3, 30.1)]
    (one,) = found(*lives, records=[outage(2, 29.5, of, detail)])
    assert (one.kind, one.level) == (kind, Level.WARNING)
    assert f"(27s), for control:events: {detail}. 2 events of 2 tenants (u, t) waited" in one.what
    assert {"b", "c"} <= one.about
    late = [*others(40), published("late", 39, 50)]
    assert kinds(*late) == ["artifact_late"]
    assert kinds(*late, records=[outage(39, 49.5, of, detail)]) == [kind]


def test_a_store_that_is_away_now_is_told() -> None:
    """Where workers tell that they hold events back for it: none of these dies of it."""
    head = waiting("a", 1)
    held = Held(head.origin, "t", "a", "no such host", 9, rfc3339(us(1)), "next", outage=True)
    (one,) = found(head, held=(held,))
    assert (one.kind, one.level) == ("store_away", Level.ERROR)
    assert "no such host" in one.what


def test_a_worker_that_begins_again_had_been_cut_off() -> None:
    """That is another sentence than that no worker served."""
    lives = [published("a", 1), published("b", 2, 30, tenant="u"), published("c", 3, 30.1)]
    (one,) = found(*lives, records=[tenure(0, "a:1"), tenure(29.5, "a:1")])
    assert (one.kind, "a:1 had to begin again" in one.what) == ("not_served", True)


def test_events_that_were_tried_again_are_no_sign_of_a_missing_worker() -> None:
    """Of several tenants at the same time, with what waited behind them."""
    lives = [published("a", 1, tenant="w")]
    for tenant in "uv":
        lives.append(dead(f"b{tenant}", 2, "artifact_missing", 30, tenant=tenant))
        lives.append(published(f"c{tenant}", 3, 30.1, tenant=tenant))
    assert set(kinds(*lives)) == {"artifact_missing", "held_behind"}


# --- records -------------------------------------------------------------------------------------


def test_what_redis_forgot_is_one_finding() -> None:
    """A group alone that was gone is another kind."""
    forgot = {"what": "forgot", "stream": STREAM, "known": "5-0", "found": "1-0"}
    parts = [record(1, lost="group", **forgot), record(1.5, lost="control stream", **forgot)]
    (one,) = found(records=parts)
    assert (one.kind, one.level) == ("redis_lost", Level.ERROR)
    later = [record(30, lost="group", **forgot), record(31, lost="group", **forgot)]
    assert kinds(records=[*parts, *later]) == ["redis_lost", "group_touched"]
    assert kinds(records=parts[:1]) == ["group_touched"]


def test_a_stream_that_changes_hands_again_and_again_is_told() -> None:
    """Five times in ten minutes; a rollout is less, and a worker that begins anew is no other."""
    assert not kinds(records=[tenure(n * 60, "w:1") for n in range(9)])
    assert kinds(records=[tenure(n * 60, f"w:{n}") for n in range(5)]) == ["flapping"]
    assert not kinds(records=[tenure(n * 60) for n in range(4)])
    assert not kinds(records=[tenure(n * 300) for n in range(6)])


def test_poison_is_the_cause_of_the_deaths_of_its_workers() -> None:
    """Where it died in that time, and on that stream."""
    changed = [tenure(n * 60, f"w:{n}") for n in range(5)]
    first, second = found(dead("a", 1, "poison", 250), records=changed)
    assert (first.kind, second.kind, second.causes) == ("poison", "flapping", (first.key,))
    late = found(dead("a", 1, "poison", 1), records=[*map(later, changed)])
    assert [one.causes for one in late] == [(), ()]


def later(record_: Entry) -> Entry:
    """Return a record as if it had come two seconds later."""
    return record_._replace(id=EntryId.of_version(record_.id.control_version + 2_000_000))


def test_a_limit_that_changed_is_the_cause_of_what_died_of_it() -> None:
    """Not where it was as narrow before, nor of what died before, nor where nothing died."""
    died = dead("a", 20, "artifact_too_large")
    change = [tenure(1, max_artifact_size=100), tenure(10, "b:2", max_artifact_size=10)]
    (one,) = found(died, records=change)
    (cause,) = one.reasons
    assert (one.kind, one.causes, cause.kind) == (
        "artifact_too_large", (cause.key,), "limit_changed"
    )  # fmt: skip
    assert one.what.startswith("t/web@1 (event a) died")
    assert ", because the worker b:2 began to serve control:events" in one.what
    assert "--max-artifact-size 10 where 100 had been before (by whom: not on record)" in one.what
    assert one.fix == (
        "start the workers with --max-artifact-size 100 again, if it was not meant; then redrive"
        " what died: sidecar dead redrive --all --only artifact_too_large --reason WHY"
    )
    assert kinds(died, records=change[1:]) == ["artifact_too_large"]
    wider = [tenure(1, max_artifact_size=10), tenure(10, max_artifact_size=100)]
    assert kinds(died, records=wider) == ["artifact_too_large"]
    assert kinds(dead("a", 5, "artifact_too_large"), records=change) == ["artifact_too_large"]
    assert not kinds(records=change)


def test_a_stream_made_anew_is_a_note() -> None:
    """With who and why."""
    (one,) = found(records=[record(1, what="remade", stream=STREAM, by="ann", reason="IDs")])
    assert (one.kind, one.level, one.by) == ("remade", Level.NOTE, "ann")


# --- producers, losses ---------------------------------------------------------------------------


def test_a_clock_that_is_ahead_is_told_once_a_tenant() -> None:
    """Not one that is a second ahead."""
    ahead = [published(f"a{n}", n, version=n, created_at=rfc3339(us(n + 3600))) for n in (1, 2)]
    (one,) = found(*ahead)
    assert one.kind == "producer_clock"
    assert "2 events of it" in one.what
    assert not kinds(published("a", 1, created_at=rfc3339(us(2.5))))


def test_a_producer_that_sends_all_again_is_told() -> None:
    """Where most came again, not where a few of many did."""
    again = [life(End.DUPLICATE, f"a{n}", 50 + n, n + 0.01) for n in range(1, 7)]
    first = [published(f"a{n}", n, version=n) for n in range(1, 41)]
    assert kinds(*first[:10], *again) == ["producer_doubled"]
    assert not kinds(*first, *again)


def test_a_flood_for_which_others_waited_is_told() -> None:
    """Without anybody who waited it is business."""
    flood = [published(f"f{n}", 100 + n / 100, stack="", tenant="big") for n in range(400)]
    slow = [published("s", 101, 105, tenant="u", stack="")]
    assert "flooding" in kinds(*flood, *slow)
    assert not kinds(*flood, published("s", 101, tenant="u", stack=""))


def test_a_notification_of_no_worker_is_told() -> None:
    """It names no control entry, as every one of a worker does."""
    by_hand = replace(published("x", 2, version=3), origin=Origin(""))
    (one,) = found(published("a", 1, version=2), by_hand, what="x")
    assert (one.kind, one.level) == ("foreign", Level.ERROR)
    assert one.what.startswith("somebody else than a worker wrote 1 notification, the first at")


CUT_AT: Final = EntryId(f"{BASE_MS + 200_000}-0")


def cut(*records: Entry, gap: str = "", policy: str = "age=7d") -> list[str]:
    """Return what is found where a published entry lies before a control stream's first one."""
    gaps = (Gap(FIRST.after, CUT_AT.before, gap),) if gap else ()
    seen = (published("a", 100), published("b", 300))
    return kinds(*seen, records=[tenure(1, trim_control=policy), *records],
                 reach=Reach(CUT_AT, LAST, gaps))  # fmt: skip


def test_a_control_stream_that_was_deleted_and_made_anew_is_told() -> None:
    """What was published came from entries that it never had; unless workers saw the loss, or it
    was made anew in good order.
    """
    by_command = record(200, what="remade", stream=STREAM, by="ann", reason="IDs")
    assert cut(by_command) == cut(by_command, gap="trimmed") == ["remade"]
    assert cut() == ["cut_by_hand"]
    assert cut(gap="not exported") == []
    loss = record(200, what="forgot", lost="control stream", stream=STREAM, known=str(CUT_AT),
                  found="0-0", whole_until="")  # fmt: skip
    assert cut(loss) == ["redis_lost"]


@pytest.mark.parametrize("policy", ["age=60s", "age=7d,length=5", "age=7d,full=60s", "what=1"])
def test_a_control_stream_that_a_worker_may_have_trimmed_is_no_finding(policy: str) -> None:
    """Only where all workers keep entries as young as what is gone, somebody else trimmed it."""
    assert cut(gap="trimmed", policy=policy) == []


@pytest.mark.parametrize("policy", ["age=7d", "never"])
def test_a_control_stream_that_somebody_trimmed_is_told(policy: str) -> None:
    """Its workers would have kept what is gone."""
    assert cut(gap="trimmed", policy=policy) == ["cut_by_hand"]


def test_what_came_to_nothing_is_told_where_all_can_be_read() -> None:
    """Where something has expired that may be its end: nobody knows."""
    lost = life(End.UNKNOWN, "a", 1)
    assert kinds(lost) == ["lost"]


def test_a_producer_that_falls_silent_is_told() -> None:
    """Where it had sent evenly, and several others still send; else nobody can say."""
    even = [published(f"a{n}", n, version=n + 1) for n in range(30)]
    rest = [published(f"{t}{n}", n * 20, tenant=t) for t in "wxy" for n in range(1, 30)]
    (one,) = found(*even, *rest)
    assert (one.kind, one.about) == ("producer_silent", frozenset({"t"}))
    assert "30 events before came evenly" in one.what
    assert not kinds(*even, *[life for life in rest if life.tenant_id != "w"])
    assert not kinds(*even[:20], *even[29:], *rest)
    assert not kinds(*even[:15], *rest)
    burst = [published(f"b{n}", 10 + n / 100, version=n + 1) for n in range(60)]
    assert not kinds(*burst, *rest)
    assert not kinds(*even, *rest, published("again", 590, version=99))
    assert kinds(*even, *rest, now_us=us(9000)) == ["producer_silent"]
    assert not kinds(*even, *(one for one in rest if one.begun_us < us(45)), now_us=us(9000))


def test_a_flood_for_which_nobody_waited_is_a_note() -> None:
    """From thousands of events on."""
    flood = [published(f"f{n}", 10 + n / 1000, tenant="u") for n in range(2500)]
    (one,) = found(*flood)
    assert (one.kind, one.level) == ("flooding", Level.NOTE)
    assert not kinds(*flood[:1500])


def test_another_fleet_store_is_told() -> None:
    """Where the next worker names another than the one before it."""
    records = [tenure(1, fleet_store=None), tenure(10, "b:2", fleet_store="file:///b")]
    (one,) = found(records=records)
    assert (one.kind, one.by) == ("other_store", "b:2")
    assert "file:///b where that of its data directory had been before" in one.what
    assert not kinds(records=[records[1], tenure(20, fleet_store="file:///b")])
    assert not kinds(records=[tenure(1), records[1]])


# --- readers -------------------------------------------------------------------------------------


def reader(passed_s: float, *, seen_s: float = NOW_S, expired: bool = False) -> Reader:
    """Return a reader that has passed what there was then."""
    return Reader("edge-7", us(passed_s), us(seen_s), 60, expired)


def test_a_reader_that_does_not_move_is_told() -> None:
    """Where a notification has waited for it for long; a new one is no sign."""
    lives = published("a", 1), published("b", 500, version=2)
    (one,) = found(*lives, readers=(reader(2),))
    assert (one.kind, one.level) == ("reader_stuck", Level.ERROR)
    before = f"before the notification of t/web@2, control_version {us(500.01)}"
    assert one.brief == f"the reader edge-7 is stuck since {rfc3339(us(2))}, {before}"
    assert "it has read nothing for 1m39s" in one.what
    hit = explain_facts(facts(*lives, readers=(reader(2),))).summary.lines[-1]
    assert hit == "Hit: the reader edge-7."
    assert "though 1 notification came" in one.what
    assert not kinds(*lives, readers=(reader(501),))
    assert not kinds(published("a", NOW_S - 5), readers=(reader(2),))
    assert not kinds(*lives, readers=(reader(2),), window=Window(0, us(300)), now_us=us(300))


def test_a_reader_that_is_stuck_before_what_no_worker_wrote_is_told_so() -> None:
    """With the finding about that, and the command that takes it away."""
    by_hand = replace(published("x", 500), origin=Origin(""))
    lives = published("a", 1), by_hand, published("b", 501, version=2)
    foreign, stuck = found(*lives, readers=(reader(2),))
    assert (foreign.kind, stuck.kind, stuck.causes) == ("foreign", "reader_stuck", ("foreign",))
    assert "which no worker wrote" in stuck.brief
    assert f"(redis-cli XDEL n {by_hand.end_id})" in stuck.fix
    assert f"delete what should not stand: redis-cli XDEL n {by_hand.end_id}" in foreign.fix


def test_a_reader_that_has_expired_is_told() -> None:
    """Also where it has passed all: from now on nothing is kept for it."""
    (one,) = found(published("a", 1), readers=(reader(2, seen_s=3, expired=True),))
    assert (one.kind, one.level) == ("reader_expired", Level.WARNING)


def test_a_reader_in_a_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not passed what was trimmed; one that begins with the oldest has no gap."""
    gap = Gap(FIRST.after, EntryId.of_version(us(50)), "trimmed")
    reach = Reach(EntryId.of_version(us(51)), LAST, (gap,))
    monkeypatch.setattr(Recorded, "reach", lambda _, name: reach if name == "n" else None)
    lone = facts(published("a", 590), readers=(reader(2),))
    assert [one.kind for one in explain_facts(lone).findings] == ["reader_gap"]
    begins = facts(published("a", 590), readers=(Reader("new", 0, us(599), 60, False),))
    assert not explain_facts(begins).findings


# --- what led to what ---------------------------------------------------------------------------


def test_what_cannot_be_resolved_as_workers_had_another_store_is_told_so() -> None:
    """Published while they had it, or before they have it; of what is in both nothing is said."""
    records = [tenure(1, fleet_store="file:///a"), tenure(10, "b:2", fleet_store="file:///b"),
               tenure(20, "c:3", fleet_store="file:///a")]  # fmt: skip
    meanwhile = [published("a", 5), published("b", 15, version=2)]
    there = list(moves(facts(records=records)))
    assert [moved_since(there, one) for one in meanwhile] == ["", f"store:{STREAM}:{us(10)}"]
    lasts = list(moves(facts(records=records[:2])))
    assert [moved_since(lasts, one) for one in meanwhile] == [f"store:{STREAM}:{us(10)}", ""]
    (one,) = found(records=records)
    assert f"where file:///a had been before, until {rfc3339(us(20))} (by whom" in one.what


def test_workers_that_die_again_and_again_are_why_nothing_is_served() -> None:
    """Told in what came of it, once: what waits. Not where it was at another time."""
    changed = [tenure(n * 10, f"w:{n}") for n in range(5)]
    lives = [published("a", 1), published("b", 2, 30, tenant="u"), published("c", 3, 30.1)]
    flaps, stands = found(*lives, records=changed)
    assert (flaps.kind, stands.kind, stands.causes) == ("flapping", "not_served", (flaps.key,))
    long_after = [published("a", 401), published("b", 402, 430, tenant="u"),
                  published("c", 403, 430.1)]  # fmt: skip
    assert [one.causes for one in found(*long_after, records=changed)] == [(), ()]
    (now,) = found(published("a", 1), waiting("b", 50), records=changed, now_us=us(80))
    assert (now.kind, now.level) == ("not_served", Level.ERROR)
    assert ", because control:events passed from worker to worker 4 times" in now.what


def test_a_stream_that_somebody_deleted_took_its_group_along() -> None:
    """The group that a worker made again is told in that; one of before has another cause."""
    forgot = {"what": "forgot", "lost": "group", "stream": STREAM, "known": "5-0", "found": "1-0"}
    seen = published("a", 100), published("b", 300)
    told = found(*seen, records=[tenure(1, trim_control="age=7d"), record(250, **forgot)],
                 reach=Reach(CUT_AT, LAST))  # fmt: skip
    cut_, group = told
    assert (cut_.kind, group.kind, group.causes) == ("cut_by_hand", "group_touched", (cut_.key,))
    early = found(*seen, records=[tenure(1, trim_control="age=7d"), record(50, **forgot)],
                  reach=Reach(CUT_AT, LAST))  # fmt: skip
    assert [one.causes for one in early] == [(), ()]


def test_a_version_that_nobody_sent_has_a_silent_producer_for_its_cause() -> None:
    """Where its tenant fell silent."""
    even = [published(f"a{n}", n, version=n + 1) for n in range(30)]
    rest = [published(f"{t}{n}", n * 20, tenant=t) for t in "wxy" for n in range(1, 30)]
    (one,) = found(*even, *rest, what="t/web@99")
    assert [part.kind for part in one.parts] == ["never_sent", "producer_silent"]
    assert ", because t has sent nothing for" in one.what


def test_a_worker_that_was_stopped_in_good_order_is_no_sign_of_trouble() -> None:
    """However often that is done: each has put on record that it gave the stream back."""
    ended = [record(n * 60 + 50, what="ended", stream=STREAM, by=f"w:{n}") for n in range(5)]
    begun = [tenure(n * 60, f"w:{n}") for n in range(5)]
    assert not kinds(records=[*begun, *ended])
    assert not kinds(records=[*begun, *ended[:1]])  # four that did not are no row of five
    elsewhere = [one._replace(fields={**one.fields, b"by": b"x"}) for one in ended]
    assert kinds(records=[*begun, *elsewhere]) == ["flapping"]


def test_a_cause_of_several_things_stays_beside_them_and_has_the_fix() -> None:
    """Two tenants' events died of one limit: it is told once, and one fix is advised."""
    died = [dead(f"a{t}", 20, "artifact_too_large", tenant=t) for t in "tu"]
    change = [tenure(1, max_artifact_size=100), tenure(10, "b:2", max_artifact_size=10)]
    cause, *effects = found(*died, records=change)
    assert (cause.kind, cause.advice != "") == ("limit_changed", True)
    assert "2 events died of artifact_too_large since; 2 of them did not arrive" in cause.what
    assert [(one.causes, one.fix) for one in effects] == [((cause.key,), "")] * 2


def test_an_error_is_never_told_inside_another_finding() -> None:
    """It is wrong by itself: what died in a row stands beside the halt that came of it."""
    row = [dead(f"b{n}", 9 + n / 100, "malformed") for n in range(3)]
    assert kinds(*row, halts=[halt("sidecar", None)]) == ["malformed", "halted"]
    over = [*row, published("new", 30, version=2)]
    assert kinds(*over, halts=[halt("sidecar")]) == ["halted"]


@pytest.mark.parametrize("tenants", [6, 3000])
def test_the_deaths_of_very_many_tenants_from_one_cause_are_one_sentence(tenants: int) -> None:
    """With how many there are; asked about one of them, its own is told."""
    died = [dead(f"a{n}", 1 + n / 1000, "forbidden_ref", tenant=f"t{n}") for n in range(tenants)]
    told = explain_facts(facts(*died))
    (one,) = told.findings
    assert one.what.startswith(
        f"{tenants:,} events of {tenants:,} tenants (t0, t1, t2, …) died from"
    )
    hit = f"Hit: dead or lost: {tenants:,} events of {tenants:,} tenants (1 of t0, 1 of t1, 1 of"
    assert told.summary.lines[-1].startswith(hit)
    assert [each.what[:21] for each in found(*died, what="t4")] == ["t4/web@1 (event a4) d"]
    assert len(found(*died[:5])) == 5


# --- the summary ---------------------------------------------------------------------------------


def test_the_summary_says_what_is_wrong_now_what_is_over_and_whom_it_hit() -> None:
    """Each with its cause, when and by whom, and the number under which it is told."""
    change = [tenure(1, max_artifact_size=100), tenure(10, "b:2", max_artifact_size=10)]
    died = dead("a", 20, "artifact_too_large", version=7)
    late = published("b", 11, 20.5, tenant="u", stack="db")
    told = explain_facts(facts(died, late, records=change, halts=[halt("ann@vm", 19.0)]))
    wrong, over, hit = told.summary.lines
    assert wrong == (
        f"Wrong now ({rfc3339(us(NOW_S))}): t/web@7 died: its artifact is over the limit"
        f" (at {rfc3339(us(20.01))}),"
        f" because --max-artifact-size went from 100 to 10 on {STREAM} (at {rfc3339(us(10))},"
        " by whom: not on record) [see 1]."
    )
    assert over == (
        f'Over: {STREAM} was halted for 9.0s, reason given: "why" (from {rfc3339(us(10))} to'
        f" {rfc3339(us(19))}, by ann@vm) [see 2]."
    )
    assert hit == (
        "Hit: dead or lost: 1 event of t; delayed: 1 event of u. Still: dead or lost: 1 event of t."
    )


def test_what_died_and_is_over_is_hit_and_not_still() -> None:
    """Also where it is told inside the halt that it led to; with how many were redriven."""
    row = [dead(f"b{n}", 9 + n / 100, "malformed", version=n + 1, stack=f"s{n}") for n in range(3)]
    again = [published(f"b{n}", 12 + n, version=n + 1, stack=f"s{n}") for n in range(3)]
    told = explain_facts(facts(
        *row, *again, dead("x", 40, "poison", tenant="u"), halts=[halt("sidecar", 11)],
        redrives=[redriven(one, 12) for one in again[:2]],
    ))  # fmt: skip
    halted = next(one for one in told.findings if one.kind == "halted")
    assert "3 arrived since (2 redriven)" in halted.what
    assert told.summary.lines[-1] == (
        "Hit: dead or lost: 4 events (3 of t, 1 of u). Still: dead or lost: 1 event of u."
    )


def test_a_summary_says_when_what_came_may_be_lost() -> None:
    """What Redis lost nobody can count; a loss stands first, and is counted."""
    gone = record(30, what="forgot", lost="control stream", stream=STREAM,
                  known=f"{BASE_MS + 20_000}-0", found=f"{BASE_MS + 10_000}-0")  # fmt: skip
    told = explain_facts(facts(records=[gone])).summary
    assert told.lines[0].split("): ")[1].startswith(f"Redis lost entries of {STREAM} (at ")
    (hit,) = (line for line in told.lines if line.startswith("Hit: "))
    assert hit.startswith("Hit: unknown: what came from ")
    assert hit.endswith(f" to {rfc3339(us(30))}.")
    first, _ = found(dead("b", 2, "malformed"), life(End.UNKNOWN, "a", 1))
    assert first.brief == (
        "1 event of t is lost: a worker finished it, and it was neither published nor dead"
    )
    assert first.fix == "have it published: sidecar audit --repair --reason WHY"


def test_a_summary_says_what_is_not_on_record() -> None:
    """Which kind of thing, up to when: what is wrong of that, it does not know."""
    gap = Gap(FIRST.after, EntryId.of(BASE_MS), "trimmed")
    told = explain_facts(facts(dead("a", 1, "poison"), reach=Reach(FIRST.after, LAST, (gap,))))
    moment = rfc3339(us(0))
    assert told.summary.lines[-1] == (
        f"Not on record: entries of {STREAM} up to {moment}; notifications up to {moment};"
        f" dead letters up to {moment}."
    )
    none = explain_facts(facts(halts=[halt("ann")], reach=Reach(FIRST.after, LAST, (gap,))))
    assert none.summary.lines[0].startswith("Nothing on record is wrong now")


@pytest.mark.parametrize(
    ("reason", "detail", "brief"),
    [
        ("invalid_event", "stack_id: it needs it", "a rule of the contract: stack_id: it needs it"),
        ("artifact_too_large", "/x/r@ has 13 bytes, and at most 10 are taken (--max)",
         "its artifact is over the limit: 13 bytes, and at most 10 are taken"),
        ("forbidden_ref", "how", "not allowed to use that artifact: rows/u/1"),
        ("seal_broken", "how", "t/web@7 died: seal_broken (unknown to this release)"),
        ("id_conflict", "how", "had been published before, with other content, by u"),
    ],
)  # fmt: skip
def test_the_summary_has_the_cause_of_a_death(reason: str, detail: str, brief: str) -> None:
    """In few words, with what the reason alone does not tell."""
    first = published("a", 1, tenant="u")
    died = dead("a", 5, reason, version=7, detail=detail, artifact_ref="rows/u/1")
    (one,) = found(*([first] if reason == "id_conflict" else []), died)
    assert one.brief.replace("content: by", "content, by").endswith(brief)


def test_the_fix_of_a_death_is_a_command() -> None:
    """With the IDs of its dead letters, or where these are many by reason and tenant."""
    one, *many = (dead(f"a{n}", n + 1, "forbidden_ref", artifact_ref="rows/u/1") for n in range(6))
    assert found(one)[0].fix == (
        "Find out why the producer names rows/u/1, which is another's. If its tenant may, add a"
        " --tenant-scope pattern to the workers and redrive. Redrive it:"
        f" sidecar dead redrive {one.end_id} --reason WHY"
    )
    redrive = "sidecar dead redrive --all --only forbidden_ref --tenant t --reason WHY"
    assert found(*many)[0].fix.endswith(f" Redrive them: {redrive}")
    sealed = dead("a", 20, "seal_broken")
    assert found(sealed, records=[tenure(1, "b:2")])[0].fix.endswith(
        f"b:2, release 1, served {STREAM} then."
    )


def test_a_bad_release_that_somebody_says_was_taken_back_is_not_to_be_fixed_first() -> None:
    """What a person gave as the reason of the resume is quoted in the fix of what died."""
    row = [dead(f"b{n}", 9 + n / 100, "malformed", tenant="", stack="") for n in range(3)]
    ended = replace(halt("sidecar"), resumed_by="ann@vm", resumed_why="taken back")
    first, *_ = found(*row, halts=[ended])
    assert first.fix.startswith(f'ann@vm resumed {STREAM}, reason given: "taken back": if the')
    late = dead("late", 30, "malformed", tenant="", stack="")
    assert found(*row, late, halts=[ended])[0].fix.startswith("Fix the producer")


def test_a_summary_of_what_is_over_says_so_first() -> None:
    """And of nothing there is none."""
    over = explain_facts(facts(halts=[halt("ann")])).summary
    assert over.lines[0] == f"Nothing is wrong now ({rfc3339(us(NOW_S))})."
    assert explain_facts(facts()).summary.lines == []


def test_a_summary_tells_apart_what_is_wrong_and_what_does_no_harm() -> None:
    """A clock that is ahead, or what came again, is to be looked at; a cause of an error is not."""
    ahead = published("a", 1, created_at=rfc3339(us(3601)))
    (line,) = explain_facts(facts(ahead)).summary.lines
    assert ". To look at: a producer of t has a clock that is" in line
    died = [dead(f"b{t}", 20, "artifact_too_large", tenant=t) for t in "uv"]
    change = [tenure(1, max_artifact_size=100), tenure(10, "b:2", max_artifact_size=10)]
    wrong, _ = explain_facts(facts(*died, records=change)).summary.lines
    assert "): --max-artifact-size went from 100 to 10" in wrong
    assert "u/web@1 died: its artifact is over the limit" in wrong


def test_a_summary_of_very_much_stays_short() -> None:
    """It names the gravest, and says how many more there are."""
    reasons = ("poison", "artifact_missing", "id_conflict", "unknown_type", "malformed", "x",
               "entry_lost")  # fmt: skip
    died = [dead(f"a{n}", 1, reason) for n, reason in enumerate(reasons)]
    wrong, _ = explain_facts(facts(*died)).summary.lines
    assert (wrong.count("[see"), wrong.endswith("; and 3 more.")) == (4, True)


def test_what_a_person_wrote_stands_in_quotation_marks() -> None:
    """Also where it has some of its own: nobody takes it for what the sidecar says."""
    by_ann = replace(halt("ann"), reason='all is well"; resumed by root', tenant="t")
    (one,) = found(halts=[by_ann])
    assert 'reason given: "all is well\'; resumed by root"' in one.what


def test_what_somebody_did_is_said_to_be_so_where_nobody_knows_who() -> None:
    """Whoever it was: that is not on record."""
    told = explain_facts(facts(dead("a", 1, "entry_lost")))
    (one,), (wrong,) = told.findings, told.summary.wrong
    assert "(by whom: not on record)" in one.what
    assert "by whom: not on record" in wrong


# --- all together --------------------------------------------------------------------------------


def test_what_is_asked_for_comes_before_what_led_to_it() -> None:
    """And what has nothing to do with it does not come."""
    row = [dead(f"b{n}", 9 + n / 100, "malformed", tenant="u") for n in range(3)]
    mine = dead("a", 11, "artifact_missing", 21)
    theirs = dead("x", 40, "poison", tenant="w")
    told = kinds(mine, *row, theirs, what="t/web@1", halts=[halt("sidecar")])
    assert (told[0], set(told)) == ("artifact_missing", {"artifact_missing", "halted", "malformed"})


@pytest.mark.parametrize("seed", range(100))
def test_no_finding_is_told_before_one_that_it_names_as_its_cause(seed: int) -> None:
    """Whatever their kinds and levels; all are told, and what stands first is the gravest or led
    to that.
    """
    dice = random.Random(seed)
    keys = [str(n) for n in range(12)]
    made = [
        Finding(dice.choice(KINDS).name, dice.choice(list(Level)), "", dice.randrange(9), key,
                causes=tuple(dice.sample([*keys[:n], "of another window"], min(n, 2))))
        for n, key in enumerate(keys)
    ]  # fmt: skip
    told = causal(dice.sample(made, len(made)), lambda one: (list(Level).index(one.level), one.key))
    numbers = {one.key: n for n, one in enumerate(told)}
    assert sorted(numbers, key=int) == keys
    assert all(numbers.get(cause, -1) < n for n, one in enumerate(told) for cause in one.causes)
    gravest = min(made, key=lambda one: (list(Level).index(one.level), one.key))
    assert told[0].key in led_to(made, gravest.key)


def led_to(made: list[Finding], key: str) -> set[str]:
    """Return the keys of a finding, of its causes, and of theirs."""
    causes = next((one.causes for one in made if one.key == key), ())
    return {key}.union(*(led_to(made, cause) for cause in causes))


def test_findings_that_name_each_other_are_told_once() -> None:
    """No two rules do that; it must not hang all the same."""
    a, b = (
        Finding("lost", Level.ERROR, "", 0, key, causes=(other,)) for key, other in ("ab", "ba")
    )
    assert {one.key for one in causal([a, b], lambda one: one.key)} == {"a", "b"}


def test_causes_are_numbers_of_findings() -> None:
    """For machines: those that are among what was found."""
    row = [dead(f"b{n}", 9 + n / 100, "malformed") for n in range(3)]
    told = explain_facts(facts(*row, halts=[halt("sidecar")]))
    objects = [one.to_json(told.numbers) for one in told.findings]
    assert [(one["number"], one["kind"], one["causes"]) for one in objects] == [
        (1, "malformed", []), (2, "halted", [1]),
    ]  # fmt: skip


def test_a_ticket_shows_what_hostile_events_say_as_text() -> None:
    """Neither Markdown nor HTML nor a terminal's escapes act in it."""
    hostile = "</td><script>`*x*`\x1b[2J[a](b)@all"
    told = explain_facts(facts(dead(hostile, 1, "poison", detail=hostile)))
    shown = markdown(told)
    assert "\x1b" not in shown
    text = [line for line in shown.splitlines() if "- see `" not in line]  # that is code
    assert any("\\<script\\>\\`\\*x\\*\\`" in line for line in text)
    assert not any("<script>" in line for line in text)
    assert "- see `` sidecar trace" in shown
    assert markdown(explain_facts(facts())) == "- Not known: no store to look for artifacts in"


def test_every_kind_is_on_the_page() -> None:
    """docs/explain.md is what `make pages` writes."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert PAGE.read_text() == page()
