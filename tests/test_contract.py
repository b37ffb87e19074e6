"""docs/contract.md against the code, in both directions.

Whoever adds a key, a reason, a command or the like adds its row there: the failure names it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any, Final, get_args, get_type_hints

import fakeredis
import pytest
import typer

import sidecar
import store
from sidecar import cli
from sidecar.errors import SidecarError
from sidecar.feed import FeedGap, kept
from sidecar.feed.cursors import Applied
from sidecar.history import archive, bundle, checkpoints, marks
from sidecar.producer.outbox import table as outbox_table
from sidecar.redis import fleet
from sidecar.redis.keys import Keys
from sidecar.redis.members import Held, Members
from sidecar.redis.source import Entry
from sidecar.wire import erasures, event, notification, removals
from sidecar.wire.event import Event, Reason
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.notification import Notification
from sidecar.wire.reasons import EXPLANATIONS
from sidecar.worker.letter import MAX_TRACEPARENT_BYTES, letter
from sidecar.worker.settings import Settings
from sidecar.worker.window import Item, Trouble
from store import record
from store.file import root
from tests.contract import PAGE, ROOT, TEXT, agree, section, table

KIB: Final = 1024
NO_VARIABLE: Final = {
    ("", "--version"), ("diff", "--at"), ("pause", "--tenant"), ("resume", "--tenant"),
}  # fmt: skip
NEED_NOT_BE_SAID: Final = {0, 2, 4}
"""What every command may exit with, and its row need not say."""
MAY_BE_SAID: Final = {1, 4}
"""What its row may say, though its help does not."""
BY_KEYBOARD: Final = 130

# --- entry, event, notification, dead letter ------------------------------------------------------


CHARACTERS: Final = {
    (True, True): "{low} to {high} characters",
    (True, False): "at least {low} character",
    (False, True): "up to {high} characters",
}
CHECKSUM: Final = "`sha256:` and 64 lower-case hex digits"
BOUNDS: Final = {(-(2**63), 2**63 - 1): "int64", (0, 2**64 - 1): "uint64"}


def test_event_fields_are_listed_with_their_limits() -> None:
    """Each field of the event has a row with its type, whether it is required, and its limits."""
    rows = table("Control entry and event", "field", after="The event.")
    row = "| `{}` | type | required | limits | meaning |"
    agree("fields of the event", rows, Event.model_fields, row)
    for name, field in Event.model_fields.items():
        kind, required, limits, meaning = rows[name]
        where = f"{PAGE}, fields of the event, {name}"
        assert kind == _kind(field), where
        assert (required == "yes") == field.is_required(), where
        wanted = _limits(field)
        assert limits.startswith(wanted), f"{where}: limits are {wanted!r}"
        assert wanted or not re.search("character|digit", limits), f"{where}: there is no limit"
        assert meaning, where


def _kind(field: Any) -> str:
    if field.annotation is str:
        return "string"
    bounds: list[Any] = [getattr(one, "ge", getattr(one, "le", None)) for one in field.metadata]
    return BOUNDS[bounds[0], bounds[1]]


def _limits(field: Any) -> str:
    """Return how the limits begin that the model has; empty for a field without."""
    told: dict[str, Any] = {
        name: value
        for one in field.metadata
        for name in ("min_length", "max_length", "pattern")
        if (value := getattr(one, name, None)) is not None
    }
    low, high = told.get("min_length"), told.get("max_length")
    if low or high:
        return CHARACTERS[bool(low), bool(high)].format(low=low, high=high)
    return CHECKSUM if "sha256" in told.get("pattern", "") else ""


def test_known_types_are_listed() -> None:
    """The page lists the types that every worker lets through, and no other."""
    listed = re.search(r"Known types: (.*?)\n\n", section("Control entry and event"), re.DOTALL)
    assert listed
    agree("Known types", re.findall("`(.*?)`", listed[1]), event.KNOWN_TYPES, "`{}`")


def test_limits_are_the_codes() -> None:
    """The limits of entries, notifications and nesting are those that are enforced."""
    assert table("Control entry and event", "limit") == {
        "control entry": [f"{event.MAX_ENTRY_BYTES // KIB} KiB"],
        "notification entry": [f"{notification.MAX_NOTIFICATION_BYTES // KIB} KiB"],
        "nesting of the event": [f"{event.MAX_NESTING} levels"],
        "`traceparent` in a dead letter": [f"{MAX_TRACEPARENT_BYTES // KIB} KiB"],
    }


def test_notification_fields_are_listed() -> None:
    """The fields that publish.lua appends have rows, and what a reader gets beside the event."""
    script = (ROOT / "sidecar/redis/lua/publish.lua").read_text()
    appended = re.search(r"\n    local added\n(.*?)\n    if type\(added\)", script, re.DOTALL)
    assert appended
    names = set(re.findall(r"'([a-z]+)',", appended[1]))
    rows = table("Notification", "field of the entry")
    agree("Notification", rows, names, "| `{}` | yes | content |")
    beside = {
        name for name, member in vars(Notification).items()
        if isinstance(member, property) and not name.startswith("_")
    }  # fmt: skip
    assert beside == set(rows) - {"event"}
    assert set(Notification.model_fields) == set(Event.model_fields)
    always = re.search(r"The JSON always has (.*?)\.", section("Notification"))
    assert always
    agree("Notification", re.findall(r"`(\w+)`", always[1]), notification.ALWAYS, "`{}`")


def test_fields_of_a_notification_are_those_of_the_feed() -> None:
    """docs/feed.md has a row for each field that a controller can read, and for no other."""
    text = (ROOT / "docs/feed.md").read_text().partition("\n## A notification\n")[2]
    rows = re.findall(r"^\| (`.*?) \|", text.partition("\n## ")[0], re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    made = {*Notification.model_fields, "origin", "traceparent", "signature", "model_extra"}
    missing, stale = sorted(made - set(listed)), sorted(set(listed) - made)
    assert not missing, f"docs/feed.md, A notification: add a row for {missing}"
    assert not stale, f"docs/feed.md, A notification: nothing has {stale}"


def test_dead_letter_fields_are_listed() -> None:
    """The fields of a dead letter have rows; those that it always has are required."""
    rows = table("Dead letters", "field of the entry")
    agree("Dead letters", rows, _letter_of(event.MAX_ENTRY_BYTES + 1), "| `{}` | yes | content |")
    always = {name for name, (required, _) in rows.items() if required == "yes"}
    assert always == set(_letter_of(1)), f"{PAGE}, Dead letters: required or not"


def _letter_of(size: int) -> set[str]:
    fields = {b"event": b"x" * size}
    if size > 1:
        fields[b"traceparent"] = b"00-1"
    item = Item(Entry(EntryId("1-0"), fields), EntryId("1-0"), Origin("S/1-0"), Trouble(0.0))
    item.end(Reason.MALFORMED, "")
    return set(letter(item, "").fields)


def test_reasons_are_listed_with_cause_and_fix() -> None:
    """Each reason has a row with its cause and its fix, in the order in which they are checked."""
    rows = table("Dead letters", "reason")
    agree("Dead letters", rows, [reason.value for reason in Reason], "| `{}` | cause | fix |")
    assert list(rows) == [reason.value for reason in Reason], f"{PAGE}: the order of the reasons"
    assert set(EXPLANATIONS) == set(Reason)
    for reason, (cause, fix) in rows.items():
        assert cause, f"{PAGE}: {reason} has no cause"
        assert fix, f"{PAGE}: {reason} has no fix"


# --- guarantees, keys ----------------------------------------------------------------------------


def test_guarantees_are_explained() -> None:
    """Each guarantee of the page is explained in guarantees.md, and the other way round."""
    names = {first.partition(" ")[0] for first in table("Guarantees", "guarantee")}
    explained = set(
        re.findall(r"^## (G\d+) ", (ROOT / "docs/guarantees.md").read_text(), re.MULTILINE)
    )
    agree("Guarantees", names, explained, "| {} name | what holds |")
    readme = set(re.findall(r"\*\*(G\d+) ", (ROOT / "README.md").read_text()))
    assert readme <= names
    assert names == {f"G{number}" for number in range(1, len(names) + 1)}


KINDS = ("string", "hash", "set", "stream", "group on `S`")


def test_keys_are_listed() -> None:
    """Every key that `Keys` can name has a row with its type, and no other key has one."""
    rows = table("Keys in Redis", "key")
    agree("Keys in Redis", rows, _key_names(), "| `{}` | type | content |")
    for key, (kind, content) in rows.items():
        assert kind in ("string", "hash", "set", "stream", "group on `S`"), (
            f"{PAGE}: the type of {key}"
        )
        assert content, f"{PAGE}: {key} has no content"


def _key_names() -> set[str]:
    keys = Keys.of("S", "N")
    found = {keys.control, keys.notifications, keys.dead}
    for name, member in vars(Keys).items():
        if isinstance(member, property):
            value = getattr(keys, name)
            found |= {value} if isinstance(value, str) else set(value)
        elif inspect.isfunction(member) and not name.startswith("_"):
            hints = get_type_hints(member)
            hints.pop("return")
            name_of = getattr(keys, name)
            found.add(name_of(*(_sample(each, kind) for each, kind in hints.items())))
    return {key.replace("abcd", "XXXX") for key in found}


def _sample(name: str, kind: type) -> Any:
    samples: dict[Any, Any] = {str: name.upper(), int: 0xABCD, bytes: b"\xab\xcd"}
    return samples[kind]


def test_the_keys_types_are_those_of_the_scripts() -> None:
    """A key's docstring and its row agree on hash and stream."""
    rows = table("Keys in Redis", "key")
    keys = Keys.of("S", "N")
    for name, member in vars(Keys).items():
        said = re.match(r"A (hash|set|stream):", getattr(member, "__doc__", None) or "")
        if isinstance(member, property) and said:
            kind = rows[getattr(keys, name)][0]
            assert kind == said[1], f"{PAGE}: {getattr(keys, name)} is a {said[1]}, not a {kind}"


