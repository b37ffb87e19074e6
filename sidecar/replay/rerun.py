"""A window's notifications published again, for a controller in a lab.

With the IDs and the content that they had, so that it is the same every time, and continues where
it was stopped: a stream that holds anything else is never written to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from sidecar.errors import UsageError
from sidecar.history import History
from sidecar.redis.client import Side
from sidecar.redis.errors import translated
from sidecar.redis.scan import pages
from sidecar.redis.source import Entry
from sidecar.replay.timeline import decoded
from sidecar.replay.window import LifeSelection, Window
from sidecar.wire.ids import EntryId


def wanted(history: History, window: Window, asked: LifeSelection) -> Iterator[Entry]:
    """Yield the notifications that are to be published again, in order."""
    for entry in history.entries(history.streams.notifications, window.first, window.last):
        if not asked or asked.wants(decoded(entry.fields)):
            yield entry


def left_after(entries: Iterator[Entry], target: Side, stream: str) -> Iterator[Entry]:
    """Yield of `entries` those that the stream does not have yet.

    Raises `UsageError` when it holds anything else than the first of them, `Unreachable`.
    """
    with translated(target.url):
        for page in pages(target.at(stream), stream):
            for there in page:
                expected = next(entries, None)
                if expected is None or _content(expected) != _content(there):
                    raise UsageError(
                        f"the stream {stream!r} holds {there.id}, which is not what this window"
                        " has there; name another with --to-stream, or delete it"
                    )
    yield from entries


def _content(entry: Entry) -> tuple[EntryId, dict[bytes, bytes]]:
    return entry.id, dict(entry.fields)


def speed_of(text: str) -> float | None:
    """Read how many times as fast; None is as fast as it goes. Raises `ValueError`."""
    if text == "max":
        return None
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise ValueError(f"{text!r}: a number above 0 (10 is ten times as fast), or max")
    return factor


def publish(
    entries: Iterator[Entry], target: Side, stream: str, *, speed: float | None,
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Entry]:  # fmt: skip
    """Publish each with the distance in time that they had, `speed` times as fast; yield it.

    Without `speed` as fast as it goes. Raises `Unreachable`.
    """
    began, first_us = clock(), 0
    for entry in entries:
        at_us = entry.id.control_version
        first_us = first_us or at_us
        if speed:
            due = began + (at_us - first_us) / 1e6 / speed
            sleep(max(0.0, due - clock()))
        fields: Any = dict(entry.fields)
        with translated(target.url):
            target.at(stream).xadd(stream, fields, id=entry.id)
        yield entry


def check_target(history: History, target: Side, stream: str) -> None:
    """Raise `UsageError` for the stream that the notifications come from, on whatever server."""
    if stream in history.streams or stream in history.streams.control:
        raise UsageError(
            f"--to-stream {stream!r} is the name of one of the streams under review; name another,"
            " for a controller cannot tell what is replayed from what is new"
        )
    with translated(target.url):
        info = target.at(stream).type(stream)
    if info not in (b"stream", b"none"):
        raise UsageError(f"--to-stream {stream!r}: that key is no stream; name another")
