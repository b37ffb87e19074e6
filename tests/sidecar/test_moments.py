"""Times, entry IDs and windows as a person types them."""

from __future__ import annotations

import pytest

from sidecar.errors import UsageError
from sidecar.moments import parse_entry

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
        ("1000000d", "0-0", "0-18446744073709551615"),
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
     "5-18446744073709551616", "2026-11-02T10:00:00", "1w", "$", "+"],
)  # fmt: skip
def test_what_is_neither_is_refused(text: str) -> None:
    """The message names the option."""
    with pytest.raises(UsageError, match=r"^--since: "):
        parse_entry(text, NOW_US, option="--since")
