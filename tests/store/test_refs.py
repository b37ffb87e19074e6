"""What is a legal ref, and that no two refs share a name."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import InvalidRef
from store.refs import check_ref, decode_name, encode_segment
from store.testing.samples import ILLEGAL, LONG, NEIGHBOURS

_ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
# Characters that case, Unicode or the encoding itself could confuse, so that collisions are near.
_NASTY_TEXT = st.text(
    st.sampled_from("aA%.@2456eé\u0301ßsSKK \\_-\u0131İiI\u017f"), min_size=1, max_size=8
)
SEGMENTS = (_ANY_TEXT | _NASTY_TEXT | st.sampled_from([s for r in LONG for s in r.split("/")])).map(
    lambda text: re.sub(r"[\x00-\x1f\x7f-\x9f/]", "x", text)
)


def _folded(name: str) -> str:
    """Return the name as a file system that ignores case and normalises would compare it."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


@pytest.mark.parametrize("ref", [*LONG, *(ref for pair in NEIGHBOURS for ref in pair)], ids=ascii)
def test_legal(ref: str) -> None:
    """Every character outside control characters and lone surrogates is legal."""
    check_ref(ref)


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("", "empty"),
        ("/a", "starts with '/'"),
        ("a/", "ends with '/'"),
        ("a//b", "empty segment"),
        ("a/../b", "'..'"),
        (".", "'.'"),
        ("a\nb", r"U\+000A at character 1"),
        ("a\x85", r"U\+0085"),
        ("\ud800", "surrogate"),
        ("a" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("a/" * 512 + "a", "1025 bytes"),
        (b"a", "bytes, not str"),
        (None, "NoneType"),
    ],
    ids=ascii,
)
def test_message_names_the_fault(ref: object, told: str) -> None:
    """The message of `InvalidRef` says what is wrong."""
    with pytest.raises(InvalidRef, match=told):
        check_ref(ref)


@pytest.mark.parametrize("ref", ILLEGAL, ids=ascii)
def test_message_is_fit_for_a_log(ref: object) -> None:
    """The message is one short line without control characters, whatever the ref."""
    with pytest.raises(InvalidRef) as caught:
        check_ref(ref)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@given(st.text(st.characters(exclude_categories=[]), max_size=300) | SEGMENTS)
def test_agrees_with_the_grammar(ref: str) -> None:
    """`check_ref` accepts exactly what the grammar of the contract says."""
    try:
        size = len(ref.encode())
        segments = ref.split("/")
        legal = (
            1 <= size <= 1024
            and all(1 <= len(each.encode()) <= 255 and each not in (".", "..") for each in segments)
            and not any(unicodedata.category(character) == "Cc" for character in ref)
        )
    except UnicodeEncodeError:
        legal = False
    try:
        check_ref(ref)
    except InvalidRef:
        assert not legal
    else:
        assert legal


@given(SEGMENTS, SEGMENTS)
def test_encoding_is_injective(one: str, other: str) -> None:
    """Segments that differ have names that differ, also when case and Unicode are folded."""
    names = [_folded(encode_segment(each)) for each in (one, other)]
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize("pair", NEIGHBOURS, ids=ascii)
def test_neighbours_have_other_names(pair: tuple[str, str]) -> None:
    """Refs that look alike are encoded to other paths, also when folded."""
    one, other = ("/".join(map(encode_segment, ref.split("/"))) for ref in pair)
    assert _folded(one) != _folded(other)


@given(SEGMENTS)
def test_names_are_harmless(segment: str) -> None:
    """A name is short, of characters that any file system has, and never hidden or special."""
    name = encode_segment(segment)
    assert re.fullmatch(r"[a-z0-9_%-][a-z0-9._%-]{0,119}", name)


@given(SEGMENTS)
def test_names_decode(segment: str) -> None:
    """A name tells its segment, unless it was too long and hashed."""
    name = encode_segment(segment)
    assert decode_name(name) == (None if name.startswith("%%") else segment)


@pytest.mark.parametrize("name", ["%41%", "A", "%61", "%zz", ".a", "%4", "%FF", "%ff", "a b"])
def test_foreign_names_do_not_decode(name: str) -> None:
    """A name that the encoding never makes is refused."""
    with pytest.raises(ValueError, match=r"encoded|decode"):
        decode_name(name)


def test_a_plain_ref_stays_readable() -> None:
    """What an operator may look for keeps its name."""
    for segment in ("stacks", "t_123", "42", "web-1.json"):
        assert encode_segment(segment) == segment
    assert encode_segment("T") == "%54"
    assert encode_segment(".a.") == "%2ea."
    assert encode_segment("é") == "%c3%a9"
