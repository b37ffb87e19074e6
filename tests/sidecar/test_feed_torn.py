"""A page of the feed is several commands: what comes in between makes no gap, and hides none."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import redis

from sidecar.feed import FeedGap
from sidecar.feed.reading import Reading
from sidecar.redis.keys import Keys
from sidecar.redis.retention import KINDS, Policy, Retention
from sidecar.redis.scripts import noting
from sidecar.wire.ids import EntryId

pytestmark = pytest.mark.server
KEYS = Keys.of("control:events", "control:notifications")
COMMANDS = 7
LAST = 8


class Torn:
    """Runs a page's commands one by one, and something else before one of them."""

    def __init__(self, client: Any, at: int, do: Any) -> None:
        self._client, self._at, self._do = client, at, do
        self.answers: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        """Return the command, which runs at once."""

        def run(*args: Any) -> None:
            if len(self.answers) == self._at:
                self._do()
            try:
                self.answers.append(getattr(self._client, name)(*args))
            except redis.RedisError as error:
                self.answers.append(error)

        return run


@pytest.fixture
def filled(client: redis.Redis) -> Any:
    """A stream with the control_versions 1 to 8."""
    client.set_response_callback("XREAD", lambda answer, **_: answer)
    for number in range(1, LAST + 1):
        event = {"id": 0, "event_id": f"e{number}", "type": "key.changed"}
        event |= {"control_version": number}
        fields: Any = {"event": json.dumps(event), "origin": f"c/{number}-0"}
        client.xadd(KEYS.notifications, fields, id=f"0-{number}")
    noting(client)(keys=[KEYS.trimmed], args=[KEYS.notifications, "0-1"])
    client.xtrim(KEYS.notifications, minid="0-2", approximate=False)
    return client


def trim(client: Any, stays: int) -> None:
    """Trim as a worker does, up to before the control_version that stays."""
    policies = dict.fromkeys(KINDS, Policy(length=LAST + 1 - stays))
    retention = Retention(client, client, KEYS, policies, dedup_window_s=0)
    assert retention.trim_one("notifications").removed


def page(client: Any, at: int, since: int, stays: int) -> list[int]:
    """Read a page, while before the command `at` is trimmed."""
    reading = Reading(KEYS.notifications, None)
    torn = Torn(client, at, lambda: trim(client, stays))
    reading.ask(torn, since, 100, 0)
    assert len(torn.answers) == COMMANDS
    return [one.control_version for one in reading.batch(torn.answers, since)]


@pytest.mark.parametrize("at", range(COMMANDS))
def test_what_a_reader_has_passed_is_trimmed_without_a_gap(filled: Any, at: int) -> None:
    """At whatever moment, also if the entry at its cursor goes."""
    assert page(filled, at, since=5, stays=6) == [6, 7, 8]


@pytest.mark.parametrize("at", range(COMMANDS))
def test_what_a_reader_needs_is_not_trimmed_in_silence(filled: Any, at: int) -> None:
    """It gets all that came after its cursor, or a gap."""
    with suppress(FeedGap):
        assert page(filled, at, since=3, stays=6) == [4, 5, 6, 7, 8]
    assert EntryId("0-5") == filled.hget(KEYS.trimmed, KEYS.notifications).decode()
