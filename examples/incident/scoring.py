"""Scores what `sidecar explain` finds of an incident against what is true of it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from examples.incident.fleet import Answer, Named
from sidecar.history.bundle import BundleHistory
from sidecar.replay.explain.explaining import explain
from sidecar.replay.explain.findings import Finding
from sidecar.replay.window import Window


@dataclass
class Score:
    """What was named and what was not, by kind."""

    named: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    summed_up: int = 0
    """So many of the named are in the summary, which is read first."""
    slowest_s: float = 0.0
    incidents: int = 0
    lines: list[str] = field(default_factory=list)
    """What was missed or wrong, for a person."""

    @property
    def recall(self) -> float:
        """The share of the causes that were named."""
        return _share(self.named.total(), self.missed.total())

    @property
    def precision(self) -> float:
        """The share of the named ones that are true."""
        return _share(self.named.total(), self.wrong.total())

    def add(self, other: Score) -> None:
        """Take in the score of other incidents."""
        self.named += other.named
        self.missed += other.missed
        self.wrong += other.wrong
        self.summed_up += other.summed_up
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.incidents += other.incidents
        self.lines += other.lines

    def table(self) -> Iterator[str]:
        """Yield the score by kind, and in all."""
        yield f"{'kind':24}{'named':>8}{'missed':>8}{'wrong':>8}"
        for kind in sorted(self.named.keys() | self.missed.keys() | self.wrong.keys()):
            yield f"{kind:24}{self.named[kind]:8}{self.missed[kind]:8}{self.wrong[kind]:8}"
        yield (
            f"{self.incidents} incidents: recall {self.recall:.3f}, precision {self.precision:.3f},"
            f" {self.summed_up} of {self.named.total()} named in the summary, the slowest took"
            f" {self.slowest_s:.2f} s"
        )


def score(bundle: Path) -> Score:
    """Explain a bundle, and hold that against the answer beside it."""
    told = json.loads(bundle.with_suffix(".json").read_text())
    answer, which = Answer.of_json(told), f"{bundle.stem} ({', '.join(told['scenes'])})"
    history, found = BundleHistory(bundle), Score(incidents=1)
    for ask in {"", *(one.ask for one in answer.causes)}:
        begun = time.monotonic()
        explained = explain(history, Window(), ask)
        findings, numbers = explained.findings, explained.numbers
        found.slowest_s = max(found.slowest_s, time.monotonic() - begun)
        found.lines += (f"{which}: {line}" for line in _before_its_cause(findings))
        causes = [one for one in answer.causes if one.ask == ask]
        shown = set(map(int, re.findall(r"see (\d+)\]", "\n".join(explained.summary.lines))))
        parts = [part for finding in findings for part in finding.parts]
        for one in causes:
            if told := [numbers[part.key] for part in parts if _fits(one, part)]:
                found.named[one.kind] += 1
                found.summed_up += not shown.isdisjoint(told)
            else:
                found.missed[one.kind] += 1
                found.lines.append(f"{which}: missed {one.kind} {one.about}")
        for finding in [] if ask else _wrong(parts, (*causes, *answer.may)):
            found.wrong[finding.kind] += 1
            found.lines.append(f"{which}: wrong {finding.kind}: {finding.what}")
    return found


def _before_its_cause(findings: list[Finding]) -> Iterator[str]:
    numbers = {one.key: n for n, one in enumerate(findings)}
    for n, one in enumerate(findings):
        if any(numbers.get(cause, -1) > n for cause in one.causes):
            yield f"{one.kind} is listed before its cause"


def _wrong(findings: Iterable[Finding], true: Iterable[Named]) -> list[Finding]:
    true = list(true)
    return [one for one in findings if not any(_fits(named, one) for named in true)]


def _fits(named: Named, finding: Finding) -> bool:
    return finding.kind == named.kind and (not named.about or named.about in finding.about)


def _share(right: int, others: int) -> float:
    return right / (right + others) if right + others else 1.0
