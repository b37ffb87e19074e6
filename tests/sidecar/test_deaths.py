"""Dead letters are in the log, each by itself, and of thousands some."""

from __future__ import annotations

from typing import Any

import structlog

from sidecar.redis.source import Entry
from sidecar.wire.event import Reason
from sidecar.wire.ids import EntryId, Origin
from sidecar.worker.deaths import EVERY_S, MOST, Deaths
from sidecar.worker.outcomes import DEAD_ALREADY, Finished
from sidecar.worker.window import Item, Trouble


def _dead(number: int, outcome: str = "malformed", event: bytes = b"") -> Finished:
    entry_id = EntryId.of(number)
    origin = Origin.of("control:events", entry_id)
    item = Item(Entry(entry_id, {b"event": event}), entry_id, origin, Trouble(0.0))
    item.end(Reason.MALFORMED, "no JSON")
    return item, outcome


def test_dead_letters_are_named_and_a_flood_is_summed_up() -> None:
    """With reason and origin; once a minute how many more there were."""
    now = 0.0
    with structlog.testing.capture_logs() as lines:
        log: Any = structlog.get_logger()
        deaths = Deaths(log, lambda: now)
        deaths.say([_dead(1), _dead(2, DEAD_ALREADY)])
        assert [(line["event"], line["reason"]) for line in lines] == [("dead letter", "malformed")]
        assert lines[0]["log_level"] == "warning"
        assert (lines[0]["entry"], lines[0]["detail"]) == ("1-0", "no JSON")
        deaths.say(_dead(number) for number in range(1000))
        assert len(lines) == MOST
        now = EVERY_S
        deaths.say([_dead(7)])
    assert [line.get("count") for line in lines[MOST:]] == [1001 - MOST, None]


def test_an_event_that_is_refused_is_named_as_far_as_it_can_be_read() -> None:
    """By event_id, tenant, type and ref, though nothing admitted it."""
    event = b'{"event_id": "e-1", "tenant_id": "t", "type": "no.such", "artifact_ref": "r/1"}'
    with structlog.testing.capture_logs() as lines:
        log: Any = structlog.get_logger()
        Deaths(log).say([_dead(1, event=event), _dead(2, event=b"no JSON")])
    named = ("event_id", "tenant_id", "type", "artifact_ref")
    found = [tuple(line[name] for name in named) for line in lines]
    assert found == [("e-1", "t", "no.such", "r/1"), (None,) * 4]
