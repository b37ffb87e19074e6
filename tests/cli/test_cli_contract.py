"""docs/contract.md against what commands and a worker leave in a real Redis."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.feed import Feed
from sidecar.redis.keys import CONSUMER
from tests.cli.harness import DEAD, NOTIFICATIONS, STREAM, Cli
from tests.contract import PAGE, agree, table

REASON: Final = ("--reason", "a test")
OF_FIELDS: Final = ("{N}:halt:S", "{N}:halts", "{N}:redriven", "{N}:incarnations")
"""Hashes and records whose fields the page names."""


def _work(sidecar: Cli) -> None:
    """Have a bit of everything: published, dead, redriven, halted, archived, read."""
    sidecar.bring("evt_1", "stacks/1", b"data")
    sidecar.client.xadd(STREAM, {"event": "no JSON"})
    sidecar.work()
    with Feed(sidecar.url, reader="controller-1") as feed:
        feed.passed(feed.poll(0)[-1].control_version)
    ran = [
        sidecar("archive"),
        sidecar("dead", "redrive", "--all", "--force", "--yes", *REASON),
        sidecar("pause", *REASON),
        sidecar("resume", *REASON),
        sidecar("pause", *REASON),
    ]
    assert [one.code for one in ran] == [0] * len(ran), [one.err for one in ran]


def _named(key: str) -> str:
    """Return a key as the page writes it."""
    generic = key.replace(NOTIFICATIONS, "N").replace(STREAM, "S")
    generic = re.sub(r":seen:[0-9a-f]{4}$", ":seen:XXXX", generic)
    generic = re.sub(r":reader:.*", ":reader:NAME", generic)
    return re.sub(r":archiving:.*", ":archiving:STREAM", generic)


def test_keys_in_a_real_redis_are_those_of_the_page(sidecar: Cli) -> None:
    """Every key that is there has a row, and is of its type."""
    _work(sidecar)
    rows = table("Keys in Redis", "key")
    raw: Any = sidecar.client.keys("*")
    found = {key.decode(): sidecar.client.type(key).decode() for key in raw}  # type: ignore[union-attr]
    assert {_named(key) for key in found} >= {"S", "N", "{N}:dead", "{N}:seen:XXXX", *OF_FIELDS}
    made = {*rows, *map(_named, found)}
    agree("Keys in Redis", rows, made, "| `{}` | type | content |")
    for key, kind in found.items():
        assert rows[_named(key)][0] == kind, f"{PAGE}: {_named(key)} is a {kind}"
    groups: Any = sidecar.client.xinfo_groups(STREAM)
    assert [group["name"].decode() for group in groups] == [f"sidecar:{NOTIFICATIONS}"]
    consumers: Any = sidecar.client.xinfo_consumers(STREAM, groups[0]["name"])
    assert {one["name"].decode() for one in consumers} == {CONSUMER}


def test_fields_in_a_real_redis_are_named_by_the_page(sidecar: Cli) -> None:
    """Each field of a halt, of a record and of the incarnations stands in the row of its key."""
    _work(sidecar)
    rows = table("Keys in Redis", "key")
    for key in OF_FIELDS:
        content = rows[key][1]
        named = set(re.findall(r"`(\w+)`", content))
        row = f"to the row of {key}: `{{}}` and what it means"
        agree("Keys in Redis", named, named | _fields(sidecar, key), row)
    letters = table("Dead letters", "field of the entry")
    agree("Dead letters", letters, {*letters, *_fields(sidecar, DEAD)}, "| `{}` | yes | content |")


def _fields(sidecar: Cli, key: str) -> set[str]:
    """Return the names of fields that a hash has, or the entries of a stream."""
    name = key.replace("{N}", f"{{{NOTIFICATIONS}}}").removesuffix(":S")
    name += f":{STREAM}" if key.endswith(":S") else ""
    if sidecar.client.type(name) == b"hash":
        found: Any = sidecar.client.hkeys(name)
        return {field.decode() for field in found if field}
    return {field for entry in sidecar.entries(name) for field in entry}
