"""Logs: to standard error; JSON, one object a line, unless a person looks at them or asks."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor

from sidecar.lines import Lines, Unblocked, is_terminal, unblocked, visible, write_now

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]


@contextmanager
def beside_the_work() -> Iterator[Lines]:
    """Let no write to standard error hold up or stop what this process does (decision 0019)."""
    with unblocked(_dropped) as lines:
        yield lines


def configure(level: Level, shape: Format | None = None) -> FilteringBoundLogger:
    """Set structlog up for this process and return its logger.

    At debug there is one canonical line an event. `shape` None is what a terminal or a pipe wants.
    """
    person = shape == "console" if shape else is_terminal(sys.stderr)
    structlog.configure(
        processors=_processors(person=person),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_Sink,
        cache_logger_on_first_use=True,
    )
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def _processors(*, person: bool) -> list[Processor]:
    """Return how a line is made, for a person or for a machine."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if person else "iso", utc=not person),
    ]
    if person:
        colors = is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
        line = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback)
        return [*shared, _harmless, line]
    return [*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _harmless(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Let no text out of an event, or of an error, steer the terminal."""
    return {name: _visible(value) for name, value in event.items()}


def _visible(value: object) -> object:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list | tuple):
        return [_visible(one) for one in value]
    return value


def _traceback(file: TextIO, error: ExcInfo) -> None:
    """Write a traceback without variables, in which passwords may be."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    file.write(visible(text.getvalue(), lines=True))


class _Sink:
    """Where rendered lines go: to what standard error is when a line comes."""

    def __init__(self, *_: object) -> None:
        """Take what structlog gives a logger: what `get_logger` was called with."""

    def msg(self, message: str) -> None:
        """Write a line."""
        stream: object = sys.stderr
        if isinstance(stream, Unblocked):
            stream.lines.put(message)
        else:
            write_now(message + "\n")

    debug = info = warning = error = critical = msg


def _dropped(count: int) -> str:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    said = {"lines": count, "event": "log lines were dropped", "level": "warning"}
    return json.dumps(said | {"timestamp": now})
