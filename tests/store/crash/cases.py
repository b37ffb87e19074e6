"""What is done to a store while the power may go: one writer's cases, and two writers' races."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from store import Artifact, Position, Retention, checksum_of
from store.file import FileStore
from tests.store.crash.judge import Expected, Held, Step

BIG = b"b" * 65_537
BIGGER = b"c" * 70_001
REF = "a/b/c"
NOW = Retention(grace_s=0)


@dataclass(frozen=True)
class Case:
    """A store as it is at first, all durable, and the steps that a power cut meets.

    Attributes:
        steps: what is recorded.
        before: what was put, durably, by the same process.
        planted: is done to the root after that, and to what is expected.
        below: where the store is made while it is recorded, if it is not there before.

    """

    steps: tuple[Step, ...]
    before: tuple[Step, ...] = ()
    planted: Callable[[Path, Expected], None] | None = None
    below: str = ""


@dataclass(frozen=True)
class Race:
    """A first writer that is stopped before any of its operations, for a second one."""

    first: Step
    second: Step
    before: tuple[Step, ...] = ()
    planted: Callable[[Path, Expected], None] | None = None
    below: str = ""


def put(ref: str, data: bytes, manifest: bytes = b"m", position: Position | None = None) -> Step:
    """Return a Put."""

    def act(files: FileStore) -> Iterable[str]:
        files.put(ref, data, manifest, position=position)
        return ()

    return Step(act, ((ref, Artifact(data, manifest)),), position)


def stream(ref: str, data: bytes, *, by_kernel: bool = False) -> Step:
    """Return a Put from a reader, or from a file that the kernel can copy."""

    def act(files: FileStore) -> Iterable[str]:
        if not by_kernel:
            files.put_from(ref, io.BytesIO(data), b"m")
            return ()
        with tempfile.TemporaryFile(dir=files._root) as source:
            source.write(data)
            source.flush()
            with open(f"/proc/self/fd/{source.fileno()}", "rb") as reader:
                files.put_from(ref, reader, b"m")
        return ()

    return Step(act, ((ref, Artifact(data, b"m")),))


def tell() -> Step:
    """Return the question which store it is."""

    def act(files: FileStore) -> Iterable[str]:
        assert files.identity
        return ()

    return Step(act)


def quarantine(files: FileStore) -> Iterable[str]:
    """Verify, and move aside what is damaged."""
    kept = [each.quarantined for each in files.verify(quarantine=True) if each.quarantined]
    return [path.removeprefix(f"{files._root}/") for path in kept]


def collect(files: FileStore) -> Iterable[str]:
    """Collect all that can be."""
    list(files.collect(NOW, tuple))
    return ()


def delete(ref: str, *removes: Artifact, checksum: str | None = None) -> Step:
    """Return a deletion of a ref with these versions, or of the version with that data."""

    def act(files: FileStore) -> Iterable[str]:
        files.delete(ref, checksum=checksum)
        return ()

    gone = tuple((ref, pair) for pair in removes)
    return Step(act, removes=gone, deletes=(ref,) if checksum is None else ())


def delete_all(*removes: Held) -> Step:
    """Return a deletion of many refs with these versions."""
    return _deleting_all(removes, lambda files, refs: list(files.delete_all(refs)))


def delete_all_stepwise(first: tuple[Held, ...], rest: tuple[Held, ...]) -> tuple[Step, ...]:
    """Return one deletion as two steps: what is told first is gone for good, whatever follows.

    `first` are the refs of one directory.
    """
    told: list[Iterator[str]] = []

    def begin(files: FileStore, refs: Iterable[str]) -> object:
        told[:] = [files.delete_all([*refs, *dict(rest)])]
        return next(told[0])

    return _deleting_all(first, begin), _deleting_all(rest, lambda *_: list(told[0]))


def _deleting_all(
    removes: tuple[Held, ...], do: Callable[[FileStore, Iterable[str]], object]
) -> Step:
    refs = tuple(dict(removes))

    def act(files: FileStore) -> Iterable[str]:
        do(files, refs)
        return ()

    return Step(act, removes=removes, deletes=refs)


def purge(ref: str, *removes: Artifact, shreds: tuple[bytes, ...] = ()) -> Step:
    """Return a purge of a ref with these versions, of which no file has `shreds` afterwards."""

    def act(files: FileStore) -> Iterable[str]:
        list(files.purge([ref]))
        return ()

    gone = tuple((ref, pair) for pair in removes)
    return Step(act, removes=gone, deletes=(ref,), shreds=shreds)


def _object(root: Path, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return root / "objects/sha256" / digest[:2] / digest


def _spoil(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"spoilt" + path.read_bytes()[6:])


def _spoil_object(root: Path, expected: Expected) -> None:
    _spoil(_object(root, BIG))
    for ref in ("one", "two"):
        expected.damage(ref, Artifact(BIG, b"m"))


def _spoil_record(root: Path, expected: Expected) -> None:
    path = root / f"refs/{REF}@"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    expected.damage(REF, Artifact(b"2", b"m"))


def _spoil_record_for_study(root: Path, expected: Expected) -> None:
    _spoil_record(root, expected)
    expected.evidence = ((root / f"refs/{REF}@").read_bytes(),)


def _move_aside(root: Path, expected: Expected) -> None:
    """As verification leaves a damaged record."""
    path = root / f"refs/{REF}@"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    list(FileStore(str(root)).verify(quarantine=True))
    expected.damage(REF, Artifact(_SPOILT, b"m"))


def _spoil_version(root: Path, expected: Expected) -> None:
    """As after a restore that broke the hard links: only the version's own record is spoilt."""
    current = root / f"refs/{REF}@"
    (version,) = (each for each in current.parent.glob("c@?*") if each.samefile(current))
    version.unlink()
    version.write_bytes(b"spoilt")
    expected.damage(REF, Artifact(b"1", b"m"))
    expected.current[REF] = {Artifact(b"1", b"m")}


