"""Every key of the contract, holding what no sidecar wrote: it is named, and nobody lies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.feed import Feed
from sidecar.redis.keys import Keys, streams_of
from sidecar.wire.identity import identity_digest
from tests.cli.harness import NOTIFICATIONS, STREAM, Cli
from tests.proofs import sampled

pytestmark = pytest.mark.server
ROOT: Final = Path(__file__).resolve().parents[2]
KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
_ROW: Final = re.compile(r"\| `(?P<key>\{N\}:[^`]+)`[^|]*\| (?P<kind>\w+) \|")


def _table() -> dict[str, str]:
    """Return the kind of each key of the contract's table, by its name with real streams."""
    page = (ROOT / "docs" / "contract.md").read_text()
    names = {"{N}": KEYS.prefix, ":S": f":{STREAM}", ":STREAM": f":{STREAM}"}
    found = {}
    for row in _ROW.finditer(page):
        key = row["key"].replace("{N}", names["{N}"])
        key = re.sub(":(S|STREAM)$", f":{STREAM}", key)
        found[key] = row["kind"]
    return found


TABLE: Final = _table()
READER: Final = KEYS.reader("NAME")
INDEX: Final = f"{KEYS.prefix}:seen:XXXX"
STREAMS: Final = {KEYS.dead}
"""Of these a command says that they are no stream, before it reads anything."""

GARBAGE: Final[list[tuple[str, str, bytes]]] = [
    (KEYS.stream, "", b"another"),
    (KEYS.fence, "", b"by hand"),
    (KEYS.lease, "", b"by hand"),
    (KEYS.lease, "", b"0" * 32),
    (KEYS.low, "", b"x"),
    (KEYS.anchors, STREAM, b"x"),
    (KEYS.halt, "dead_in_a_row", b"many"),
    (KEYS.halt, "unclean", b"x"),
    (KEYS.halt, "alone_deaths", b"1.5"),
    (KEYS.halt, "yielded", b"yes"),
    (KEYS.workers, "id", b"x"),
    (KEYS.readers, "r", b"x"),
    (READER, "", b"x"),
    *((KEYS.trimmed, stream, b"x") for stream in streams_of(KEYS)),
    (KEYS.trimmed, NOTIFICATIONS, b"9999999999999-0"),
    *((KEYS.archived, stream, b"x") for stream in streams_of(KEYS)),
    *((KEYS.segments, stream, b"x") for stream in streams_of(KEYS)),
    *((KEYS.archiving(stream), "", b"x") for stream in streams_of(KEYS)),
    (KEYS.incarnations, "last", b"x"),
    (KEYS.incarnations, "list", b"x"),
    (KEYS.pruned, "", b"x"),
]
"""Key, field, and what somebody wrote there."""
FREE_TEXT: Final = {
    KEYS.registered, KEYS.halts, KEYS.redriven, KEYS.tenures, KEYS.fleet, KEYS.dead, KEYS.resent,
    KEYS.takeovers, KEYS.paused, KEYS.rows,
}  # fmt: skip
"""In these a person reads words, or there is nothing to be wrong."""


@pytest.fixture
def drained(sidecar: Cli) -> Cli:
    """Two events published, one dead."""
    sidecar.lay_out()
    sidecar.emit("a", "--tenant", "t")
    sidecar.emit("b", "--tenant", "t")
    sidecar.client.xadd(STREAM, {"event": "no JSON"})
    sidecar.work()
    return sidecar


def _damaged(sidecar: Cli) -> list[str]:
    ran = sidecar("status", "--json")
    assert ran.code == 0, ran.err
    return list(ran.object()["damaged"])


def _check_no_lie(sidecar: Cli) -> None:
    """Nothing that is so is denied: the feed reads on, and the audit has no culprit."""
    first = sidecar("tail", "--since", "0", "--json").objects()[0]["control_version"]
    with Feed(sidecar.url, notify_stream=NOTIFICATIONS) as feed:
        assert [one.event_id for one in feed.poll(first)] == ["b"]
    ran = sidecar("audit", "--json")
    assert ran.code != 1, ran.out
    named = ("no sidecar wrote", "`sidecar status`", "not a stream")
    assert ran.code == 0 or any(words in ran.err for words in named)


