"""The list of breaks stays true to the code. That each is caught, `make mutants` shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.breaks import BREAKS, Break

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_each_break_can_be_made(broken: Break) -> None:
    """What is to be replaced stands once in the code, and the tests that are to notice exist."""
    assert (ROOT / broken.path).read_text().count(broken.old) == 1
    assert broken.old != broken.new
    assert all((ROOT / test.partition("::")[0]).exists() for test in broken.tests)
