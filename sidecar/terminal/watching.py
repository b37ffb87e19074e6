"""What a command shows, drawn again and again in place of the screen, until a person has enough."""

from __future__ import annotations

import io
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Final

from sidecar.errors import Unreachable, UsageError
from sidecar.terminal import output

EVERY_S: Final = 2.0


def again_and_again(show: Callable[[], None], *, draw: bool) -> None:
    """Call `show` every few seconds until SIGINT or SIGTERM: to stop by them is to be done.

    With `draw` what it prints takes the place of the screen, and stays there, with its time, while
    a server does not answer. Raises `UsageError` without a terminal to draw on, and what `show`
    raises.
    """
    if draw and not output.on_terminal():
        raise UsageError(
            "--watch draws on a terminal, and standard output is not one; with --json it prints a"
            " line each time"
        )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with suppress(KeyboardInterrupt):
        if draw:
            _draw(show)
        while True:
            show()
            time.sleep(EVERY_S)


def _draw(show: Callable[[], None]) -> None:
    seen, at = _printed(show), _clock()
    with _screen() as update:
        while True:
            update(f"as of {at}; Ctrl-C ends it\n\n{seen}")
            time.sleep(EVERY_S)
            try:
                seen, at = _printed(show), _clock()
            except Unreachable as error:
                update(f"as of {at}: {output.visible(str(error))}\n\n{seen}")
                time.sleep(EVERY_S)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


class _Terminal(io.StringIO):
    """Takes what is printed as if it was the terminal: with its colours, and as wide."""

    encoding = ""

    def isatty(self) -> bool:
        return True


def _printed(show: Callable[[], None]) -> str:
    """Return what `show` prints."""
    seen = _Terminal()
    seen.encoding = sys.stdout.encoding
    with redirect_stdout(seen):
        show()
    return seen.getvalue()


@contextmanager
def _screen() -> Iterator[Callable[[str], None]]:
    """Yield what draws a text on the whole screen; what does not fit is counted."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)

    def update(text: str) -> None:
        lines, most = text.splitlines(), max(console.height - 1, 1)
        if len(lines) > most:
            lines[most - 1 :] = [f"… {len(lines) - most + 1} lines more"]
        drawn = Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop")
        live.update(drawn, refresh=True)

    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield update
