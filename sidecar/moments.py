"""Times and control_versions as a person types and reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sidecar.errors import UsageError

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?(?:ms|s|m|h|d))(?:\s+ago)?")

_ENTRY: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


class Since(NamedTuple):
    """Where a window begins: after `control_version`."""

    control_version: int
    is_time: bool
    """Whether it was given as a time, at which there need not be a notification."""


def parse_since(text: str, now_us: int, *, option: str = "--since") -> Since:
    """Read a control_version, an RFC 3339 time, or a duration before now (15m, 2h, 7d).

    A control_version is exclusive, as a cursor is; a time is inclusive. `now_us` is the
    server's clock, which stamps control_versions. Raises `UsageError`.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return Since(int(text), is_time=False)
    at_us = _time_us(text, now_us, f"{option}: {text!r} is none of a control_version"
                     " (1791234567890123)")  # fmt: skip
    return Since(max(0, at_us - 1), is_time=True)


def parse_entry(text: str, now_us: int, *, option: str, last: bool = False) -> str:
    """Read an entry ID, one without its sequence (milliseconds), or a time as `parse_since` does.

    Returns the first entry ID that it includes or, with `last`, the last one. Raises `UsageError`.
    """
    text = text.strip()
    if match := _ENTRY.fullmatch(text):
        ms, sequence = int(match[1]), match[2]
    else:
        at_us = _time_us(text, now_us, f"{option}: {text!r} is none of an entry ID"
                         " (1791234567890-0, 1791234567890)")  # fmt: skip
        ms, sequence = at_us // 1000 if last else -(-at_us // 1000), None
    if sequence is None:
        sequence = str(2**64 - 1) if last else "0"
    if max(ms, int(sequence)) >= 2**64:
        raise UsageError(f"{option}: {text!r} is larger than any entry ID; correct it")
    return f"{ms}-{int(sequence)}"


def _time_us(text: str, now_us: int, problem: str) -> int:
    if match := _AGO.fullmatch(text):
        from sidecar.settings import seconds

        return max(0, now_us - int(seconds(match[1]) * 1e6))
    moment_us = time_us(text)
    if moment_us is None:
        raise UsageError(
            f"{problem}, an RFC 3339 time with its zone (2026-11-02T10:00:00Z) or a duration before"
            " now (15m, 2h, 7d)"
        )
    return moment_us


def time_us(text: str) -> int | None:
    """Read an RFC 3339 time with its zone: microseconds since the epoch, 0 for one before it.

    Returns None for anything else.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    whole_us = (since_epoch.days * 86400 + since_epoch.seconds) * 10**6 + since_epoch.microseconds
    return max(0, whole_us)


def rfc3339(us: float) -> str:
    """Write microseconds since the epoch as a time, to the millisecond."""
    try:
        moment = datetime.fromtimestamp(us / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return "?"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """Write a duration for a person, in its two largest units."""
    if seconds < 0:
        return "-" + span(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:  # noqa: PLR2004 -- one figure is too coarse
        return f"{seconds:.1f}s"
    rest = int(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])
