"""What the tests put: hostile refs, hostile blobs, hostile readers."""

# ruff: noqa: S101 - assertions are what this package is for

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Callable

import pytest

from store import Capability, InvalidRef, Store, capabilities

REF = "stacks/t_123/web/42"
ABSENT = "sha256:" + "0" * 64

NEIGHBOURS = [
    ("a", "a/b"),
    ("a/b", "a/b/c"),
    ("A", "a"),
    ("stacks/T_1/web", "stacks/t_1/web"),
    ("x", "x.manifest.json"),
    ("x", "x.tmp"),
    (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    ("a", "a@"),
    ("a@", "a@/b"),
    ("A", "%41"),
    ("%41", "%2541"),
    ("a b", "a_b"),
    ("ß", "ss"),
    ("s" * 255, "s" * 254),
    ("S" * 255, "s" * 255),
    (".a", "a"),
    ("...", ".../..."),
    ("a\\b", "a/b"),
    ("-", "--"),
    ("a*", "a?"),
    ("con", "nul"),
    ("\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}"),
]
"""Pairs of legal refs that a careless encoding, or the storage itself, lets collide."""

LONG = [
    "é" * 127,
    "/".join(["s" * 255] * 4),
    "/".join("d" * 512),
    "\N{GRINNING FACE}" * 63 + "/" + "%" * 255,
    "A" * 255 + "/" + "@" * 255,
]
"""Legal refs at the limits: 1024 bytes in all, 255 a segment, 512 segments."""

ILLEGAL: list[object] = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../a",
    "a\x00b",
    "a\nb",
    "a\x7f",
    "a\x85b",
    "\x1b[31m",
    "\ud800",
    "a/\udfff",
    "a" * 256,
    "é" * 128,
    "/".join(["s" * 255] * 4) + "/",
    "a/" * 512 + "a",
    None,
    7,
    b"a",
    ["a"],
]

LOOK_ALIKES = [
    b"",
    b"\n\n",
    b"artifact-record 1\nref a\n\n",
    b"sha256:" + b"0" * 64,
    b"\r\n--boundary\r\n",
    b"\x00" * 4096,
    b"{}",
]
"""Blobs that a backend could take for its own headers or separators."""

MOST_AT_ONCE_BYTES = 16 << 20
"""What a backend may ask a reader for at a time, if it is to take constant memory."""


class Interrupted(BaseException):
    """What no backend may take for an error of its own, as KeyboardInterrupt."""


class Trickle:
    """A reader that gives at most `piece_bytes` at a time, and breaks with `error` at the end."""

    def __init__(self, data: bytes, piece_bytes: int, error: BaseException | None = None) -> None:
        self._rest = memoryview(data)
        self._piece_bytes = piece_bytes
        self._error = error

    def read(self, size: int, /) -> bytes:
        """Return the next piece. Raises AssertionError for a size that is not bounded."""
        assert 0 < size <= MOST_AT_ONCE_BYTES, f"it asked for {size} bytes at once"
        if not self._rest and self._error:
            raise self._error
        size = min(size, self._piece_bytes)
        piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return piece


def blob_of(size_bytes: int) -> bytes:
    """Return so many bytes, always the same for a size; no two windows of them are alike."""
    return random.Random(size_bytes).randbytes(size_bytes)  # noqa: S311 -- no secret


def needs(store: Store, capability: Capability) -> None:
    """Skip the test when the backend does not declare `capability`."""
    if capability not in capabilities(store):
        pytest.skip(f"this backend does not declare {capability}")


def wait_out(seconds: float) -> None:
    """Return once the wall clock, which is what ages are told by, has gone on so far."""
    until = time.time() + seconds
    while time.time() < until:
        time.sleep(0.01)


def illegal_refs_taken(call: Callable[[str], object]) -> list[object]:
    """Return the illegal refs for which this call raises no `InvalidRef`: none should be taken."""
    taken = []
    for ref in ILLEGAL:
        try:
            call(ref)  # type: ignore[arg-type]  # some are no text: that is what is wrong with them
        except InvalidRef:
            continue
        taken.append(ref)
    return taken
