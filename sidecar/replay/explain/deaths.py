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
    of_tenants,
    said,
)
from sidecar.replay.timeline import Life
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
_PLAIN: Final = {
    Reason.MALFORMED: "{its} entry cannot be read as an event",
    Reason.INVALID_EVENT: "{its} event breaks a rule of the contract",
    Reason.BAD_REF: "{its} artifact_ref is no legal name",
    Reason.TOO_LARGE: "{its} entry, or its notification, is too large",
    Reason.UNKNOWN_TYPE: "the workers do not allow {its} type",
    Reason.FORBIDDEN_ID: "{its} tenant may not use that event_id",
    Reason.FORBIDDEN_REF: "{its} tenant may not name that artifact",
    Reason.ID_CONFLICT: "{its} event_id had been published before, with other content",
    Reason.ARTIFACT_MISSING: "{its} artifact did not come in time",
    Reason.CHECKSUM_MISMATCH: "what lay at {its} artifact_ref was not what was pinned",
    Reason.ARTIFACT_TOO_LARGE: "{its} artifact is over the limit",
    Reason.POISON: "workers died over it",
    Reason.ENTRY_LOST: "somebody had deleted or trimmed {its} entry",
}  # fmt: skip
_CLOSED: Final = {ERASED: Level.NOTE}
_ROLLED_BACK: Final = "Until"
_AGAIN: Final = "the producer is right again: have it send these events once more"
A_RELEASE: Final = 3
"""So many in a row, and none before, look like a release."""
SHORTEST_PREFIX: Final = 4
COMPARED: Final = 100
"""Of a subject so many are compared with what died of it, the newest: they are what overtook it."""


class Fate(NamedTuple):
    """What became of a dead letter's change since."""

    arrived: Life | None = None
    """The notification that brought it all the same."""
    overtaken: Life | None = None
    """The newest notification that made it old news."""
    waits: bool = False
    """Whether it waits again."""
    erased: str = ""
    """With which tenant it was erased, when, by whom, and why."""

    @property
    def is_open(self) -> bool:
        """Whether the fleet lacks it."""
        return not (self.arrived or self.overtaken or self.erased)


class Told(NamedTuple):
    """What is said of dead letters."""

    head: str
    brief: str
    """In few words."""
    clause: str
    """As the reason of something else."""
    short: str
    """The same in few words."""


def kind_of(facts: Facts, death: Death) -> Kind:
    """Return the kind of finding that a death makes."""
    reason = death.reason
    if reason in LACKING and death.life.origin in facts.erased:
        return ERASED
    return _KINDS.get(Reason(reason), OTHER) if reason in list(Reason) else OTHER


def died(facts: Facts) -> Iterator[Finding]:
    """Yield what died, of each tenant and kind together; of one reason all of very many tenants."""
    groups: defaultdict[str, list[Death]] = defaultdict(list)
    for death in facts.deaths:
        groups[key_of(facts, death)].append(death)
    for key, deaths in groups.items():
        yield _finding(facts, key, deaths)


def key_of(facts: Facts, death: Death) -> str:
    """Return the key of the finding that tells of this death."""
    kind = kind_of(facts, death)
    if death.reason in facts.crowded and kind is not ERASED:
        return f"died:{death.reason}"
    return f"died:{kind.name}:{death.life.tenant_id}"


def fate_of(facts: Facts, death: Death) -> Fate:
    """Tell what became of it: published since, overtaken, waiting, or nothing."""
    arrived = _arrived(facts, death)
    if arrived:
        return Fate(arrived)
    waits = death.life.event_id in facts.index.waiting_ids
    return Fate(None, _overtaken(facts, death), waits, facts.erased.get(death.life.origin, ""))


def _arrived(facts: Facts, death: Death) -> Life | None:
    subject, event = subject_of_life(death.life), death.life.event
    if death.reason != Reason.ID_CONFLICT:  # that event_id is another event's
        life = facts.index.published_as.get(death.life.event_id)
        if life:
            return life
    if event is None or subject is None or not (subject.stack_id and event.version):
        return None
    return facts.index.by_version.get((subject, event.version))