def test_the_register_of_workers_is_listed() -> None:
    """The row of `{N}:workers` names what a worker writes there, and nothing else."""
    keys, name = Keys.of("S", "N"), "{N}:workers"
    held = Held("S/1-0", "t", "e", "error", 1, "since", "next", outage=False)
    with fakeredis.FakeRedis() as client:
        Members(client, keys, name="me", serves=["S"], lease_s=60).beat(["S"], held=[held])
        (written,) = client.hvals(keys.workers)
    row = table("Keys in Redis", "key")[name][1]
    made = {*json.loads(written), *held._fields}
    agree(f"Keys in Redis, {name}", re.findall(r"`(\w+)`", row), made, "`{}`")


# --- stores --------------------------------------------------------------------------------------


def test_capabilities_and_errors_are_listed() -> None:
    """Each capability of a backend and each error of a store is named, and no other."""
    text = section("Refs and stores")
    said = re.search(r"A backend declares .*?\n\n", text, re.DOTALL)
    assert said
    listed = re.findall(r"`([a-z-]+)`\s+\(", said[0])
    agree("Refs and stores", listed, [one.value for one in store.Capability], "`{}` (what it adds)")
    said = re.search(r"Every method raises .*?\n\n", text, re.DOTALL)
    assert said
    errors = {
        name for name in store.__all__
        if isinstance(one := getattr(store, name), type) and issubclass(one, store.StoreError)
    } - {"StoreError"}  # fmt: skip
    agree("Refs and stores", re.findall(r"`(\w+)`\s+\(", said[0]), errors, "`{}` (what it means)")


