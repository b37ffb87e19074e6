"""What is published of the wire: schemas, AsyncAPI and golden vectors, held against the code."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from base64 import b64decode
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from sidecar.redis.source import Entry
from sidecar.wire.event import FIELDS, Reason
from sidecar.wire.ids import EntryId, Origin
from sidecar.worker.letter import letter
from sidecar.worker.policy import Bury
from sidecar.worker.window import Item, Trouble
from tests import wire_pages, wire_schemas

MADE: Final = wire_pages.files()
ROOT: Final = wire_pages.ROOT
VECTORS: Final = {
    path.stem: json.loads(text)["vectors"] for path, text in MADE.items() if "vectors" in path.parts
}
LEFT_OUT: Final = {
    "empty", "not JSON", "two objects", "not UTF-8", "UTF-16", "a byte order mark",
    "a number no double holds, in an unknown field", "lone surrogate", "deep nesting",
    "nested 65 deep", "over 16 KiB", "notification over 8 KiB",  # no parser gets so far
    "version 42.0",  # JSON Schema knows no literals, and takes 42.0 for 42
    "unknown type", "segment over 255 bytes",  # an option, and bytes
    "the sidecar's own corner", "30 February",
}  # fmt: skip
"""Vectors whose reason no schema can find. docs/wire.md names the rules."""


@pytest.mark.parametrize("path", MADE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_those_that_the_code_makes(path: Path) -> None:
    """Each schema and each file of vectors is what `make pages` would write today."""
    assert path.is_file(), f"{path.relative_to(ROOT)} is not there: run `make pages`"
    assert path.read_text() == MADE[path], f"{path.relative_to(ROOT)}: run `make pages`"


def test_nothing_else_lies_there() -> None:
    """A schema or a vector that nothing makes any more is gone."""
    for room in (wire_pages.SHIPPED, wire_pages.PUBLISHED):
        assert [one for one in room.rglob("*.json") if one not in MADE] == []


def test_the_wheel_has_them() -> None:
    """A program reads the schemas of the release that it has, by importlib.resources."""
    room = files("sidecar").joinpath("schemas")
    for name in wire_schemas.schemas():
        assert json.loads(room.joinpath(f"{name}.schema.json").read_text())["$id"].endswith(":1")


@pytest.mark.parametrize("name", wire_schemas.schemas())
def test_a_schema_is_one(name: str) -> None:
    """Each is valid by the draft that it names, and its patterns are those of any language."""
    schema = wire_schemas.schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert not re.search(r"\\[pPzZA]|\(\?[a-zP<]", json.dumps(schema)), "no other engine reads it"


def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(MADE[wire_pages.SHIPPED / f"{name}.schema.json"]))


EVENT: Final = _validator("event")
NOTIFICATION: Final = _validator("notification")


def _raw(vector: dict[str, Any]) -> bytes:
    if "event_base64" in vector:
        return b64decode(vector["event_base64"])
    return str(vector["event"]).encode()


@pytest.mark.parametrize("vector", VECTORS["events"], ids=lambda vector: vector["name"])
def test_the_schema_of_events_agrees_with_the_vectors(vector: dict[str, Any]) -> None:
    """It takes what a worker takes, and refuses what that refuses, but for what is listed."""
    if vector["reason"] is None:
        assert EVENT.is_valid(json.loads(_raw(vector)))
        assert NOTIFICATION.is_valid(json.loads(vector["notification"]))
    elif vector["name"] not in LEFT_OUT:
        assert not EVENT.is_valid(json.loads(_raw(vector)))


def test_what_is_left_out_is_not_found_by_the_schema() -> None:
    """The list of what a schema cannot say has nothing that it says."""
    found = {one["name"]: one for one in VECTORS["events"] if one["name"] in LEFT_OUT}
    assert found.keys() == LEFT_OUT
    for name, one in found.items():
        try:
            body = json.loads(_raw(one))
        except (ValueError, RecursionError):
            continue
        assert EVENT.is_valid(body), name


NAMES: Final = st.one_of(
    st.sampled_from(FIELDS),
    st.sampled_from([f"{name}{more}" for name in FIELDS for more in ("\n", "_", " ")]),
    st.sampled_from(FIELDS).map(str.swapcase), st.sampled_from(FIELDS).map(str.title),
)  # fmt: skip
VALUES: Final = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-2, 2),
    st.sampled_from([
        "", "\n", "a\n", "a", "/a", "a/b", "a/../b", "a//b", "stack.activated", "run.abort",
        "sha256:" + "0" * 64, "sha256:" + "0" * 64 + "\n", "SHA256:" + "0" * 64, "x" * 257,
        "2026-11-22T12:00:00Z", "2026-11-22T12:00:00Z\n", "2026-11-22", [], {},
    ]),
)  # fmt: skip


@given(st.dictionaries(NAMES, VALUES, max_size=6), st.booleans())
def test_the_schema_of_events_agrees_with_the_worker(body: dict[str, Any], whole: bool) -> None:
    """Whatever known fields hold: both take it, or both refuse it, but for unknown types."""
    body = {**body, "event_id": "e", "type": "run.abort"} if whole else body
    reason, _ = wire_pages.judged(json.dumps(body).encode())
    if reason not in ("unknown_type", "malformed"):
        assert EVENT.is_valid(body) == (reason is None), (reason, body)


def test_keys_in_another_case_are_those_that_fold() -> None:
    """For each character of Unicode the pattern has what a worker refuses in place of a letter."""
    pattern = re.compile(wire_schemas.other_case())
    everything = [chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) != "Cs"]
    for name in FIELDS:
        head, tail = name[:-1], name[-1]
        for one in (c for c in everything if c.casefold() == tail):
            assert pattern.search(head + one), (name, one)
        assert pattern.search(name.upper())
        assert not pattern.search(name + "\u0131")


def test_a_dead_letter_fits_its_schema() -> None:
    """What a worker writes as a dead letter has the schema's fields, and no others."""
    schema = _validator("dead-letter")
    for reason in Reason:
        fields = {b"event": b"x" * 20_000, b"traceparent": b"00-x"}
        entry = Entry(EntryId("1-0"), fields)
        trouble = Trouble(0.0, attempts=3)
        item = Item(entry, entry.id, "control:events/1-0", trouble, bury=Bury(reason, "why"))
        written = {
            name: value.decode() if isinstance(value, bytes) else str(value)
            for name, value in letter(item, "2026-11-22T12:00:00.000Z").fields.items()
        }
        schema.validate(written)
        assert written.keys() == schema.schema["properties"].keys()
        assert not schema.is_valid({**written, "origin": Origin("nowhere")})


