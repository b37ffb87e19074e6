"""Rules about dead letters: what died of what, and whether it arrived all the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final, NamedTuple

from sidecar.history.halts import HaltPeriod
from sidecar.lines import quoted
from sidecar.redis.halts import BY_ITSELF
from sidecar.replay.explain.facts import LACKING, Death, Facts, is_of, subject_of_life
from sidecar.replay.explain.findings import (
    NAMED,
    NO_TENANT,
    WHY,
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
from sidecar.wire.reasons import explain, fix_of
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
    f"{_OF}: what lay at their artifact_ref was not what their checksum names, and the fleet's"
    " store did not have that either.",
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
    Reason.FORBIDDEN_ID: "{its} tenant is not allowed to use that event_id",
    Reason.FORBIDDEN_REF: "{its} tenant is not allowed to use that artifact",
    Reason.ID_CONFLICT: "{its} event_id had been published before, with other content",
    Reason.ARTIFACT_MISSING: "{its} artifact did not come to the source store in time",
    Reason.CHECKSUM_MISMATCH: "the source store does not have what {its} checksum names",
    Reason.ARTIFACT_TOO_LARGE: "{its} artifact is over the limit",
    Reason.POISON: "workers died over it",
    Reason.ENTRY_LOST: "somebody had deleted or trimmed {its} entry",
}  # fmt: skip
_TOLD_BY_DETAIL: Final = (
    Reason.MALFORMED, Reason.INVALID_EVENT, Reason.BAD_REF, Reason.TOO_LARGE, Reason.UNKNOWN_TYPE,
)  # fmt: skip
_REDRIVEN: Final = (
    Reason.UNKNOWN_TYPE, Reason.FORBIDDEN_ID, Reason.FORBIDDEN_REF, Reason.ARTIFACT_MISSING,
    Reason.CHECKSUM_MISMATCH, Reason.ARTIFACT_TOO_LARGE, Reason.POISON,
)  # fmt: skip
"""What may be published as it is, once its cause is fixed."""
SHORT: Final = 100
"""So many characters of a dead letter's detail go into the summary: it says more than the rule."""
_BYTES: Final = re.compile(r"[0-9]+ bytes, and at most [0-9]+ are taken")
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
    told = (_one if len(deaths) == 1 else _many)(facts, deaths, fates)
    release, closed = _release(facts, deaths), _CLOSED.get(kind, Level.WARNING)
    lacking = [one for one, fate in zip(deaths, fates, strict=True) if fate.is_open]
    return Finding(
        kind.name, Level.ERROR if lacking else closed, told.head, first.at_us, key,
        None if lacking else deaths[-1].at_us, about=_about(deaths), evidence=_evidence(deaths),
        fix="" if kind is ERASED else _fix(facts, deaths, lacking, release), brief=told.brief,
        clause=told.clause, short=told.short, then=release, hit=tuple(one.life for one in deaths),
        still=tuple(one.life for one in lacking),
        when=f"from {at(first.at_us)} to {at(deaths[-1].at_us)}" if len(deaths) > 1 else "",
        is_by_hand=kind is TRIMMED, is_over=not lacking,
    )  # fmt: skip


def _fix(facts: Facts, deaths: list[Death], lacking: list[Death], release: str) -> str:
    first = deaths[0]
    if not lacking:
        return explain(first.reason).prevent
    if release.startswith(_ROLLED_BACK):
        return _AGAIN
    resumed = _resumed(facts, deaths) if kind_of(facts, first) is MALFORMED else None
    if resumed is None:
        return _usual_fix(facts, deaths, lacking)
    why = quoted(said(resumed.resumed_why))
    return (
        f"{resumed.resumed_by} resumed {resumed.stream}, reason given: {why}: if the producer is"
        " right again, have it send these events once more"
    )


def _usual_fix(facts: Facts, deaths: list[Death], lacking: list[Death]) -> str:
    """Return what is done about a reason, with the command where one does it."""
    first = deaths[0]
    event = first.life.event if len(deaths) == 1 else None
    fix = fix_of(first.reason, event) if event else explain(first.reason).fix
    if first.reason in _REDRIVEN:
        fix += f" Redrive {'it' if len(lacking) == 1 else 'them'}: {_redrive(lacking)}"
    if first.reason not in list(Reason):
        fix += _served_by(facts, first)
    return fix


def _resumed(facts: Facts, deaths: list[Death]) -> HaltPeriod | None:
    """Return the halt that they led to, where somebody ended it and none of them came since."""
    for halt in facts.held_up:
        led = deaths[0].at_us <= halt.since_us + 1000 and is_of(halt, deaths[0].life)
        named = halt.by == BY_ITSELF and halt.resumed_why and "@" in halt.resumed_by
        if led and named and halt.until_us and halt.until_us > deaths[-1].at_us:
            return halt
    return None


def _served_by(facts: Facts, death: Death) -> str:
    """Say which worker, of which release, served then: a dead letter does not name it."""
    stream = death.life.origin.stream
    then = [one for one in facts.tenures if one.stream == stream and one.at_us <= death.at_us]
    if not then:
        return ""
    return f" {then[-1].by}, release {said(then[-1].version)}, served {stream} then."


def _redrive(lacking: list[Death]) -> str:
    """Return the command that sends them again."""
    ids = [str(one.life.end_id) for one in lacking]
    if len(ids) > NAMED:
        tenants = {one.life.tenant_id for one in lacking}
        whose = ("--tenant", *tenants) if len(tenants) == 1 and "" not in tenants else ()
        ids = ["--all", "--only", lacking[0].reason, *whose]
    return command("dead", "redrive", *ids, "--reason", WHY)


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


