"""Rules about dead letters: what died of what, and whether it arrived all the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final, NamedTuple

from sidecar.replay.explain.facts import LACKING, Death, Facts, subject_of_life
from sidecar.replay.explain.findings import (
    Finding,
    Kind,
    Level,
    at,
    called,
    command,
    counted,
    names_of,
    said,
)
from sidecar.replay.timeline import End, Life
from sidecar.wire.event import Reason
from sidecar.wire.reasons import explain
from sidecar.wire.subject import overtakes

_OF: Final = "Events ended as dead letters"
MALFORMED: Final = Kind(
    "malformed",
    f"{_OF}: `malformed`, `invalid_event`, `bad_ref` or `too_large`. Where all of one producer died"
    " from a moment on, and none before, it says so: that is how a bad release looks.",
    "which producer sent what names no tenant, but for how its event_ids begin",
)
UNKNOWN_TYPE: Final = Kind("unknown_type", f"{_OF}: the workers do not allow their type.")
FORBIDDEN: Final = Kind("forbidden", f"{_OF}: `forbidden_ref` or `forbidden_id`.")
REUSED: Final = Kind(
    "event_id_reused", f"{_OF}: their event_id had been published, with other content."
)
MISSING: Final = Kind(
    "artifact_missing",
    f"{_OF}: their artifact did not come within the retry budget, and the fleet's store did not"
    " have it either.",
)
REWRITTEN: Final = Kind(
    "artifact_rewritten",
    f"{_OF}: what lay at their artifact_ref was not what they pin, and the fleet's store did not"
    " have that either.",
    "whether the bytes were rewritten, or the checksum was wrong from the beginning",
)  # fmt: skip
TOO_LARGE: Final = Kind("artifact_too_large", f"{_OF}: their artifact was over the limit.")
POISON: Final = Kind("poison", f"{_OF}: workers had died over them.")
TRIMMED: Final = Kind(
    "trimmed_before_read", f"{_OF}: somebody deleted or trimmed their entries first.",
    "who trimmed: Redis keeps no record of it",
)  # fmt: skip
ERASED: Final = Kind(
    "artifact_erased",
    "An artifact went with all of its tenant: the newest notification of a subject pins it, or an"
    " event ended as a dead letter for its lack.",
)
OTHER: Final = Kind(
    "died", f"{_OF} for a reason that this release does not know, or that is not on record."
)
_KINDS: Final = {
    Reason.MALFORMED: MALFORMED, Reason.INVALID_EVENT: MALFORMED, Reason.BAD_REF: MALFORMED,
    Reason.TOO_LARGE: MALFORMED, Reason.UNKNOWN_TYPE: UNKNOWN_TYPE,
    Reason.FORBIDDEN_ID: FORBIDDEN, Reason.FORBIDDEN_REF: FORBIDDEN, Reason.ID_CONFLICT: REUSED,
    Reason.ARTIFACT_MISSING: MISSING, Reason.CHECKSUM_MISMATCH: REWRITTEN,
    Reason.ARTIFACT_TOO_LARGE: TOO_LARGE, Reason.POISON: POISON, Reason.ENTRY_LOST: TRIMMED,
}  # fmt: skip
KINDS: Final = (
    MALFORMED, UNKNOWN_TYPE, FORBIDDEN, REUSED, MISSING, REWRITTEN, TOO_LARGE, POISON, TRIMMED,
    OTHER, ERASED,
)  # fmt: skip
A_RELEASE: Final = 3
"""So many in a row, and none before, look like a release."""
SHORTEST_PREFIX: Final = 4


class Fate(NamedTuple):
    """What became of a dead letter's change since."""

    arrived: Life | None = None
    """The notification that brought it all the same."""
    overtaken: Life | None = None
    """The notification that made it old news."""
    waits: bool = False
    """Whether it waits again."""
    erased: str = ""
    """With which tenant it was erased, when, by whom, and why."""

    @property
    def is_open(self) -> bool:
        """Whether the fleet lacks it."""
        return not (self.arrived or self.overtaken or self.erased)


