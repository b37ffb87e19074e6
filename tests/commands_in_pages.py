"""Command lines of `sidecar` as pages print them, compared with the real command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer

from sidecar import cli

_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED: Final = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_SENTENCES: Final = re.compile(r"`(sidecar [a-z][^`]*)`")
_ENDS: Final = frozenset(";|&()<>")


def written(page: Path) -> Iterator[str]:
    """Yield what comes after `sidecar` in the command lines of a page."""
    text = page.read_text()
    rest = _FENCED.sub("", text)
    shell = [code for language, code in _FENCED.findall(text) if language == "sh"]
    for block in (*shell, *_INDENTED.findall(rest)):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands(line)
    for sentence in _SENTENCES.findall(rest):
        yield from _commands(" ".join(sentence.split()))


def _commands(line: str) -> Iterator[str]:
    """Yield the commands of a line of a shell; a container may be called `sidecar`, too."""
    if "sidecar " not in line:
        return
    words: list[str] | None = None
    for word in [*_words(line), ";"]:
        if _ENDS.issuperset(word):
            if words:
                yield shlex.join(words[:-1] if word[0] == ">" and words[-1] == "2" else words)
            words = None
        elif word == "sidecar" or word.endswith("/sidecar"):
            words = []
        elif words is not None and (words or word != "…"):
            words.append(word)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def complaint(line: str) -> str:
    """Return what is wrong with a command line, as far as it can be told without its values."""
    command, words = _program(), shlex.split(line)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if words == ["…"]:
        return ""
    if words and not words[0].startswith("-") and hasattr(command, "commands"):
        return f"there is no command {words[0]}"
    try:
        _, rest, _ = command.make_parser(command.context_class(command)).parse_args(words)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own, of a class that it keeps to itself
            raise
        return str(error.format_message())
    return f"too many words: {' '.join(rest)}" if rest else ""


@cache
def _program() -> Any:
    return typer.main.get_command(cli.app)