@pytest.mark.parametrize("vector", VECTORS["records"], ids=lambda vector: vector["name"])
def test_envelopes_fit_their_schema(vector: dict[str, Any]) -> None:
    """What a record's header says is what the schema of envelopes describes."""
    if vector["error"] is None:
        _validator("manifest-envelope").validate(vector["envelope"])


def test_asyncapi_leads_to_messages_and_schemas() -> None:
    """Each reference of the AsyncAPI document has something at its end; its payloads hold."""
    text = MADE[wire_pages.PUBLISHED / "asyncapi.json"]
    document = json.loads(text)
    for reference in re.findall(r'"\$ref": "(.*?)"', text):
        at: Any = document
        for part in reference.removeprefix("#/").split("/") if reference[0] == "#" else ():
            at = at[part]
        assert reference[0] == "#" or (wire_pages.PUBLISHED / reference).is_file()
    registry: Registry[Any] = Registry().with_resources(
        (f"./{name}.schema.json", Resource.from_contents(one))
        for name, one in wire_schemas.schemas().items()
    )
    payload = document["components"]["messages"]["notification"]["payload"]
    entry = {"event": VECTORS["events"][0]["notification"], "origin": wire_pages.ORIGIN}
    Draft202012Validator(payload, registry=registry).validate(entry)
    assert {one["address"] for one in document["channels"].values()} == {
        "control:events", "control:notifications", "{control:notifications}:dead",
    }  # fmt: skip