def kind_of(facts: Facts, life: Life, reason: str) -> Kind:
    """Return the kind of finding that a death of that reason makes."""
    if reason in LACKING and life.origin in facts.erased:
        return ERASED
    return _KINDS.get(Reason(reason), OTHER) if reason in list(Reason) else OTHER


def died(facts: Facts) -> Iterator[Finding]:
    """Yield what died, of each tenant and kind together."""
    groups: defaultdict[tuple[Kind, str], list[Death]] = defaultdict(list)
    for death in facts.deaths:
        kind = kind_of(facts, death.life, death.reason)
        groups[kind, death.life.tenant_id].append(death)
    for (kind, _), deaths in groups.items():
        yield _finding(facts, kind, deaths)


def key_of(facts: Facts, life: Life, reason: str) -> str:
    """Return the key of the finding about what died like this."""
    return _key(kind_of(facts, life, reason), life.tenant_id)


def _key(kind: Kind, tenant: str) -> str:
    return f"died:{kind.name}:{tenant}"


def fate_of(facts: Facts, death: Death) -> Fate:
    """Tell what became of it: published since, overtaken, waiting, or nothing."""
    arrived = _arrived(facts, death)
    if arrived:
        return Fate(arrived)
    again = facts.by_event_id.get(death.life.event_id, ())
    waits = any(one.end is End.WAITING for one in again)
    return Fate(None, _overtaken(facts, death), waits, facts.erased.get(death.life.origin, ""))


def _arrived(facts: Facts, death: Death) -> Life | None:
    subject, event = subject_of_life(death.life), death.life.event
    if death.reason != Reason.ID_CONFLICT:  # that event_id is another event's
        for life in facts.by_event_id.get(death.life.event_id, ()):
            if life.end is End.PUBLISHED:
                return life
    if event is None or subject is None or not (subject.stack_id and event.version):
        return None
    same = (one for one in facts.by_subject.get(subject, ()) if one.event)
    return next((one for one in same if one.event and one.event.version == event.version), None)


