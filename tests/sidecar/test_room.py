"""A stream that was given the highest ID takes no more: that is told, and how it is set right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from sidecar.feed import Feed
from sidecar.ops.status import collect
from sidecar.redis.client import Side
from sidecar.redis.keys import streams_of
from sidecar.redis.retention import KINDS, Policy, Retention
from sidecar.redis.room import NoRoom
from sidecar.wire.ids import HIGHEST, LAST
from sidecar.worker.supervision import Supervisor
from tests.sidecar.harness import Rig, eventually, last_said

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.server
NO_VERSION_FOLLOWS = "9007199254740-991"
FAR = ["XADD", "XSETID"]


def stream_of(rig: Rig, kind: str) -> str:
    """Return the name of a stream."""
    return dict(zip(KINDS, streams_of(rig.keys), strict=True))[kind]


def give(rig: Rig, stream: str, how: str, entry_id: str) -> str:
    """Have somebody give an ID by hand; return the highest before."""
    info: Any = rig.client.xinfo_stream(stream)
    before = str(info["last-generated-id"].decode())
    if how == "XADD":
        body = json.dumps({"event_id": "far", "type": "run.abort", "tenant_id": "t"})
        rig.client.xadd(stream, {"event": body, "origin": "hand/1-1"}, id=entry_id)
    else:
        rig.client.execute_command("XSETID", stream, entry_id)  # type: ignore[no-untyped-call]
    return before


def set_right(rig: Rig, stream: str, before: str) -> None:
    """Do what docs/operating.md says."""
    page = (ROOT / "docs" / "operating.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"URL": rig.url, "STREAM": stream, "HIGHEST_RIGHT": before}
    exec(compile(recipe, "docs/operating.md", "exec"), names)


def told(rig: Rig) -> list[str]:
    """Return what `status` calls damaged."""
    side = Side(rig.client, rig.url)
    return collect(side, side, [rig.keys]).damaged


@pytest.fixture
def filled(rig: Rig) -> Rig:
    """A rig with something in each stream."""
    for name in "ab":
        rig.emit(name)
    rig.add("no JSON")
    rig.drain()
    return rig


@pytest.mark.parametrize("how", FAR)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_until_it_is_set_right(filled: Rig, kind: str, how: str) -> None:
    """By status with the fix, and by the worker: once in the log, in a metric, in health."""
    rig, stream = filled, stream_of(filled, kind)
    assert told(rig) == []
    before = give(rig, stream, how, LAST)
    (line,) = told(rig)
    assert f"the stream {stream} was given the ID" in line
    assert ("sidecar stream remake" in line) == (kind == "control")
    policies = dict.fromkeys(KINDS, Policy())
    retention = Retention(rig.client, rig.client, rig.keys, policies, dedup_window_s=60)
    with pytest.raises(NoRoom, match=LAST):
        retention.check_room(kind)
    set_right(rig, stream, before)
    assert told(rig) == []
    retention.check_room(kind)


@pytest.mark.parametrize("how", FAR)
def test_nothing_is_published_above_the_highest_version(filled: Rig, how: str) -> None:
    """The worker waits, says where to look, and continues when the stream is set right."""
    rig = filled
    before = give(rig, rig.notify, how, NO_VERSION_FOLLOWS)
    rig.emit("c")
    with rig.relay() as run:
        eventually(lambda: last_said(run, "no control_version can follow"))
        assert last_said(run, "`sidecar status` names the fix")
        assert rig.notify in told(rig)[0]
        set_right(rig, rig.notify, before)
        eventually(lambda: rig.published() == ["a", "b", "c"])
    with Feed(rig.url, notify_stream=rig.notify) as feed:
        assert [one.event_id for one in feed.poll(0)] == ["a", "b", "c"]
    rig.audit()


@pytest.mark.parametrize("how", FAR)
def test_a_producer_continues_when_the_control_stream_is_set_right(filled: Rig, how: str) -> None:
    """Nothing is lost or published twice, though a worker has read the entry with that ID."""
    rig = filled
    before = give(rig, rig.control, how, LAST)
    rig.drain()
    with pytest.raises(redis.ResponseError):
        rig.emit("c")
    set_right(rig, rig.control, before)
    rig.emit("c")
    rig.drain()
    far = ["far"] if how == "XADD" else []
    assert rig.published() == ["a", "b", *far, "c"]
    assert rig.reasons() == ["malformed"]


@pytest.mark.parametrize("how", FAR)
def test_a_dead_letter_is_written_when_its_stream_is_set_right(filled: Rig, how: str) -> None:
    """Until then nothing is acknowledged."""
    rig = filled
    before = give(rig, rig.keys.dead, how, LAST)
    rig.add("no JSON either")
    with rig.relay() as run:
        eventually(lambda: last_said(run, "`sidecar status` names the fix"))
        assert rig.pending() == 1
        set_right(rig, rig.keys.dead, before)
        eventually(lambda: rig.pending() == 0)
    assert rig.reasons() == ["malformed", "malformed"]


@pytest.mark.parametrize("entry_id", [f"{HIGHEST}-0", "9007199254740-990", "1-1", "5-1000"])
def test_what_leaves_room_for_versions_is_published_into(rig: Rig, entry_id: str) -> None:
    """Only where none can follow is nothing published: the last one there is, is."""
    body = json.dumps({"event_id": "by hand", "type": "run.abort"})
    rig.client.xadd(rig.notify, {"event": body, "origin": "hand/1-1"}, id=entry_id)
    rig.emit("a")
    has_room = entry_id != f"{HIGHEST}-0"
    assert bool(told(rig)) != has_room
    if has_room:
        rig.drain()
        assert rig.published() == ["by hand", "a"]


def test_the_log_has_it_once_as_an_error(filled: Rig) -> None:
    """However often it is looked at."""
    rig, lines = filled, list[str]()
    give(rig, rig.control, "XSETID", LAST)

    class Observer:
        failing = 0

        def background_failed(self, work: str, error: Exception) -> None:
            """Take no notice."""

        def background_failing(self, work: str, count: int) -> None:
            """Keep it."""
            assert work == "room"
            self.failing = count

    def keep(_: Any, level: str, line: Any) -> str:
        lines.append(level)
        return str(line)

    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[keep])
    clock = iter(range(0, 10_000, 100))
    observer = Observer()
    supervisor = Supervisor(observer, log, clock=lambda: next(clock))
    policies = dict.fromkeys(KINDS, Policy())
    retention = Retention(rig.client, rig.client, rig.keys, policies, dedup_window_s=60)
    for _ in range(3):
        supervisor.attempt("room", rig.control, lambda: retention.check_room("control"))
    assert (lines, observer.failing) == (["error"], 1)