@pytest.mark.parametrize("url", ["memory:", "file:", "s3:", "gs:", "az:", "chassis-file:"])
def test_schemes_are_registered(url: str) -> None:
    """Each scheme of a store URL on the page has a backend."""
    assert f"`{url}" in section("Refs and stores")
    with pytest.raises(store.ConfigError, match="no backend is called 'nobody'") as raised:
        store.open_url("nobody://")
    assert url.rstrip(":") in str(raised.value).partition("known are ")[2].split(", ")


# --- command line --------------------------------------------------------------------------------


def _commands() -> dict[str, Any]:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            yield " ".join(path), command
        for name, one in (subcommands or {}).items():
            yield from walk(one, (*path, name))

    return dict(walk(typer.main.get_command(cli.app), ()))


def test_commands_are_listed() -> None:
    """Every command has a row, and every row is a command."""
    names = [f"sidecar {name}" for name in _commands()]
    agree("Command line", table("Command line", "command"), names, "| `{}` | does | exit codes |")


def test_exit_codes_are_listed() -> None:
    """The exit codes on the page are those that the code can end with."""
    rows = table("Command line", "exit code")
    made = {0, BY_KEYBOARD, *_codes_of_errors(), *_codes_in_source()}
    agree("Command line", rows, _texts(made), "| {} | meaning |")


def _codes_of_errors() -> set[int]:
    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def codes(kind: type[SidecarError]) -> Iterator[int]:
        yield kind.exit_code
        for below in kind.__subclasses__():
            if below.__module__.startswith("sidecar."):
                yield from codes(below)

    return set(codes(SidecarError))


def _codes_in_source() -> set[int]:
    """Return the numbers that stand in the source as an exit code."""
    calls = chain.from_iterable(
        ast.walk(ast.parse(path.read_text())) for path in (ROOT / "sidecar").rglob("*.py")
    )
    return {
        part.value
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(("Exit", "exit"))
        for given in call.args
        for part in ast.walk(given)
        if isinstance(part, ast.Constant) and isinstance(part.value, int)
    }


