"""Play incidents on real servers and workers, have `sidecar explain` name them, and score that.

Exits with 1 where recall or precision is below --least.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.incident.playing import chosen, play
from examples.incident.scenes import SCENES
from examples.incident.scoring import Score, score


def main() -> int:
    """Play and score; return the exit code."""
    options = _options()
    if options.score:
        return _told(map(score, sorted(options.score.glob("*.zip"))), options.least)
    names = _names(options)
    with tempfile.TemporaryDirectory(prefix="incidents-") as directory:
        where = options.keep or Path(directory)
        where.mkdir(parents=True, exist_ok=True)
        seeds = range(options.first, options.first + options.incidents)
        with ThreadPoolExecutor(options.jobs) as pool:
            played = pool.map(lambda seed: _one(seed, names, options.together, where), seeds)
            return _told(played, options.least)


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m examples.incident", description=__doc__)
    parser.add_argument("--incidents", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one's seed")
    parser.add_argument("--jobs", type=int, default=2, help="so many at the same time (default: 2)")
    parser.add_argument("--scenes", metavar="MODULE", help="whose scenes are meant, not our own")
    parser.add_argument("--only", metavar="SCENE,…", help="only of these scenes")
    parser.add_argument("--together", action="store_true", help="the scenes of --only in one")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave bundles and answers there")
    parser.add_argument("--score", type=Path, metavar="DIR", help="score what lies there; play not")
    parser.add_argument("--least", type=float, default=0.0, help="recall and precision wanted")
    return parser.parse_args()


def _names(options: Namespace) -> list[str]:
    """Return the scenes to play. Ends the program when there is no such scene."""
    if options.scenes:
        importlib.import_module(options.scenes)
    names = [name for name, one in SCENES.items() if options.scenes in (None, one.__module__)]
    wanted = options.only.split(",") if options.only else names
    if unknown := set(wanted) - SCENES.keys():
        sys.exit(f"--only: no scenes {', '.join(sorted(unknown))}; there are: {', '.join(SCENES)}")
    return list(wanted)


def _one(seed: int, names: list[str], together: bool, where: Path) -> Score:  # noqa: FBT001
    """Play one incident and score it. What cannot be played is told, and scores nothing."""
    scenes = names if together else chosen(seed, names)
    bundle = where / f"{seed:05}.zip"
    try:
        play(seed, scenes, bundle)
    except (RuntimeError, TimeoutError, OSError) as error:
        return Score(lines=[f"{seed:05} ({', '.join(scenes)}) was not played: {error}"])
    return score(bundle)


def _told(scores: Iterable[Score], least: float) -> int:
    total = Score()
    for one in scores:
        for line in one.lines:
            print(line, flush=True)
        total.add(one)
    print(*total.table(), sep="\n")
    return int(min(total.recall, total.precision) < least)


if __name__ == "__main__":
    sys.exit(main())
