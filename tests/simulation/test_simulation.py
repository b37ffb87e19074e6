"""The real pipeline, simulated: whatever goes wrong, the guarantees hold, and any seed replays."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.proofs import sampled
from tests.simulation.__main__ import Summary, main, summarise
from tests.simulation.faults import Fault
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import simulate

SEEDS = 1000
PARTS = 4
SOME = 30
QUIET_SEED = 7
MUTANT_SEEDS = 5000
RARE = {Fault.NO_LETTER, Fault.NO_NOTIFICATION}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_the_guarantees_hold_under_every_seed(part: int) -> None:
    """A thousand seeds of faults, beside those of the next test, break nothing, and end."""
    for seed in range(part, SEEDS, PARTS):
        result = simulate(seed)
        assert not result.violation, result.story()


def test_the_guarantees_hold_under_some_seeds() -> None:
    """Thirty seeds of faults break nothing, and notifications and dead letters are made."""
    summary = summarise(map(simulate, range(1000, 1000 + SOME)), SOME, last=SOME)
    assert not summary.failed
    assert summary.published
    assert summary.buried


@pytest.mark.proof
def test_all_faults_happen() -> None:
    """Within 120 seeds every kind of fault happens, but those that need a rare moment, and nothing
    breaks; all ends in time.
    """
    summary = summarise(map(simulate, range(1000, 1120)), 120, last=120)
    assert not summary.failed
    assert set(summary.never()) <= {kind.value for kind in RARE}
    assert summary.published
    assert {"id_conflict", "artifact_missing", "checksum_mismatch", "malformed"} <= set(
        summary.buried
    )


@pytest.mark.parametrize("part", sampled(range(4), ["0"]))
def test_a_crash_at_any_step_breaks_nothing(part: int) -> None:
    """A worker that dies at one of its steps, whichever it is, breaks no guarantee."""
    steps = simulate(QUIET_SEED, quiet=True).steps
    assert steps > 100
    for step in range(1 + 8 * part, steps, 32):
        result = simulate(QUIET_SEED, crash_at_step=step, quiet=True)
        assert not result.violation, f"crash at step {step}: {result.story()}"
        assert result.happened == {Fault.CRASH: 1}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_crash_at_every_step_breaks_nothing(seed: int) -> None:
    """A worker that dies at any step of twenty runs breaks no guarantee."""
    for step in range(1, simulate(seed, quiet=True).steps):
        result = simulate(seed, crash_at_step=step, quiet=True)
        assert not result.violation, f"crash at step {step}: {result.story()}"


def test_a_failure_is_told_with_its_seed_and_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """A broken guarantee gives the exit code 1, the seed, the faults and how to replay it."""
    with MUTANTS["no_put"]():
        assert main(["--seeds", "3"]) == 1
        assert main(["--seed", "0"]) == 1
    told = capsys.readouterr().out
    assert "seed 0: G1: " in told
    assert "faults: " in told
    assert "replay: make simulate SEED=0" in told
    assert told.count("\ntrace ") == 1


def test_what_never_happened_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A run without violations gives the exit code 0 and names the faults that it lacked."""
    assert main(["--seeds", "1", "--first", "3"]) == 0
    assert "0 violations" in capsys.readouterr().out
    assert "never happened: crash" in Summary().text()


def test_several_processes_share_the_seeds() -> None:
    """As `make simulate JOBS=2` runs them, each seed is run once."""
    asked = [sys.executable, "-m", "tests.simulation", "--seeds", "3", "--jobs", "2"]
    ran = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout.startswith("3 seeds, ")
    assert ran.stdout.endswith("0 violations\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulation_catches(name: str) -> None:
    """Each break of the product is caught as a broken guarantee within some seeds."""
    with MUTANTS[name]():
        assert any(simulate(seed).violation for seed in range(MUTANT_SEEDS)), "not caught"