@pytest.mark.parametrize("name", _commands())
def test_exit_codes_of_a_command_are_listed(name: str) -> None:
    """What a command's help says of its exit codes stands in its row."""
    help_ = _commands()[name].help
    said = {
        int(code)
        for part in re.findall(r"[Ee]xit codes?:? (.*?)(?:\n\n|$)", help_, re.DOTALL)
        for code in re.findall(r"(?:^|[,;]\s+|: )(\d)\b", part)
    }
    said |= {int(code) for code in re.findall(r"\(exit (\d)", help_)}
    row = table("Command line", "command")[f"sidecar {name}"][1]
    listed = {int(code) for code in re.findall(r"(?:^|, )(\d)\b", row)}
    made = said - NEED_NOT_BE_SAID | listed & MAY_BE_SAID
    agree(f"Command line, exit codes of {name}", _texts(listed), _texts(made), "{} what it means")


def _texts(codes: Collection[int]) -> set[str]:
    return set(map(str, codes))


def test_options_of_run_are_listed_with_their_defaults() -> None:
    """Each option of `sidecar run` stands on the page, with its default."""
    said = " ".join(section("Command line").partition("Options of `sidecar run`")[2].split())
    options = {param.opts[0]: param for param in _commands()["run"].params}
    agree("Options of `sidecar run`", re.findall(r"`(--[a-z-]+)`", said), options, "`{}` (default)")
    for name, param in options.items():
        default = param.default[0] if isinstance(param.default, list) else param.default
        if default not in (None, False):
            words = f"`{name}` (`{default}`"
            assert words in said, f"{PAGE}, options of `sidecar run`: write {words})"
    assert Settings().lease_s == float(options["--lease"].default)


def test_options_are_variables() -> None:
    """Each option is read from the variable that the page's rule names, but for those it names."""
    for command, one in _commands().items():
        for param in one.params:
            if param.param_type_name == "argument" or param.hidden:
                continue
            option = max(param.opts, key=len)
            variable = "SIDECAR_" + option.lstrip("-").replace("-", "_").upper()
            wanted = None if (command, option) in NO_VARIABLE else variable
            assert param.envvar == wanted, f"{PAGE}, Command line: {command} {option}"


# --- versions, and who refers to the page --------------------------------------------------------


def test_versions_are_the_codes() -> None:
    """The versions on the page are those that this code writes."""
    rows = table("Versions", "what")
    now = {what.partition(",")[0]: version for what, (_, version) in rows.items()}
    assert now == {
        "package": sidecar.__version__,
        "event": "1",
        "keys in Redis": fleet.FORMAT,
        "store layout": root._FORMAT.decode().splitlines()[0],
        "record in a store": re.findall("artifact-record [0-9]+", str(record._HEADER.pattern))[0],
        "archive segment": str(archive.FORMAT),
        "mark beside these of what was dropped": str(marks.FORMAT),
        "state in the archive": str(checkpoints.FORMAT),
        "outbox in a producer's database": str(outbox_table.FORMAT),
        "record of what went from a store": str(removals.FORMAT),
        "record of an erased tenant": str(erasures.FORMAT),
        "file in a cache of a feed": kept.FORMAT,
        "bundle of `sidecar replay export`": str(bundle.FORMAT),
    }, f"{PAGE}, Versions: what is written now"


def test_what_a_reader_keeps_is_listed() -> None:
    """The kinds of gaps and the tables of `Applied` stand on the page."""
    text = " ".join(section("Python interface").split())
    kinds = get_args(get_type_hints(FeedGap.__init__)["kind"])
    listed = re.search(r"Its `kind` is (.*?)\.", text)
    assert listed
    agree("Python interface", re.findall(r"`(\w+)`", listed[1]), kinds, "`{}`")
    module = inspect.getmodule(Applied)
    assert module
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", inspect.getsource(module))
    agree("Python interface", set(re.findall(r"`(sidecar_\w+)`", text)), tables, "`{}`")


def test_references_to_the_page_name_its_sections() -> None:
    """Whoever cites the contract cites this page, by a section that it has."""
    titles = set(re.findall(r"^## (.*)$", TEXT, re.MULTILINE))
    rooms = ("sidecar", "store", "tests", "bench")
    for path in chain.from_iterable((ROOT / room).rglob("*.py") for room in rooms):
        text = " ".join(path.read_text().split())
        assert not re.search(r"sections? \d[^.]{0,20} of the contract", text), path
        for cited in re.findall(r'docs/contract\.md, "(.*?)"', text):
            assert cited in titles, f"{path.relative_to(ROOT)} cites {cited!r}, which {PAGE} lacks"
