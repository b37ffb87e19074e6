"""Keep rules as an operator writes them: `PATTERN:last=N,age=DURATION`."""

from __future__ import annotations

import pytest

from sidecar.wire.keeping import KeepRule, rule_of, versioned


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("last=10", KeepRule(("stacks", "*", "*"), 10, 0.0)),
        ("last=10,age=30d", KeepRule(("stacks", "*", "*"), 10, 30 * 86400.0)),
        ("age=1h", KeepRule(("stacks", "*", "*"), 1, 3600.0)),
        ("stacks/*/web/*:last=3, age=90s", KeepRule(("stacks", "*", "web"), 3, 90.0)),
        ("a:b/t-*/*:last=2", KeepRule(("a:b", "t-*"), 2, 0.0)),
    ],
)
def test_a_rule_says_what_stays(text: str, rule: KeepRule) -> None:
    """Pattern, how many, how long; without a pattern it is that of the usual refs."""
    assert KeepRule.parse(text) == rule
    assert KeepRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "says nothing"),
        ("stacks/*/*/*:", "says nothing"),
        ("stacks/*/*/*", "says nothing"),
        ("last=10,last=3", "says nothing"),
        ("keep=3", "says nothing"),
        ("last=0", "the newest of a subject always stays"),
        ("last=-1", "no number"),
        ("last=²", "no number"),
        ("last=99999999", "no number"),
        ("age=soon", "no duration"),
        ("age=", "no duration"),
        ("rows/tenants/t_1:last=3", "does not end in /*"),
        ("stacks/*/v*:last=3", "does not end in /*"),
        ("*:last=3", "does not end in /*"),
        ("/stacks/*:last=3", "fits no ref"),
        ("a//b/*:last=3", "fits no ref"),
        (".sidecar/archive/*:last=3", "sidecar's own"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, said: str) -> None:
    """A rule that says nothing, or fits nothing sensible, is refused with the fix."""
    with pytest.raises(ValueError, match=said):
        KeepRule.parse(text)


def test_a_pattern_goes_segment_by_segment() -> None:
    """`*` is any text within a segment, and no slash."""
    rule = KeepRule.parse("stacks/t_*/web/*:last=3")
    assert rule.fits("stacks/t_1/web")
    assert rule.fits("stacks/t_/web")
    for family in ("stacks/t_1/web/x", "stacks/t_1/x/web", "stacks/u/web", "stacks/t_1", "t_1/web"):
        assert not rule.fits(family)


def test_what_any_rule_keeps_stays() -> None:
    """Of several rules that fit, each keeps what it says."""
    rules = [KeepRule.parse(each) for each in ("age=30d", "stacks/*/web/*:last=3", "x/*:last=9")]
    assert rule_of(rules, "stacks/t/web") == KeepRule(("stacks", "*", "*"), 3, 30 * 86400.0)
    assert rule_of(rules, "stacks/t/db") == KeepRule(("stacks", "*", "*"), 1, 30 * 86400.0)
    assert rule_of(rules, "rows/t") is None


@pytest.mark.parametrize(
    "ref", ["42", "a/b", "a/042", "a/0", "a/-1", "a/1.0", "a/²", "a/" + "9" * 20]
)
def test_what_is_no_version(ref: str) -> None:
    """Only digits as an integer is written are a version, below something."""
    assert versioned(ref) is None


def test_a_version_is_compared_as_a_number() -> None:
    """10 comes after 9."""
    nine, ten = versioned("a/b/9"), versioned("a/b/10")
    assert nine
    assert ten
    assert ten.version > nine.version
    assert ten.family == nine.family == "a/b"


@pytest.mark.parametrize(
    ("text", "little"),
    [
        ("last=1", True),
        ("age=1h", True),
        ("age=1d", False),
        ("last=2", False),
        ("last=1,age=2d", False),
    ],
)
def test_a_rule_that_keeps_little(text: str, little: bool) -> None:
    """One that leaves the newest alone, and less than a day, is told from the others."""
    assert KeepRule.parse(text).keeps_little is little
