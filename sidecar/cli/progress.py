"""Progress on a terminal, of work whose end nobody knows beforehand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(*, json: bool) -> Iterator[Callable[[str], None]]:
    """Yield what to call with a text about how far it is; shown where a person looks on."""
    if json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = Progress(
        BarColumn(bar_width=20), TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(), console=Console(stderr=True), transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    with shown:
        task = shown.add_task("starting", total=None)
        yield lambda text: shown.update(task, description=text)


def size(size_bytes: float) -> str:
    """Write a number of bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:  # noqa: PLR2004 -- what the units are made of
            return f"{size_bytes:,.0f} {unit}" if unit == "B" else f"{size_bytes:,.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:,.1f} TiB"
