"""Every setting of `sidecar run` wrong, one at a time: as a flag, as a variable, in a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import typer

import store
from sidecar import cli
from sidecar.errors import UsageError
from sidecar.feed import Feed
from sidecar.producer import Producer
from tests.cli.harness import Cli

SECRET: Final = "hunter2"
LOGIN: Final = f"admin:{SECRET}"
RED: Final = "\x1b[31mred"
ODD: Final = ("", RED, f"redis://{LOGIN}@redis.example:6379/0", f"token={SECRET}@x")
NUMBERS: Final = (*ODD, "many", "-1", "0x10", "1.5.2", "nan", "9" * 400)
DURATIONS: Final = (*NUMBERS, "5 weeks", "7D", "1e3")
TRIMMING: Final = (
    *ODD, "7d", "age", "age=", "age=7", "age=-1d", "age=7w", f"age={'9' * 400}d", "length=-1",
    "weight=5", "age=7d;",
)  # fmt: skip
REDIS: Final = (
    "", RED, f"token={SECRET}@x", "localhost:6379", f"http://{LOGIN}@h", "redis://h\x1b[31m:1/0",
    f"redis://{LOGIN}@h:port/0", f"redis://{LOGIN}@h/x", f"redis://{LOGIN}@h:99999", "unix://",
    f"redis://{LOGIN}@h?protocol=3", f"redis://{LOGIN}@h?pasword={SECRET}",
    f"rediss://{LOGIN}@h?ssl_cert_reqs=maybe", f"redis+sentinel://:{SECRET}@h",
)  # fmt: skip
STORES: Final = (
    "", RED, f"token={SECRET}@x", "/srv/fleet", f"ftp://{LOGIN}@h/d", "file://", "file:relative",
    "file://elsewhere/d", "file:///dev/null", "s3://", f"s3://{LOGIN}@/d", "file:///d?x=1",
)  # fmt: skip
NAMES: Final = ("", "x" * 600, ODD[2])
WRONG: Final[dict[str, tuple[str, ...]]] = {
    "--redis": REDIS, "--notify-redis": REDIS, "--source-store": STORES, "--fleet-store": STORES,
    "--stream": (*NAMES, "a,b"), "--notify-stream": NAMES, "--dead-stream": NAMES,
    "--data-dir": ("", "/dev/null", "/dev/null/x"),
    "--lease": (*DURATIONS, "0", "1d"), "--retry-budget": DURATIONS,
    "--dedup-window": (*DURATIONS, "0", "400d"), "--archive-every": (*DURATIONS, "0"),
    "--archive-keep": (*DURATIONS, "1s"), "--keep-grace": (*DURATIONS, "59"),
    "--keep": ("", "last=0", "last=1", "rows/x:last=2", "published+1h"),
    "--source-keep": ("", "last=1", "published+", "published+1s", "published+x"),
    "--max-artifact-size": (*NUMBERS, "0", "5 apples"), "--max-consecutive-dead": NUMBERS,
    "--store-threads": (*NUMBERS, "0", "1", "257"), "--wait-replicas": (*NUMBERS, "101"),
    "--trim-control": TRIMMING, "--trim-notifications": TRIMMING, "--trim-dead": TRIMMING,
    "--log-level": (*ODD, "loud"), "--log-format": (*ODD, "xml"),
    "--http": (*ODD, "here", "h:port", ":99999", "h:-1", "1.2.3.4", f"http://{LOGIN}@h:1"),
    "--sign-key": (*ODD, "/dev/null", "/dev/zero", "/none"),
    "--trust": (*ODD, "/dev/null", "/dev/zero", "/none"),
    "--allow-type": ("",), "--tenant-scope": ("",), "--event-id-scope": ("",),
}  # fmt: skip
"""By option. Any text is a type or a pattern; one that is on or off has `FLAGS`, but no value as a
flag."""
FLAGS: Final = (*ODD, "maybe", "2")
WAYS: Final = ("flag", "variable", "file")


def options() -> dict[str, str]:
    """Return what there is to set, from the options that docs/settings.md is made of."""
    root: Any = typer.main.get_command(cli.app)
    return {max(one.opts, key=len): one.envvar for one in root.commands["run"].params if one.envvar}


def ways(option: str) -> tuple[str, ...]:
    """Return how a wrong value can be given."""
    return WAYS if option in WRONG else WAYS[1:]


def given(
    sidecar: Cli, option: str, variable: str, way: str, value: str
) -> tuple[list[str], dict[str, str]]:
    """Return the words and the variables that give the value."""
    stores = {"SIDECAR_REDIS": ""} if option == "--data-dir" else sidecar.stores(wanted=True)
    words = ["run"] if option == "--drain" else ["run", "--drain"]
    if way == "flag":
        return [*words, option, value], {**stores, variable: ""}
    if way == "variable":
        return words, {**stores, variable: value or " "}
    file = sidecar.directory / "value"
    file.write_text(value)
    return words, {**stores, variable: "", f"{variable}_FILE": str(file)}


def faults(sidecar: Cli, option: str, way: str, value: str) -> Iterator[str]:
    """Yield what is wrong with what is said of a wrong value."""
    variable = options()[option]
    words, env = given(sidecar, option, variable, way, value)
    ran = sidecar(*words, env=env)
    if (ran.code, ran.out) != (2, ""):
        yield f"exit {ran.code}"
    if option not in ran.err and variable not in ran.err:
        yield "the setting is not named"
    if ran.err.count("\n") != 1 or len(ran.err) < len(option) + 30:
        yield "not one line with what is wanted"
    if SECRET in ran.err or "\x1b" in ran.err:
        yield "a secret, or what steers a terminal"


def refused(sidecar: Cli, cases: list[tuple[str, str, str]]) -> None:
    """Assert that each is refused as it should be."""
    wrong = {case: found for case in cases if (found := list(faults(sidecar, *case)))}
    assert not wrong


def test_each_setting_is_refused_by_name_however_it_is_given(sidecar: Cli) -> None:
    """In one line, with exit 2, never as a traceback; another wrong value each way."""
    refused(sidecar, [
        (option, way, (values := WRONG.get(option, FLAGS))[(row + column) % len(values)])
        for row, option in enumerate(options()) for column, way in enumerate(ways(option))
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("option", options())
def test_every_wrong_value_is_refused_by_name(sidecar: Cli, option: str) -> None:
    """Empty, garbage, negative, huge, of another unit or scheme, steering, or with a secret."""
    values = WRONG.get(option, FLAGS)
    refused(sidecar, [(option, way, value) for value in values for way in ways(option)])


def test_every_setting_has_wrong_values() -> None:
    """An option that takes a value and is not in the table above is a gap in these tests."""
    root: Any = typer.main.get_command(cli.app)
    with_value = {max(one.opts, key=len) for one in root.commands["run"].params
                  if one.envvar and not one.is_flag}  # fmt: skip
    assert with_value == WRONG.keys()


URL_AS_NAME: Final = (
    "emit --type key.changed --stream", "emit --type key.changed --notify-stream",
    "tail --notify-stream", "trace e-1 --stream", "status --stream", "doctor --stream",
    "audit --dead-stream", "pause --reason r --stream", "resume --stream", "dead ls --dead-stream",
    "dead redrive --all --reason r --notify-stream", "archive --stream",
    "stream remake --reason r", "replay show --stream", "config show --stream",
    f"replay run --to-redis redis://{LOGIN}@lab --to-stream", "store gc --stream",
    "store gc --dead-stream", "store gc --keep-from-stream", "replay report r.html --bundle",
    "dead ls --bundle", "run --http",
)  # fmt: skip


@pytest.mark.parametrize("words", URL_AS_NAME)
def test_a_url_in_another_place_tells_no_password(sidecar: Cli, words: str) -> None:
    """As a stream's name, a bundle or an address it is refused before anything is written."""
    ran = sidecar(*words.split(), ODD[2], env=sidecar.stores(wanted=True))
    assert (ran.code, SECRET in ran.out + ran.err) == (2, False), ran.out + ran.err
    assert re.search("that is a URL|write HOST:PORT", ran.err), ran.err


@pytest.mark.parametrize("made", [
    lambda url: Producer("redis://h", url, store.open_url("memory:")),
    lambda url: Feed("redis://h", notify_stream=url),
])  # fmt: skip
def test_a_url_as_a_name_is_refused_by_the_library(made: Callable[[str], object]) -> None:
    """Before anything is sent, and without its password."""
    with pytest.raises(UsageError, match="a stream's name is wanted") as caught:
        made(ODD[2])
    assert SECRET not in str(caught.value)