def _remove_directories(root: Path, expected: Expected) -> None:
    """As an operator would, while the store is open."""
    shutil.rmtree(root / "refs/a")
    expected.current[REF] = {"absent"}
    expected.acknowledged.clear()


def _remove_identity(root: Path, _expected: Expected) -> None:
    """As a store was before there were any."""
    (root / "IDENTITY").unlink()


def _remove_objects(root: Path, expected: Expected) -> None:
    shutil.rmtree(root / "objects/sha256")
    expected.damage(REF, Artifact(BIG, b"m"))


_V1, _V2 = put(REF, b"1"), put(REF, b"2")
_ONE, _TWO, _BIG = (Artifact(data, b"m") for data in (b"1", b"2", BIG))
_HEALED = Step(put("two", BIG).act, tuple((ref, Artifact(BIG, b"m")) for ref in ("one", "two")))

_SIBLING, _FAR = "a/b/d", "x/1"
_MANY = delete_all((REF, _ONE), (_SIBLING, _ONE))
_ALL = delete_all_stepwise(
    ((REF, _ONE), (REF, _TWO), (_SIBLING, _ONE)), ((_FAR, _ONE),)
)  # fmt: skip

_SPOILT = b"what is spoilt"
_PURGED = purge(REF, _ONE, Artifact(_SPOILT, b"m"), shreds=(_SPOILT[:-1],))


CASES = {
    "new ref": Case((put(REF, b"1"),)),
    "overwrite": Case((_V2,), (_V1,)),
    "same content": Case((_V1,), (_V1,)),
    "old content": Case((_V1,), (_V1, _V2)),
    "new manifest": Case((put(REF, b"1", b"other"),), (_V1,)),
    "large": Case((put(REF, BIG),)),
    "large overwrite": Case((put(REF, BIGGER),), (put(REF, BIG),)),
    "large same content": Case((put(REF, BIG),), (put(REF, BIG),)),
    "shared object": Case((put("other", BIG, b"n"),), (put(REF, BIG),)),
    "small to large and back": Case((put(REF, BIG), _V1), (_V1,)),
    "heal object": Case((_HEALED,), (put("one", BIG), put("two", BIG)), _spoil_object),
    "heal record": Case((_V2,), (_V1, _V2), _spoil_record),
    "heal record by other": Case((put(REF, b"3"),), (_V1, _V2), _spoil_record),
    "heal version": Case((_V1, _V2), (_V1,), _spoil_version),
    "position moves": Case((put(REF, b"2", position=(2, 0)),), (put(REF, b"1", position=(1, 0)),)),
    "position overtaken": Case(
        (put(REF, b"1", position=(1, 0)),), (put(REF, b"2", position=(2, 0)),)
    ),
    "position again, later": Case(
        (put(REF, b"1", position=(3, 0)),), (put(REF, b"1", position=(2, 0)),)
    ),
    "stream small": Case((stream(REF, b"1"),)),
    "stream large": Case((stream(REF, BIG),), (_V1,)),
    "stream by kernel": Case((stream(REF, BIG, by_kernel=True),), (_V1,)),
    "two refs": Case((put("x/1", b"1"), put("x/2", b"2"), put("x/1/y", b"3"))),
    "removed directories": Case((_V1,), (_V1,), _remove_directories),
    "removed objects": Case((put(REF, BIG),), (put(REF, BIG),), _remove_objects),
    "new root": Case((put(REF, b"1"), put(REF, BIG)), below="deep/er"),
    "identity of a new root": Case((tell(), put(REF, b"1")), below="deep/er"),
    "identity of an older store": Case((tell(),), planted=_remove_identity),
    "quarantine record": Case((Step(quarantine),), (_V1, _V2), _spoil_record_for_study),
    "quarantine object": Case(
        (Step(quarantine),), (put("one", BIG), put("two", BIG)), _spoil_object
    ),
    # What `other` had is removed, and its object stays: REF is still there.
    "collect": Case(
        (
            Step(
                collect,
                removes=(
                    (REF, Artifact(BIG, b"m")),
                    (REF, Artifact(b"1", b"m")),
                    ("other", Artifact(BIGGER, b"m")),
                ),
            ),
        ),
        (put(REF, BIG), _V1, put(REF, BIGGER), put("other", BIGGER), put("other", b"1")),
    ),
    "delete": Case((delete(REF, _ONE, _TWO),), (_V1, _V2, put("a/b/other", b"1"))),
    "delete large": Case((delete(REF, _BIG),), (put(REF, BIG), put("other", BIG))),
    "delete again": Case((delete(REF, _ONE), delete(REF, _ONE)), (_V1,)),
    "delete, put": Case((delete(REF, _ONE, _TWO), _V1), (_V1, _V2)),
    "delete an old version": Case((delete(REF, _ONE, checksum=checksum_of(b"1")),), (_V1, _V2)),
    "delete many": Case(_ALL, (_V1, _V2, put(_SIBLING, b"1"), put(_FAR, b"1"))),
    "delete many again": Case((_MANY, _MANY), (_V1, put(_SIBLING, b"1"))),
    "delete many, put": Case((_MANY, put(_SIBLING, b"1")), (_V1, put(_SIBLING, b"1"))),
    "purge": Case(
        (purge(REF, _ONE, _BIG, shreds=(BIG,)),), (put(REF, BIG), _V1, put("other", BIGGER))
    ),
    "purge shared data": Case((purge(REF, _BIG),), (put(REF, BIG), put("other", BIG))),
    "purge, put": Case((purge(REF, _BIG, shreds=(BIG,)), put(REF, BIG)), (put(REF, BIG),)),
    "purge again": Case((purge(REF, _BIG), purge(REF, _BIG, shreds=(BIG,))), (put(REF, BIG),)),
    "purge what is moved aside": Case((_PURGED,), (_V1, put(REF, _SPOILT)), _move_aside),
    "delete what is damaged": Case((delete(REF, _ONE),), (_V1, _V2), _spoil_record),
}

