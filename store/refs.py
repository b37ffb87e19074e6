"""Refs: what is legal, and how a segment becomes a file name.

Both are part of the contract: what `check_ref` lets through, every backend can hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from store.errors import InvalidRef

REF_MAX_BYTES = 1024
SEGMENT_MAX_BYTES = 255
NAME_MAX_CHARS = 120
"""Longest encoded name. It leaves room in 255 bytes for a backend's own suffix."""

_SEGMENT = r"(?!\.\.?(?:/|\Z))[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
_LEGAL = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# UTF-8 takes at most 4 bytes a character, so a ref this short cannot break a byte limit.
_SURELY_SHORT = SEGMENT_MAX_BYTES // 4

_PLAIN = rf"[a-z0-9_-][a-z0-9._-]{{0,{NAME_MAX_CHARS - 1}}}"
_PLAIN_NAME = re.compile(_PLAIN)
_PLAIN_REF = re.compile(rf"{_PLAIN}(?:/{_PLAIN})*")
_TO_ESCAPE = re.compile(rb"\A\.|[^a-z0-9._-]")
_ESCAPED = re.compile(rb"%([0-9a-f]{2})")
_HASHED = "%%"
_HASHED_NAME = re.compile(r"%%[0-9a-f]{64}")


def check_ref(ref: object) -> None:
    """Return when `ref` is legal. Raises `InvalidRef`, which says what is wrong and the fix."""
    if isinstance(ref, str) and len(ref) <= _SURELY_SHORT and _LEGAL.match(ref):
        return
    fault = _fault(ref)
    if fault:
        raise InvalidRef(f"ref {_shown(ref)} {fault}")


def checked(refs: Iterable[str]) -> list[str]:
    """Return the refs, each once. Raises `InvalidRef` for one that is illegal."""
    found = list(refs)
    for ref in found:
        check_ref(ref)
    return list(dict.fromkeys(found))


def _fault(ref: object) -> str | None:
    if not isinstance(ref, str):
        return f"is {type(ref).__name__}, not str: pass text"
    if not ref:
        return "is empty: a ref has at least one segment"
    return _character_fault(ref) or _segment_fault(ref) or _length_fault(ref)


def _character_fault(ref: str) -> str | None:
    if found := _SURROGATE.search(ref):
        return f"has a lone surrogate at character {found.start()}: decode it as UTF-8 first"
    if found := _CONTROL.search(ref):
        code = ord(found[0])
        return f"has the control character U+{code:04X} at character {found.start()}: remove it"
    return None


def _segment_fault(ref: str) -> str | None:
    if ref.startswith("/"):
        return "starts with '/': remove it, refs are no paths"
    if ref.endswith("/"):
        return "ends with '/': remove it"
    segments = ref.split("/")
    if "" in segments:
        return "has an empty segment: join segments with a single '/'"
    if dots := {".", ".."}.intersection(segments):
        return f"has the segment {min(dots)!r}: refs are not resolved, write out the whole ref"
    return None


def _length_fault(ref: str) -> str | None:
    text = ref.encode()
    if len(text) > REF_MAX_BYTES:
        return f"has {len(text)} bytes of UTF-8: the limit is {REF_MAX_BYTES}"
    longest = max(map(len, text.split(b"/")))
    if longest > SEGMENT_MAX_BYTES:
        return f"has a segment of {longest} bytes of UTF-8: the limit is {SEGMENT_MAX_BYTES}"
    return None


def _shown(ref: object) -> str:
    """Return `ref` for a message: one line of ASCII, cut, whatever it contains."""
    text = ascii(ref)
    return text if len(text) <= NAME_MAX_CHARS else f"{text[:NAME_MAX_CHARS]}…"


def encode(ref: str) -> list[str]:
    """Return the file names of a legal ref's segments."""
    segments = ref.split("/")
    return segments if _PLAIN_REF.fullmatch(ref) else [encode_segment(each) for each in segments]


def encode_segment(segment: str) -> str:
    """Return the file name of a legal ref's `segment`: at most 120 of `[a-z0-9._%-]`.

    Two segments that differ in any byte have names that differ, also where the file system
    ignores case or normalises Unicode. Bytes outside `[a-z0-9._-]`, and a leading dot, become
    `%xx`; a name that would be too long becomes `%%` and the segment's SHA-256. No escape
    begins with `%%`, so a hashed name never meets an escaped one.
    """
    if _PLAIN_NAME.fullmatch(segment):
        return segment
    raw = segment.encode()
    name = _TO_ESCAPE.sub(lambda found: b"%%%02x" % ord(found[0]), raw).decode("ascii")
    if len(name) <= NAME_MAX_CHARS:
        return name
    return _HASHED + hashlib.sha256(raw).hexdigest()


def decode_name(name: str) -> str | None:
    """Return the segment that `encode_segment` made `name` of, None when it was hashed.

    Raises ValueError when `encode_segment` cannot have made it.
    """
    if name.startswith(_HASHED):
        if _HASHED_NAME.fullmatch(name):
            return None
        raise ValueError(f"{name!r} is no hashed segment")
    raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), name.encode("ascii"))
    segment = raw.decode()
    if encode_segment(segment) != name:
        raise ValueError(f"{name!r} is no encoded segment")
    return segment
