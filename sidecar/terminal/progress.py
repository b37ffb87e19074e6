"""Progress on a terminal, of work whose end nobody knows beforehand."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sidecar.errors import Incomplete

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

SHOW_EVERY_S: Final = 0.1
MANY: Final = 50
"""From so many on a terminal shows progress."""


@contextmanager
def progress(*, json: bool) -> Iterator[Callable[[str], None]]:
    """Yield what to call with a text about how far it is; shown where a person looks on."""
    if json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = BarColumn(bar_width=20), TextColumn("{task.description}", markup=False)
    with _shown(*columns, TimeElapsedColumn()) as shown:
        task = shown.add_task("starting", total=None)
        yield lambda text: shown.update(task, description=text)


@contextmanager
def counted(total: int, what: str, *, json: bool) -> Iterator[Callable[[], None]]:
    """Yield what to call for each of so many; shown where a person looks on, and they are many."""
    if total < MANY or json or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with _shown(*columns) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)


def _shown(*columns: ProgressColumn) -> Progress:
    # Here, not above: rich takes longer to import than many a command takes, and only a terminal
    # needs it.
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        *columns, console=Console(stderr=True), transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip


def size(size_bytes: float) -> str:
    """Write a number of bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:  # noqa: PLR2004 -- what the units are made of
            return f"{size_bytes:,.0f} {unit}" if unit == "B" else f"{size_bytes:,.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:,.1f} TiB"


def seldom(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return what shows a text only so often that a person can follow."""
    due = 0.0

    def shown(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            show(text)
            due = time.monotonic() + SHOW_EVERY_S

    return shown


@contextmanager
def summed_up(summarise: Callable[..., None]) -> Iterator[None]:
    """Sum up what was done, also when it ends early. Ctrl-C and SIGTERM end it (exit code 3)."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    complete = False
    try:
        yield
        complete = True
    except KeyboardInterrupt:
        raise Incomplete("stopped before the end") from None
    except SystemExit as left:
        raise SystemExit(Incomplete.exit_code) from left  # `| head` has had enough
    finally:
        signal.signal(signal.SIGTERM, before)
        summarise(complete=complete)
