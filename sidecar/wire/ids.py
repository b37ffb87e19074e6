"""IDs of stream entries, and the control_versions of notifications.

An ID is `milliseconds-sequence`. IDs of a control stream are positions, never times: producers may
give their own. A notification's ID is made by the relay and stands for its control_version.
"""

from __future__ import annotations

import re
from typing import Final

FIRST: Final = "0-0"
HIGHEST: Final = 2**64 - 1
LAST: Final = f"{HIGHEST}-{HIGHEST}"
"""The highest ID that an entry can have."""

HIGHEST_VERSION: Final = 2**53 - 1
"""The highest control_version: every JSON reader holds it exactly."""


def is_entry_id(text: str) -> bool:
    """Tell whether `text` is an entry ID, written in full."""
    return re.fullmatch("[0-9]{1,20}-[0-9]{1,20}", text) is not None


def id_pair(entry_id: str) -> tuple[int, int]:
    """Return an entry ID as a pair that compares as Redis compares IDs."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)


def key_of(entry_id: str) -> str:
    """Return an ID so that SQLite compares it as Redis does."""
    ms, seq = id_pair(entry_id)
    return f"{ms:020}-{seq:020}"


def id_of(key: str) -> str:
    """Return the ID that `key_of` made a key of."""
    ms, seq = id_pair(key)
    return f"{ms}-{seq}"


def id_before(entry_id: str) -> str:
    """Return the greatest entry ID below `entry_id`."""
    ms, seq = id_pair(entry_id)
    if seq:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{HIGHEST}" if ms else FIRST


def id_after(entry_id: str) -> str:
    """Return the least entry ID above `entry_id`, or the highest that there can be."""
    ms, seq = id_pair(entry_id)
    if seq < HIGHEST:
        return f"{ms}-{seq + 1}"
    return f"{ms + 1}-0" if ms < HIGHEST else LAST


def control_version_of(entry_id: str) -> int:
    """Return the control_version that an ID of the notification stream stands for."""
    ms, _, seq = entry_id.partition("-")
    return int(ms) * 1000 + int(seq or 0)


def entry_id_of(control_version: int) -> str:
    """Return the ID that a notification with this control_version has."""
    return f"{control_version // 1000}-{control_version % 1000}"
