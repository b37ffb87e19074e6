"""The house stays in order: bounds on modules, classes and functions, in figures.

Import direction and circles are import-linter's (`make check`).
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
AT_THE_ROOT: Final = 8
CLASS_LINES: Final = 350
CLASS_METHODS: Final = 28
FUNCTION_LINES: Final = 60
USUAL_LINES: Final = 15
ROOM_LINES: Final = {
    "sidecar": 720,
    "sidecar/cli": 5410,
    "sidecar/feed": 2460,
    "sidecar/history": 3940,
    "sidecar/ops": 6403,
    "sidecar/producer": 1320,
    "sidecar/redis": 7320,
    "sidecar/replay": 6906,
    "sidecar/telemetry": 1295,
    "sidecar/terminal": 1110,
    "sidecar/wire": 3345,
    "sidecar/worker": 7624,
    "store": 2385,
    "store/chassis": 985,
    "store/file": 2726,
    "store/object": 2604,
    "store/testing": 2826,
}
"""How large each room may be, in lines: to let one grow is a decision (0027)."""

AT_THE_TOP: Final = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "SECURITY.md", "bench", "deploy", "docs", "examples", "pyproject.toml", "requirements",
    "sidecar", "store", "tests",
}  # fmt: skip

COMMAND: Final = re.compile(r"\bsidecar [a-z ]*--\S+ $|\b(add|with) --\S+ $")
"""How a command line ends that a value is put into, where it is not between backquotes."""
OURS: Final = {"context.command_path", "position", "read"}
"""Values in command lines that nobody else chose."""


class Found(NamedTuple):
    """A function or a class of the product."""

    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def lines(self) -> int:
        """From its first line to its last, without decorators."""
        return (self.node.end_lineno or 0) - self.node.lineno + 1


def found(*kinds: type[ast.AST]) -> Iterator[Found]:
    """Yield what is of these kinds in the product."""
    for top in ("sidecar", "store"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, kinds):
                    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                    yield Found(f"{path.relative_to(ROOT)}:{node.name}", node)


def methods_of(one: Found) -> int:
    """Return how many methods a class has."""
    return sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in one.node.body)


def typed(text: ast.JoinedStr) -> Iterator[str]:
    """Yield what a message puts into a command line that somebody may type."""
    said = ""
    for part in text.values:
        if isinstance(part, ast.FormattedValue):
            if said.count("`") % 2 or COMMAND.search(said):
                yield ast.unparse(part.value)
            said += "…"
        elif isinstance(part, ast.Constant):
            said += str(part.value)


def test_what_is_put_into_a_command_line_is_quoted() -> None:
    """Others choose the names of streams, refs and stacks: a shell may be given the line."""
    lines = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {value}"
        for path in sorted((ROOT / "sidecar").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.JoinedStr)
        for value in typed(node) if not value.startswith("shlex.") and value not in OURS
    ]  # fmt: skip
    assert not lines


def test_nothing_lies_at_the_top_that_is_not_of_the_project() -> None:
    """What a test or a person left there is not committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("what is committed shows in a checkout only")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    assert {name.partition("/")[0] for name in names if name} == AT_THE_TOP
    assert not [name for name in names if not name.isprintable() or name.endswith(".part")]


def test_few_modules_lie_at_the_root() -> None:
    """Every module has a room, but for a handful that all rooms share."""
    modules = [path.name for path in (ROOT / "sidecar").glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= AT_THE_ROOT, sorted(modules)


def test_no_class_is_large() -> None:
    """A class fits in one head."""
    classes = list(found(ast.ClassDef))
    large = [(one.name, one.lines, methods_of(one)) for one in classes
             if one.lines > CLASS_LINES or methods_of(one) > CLASS_METHODS]  # fmt: skip
    assert classes
    assert not large


def test_no_function_is_long() -> None:
    """A function fits on a screen."""
    functions = list(found(ast.FunctionDef, ast.AsyncFunctionDef))
    assert functions
    assert not [(one.name, one.lines) for one in functions if one.lines > FUNCTION_LINES]


def test_most_functions_are_short() -> None:
    """Nine functions in ten do one thing, which their name says."""
    lines = sorted(one.lines for one in found(ast.FunctionDef, ast.AsyncFunctionDef))
    longer = sum(one > USUAL_LINES for one in lines)
    assert lines[int(len(lines) * 0.9)] <= USUAL_LINES, f"{longer} of {len(lines)} are longer"


def rooms() -> Counter[str]:
    """Return how many lines each room of the product has; `sidecar` and `store` are the roots."""
    lines: Counter[str] = Counter()
    for top in ("sidecar", "store"):
        for path in (ROOT / top).rglob("*.py"):
            room = "/".join(path.relative_to(ROOT).parts[:-1][:2])
            lines[room] += len(path.read_text().splitlines())
    return lines


def test_no_room_grows_unnoticed() -> None:
    """Each room keeps to its bound; a new room has one."""
    lines = rooms()
    assert lines.keys() == ROOM_LINES.keys()
    larger = {name: f"{lines[name]} of {most}" for name, most in ROOM_LINES.items()
              if lines[name] > most}  # fmt: skip
    assert not larger, "make it smaller, or raise ROOM_LINES and say why in the commit"


def test_what_a_target_leaves_out_is_there() -> None:
    """Each room and module that `make test-python` and `make test-servers` leave out exists."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    lists = re.findall(r"^SAME_ON_EACH_[A-Z]+ := (.*)", makefile, re.MULTILINE)
    assert len(lists) == 2
    names = [name for one in lists for name in one.split()]
    assert [name for name in names if not (ROOT / "tests" / name).exists()] == []
