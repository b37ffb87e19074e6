"""The proofs bite: take one flush, one order or one look out of the backend, and one is lost."""

from __future__ import annotations
import __future__

import ast
import inspect
import sys
import textwrap
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from store import posix
from store.file import FileStore, backend, copying, deleting, names, purging, root, tree, upkeep
from store.file.names import Names
from store.file.tree import Tree
from store.posix import Root
from tests.proofs import sampled
from tests.store.crash.judge import Lost
from tests.store.crash.stories import judge_any


class Change(NamedTuple):
    """One piece of a function's text, and what stands there instead."""

    owner: type | ModuleType
    function: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A changed backend, and the case or race that shows the harm."""

    caught_by: str
    changes: tuple[Change, ...]


def without(owner: type | ModuleType, function: str, flushed: str, caught_by: str) -> Mutant:
    """Return a mutant without the flush of a descriptor."""
    return Mutant(caught_by, (Change(owner, function, f"os.fsync({flushed})", "pass"),))


NO_FLUSH = {
    "of a record": without(Tree, "write", "fd", "case: overwrite"),
    "of an object": without(copying, "copy", "fd", "case: large"),
    "of an object's name": without(Names, "name_object", "directory_fd", "case: large"),
    "of a record's names": without(Names, "put_record", "directory_fd", "case: overwrite"),
    "of a new directory's name": without(Root, "_settle", "parent_fd", "case: new ref"),
    "of the way to a root": without(Root, "_settle_root", "fd", "case: new root"),
    "of the format file": without(root, "_create_file", "fd", "case: new root"),
    "of a root's directories": without(root, "_create_file", "root_fd", "case: new root"),
    "of an identity's name": without(
        root, "identity", "root_fd", "case: identity of an older store"
    ),
    "of a deleted version": without(
        deleting, "delete", "directory_fd", "case: delete an old version"
    ),
    "of deleted refs": without(deleting, "_delete_some", "directory_fd", "case: delete many"),
    "of purged records": without(deleting, "remove", "directory_fd", "case: purge"),
    "of purged data": without(purging, "_flush", "directory_fd", "case: purge"),
    "of what is purged from quarantine": without(
        purging, "_let_go", "directory_fd", "case: purge what is moved aside"
    ),
    "of a damaged record's new name": without(
        upkeep, "_quarantine_record", "quarantine_fd", "case: quarantine record"
    ),
    "of a damaged object's new name": without(
        upkeep, "_quarantine_object", "quarantine_fd", "case: quarantine object"
    ),
    "of versions that were removed": without(
        upkeep, "_remove_versions", "directory_fd", "case: collect"
    ),
}

# Whoever reads what verification moved aside finds it damaged in either place; should it come
# back, the next verification moves it again.
NOT_NEEDED = {
    "of a damaged record's old names": without(
        upkeep, "_quarantine_record", "directory_fd", "case: quarantine record"
    ),
    "of a damaged object's old name": without(
        upkeep, "_quarantine_object", "directory_fd", "case: quarantine object"
    ),
}

_INDENTED = ("\n        os.fsync(directory_fd)", "\n            os.fsync(directory_fd)")

OTHERS = {
    "own record flushed, another's not": Mutant(
        "race: same new ref", (Change(Names, "put_record", *_INDENTED),)
    ),
    "own object flushed, another's not": Mutant(
        "race: same object", (Change(Names, "name_object", *_INDENTED),)
    ),
    "own directory flushed, another's not": Mutant(
        "race: new directories",
        (
            Change(Root, "_step", "self._durable.pop(", "made = self._durable.pop("),
            Change(Root, "_step", "    if create:", "    if create and 'made' in locals():"),
        ),
    ),
    "own root flushed, another's not": Mutant(
        "race: new root",
        (
            # The second writer is told by having no time to wait.
            Change(
                Root, "_settle_root", "if self._root_is_durable",
                "if self._root_is_durable or not self._timeout_s",
            ),
        ),
    ),
    "own identity flushed, another's not": Mutant(
        "race: identity of an older store",
        (
            Change(root, "identity", "found = _read_identity(root_fd, root)\n    if found is None:",
                   "found = there = _read_identity(root_fd, root)\n    if found is None:"),
            Change(root, "identity", "os.fsync(root_fd)", "there or os.fsync(root_fd)"),
        ),
    ),
    "an identity told before its root is there": Mutant(
        "case: identity of a new root",
        (Change(Tree, "store_identity", "self._settle_root()", "pass"),),
    ),
    "record before its object": Mutant(
        "case: large",
        (
            Change(
                FileStore, "_put_large", "self._names.name_object(temporary, digest, size)", "pass"
            ),
            Change(
                FileStore, "_put_large", "    return found",
                "            self._names.name_object(temporary, digest, size)\n    return found",
            ),
        ),
    ),
    "object named before it is flushed": Mutant(
        "case: large",
        (
            Change(copying, "copy", "os.fsync(fd)", "pass"),
            Change(
                FileStore, "_put_large", "    return found",
                "            os.fsync(fd)\n    return found",
            ),
        ),
    ),
    "ref moved before its version has a name": Mutant(
        "case: overwrite",
        (
            Change(
                Names, "_point", "    try:",
                "    tree.rename(tree.twin(temporary), directory_fd, place.leaf)\n    try:",
            ),
        ),
    ),
    "version without a name": Mutant(
        "case: overwrite",
        (
            Change(
                Names, "_point",
                "os.link(temporary, version, src_dir_fd=tree.tmp_fd, dst_dir_fd=directory_fd)",
                "pass",
            ),
        ),
    ),
    "version left without its name": Mutant(
        "twice: overwrite",
        (Change(Names, "_point", "self._keep_current(directory_fd, place)", "pass"),),
    ),
    "damaged version left": Mutant(
        "case: heal version",
        (
            Change(
                Names, "_point", "tree.rename(twin, directory_fd, version)",
                "tree.discard(twin)",
            ),
            Change(
                Names, "_heal_version", "tree.rename(twin, directory_fd, version)",
                "tree.discard(twin)",
            ),
        ),
    ),
    "record believed unread": Mutant(
        "case: heal record",
        (
            Change(
                Names, "_holds",
                "records.whole(self._tree, current).content[current.body_at :] == body", "True",
            ),
        ),
    ),
    "version believed unread": Mutant(
        "case: heal version",
        (Change(Names, "_holds", "current.inode == version.st_ino", "bool(version)"),),
    ),
    "object believed unread": Mutant(
        "case: heal object",
        (
            Change(
                Names, "_freshened",
                "records.digest_of(self._tree, directory_fd, digest, path, size) == digest",
                "os.stat(digest, dir_fd=directory_fd)",
            ),
        ),
    ),
    "positions not looked at": Mutant(
        "case: position overtaken",
        (Change(Names, "_name", "if aimed.aim.moves:", "if True:"),),
    ),
    "no lock of records": Mutant(
        "race: positions",
        (
            Change(
                Names, "_publish",
                "tree.lock(upkeep.lock_of_records(place.path))",
                "None",
            ),
        ),
    ),
    "no lock of objects": Mutant(
        "race: collect during a large Put",
        (
            Change(
                FileStore, "_put_large",
                "self._tree.locked(upkeep.lock_of_object(digest), shared=True)",
                "contextlib.nullcontext()",
            ),
        ),
    ),
    "a removed directory still believed durable": Mutant(
        "case: removed directories",
        (Change(Root, "_step", "self._durable.pop(path, None)", "pass"),),
    ),
    "a deletion that leaves old versions": Mutant(
        "case: delete", (Change(deleting, "_unlinked", "in names:\n", "in names[:1]:\n"),),
    ),
    "a deletion that leaves the current record": Mutant(
        "case: delete, put", (Change(deleting, "_unlinked", "in names:\n", "in names[1:]:\n"),),
    ),
    "a deletion of many that skips one": Mutant(
        "case: delete many",
        (Change(deleting, "_delete_some", "in places\n            if _un", "in places[:1]\n"
                "            if _un"),),
    ),
    "a deletion of many that tells before its flush": Mutant(
        "case: delete many",
        (Change(deleting, "_delete_some", "os.fsync(directory_fd)", "tree.delayed = way"),
         Change(deleting, "delete_all", "_TOGETHER], since)",
                "_TOGETHER], since)\n    with tree.directory(tree.delayed) as directory_fd:\n"
                "        os.fsync(directory_fd)")),
    ),
    "a purge that leaves the data": Mutant(
        "case: purge", (Change(purging, "_data", "for digest, file in objects.items()",
                               "for digest, file in ()"),),
    ),
    "a purge that takes what others have": Mutant(
        "case: purge shared data",
        (Change(purging, "_data", "digest not in named and ", ""),),
    ),
    "data removed before its record's end is flushed": Mutant(
        "race: collect during a purge", (Change(upkeep, "collect", "wait_for_deletions(tree)",
                                                "pass"),),
    ),
    "a directory believed durable too early": Mutant(
        "failing flush: new ref",
        (
            Change(
                Root, "_settle", "os.fsync(parent_fd)",
                "self._durable[path] = identity; os.fsync(parent_fd)",
            ),
        ),
    ),
    "a root believed durable too early": Mutant(
        "failing flush: new root",
        (
            Change(
                Root, "_settle_root", "device, above =",
                "self._root_is_durable = True; device, above =",
            ),
        ),
    ),
    "a failed flush tried again": Mutant(
        "failing flush: overwrite",
        (
            Change(
                Tree, "write", "os.fsync(fd)",
                "\n        try: os.fsync(fd)\n        except OSError: os.fsync(fd)",
            ),
        ),
    ),
}  # fmt: skip
MUTANTS = {f"no flush {name}": mutant for name, mutant in NO_FLUSH.items()} | OTHERS
SAMPLE = (
    "no flush of a record", "no flush of an object's name", "no flush of the way to a root",
    "own record flushed, another's not", "record before its object", "damaged version left",
    "no lock of objects", "a directory believed durable too early", "a failed flush tried again",
)  # fmt: skip


def mutate(changes: tuple[Change, ...], patch: pytest.MonkeyPatch) -> None:
    """Change the text of functions, and put what it means in their place."""
    texts: dict[tuple[Any, str], str] = {}
    for owner, function, old, new in changes:
        text = texts.get((owner, function)) or textwrap.dedent(
            inspect.getsource(getattr(owner, function))
        )
        assert text.count(old) == 1, f"{function} has changed: {old!r} is not there once"
        texts[owner, function] = text.replace(old, new)
    for (owner, function), text in texts.items():
        module = owner if isinstance(owner, ModuleType) else sys.modules[owner.__module__]
        found: dict[str, Any] = {}
        code = compile(text, module.__name__, "exec", __future__.annotations.compiler_flag)
        exec(code, module.__dict__, found)
        patch.setattr(owner, function, found[function])


@pytest.mark.parametrize("name", sampled(MUTANTS, SAMPLE))
def test_mutant_is_caught(name: str, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that leaves something out loses something in a state that is enumerated."""
    mutate(MUTANTS[name].changes, monkeypatch)
    with pytest.raises(Lost):
        judge_any(MUTANTS[name].caught_by, memory, monkeypatch)


@pytest.mark.parametrize("name", NOT_NEEDED)
def test_flush_beyond_the_promise(name: str, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two flushes could be left out: they only keep what is damaged from coming back."""
    mutate(NOT_NEEDED[name].changes, monkeypatch)
    judge_any(NOT_NEEDED[name].caught_by, memory, monkeypatch)


def test_every_flush_has_its_mutant() -> None:
    """No flush of the backend is without a proof that it is needed, or is not."""
    there: Counter[str] = Counter()
    for module in (backend, deleting, purging, names, posix, copying, root, tree, upkeep):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef):
                there[node.name] += ast.unparse(node).count("os.fsync(")
    tried = Counter(
        mutant.changes[0].function for mutant in (*NO_FLUSH.values(), *NOT_NEEDED.values())
    )
    assert +there == tried
