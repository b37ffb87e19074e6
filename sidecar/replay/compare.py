"""Two blobs, compared as what they are: JSON, SQL dumps, text, or just bytes."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator
from difflib import unified_diff
from enum import StrEnum
from itertools import groupby
from typing import Any, Final, NamedTuple, NoReturn

MAX_BYTES: Final = 8 << 20
"""Larger blobs are compared as bytes: by size and digest."""
MAX_LINES: Final = 50_000
"""So are those with more lines: to compare lines takes time that grows with their square."""
_SQL: Final = re.compile(
    r"\s*(--[^\n]*\n\s*)*(PRAGMA|BEGIN|CREATE|INSERT|DROP|SET|ALTER|COMMIT)\b", re.IGNORECASE
)
# A number with a point keeps its digits: as a string, marked as nobody's string is.
_MARK: Final = secrets.token_hex(16)
_MARKED: Final = re.compile(f'"{_MARK}([^"]*)"')
_INSERT: Final = re.compile(r"\s*INSERT\s+(?:OR\s+\w+\s+)?INTO\s+(\S+?)\s*(?:\(|VALUES)", re.I)


class Kind(StrEnum):
    """What two blobs were compared as."""

    JSON = "json"
    SQL = "sql"
    TEXT = "text"
    BINARY = "binary"


class Comparison(NamedTuple):
    """How two blobs differ."""

    kind: Kind
    same: bool
    """Whether they say the same: in JSON whatever the order of keys and the spaces, in SQL
    whatever the order of the rows that one INSERT after the other puts into a table."""
    identical: bool
    """Whether they are the same bytes."""
    lines: list[str]
    """A unified diff of what they say; of bytes, their sizes and digests. Empty when the same."""

    def counts(self) -> tuple[int, int]:
        """Return how many lines came, and how many went."""
        came = sum(line.startswith("+") for line in self.lines)
        return came, sum(line.startswith("-") for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        came, went = self.counts()
        return {
            "kind": self.kind.value, "same": self.same, "identical": self.identical, "came": came,
            "went": went, "lines": self.lines,
        }  # fmt: skip


def compare(old: bytes, new: bytes) -> Comparison:
    """Compare two blobs as what both of them are."""
    if old == new:
        kind = Kind.BINARY if _text(old) is None else Kind.TEXT
        return Comparison(kind, same=True, identical=True, lines=[])
    kind, before, after = _read(old, new)
    if kind is Kind.BINARY:
        lines = [*_bytes("-", old), *_bytes("+", new)]
        return Comparison(kind, same=False, identical=False, lines=lines)
    lines = [line.rstrip("\n") for line in unified_diff(before, after, n=3, lineterm="")][2:]
    return Comparison(kind, same=before == after, identical=False, lines=lines)


def _read(old: bytes, new: bytes) -> tuple[Kind, list[str], list[str]]:
    """Return what both are, and both as lines."""
    texts = _text(old), _text(new)
    if texts[0] is None or texts[1] is None:
        return Kind.BINARY, [], []
    for kind, read in ((Kind.JSON, _json), (Kind.SQL, _sql)):
        before, after = read(texts[0]), read(texts[1])
        if before is not None and after is not None:
            return _bounded(kind, before, after)
    return _bounded(Kind.TEXT, texts[0].split("\n"), texts[1].split("\n"))


def _bounded(kind: Kind, old: list[str], new: list[str]) -> tuple[Kind, list[str], list[str]]:
    if max(len(old), len(new)) > MAX_LINES:
        return Kind.BINARY, [], []
    return kind, old, new


def _text(blob: bytes) -> str | None:
    if len(blob) > MAX_BYTES or b"\0" in blob:
        return None
    try:
        return blob.decode()
    except UnicodeDecodeError:
        return None


def _json(text: str) -> list[str] | None:
    """Return JSON with sorted keys, a line a value; None when it is none."""
    try:
        value: Any = json.loads(
            text, parse_float=lambda literal: _MARK + literal, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict | list):
        return None
    shown = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return _MARKED.sub(r"\1", shown).split("\n")


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no JSON")


def _sql(text: str) -> list[str] | None:
    """Return the statements, those that insert into one table in turn sorted; None for no SQL."""
    if not _SQL.match(text):
        return None
    statements: list[str] = []
    for table, run in groupby(_statements(text), key=_table):
        among = list(run)
        statements += sorted(among) if table else among
    return statements


def _statements(text: str) -> Iterator[str]:
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if ";" in line and sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if statement.strip():
        yield statement.strip()


def _table(statement: str) -> str:
    match = _INSERT.match(statement)
    return match[1] if match else ""


def _bytes(sign: str, blob: bytes) -> Iterator[str]:
    yield f"{sign}{len(blob):,} bytes, sha256:{hashlib.sha256(blob).hexdigest()}"
