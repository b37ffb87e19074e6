"""docs/contract.md, read by the tests that compare it with the code."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = "docs/contract.md"
TEXT: Final = (ROOT / PAGE).read_text()

Rows = dict[str, list[str]]


def agree(what: str, listed: Collection[str], made: Collection[str], row: str) -> None:
    """Fail unless the page lists what the code has; `row` is how to write one: `{}`."""
    missing = sorted(set(made) - set(listed))
    stale = sorted(set(listed) - set(made))
    rows = "\n".join(row.replace("{}", one) for one in missing)
    assert not missing, f"{PAGE}, {what}: add\n{rows}"
    assert not stale, f"{PAGE}, {what}: nothing else has {', '.join(stale)}; remove that"


@cache
def section(title: str) -> str:
    """Return what stands under a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"{PAGE} has no section {title!r}"
    return found[1]


def table(title: str, head: str, after: str = "") -> Rows:
    """Return the rows of the table in a section that begins with `head`, by their first cell.

    A cell loses its backquotes where they enclose all of it. `after` is a text that comes before.
    """
    text = section(title).partition(after)[2] if after else section(title)
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\| ---.*\n((?:\|.*\n?)+)", text, re.MULTILINE)
    assert found, f"{PAGE}, {title}: no table begins with {head!r}"
    rows = [[_plain(cell) for cell in line.split("|")[1:-1]] for line in found[1].splitlines()]
    firsts = [first for first, *_ in rows]
    assert len(set(firsts)) == len(firsts), f"{PAGE}, {title}: a row stands there twice"
    return {first: rest for first, *rest in rows}


def _plain(cell: str) -> str:
    return re.sub(r"^`([^`]*)`$", r"\1", cell.strip())
