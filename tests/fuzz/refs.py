"""Refs to file names: two refs never meet, none leads out, whatever the backend's encoding.

Refs come in families: one, and variants of it that case, Unicode or an encoding could confuse.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Callable
from typing import Final

from hypothesis import strategies as st

from sidecar.history.places import escaped
from store import InvalidRef
from store.chassis import layout as chassis
from store.file import layout as files
from store.memory import MemoryStore
from store.object import layout as objects
from store.refs import check_ref, decode_name, encode, encode_segment
from tests.fuzz.running import Fuzzer

NAME_MAX: Final = 255
KEY_MAX: Final = 1024
DIGEST: Final = "0" * 64
PLACES: Final[dict[str, Callable[[str], str]]] = {
    "file": lambda ref: f"{files.place_of(ref).path}{DIGEST}.{DIGEST}",
    "object": lambda ref: objects.place_of(ref).versions(DIGEST, DIGEST),
    "archive": escaped,
}
"""The longest name that each encoding makes of a ref."""

_characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    'aA%.@=~+ _-\\:*?"<>|eé\u0301ßsSKK\u0131İiI\u017f\u202e\x7f\x85\x00\n/'
)
_segments = st.text(_characters, max_size=12) | st.sampled_from(
    [".", "..", "", "%", "%%", "%2e", "===", "@", "a@", "@sidecar", "con", "STORE",
     "a.manifest.json",
     "x" * 254, "x" * 255, "x" * 256, "é" * 127, "é" * 128, "." * 120, "A" * 40, "A" * 41]
)  # fmt: skip
_texts = st.lists(_segments, max_size=6).map("/".join) | st.text(max_size=20)
_long = st.builds(lambda one, n: "/".join([one] * n), _segments, st.integers(1, 520))


def _slid(ref: str) -> str:
    """Move the first slash by one character."""
    at = ref.find("/")
    return ref[:at] + ref[at + 1 : at + 2] + "/" + ref[at + 2 :] if at >= 0 else ref


VARIANTS: Final[list[Callable[[str], str]]] = [
    str.lower, str.upper, str.casefold, str.swapcase, str.strip, _slid,
    lambda ref: unicodedata.normalize("NFC", ref), lambda ref: unicodedata.normalize("NFKD", ref),
    lambda ref: "/".join(map(_encoded, ref.split("/"))), lambda ref: ref.replace("%", "="),
    lambda ref: ref.replace("/", "%2f"), lambda ref: ref.replace("/", "_"),
    lambda ref: ref + "@", lambda ref: ref + "/", lambda ref: f"/{ref}", lambda ref: f"{ref}/..",
    lambda ref: f"{ref}.manifest.json", lambda ref: ref[:-1], lambda ref: ref + "é",
]  # fmt: skip


def _encoded(segment: str) -> str:
    try:
        return encode_segment(segment)
    except UnicodeEncodeError:
        return segment


families = st.builds(
    lambda ref, chosen: [ref, *(vary(ref) for vary in chosen)],
    _texts | _long, st.lists(st.sampled_from(VARIANTS), min_size=1, max_size=6),
)  # fmt: skip
STORE: Final = MemoryStore()


def check(family: list[str]) -> int:
    """Hold a family against what encodings promise; what is no legal ref is refused."""
    legal = [ref for ref in dict.fromkeys(family) if _is_legal(ref)]
    for place in PLACES.values():
        found = [place(ref) for ref in legal]
        assert len(set(found)) == len(legal), (legal, found)
    for encoding in (PLACES["file"], PLACES["object"]):
        names = [encoding(ref) for ref in legal]
        assert len(set(map(_folded, names))) == len(legal), (legal, names)
        for name in names:
            _check_harmless(name)
    for ref in legal:
        _check_decoding(ref)
        _check_chassis(ref)
        assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", escaped(ref))
    return len(family)


def _is_legal(ref: str) -> bool:
    said = _refusal(ref, check_ref)
    assert len(said) < 300
    assert not said or said.isprintable()
    assert bool(_refusal(ref, STORE.exists)) == bool(said)
    return not said


def _refusal(ref: str, asked: Callable[[str], object]) -> str:
    """Return how a ref is refused; empty when it is not."""
    try:
        asked(ref)
    except InvalidRef as error:
        return str(error)
    return ""


def _folded(name: str) -> str:
    """Return the name as a file system that ignores case and normalises would compare it."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _check_harmless(name: str) -> None:
    assert posixpath.normpath(name) == name
    assert not name.startswith("/")
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= KEY_MAX + 10 * NAME_MAX
    for part in name.split("/"):
        assert 0 < len(part) <= NAME_MAX
        assert part not in (".", "..")


def _check_decoding(ref: str) -> None:
    for segment, name in zip(ref.split("/"), encode(ref), strict=True):
        assert decode_name(name) in (segment, None)
    path = objects.place_of(ref).path
    assert objects.ref_of(path) in (ref, None)
    assert len(objects.place_of(ref).versions(DIGEST, DIGEST)) + 200 + 33 <= KEY_MAX


def _check_chassis(ref: str) -> None:
    """Hold the Go fleet's layout: refs may meet there, and the path says which ref that is."""
    try:
        place = chassis.place_of(ref)
    except InvalidRef:
        return
    _check_harmless(place.path)
    assert len(place.manifest) <= NAME_MAX
    assert chassis.OWN not in place.path.split("/")
    again = chassis.place_of(place.path)
    assert (again.path, again.spelled) == (place.path, True)
    assert place.spelled == (place.path == ref)


FUZZER: Final = Fuzzer("refs", families, check)
