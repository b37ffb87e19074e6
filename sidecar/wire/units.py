"""Durations and sizes as a person writes them."""

from __future__ import annotations

import re
from typing import Final

_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES: Final = {
    "": 1, "B": 1, "K": 1 << 10, "KIB": 1 << 10, "M": 1 << 20, "MIB": 1 << 20,
    "G": 1 << 30, "GIB": 1 << 30, "T": 1 << 40, "TIB": 1 << 40, "KB": 10**3, "MB": 10**6,
    "GB": 10**9, "TB": 10**12,
}  # fmt: skip


LONGEST_S: Final = 100 * 366 * 86400.0
"""Above that, clocks and waits overflow."""
LONGEST_WINDOW_S: Final = 366 * 86400.0
LARGEST_BYTES: Final = 1 << 60
HIGHEST_PORT: Final = 65535


def said(value: object) -> str:
    """Repeat a value, unless it may be a URL that was typed in the wrong place, or is long."""
    return repr(value) if re.fullmatch(r"([\w. +-]|:(?=\d\d)){0,32}", str(value)) else "that"


def seconds(value: str | float) -> float:
    """Read a duration: a number of seconds, or one with a unit (500ms, 90s, 5m, 12h, 7d)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    if not match or match[2] not in _UNITS_S:
        raise ValueError(f"{said(value)} is no duration; write seconds, or 500ms, 90s, 5m, 12h, 7d")
    found = float(match[1]) * _UNITS_S[match[2]]
    if found > LONGEST_S:
        raise ValueError("that is longer than a hundred years; write seconds, or 12h, 7d")
    return found


def size_bytes(value: str | int) -> int:
    """Read a size: a number of bytes, or one with a unit (512KiB, 64M, 1GiB, 10GB)."""
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", str(value))
    if not match or match[2].upper() not in _UNITS_BYTES:
        raise ValueError(f"{said(value)} is no size; write bytes, or 512KiB, 64M, 1GiB")
    return int(match[1]) * _UNITS_BYTES[match[2].upper()]


def address_of(text: str) -> tuple[str, int]:
    """Read where to listen: a host, or none for all, and a port."""
    host, _, port = text.rpartition(":")
    is_place = ":" in text and not {"/", "@"} & set(host)  # of a URL the login would be told
    if not is_place or not re.fullmatch("[0-9]{1,5}", port) or int(port) > HIGHEST_PORT:
        raise ValueError("that is no address; write HOST:PORT, say 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def window(value: str | float) -> float:
    """Read how long an event_id is remembered, in seconds."""
    if not 1 <= (found := seconds(value)) <= LONGEST_WINDOW_S:
        raise ValueError("a window is from 1s to 366d")
    return found


def artifact_size(value: str | int) -> int:
    """Read how large an artifact may be, in bytes."""
    if not 0 < (found := size_bytes(value)) <= LARGEST_BYTES:
        raise ValueError("a size is from 1 byte to 1048576TiB")
    return found
