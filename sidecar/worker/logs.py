"""Logs: to standard error; JSON, one object a line, unless a person looks at them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from sidecar.lines import Lines, Unblocked, is_terminal, unblocked, write_now

LEVELS: Final = ("debug", "info", "warning", "error")


@contextmanager
def beside_the_work() -> Iterator[Lines]:
    """Let no write to standard error hold up or stop what this process does (decision 0019)."""
    with unblocked(_dropped) as lines:
        yield lines


def configure(level: str) -> FilteringBoundLogger:
    """Set structlog up for this process and return its logger.

    `level` is one of `LEVELS`; at debug there is one canonical line an event.
    """
    person = is_terminal(sys.stderr)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if person else "iso", utc=not person),
    ]
    if person:
        # Not its own tracebacks: they show variables, passwords among them.
        plain = structlog.dev.plain_traceback
        shared.append(structlog.dev.ConsoleRenderer(exception_formatter=plain))
    else:
        shared += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_Sink,
        cache_logger_on_first_use=True,
    )
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


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
