"""Two blobs compared as what they are."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sidecar.replay import compare as module
from sidecar.replay.compare import Comparison, Kind, compare

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)  # fmt: skip


def told(old: str, new: str) -> Comparison:
    """Compare two texts."""
    return compare(old.encode(), new.encode())


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_two_blobs_compare(old: bytes, new: bytes) -> None:
    """It never fails; identical are the same bytes alone, and what differs has lines."""
    found = compare(old, new)
    assert found.identical == (old == new)
    assert found.same or found.lines


@given(st.dictionaries(st.text(max_size=4), VALUES, min_size=2))
def test_json_is_the_same_whatever_the_order_of_its_keys(value: dict[str, object]) -> None:
    """Order and spaces say nothing; a value that changes does."""
    turned = dict(reversed(value.items()))
    found = compare(json.dumps(value).encode(), json.dumps(turned, indent=1).encode())
    assert (found.kind, found.same, found.identical) == (Kind.JSON, True, False)
    assert not compare(json.dumps(value).encode(), json.dumps({**value, "new": 1}).encode()).same


def test_numbers_are_as_they_are_written() -> None:
    """What no double tells apart still differs."""
    assert told('{"a":1.0}', '{"a":1.00}').lines
    assert told("[1e999]", "[1e998]").lines == [
        "@@ -1,3 +1,3 @@",
        " [",
        "-  1e999",
        "+  1e998",
        " ]",
    ]
    assert told("[9007199254740993]", "[9007199254740992]").lines


def test_json_tells_what_changed() -> None:
    """The lines name the key with both values."""
    found = told('{"b":2,"a":{"x":1}}', '{"a":{"x":3},"b":2}')
    assert found.kind is Kind.JSON
    assert '-    "x": 1' in found.lines
    assert '+    "x": 3' in found.lines
    assert found.counts() == (1, 1)


SQL = "PRAGMA foreign_keys=OFF;\nCREATE TABLE t(a, b);\n{}INSERT INTO u VALUES(1);\n"


def test_sql_rows_may_come_in_any_order() -> None:
    """Rows inserted into one table in turn are a set; statements of several lines stay whole."""
    one, two = "INSERT INTO t VALUES(1,'a\nb; c');\n", "INSERT INTO t VALUES(2,'x');\n"
    found = told(SQL.format(one + two), SQL.format(two + one))
    assert (found.kind, found.same, found.identical, found.lines) == (Kind.SQL, True, False, [])
    found = told(SQL.format(one + two), SQL.format(two))
    assert [line for line in found.lines if line.startswith("-")] == [
        "-INSERT INTO t VALUES(1,'a\nb; c');"
    ]
    assert not told("CREATE TABLE a(x);\nDROP TABLE a;", "DROP TABLE a;\nCREATE TABLE a(x);").same
    assert not told("INSERT INTO a VALUES(1);\n" * 2, "INSERT INTO a VALUES(1);\n").same


def test_other_text_is_compared_by_lines() -> None:
    """A unified diff; a missing last line feed is a difference."""
    assert told("a\nb\nc\n", "a\nB\nc\n").lines == ["@@ -1,4 +1,4 @@", " a", "-b", "+B", " c", " "]
    found = told("a", "a\n")
    assert (found.kind, found.same) == (Kind.TEXT, False)
    assert found.lines


def test_bytes_and_what_is_large_are_compared_by_size_and_digest() -> None:
    """Nothing of them is printed."""
    found = compare(b"\x00secret", b"text")
    assert found.kind is Kind.BINARY
    assert [line.split(",")[0] for line in found.lines] == ["-7 bytes", "+4 bytes"]
    large = b"x" * (module.MAX_BYTES + 1)
    assert compare(large, b"text").kind is Kind.BINARY
    assert compare(b"\n" * (module.MAX_LINES + 1), b"text").kind is Kind.BINARY
