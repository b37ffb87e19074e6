"""Rules about what is not there: entries without an end, and artifacts that went since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.replay.artifacts import State, put_of
from sidecar.replay.explain.facts import Facts
from sidecar.replay.explain.findings import (
    Finding,
    Kind,
    Level,
    at,
    called,
    command,
    counted,
    names_of,
)
from sidecar.replay.timeline import End, Life

LOST: Final = Kind(
    "lost", "An entry was acknowledged, and neither notification nor dead letter is there.",
    "whether it was lost, or what would show its end was deleted by hand: `sidecar audit` looks",
)  # fmt: skip
GONE: Final = Kind(
    "artifact_gone",
    "The newest notification of a subject pins an artifact that the store has no more, or damaged.",
    "whether it was collected, deleted by hand, or damaged: the store keeps no record of it",
)
ERASED: Final = Kind(
    "artifact_erased",
    "The newest notification of a subject pins an artifact that went with all of its tenant.",
)
KINDS: Final = (LOST, GONE, ERASED)
EACH: Final = 5
"""So many are told each; of more, all in one."""
MAX_LOOKED_AT: Final = 500
"""So many artifacts are looked up, those of the subjects that changed last."""


def lost(facts: Facts) -> Iterator[Finding]:
    """Yield what came to nothing, where all that would show its end can be read."""
    lives = [life for life in facts.lives if life.end is End.UNKNOWN]
    if facts.gaps or not lives:
        return
    first = lives[0]
    what = (
        f"{counted(len(lives), 'entry' if len(lives) == 1 else 'entrie')} came to nothing, the"
        f" first {called(first)} of {at(first.begun_us)}: neither notification nor dead letter is"
        " there"
    )
    yield Finding(
        LOST.name, Level.ERROR, what, first.begun_us, "lost", about=names_of(lives),
        evidence=(command("audit"), command("trace", first.event_id or first.origin)),
        fix="`sidecar audit --repair --reason …` has them published",
        causes=tuple(f"lost:{one.noticed_us}" for one in facts.forgotten),
    )  # fmt: skip


def artifact_gone(facts: Facts) -> Iterator[Finding]:
    """Yield the newest state of a subject that a controller cannot resolve."""
    newest = sorted(
        (lives[-1] for lives in facts.by_subject.values()), key=lambda one: one.ended_us
    )
    gone: list[tuple[Life, State]] = []
    erased: dict[tuple[str, str], list[Life]] = {}
    for life in newest[-MAX_LOOKED_AT:]:
        store = facts.history.store
        put = put_of(life.event, store) if store else None
        if put and put.state is State.ERASED:
            erased.setdefault((life.tenant_id, put.why), []).append(life)
        elif put and put.state is not State.THERE:
            gone.append((life, put.state))
    yield from _each_gone(gone)
    yield from (_erased(tenant, lives, why) for (tenant, why), lives in erased.items())


def _each_gone(gone: list[tuple[Life, State]]) -> Iterator[Finding]:
    if len(gone) > EACH:
        yield _many_gone([life for life, _ in gone])
    else:
        yield from (_gone(life, state) for life, state in gone)


def _erased(tenant: str, lives: list[Life], why: str) -> Finding:
    what = (
        f"{counted(len(lives), 'subject')} of {tenant or 'no tenant'} cannot be resolved any more,"
        f" the last {called(lives[-1])}: {why}"
    )
    return Finding(
        ERASED.name, Level.NOTE, what, lives[-1].ended_us, f"erased:{tenant}",
        about=names_of(lives), evidence=(command("store", "history"),),
    )  # fmt: skip


def _many_gone(lives: list[Life]) -> Finding:
    first = lives[0]
    what = (
        f"{len(lives):,} subjects cannot be resolved: the artifacts of their newest notifications"
        f" are not in the store any more, or damaged; the first is that of {called(first)},"
        f" control_version {first.control_version}, published at {at(first.ended_us)}"
    )
    return Finding(
        GONE.name, Level.ERROR, what, first.ended_us, "gone", about=names_of(lives),
        evidence=(command("audit"), command("trace", first.event_id)),
        fix="see that this is the fleet's store; `sidecar audit --repair --reason …` puts them"
        " again from the producer's store, or restore it from a backup",
    )  # fmt: skip


def _gone(life: Life, state: State) -> Finding:
    assert life.event  # noqa: S101 -- it has a subject
    words = {State.CORRUPT: "is damaged", State.ABSENT: "is not there"}
    what = (
        f"{called(life)}, published at {at(life.ended_us)} as control_version"
        f" {life.control_version}, cannot be resolved: its artifact {life.event.artifact_ref}"
        f" {words.get(state, 'is not there in this version')} any more"
    )
    return Finding(
        GONE.name, Level.ERROR, what, life.ended_us, f"gone:{life.control_version}",
        about=names_of((life,)), evidence=(command("trace", life.event_id), command("audit")),
        fix="`sidecar audit --repair --reason …` puts it again from the producer's"
        " store, or restore it from a backup",
    )  # fmt: skip


RULES = (lost, artifact_gone)
