"""A Redis at its maxmemory: whoever works there keeps working on what needs no memory."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.redis import archived, halts
from sidecar.redis.members import Members, registered_workers
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Buried, Letter, Outbound, Outcome, Publisher
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.scripts import noting
from sidecar.redis.source import ControlStream, Entry
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.worker import housekeeping, relay
from sidecar.worker.settings import build, file_url
from tests import servers
from tests.cli.harness import Cli
from tests.sidecar.harness import (
    CONTROL,
    Rig,
    at_work,
    data_of,
    eventually,
    ref_of,
    trim_once,
)

PADDING: Final = "x" * 6_000
MIB: Final = 1 << 20


@pytest.fixture
def rig(redis_url: str, client: redis.Redis) -> Iterator[Rig]:
    """A real, empty server, which has memory again at the end."""
    yield Rig(redis_url, client)
    client.config_set("maxmemory", 0)


def _publisher(rig: Rig) -> Publisher:
    return Publisher(rig.client, rig.keys, lease_s=60, dedup_window_s=3600)


def _event(event_id: str, *, known: bool = False) -> Outbound:
    json_ = b"" if known else b'{"control_version":'
    identity = identity_digest(event_id) + identity_digest("content")
    return Outbound(identity, json_, Origin(f"{CONTROL}/{event_id}"), b"")


def _letter(entry_id: str) -> Letter:
    return Letter(Origin(f"{CONTROL}/{entry_id}"), b"", {"event": b"{", "reason": "malformed"})


def test_status_says_that_it_is_full(rig: Rig, tmp_path: Path) -> None:
    """With the fix, as long as it is; of one server once."""
    sidecar = Cli(rig.url, tmp_path, rig.client)
    (memory,) = sidecar("status", "--json").object()["memory"]
    assert (memory["max_bytes"], memory["full"]) == (0, False)
    assert memory["used_bytes"] > 0
    assert "FULL" not in sidecar("status").out
    rig.client.config_set("maxmemory", 1)
    (memory,) = sidecar("status", "--json").object()["memory"]
    assert (memory["max_bytes"], memory["full"]) == (1, True)
    told = " ".join(sidecar("status").out.split())
    assert "REDIS IS FULL" in told
    assert "raise maxmemory" in told


def test_the_lease_is_taken_kept_and_given_back(rig: Rig) -> None:
    """On a full server a worker becomes the owner, keeps the lease, and is told of the memory."""
    one, two = _publisher(rig), _publisher(rig)
    rig.client.config_set("maxmemory", 1)
    assert one.acquire() == 0
    assert not one.has_room()
    rig.client.pexpire(rig.keys.lease, 50_000)
    assert one.renew() == ""
    kept: Any = rig.client.pttl(rig.keys.lease)
    assert kept > 50_000
    assert two.acquire() is None
    one.release()
    assert two.acquire() is not None
    rig.client.config_set("maxmemory", 0)
    assert two.has_room()


def test_what_is_finished_is_trimmed(rig: Rig) -> None:
    """On a full server streams are trimmed, and how far is noted; workers tell of themselves."""
    for n in range(1, 6):
        rig.client.xadd(rig.control, {"event": "{"}, id=f"{n}-0")
    rig.client.xgroup_create(rig.control, rig.keys.group, "5-0")
    rig.client.set(rig.keys.low, "5-1")
    noting(rig.client)(keys=[rig.keys.archived], args=[rig.notify, "1-0"])
    rig.client.config_set("maxmemory", 1)

    policies = {"control": Policy(None, 0), "notifications": Policy(), "dead": Policy()}
    retention = Retention(rig.client, rig.client, rig.keys, policies, dedup_window_s=60)
    assert trim_once(retention)[0].removed == 5
    assert rig.client.hget(rig.keys.trimmed, rig.control) == b"5-0"
    members = Members(rig.client, rig.keys, name="me", serves=[CONTROL], lease_s=60)
    assert members.beat([CONTROL]) == members.beat([CONTROL]) == []
    assert [one.name for one in registered_workers(rig.client, rig.keys)] == ["me"]
    noting(rig.client)(keys=[rig.keys.archived], args=[rig.notify, "2-0"])
    assert rig.client.hget(rig.keys.archived, rig.notify) == b"2-0"
    Pruning(rig.client, rig.keys, dedup_window_s=60).prune()
    assert rig.client.exists(rig.keys.pruned)


def test_the_archive_is_claimed_and_noted(rig: Rig) -> None:
    """On a full server a stream is archived, as what is not archived is not trimmed."""
    rig.client.xadd(rig.control, {"event": "{"}, id="5-0")
    rig.client.config_set("maxmemory", 1)
    one, two = (archived.Claim(rig.client, rig.keys, rig.control) for _ in range(2))
    assert one.hold()
    assert one.hold()
    assert not two.hold()
    assert not archived.is_due(rig.client, rig.keys, rig.control, 60.0)
    archived.note_archived(
        rig.client, rig.client, rig.keys, rig.control, Entry(EntryId("5-0"), {b"event": b"{"})
    )
    assert archived.archived_to(rig.client, rig.client, rig.keys, rig.control) == "5-0"
    one.release()
    assert two.hold()


def test_what_was_published_or_buried_is_told(rig: Rig) -> None:
    """On a full server repeats are found, so they can be acknowledged; what is new is refused."""
    one = _publisher(rig)
    one.acquire()
    one.publish([_event("a"), _event("b")], EntryId("1-0"))
    one.bury([_letter("1-0")], EntryId("2-0"), max_in_a_row=0, now="now")
    rig.client.config_set("maxmemory", 1)

    verdicts = one.publish([_event("a"), _event("b", known=True)], EntryId("3-0"))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DUPLICATE] * 2
    assert one.lowest_unfinished() == "3-0"
    verdicts = one.publish([_event("a"), _event("new"), _event("b")], EntryId("9-0"))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DUPLICATE]
    assert one.lowest_unfinished() == "3-0"
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        one.publish([_event("new"), _event("a")], EntryId("9-0"))
    assert one.bury([_letter("1-0")], EntryId("4-0"), max_in_a_row=0, now="now") == [Buried.ALREADY]
    again = [replace(_letter(entry_id), begins_row=True) for entry_id in ("1-0", "2-0")]
    assert one.bury(again, EntryId("5-0"), max_in_a_row=0, now="now") == [Buried.ALREADY]
    assert one.lowest_unfinished() == "2-0"
    for letter in (_letter("2-0"), again[1]):
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            one.bury([letter], EntryId("9-0"), max_in_a_row=0, now="now")
    assert one.lowest_unfinished() == "2-0"
    assert rig.client.xlen(rig.notify) == 2
    assert rig.client.xlen(rig.keys.dead) == 1


def test_a_stream_is_halted_and_resumed(rig: Rig) -> None:
    """On a full server an operator halts a stream and resumes it, both on record."""
    rig.client.config_set("maxmemory", 1)
    note = {"by": "me", "now": "2026-01-01T00:00:00Z"}
    assert halts.pause(rig.client, rig.keys, reason="full", **note).changed
    assert halts.in_force(rig.client, rig.keys) == ("full", note["now"], "me")
    assert halts.resume(rig.client, rig.keys, reason="trimmed", **note).changed
    assert rig.client.xlen(rig.keys.halts) == 2


def test_a_group_that_is_there_is_found(rig: Rig) -> None:
    """On a full server a worker that starts finds its group, though it could not make one."""
    with redis.Redis.from_url(rig.url, protocol=2) as blocking:
        control = ControlStream(rig.client, blocking, rig.keys)
        rig.client.xadd(rig.control, {"event": "{"})
        rig.client.config_set("maxmemory", 1)
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            control.create_group(FIRST)
        rig.client.config_set("maxmemory", 0)
        assert control.create_group(FIRST)
        rig.client.config_set("maxmemory", 1)
        assert not control.create_group(FIRST)


def _one_by_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> tuple[EntryId, EntryId]:
    """Leave two entries pending, with finished ones behind each; return the IDs of the second
    and of what comes next. Whoever reads back reads them one by one.
    """
    rig.emit_artifact("first", put=False)
    for n in range(3):
        rig.emit(f"done {n}", tenant="other")
    second = rig.emit_artifact("second", put=False)
    last = rig.emit("last", tenant="other")
    with rig.relay(retry_budget_s=60):
        eventually(lambda: len(rig.published()) == 4)
        eventually(lambda: rig.pending() == 2)
    monkeypatch.setattr(relay, "BATCH", 1)
    monkeypatch.setattr(relay, "WINDOW", 1)
    rig.plant(ref_of("first"), data_of("first"))
    rig.plant(ref_of("second"), data_of("second"))
    return EntryId(second), EntryId(last).after


def test_the_lowest_unfinished_entry_is_noted_before_the_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished below a refused run is trimmed, also where a predecessor finished it."""
    second, _ = _one_by_one(rig, monkeypatch)

    def full(ref: str) -> None:
        if ref == ref_of("second"):
            rig.client.config_set("maxmemory", 1)

    rig.fleet.on_put = full
    with rig.relay() as run:
        eventually(lambda: run.observer.state_now == "waiting")
        assert rig.published()[-1] == "first"
        assert rig.client.get(rig.keys.low) == second.encode()
        rig.fleet.on_put = lambda _: None
        rig.client.config_set("maxmemory", 0)
        eventually(lambda: rig.published()[-1] == "second")
    rig.audit()


