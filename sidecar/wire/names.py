"""Names that were meant: which one there is is nearest to one that somebody typed."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

_SLIPS: Final = 2
"""A swap of two characters counts as two changes."""
_CUTOFF: Final = 0.6


def nearest(name: str, known: Collection[str], *, cutoff: float = _CUTOFF) -> str:
    """Return which of the known names is most like `name`; empty when none is like it.

    `cutoff` is how much two must have in common, from 0 to 1.
    """
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return found[0] if found else ""


def is_slip(name: str, other: str) -> bool:
    """Tell whether two names differ by so little that one may be a slip for the other.

    Two that differ in digits alone are numbered, so meant.
    """
    steps = difflib.SequenceMatcher(None, name, other, autojunk=False).get_opcodes()
    changed = [
        (name[i:j], other[k:m], max(j - i, m - k)) for kind, i, j, k, m in steps if kind != "equal"
    ]
    count = sum(size for _, _, size in changed)
    is_numbered = all((before + after).isdigit() for before, after, _ in changed)
    return 0 < count <= min(_SLIPS, len(name) // 3) and not is_numbered
