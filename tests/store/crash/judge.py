"""What must hold of a store after a crash, whatever it left: the oracle, and its questions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from store import Artifact, Corrupt, NotFound, Position, checksum_of
from store.file import FileStore

Outcome = Artifact | Literal["absent", "damaged"]
Held = tuple[str, Artifact]
"""A ref, and the pair at it."""


class Lost(AssertionError):
    """A crash took what had been promised to survive it."""


@dataclass(frozen=True, eq=False)
class Step:
    """Something that is done to a store, and what it promises.

    Attributes:
        act: does it; returns the paths below the root that it says it made, if it says so.
        puts: what is at these refs, intact, once it returned.
        position: of the Put.
        removes: versions that it may remove, and has removed once it returned.
        deletes: refs of which nothing is left once it returned.
        shreds: what no file has in it once it returned.

    """

    act: Callable[[FileStore], Iterable[str]]
    puts: tuple[Held, ...] = ()
    position: Position | None = None
    removes: tuple[Held, ...] = ()
    deletes: tuple[str, ...] = ()
    shreds: tuple[bytes, ...] = ()


class Seen(NamedTuple):
    """What a live store showed when a step had returned."""

    made: tuple[str, ...]
    outcomes: dict[str, Outcome]
    gone: set[Held]
    identity: str | None
    """What the store said it is, if it was asked."""


def see(files: FileStore, step: Step, made: Iterable[str]) -> Seen:
    """Look at what `step` did."""
    outcomes = {ref: outcome(files, ref) for ref in (*step.deletes, *dict(step.puts))}
    gone = {held for held in step.removes if outcome(files, *held) == "absent"}
    return Seen(tuple(made), outcomes, gone, files._identity)


@dataclass
class Expected:
    """What may be found, by what was begun and what was acknowledged."""

    current: dict[str, set[Outcome]] = field(default_factory=dict)
    acknowledged: set[Held] = field(default_factory=set)
    leaving: set[Held] = field(default_factory=set)
    gone: set[Held] = field(default_factory=set)
    damaged: set[Held] = field(default_factory=set)
    evidence: tuple[bytes, ...] = ()
    kept: set[str] = field(default_factory=set)
    shredded: set[bytes] = field(default_factory=set)
    identity: str | None = None
    _begun: list[Step] = field(default_factory=list)
    _failed: list[Step] = field(default_factory=list)
    _positions: dict[str, Position] = field(default_factory=dict)
    _beside: dict[int, set[Held]] = field(default_factory=dict)
    """What was put beside a deletion of its ref: before it, and went, or after it. By step."""

    def begin(self, step: Step) -> None:
        """Expect what `step` leads to as well as what there was before."""
        self._begun.append(step)
        for ref, pair in step.puts:
            allowed = self.current.setdefault(ref, {"absent"})
            if self._moves(step, ref):
                allowed.add(pair)
        for ref in step.deletes:
            self.current[ref].add("absent")
            self._positions.pop(ref, None)
        for deletion, put in itertools.permutations(self._begun, 2):
            both = {held for held in put.puts if held[0] in deletion.deletes}
            self._beside.setdefault(id(deletion), set()).update(both)
            self._beside.setdefault(id(put), set()).update(both)
        self.gone -= set(step.puts)
        self.shredded -= {pair.data for _, pair in step.puts}
        self.leaving |= set(step.removes)
        self.acknowledged -= self.leaving

    def _maybe(self) -> set[Held]:
        """Return what was begun, and what of it happened nobody was told."""
        return {held for step in (*self._begun, *self._failed) for held in step.puts}

    def _moves(self, step: Step, ref: str) -> bool:
        return step.position is None or step.position >= self._positions.get(ref, (0, 0))

    def done(self, step: Step, seen: Seen | None = None) -> None:
        """Expect what `step` promised, now that it returned and this was seen right after."""
        self._begun.remove(step)
        self.shredded |= set(step.shreds)
        self.leaving -= set(step.removes)
        if seen:
            self.kept |= set(seen.made)
            self.gone |= seen.gone - self._beside.get(id(step), set())
            self._told(seen.identity)
            self.acknowledged |= set(step.removes) - seen.gone
        for ref in step.deletes:
            self.current[ref] = self._deleted(step, ref, seen) | self._under_way(ref)
        for ref, pair in step.puts:
            now = self._after(step, ref, pair) if seen is None else {seen.outcomes[ref]}
            if self._moves(step, ref):
                self._positions[ref] = step.position or (0, 0)
            if not now <= self.current[ref]:
                raise Lost(f"right after its Put, {ref} is {now}")
            self.current[ref] = now | self._under_way(ref)
            if any(ref in each.deletes for each in self._begun):
                self.current[ref].add("absent")
                continue
            if now == {"absent"} and (ref, pair) in self._beside.get(id(step), set()):
                continue
            self.acknowledged.add((ref, pair))
            self.damaged.discard((ref, pair))

    def _deleted(self, step: Step, ref: str, seen: Seen | None) -> set[Outcome]:
        """Return what a deletion left: nothing, or what was put beside it."""
        beside = self._beside.get(id(step), set())
        left: set[Outcome] = {pair for _, pair in beside}
        left.add("absent")
        if seen and (stayed := set(step.removes) - seen.gone - beside):
            raise Lost(f"deleted, but there: {stayed}")
        now = left if seen is None else {seen.outcomes[ref]}
        if not now <= left:
            raise Lost(f"right after its deletion, {ref} is {now}")
        return now

    def _told(self, identity: str | None) -> None:
        if self.identity and identity and identity != self.identity:
            raise Lost(f"the store {self.identity} says that it is {identity}")
        self.identity = self.identity or identity

    def _after(self, step: Step, ref: str, pair: Artifact) -> set[Outcome]:
        """Return where a Put that was not watched left the ref."""
        if not self._moves(step, ref):
            return self.current[ref]
        position = step.position or (1 << 64, 0)
        after: set[Outcome] = {pair}
        return after.union(
            other
            for each in self._failed
            for at, other in each.puts
            if at == ref and each.position and each.position > position
        )

    def _under_way(self, ref: str) -> set[Outcome]:
        return {
            pair
            for step in self._begun
            for at, pair in step.puts
            if at == ref and self._moves(step, ref)
        }

    def failed(self, step: Step) -> None:
        """Expect that `step` was done, or not, now that it raised."""
        self._begun.remove(step)
        self._failed.append(step)

    def damage(self, ref: str, pair: Artifact) -> None:
        """Expect that this version of `ref` cannot be read."""
        if pair in self.current[ref]:
            self.current[ref] = {"damaged"}
        self.damaged.add((ref, pair))
        self.acknowledged.remove((ref, pair))

    def key(self) -> tuple[object, ...]:
        """Return what tells one expectation from another."""
        return (
            frozenset((ref, frozenset(allowed)) for ref, allowed in self.current.items()),
            frozenset(self.acknowledged),
            frozenset(self.gone),
            frozenset(self.damaged),
            frozenset(self.kept),
            frozenset(self.shredded),
            self.identity,
            tuple(map(id, self._begun)),
            tuple(map(id, self._failed)),
        )

    # The questions.

    def check(self, root: Path, *, killed: bool) -> None:
        """Raise `Lost` unless the store at `root`, opened anew, is as it must be.

        After a `killed` process nothing that could be read may go by the next Put. A power cut
        may keep the ref's record and lose its version's name, which nobody was promised yet.
        """
        self._check_files(root)
        files = FileStore(str(root))
        if self.identity and files.identity != self.identity:
            raise Lost(f"the store {self.identity} is {files.identity} now")
        found = {ref: outcome(files, ref) for ref in self.current}
        for ref, allowed in self.current.items():
            if found[ref] not in allowed:
                raise Lost(f"{ref} is {found[ref]}, not one of {allowed}")
        self._check_versions(files)
        if not self.damaged:
            _check_intact(files)
        self._check_next_puts(files, found, killed=killed)

    def _check_files(self, root: Path) -> None:
        for path in self.kept:
            if not (root / path).exists():
                raise Lost(f"{path} is not there")
        for file in root.rglob("*") if self.shredded else ():
            if file.is_file() and any(data in file.read_bytes() for data in self.shredded):
                raise Lost(f"{file} has what was to be gone for good")
        if self.evidence:
            there = {path.read_bytes() for path in root.rglob("*") if path.is_file()}
            if not there.issuperset(self.evidence):
                raise Lost("what was damaged is gone, and cannot be studied")

    def _check_versions(self, files: FileStore) -> None:
        for held in self.acknowledged:
            _check_held(files, *held)
        for ref, pair in (self._maybe() | self.leaving) - self.acknowledged:
            now = outcome(files, ref, pair)
            if now not in (pair, "damaged" if self.damaged else "absent", "absent"):
                raise Lost(f"{ref} pinned is {now}")
        for ref, pair in self.gone - self.acknowledged:
            if (now := outcome(files, ref, pair)) != "absent":
                raise Lost(f"{ref}, removed, is {now}")

    def _check_next_puts(
        self, files: FileStore, found: dict[str, Outcome], *, killed: bool
    ) -> None:
        """Put over every ref, and then again all that was put before."""
        held = set(self.acknowledged)
        for ref, now in found.items():
            files.put(ref, b"afterwards", b"")
            held.add((ref, Artifact(b"afterwards", b"")))
            if killed and isinstance(now, Artifact) and (ref, now) not in self.damaged:
                held.add((ref, now))
        for each in held:
            _check_held(files, *each)
        again = self._maybe() | self.acknowledged
        for ref, pair in again | self.damaged:
            files.put(ref, *pair)
            if (now := outcome(files, ref)) != pair:
                raise Lost(f"{ref} was put again and is {now}")
        for each in held | again | self.damaged:
            _check_held(files, *each)
        _check_intact(files)


def outcome(files: FileStore, ref: str, pin: Artifact | None = None) -> Outcome:
    """Return what reading the ref, or one version of it, comes to."""
    pins: dict[str, Any] = {}
    if pin is not None:
        pins = {
            "checksum": checksum_of(pin.data),
            "manifest_checksum": checksum_of(pin.manifest),
        }
    try:
        return files.get(ref, **pins)
    except NotFound:
        return "absent"
    except Corrupt:
        return "damaged"


def _check_held(files: FileStore, ref: str, pair: Artifact) -> None:
    if (now := outcome(files, ref, pair)) != pair:
        raise Lost(f"{ref}, which was acknowledged, is {now} now")
    if files.get(ref, checksum=checksum_of(pair.data)).data != pair.data:
        raise Lost(f"{ref} by its data's checksum is something else")


def _check_intact(files: FileStore) -> None:
    if errors := [each.error for each in files.verify() if each.error]:
        raise Lost(f"verify finds {errors}")