def test_an_idle_stream_is_noted_to_be_finished(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all is finished the lowest unfinished entry is what comes next: no event has to come."""
    _, next_id = _one_by_one(rig, monkeypatch)
    with rig.relay():
        eventually(lambda: rig.pending() == 0)
        eventually(lambda: rig.client.get(rig.keys.low) == next_id.encode())


# --- a whole worker ------------------------------------------------------------------------------


@contextmanager
def _worker(rig: Rig, directory: Path, **options: Any) -> Iterator[int]:
    """Run a worker; yields the port of its health."""
    port = servers.free_port()
    stores = {
        "source_store": file_url(directory / "source"),
        "fleet_store": file_url(directory / "fleet"),
    }
    settings = build(redis=rig.url, lease_s=1, http=f"127.0.0.1:{port}", **stores, **options)
    with at_work(settings):
        yield port


def _get(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def _state(port: int) -> tuple[str, str]:
    try:
        found = json.loads(_get(port, "/readyz"))[CONTROL]
    except OSError:
        return "", ""
    return found["state"], found["detail"]


def _says(port: int, *words: str) -> bool:
    said = " ".join(_state(port))
    return all(one in said for one in words)


def _refused(rig: Rig) -> bool:
    try:
        rig.add("{")
    except redis.ResponseError as error:
        return "maxmemory" in str(error)
    return False


def _fill(rig: Rig, directory: Path, count: int) -> None:
    """Have a worker that trims nothing finish `count` large entries."""
    for n in range(count):
        rig.emit(f"filler {n}", padding=PADDING)
    with _worker(rig, directory, trim_control="never", trim_notifications="never"):
        eventually(lambda: rig.client.xlen(rig.notify) == count)
        eventually(lambda: rig.pending() == 0)


def _used(rig: Rig) -> int:
    return int(rig.client.info("memory")["used_memory"])


def test_a_full_server_is_trimmed_and_goes_on(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a full server trims what is finished; then producers and relay continue."""
    monkeypatch.setattr(housekeeping, "TRIM_EVERY_S", 0.0)
    _fill(rig, tmp_path, 500)
    rig.emit("waiting")
    rig.client.config_set("maxmemory", _used(rig) - MIB)
    assert _refused(rig)

    with _worker(rig, tmp_path, trim_control="length=10", trim_notifications="never"):
        eventually(lambda: "waiting" in rig.published())
        rig.emit("after")
        eventually(lambda: "after" in rig.published())

    assert rig.client.hexists(rig.keys.trimmed, rig.control)
    rig.audit()


def test_a_server_that_stays_full_is_told(rig: Rig, tmp_path: Path) -> None:
    """While trimming may take nothing the worker says what to do, keeps the lease, and waits."""
    with _worker(rig, tmp_path) as port:
        eventually(lambda: _state(port)[0] == "active")
        fence = rig.client.get(rig.keys.fence)
        pipeline = rig.client.pipeline()  # at once: the worker cannot come between
        pipeline.xadd(CONTROL, {"event": '{"event_id":"e","type":"run.abort"}'})
        pipeline.config_set("maxmemory", 1)
        pipeline.execute()

        told = ("waiting Redis is full: ", "raise maxmemory", "--trim-control")
        eventually(lambda: _says(port, *told))
        assert b'sidecar_redis_full{stream="control:events"} 1.0' in _get(port, "/metrics")
        # Three times longer than the lease lasts.
        rig.client.pexpire(rig.keys.lease, 1)
        for _ in range(3):
            eventually(lambda: rig.client.pttl(rig.keys.lease) > 0)
            rig.client.delete(rig.keys.lease)
        assert rig.client.get(rig.keys.fence) == fence
        assert rig.published() == []

        rig.client.config_set("maxmemory", 0)
        eventually(lambda: rig.published() == ["e"])
        eventually(lambda: _state(port)[0] == "active")
        over = b'sidecar_redis_full{stream="control:events"} 0.0'
        eventually(lambda: over in _get(port, "/metrics"))
