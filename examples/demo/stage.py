"""The output of the demo: for a person at a terminal, as plain lines for a pipe, or as JSON."""

import io
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from examples.demo.claims import Claim

PICTURE: Final = """
 control plane ── event ─▶ control:events ─▶ sidecar ─▶ control:notifications
   (SQLite)                                     │                │
      │                                     verified         reference
      │                                         ▼                ▼
      └─ artifact ─▶ source store ────────▶ fleet store ─▶ fleet controller"""
OK: Final = ("ok      ", "bold green")
FAILED: Final = ("FAILED  ", "bold red")


class Stage:
    """A terminal, a pipe, or with `as_json` one object a line."""

    def __init__(self, *, as_json: bool) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._console, self._json = Console(highlight=False), as_json
        self._began, self._chapter = time.monotonic(), 0
        if not as_json:
            self._print(Text(PICTURE, "cyan"))

    def chapter(self, number: int, title: str) -> None:
        """Print the heading of a chapter."""
        self._chapter = number
        self._print(Text(f"\n{number} {title}", "bold"), step="chapter")

    def say(self, text: str, **figures: object) -> None:
        """Print one step: the sentence for a person, and figures for a machine."""
        self._print(Text(text), indent=2, step="told", **figures)

    @contextmanager
    def watch(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show at a terminal what is waited for, and how it proceeds."""
        if self._json or not self._console.is_terminal:
            yield lambda _: None
            return
        with self._console.status(what) as shown:
            yield lambda text: shown.update(f"{what}: {text}")

    def end(self, claims: Sequence[Claim], text: str, looks: Sequence[str]) -> None:
        """Print what held, and commands to look around with."""
        failed = [name for name, held, _ in claims if not held]
        self._print(Text("\nWhat held", "bold"), step="chapter")
        for name, held, found in claims:
            line = Text.assemble(OK if held else FAILED, (name, "bold"), f": {found}")
            self._print(line, indent=2, step="claim", claim=name, held=held)
        style = FAILED[1] if failed else OK[1]
        self._print(Text(f"\n{text}\n", style), step="summary", held=not failed, failed=failed)
        for look in looks:
            self._print(Text(look, "cyan"), indent=2, step="next")

    def _print(self, text: Text, indent: int = 0, **figures: object) -> None:
        if self._json:
            at = {"chapter": self._chapter, "at_s": round(time.monotonic() - self._began, 3)}
            print(json.dumps({**figures, "text": text.plain.strip(), **at}), flush=True)
        elif self._console.is_terminal:
            self._console.print(Padding(text, (0, 0, 0, indent)))
        else:
            print(textwrap.indent(text.plain, " " * indent), flush=True)
