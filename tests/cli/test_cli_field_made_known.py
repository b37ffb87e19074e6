"""A field that older releases passed on unchecked and this one limits: history stays readable."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Final

import pytest
from pydantic import Field

from sidecar.feed import Feed
from sidecar.wire import event
from sidecar.wire.event import Event, Reason, Rejected, decode
from sidecar.wire.notification import Notification
from tests.cli.harness import KEYS, STREAM, Cli

Short = Annotated[str, Field(max_length=16)]
OLD: Final = {
    "long": "p" * 17, "number": 5, "nested": {"a": [1.5]}, "null": None, "empty": "", "good": "p",
}  # fmt: skip
"""What a release published that did not know `priority`, by event_id."""


class EventOfTomorrow(Event):
    """An event with a field that is unknown today."""

    priority: Short = ""


class NotificationOfTomorrow(Notification):
    """A notification with that field."""

    priority: Short = ""


@pytest.fixture
def upgraded(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The release that knows `priority`, after one that did not has published `OLD`."""
    for event_id, priority in OLD.items():
        body = {"event_id": event_id, "type": "key.changed", "priority": priority}
        sidecar.client.xadd(STREAM, {"event": json.dumps(body)})
    sidecar.drain()
    know_priority(monkeypatch)
    return sidecar


def know_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the field known, wherever an event or a notification is read."""
    monkeypatch.setattr(event, "Event", EventOfTomorrow)
    monkeypatch.setattr(event, "_MAKE", EventOfTomorrow.__pydantic_validator__.validate_python)
    monkeypatch.setattr(event, "_FIELD_SET", frozenset(EventOfTomorrow.model_fields))
    monkeypatch.setattr(event, "_LATER", frozenset({"priority"}))
    for name, module in list(sys.modules.items()):
        if name.startswith("sidecar.") and vars(module).get("Notification") is Notification:
            monkeypatch.setattr(module, "Notification", NotificationOfTomorrow)


def test_a_feed_reads_what_was_published(upgraded: Cli) -> None:
    """A value that the field does not allow is where it was, and the field is absent."""
    feed = Feed(upgraded.url)
    found: list[Any] = feed.poll(since=0)
    assert [one.event_id for one in found] == list(OLD)
    assert [one.priority for one in found] == ["", "", "", "", "", "p"]
    aside = [(one.model_extra or {}).get("priority") for one in found]
    assert aside == ["p" * 17, 5, {"a": [1.5]}, None, None, None]


def test_commands_show_what_was_published(upgraded: Cli) -> None:
    """`tail`, `trace`, `replay show` and `audit` take it for what it is: a notification."""
    shown = {one["event_id"]: one for one in upgraded("tail", "--json").objects()}
    assert {id_: one["priority"] for id_, one in shown.items()} == OLD | {"null": ""}
    for event_id in OLD:
        traced = upgraded("trace", event_id)
        assert (traced.code, "+ notification" in traced.out) == (0, True), traced.out
    lines = upgraded("replay", "show", "--json").objects()
    assert {one["type"] for one in lines if one.get("event_id") in OLD} == {"key.changed"}
    audited = upgraded("audit")
    assert audited.code == 0, audited.out


def test_an_entry_of_the_past_is_known_by_its_event(upgraded: Cli) -> None:
    """A group that was lost is made anew: what had its end is found, and ends no second time."""
    upgraded.client.xgroup_destroy(STREAM, KEYS.group)
    upgraded.client.delete(KEYS.low)
    upgraded("run", "--drain", "--retry-budget", "0")
    assert upgraded("audit").code == 0
    assert len(upgraded.entries(KEYS.notifications)) == len(OLD)


def test_a_retry_across_the_upgrade_is_a_duplicate(upgraded: Cli) -> None:
    """What a producer sends again as it was has the digest that it had, also null and zero."""
    entries: Any = upgraded.client.xrange(STREAM)
    for _, fields in entries:
        upgraded.client.xadd(STREAM, fields)
    upgraded("run", "--drain", "--retry-budget", "0")
    assert upgraded.entries(KEYS.dead) == []
    assert len(upgraded.entries(KEYS.notifications)) == len(OLD)


@pytest.mark.parametrize("body", [{"version": "x"}, {"priority": 5, "version": "x"}, {"type": ""}])
def test_a_field_of_the_first_release_is_strict(body: dict[str, Any]) -> None:
    """No release published a wrong value of these: who reads one has something foreign."""
    raw = json.dumps({"event_id": "e", "type": "key.changed", "control_version": 5, **body})
    with pytest.raises(ValueError, match=next(iter(body.keys() - {"priority"}))):
        NotificationOfTomorrow.of_entry({b"event": raw.encode(), b"origin": b"s/1-1"})


def test_a_worker_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from now on keeps the field's rule, also in how its name is spelt."""
    know_priority(monkeypatch)
    for wrong in ({"priority": 5}, {"Priority": "p"}):
        fields = {b"event": json.dumps({"event_id": "e", "type": "key.changed", **wrong}).encode()}
        with pytest.raises(Rejected, match="priority") as refused:
            decode(fields)
        assert refused.value.reason is Reason.INVALID_EVENT
        assert decode(fields, recorded=True)[1].items() >= wrong.items()
