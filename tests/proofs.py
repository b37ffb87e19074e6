"""Longer proofs: a sample of their cases is in `make test`, the whole in `make test-proofs`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def sampled(
    cases: Iterable[Any],
    sample: Collection[str],
    name: Callable[[Any], str] = str,
    mark: pytest.MarkDecorator = pytest.mark.proof,
) -> list[Any]:
    """Return the cases as parameters, by name; those outside the sample are marked."""
    cases = list(cases)
    named = {name(case): case for case in cases}
    assert len(named) == len(cases), "two cases have one name"
    assert sample, "a proof without a sample is a test of its own: mark that"
    assert named.keys() >= set(sample), f"no such cases: {set(sample) - named.keys()}"
    return [
        pytest.param(case, id=one, marks=() if one in sample else mark)
        for one, case in named.items()
    ]
