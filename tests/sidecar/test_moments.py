"""Times, entry IDs and windows as a person types them."""

from __future__ import annotations

import pytest

from sidecar.errors import UsageError
from sidecar.wire.moments import Position, parse_entry, parse_position

NOW_US = 1_791_234_567_890_123


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("5-7", "5-7", "5-7"),
        ("5-0", "5-0", "5-0"),
        (" 005-07 ", "5-7", "5-7"),
        ("5", "5-0", "5-18446744073709551615"),
        ("0", "0-0", "0-18446744073709551615"),
        ("18446744073709551615-18446744073709551615",) * 3,
        ("1970-01-01T00:00:05Z", "5000-0", "5000-18446744073709551615"),
        ("1970-01-01T02:00:00.005+02:00", "5-0", "5-18446744073709551615"),
        ("1970-01-01T00:00:00.0055Z", "6-0", "5-18446744073709551615"),
        ("1960-01-01T00:00:00Z", "0-0", "0-18446744073709551615"),
        ("1s", "1791234566891-0", "1791234566890-18446744073709551615"),
        ("1s ago", "1791234566891-0", "1791234566890-18446744073709551615"),
        ("1791234567890", "1791234567890-0", "1791234567890-18446744073709551615"),
        ("1791234567890123", "1791234567890-0", "1791234567890-18446744073709551615"),
        ("36500d", "0-0", "0-18446744073709551615"),
    ],
)
def test_an_entry_or_a_time_is_where_a_window_begins_or_ends(
    text: str, first: str, last: str
) -> None:
    """Both ends are included: of a millisecond all its entries, of a part of one none before."""
    assert parse_entry(text, NOW_US, option="--since") == first
    assert parse_entry(text, NOW_US, option="--until", last=True) == last


@pytest.mark.parametrize(
    "text",
    ["", "soon", "5-", "-5", "5-6-7", "0x5", "\u0665", "18446744073709551616",
     "5-18446744073709551616", "1791234567", "179123456789", "17912345678901", "179123456789012",
     "179123456789012345", "2026-11-02T10:00:00", "1w", "$", "+"],
)  # fmt: skip
def test_what_is_neither_is_refused(text: str) -> None:
    """The message names the option."""
    with pytest.raises(UsageError, match=r"^--since: "):
        parse_entry(text, NOW_US, option="--since")


@pytest.mark.parametrize(
    ("text", "first_us", "last_us", "cursor"),
    [
        ("1791234567890123", 1791234567890123, 1791234567890123, 1791234567890123),
        ("1791234567890", 1791234567890000, 1791234567890999, 1791234567889999),
        ("1791234567890-123", 1791234567890123, 1791234567890123, 1791234567890122),
        ("1791234567890-4711", 1791234567890999, 1791234567890999, 1791234567890998),
        ("2026-10-05T12:29:27.890Z", 1791203367890000, 1791203367890000, 1791203367889999),
        ("0", 0, 999, 0),
    ],
)
def test_a_bare_number_is_read_by_its_size(
    text: str, first_us: int, last_us: int, cursor: int
) -> None:
    """Sixteen digits are a control_version, exclusive as a cursor; thirteen are milliseconds."""
    position = parse_position(text, NOW_US)
    assert (position.first_us, position.last_us, position.cursor) == (first_us, last_us, cursor)


def test_what_could_be_two_things_is_refused_with_how_to_write_each() -> None:
    """Seconds, say, which nothing here counts in: the message shows each form, and the ID."""
    with pytest.raises(UsageError, match=r"1791234567890123.*1791234567890-0.*RFC 3339.*15m"):
        parse_position("1791234567", NOW_US)
    with pytest.raises(UsageError, match="1791234567-0"):
        parse_position("1791234567", NOW_US)


def test_an_id_keeps_its_halves() -> None:
    """An ID that a producer gave by hand is no time, and is taken as it stands."""
    assert parse_position("7-3", NOW_US) == Position(7003, 7003, (7, 3))