def _cause(facts: Facts, deaths: list[Death], its: str) -> str:
    """Say in few words what they died of, with what their reason alone does not tell."""
    first, reasons = deaths[0], {one.reason for one in deaths}
    plain = _plainly((one.reason for one in deaths), its)
    if len(reasons) > 1:
        return plain
    if first.reason and first.reason not in list(Reason):
        return f"{said(first.reason)} (unknown to this release)"
    more = _more(facts, first)
    first_ = ", the first" if len(deaths) > 1 else ""
    return f"{plain}{first_}: {more}" if more else plain


def _more(facts: Facts, death: Death) -> str:
    """Return what its detail adds, where that is short."""
    event = death.life.event
    if death.reason == Reason.ID_CONFLICT:
        first = facts.index.published_as.get(death.life.event_id)
        return f"by {said(first.tenant_id or NO_TENANT)}" if first else ""
    if death.reason == Reason.FORBIDDEN_REF:
        return said(event.artifact_ref) if event else ""
    if death.reason == Reason.ARTIFACT_TOO_LARGE:
        return "".join(_BYTES.findall(death.detail)[:1])
    short = death.reason in _TOLD_BY_DETAIL and len(death.detail) <= SHORT
    return death.detail if short else ""


def _one(facts: Facts, deaths: list[Death], fates: list[Fate]) -> Told:
    """Return what is said of one death."""
    (death,), (fate,) = deaths, fates
    event_id, whose = death.life.event_id, called(death.life)
    as_ = f" (event {said(event_id)})" if event_id and event_id not in whose else ""
    cause = _cause(facts, deaths, "its")
    of, (long, short) = _of(facts, death), _became(facts, fate)
    own, had = f"{whose}{as_}", f"{whose} had died: {cause}"
    if not long:
        return Told(f"{own} {of}", f"{whose} died: {cause}", f"{own} {of}", had)
    return Told(
        f"{own} {long}: it had {of}", f"{whose} {short}: {cause}", f"{own} {of}; it {long}",
        f"{had}; it {short.removeprefix('died, and ')}",
    )  # fmt: skip


def _of(facts: Facts, death: Death) -> str:
    """Say when one died, and of what."""
    plain = _plainly([death.reason], "its")
    detail = ": ".join(filter(None, (death.reason, said(death.detail))))
    before = _before(facts, death) if death.reason == Reason.ID_CONFLICT else ""
    return f"died at {at(death.at_us)}: {plain}{f' ({detail})' if detail else ''}{before}"


def _before(facts: Facts, death: Death) -> str:
    """Say which event had the event_id before."""
    life = facts.index.published_as.get(death.life.event_id)
    if life is None:
        return ""
    when = f"control_version {life.control_version} of {at(life.ended_us)}"
    return f"; that was {called(life)}, {when}"


def _became(facts: Facts, fate: Fate) -> tuple[str, str]:
    """Return what became of it, and the same in few words; both empty where nothing did."""
    if fate.arrived:
        record = facts.put_back.get(fate.arrived.origin)
        how = f"{record.how}; " if record else ""
        version = f"control_version {fate.arrived.control_version}"
        as_ = f"({how}{version}, event {said(fate.arrived.event_id)})"
        return f"arrived late, at {at(fate.arrived.ended_us)} {as_}", "arrived late"
    if fate.erased:
        return f"was {fate.erased}", "died, and was erased"
    if fate.overtaken:
        other = f"{called(fate.overtaken)} (control_version {fate.overtaken.control_version})"
        return f"has been overtaken by {other}", "died, and is overtaken"
    waits = "was sent again, and waits"
    return (waits, waits) if fate.waits else ("", "")


def _many(facts: Facts, deaths: list[Death], fates: list[Fate]) -> Told:
    """Return what is said of several deaths."""
    first, last = deaths[0], deaths[-1]
    tenants = list(dict.fromkeys(one.life.tenant_id for one in deaths))
    whose = _nameless(deaths) if tenants == [""] else of_tenants(tenants)
    reasons = list(dict.fromkeys(one.reason for one in deaths))
    plain, lacks = _plainly(reasons, "their"), sum(one.is_open for one in fates)
    cause = _cause(facts, deaths, "their")
    detail = f"; the first, {called(first.life)}: {said(first.detail)}" if first.detail else ""
    of = (
        f"died from {at(first.at_us)} to {at(last.at_us)}: {plain}"
        f" ({', '.join(filter(None, reasons)) or 'unknown'}{detail})"
    )
    all_ = f"{counted(len(deaths), 'event')}{whose}"
    since = f"; {_closed(facts, fates)}" if lacks < len(deaths) else ""
    since += f"; {lacks:,} did not arrive" if since and lacks else ""
    return Told(
        f"{all_} {of}{since}", f"{all_} died: {cause}{since}", f"{all_} {of}{since}",
        f"{all_} had died: {cause}{since}",
    )  # fmt: skip


def _closed(facts: Facts, fates: list[Fate]) -> str:
    """Say what became of those of which something became."""
    arrived = [one.arrived for one in fates if one.arrived]
    redriven = sum(one.origin in facts.put_back for one in arrived)
    erased = [one.erased for one in fates if one.erased and not one.arrived]
    overtaken = sum(bool(one.overtaken) and not one.erased for one in fates)
    told = [
        f"{len(arrived):,} arrived since ({redriven:,} redriven)" if arrived else "",
        f"{overtaken:,} {'is' if overtaken == 1 else 'are'} overtaken by newer events"
        if overtaken else "",
        f"{len(erased):,} {'was' if len(erased) == 1 else 'were'} {erased[-1]}" if erased else "",
    ]  # fmt: skip
    return "; ".join(filter(None, told))


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
