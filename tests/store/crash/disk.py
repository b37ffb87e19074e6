"""What a power cut may leave of a tree of directories: all that POSIX allows, and no less.

A file's content is durable once the file was flushed; before that, it may be empty, cut, zeros or
whole. A directory's entries are durable once the directory was flushed; of those since, any subset
may be there, each directory for itself: a rename between two directories is an addition and a
removal that know nothing of each other. Only that a rename replaces a name at once holds.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 4096
"""No moment has more states: all are tried, none is left to chance."""

Entries = dict[str, int]
"""A directory: names, and the nodes that they name."""


class Change(NamedTuple):
    """Names of one directory that change in one step; None is a removal."""

    directory: int
    entries: tuple[tuple[str, int | None], ...]


class Write(NamedTuple):
    """A file has this content now, in memory."""

    file: int
    content: bytes


class Flush(NamedTuple):
    """A file or a directory was flushed."""

    node: int


Operation = Change | Write | Flush


@dataclass(frozen=True)
class State:
    """A tree as it may be found after a power cut: its directories and files, by node."""

    top: int
    directories: dict[int, Entries]
    files: dict[int, bytes]
    scratch: frozenset[int]

    def key(self) -> tuple[tuple[str, int, bytes | None], ...]:
        """Return what tells it from others: paths, links and contents, but for scratch."""
        numbers: dict[int, int] = {}
        return tuple(
            (path, numbers.setdefault(node, len(numbers)), self.files.get(node))
            for path, node in self._walk(self.top, "")
        )

    def _walk(self, directory: int, path: str) -> Iterator[tuple[str, int]]:
        if directory in self.scratch:
            return
        for name, node in sorted(self.directories[directory].items()):
            yield f"{path}/{name}", node
            if node in self.directories:
                yield from self._walk(node, f"{path}/{name}")

    def make(self, path: Path) -> None:
        """Make a real directory of it."""
        made: dict[int, str] = {}

        def fill(directory: int, path: str) -> None:
            os.mkdir(path)
            for name, node in self.directories[directory].items():
                below = f"{path}/{name}"
                if node in self.directories:
                    fill(node, below)
                elif node in made:
                    os.link(made[node], below)
                else:
                    made[node] = below
                    with open(below, "wb") as file:
                        file.write(self.files[node])

        fill(self.top, str(path))


@dataclass
class Disk:
    """A tree, what of it is durable, and what has changed since.

    `scratch` are the directories whose names nobody reads: of those, all changes are there, or
    none.
    """

    top: int
    directories: dict[int, Entries]
    files: dict[int, bytes]
    scratch: set[int]
    _changes: dict[int, list[Change]] = field(default_factory=lambda: defaultdict(list))
    _writes: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def add_directory(self, node: int, *, scratch: bool) -> None:
        """Note a new directory, empty as long as nothing in it is durable."""
        self.directories[node] = {}
        if scratch:
            self.scratch.add(node)

    def apply(self, operation: Operation) -> None:
        """Follow one operation."""
        match operation:
            case Change(directory):
                self._changes[directory].append(operation)
            case Write(file, content):
                self._writes[file].append(content)
            case Flush(node) if node in self.directories:
                self.directories[node] = _after(self.directories[node], self._changes.pop(node, ()))
            case Flush(node):
                if node in self._writes:
                    self.files[node] = self._writes.pop(node)[-1]

    def now(self) -> State:
        """Return the tree as a process sees it, and as a killed one leaves it."""
        directories = {
            node: _after(entries, self._changes.get(node, ()))
            for node, entries in self.directories.items()
        }
        files = self._with_unwritten({node: each[-1] for node, each in self._writes.items()})
        return State(self.top, directories, files, frozenset(self.scratch))

    def after_power_cut(self) -> Iterator[State]:
        """Yield every state that a power cut at this moment may leave."""
        changed = [node for node in self._changes if node not in self.scratch]
        written = [node for node in self._writes if node in self._named(changed)]
        dimensions: list[list[Any]] = [[True, False]]
        dimensions += [_subsets(self.directories[node], self._changes[node]) for node in changed]
        dimensions += [_contents(self.files.get(node, b""), self._writes[node]) for node in written]
        for scratch, *chosen in _combinations(dimensions):
            directories = self.directories | dict(zip(changed, chosen, strict=False))
            if scratch:
                for node in self.scratch:
                    directories[node] = _after(directories[node], self._changes.get(node, ()))
            files = dict(zip(written, chosen[len(changed) :], strict=True))
            yield State(self.top, directories, self._with_unwritten(files), frozenset(self.scratch))

    def _named(self, changed: list[int]) -> set[int]:
        """Return the nodes that a name outside scratch may lead to."""
        durable = {
            node
            for directory, entries in self.directories.items()
            if directory not in self.scratch
            for node in entries.values()
        }
        pending = (entry for node in changed for each in self._changes[node] for entry in each[1])
        return durable | {node for _, node in pending if node is not None}

    def _with_unwritten(self, files: dict[int, bytes]) -> dict[int, bytes]:
        unwritten = {
            node: b""
            for changes in self._changes.values()
            for change in changes
            for _, node in change.entries
            if node is not None and node not in self.directories
        }
        return unwritten | self.files | files


def _after(entries: Entries, changes: list[Change] | tuple[Change, ...]) -> Entries:
    entries = dict(entries)
    for change in changes:
        for name, node in change.entries:
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node
    return entries


def _subsets(entries: Entries, changes: list[Change]) -> list[Entries]:
    """Return the entries after every subset of the changes, each once."""
    found = {}
    for chosen in itertools.product((False, True), repeat=len(changes)):
        after = _after(entries, list(itertools.compress(changes, chosen)))
        found[frozenset(after.items())] = after
    return list(found.values())


def _contents(durable: bytes, written: list[bytes]) -> list[bytes]:
    last = written[-1]
    return list(dict.fromkeys([durable, b"", last[: len(last) // 2], bytes(len(last)), *written]))


def _combinations(dimensions: list[list[Any]]) -> Iterator[tuple[Any, ...]]:
    count = prod(map(len, dimensions))
    assert count <= LIMIT, f"{count} states of one moment: too many to try them all"
    return itertools.product(*dimensions)
