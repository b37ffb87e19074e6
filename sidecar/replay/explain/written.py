"""Findings as Markdown, for a ticket: nothing that an event says can act in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sidecar.lines import visible
from sidecar.replay.explain.explaining import Explanation
from sidecar.replay.explain.findings import Finding

_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]<>#|!~&@])")


def markdown(found: Explanation) -> str:
    """Return the findings as a list, the gravest first."""
    numbers = found.numbers
    summary = (one.partition(": ") for one in found.summary.lines)
    lines = [f"**{_inert((head + colon).rstrip())}** {_inert(rest)}".rstrip() + "  "
             for head, colon, rest in summary]  # fmt: skip
    lines += [""] * bool(lines)
    lines += [line for one in found.findings for line in _one(one, numbers)]
    lines += [f"- Not known: {_inert(one)}" for one in found.unknown]
    return "\n".join(lines) or "Nothing went wrong."


def _one(one: Finding, numbers: dict[str, int]) -> Iterator[str]:
    yield f"{numbers[one.key]}. **{one.level.value}, {_inert(one.kind)}**: {_inert(one.what)}"
    causes = ", ".join(map(str, one.caused_by(numbers)))
    if causes:
        yield f"   - caused by {causes}"
    for shown in one.evidence:
        yield f"   - see {_code(shown)}"
    if one.advice:
        yield f"   - fix: {_inert(one.advice)}"


def _inert(text: str) -> str:
    return _ACTIVE.sub(r"\\\1", visible(text))


def _code(text: str) -> str:
    """Return text between more backquotes in a row than it has."""
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks} {visible(text)} {ticks}"
