"""Which of two events of one subject is the newer one: the table that everybody goes by."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.wire.event import Event
from sidecar.wire.ids import Origin
from sidecar.wire.subject import Change, Subject, overtakes, subject_of

STREAM = "control:events"


def change(origin: str = f"{STREAM}/50-0", at_ms: int | None = 50, **fields: Any) -> Change:
    """Return the change of an event of a stack in version 7."""
    said: dict[str, Any] = {
        "event_id": "old", "type": "stack.activated", "tenant_id": "t", "stack_id": "web",
        "version": 7, "artifact_ref": "stacks/7",
    }  # fmt: skip
    return Change.of(Event(**(said | fields)), Origin(origin), at_ms)


def later(origin: str = f"{STREAM}/60-0", at_ms: int | None = 60, **fields: Any) -> Change:
    """Return the change of another event, of a later entry."""
    return change(origin, at_ms, **({"event_id": "new"} | fields))


TABLE: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("a later version of the stack", {"version": 8, "artifact_ref": "stacks/8"}, {}, True),
    ("the same version again", {"artifact_ref": "other"}, {}, True),
    ("a lower version", {"version": 6, "artifact_ref": "stacks/6"}, {}, False),
    ("a lower version at the same ref", {"version": 6}, {}, True),
    ("no version says which is lower", {"version": 0, "artifact_ref": "x"}, {}, True),
    ("a version after none", {"artifact_ref": "x"}, {"version": 0}, True),
    ("another tenant's stack", {"tenant_id": "u", "artifact_ref": "x"}, {}, False),
    ("another tenant at the same ref", {"tenant_id": "u"}, {}, True),
    ("another stack", {"stack_id": "api", "artifact_ref": "x"}, {}, False),
    ("a ref without a stack", {"stack_id": ""}, {"stack_id": ""}, True),
    ("another ref without a stack", {"stack_id": "", "artifact_ref": "x"}, {"stack_id": ""}, False),
    ("neither has stack or ref", {"stack_id": "", "artifact_ref": ""},
     {"stack_id": "", "artifact_ref": ""}, False),
    ("itself", {"event_id": "old", "version": 9}, {}, False),
]  # fmt: skip


@pytest.mark.parametrize(("what", "new", "old", "does"), TABLE, ids=[row[0] for row in TABLE])
def test_a_later_entry_overtakes_by_its_subject(
    what: str, new: dict[str, Any], old: dict[str, Any], *, does: bool
) -> None:
    """The same stack in a version not lower, or the same ref; never the same event."""
    assert overtakes(later(**new), change(**old)) == does, what
    assert not overtakes(change(**old), later(**new))


@pytest.mark.parametrize(
    ("origin", "at_ms", "old_ms", "does"),
    [
        (f"{STREAM}/50-1", 0, 50, True),
        (f"{STREAM}/49-9", 99, 50, False),
        (f"{STREAM}/9-0", 99, 50, False),
        ("else/1-0", 50, 50, True),
        ("else/99-0", 49, 50, False),
        ("else/1-0", 49, None, True),
        ("else/1-0", None, 50, True),
        ("no origin", 50, 50, True),
        (f"{STREAM}/x-0", 49, 50, False),
    ],
)
def test_entries_decide_on_one_stream_and_times_between_two(
    origin: str, at_ms: int | None, old_ms: int | None, *, does: bool
) -> None:
    """Whatever the IDs of one stream are, they are in order; what no time tells counts as later."""
    assert overtakes(later(origin, at_ms), change(at_ms=old_ms)) == does


def test_an_id_that_lies_in_the_future_is_no_time() -> None:
    """A producer gave it: what is known to have been there before began nobody knows when."""
    assert change(f"{STREAM}/5-0").begun(1000).at_ms == 5
    assert change(f"{STREAM}/301000-0").begun(1000).at_ms == 301000
    assert change(f"{STREAM}/301001-0").begun(1000).at_ms is None
    assert change("?").begun(1000).at_ms is None


def test_a_subject_is_a_stack_or_else_a_ref() -> None:
    """An event about neither replaces nothing."""
    assert subject_of("t", "web", "r") == Subject("t", "web")
    assert subject_of("t", "", "r") == Subject(artifact_ref="r")
    assert subject_of("t", "", "") is None


def test_an_origin_is_a_stream_and_an_entry() -> None:
    """The last slash parts them; what names no entry has none."""
    assert Origin("a/b/5-0").stream == "a/b"
    assert Origin("a/b/5-0").entry == "5-0"
    assert [Origin(one).entry for one in ("a/b", "5-0", "/5-0", "a/5", "")] == [None] * 5
