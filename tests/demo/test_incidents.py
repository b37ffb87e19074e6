"""`examples/incident`: what `sidecar explain` says of played incidents is true, and all of it."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from examples.incident.fleet import Answer, Named
from examples.incident.playing import chosen, play
from examples.incident.scenes import FIRST, LAST, SCENES
from examples.incident.scoring import score
from sidecar.replay.explain import records
from sidecar.replay.explain.explaining import KINDS

QUICK = ("event_id_reused", "bad_release", "unknown_type", "forbidden_ref", "doubled")
MIXED = tuple(range(len(SCENES), len(SCENES) + 12))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An incident in which five things went wrong at the same time."""
    path = tmp_path_factory.mktemp("incident") / "incident.zip"
    play(7, QUICK, path)
    return path


def test_several_causes_at_once_are_all_named_and_nothing_else(bundle: Path) -> None:
    """Five things go wrong at the same time, on a real worker and a real server."""
    found = score(bundle)
    assert found.lines == []
    assert found.named.total() == len(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_each_cause_alone_is_named(name: str, tmp_path: Path) -> None:
    """Each scene of the corpus, with ordinary events around it; nothing else is said."""
    play(3, [name], tmp_path / "incident.zip")
    assert score(tmp_path / "incident.zip").lines == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", MIXED)
def test_causes_together_are_named(seed: int, tmp_path: Path) -> None:
    """Two or three scenes among each other."""
    play(seed, chosen(seed, list(SCENES)), tmp_path / "incident.zip")
    assert score(tmp_path / "incident.zip").lines == []


def test_a_cause_that_is_not_named_and_one_that_is_not_true_are_scored(
    bundle: Path, tmp_path: Path
) -> None:
    """The score tells when explain misses a cause, and when it makes one up."""
    other = Path(shutil.copy(bundle, tmp_path))
    told = json.loads(bundle.with_suffix(".json").read_text())
    told |= Answer([Named("went_back", "t_acme")], []).to_json()
    other.with_suffix(".json").write_text(json.dumps(told))
    found = score(other)
    assert (found.recall, found.precision) == (0.0, 0.0)
    assert len(found.lines) == 1 + len(QUICK)


@pytest.mark.proof
def test_a_healthy_day_has_no_finding_but_what_was_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, an archive, keep rules, a reader, restarts in turn; and a rule that took a
    restart for flapping would be noticed.
    """
    play(3, ["ordinary_day"], tmp_path / "incident.zip")
    found = score(tmp_path / "incident.zip")
    assert (found.lines, found.named) == ([], Counter({"paused": 1}))
    monkeypatch.setattr(records, "OFTEN", 3)
    assert score(tmp_path / "incident.zip").wrong == Counter()
    monkeypatch.setattr(records, "ENDED", "never")  # as if no owner had left in good order
    assert score(tmp_path / "incident.zip").wrong == Counter({"flapping": 1})


def test_every_kind_of_finding_has_a_scene() -> None:
    """No rule is scored by nothing: each kind is what some scene brings about for real."""
    scenes = "".join(inspect.getsource(one) for one in SCENES.values())
    brought_about = set(re.findall(r'fleet\.caused\(\s*"(\w+)"', scenes))
    assert brought_about == {kind.name for kind in KINDS}


def test_incidents_follow_from_their_seeds() -> None:
    """Each scene comes alone first; later ones have two or three, that can be told apart."""
    names = list(SCENES)
    assert [chosen(seed, names) for seed in range(len(names))] == [[one] for one in names]
    for seed in range(len(names), 300):
        scenes = chosen(seed, names)
        assert scenes == chosen(seed, names)
        assert len(scenes) == len(set(scenes)) in (2, 3)
        assert len(FIRST.intersection(scenes)) <= 1
        assert len(LAST.intersection(scenes)) <= 1
