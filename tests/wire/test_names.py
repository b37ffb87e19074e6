"""Which name was meant."""

from __future__ import annotations

import pytest

from sidecar.wire.names import is_slip, nearest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("typed", "slip"),
    [
        ("control:notifcations", True), ("control:notification", True),
        ("contorl:notifications", True), ("control:notifications", False),
        ("control:notifications2", False), ("control:notifications:eu", False),
        ("other:n", False),
    ],
)  # fmt: skip
def test_a_slip_is_a_small_change(typed: str, *, slip: bool) -> None:
    """A character that lacks, is another, or swapped; a number is meant."""
    assert is_slip(typed, "control:notifications") == slip


def test_short_names_are_no_slips_for_each_other() -> None:
    """Of two characters one is much."""
    assert not is_slip("n", "m")
    assert not is_slip("n1", "n2")


def test_the_nearest_is_like_it() -> None:
    """A name that none is like has no nearest."""
    assert nearest("control:evnets", ["control:events", "eu:events"]) == "control:events"
    assert not nearest("control:evnets", ["xyz"])
