"""Every option, argument and variable of every command wrong, one at a time.

What there is comes from the commands themselves: a new option is in these tests by itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pytest
import typer

from sidecar import cli
from tests.cli.harness import LARGE, Cli, Ran
from tests.cli.test_cli_bad_input import (
    DURATIONS,
    FLAGS,
    LOGIN,
    NUMBERS,
    ODD,
    REDIS,
    SECRET,
    STORES,
    WRONG,
)
from tests.proofs import sampled

WORDS: Final = {
    "run": "run --drain", "emit": "emit --type key.changed --ref r --data {}/data",
    "check-event": "check-event <{}/data>", "wait": "wait <a> --timeout 0",
    "pause": "pause --reason r", "diff": "diff <ref/a> <ref/large>", "trace": "trace <a>",
    "explain": "explain <a>",
    "dead show": "dead show <1-1>", "dead redrive": "dead redrive --all --reason r --dry-run",
    "replay at": "replay at <1h>", "replay export": "replay export <{}/out>",
    "replay report": "replay report <{}/out.html>",
    "replay run": "replay run --to-redis redis://127.0.0.1:1 --speed max",
    "stream remake": "stream remake --reason r <control:events>",
    "store put": "store put <a> --data {}/data", "store get": "store get <ref/a> --data {}/got",
    "store exists": "store exists <ref/a>", "store versions": "store versions <ref/a>",
    "outbox run": "outbox run --drain --database {}/app.db",
    "outbox status": "outbox status --database {}/app.db",
    "tenant erase": "tenant erase <t1> --reason r --dry-run",
    "store gc": "store gc --dry-run", "audit": "audit --repair --reason r --dry-run",
}  # fmt: skip
"""By command the words that it wants, its arguments in brackets; of others their name."""
RAW: Final = "a\udcffb"
"""What a shell hands on that is not UTF-8."""
LONG: Final = "x" * 5000
TEXT: Final = ("", RAW)
"""No text at all. Else any will do, as of a tenant or a reason."""
NAME: Final = (*TEXT, ODD[2], "x" * 600)
CONTROL: Final = (*NAME, "a,b")
POSITION: Final = (*ODD, RAW, "yesterday", "-1", "9" * 400, "2026-13-01T00:00:00Z", "1-2-3")
CHECKSUM: Final = (*ODD, RAW, "sha256:", "sha256:" + "g" * 64, "md5:" + "0" * 32, LONG)
REF: Final = ("", ODD[1], ODD[2], "/a", "a//b", "../a", "a/\x7f", LONG, RAW)
WORD: Final = (*ODD, RAW, "-1", LONG)
WHOLE: Final = (*NUMBERS, RAW)
FILE: Final = ("", "{}/none/here", "{}", "{}/socket", f"redis://{LOGIN}@h", LONG)
BUNDLE: Final = (*FILE, "{}/fifo", "{}/data", "/dev/zero", "/dev/null")
DIRECTORY: Final = ("", "/dev/null", "/dev/null/x", f"redis://{LOGIN}@h", LONG)
STORE: Final = (*STORES, RAW, LONG)
BY_NAME: Final[dict[str, tuple[str, ...]]] = {
    **WRONG, "--data-dir": DIRECTORY, "--redis": (*REDIS, RAW), "--notify-redis": (*REDIS, RAW),
    "--to-redis": (*REDIS, RAW), "--store": STORE, "--source-store": STORE, "--fleet-store": STORE,
    "--stream": CONTROL, "STREAM": CONTROL, "--notify-stream": NAME, "--dead-stream": NAME,
    "--to-stream": NAME, "--keep-from-stream": NAME,
    "--bundle": BUNDLE, "--data": FILE, "--manifest": FILE,
    "DIR|FILE.zip": FILE, "FILE.html": FILE, "FILE": FILE,
    "--since": POSITION, "--until": POSITION, "--at": POSITION, "POSITION": POSITION,
    "--look-around": DURATIONS, "--keep-newer": DURATIONS, "--grace": (*DURATIONS, "1s"),
    "--count": WHOLE, "--version": WHOLE, "--base-version": WHOLE, "--sample": WHOLE,
    "--processes": (*WHOLE, "0"), "--keep-last": (*WHOLE, "0"), "--max-events": (*WHOLE, "0"),
    "--max-rate": (*WHOLE, "inf"), "--speed": (*WHOLE, "0", "inf"),
    "--seed": tuple(one for one in WHOLE if one not in ("-1", "9" * 400)),
    "--checksum": CHECKSUM, "--manifest-checksum": CHECKSUM,
    "REF": REF, "PREFIX": REF, "REF|CHECKSUM": REF,
    "EVENT_ID|TENANT/STACK@VERSION": TEXT, "--readers": TEXT, "--timeout": DURATIONS,
    "ID": (*ODD, RAW, "1-2-3", "9" * 400, LONG), "ID|REF|TENANT/STACK[@VERSION]": TEXT,
    "[TENANT|TENANT/STACK[@VERSION]|REF|ID]": TEXT,
    "--as": WORD, "--only": WORD, "--end": WORD, "--role": WORD, "--traceparent": WORD,
    "--forget": TEXT, "--tenant": TEXT, "TENANT": TEXT, "--stack": TEXT, "--type": TEXT,
    "--reason": TEXT,
    "--event-id": TEXT, "--ref": TEXT, "--allow-type": TEXT, "--tenant-scope": TEXT,
    "--event-id-scope": TEXT, "--keep": WORD, "--keep-sent": DURATIONS, "--database": FILE,
    "--verify": (*FILE, *ODD[1:], "/dev/null"), "--drop": TEXT,
}  # fmt: skip
BY_COMMAND: Final = {
    "emit --ref": REF, "emit --event-id": (*TEXT, ODD[1], LONG), "emit --type": (*TEXT, LONG),
    "emit --tenant": (*TEXT, LONG), "emit --stack": (*TEXT, LONG),
    "tail --fleet-store": (opened_by_none := ("", ODD[1], "token=x", "/srv/fleet", RAW)),
    "wait --fleet-store": opened_by_none, "status --fleet-store": opened_by_none,
    "check-event --sign-key": ("",), "dead show --sign-key": ("",),
    "dead redrive --sign-key": ("",), "replay check --sign-key": ("",),
    "dead show --fleet-store": opened_by_none, "dead show --source-store": opened_by_none,
    "audit --source-store": opened_by_none, "config show --source-store": opened_by_none,
    "config show --fleet-store": opened_by_none,
    "config show --data-dir": ("", f"redis://{LOGIN}@h", LONG),
}  # fmt: skip
"""Where it is stricter, or the value is not looked at further: what it names is not needed."""
ANY: Final = (*ODD[1:], "-1", LONG, "\u202e" + "\x07" * 9)
"""What no command may stumble over, where any text will do."""
TELL_FIRST: Final = {"dead redrive", "replay export"}
"""What these are about is told before they look at what the value names."""
WAYS: Final = ("flag", "variable", "file")


@dataclass(frozen=True)
class Wanted:
    """An option or an argument of a command."""

    command: str
    about: Any

    def __str__(self) -> str:
        return f"{self.command} {self.name}"

    @property
    def is_argument(self) -> bool:
        """Whether it has no flag, and no variable."""
        return bool(self.about.param_type_name == "argument")

    @property
    def name(self) -> str:
        """Its flag, or what the help calls it."""
        return str(self.about.metavar) if self.is_argument else max(self.about.opts, key=len)

    @property
    def wrong(self) -> tuple[str, ...]:
        """The values that are refused."""
        if not self.is_argument and self.about.is_flag:
            return FLAGS
        return BY_COMMAND.get(str(self), BY_NAME[self.name])

    @property
    def ways(self) -> tuple[str, ...]:
        """How a value can be given."""
        if self.is_argument:
            return ("argument",)
        ways = WAYS if self.about.envvar else WAYS[:1]
        return ways[1:] if self.about.is_flag else ways

    def is_named(self, said: str) -> bool:
        """Tell whether a message says which setting is wrong."""
        if self.is_argument:
            return self.name.lower().partition("|")[0].partition(".")[0] in said.lower()
        return self.name in said or bool(self.about.envvar and self.about.envvar in said)


@cache
def everything() -> tuple[Wanted, ...]:
    """Return all that can be set, of all commands."""
    return tuple(Wanted(name, about) for name, one in commands() for about in one.params)


def commands(at: Any = None, *path: str) -> Iterator[tuple[str, Any]]:
    """Yield each command by its words."""
    at = at or typer.main.get_command(cli.app)
    if not hasattr(at, "commands"):
        yield " ".join(path), at
        return
    for name in at.commands:
        yield from commands(at.commands[name], *path, name)


@pytest.fixture
def deployed(sidecar: Cli) -> Cli:
    """A deployment in which all that commands ask for is there, and files of each kind."""
    sidecar.bring("a", "ref/a", b"data a", "--tenant", "t1")
    sidecar.bring("large", "ref/large", LARGE, "--tenant", "t1")
    sidecar.client.xadd("control:events", {"event": "not JSON"})
    sidecar.work()
    (sidecar.directory / "data").write_bytes(b"x")
    os.mkfifo(sidecar.directory / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(sidecar.directory / "socket"))
    return sidecar


def given(sidecar: Cli, wanted: Wanted, way: str, value: str) -> Ran:
    """Run the command with the value, in place of one that it has."""
    here = str(sidecar.directory)
    value = value.replace("{}", here)
    words = WORDS.get(wanted.command, wanted.command).split()
    if wanted.is_argument:
        marked = [at for at, word in enumerate(words) if word.startswith("<")] or [len(words)]
        words[marked[0] : marked[0] + 1] = ["--", value] if value.startswith("-") else [value]
    elif wanted.name in words:
        at = words.index(wanted.name)
        del words[at : at + 1 + (not wanted.about.is_flag)]
    words = [word.strip("<>").replace("{}", here) for word in words]
    env = {"SIDECAR_REDIS": ""} if wanted.name == "--data-dir" else sidecar.stores(wanted=True)
    if wanted.about.envvar:
        env[wanted.about.envvar] = ""
    if way == "flag":
        words += [wanted.name, value]
    elif way == "variable":
        env[wanted.about.envvar] = value or " "
    elif way == "file":
        (file := sidecar.directory / "value").write_bytes(os.fsencode(value))
        env[f"{wanted.about.envvar}_FILE"] = str(file)
    return sidecar(*words, env=env)


def faults(wanted: Wanted, ran: Ran) -> Iterator[str]:
    """Yield what is wrong with what is said of a wrong value."""
    if wanted.command == "doctor" and wanted.name.endswith("-store") and ran.code == 1:
        yield from () if wanted.name in ran.out else ["no finding of doctor's"]
        return
    if ran.code != 2:
        yield f"exit {ran.code}"
    if ran.out and wanted.command != "config show":  # which shows the others all the same
        yield "output"
    if not wanted.is_named(ran.err):
        yield "the setting is not named"
    lines = ran.err.splitlines()[-1 if wanted.command in TELL_FIRST else 0 :]
    if len(lines) != 1 or not 30 < len(lines[0]) < 2000:
        yield "not one line with what is wanted"
    yield from leaked(ran)


def leaked(ran: Ran) -> Iterator[str]:
    """Yield what nobody may see, if anything is said of it."""
    if f":{SECRET}" in ran.err:
        yield "a secret"
    if "\x1b" in ran.out + ran.err or "Traceback" in ran.err:
        yield "what steers a terminal, or a traceback"


def refused(sidecar: Cli, cases: list[tuple[Wanted, str, str]]) -> None:
    """Assert that each is refused as it should be."""
    wrong = {}
    for wanted, way, value in cases:
        ran = given(sidecar, wanted, way, value)
        if found := list(faults(wanted, ran)):
            wrong[str(wanted), way, value[:60]] = (*found, (ran.out + ran.err)[:300])
    assert not wrong


def test_each_setting_of_every_command_is_refused_by_name(deployed: Cli) -> None:
    """In one line, with exit 2, however it is given; another wrong value for each."""
    cases = [(one, one.ways[row % len(one.ways)], one.wrong[row % len(one.wrong)])
             for row, one in enumerate(everything())]  # fmt: skip
    refused(deployed, cases)


@pytest.mark.parametrize("command", sampled(dict(commands()), {"store get"}))
def test_every_wrong_value_of_a_command_is_refused_by_name(deployed: Cli, command: str) -> None:
    """Empty, garbage, negative, huge, not UTF-8, steering, of another kind, or with a secret.

    The ways to give them take turns.
    """
    mine = [one for one in everything() if one.command == command]
    refused(deployed, [(one, one.ways[at % len(one.ways)], value)
                       for one in mine for at, value in enumerate(one.wrong)])  # fmt: skip


@pytest.mark.parametrize("command", sampled(dict(commands()), {"dead ls"}))
def test_no_text_makes_a_command_stumble(deployed: Cli, command: str) -> None:
    """Where any text will do, it ends with a documented exit code, and tells no secret."""
    wrong = {}
    for one in everything():
        if one.command != command or one.wrong is not TEXT:
            continue
        for value in ANY:
            ran = given(deployed, one, one.ways[0], value)
            if ran.code not in range(7) or list(leaked(ran)):
                wrong[str(one), value[:60]] = (ran.code, (ran.out + ran.err)[:300])
    assert not wrong


def test_every_setting_of_every_command_has_wrong_values() -> None:
    """An option that takes a value and is in no table above is a gap in these tests."""
    named = {one.name for one in everything() if one.is_argument or not one.about.is_flag}
    assert named <= BY_NAME.keys()
    assert {str(one) for one in everything()} >= BY_COMMAND.keys()
    assert dict(commands()).keys() >= WORDS.keys()