RACES = {
    "new directories": Race(put("a/b/one", b"1"), put("a/b/two", b"2")),
    "same new ref": Race(put(REF, b"1"), put(REF, b"1")),
    "same ref": Race(put(REF, b"2"), put(REF, b"3"), (_V1,)),
    "same overwrite": Race(put(REF, b"2"), put(REF, b"2"), (_V1,)),
    "positions": Race(
        put(REF, b"2", position=(2, 0)),
        put(REF, b"3", position=(3, 0)),
        (put(REF, b"1", position=(1, 0)),),
    ),
    "positions, against": Race(
        put(REF, b"3", position=(3, 0)),
        put(REF, b"2", position=(2, 0)),
        (put(REF, b"1", position=(1, 0)),),
    ),
    "same object": Race(put("one", BIG), put("two", BIG)),
    "same large ref": Race(put(REF, BIG), put(REF, BIG)),
    "new root": Race(put("one", b"1"), put("two", b"2"), below="deep/er"),
    "identity of a new root": Race(tell(), tell(), below="deep/er"),
    "identity of an older store": Race(tell(), tell(), planted=_remove_identity),
    "collect during a large Put": Race(put(REF, BIG), Step(collect), (put("x", b"1"),)),
    "collect during an overwrite": Race(
        put(REF, b"2"), Step(collect, removes=((REF, Artifact(b"1", b"m")),)), (_V1,)
    ),
    "delete during an overwrite": Race(_V2, delete(REF, _ONE, _TWO), (_V1,)),
    "delete during the same Put": Race(_V1, delete(REF, _ONE), (_V1,)),
    "delete during a large Put": Race(put(REF, BIG), delete(REF, _ONE, _BIG), (_V1,)),
    "purge during a large Put": Race(put(REF, BIG), purge(REF, _ONE, _BIG), (_V1,)),
    "purge during a large Put of another": Race(
        put("other", BIG), purge(REF, _BIG), (put(REF, BIG),)
    ),
    "Put during a purge": Race(purge(REF, _BIG), put("other", BIG), (put(REF, BIG),)),
    "purge during a purge": Race(purge(REF, _BIG), purge(REF, _BIG), (put(REF, BIG),)),
    "collect during a purge": Race(purge(REF, _BIG), Step(collect), (put(REF, BIG),)),
    "Put during a deletion": Race(delete(REF, _ONE, _TWO), _V2, (_V1,)),
    "same Put during a deletion": Race(delete(REF, _ONE), _V1, (_V1,)),
    "delete during a deletion": Race(delete(REF, _ONE), delete(REF, _ONE), (_V1,)),
    "delete many during an overwrite": Race(
        put(_SIBLING, b"2"),
        delete_all((REF, _ONE), (_SIBLING, _ONE), (_SIBLING, _TWO)),
        (_V1, put(_SIBLING, b"1")),
    ),
    "Put during a deletion of many": Race(_MANY, put(_SIBLING, b"2"), (_V1, put(_SIBLING, b"1"))),
    "collect during a deletion": Race(delete(REF, _ONE, _TWO), Step(collect), (_V1, _V2)),
    "Put during a collection": Race(
        Step(collect, removes=(("one", Artifact(BIG, b"m")),)),
        put("two", BIG),
        (put("one", BIG), put("one", b"1")),
    ),
}
