"""What commands print: data on standard output, hints on standard error.

Everything printed goes through here, so that a string out of an event can neither colour nor steer
a terminal. And through `Standard`, help and version too, so that a reader who has had enough
(`sidecar tail | head`) ends a command quietly, and what cannot be written is one clear error.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

from sidecar import lines
from sidecar.errors import Unwritable
from sidecar.lines import write_now

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.console import Console
    from rich.text import Text

CUT_MIN_WIDTH: Final = 24
_LOGIN: Final = re.compile(r"://(?!\[user:password@\])\S*[@?]\S*")
"""In a message: what may be the login of a URL that was typed where none belongs."""
_ENDLESS: Final = re.compile(r"(\S{200})\S{1824,}")
"""In a message: longer than a ref or an event_id can be."""
WIDE: Final = 100_000
"""Columns of a pipe: nothing is cut or wrapped there."""


visible = lines.visible


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return JSON that a terminal and a pipe of any encoding can take.

    ASCII, and a lone surrogate is one escape; the rest of what is not printable is escaped anyway.
    """
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def line(text: str = "") -> None:
    """Print a line, at once."""
    sys.stdout.write(_encodable(text) + "\n")
    sys.stdout.flush()


def json_line(value: object) -> None:
    """Print one JSON object on a line of its own."""
    line(to_json(value))


def raw(data: bytes) -> None:
    """Print bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def hint(text: str) -> None:
    """Print for a person what is no data; a URL's login is never shown, nor endless words."""
    shown = _ENDLESS.sub(r"\1…", _LOGIN.sub("://…", text))
    write_now(f"sidecar: {visible(shown)}\n")


def hints(texts: Iterable[str]) -> None:
    """Print each as a hint."""
    for text in texts:
        hint(text)


def heading(columns: Sequence[str]) -> None:
    """Name the columns of the lines that follow to a person, beside the data."""
    if on_terminal():
        write_now("  ".join(columns).upper() + "\n")


def on_terminal() -> bool:
    """Tell whether a person reads standard output."""
    return sys.stdout.isatty()


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, cut: Sequence[str] = (),
    right: Sequence[str] = (), styles: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Print a table. Cells are plain text, and no row is wrapped: IDs stay fit to be copied.

    On a terminal the columns `cut` get what the others leave, but always something. `right`
    names the columns of numbers, `styles` the colour of a cell by its text.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(visible(cell), (styles or {}).get(cell, "")) for cell in row] for row in rows]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    room = _room(columns, cells, cut) if on_terminal() and cut else None
    for column in columns:
        shown.add_column(
            column.upper(),
            justify="right" if column in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=room if column in cut else None,
        )
    for row in cells:
        shown.add_row(*row)
    _print(shown, WIDE)


def _room(columns: Sequence[str], cells: list[list[Text]], cut: Sequence[str]) -> int:
    """Return how wide each of the columns `cut` may be, in characters."""
    widths = [max((row[i].cell_len for row in cells), default=0) for i in range(len(columns))]
    kept = sum(w + 2 for w, column in zip(widths, columns, strict=True) if column not in cut)
    return max(CUT_MIN_WIDTH, (_console().width - kept) // len(cut))


def pairs(rows: Sequence[tuple[str, str]], styles: dict[str, str] | None = None) -> None:
    """Print names and values, one pair a line, values wrapped under each other."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold", no_wrap=not on_terminal())
    for name, value in rows:
        shown.add_row(
            Text(visible(name)), Text(visible(value, lines=True), (styles or {}).get(name, ""))
        )
    _print(shown)


def styled(parts: Sequence[tuple[str, str]]) -> None:
    """Print a line of texts and their styles, but for empty ones; it is neither cut nor wrapped."""
    parts = [part for part in parts if part[0]]
    if not on_terminal():
        line("  ".join(visible(text) for text, _ in parts).rstrip())
        return
    from rich.text import Text

    joined = Text("  ").join(Text(visible(text), style) for text, style in parts)
    joined.rstrip()
    _console().print(joined, soft_wrap=True)


def _print(shown: object, width: int | None = None) -> None:
    console = _console(width)
    with console.capture() as captured:
        console.print(shown)
    for text in captured.get().splitlines():
        line(text.rstrip())


def _console(width: int | None = None) -> Console:
    from rich.console import Console

    if on_terminal():
        return Console(highlight=False, markup=False, emoji=False, width=width)
    return Console(
        highlight=False, markup=False, emoji=False, width=WIDE, color_system=None,
        force_terminal=False, legacy_windows=False,
    )  # fmt: skip


def _encodable(text: str) -> str:
    """Return `text` as standard output's encoding can write it, a C locale's too."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Standard(io.FileIO):
    """Standard output, or error: what it does not take ends the command, or is dropped."""

    def write(self, raw: ReadableBuffer, /) -> int:
        """Write it, waiting where others made it non-blocking.

        Raises `Unwritable`, and SystemExit when the reader of our output has had enough.
        """
        try:
            return lines.write_waiting(self.fileno(), raw)
        except OSError as error:
            if self.fileno() == 1:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is buffered comes once more
                raise _end(error) from None
        return memoryview(raw).nbytes


def _end(error: OSError) -> BaseException:
    if isinstance(error, BrokenPipeError):
        return SystemExit(0)
    why = "it is closed" if error.errno == errno.EBADF else error.strerror
    return Unwritable(
        f"cannot write to standard output: {why}; send it to a file or a pipe that takes it. What"
        " the command did besides printing is done"
    )


def stand_in() -> None:
    """Let what is printed in this process go through `Standard`, also what a library prints."""
    lines.keep_descriptors()
    if sys.stdout is sys.__stdout__:  # else a caller in this process reads it
        sys.stdout = _through_standard(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _through_standard(2, sys.stderr)


def _through_standard(number: int, before: TextIO | None) -> TextIO:
    """Return what writes as `before` did; None is one that was closed at the start."""
    raw = io.BufferedWriter(Standard(number, "w", closefd=False))
    encoding = before.encoding if before else "utf-8"
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)


def jsonable(fields: dict[bytes, bytes]) -> dict[str, Any]:
    """Return an entry's fields as text, byte for byte where they are UTF-8."""
    return {
        name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace")
        for name, value in fields.items()
    }
