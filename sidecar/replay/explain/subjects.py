"""Rules about subjects: one that went back, and one that its producer set to an older version."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.history.redrives import Redrive
from sidecar.replay.explain.deaths import key_of
from sidecar.replay.explain.facts import Facts
from sidecar.replay.explain.findings import (
    NOT_ON_RECORD,
    Finding,
    Harm,
    Kind,
    Level,
    at,
    called,
    command,
    events_of,
    names,
    names_of,
)
from sidecar.replay.timeline import Life
from sidecar.wire.ids import EntryId
from sidecar.wire.subject import Subject, overtakes, sets_back

WENT_BACK = Kind(
    "went_back",
    "A subject was set to an older state than it had: what was published came before, in its"
    " control stream, what had been published already.",
)
OLDER_VERSION = Kind(
    "older_version",
    "A producer activated a version below the one that the stack had, in an event of its own.",
    "whether that was meant: the event does not say so",
)
TWICE = Kind(
    "twice", "One event_id has two notifications. The guarantee of `once` is broken.",
    "who deleted keys of the deduplication index (`{N}:seen:*`), and when: nobody keeps a record of"
    " it, and nothing shows it until an event comes again",
)  # fmt: skip
NEVER_SENT = Kind(
    "never_sent", "Asked for a version, there is no event of it, though there are of its stack."
)
SAME_VERSION = Kind(
    "same_version",
    "One version of a stack was activated by two events that pin different artifacts.",
    "which of the two is meant",
)
ACTIVATED = "stack.activated"
TWICE_KEY = "twice"
_WHO = f": its keys were deleted, or Redis lost its last writes; {NOT_ON_RECORD}"
_FIX_INDEX = (
    "find out who may delete the keys `{N}:seen:*` of the deduplication index; where nobody did,"
    " report it with a bundle"
)
COMPARED = 1000
"""So many that were published before are looked through for the one that was set back."""
KINDS = (TWICE, WENT_BACK, NEVER_SENT, SAME_VERSION, OLDER_VERSION)


def went_back(facts: Facts) -> Iterator[Finding]:
    """Yield each time that a subject moved back: against the newer event that came last before."""
    for subject, lives in facts.by_subject.items():
        newest, highest = lives[0], dict[tuple[str, str | None], EntryId]()
        for n, life in enumerate(lives):
            before = lives[max(0, n - COMPARED) : n] if _is_late(facts, highest, life) else []
            if behind := _behind(facts, before, life):
                yield _back(facts, subject, behind, life)
            elif life.event_id != newest.event_id:
                if _is_older(newest, life):
                    yield _older(subject, newest, life)
                newest = life


def _is_late(facts: Facts, highest: dict[tuple[str, str | None], EntryId], life: Life) -> bool:
    """Note its entry among the highest of each control stream; tell whether there was a higher.

    Of its tenant, unless it was redriven: what two tenants do to one ref has no order.
    """
    own = facts.change(life)
    if own is None or own.entry is None:
        return False
    whose = (own.stream, None if life.origin in facts.put_back else life.tenant_id)
    before = highest.get(whose, own.entry)
    for each in ((own.stream, None), (own.stream, life.tenant_id)):
        highest[each] = max(highest.get(each, own.entry), own.entry)
    return own.entry < before


def _behind(facts: Facts, before: list[Life], life: Life) -> Life | None:
    """Return what this set back, by the rule that `Backs` has, of the window or from before it.

    What two tenants do to one ref has no order, unless somebody redrove it: that asks for one.
    """
    own, is_redriven = facts.change(life), life.origin in facts.put_back
    for other in reversed(before):
        later = facts.change(other)
        in_order = is_redriven or other.tenant_id == life.tenant_id
        if in_order and own and later and sets_back(later, own):
            return other
    if facts.window.since_us == 0:
        return None
    return facts.backs.behind(life.event, life.origin, life.ended_us)


def _back(facts: Facts, subject: Subject, newest: Life, life: Life) -> Finding:
    record = facts.put_back.get(life.origin)
    after = _since(facts, subject, life)
    causes = tuple(_causes(facts, record, life))
    died = f"; it had died: {record.died}" if record and record.died and not causes else ""
    moved = f"{_name(subject)} went back from {_state(newest)} to {_state(life)}"
    head = (
        f"{moved} at {at(life.ended_us)}: {_why(record)}, behind {newest.event_id}"
        f" (control_version {newest.control_version}){died}"
    )
    return Finding(
        WENT_BACK.name, Level.WARNING if after else Level.ERROR, head, life.ended_us,
        f"back:{life.control_version}", after.ended_us if after else None,
        record.by if record else "", names_of((newest, life)) | {subject.tenant_id} - {""},
        evidence=_evidence(life, record), fix=_fix(after), causes=causes,
        brief=f"{moved}{f': {_why(record)}' if record else ''}", then=_now(after), hit=(life,),
        harm=Harm.WRONG,
        is_over=after is not None,
    )  # fmt: skip


def _causes(facts: Facts, record: Redrive | None, life: Life) -> Iterator[str]:
    """Yield the key of what its dead letter had died of, or of what published it twice."""
    if record is None and life.event_id in facts.repeated:
        yield TWICE_KEY
    for death in facts.deaths if record else ():
        if death.redrive and record and death.redrive.letter == record.letter:
            yield key_of(facts, death)


def _why(record: Redrive | None) -> str:
    if record is None:
        return "an older event was published, though nobody is on record to have redriven it"
    what = "its dead letter was" if record.letter else "its lost entry was"
    return f"{what} {record.how}"


def _since(facts: Facts, subject: Subject, life: Life) -> Life | None:
    """Return what set the subject right: the next that is newer than what went back."""
    own = facts.change(life)
    for later in facts.by_subject[subject]:
        change = facts.change(later)
        newer = later.ended_us > life.ended_us and change and own and overtakes(change, own)
        if newer and later.origin not in facts.put_back:
            return later
    return None


def _now(after: Life | None) -> str:
    if after is None:
        return "It is so still"
    return f"Since {at(after.ended_us)} it is at {_state(after)}"


def _evidence(life: Life, record: Redrive | None) -> tuple[str, ...]:
    shown = command("trace", str(life.control_version))
    return (shown, command("dead", "history")) if record else (shown, command("audit"))


def _fix(after: Life | None) -> str:
    if after:
        return ""
    return "have the producer send the newer state again, under a new event_id"


def _name(subject: Subject) -> str:
    if subject.stack_id:
        return f"{subject.tenant_id}/{subject.stack_id}"
    return subject.artifact_ref


def _state(life: Life) -> str:
    if life.event and life.event.stack_id and life.event.version:
        return f"@{life.event.version}"
    return life.event_id


def _is_older(newest: Life, life: Life) -> bool:
    before, now = (one.event.version if one.event else 0 for one in (newest, life))
    stack = life.event.stack_id if life.event else ""
    return bool(stack) and 0 < now < before


def _older(subject: Subject, newest: Life, life: Life) -> Finding:
    moved = f"{_name(subject)} was set from {_state(newest)} to {_state(life)}"
    head = (
        f"{moved} at {at(life.ended_us)} by its producer, in the event {life.event_id}, which came"
        f" after {newest.event_id}: nothing in the sidecar did it"
    )
    return Finding(
        OLDER_VERSION.name, Level.NOTE, head, life.ended_us, f"older:{life.control_version}",
        about=names_of((newest, life)), evidence=(command("trace", life.event_id),),
        fix="if it was not meant, have the producer activate the newer version again",
        brief=f"{moved} by its producer",
    )  # fmt: skip


def never_sent(facts: Facts, what: str) -> Finding | None:
    """Tell of `TENANT/STACK@VERSION` that nobody sent it; None where that cannot be said."""
    stack, _, version = what.rpartition("@")
    sent = [life for life in facts.lives if stack and stack in names(life) and life.event]
    if facts.gaps or not version.isdecimal() or not sent:
        return None
    newest = max(sent, key=lambda life: life.event.version if life.event else 0)
    return Finding(
        NEVER_SENT.name, Level.ERROR, f"no event of {what} is on record: nobody sent it",
        newest.begun_us, f"unsent:{what}", about=frozenset({what}),
        evidence=(command("trace", stack),), causes=(f"silent:{newest.tenant_id}",),
        brief=f"nobody has sent {what}", is_dated=False,
        then=f"The highest version that was sent of {stack} is {_state(newest)}, in the event"
        f" {newest.event_id} of {at(newest.begun_us)}",
        fix="look at the producer: `Producer.publish` returns once Redis has the entry",
    )  # fmt: skip


def twice(facts: Facts) -> Iterator[Finding]:
    """Yield what was published more than once, all of it together."""
    again = facts.repeated
    if not again:
        return
    first = min(again.values(), key=lambda lives: lives[1].ended_us)
    lives = [one[1] for one in again.values()]
    told = f"{events_of(lives)} {'was' if len(lives) == 1 else 'were'} published more than once"
    causes = tuple(f"lost:{one.noticed_us}" for one in facts.forgotten if one.loses_events)
    yield Finding(
        TWICE.name, Level.ERROR, _how_often(told, first), first[1].ended_us, TWICE_KEY,
        about=frozenset().union(*map(names_of, again.values())),
        evidence=(command("audit"), command("trace", first[0].event_id)),
        fix=_FIX_INDEX, causes=causes, brief=told, hit=tuple(lives), harm=Harm.WRONG,
        then=f"The deduplication index had forgotten the first time{'' if causes else _WHO}",
    )  # fmt: skip


def _how_often(told: str, lives: list[Life]) -> str:
    first, again = lives[:2]
    name = f" (event {first.event_id})" if first.event_id not in called(first) else ""
    return (
        f"{told}: the first, {called(first)}{name}, at {at(first.ended_us)} and at"
        f" {at(again.ended_us)}, as control_versions {first.control_version} and"
        f" {again.control_version}"
    )


def same_version(facts: Facts) -> Iterator[Finding]:
    """Yield each version of a stack that is two artifacts, of two producers, say."""
    for lives in facts.by_subject.values():
        had: dict[int, Life] = {}
        told: set[int] = set()
        for n, life in enumerate(lives):
            event = life.event
            if event is None or event.type != ACTIVATED or not event.checksum:
                continue
            first = had.setdefault(event.version, life)
            if _is_other(first, life) and event.version not in told:
                told.add(event.version)
                yield _same(first, life, _next_version(lives, n))


def _is_other(first: Life, life: Life) -> bool:
    pins = [one.event.checksum if one.event else "" for one in (first, life)]
    return pins[0] != pins[1] and first.event_id != life.event_id


def _next_version(lives: list[Life], place: int) -> Life | None:
    """Return what readers took in the place of one: the next of another version."""
    event = lives[place].event
    not_it = (0, event.version if event else 0)
    later = (lives[n] for n in range(place + 1, len(lives)))
    return next((one for one in later if one.event and one.event.version not in not_it), None)


def _readers_have(life: Life, after: Life | None) -> str:
    until = f"had that of {life.event_id} until {at(after.ended_us)}" if after else ""
    return f"readers {until or f'have that of {life.event_id} now'}"


def _same(first: Life, life: Life, after: Life | None) -> Finding:
    what = (
        f"{called(life)} was activated twice with different content: by {first.event_id} at"
        f" {at(first.ended_us)}, and by {life.event_id} at {at(life.ended_us)}"
    )
    then = _readers_have(life, after)
    return Finding(
        SAME_VERSION.name, Level.WARNING if after else Level.ERROR, what, life.ended_us,
        f"same:{life.control_version}", after.ended_us if after else None,
        about=names_of((first, life)), evidence=(command("trace", called(life)),),
        fix="find out whether two producers build that stack, and which content is meant: have the"
        " producer activate that under a version of its own",
        brief=f"{called(life)} was activated twice with different content; {then}", hit=(life,),
        harm=Harm.WRONG, is_over=after is not None, then=then[0].upper() + then[1:],
    )  # fmt: skip


RULES = (went_back, twice, same_version)
