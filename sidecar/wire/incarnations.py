"""Which histories a notification stream has had, and of which one a cursor is.

A stream that is made anew, restored from an older copy or promoted without its tail continues with
another history than the one that its readers know. The publish script begins a new *incarnation*
then, and notes it in `{N}:incarnations`, a hash: `list` has a line for each, the current one last,

    <id> <kept> <began>

a random id, the control_version up to which it kept what the one before had, and its own first one.
`server` and `last` tell on which server, and what, was published last. Between `kept` and `began`
lies nothing, so a cursor in there is of a history that was lost. A cursor that carries the id of
its incarnation is judged by `kept` alone, whatever the clocks were; one whose incarnation is not in
the list is lost, for its number may have been given again. Of a full list the oldest lines merge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from sidecar.wire.ids import HIGHEST_VERSION

_LINE: Final = re.compile(rb"([0-9a-f]{1,40}) (\d{1,20}) (\d{1,20})\n")
_TEXT: Final = re.compile(r"([0-9]+)(?: ([0-9a-f]{1,40}))?")
_OLDEST: Final = 10**15
"""In 2001: no sidecar gave a control_version before."""
FULL: Final = 64
"""Lines of a list whose oldest may be two that became one: an id may have gone with that."""


class Incarnation(NamedTuple):
    """One history of a notification stream."""

    id: str
    kept: int
    """The control_version up to which it has what the one before had; 0 for nothing."""
    began: int
    """The first control_version of its own."""


class Cursor(int):
    """A control_version that knows of which incarnation of the stream it is.

    It is a number like any other. As text, for where it is kept: `<number> <incarnation>`.
    """

    incarnation: str
    """Its id; empty when that is not known."""

    def __new__(cls, control_version: int, incarnation: str = "") -> Self:
        """Return the cursor at that number."""
        this = super().__new__(cls, control_version)
        this.incarnation = incarnation
        return this

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `text` wrote, or a number alone; None for anything else."""
        match = _TEXT.fullmatch(text)
        return cls(int(match[1]), match[2] or "") if match else None


def incarnation_of(control_version: int) -> str:
    """Return the id that a cursor carries; empty for a mere number."""
    return control_version.incarnation if isinstance(control_version, Cursor) else ""


def cursor_text(control_version: int) -> str:
    """Return a cursor as it is kept; a mere number as that."""
    return f"{control_version:d} {incarnation_of(control_version)}".rstrip()


def doubt_of(cursor: int, incarnations: Sequence[Incarnation], end: int) -> str:
    """Say that a lost cursor may never have been one, and what one is; empty where it may have.

    `end` is the control_version that the stream gave last; 0 where it gave none.
    """
    if not _OLDEST <= cursor <= HIGHEST_VERSION:
        example = f", such as {end}" if end else ""
        return (
            f"; or it never was one: a control_version is in microseconds since 1970{example}, and"
            f" {cursor:d} is none, but perhaps a time in other units, or a count"
        )
    if incarnations and cursor < incarnations[0].began:
        first = incarnations[0].began
        return f"; or it is of another stream: the first control_version known of this is {first}"
    return ""


def parse(noted: bytes | None) -> list[Incarnation]:
    """Return the incarnations in `list`; what is no line of it is left out."""
    found = _LINE.findall(noted or b"")
    return [Incarnation(one.decode(), int(kept), int(began)) for one, kept, began in found]


def is_lost(cursor: int, incarnations: Sequence[Incarnation], *, is_there: bool) -> bool:
    """Tell whether what came after the cursor may be of a history that was lost.

    `is_there` tells whether the stream has the entry that the cursor names. The cursor does not
    lie above the stream's end.
    """
    carried, ids = incarnation_of(cursor), [one.id for one in incarnations]
    if carried in ids:
        return any(cursor > one.kept for one in incarnations[ids.index(carried) + 1 :])
    if carried and 0 < len(incarnations) < FULL:
        return True  # whatever stands there now, it is not what the cursor knows
    if is_there:
        return False
    return bool(carried) or any(one.kept < cursor < one.began for one in incarnations)
