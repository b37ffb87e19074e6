"""How the demo is told: to a person at a terminal, as plain lines, or to a machine as JSON."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sidecar.demo.evidence import Claim

Update = Callable[[str, int, int], None]
"""Of a bar: its name, how much is done, of how much."""

PICTURE: Final = """\
 control plane ── event ─▶ control:events ─▶ sidecar ─▶ control:notifications
   (SQLite)                                     │                │
      │                                     verified         reference
      │                                         ▼                ▼
      └─ artifact ─▶ source store ────────▶ fleet store ─▶ fleet controller
"""
WIDTH: Final = 80


class Stage(Protocol):
    """Where the story is told."""

    def chapter(self, number: int, title: str) -> None:
        """Begin a chapter."""

    def say(self, step: str, text: str, /, **figures: Any) -> None:  # noqa: ANN401 -- any JSON
        """Tell of one step: its name, the sentence for a person, the figures for a machine."""

    @contextmanager
    def bars(self, *names: str) -> Iterator[Update]:  # noqa: ARG002 -- of the protocol
        """Show bars while something takes its time."""
        yield lambda *_: None

    def end(self, claims: Sequence[Claim], closing: str, looks: Sequence[tuple[str, str]]) -> None:
        """Tell what held, and where to look next: what for, and the command."""


def make(*, as_json: bool) -> Stage:
    """Return the stage that fits standard output."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if as_json:
        return JsonStage()
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    return RichStage(console) if console.is_terminal else PlainStage()


class JsonStage:
    """One JSON object a line."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._chapter = 0

    def chapter(self, number: int, title: str) -> None:
        """Remember the chapter for the steps to come."""
        self._chapter = number
        self._line(step="chapter", title=title)

    def say(self, step: str, text: str, /, **figures: Any) -> None:  # noqa: ANN401 -- any JSON
        """Print the figures, and the sentence with them."""
        self._line(step=step, **figures, text=text)

    @contextmanager
    def bars(self, *names: str) -> Iterator[Update]:  # noqa: ARG002 -- the protocol's
        """Show nothing."""
        yield lambda *_: None

    def end(self, claims: Sequence[Claim], closing: str, looks: Sequence[tuple[str, str]]) -> None:
        """Print each claim, then the summary."""
        for claim in claims:
            self._line(
                step="claim", claim=claim.name, held=claim.held, found=claim.found, **claim.figures
            )
        self._line(
            step="summary",
            held=all(claim.held for claim in claims),
            claims=len(claims),
            failed=[claim.name for claim in claims if not claim.held],
            text=closing,
            next=[command for _, command in looks],
        )

    def _line(self, **fields: Any) -> None:  # noqa: ANN401 -- any JSON
        at = {"chapter": self._chapter, "at_s": round(time.monotonic() - self._began, 3)}
        sys.stdout.write(json.dumps(fields | at, ensure_ascii=False) + "\n")
        sys.stdout.flush()


class PlainStage:
    """Lines for a file or a pipe."""

    def __init__(self) -> None:
        self._line("\n" + PICTURE.rstrip("\n"))

    def chapter(self, number: int, title: str) -> None:
        """Print the heading."""
        self._line(f"\n{number} {title}")

    def say(self, _step: str, text: str, /, **_figures: Any) -> None:  # noqa: ANN401 -- any JSON
        """Print the sentence."""
        self._line("  " + text.replace("\n", "\n  "))

    @contextmanager
    def bars(self, *names: str) -> Iterator[Update]:  # noqa: ARG002 -- the protocol's
        """Show nothing: a line follows when it is done."""
        yield lambda *_: None

    def end(self, claims: Sequence[Claim], closing: str, looks: Sequence[tuple[str, str]]) -> None:
        """Print the claims as lines."""
        self._line("\nWhat held")
        for claim in claims:
            self._line(f"  {'ok    ' if claim.held else 'FAILED'}  {claim.name}: {claim.found}")
        self._line(f"\n{closing}\n\nWhere to look next")
        for purpose, command in looks:
            self._line(f"  {command}   # {purpose}")

    def _line(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class RichStage:
    """A terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        console.print()
        wide = console.width >= WIDTH
        console.print(Text(PICTURE, style="cyan", no_wrap=True) if wide else "")

    def chapter(self, number: int, title: str) -> None:
        """Print the heading."""
        self._console.print()
        self._console.print(
            Text.assemble((f" {number} ", "bold black on cyan"), " ", (title, "bold"))
        )

    def say(self, _step: str, text: str, /, **_figures: Any) -> None:  # noqa: ANN401 -- any JSON
        """Print the sentence."""
        self._console.print(Padding(Text(text), (0, 0, 0, 4)))

    @contextmanager
    def bars(self, *names: str) -> Iterator[Update]:
        """Show bars, gone when done: a sentence follows."""
        progress = Progress(
            TextColumn("    {task.description:<12}"),
            BarColumn(36),
            TextColumn("{task.completed:>5.0f} of {task.total:.0f}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        with progress:
            tasks = {name: progress.add_task(name, total=1) for name in names}
            yield lambda name, done, total: progress.update(
                tasks[name], completed=done, total=max(total, 1)
            )

    def end(self, claims: Sequence[Claim], closing: str, looks: Sequence[tuple[str, str]]) -> None:
        """Print the table."""
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=(0, 1))
        table.add_column("What held", style="bold")
        table.add_column("Found")
        table.add_column("", justify="center")
        for claim in claims:
            mark = Text("✓", style="bold green") if claim.held else Text("✗", style="bold red")
            table.add_row(claim.name, Text(claim.found), mark)
        self._console.print()
        self._console.print(table)
        held = all(claim.held for claim in claims)
        self._console.print(Text(closing, style="bold green" if held else "bold red"))
        self._console.print(Text("\nWhere to look next", style="bold"))
        for purpose, command in looks:
            line = Text.assemble("  ", (command, "cyan"), ("   # " + purpose, "dim"))
            self._console.print(line, soft_wrap=True)
        self._console.print()
