"""Runs a case under the recorder, and judges all that a crash at any moment could leave."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import NamedTuple

import pytest

import store.file.root
import store.file.tree
import store.posix
import store.record
from store import StoreError, Unavailable
from store.file import FileStore
from tests.store.crash.cases import CASES, RACES, Case, Race
from tests.store.crash.disk import Change, Disk, Flush, Operation, State, Write
from tests.store.crash.judge import Expected, Held, Lost, Seen, Step, outcome, see
from tests.store.crash.recording import Recorder


class Begin(NamedTuple):
    """A step began."""

    step: Step


class Done(NamedTuple):
    """A step returned."""

    step: Step
    seen: Seen


@dataclass
class Story:
    """What was done, in order: the store's operations, and what its callers were told."""

    disk: Disk
    expected: Expected
    log: list[Operation | Begin | Done]


@dataclass
class Judge:
    """Makes every state that a crash may leave, and checks it: each but once."""

    directory: Path
    below: str
    moments: int = 0
    states: int = 0
    left: list[tuple[State, set[Held]]] = field(default_factory=list)
    """What power cuts left, and what had been acknowledged by then."""
    _seen: set[object] = field(default_factory=set)

    def judge(self, story: Story) -> None:
        """Raise `Lost` when some state is not as it must be.

        Between two flushes the possible states only become more: they are made before a flush,
        and before and after what a caller was told.
        """
        disk, expected = story.disk, story.expected
        more = True
        for event in [*story.log, None]:
            if more and not isinstance(event, Change | Write):
                self.moments += 1
                for state in disk.after_power_cut():
                    self._check(state, expected, killed=False)
            more = not isinstance(event, Flush)
            match event:
                case Begin(step):
                    expected.begin(step)
                case Done(step, seen):
                    expected.done(step, seen)
                case Change() | Write() | Flush():
                    disk.apply(event)
                    self._check(disk.now(), expected, killed=True)

    def _check(self, state: State, expected: Expected, *, killed: bool) -> None:
        key = (state.key(), expected.key(), killed)
        if key in self._seen:
            return
        self._seen.add(key)
        self.states += 1
        if not killed:
            self.left.append((state, set(expected.acknowledged)))
        place = self.directory / str(self.states)
        state.make(place)
        try:
            expected.check(place / self.below, killed=killed)
        except StoreError as error:
            raise Lost(f"after the crash the store fails: {error}") from error
        shutil.rmtree(place)


class _Clock(datetime):
    """Stands still, so that two runs write the same records."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Clock:
        return cls(2026, 1, 1, microsecond=1, tzinfo=tz or UTC)


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Make time stand still, flushing cost nothing, and every inode's number be used again."""
    patch.setattr(store.record, "datetime", _Clock)
    for module in (store.posix, store.file.tree):
        patch.setattr(module, "identity_of", lambda found: (found.st_dev, 0))
    patch.setattr(os, "fsync", lambda _fd: None)


def tell(
    case: Case, directory: Path, patch: pytest.MonkeyPatch, failing_flush: int = 0
) -> tuple[Story, bool]:
    """Run a case; return its story, and whether it had a flush of that number, which failed."""
    root = directory / "top" / (case.below or "root")
    expected = Expected()
    (directory / "top").mkdir()
    files = _opened(root, case, expected)
    if case.planted:
        case.planted(root, expected)
    with _recorded(directory / "top", root, expected, patch) as (story, recorder):
        recorder.failing_flush = failing_flush
        # A Put whose flush failed is done again.
        for step in case.steps if not failing_flush else [*case.steps, *case.steps]:
            story.log.append(Begin(step))
            failed = recorder.flushes >= failing_flush
            try:
                files = files or FileStore(str(root))
                _do(story, step, files)
            except Unavailable:
                if failed or recorder.flushes < failing_flush:
                    raise
    return story, recorder.flushes >= failing_flush


def tell_again(
    case: Case,
    state: State,
    acknowledged: set[Held],
    directory: Path,
    patch: pytest.MonkeyPatch,
) -> Story:
    """Run a case's steps on what a power cut left of it."""
    root = directory / "top" / (case.below or "root")
    expected = Expected(acknowledged=set(acknowledged))
    state.make(directory / "top")
    if root.exists():
        files = FileStore(str(root))
        refs = {ref for step in (*case.before, *case.steps) for ref, _ in step.puts}
        expected.current = {ref: {outcome(files, ref)} for ref in refs}
        del files
    with _recorded(directory / "top", root, expected, patch) as (story, _):
        for step in case.steps:
            story.log.append(Begin(step))
            _do(story, step, FileStore(str(root)))
    return story


def _opened(root: Path, case: Case | Race, expected: Expected) -> FileStore | None:
    if case.below:
        return None
    files = FileStore(str(root))
    for step in case.before:
        expected.begin(step)
        expected.done(step, see(files, step, step.act(files)))
    return files