def _overtaken(facts: Facts, death: Death) -> Life | None:
    subject, change = subject_of_life(death.life), facts.change(death.life)
    if subject is None or change is None:
        return None
    earlier = change.begun(death.at_us // 1000)
    for life in reversed(facts.by_subject.get(subject, [])[-COMPARED:]):
        later = facts.change(life)
        if later and overtakes(later, earlier):
            return life
    return None


def _finding(facts: Facts, key: str, deaths: list[Death]) -> Finding:
    first, kind = deaths[0], kind_of(facts, deaths[0])
    fates = [fate_of(facts, one) for one in deaths]
    is_open = any(one.is_open for one in fates)
    told = (_one if len(deaths) == 1 else _many)(facts, deaths, fates)
    release, closed = _release(facts, deaths), _CLOSED.get(kind, Level.WARNING)
    fix = "" if kind is ERASED else _fix(first.reason, release, is_open=is_open)
    return Finding(
        kind.name, Level.ERROR if is_open else closed, told.head, first.at_us, key,
        None if is_open else deaths[-1].at_us,
        about=_about(deaths), evidence=_evidence(deaths), fix=fix, brief=told.brief,
        clause=told.clause, short=told.short, then=release, hit=tuple(one.life for one in deaths),
        is_by_hand=kind is TRIMMED, is_over=not is_open,
    )  # fmt: skip


def _fix(reason: str, release: str, *, is_open: bool) -> str:
    if is_open and release.startswith(_ROLLED_BACK):
        return _AGAIN
    return explain(reason).fix if is_open else explain(reason).prevent


def _about(deaths: Iterable[Death]) -> frozenset[str]:
    letters = {str(one.redrive.letter) for one in deaths if one.redrive}
    return names_of(one.life for one in deaths) | letters


def _plainly(reasons: Iterable[str], its: str) -> str:
    """Say in plain words what they died of."""
    return " or ".join(
        _PLAIN[Reason(one)].format(its=its) if one in list(Reason)
        else "for a reason that this release does not know" if one
        else "for a reason that is not on record"
        for one in dict.fromkeys(reasons)
    )  # fmt: skip


def _one(facts: Facts, deaths: list[Death], fates: list[Fate]) -> Told:
    """Return what is said of one death."""
    (death,), (fate,) = deaths, fates
    event_id, whose = death.life.event_id, called(death.life)
    as_ = f" (event {said(event_id)})" if event_id and event_id not in whose else ""
    plain = _plainly([death.reason], "its")
    detail = ": ".join(filter(None, (death.reason, said(death.detail))))
    before = _before(facts, death) if death.reason == Reason.ID_CONFLICT else ""
    of = f"died at {at(death.at_us)}: {plain}{f' ({detail})' if detail else ''}{before}"
    long, short = _became(facts, fate)
    had = "had " if fate.arrived or fate.waits else ""
    return Told(
        f"{whose}{as_} {long}: it {had}{of}", f"{whose} {short}: {plain}", f"{whose}{as_} {of}",
        f"{whose} had died: {plain}",
    )  # fmt: skip


def _before(facts: Facts, death: Death) -> str:
    """Say which event had the event_id before."""
    life = facts.index.published_as.get(death.life.event_id)
    if life is None:
        return ""
    when = f"control_version {life.control_version} of {at(life.ended_us)}"
    return f"; that was {called(life)}, {when}"


def _became(facts: Facts, fate: Fate) -> tuple[str, str]:
    """Return what became of it, and the same in few words."""
    if fate.arrived:
        record = facts.put_back.get(fate.arrived.origin)
        how = f"{record.how}; " if record else ""
        version = f"control_version {fate.arrived.control_version}"
        as_ = f"({how}{version}, event {said(fate.arrived.event_id)})"
        return f"arrived late, at {at(fate.arrived.ended_us)} {as_}", "arrived late"
    if fate.erased:
        return f"never arrived, and was {fate.erased}", "never arrived, and was erased"
    if fate.overtaken:
        other = f"{called(fate.overtaken)} (control_version {fate.overtaken.control_version})"
        never = "never arrived, and "
        return f"{never}has been overtaken by {other}", f"{never}is overtaken"
    waits = "was sent again, and waits"
    return (waits, waits) if fate.waits else ("never arrived", "never arrived")


def _many(_: Facts, deaths: list[Death], fates: list[Fate]) -> Told:
    """Return what is said of several deaths."""
    first, last = deaths[0], deaths[-1]
    tenants = list(dict.fromkeys(one.life.tenant_id for one in deaths))
    whose = _nameless(deaths) if tenants == [""] else of_tenants(tenants)
    reasons = list(dict.fromkeys(one.reason for one in deaths))
    plain, lacks = _plainly(reasons, "their"), sum(one.is_open for one in fates)
    detail = f"; the first, {called(first.life)}: {said(first.detail)}" if first.detail else ""
    of = (
        f"died from {at(first.at_us)} to {at(last.at_us)}: {plain}"
        f" ({', '.join(filter(None, reasons)) or 'unknown'}{detail})"
    )
    all_ = f"{counted(len(deaths), 'event')}{whose}"
    as_reason = f"{all_} {of}", f"{all_} had died: {plain}"
    if not lacks:
        since = f", and {_closed(fates)}"
        return Told(f"{all_} {of}{since}", f"{all_} died{since}", *as_reason)
    some, who = ("", "they") if lacks == len(deaths) else (f"{lacks:,} of ", "all")
    never = f"{some}{all_} never arrived"
    return Told(f"{never}: {who} {of}", f"{never}: {plain}", *as_reason)


def _closed(fates: list[Fate]) -> str:
    erased = [one.erased for one in fates if one.erased and not one.arrived]
    if not erased:
        return "all arrived since, or are overtaken"
    if len(erased) == len(fates):
        return f"none arrived: they were {erased[-1]}"
    return f"{len(erased):,} were {erased[-1]}; all others arrived since, or are overtaken"


def _nameless(deaths: list[Death]) -> str:
    ids = [one.life.event_id for one in deaths if one.life.event_id]
    low, high = min(ids, default=""), max(ids, default="")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    prefix = "".join(one for one, _ in same) if len(ids) == len(deaths) else ""
    begins = (
        f" (their event_ids begin with {said(prefix)})" if len(prefix) >= SHORTEST_PREFIX else ""
    )
    return f" that name no tenant{begins}"


def _release(facts: Facts, deaths: list[Death]) -> str:
    """Say that a producer sent nothing good from a moment on, where it did before."""
    if not deaths[0].life.tenant_id or len(deaths) < A_RELEASE:
        return ""
    good = _alike(facts, deaths) if kind_of(facts, deaths[0]) is MALFORMED else []
    later = [us for us in good if us > deaths[0].at_us]
    if len(later) == len(good) or any(us < deaths[-1].life.begun_us for us in later):
        return ""
    if later:
        return (
            f"{_ROLLED_BACK} {at(min(later))} none of its events was right, before and since"
            " all were: as after a release that was rolled back"
        )
    return "From then on none of its events was right, before all were: as after a release"


def _alike(facts: Facts, deaths: list[Death]) -> list[int]:
    """Return when events of the same tenant and types came that were published."""
    types = {one.life.event.type for one in deaths if one.life.event}
    return [
        life.begun_us for life in facts.index.by_tenant.get(deaths[0].life.tenant_id, ())
        if life.event and (not types or life.event.type in types)
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