def _works_again(sidecar: Cli) -> None:
    """A worker publishes what comes, each event once."""
    sidecar.emit("c", "--tenant", "t")
    sidecar.work()
    assert [one["event_id"] for one in sidecar("tail", "--json", "--since", "0").objects()] == [
        "a", "b", "c",
    ]  # fmt: skip
    assert _damaged(sidecar) == []


def test_the_table_has_all_keys() -> None:
    """What this module knows of, and the contract, are the same."""
    own = {getattr(KEYS, name) for name in dir(Keys) if isinstance(getattr(Keys, name), property)}
    others = {KEYS.group, KEYS.archivers}
    assert set(TABLE) == {*(own - others), KEYS.dead, KEYS.archiving(STREAM), INDEX, READER}
    garbage = {key for key, _, _ in GARBAGE} - set(map(KEYS.archiving, streams_of(KEYS)[1:]))
    assert set(TABLE) == garbage | FREE_TEXT | {INDEX}


@pytest.mark.parametrize(
    "key",
    sampled(sorted(set(TABLE) - {INDEX, READER, *STREAMS}), (KEYS.low, KEYS.fence, KEYS.halt)),
)
def test_a_key_of_another_kind_is_named_with_its_fix(drained: Cli, key: str) -> None:
    """By `status`; no reader takes it for something else, and without it all continues."""
    client, kind = drained.client, TABLE[key]
    client.delete(key)
    if kind == "string":
        client.rpush(key, "x")
    else:
        client.set(key, "x")
    (line,) = _damaged(drained)
    assert f"the key {key} is a {'list' if kind == 'string' else 'string'}, not a {kind}" in line
    if key != KEYS.incarnations:  # of which history a cursor is nobody can tell
        _check_no_lie(drained)
    client.delete(key)
    if key == KEYS.low:
        client.xgroup_destroy(STREAM, KEYS.group)
    _works_again(drained)


@pytest.mark.parametrize("key", sorted(STREAMS))
def test_another_key_in_a_streams_place_is_named(drained: Cli, key: str) -> None:
    """By every command that reads it, which ends with 2."""
    drained.client.set(key, "x")
    for command in ("status", "audit"):
        ran = drained(command)
        assert ran.code == 2
        assert f"{key!r}" in ran.err
        assert "is a string, not a stream" in " ".join(ran.err.split())


SOME_GARBAGE: Final = [
    f"{KEYS.lease}, , b'by hand'", f"{KEYS.low}, , b'x'", f"{KEYS.halt}, unclean, b'x'",
    f"{KEYS.workers}, id, b'x'", f"{KEYS.pruned}, , b'x'",
]  # fmt: skip


@pytest.mark.parametrize(
    "garbage", sampled(GARBAGE, SOME_GARBAGE, lambda one: f"{one[0]}, {one[1]}, {one[2]!r}")
)
def test_garbage_is_named_with_its_fix(drained: Cli, garbage: tuple[str, str, bytes]) -> None:
    """By `status`; no reader takes it for something else, and fixed as said all continues."""
    key, field, value = garbage
    client: Any = drained.client
    client.sadd(KEYS.registered, "NAME")
    if field:
        client.hset(key, field, value)
    else:
        client.set(key, value)
    (line,) = _damaged(drained)
    assert key in line
    if (key, field) != (KEYS.incarnations, "list"):
        _check_no_lie(drained)
    if field:
        fix = f"HDEL its field {shlex.quote(field)}"
        assert fix in line or key in (KEYS.workers, KEYS.readers)
        client.hdel(key, field)
    else:
        assert "DEL it" in line or key == KEYS.low
        client.delete(key)
    if key == KEYS.low:
        client.xgroup_destroy(STREAM, KEYS.group)
    _works_again(drained)


@pytest.mark.parametrize("nonsense", ["another kind", "a field"])
def test_who_meets_damage_in_the_index_names_it(drained: Cli, nonsense: str) -> None:
    """A worker that cannot know whether an event was published waits, and says at which key."""
    shard = KEYS.seen(identity_digest("c"))
    if nonsense == "another kind":
        drained.client.set(shard, "x")
    else:
        drained.client.hset(shard, identity_digest("c")[2:], b"x")
    drained.emit("c", "--tenant", "t")
    ran = drained("run", "--drain", "--retry-budget", "0", "--lease", "0.5")
    assert ran.code == 3
    assert shard in ran.err
    drained.client.delete(shard)
    drained.work()
    assert len(drained.entries(NOTIFICATIONS)) == 3
