"""The pages for people: what they name exists, and nothing is missing from the maps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
MAP: Final = ROOT / "docs/architecture.md"
INDEX: Final = ROOT / "docs/README.md"
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *chain.from_iterable((ROOT / room).rglob("*.md") for room in ("docs", "deploy", "examples")),
]
MAX_README_LINES: Final = 130
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _targets(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of each link that stays in the repository."""
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link of a page leads to a file of this repository, and to a heading that it has."""
    for target, anchor in _targets(page):
        assert target.exists(), f"{_named(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in _anchors(target), f"{_named(page)}: {_named(target)} has no #{anchor}"


def test_the_readme_is_short() -> None:
    """README.md can be read in one go; what is longer has a page in docs/."""
    assert len(README.read_text().splitlines()) < MAX_README_LINES


def test_the_readmes_make_targets_exist() -> None:
    """Each `make` command that README.md and CONTRIBUTING.md print is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (README, ROOT / "CONTRIBUTING.md"):
        printed = set(re.findall(r"^make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert printed
        assert printed <= targets, _named(page)


def test_every_page_is_in_the_index() -> None:
    """docs/README.md links to every page of docs/; the decisions are one link."""
    linked = {target for target, _ in _targets(INDEX)}
    for page in (ROOT / "docs").glob("*.md"):
        if page != INDEX:
            line = f"- [What it is for]({page.name})"
            assert page in linked, f"{_named(INDEX)}: add, under the right kind,\n{line}"
    assert ROOT / "docs/decisions" in linked


def test_every_module_is_on_the_map() -> None:
    """docs/architecture.md has a row for each module of the product; `package/` covers a package.

    The failure has the row to add.
    """
    rows = re.findall(r"^\| `([\w/.]+)` \| \S", MAP.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows)), f"{_named(MAP)}: a module stands there twice"
    packages = tuple(row for row in rows if row.endswith("/"))
    files = chain.from_iterable((ROOT / room).rglob("*.py") for room in ("sidecar", "store"))
    modules = {_named(path) for path in files if not path.name.startswith("__")}
    missing = sorted(one for one in modules - set(rows) if not one.startswith(packages))
    lines = "\n".join(f"| `{name}` | what it holds |" for name in missing)
    assert not missing, f"{_named(MAP)}: add to the table of its room\n{lines}"
    stale = sorted(row for row in rows if not (ROOT / row).exists())
    assert not stale, f"{_named(MAP)}: remove the rows of {', '.join(stale)}, which are gone"