@contextmanager
def _recorded(
    top: Path, root: Path, expected: Expected, patch: pytest.MonkeyPatch
) -> Iterator[tuple[Story, Recorder]]:
    log: list[Operation | Begin | Done] = []
    recorder = Recorder(str(top), str(root), log.append)
    identities = (b"%032x\n" % number for number in itertools.count())
    with patch.context() as recording:
        recording.setattr(store.file.root, "_new_identity", lambda: next(identities))
        recorder.install(recording)
        yield Story(recorder.disk, expected, log), recorder
    recorder.check(log)


class Turn:
    """Stops one thread before its nth operation until it is let go."""

    def __init__(self, stop_before: int) -> None:
        self.left = stop_before
        self.stopped = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        """Come to an operation."""
        if threading.current_thread() is threading.main_thread():
            return
        self.left -= 1
        if self.left == 0:
            self.stopped.set()
            assert self.go.wait(60)


def tell_race(
    race: Race, stop_before: int, directory: Path, patch: pytest.MonkeyPatch
) -> tuple[Story, bool]:
    """Run a race; return its story, and whether the first writer had so many operations."""
    top = directory / "top"
    root = top / (race.below or "root")
    expected = Expected()
    top.mkdir()
    first = _opened(root, race, expected)
    if race.planted:
        race.planted(root, expected)
    with _recorded(top, root, expected, patch) as (story, recorder):
        recorder.before = turn = Turn(stop_before)
        failed: list[BaseException] = []

        def run_first() -> None:
            try:
                _do(story, race.first, first or FileStore(str(root)))
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                failed.append(error)
            turn.stopped.set()

        story.log.append(Begin(race.first))
        thread = threading.Thread(target=run_first)
        thread.start()
        assert turn.stopped.wait(60)
        try:
            story.log.append(Begin(race.second))
            # One that meets a lock of the stopped one gives up at once.
            _do(story, race.second, FileStore(str(root), timeout_s=0))
        except Unavailable:
            assert turn.left == 0
        finally:
            turn.go.set()
            thread.join(60)
        if failed:
            raise failed[0]
    return story, turn.left <= 0


def _do(story: Story, step: Step, files: FileStore) -> None:
    made = tuple(step.act(files))
    story.log.append(Done(step, see(files, step, made)))


def judge_any(name: str, directory: Path, patch: pytest.MonkeyPatch) -> Judge:
    """Run and judge what has this name: a race, or a case, its failing flushes, or it twice."""
    kind, _, name = name.partition(": ")
    if kind == "race":
        return judge_race(RACES[name], directory, patch)[0]
    if kind == "twice":
        return judge_twice(CASES[name], directory, patch)
    if kind == "failing flush":
        return judge_failing_flushes(CASES[name], directory, patch)[0]
    return judge_case(CASES[name], directory, patch)


def judge_case(case: Case, directory: Path, patch: pytest.MonkeyPatch) -> Judge:
    """Run and judge a case."""
    judge = _judge(case, directory, patch)
    judge.judge(tell(case, directory, patch)[0])
    return judge


def judge_twice(case: Case, directory: Path, patch: pytest.MonkeyPatch) -> Judge:
    """Run and judge a case, and then again on every state that a power cut left of it."""
    first = judge_case(case, directory, patch)
    judge = Judge(directory / "again", case.below or "root")
    judge.directory.mkdir()
    for number, (state, acknowledged) in enumerate(first.left):
        place = directory / str(number)
        place.mkdir()
        judge.judge(tell_again(case, state, acknowledged, place, patch))
        shutil.rmtree(place)
    return judge


def judge_failing_flushes(
    case: Case, directory: Path, patch: pytest.MonkeyPatch
) -> tuple[Judge, int]:
    """Run and judge a case, each of its flushes failing in turn; return how many there are."""
    judge = _judge(case, directory, patch)
    failing, reached = 0, True
    while reached:
        failing += 1
        place = directory / str(failing)
        place.mkdir()
        story, reached = tell(case, place, patch, failing)
        judge.judge(story)
        shutil.rmtree(place)
    return judge, failing - 1


def judge_race(race: Race, directory: Path, patch: pytest.MonkeyPatch) -> tuple[Judge, int]:
    """Run and judge a race, the first writer stopped at each of its operations in turn."""
    judge = _judge(race, directory, patch)
    stop_before, reached = 0, True
    while reached:
        stop_before += 1
        place = directory / str(stop_before)
        place.mkdir()
        story, reached = tell_race(race, stop_before, place, patch)
        judge.judge(story)
        shutil.rmtree(place)
    return judge, stop_before


def _judge(case: Case | Race, directory: Path, patch: pytest.MonkeyPatch) -> Judge:
    prepare(patch)
    judge = Judge(directory / "states", case.below or "root")
    judge.directory.mkdir()
    return judge