def _overtaken(facts: Facts, death: Death) -> Life | None:
    subject, change = subject_of_life(death.life), facts.change(death.life)
    if subject is None or change is None:
        return None
    earlier = change.begun(death.at_us // 1000)
    for life in facts.by_subject.get(subject, ()):
        later = facts.change(life)
        if later and overtakes(later, earlier):
            return life
    return None


def _finding(facts: Facts, kind: Kind, deaths: list[Death]) -> Finding:
    first = deaths[0]
    fates = [fate_of(facts, one) for one in deaths]
    is_open = any(one.is_open for one in fates)
    closed = Level.NOTE if kind is ERASED else Level.WARNING
    what = _one(facts, kind, first, fates[0]) if len(deaths) == 1 else _many(facts, deaths, fates)
    told = explain(first.reason)
    fix = told.fix if is_open else told.prevent
    return Finding(
        kind.name, Level.ERROR if is_open else closed, what, first.at_us,
        _key(kind, first.life.tenant_id), None if is_open else deaths[-1].at_us,
        about=_about(deaths), evidence=_evidence(deaths),
        fix=fix if first.reason in list(Reason) and kind is not ERASED else "",
    )  # fmt: skip


def _about(deaths: Iterable[Death]) -> frozenset[str]:
    letters = {str(one.redrive.letter) for one in deaths if one.redrive}
    return names_of(one.life for one in deaths) | letters


def _one(facts: Facts, kind: Kind, death: Death, fate: Fate) -> str:
    event_id, whose = death.life.event_id, called(death.life)
    as_ = f" (event {said(event_id)})" if event_id and event_id not in whose else ""
    before = _before(facts, death) if kind is REUSED else ""
    reason = f"{death.reason}: {said(death.detail)}" if death.reason else "an unknown reason"
    return f"{whose}{as_} died at {at(death.at_us)} of {reason}{before}. {_became(facts, fate)}"


def _before(facts: Facts, death: Death) -> str:
    """Say which event had the event_id before."""
    for life in facts.by_event_id.get(death.life.event_id, ()):
        if life.end is End.PUBLISHED:
            return f": that was {called(life)}, control_version {life.control_version}"
    return ""


def _became(facts: Facts, fate: Fate) -> str:
    if fate.arrived:
        record = facts.put_back.get(fate.arrived.origin)
        how = f", {record.how}" if record else ""
        when = f"{at(fate.arrived.ended_us)}, as control_version {fate.arrived.control_version}"
        return f"It arrived all the same{how}: at {when} ({said(fate.arrived.event_id)})"
    if fate.erased:
        return f"It never arrived, and was {fate.erased}"
    if fate.overtaken:
        other = f"{called(fate.overtaken)}, control_version {fate.overtaken.control_version}"
        return f"It never arrived, and has been overtaken by {other}"
    return "It was sent again, and waits" if fate.waits else "It never arrived"


def _many(facts: Facts, deaths: list[Death], fates: list[Fate]) -> str:
    first, last = deaths[0], deaths[-1]
    whose = f"of {first.life.tenant_id}" if first.life.tenant_id else _nameless(deaths)
    reasons = " and ".join(dict.fromkeys(one.reason or "an unknown reason" for one in deaths))
    detail = f", the first ({called(first.life)}): {said(first.detail)}" if first.detail else ""
    lacks = sum(one.is_open for one in fates)
    never = f"{lacks:,} of them never arrived" if lacks else _closed(fates)
    return (
        f"{counted(len(deaths), 'event')} {whose} died of {reasons} from {at(first.at_us)} to"
        f" {at(last.at_us)}{detail}.{_release(facts, deaths)} {never}"
    )


def _closed(fates: list[Fate]) -> str:
    erased = [one.erased for one in fates if one.erased and not one.arrived]
    if not erased:
        return "All arrived since, or are overtaken"
    if len(erased) == len(fates):
        return f"None arrived: they were {erased[-1]}"
    return f"{len(erased):,} were {erased[-1]}; all others arrived since, or are overtaken"


def _nameless(deaths: list[Death]) -> str:
    ids = [one.life.event_id for one in deaths if one.life.event_id]
    low, high = min(ids, default=""), max(ids, default="")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    prefix = "".join(one for one, _ in same) if len(ids) == len(deaths) else ""
    begins = (
        f" (their event_ids begin with {said(prefix)})" if len(prefix) >= SHORTEST_PREFIX else ""
    )
    return f"that name no tenant{begins}"


def _release(facts: Facts, deaths: list[Death]) -> str:
    """Say that a producer sent nothing good from a moment on, where it did before."""
    if not deaths[0].life.tenant_id or len(deaths) < A_RELEASE:
        return ""
    first = deaths[0]
    good = _alike(facts, deaths) if kind_of(facts, first.life, first.reason) is MALFORMED else []
    later = [us for us in good if us > deaths[0].at_us]
    if len(later) == len(good) or any(us < deaths[-1].life.begun_us for us in later):
        return ""
    if later:
        return (
            f" Until {at(min(later))} none of its events was right, before and since all were: as"
            " after a release that was rolled back."
        )
    return " From then on none of its events was right, before all were: as after a release."


def _alike(facts: Facts, deaths: list[Death]) -> list[int]:
    """Return when events of the same tenant and types came that were published."""
    types = {one.life.event.type for one in deaths if one.life.event}
    return [
        life.begun_us for life in facts.published
        if life.tenant_id == deaths[0].life.tenant_id and life.event
        and (not types or life.event.type in types)
    ]  # fmt: skip


def _evidence(deaths: list[Death]) -> tuple[str, ...]:
    first = deaths[0]
    shown = command("trace", first.life.event_id or first.life.origin)
    if len(deaths) == 1 and first.redrive is None:
        return (shown, command("dead", "show", first.life.end_id or ""))
    tenant = first.life.tenant_id
    listed = command("dead", "ls", "--each", *(("--tenant", tenant) if tenant else ()))
    return (shown, command("dead", "history") if first.redrive else listed)


RULES = (died,)
