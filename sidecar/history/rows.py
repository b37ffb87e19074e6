"""An entry as one line of JSON: how entries lie in archive segments and bundles.

An array: the entry's ID, then names and values in turn, as Redis has them. What is not UTF-8 is
`{"base64": "…"}`; so a line gives back the very bytes, and can be read with any tool for JSON.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any, Final

import orjson

from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId

_BASE64: Final = "base64"
_DIGITS: Final = 20
"""Of the highest half of an ID."""


def to_line(entry: Entry) -> bytes:
    """Return the entry as a line, with its line feed."""
    row: list[Any] = [entry.id]
    for name, value in entry.fields.items():
        row += (_text(name), _text(value))
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def id_of_line(line: bytes) -> tuple[int, int]:
    """Return the ID of a line, as a pair, without decoding the rest. Raises `ValueError`."""
    ms, dash, seq = line[2 : line.index(b'"', 2)].partition(b"-")
    if not (line.startswith(b'["') and dash and ms.isdigit() and seq.isdigit()):
        raise ValueError(f"this is no entry: {line[:80]!r}")
    return int(ms), int(seq)


def order_of_line(line: bytes) -> bytes:
    """Return bytes that compare as the IDs of lines do. Raises `ValueError`."""
    ms, dash, seq = line[2 : line.index(b'"', 2)].partition(b"-")
    if not (line.startswith(b'["') and dash and ms.isdigit() and seq.isdigit()):
        raise ValueError(f"this is no entry: {line[:80]!r}")
    return ms.zfill(_DIGITS) + seq.zfill(_DIGITS)


def of_line(line: bytes) -> Entry:
    """Return the entry of a line. Raises `ValueError` when it is none."""
    row = orjson.loads(line)
    if not (isinstance(row, list) and len(row) % 2 and isinstance(row[0], str)):
        raise ValueError(f"this is no entry: {line[:80]!r}")
    try:
        flat = list(map(str.encode, row))  # nearly always all is text
    except TypeError:
        flat = list(map(_bytes, row))
    parts = iter(flat)
    next(parts)
    entry_id = EntryId.parse(row[0])
    if entry_id is None:
        raise ValueError(f"this is no entry ID: {row[0][:80]!r}")
    return Entry(entry_id, dict(zip(parts, parts)))  # noqa: B905 -- two of one iterator


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {_BASE64: b64encode(raw).decode()}


def _bytes(part: object) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, dict) and isinstance(part.get(_BASE64), str):
        try:
            return b64decode(part[_BASE64], validate=True)
        except binascii.Error as error:
            raise ValueError(f"this is no base64: {part}") from error
    raise ValueError(f"this is neither text nor base64: {part!r}")
