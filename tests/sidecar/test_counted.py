"""How many commands and calls an event takes: the number repeats, time does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from structlog.typing import FilteringBoundLogger

import store
from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import MOST_LETTERS, Letter, Outbound, Publisher
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.worker.pipeline import Pipeline, Rules
from store import checksum_of
from tests import calls
from tests.sidecar import harness
from tests.sidecar.harness import Rig, note_nothing_to_prune

EVENTS = 100
MOST_CALLS = 44
"""Python calls of the relay's thread for an event without an artifact."""
A_CALL = 0.5
"""Less for an event is what a run or a connection more or less make."""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MOST_CARRYING = 113
"""Python calls to carry a small artifact from file store to file store, at a new ref."""
MOST_AN_EVENT = 2
MOST_A_RUN = 12
MOST_A_LETTER = 4


def no_log() -> FilteringBoundLogger:
    """Return a logger that takes no line of an event, as a worker's does."""
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[],
        wrapper_class=structlog.make_filtering_bound_logger(30),
    )
    return log


def outbound(number: int) -> Outbound:
    """Return an event to publish."""
    identity = identity_digest(f"e{number}") + b"c" * 16
    origin = Origin.of("control", EntryId(f"{number + 1}-0"))
    return Outbound(identity, b'{"event_id":"e","control_version":', origin, b"")


@contextmanager
def counted(client: redis.Redis) -> Iterator[Counter[str]]:
    """Yield what is, at the end, how often each command ran meanwhile."""
    commands: Counter[str] = Counter()
    client.config_resetstat()
    yield commands
    stats: Any = client.info("commandstats")
    found = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
    commands.update({name: count for name, count in found.items() if not name.startswith("config")})


@pytest.fixture
def publisher(redis_url: str) -> Publisher:
    """The owner of the control stream, whose scripts are loaded."""
    keys = Keys.of("control", "notifications")
    owner = Publisher(connect(redis_url), keys, lease_s=60, dedup_window_s=60)
    owner.acquire()
    owner.publish([outbound(0)], FIRST)
    return owner


def test_an_event_costs_redis_so_many_commands(publisher: Publisher, client: redis.Redis) -> None:
    """The publish script runs no command more for an event, nor for a run, than it did."""
    with counted(client) as commands:
        publisher.publish([outbound(number) for number in range(1, EVENTS + 1)], FIRST)
    assert commands["xadd"] == EVENTS
    assert commands.total() <= EVENTS * MOST_AN_EVENT + MOST_A_RUN, commands


def test_dead_letters_cost_redis_one_script(publisher: Publisher, client: redis.Redis) -> None:
    """A run of dead letters is one script, and no letter costs more commands than it did."""
    letters = [
        Letter(
            Origin.of("control", EntryId(f"{number + 1}-0")), identity_digest(f"{number}") * 2,
            {"event": b"{", "reason": "malformed"},
        )
        for number in range(MOST_LETTERS)
    ]  # fmt: skip
    with counted(client) as commands:
        publisher.bury(letters, FIRST, max_in_a_row=len(letters) + 1, now="now")
    assert (commands["xadd"], commands["evalsha"]) == (len(letters), 1)
    assert commands.total() <= len(letters) * MOST_A_LETTER + MOST_A_RUN, commands


def test_a_look_up_in_the_index_is_one_command(publisher: Publisher, client: redis.Redis) -> None:
    """However many events are looked up: one script, and a read for each."""
    digests = [identity_digest(f"e{number}") for number in range(EVENTS)]
    publisher.seen(digests)
    with counted(client) as commands:
        publisher.seen(digests)
    assert commands == {"evalsha": 1, "hget": EVENTS}


def test_an_event_costs_the_relay_so_many_calls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event without an artifact takes the relay no more Python calls than it did.

    Beside other work runs are shorter, and a few calls more: of three tries one must do.
    """
    monkeypatch.setattr(harness, "silent_log", no_log)
    rig.lease_s = 600  # how often it is renewed is a matter of time
    tries = (calls_an_event(rig)[0] for _ in range(3))
    assert any(calls <= MOST_CALLS for calls in tries)


def calls_an_event(rig: Rig, **fields: str) -> tuple[float, float]:
    """Return what a drain of many makes, less that of few, for each event that it had more.

    Of all calls, and of the product's own.
    """
    rig.client.flushall()
    note_nothing_to_prune(rig.client, rig.keys)
    made = []
    for count in (EVENTS, EVENTS + 2000):
        for number in range(count):
            body = {"event_id": f"{count}:{number}", "type": "run.abort", "tenant_id": "t"}
            rig.add(json.dumps(body), **fields)
        with calls.counted_in_new_threads() as all_calls:
            rig.drain()
        made.append((all_calls.made, all_calls.ours))
    few, many = made
    return (many[0] - few[0]) / 2000, (many[1] - few[1]) / 2000


def test_traces_that_are_off_cost_no_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event with a traceparent takes as many calls as one without, and carries it."""
    monkeypatch.setattr(harness, "silent_log", no_log)
    rig.lease_s = 600  # how often it is renewed is a matter of time
    _, without = calls_an_event(rig)
    _, carried = calls_an_event(rig, traceparent=TRACEPARENT)
    assert carried - without < A_CALL, (carried, without)
    answer: Any = rig.client.xrevrange(rig.notify, count=1)
    ((_, last),) = answer
    assert last[b"traceparent"] == TRACEPARENT.encode()


def test_to_carry_an_artifact_costs_so_many_calls(tmp_path: Path) -> None:
    """From the source's record to the fleet's, and to the notification's JSON."""
    source, fleet = (store.open_url((tmp_path / name).as_uri()) for name in ("source", "fleet"))
    pipeline, made = Pipeline(source, fleet, Rules()), []
    for number in range(3):  # the directories are there when the last is carried
        data, ref = bytes([number]) * 4096, f"stacks/t/web/{number}"
        source.put(ref, data, b"manifest")
        event = {"event_id": ref, "type": "run.abort", "artifact_ref": ref}
        raw = json.dumps(event | {"checksum": checksum_of(data)}).encode()
        admitted = pipeline.admit({b"event": raw}, f"control/{number}-0")
        with calls.counted() as all_calls:
            pipeline.carry(admitted, (number, 0))
        made.append(all_calls.made)
    assert made[-1] <= MOST_CARRYING, made
