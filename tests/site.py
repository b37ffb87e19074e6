"""The pages as a site: `python -m tests.site DIRECTORY` stages them, and zensical builds it.

Pages link to each other, and to code, by their places in the repository: so the stage has all at
the same places. The navigation is docs/README.md, which sorts the pages for people anyway.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.pages import INDEX, LINK, PAGES, ROOT, targets

DECISIONS: Final = ROOT / "docs" / "decisions"
CONFIG: Final = """\
[project]
site_name = "artifact-sidecar"
docs_dir = "pages"
site_dir = "html"
nav = {nav}

[project.theme]
font = false
features = ["content.code.copy", "navigation.sections", "navigation.top", "search.highlight"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"

[project.markdown_extensions]
tables = {{}}
toc.permalink = true
toc.slugify = {{ object = "pymdownx.slugs.slugify", kwds = {{ case = "lower" }} }}
pymdownx.superfences = {{}}
pymdownx.highlight = {{}}
"""


def stage(to: Path) -> None:
    """Write the pages, what they link to, and zensical's configuration into a directory."""
    shutil.rmtree(to, ignore_errors=True)
    linked = {target for page in PAGES for target, _ in targets(page) if target.is_file()}
    for file in sorted({*PAGES, *linked}):
        copy = to / "pages" / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
        if file.suffix == ".md":  # a server of files shows no directory
            copy.write_text(copy.read_text().replace("decisions/)", "decisions/README.md)"))
    (to / "pages/docs/decisions/README.md").write_text(_decisions())
    (to / "zensical.toml").write_text(CONFIG.format(nav=_toml(navigation())))


def navigation() -> list[dict[str, object]]:
    """Return what a reader finds where: the start, then the sections of docs/README.md."""
    sections: list[dict[str, object]] = [{"Start": "README.md"}]
    for block in re.split(r"^(?=\*\*)", INDEX.read_text(), flags=re.MULTILINE)[1:]:
        (name,) = re.findall(r"^\*\*(.*?)\*\*", block)
        sections.append({name: list(_entries(block))})
    return [*sections, {"All pages": "docs/README.md"}]


def _entries(block: str) -> Iterator[dict[str, str]]:
    for line in re.findall(r"^- (.*)", block, re.MULTILINE):
        link = LINK.search(line)
        title = re.search(r"\[(.*?)\]\(", line)
        if link and title:
            page = (INDEX.parent / link[1].partition("#")[0]).resolve().relative_to(ROOT)
            yield {title[1].replace("`", ""): str(page if page.suffix else page / "README.md")}


def _decisions() -> str:
    pages = sorted(DECISIONS.glob("*.md"))
    titles = [page.read_text().partition("\n")[0].removeprefix("# ") for page in pages]
    both = zip(pages, titles, strict=True)
    lines = (f"- {page.name[:4]}: [{title}]({page.name})" for page, title in both)
    return "# Decisions\n\n" + "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """Return a value of lists, tables with one key, and text as TOML writes it in a line."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        ((key, inner),) = value.items()
        return f"{{ {json.dumps(key)} = {_toml(inner)} }}"
    return json.dumps(value)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
