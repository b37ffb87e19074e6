"""`sidecar check-event`, and events as other forms have them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.ops.checking import WANTED, faults
from sidecar.wire.event import FIELDS, MAX_ENTRY_BYTES
from sidecar.worker.pipeline import Rules
from tests.cli.harness import TRACEPARENT, Cli
from tests.wire.test_published import VECTORS, _raw

GOOD = {"event_id": "e", "type": "key.changed", "tenant_id": "t"}
WRONG = {
    "event_id": "", "type": "stack.activated", "version": "7", "artifact_ref": "/a",
    "checksum": "md5:1", "Tenant_ID": "x", "created_at": "yesterday",
}  # fmt: skip


def check(sidecar: Cli, event: bytes | dict[str, Any], *args: str) -> tuple[int, list[Any]]:
    """Check an event; return the exit code, and of each fault its reason and field."""
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    ran = sidecar("check-event", "-", "--json", *args, stdin=raw)
    said = ran.object()
    assert said["ok"] == (ran.code == 0), ran.err
    return ran.code, [(one["reason"], one["field"]) for one in said["faults"]]


@pytest.mark.parametrize("vector", VECTORS["events"], ids=lambda vector: vector["name"])
def test_the_first_fault_is_what_the_dead_letter_would_say(vector: dict[str, Any]) -> None:
    """Each golden vector gets its reason; a valid one has no fault."""
    found = faults(_raw(vector), Rules())
    assert (found[0].reason if found else None) == vector["reason"]


def test_every_fault_is_named_with_its_field_and_fix(sidecar: Cli) -> None:
    """In the order of the checks, each field once; a person gets a line each."""
    code, found = check(sidecar, WRONG)
    assert code == 1
    assert found == [
        ("invalid_event", "tenant_id"), ("invalid_event", "event_id"),
        ("invalid_event", "version"), ("invalid_event", "checksum"),
        ("invalid_event", "created_at"), ("invalid_event", "stack_id"), ("bad_ref", "artifact_ref"),
    ]  # fmt: skip
    path = sidecar.directory / "event.json"
    path.write_text(json.dumps(WRONG))
    ran = sidecar("check-event", path)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert [line.split("  ")[1].split(":")[0] for line in lines] == [field for _, field in found]
    assert all("fix: give " in line for line in lines)


def test_an_event_that_keeps_the_rules_is_good(sidecar: Cli) -> None:
    """A file as an editor writes it, with a line feed at its end."""
    path = sidecar.directory / "event.json"
    path.write_text(json.dumps(GOOD, indent=2) + "\n")
    ran = sidecar("check-event", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("ok")


def test_rules_of_the_operator_count(sidecar: Cli) -> None:
    """An added type is known, and each scope is looked at, also beyond the first that refuses."""
    other = {**GOOD, "type": "mine", "artifact_ref": "u/1", "checksum": "sha256:" + "0" * 64}
    scopes = ("--event-id-scope", "{tenant}/*", "--tenant-scope", "{tenant}/*")
    assert check(sidecar, other) == (1, [("unknown_type", "type")])
    assert check(sidecar, other, "--allow-type", "mine") == (0, [])
    _, found = check(sidecar, other, *scopes)
    assert found == [
        ("unknown_type", "type"), ("forbidden_id", "event_id"), ("forbidden_ref", "artifact_ref"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [MAX_ENTRY_BYTES, 1 << 20])
def test_a_large_event_is_one_fault(sidecar: Cli, size: int) -> None:
    """What is no matter of one field ends the search."""
    assert check(sidecar, b" " * size) == (1, [("too_large", "")])
    ran = sidecar("check-event", "-", stdin=b" " * ((1 << 20) + 1))
    assert ran.code == 2
    assert "1 MiB" in ran.err


def test_a_file_that_cannot_be_read_is_wrong_usage(sidecar: Cli) -> None:
    """Exit 2, in one line; exit 1 is kept for events."""
    ran = sidecar("check-event", "/nowhere/event.json")
    assert (ran.code, ran.out) == (2, "")


def test_it_is_known_what_each_field_takes() -> None:
    """A new field of the event has its fix."""
    assert WANTED.keys() == set(FIELDS)


def test_tail_prints_cloud_events(sidecar: Cli) -> None:
    """One a line: with an artifact it has dataref, without one data."""
    sidecar.bring("e1", "keys/a b", b"k", "--tenant", "t_1", "--traceparent", TRACEPARENT)
    sidecar.emit("e2")
    sidecar.drain()
    found = sidecar("tail", "--cloudevents").objects()
    first, second = sorted(found, key=lambda one: str(one["id"]))
    assert (first["specversion"], first["id"], first["dataref"]) == ("1.0", "e1", "keys/a%20b")
    assert first["traceparent"] == TRACEPARENT
    assert second["data"]["event_id"] == "e2"
    ran = sidecar("tail", "--cloudevents", "--resolve")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
