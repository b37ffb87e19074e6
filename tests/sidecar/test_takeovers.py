"""A worker that takes a stream over says so: in the log, and on record."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import structlog

from sidecar.redis.keys import Keys
from sidecar.redis.lease import Lease
from sidecar.redis.members import Member, Members
from sidecar.redis.takeovers import newest_takeovers, put_on_record
from sidecar.worker.share import Share
from sidecar.worker.takeovers import EVERY_S, MOST, Takeovers

KEYS = Keys.of("a", "n")


def test_a_takeover_names_who_had_it_and_many_are_summed_up() -> None:
    """As a warning each, and once a minute how many more there were."""
    now, recorded = 0.0, list[str]()
    record, share = recorded.append, Share(["a", "b"])
    share.see([Member("1", "host:1", frozenset({"a"}), frozenset({"a"}))])
    share.see([])  # it has left
    with structlog.testing.capture_logs() as lines:
        log: Any = structlog.get_logger()
        takeovers = Takeovers(share, log, lambda: now)
        takeovers.say("a", record, "1")
        takeovers.say("b", record, "")
        assert [(one["event"], one["log_level"], one["before"]) for one in lines] == [
            ("took over", "warning", "host:1"), ("took over", "warning", "unknown"),
        ]  # fmt: skip
        for _ in range(100):
            takeovers.say("a", record, "1")
        assert len(lines) == MOST
        now = EVERY_S
        takeovers.say("a", record, "1")
    assert [one.get("count") for one in lines[MOST:]] == [102 - MOST, None]
    assert recorded == ["host:1", "", *["host:1"] * 101]


@pytest.mark.parametrize("error", [redis.ConnectionError("x"), redis.ResponseError("NOPERM")])
def test_a_record_that_fails_keeps_no_stream_from_being_served(error: Exception) -> None:
    """The log says that it is missing."""

    def fails(_: str) -> None:
        raise error

    with structlog.testing.capture_logs() as lines:
        Takeovers(Share(["a"]), structlog.get_logger()).say("a", fails, "1")
    assert [(one["event"], one["before"]) for one in lines] == [("took over", "1")]
    assert lines[0]["not_on_record"]


@pytest.mark.server
def test_records_are_of_the_streams_that_are_asked_for(client: redis.Redis) -> None:
    """The newest first, so many at most."""
    for number in range(4):
        for stream in ("a", "b"):
            put_on_record(client, Keys.of(stream, "n"), by=f"{stream}{number}", before="")
    found = newest_takeovers(client, [KEYS], 3)
    assert [one.by for one in found] == ["a3", "a2", "a1"]
    assert found[0].at > "2020"


@pytest.mark.server
@pytest.mark.parametrize("comes_first", [True, False])
def test_who_had_the_lease_is_told_by_the_lease(client: redis.Redis, *, comes_first: bool) -> None:
    """Not by the register, in which several may say that they own it."""
    dead, owner = (
        Members(client, KEYS, name=f"host:{n}", serves=["a"], lease_s=60) for n in range(2)
    )
    for one in (dead, owner):
        one.beat(["a"])
    other = Lease(client, KEYS, lease_s=60, worker=owner.id)
    ours = Lease(client, KEYS, lease_s=60)
    assert ours.other() == ""
    other.acquire()
    assert ours.is_owned() if comes_first else ours.acquire() is None
    other.release()
    assert ours.acquire() is not None
    assert ours.other() == owner.id
