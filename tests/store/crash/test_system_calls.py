"""A process that Puts is killed at each of its system calls; each of them fails."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proofs import sampled
from tests.store.crash import strace
from tests.store.crash.judge import Expected
from tests.store.crash.memory import in_memory
from tests.store.crash.sequence import COPY, SEQUENCE

FEW = 2
"""How many of each kind of call the normal tests try, spread over all that occur."""
STORE = {"STORE", "IDENTITY", "refs", "objects", "locks", "quarantine", "tmp"}
# Where a disk may be full.
ALLOCATING = (
    "openat",
    "write",
    "writev",
    "copy_file_range",
    "fsync",
    "linkat",
    "renameat",
    "mkdirat",
)


@pytest.fixture(scope="module")
def counts() -> strace.Counts:
    """How often the sequence makes each call, in a directory as deep as those of the tests."""
    with in_memory() as directory:
        (directory / "0").mkdir()
        return strace.count(directory / "0" / "root")


def chosen(count: int, most: int | None) -> list[int]:
    """Return which of so many occurrences to try: all, or some, the first and last with them."""
    if most is None or count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})


def check(root: Path, ran: strace.Run, code: int | None = None) -> None:
    """Fail unless what is there goes with what was said."""
    expected = Expected()
    for step, said in zip(SEQUENCE, ran.said, strict=False):
        expected.begin(step)
        if said == "done":
            expected.done(step)
        else:
            assert code
            assert os.strerror(code) in said
            if step is not COPY or not said.startswith("reader "):
                assert said.startswith("unavailable cannot "), said
                assert f"under {root}: " in said
            expected.failed(step)
    if ran.killed:
        assert code is None
        expected.begin(SEQUENCE[len(ran.said)])
    else:
        assert len(ran.said) == len(SEQUENCE)
    assert not root.exists() or set(os.listdir(root)) <= STORE
    expected.check(root, killed=True)


class Sweep(NamedTuple):
    """Calls to meet with a signal or an error, and whether all that follow are met as well."""

    call: str
    what: str
    on: bool = False

    def __str__(self) -> str:
        """Return what is swept, for the test's name."""
        return f"{self.call} {self.what}{' and on' if self.on else ''}"

    def __call__(self, counts: strace.Counts, directory: Path, most: int | None) -> int:
        """Meet one after the other, and check what is left; return how many."""
        code = None
        if self.what != "signal=KILL":
            code = getattr(errno, self.what.removeprefix("error="))
        nths = chosen(counts.after[self.call], most)
        for nth in nths:
            place = directory / str(nth)
            place.mkdir()
            when = counts.before[self.call] + nth
            ran = strace.inject(place / "root", self.call, self.what, when, on=self.on)
            try:
                assert ran.killed if code is None else ran.injected
                check(place / "root", ran, code)
            except BaseException as error:
                error.add_note(f"{self}, number {nth}; the child said {ran.said}")
                raise
            shutil.rmtree(place)
        return len(nths)


SWEEPS = [
    *(Sweep(call, "signal=KILL") for call in strace.CALLS),
    *(Sweep(call, "error=EIO") for call in strace.CALLS),
    *(Sweep(call, "error=ENOSPC") for call in ALLOCATING),
    *(Sweep(call, "error=ENOSPC", on=True) for call in ALLOCATING),
    Sweep("fsync", "error=EIO", on=True),
]
SAMPLE = (
    "linkat signal=KILL", "fsync signal=KILL", "fsync error=EIO", "renameat error=EIO",
    "write error=ENOSPC", "fsync error=EIO and on",
)  # fmt: skip


def test_the_sequence_is_whole(memory: Path, counts: strace.Counts) -> None:
    """Left alone, every step is done, and the calls that matter are made."""
    ran, _ = strace.run(memory / "root", "--trace=none")
    check(memory / "root", ran)
    assert ran.said == ["done"] * len(SEQUENCE)
    for call in ("fsync", "linkat", "copy_file_range", "pread64", "writev", "utimensat", "flock"):
        assert counts.after[call]


@pytest.mark.parametrize("sweep", sampled(SWEEPS, SAMPLE))
def test_some_calls(sweep: Sweep, counts: strace.Counts, memory: Path) -> None:
    """Killed, or failing, at a call, a Put has happened or not, and what was said holds."""
    sweep(counts, memory, FEW)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_every_call(
    sweep: Sweep,
    counts: strace.Counts,
    memory: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The same at every one of the calls."""
    record_property("calls", sweep(counts, memory, None))
