"""The pages for people: what they name exists, and nothing is missing from the maps."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Final

import pytest

from tests import servers, site
from tests.commands_in_pages import complaint, written
from tests.pages import INDEX, PAGES, README, ROOT, anchors, targets

MAP: Final = ROOT / "docs/architecture.md"
MAX_README_LINES: Final = 130


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link of a page leads to a file of this repository, and to a heading that it has."""
    for target, anchor in targets(page):
        assert target.exists(), f"{_named(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(target), f"{_named(page)}: {_named(target)} has no #{anchor}"


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != "CHANGELOG.md"], ids=_named)
def test_commands_are_those_that_there_are(page: Path) -> None:
    """Each `sidecar` command line of a page names a command, options and arguments that it has."""
    wrong = {line: said for line in written(page) if (said := complaint(line))}
    assert not wrong


def test_commands_are_found_and_compared() -> None:
    """Commands are found in blocks and in sentences; a wrong option, word or number is named."""
    assert len({line for page in PAGES for line in written(page)}) > 100
    for wrong in ("dead lss", "tail --folow", "pause --reason", "store get a b c", "nothing"):
        assert complaint(wrong), wrong


def test_the_site_has_every_page(tmp_path: Path) -> None:
    """Each page of docs/ is in the site, and its navigation leads to all, decisions included."""
    site.stage(tmp_path / "site")
    staged = tmp_path / "site/pages"
    navigation = str(site.navigation())
    for page in (ROOT / "docs").glob("*.md"):
        assert _named(page) in navigation
        assert (staged / page.relative_to(ROOT)).is_file()
    for page in (ROOT / "docs/decisions").glob("*.md"):
        assert f"({page.name})" in (staged / "docs/decisions/README.md").read_text()


class _Links(HTMLParser):
    """The links and the anchors of a page that was built."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what it has of both."""
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        self.links += [given[key] or "" for key in ("href", "src") if key in given]


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    """`make site` finds nothing wrong, and each link of its HTML leads to a file and an anchor."""
    program = shutil.which("zensical", path=str(Path(sys.executable).parent))
    if program is None:
        servers.missing("zensical (make site installs it)")
    site.stage(tmp_path)
    config = str(tmp_path / "zensical.toml")
    subprocess.run([program, "build", "--strict", "--config-file", config], check=True, cwd=ROOT)
    pages = {page: _Links(page) for page in (tmp_path / "html").rglob("*.html")}
    assert len(pages) > len(PAGES)
    for page in (one for one in pages if one.name != "404.html"):
        for link in pages[page].links:
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if "://" not in link and not link.startswith(("data:", "mailto:")):
                assert target.is_file(), f"{page} links to {link}"
                assert not anchor or target not in pages or anchor in pages[target].ids, link


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
    linked = {target for target, _ in targets(INDEX)}
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
