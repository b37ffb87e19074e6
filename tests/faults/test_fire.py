"""Real workers under fire; then G1 to G5 and G7 are checked from outside. `make fire` does more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults import disk, fire, mutants, outside
from tests.faults.fleet import worker
from tests.faults.load import Load
from tests.faults.proxy import Weather
from tests.faults.watch import FENCE_KEY, FenceWatch
from tests.proofs import sampled

Planted = Callable[[Any, Path], object]


PLANS = {
    "a few of each": fire.Plan(seed=7, kills=6, clean_stops=1, redis_crashes=1),
    "killed workers": fire.Plan(seed=1, kills=20, clean_stops=2),
    "a Redis that crashes": fire.Plan(seed=2, kills=6, redis_crashes=5),
    "a bad network": fire.Plan(seed=3, kills=10, weather=Weather()),
}


@pytest.mark.parametrize("name", sampled(PLANS, ["a few of each"]))
def test_no_guarantee_breaks(name: str, tmp_path: Path) -> None:
    """Kills, stalls, crashes and cuts at random moments under load break no guarantee."""
    plan = PLANS[name]
    figures = fire.run(replace(plan, directory=tmp_path))
    assert figures.violations == []
    assert figures.kills == plan.kills
    assert figures.fenced_writes > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_guarantee_breaks_with_all_of_it_at_once(tmp_path: Path) -> None:
    """Three hundred kills, with Redis, the network and the disk failing, break no guarantee."""
    faults = 0 if disk.no_small_disk() else 10
    plan = fire.Plan(
        seed=4, kills=300, redis_crashes=10, clean_stops=5, disk_faults=faults, workers=3,
        weather=Weather(), directory=tmp_path,
    )  # fmt: skip
    assert fire.run(plan).violations == []


@pytest.mark.proof
def test_workers_of_the_plain_command_are_killed(
    client: Any, redis_url: str, tmp_path: Path
) -> None:
    """Workers that `python -m sidecar run` starts, killed under load, break no guarantee."""
    load = Load(redis_url, tmp_path / "source", seed=5, per_second=200)
    checker = outside.Checker(client, tmp_path / "fleet")
    with load.running():
        for _ in range(3):
            before = client.xlen(outside.NOTIFICATIONS)
            process = worker(redis_url, tmp_path)
            deadline = time.monotonic() + 60
            while client.xlen(outside.NOTIFICATIONS) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            process.kill()
            process.wait()
            assert checker.look() == []
    assert worker(redis_url, tmp_path, "--drain").wait(120) == 0
    assert checker.finish() == []
    assert load.event_ids == checker.published


# --- the fire finds what it is for -------------------------------------------------------------


def caught(name: str, tmp_path: Path, kills: int) -> set[str]:
    """Return which guarantees a mutant is seen to break."""
    product = mutants.broken_copy(name, tmp_path / "broken")
    plan = fire.Plan(
        seed=6, kills=kills, per_second=300, product=product, directory=tmp_path, until_caught=True
    )
    return {violation[:2] for violation in fire.run(plan).violations}


FOUND = {"publish before put": "G1", "no deduplication": "G2", "no order": "G4"}


@pytest.mark.parametrize("name", sampled(FOUND, ["no deduplication"]))
def test_the_fire_finds_a_mutant(name: str, tmp_path: Path) -> None:
    """A product without one of its mechanisms is caught within a few kills."""
    assert FOUND[name] in caught(name, tmp_path, kills=400)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "guarantees"),
    [
        ("acknowledge before publish", {"G3", "G4"}),
        ("pending entries forgotten", {"G3", "G4"}),
    ],
)
def test_the_fire_finds_a_mutant_that_hides(
    name: str, guarantees: set[str], tmp_path: Path
) -> None:
    """A mechanism that is needed at rare moments only is missed within some thousand kills."""
    assert guarantees & caught(name, tmp_path, kills=6000)


@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_every_mutant_fits_the_product(name: str, tmp_path: Path) -> None:
    """Each mutant changes the code as it is today."""
    broken = mutants.broken_copy(name, tmp_path) / mutants.MUTANTS[name].file
    assert mutants.MUTANTS[name].new in broken.read_text()


# --- the check from outside sees damage --------------------------------------------------------


def plant_twice(client: Any, _fleet: Path) -> None:
    """Publish a notification a second time."""
    _, fields = client.xrevrange(outside.NOTIFICATIONS, count=1)[0]
    client.xadd(outside.NOTIFICATIONS, fields)


def plant_lost(client: Any, _fleet: Path) -> None:
    """Remove a notification."""
    entry, _ = client.xrange(outside.NOTIFICATIONS, count=1)[0]
    client.xdel(outside.NOTIFICATIONS, entry)


def plant_letter(client: Any, _fleet: Path) -> None:
    """Bury what is published."""
    _, fields = client.xrange(outside.NOTIFICATIONS, count=1)[0]
    client.xadd(outside.DEAD, {**fields, "reason": "poison"})


def plant_other(client: Any, _fleet: Path) -> None:
    """Let the control stream say something else than what was published."""
    entries = client.xrange(outside.CONTROL)
    client.delete(outside.CONTROL)
    for entry, said in entries:
        changed = said[b"event"].replace(b'"actor.changed"', b'"run.abort"')
        client.xadd(outside.CONTROL, {"event": changed}, id=entry)
    client.xgroup_create(outside.CONTROL, outside.GROUP, "$")


def plant_torn(_client: Any, fleet: Path) -> None:
    """Flip the last byte of every record."""
    for record in fleet.glob("refs/**/*@*"):
        content = record.read_bytes()
        record.chmod(0o644)
        record.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def plant_missing(_client: Any, fleet: Path) -> None:
    """Remove every record."""
    for record in fleet.glob("refs/**/*@*"):
        record.unlink()


@pytest.mark.parametrize(
    ("damage", "guarantee"),
    [
        (plant_twice, "G2"), (plant_lost, "G3"), (plant_letter, "G3"), (plant_other, "G3"),
        (plant_torn, "G1"), (plant_missing, "G1"),
    ],
)  # fmt: skip
def test_the_check_from_outside_sees_damage(
    client: Any, redis_url: str, tmp_path: Path, damage: Planted, guarantee: str
) -> None:
    """The check that the fire rests on finds each kind of damage that is planted."""
    load = Load(redis_url, tmp_path / "source", seed=3, per_second=1)
    for _ in range(60):
        load.emit()
    assert worker(redis_url, tmp_path, "--drain").wait(120) == 0
    assert outside.violations(client, tmp_path / "fleet") == []
    damage(client, tmp_path / "fleet")
    found = outside.violations(client, tmp_path / "fleet")
    assert any(line.startswith(guarantee) for line in found)


def test_looking_again_and_again_sees_what_looking_once_sees(
    client: Any, redis_url: str, tmp_path: Path
) -> None:
    """Many small looks beside a worker count the same ends as one look at everything."""
    load = Load(redis_url, tmp_path / "source", seed=8, per_second=300)
    often, once = (outside.Checker(client, tmp_path / "fleet") for _ in range(2))
    process = worker(redis_url, tmp_path)
    with load.running():
        deadline = time.monotonic() + 60
        while client.xlen(outside.NOTIFICATIONS) < 150 and time.monotonic() < deadline:
            assert often.look() == []
    process.terminate()
    assert process.wait(60) == 0
    assert worker(redis_url, tmp_path, "--drain").wait(120) == 0
    assert often.finish() == once.finish() == []
    assert often.ends == once.ends
    assert often.ends["notified"] >= 150


def test_a_drain_that_leaves_something_is_seen(client: Any, redis_url: str, tmp_path: Path) -> None:
    """What was read and not finished, and what nobody read, has not ended after a drain."""
    load = Load(redis_url, tmp_path / "source", seed=9, per_second=1)
    load.emit()
    load.emit()
    client.xgroup_create(outside.CONTROL, outside.GROUP, "0")
    client.xreadgroup(outside.GROUP, "worker", {outside.CONTROL: ">"}, count=1)
    checker = outside.Checker(client, tmp_path / "fleet")
    assert checker.look() == []
    found = checker.finish()
    assert sum("has not ended" in line for line in found) == 2
    assert any("1 entries are pending" in line for line in found)


def lines(*said: tuple[str, str]) -> list[bytes]:
    """Return lines of MONITOR: a script is called with a token, and what it does then."""
    return [
        line.encode()
        for token, does in said
        for line in (f'+1.0 [0 127.0.0.1:9] "EVALSHA" "{"f" * 40}" "1" "k" "{token}"', does)
    ]


def test_the_watch_sees_a_writer_that_is_not_the_owner() -> None:
    """A notification or letter by another token than the fence's last is a violation of G7."""
    old, new = "a" * 32, "b" * 32
    takes = '+1.0 [0 lua] "SET" "{}" "{}"'.format
    writes = f'+1.0 [0 lua] "XADD" "{outside.NOTIFICATIONS}" "1-1" "event" "…"'
    buries = f'+1.0 [0 lua] "XADD" "{outside.DEAD}" "1-1" "event" "…"'
    watch = FenceWatch(port=0)
    for line in lines((old, takes(FENCE_KEY, old)), (old, writes), (new, takes(FENCE_KEY, new))):
        watch.see(line)
    assert watch.violations == []
    for line in lines((new, writes), (old, writes), (old, buries)):
        watch.see(line)
    assert len(watch.violations) == 2
    assert watch.writes == 4
