"""The house stays in order: bounds on modules, classes and functions, in figures.

Import direction and circles are import-linter's (`make check`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
AT_THE_ROOT: Final = 8
CLASS_LINES: Final = 350
CLASS_METHODS: Final = 25
FUNCTION_LINES: Final = 60
USUAL_LINES: Final = 15
CLI_LINES: Final = 3540


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


def test_the_command_line_is_thin() -> None:
    """What a library user would miss does not live in `cli/`."""
    lines = sum(len(p.read_text().splitlines()) for p in (ROOT / "sidecar/cli").rglob("*.py"))
    assert 0 < lines <= CLI_LINES
