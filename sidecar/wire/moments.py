"""Times and control_versions as a person types and reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sidecar.errors import UsageError
from sidecar.wire.ids import HIGHEST, EntryId

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?(?:ms|s|m|h|d))(?:\s+ago)?")
_ENTRY: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_MS_FROM, _MS_TO = 10**12, 10**13
_US_FROM, _US_TO = 10**15, 10**17
_SMALL: Final = 10**9
"""Below it a bare number is the first half of an ID that a producer gave by hand, or 0."""
_FORMS: Final = (
    "a control_version (1791234567890123, in microseconds), an entry ID (1791234567890-0, or"
    " 1791234567890 for all of that millisecond), an RFC 3339 time with its zone"
    " (2026-11-02T10:00:00Z) or a duration before now (15m, 2h, 7d)"
)


class Position(NamedTuple):
    """What a person named as the beginning or the end of something."""

    first_us: int
    """The first microsecond since the epoch that it means: a control_version is one."""
    last_us: int
    """The last: of an ID without its sequence, that of its millisecond."""
    entry: tuple[int, int | None] | None = None
    """The halves of an ID, the second None when it was left out; None for what is no ID."""
    is_version: bool = False
    """Whether it is a control_version: as a beginning it is exclusive, as a cursor is."""

    @property
    def begin_us(self) -> int:
        """The first control_version of a window that begins with it."""
        return self.first_us + self.is_version

    @property
    def cursor(self) -> int:
        """The control_version after which such a window begins."""
        return max(0, self.begin_us - 1)


def parse_position(text: str, now_us: int, *, option: str = "--since") -> Position:
    """Read a control_version, an entry ID, an RFC 3339 time, or a duration before now.

    A bare number is read by its size, and alike by every command: thirteen digits are
    milliseconds, sixteen or seventeen a control_version; one that could be either is refused.
    `now_us` is the server's clock. Raises `UsageError`.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return _bare(int(text), f"{option}: {text!r}")
    if match := _ENTRY.fullmatch(text):
        return _entry(int(match[1]), int(match[2]), f"{option}: {text!r}")
    at_us = _time_us(text, now_us, option)
    return Position(at_us, at_us)


def parse_entry(text: str, now_us: int, *, option: str, last: bool = False) -> EntryId:
    """Read a position, as the first entry ID that it includes or, with `last`, the last one.

    Raises `UsageError`.
    """
    position = parse_position(text, now_us, option=option)
    if position.entry:
        ms, sequence = position.entry
    else:
        us = position.last_us if last else position.begin_us
        whole = position.is_version or last  # of a time's part of a millisecond none comes before
        ms, sequence = us // 1000 if whole else -(-us // 1000), None
    if sequence is None:
        sequence = HIGHEST if last else 0
    return EntryId.of(ms, sequence)


def _bare(number: int, given: str) -> Position:
    if number < _SMALL or _MS_FROM <= number < _MS_TO:
        return _entry(number, None, given)
    if _US_FROM <= number < _US_TO:
        return Position(number, number, is_version=True)
    raise UsageError(
        f"{given} may be one thing or another: write {_FORMS}; for the entry ID {number}-0"
    )


def _entry(ms: int, sequence: int | None, given: str) -> Position:
    if max(ms, sequence or 0) > HIGHEST:
        raise UsageError(f"{given} is larger than any entry ID; correct it")
    if sequence is None:
        return Position(ms * 1000, ms * 1000 + 999, (ms, None))
    us = ms * 1000 + min(sequence, 999)
    return Position(us, us, (ms, sequence))


def _time_us(text: str, now_us: int, option: str) -> int:
    from sidecar.wire.units import said, seconds

    if match := _AGO.fullmatch(text):
        return max(0, now_us - int(seconds(match[1]) * 1e6))
    moment_us = time_us(text)
    if moment_us is None:
        raise UsageError(f"{option}: {said(text)} is none of {_FORMS}")
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
