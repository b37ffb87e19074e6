"""`sidecar stream remake`: a stream that a producer left without room for IDs, made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
import redis

from sidecar.ops import remake
from sidecar.redis.keys import Keys
from sidecar.redis.lease import Lease
from sidecar.redis.remade import Copy
from tests.cli.harness import NOTIFICATIONS, STREAM, Cli

pytestmark = pytest.mark.server

HIGHEST: Final = f"{2**64 - 1}-{2**64 - 1}"
KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
REMAKE: Final = ("stream", "remake", STREAM, "--reason", "the highest ID is taken")


def _add(sidecar: Cli, event_id: str, entry_id: str = "*") -> None:
    event = json.dumps({"event_id": event_id, "type": "run.abort", "tenant_id": "t"})
    sidecar.client.xadd(STREAM, {"event": event, "traceparent": event_id}, id=entry_id)


@pytest.fixture
def bricked(sidecar: Cli) -> Cli:
    """A stream with two entries finished, two pending, two unread, the last with the highest ID."""
    for event_id in ("done-1", "done-2"):
        _add(sidecar, event_id)
    sidecar.client.xadd(STREAM, {"event": "no JSON"})
    sidecar.drain()
    for event_id in ("pending-1", "pending-2"):
        _add(sidecar, event_id)
    sidecar.client.xreadgroup(KEYS.group, "worker", {STREAM: ">"})
    _add(sidecar, "unread-1")
    _add(sidecar, "unread-2", HIGHEST)
    with pytest.raises(redis.ResponseError):
        _add(sidecar, "refused")
    return sidecar


def _published(sidecar: Cli) -> list[str]:
    entries = sidecar.entries(NOTIFICATIONS)
    return [json.loads(entry["event"])["event_id"] for entry in entries]


def _remade(sidecar: Cli) -> list[dict[str, str]]:
    """Return the records of streams made anew."""
    return [one for one in sidecar.entries(KEYS.tenures) if one["what"] == "remade"]


EVERYTHING: Final = [
    "done-1", "done-2", "pending-1", "pending-2", "unread-1", "unread-2", "new",
]  # fmt: skip


def _goes_on(sidecar: Cli) -> None:
    """Everything is published once, in order, what comes now as well, and nothing dies."""
    _add(sidecar, "new")
    sidecar.drain()
    assert _published(sidecar) == EVERYTHING
    assert len(sidecar.entries(KEYS.dead)) == 1
    assert sidecar("audit").code in (0, 3), sidecar("audit").out


def test_a_bricked_stream_goes_on(bricked: Cli) -> None:
    """All that was unfinished is in the new stream, in order; the old one is kept aside."""
    ran = bricked(*REMAKE, "--json")
    assert ran.code == 0, ran.err
    told = ran.object()
    assert told["copied"] == 4
    assert bricked.client.xlen(told["aside"]) == 7
    assert [one["traceparent"] for one in bricked.entries(STREAM)] == EVERYTHING[2:6]
    _goes_on(bricked)


def test_it_is_on_record_who_made_it_anew_and_what_was_lost(bricked: Cli) -> None:
    """A pending entry that somebody had deleted gets no dead letter: it is named, here and in the
    archive's and a bundle's record.
    """
    pending: Any = bricked.client.xpending_range(STREAM, KEYS.group, "-", "+", 1)
    (lost,) = (one["message_id"].decode() for one in pending)
    bricked.client.xdel(STREAM, lost)
    ran = bricked(*REMAKE)
    assert (ran.code, lost in ran.out) == (0, True)
    (record,) = _remade(bricked)
    assert "@" in record.pop("by")
    assert bricked.client.exists(record.pop("aside")) == 1
    assert record == {
        "what": "remade", "stream": STREAM, "copied": "3", "lost_entries": "1", "entries": lost,
        "reason": "the highest ID is taken",
    }  # fmt: skip
    bundle = bricked.directory / "bundle"
    assert bricked("replay", "export", bundle, "--since", "1h").code in (0, 3)
    assert any(lost in path.read_text() for path in bundle.rglob("*.jsonl"))


def test_without_a_reason_nothing_is_made_anew(bricked: Cli) -> None:
    """It is on record, so it has to be said."""
    for reason in ((), ("--reason", " ")):
        ran = bricked("stream", "remake", STREAM, *reason)
        assert (ran.code, "--reason" in ran.err) == (2, True)
    assert not _remade(bricked)


class Killed(BaseException):
    """The command is killed there."""


def _after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Callable[[], None]:
    whole = getattr(owner, name)

    def until(self: Any, *args: Any, **more: Any) -> Any:
        whole(self, *args, **more)
        raise Killed

    monkeypatch.setattr(owner, name, until)
    return lambda: monkeypatch.setattr(owner, name, whole)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Lease, "acquire"), (Copy, "begin"), (Copy, "append"), (Copy, "take_over"), (Lease, "renew")],
)
@pytest.mark.parametrize("again", [False, True])
def test_killed_anywhere_it_loses_nothing(
    bricked: Cli, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, again: bool
) -> None:
    """It may be run again; and where the new stream has its place already, a worker goes on."""
    alive = _after(monkeypatch, owner, name)
    monkeypatch.setattr(Lease, "release", lambda *_: None)  # it was killed, not stopped
    with pytest.raises(Killed):
        bricked(*REMAKE)
    alive()
    monkeypatch.undo()
    bricked.client.delete(KEYS.lease)  # as when it has run out
    if again or name != "take_over":
        assert bricked(*REMAKE).code == 0
    _goes_on(bricked)


def test_while_a_worker_works_it_is_refused(bricked: Cli) -> None:
    """A lease that runs is a worker's: nothing is changed."""
    worker = Lease(bricked.client, KEYS, lease_s=60)
    worker.acquire()
    before = bricked.client.dump(STREAM)
    ran = bricked(*REMAKE)
    assert (ran.code, "stop all workers" in ran.err) == (1, True)
    assert bricked.client.dump(STREAM) == before


def test_a_worker_that_takes_over_meanwhile_ends_it(
    bricked: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up, and leaves the stream as it was."""
    append = Copy.append

    def slow(self: Copy, entries: Any) -> None:
        append(self, entries)
        bricked.client.delete(KEYS.lease)
        Lease(bricked.client, KEYS, lease_s=60).acquire()

    monkeypatch.setattr(Copy, "append", slow)
    before = bricked.client.dump(STREAM)
    ran = bricked(*REMAKE)
    assert (ran.code, "took" in ran.err) == (1, True)
    assert bricked.client.dump(STREAM) == before


def test_what_comes_while_it_copies_is_copied(
    sidecar: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that still can append loses nothing."""
    sidecar.drain()
    for number in range(5):
        _add(sidecar, f"e{number}")
    take_over = Copy.take_over

    def late(self: Copy, last: Any) -> Any:
        if sidecar.client.xlen(STREAM) < 7:
            _add(sidecar, f"late-{sidecar.client.xlen(STREAM)}")
        return take_over(self, last)

    monkeypatch.setattr(Copy, "take_over", late)
    monkeypatch.setattr(remake, "PAGE", 2)
    assert sidecar(*REMAKE, "--json").object()["copied"] == 7
    sidecar.drain()
    assert _published(sidecar) == ["e0", "e1", "e2", "e3", "e4", "late-5", "late-6"]


def test_anothers_group_is_not_lost(bricked: Cli) -> None:
    """Who else reads the stream through a group is named, and nothing is done."""
    bricked.client.xgroup_create(STREAM, "analysis", "0-0")
    ran = bricked(*REMAKE)
    assert (ran.code, "analysis" in ran.err) == (2, True)
    assert bricked.client.exists(KEYS.lease) == 0


def test_no_such_stream(sidecar: Cli) -> None:
    """A name that is none is exit 2."""
    assert sidecar("stream", "remake", "nope", "--reason", "r").code == 2


def test_a_letter_of_the_old_stream_is_not_redriven_behind_what_came_since(sidecar: Cli) -> None:
    """Its entry has the highest ID, and yet what came on the new stream came after it."""
    about = {"type": "run.abort", "tenant_id": "t", "stack_id": "s"}
    missing = {"artifact_ref": "stacks/s", "checksum": f"sha256:{'0' * 64}"}
    sidecar.client.xadd(STREAM, {"event": json.dumps({"event_id": "old", **about, **missing})},
                        id=HIGHEST)  # fmt: skip
    sidecar.work()
    assert sidecar(*REMAKE).code == 0
    sidecar.client.xadd(STREAM, {"event": json.dumps({"event_id": "new", **about})})
    sidecar.work()
    ran = sidecar("dead", "redrive", "--all", "--force", "--dry-run", "--reason", "x", "--json")
    assert "new overtook it" in ran.object()["detail"]
    assert sidecar("dead", "redrive", "--all", "--reason", "x").code == 3


def test_of_a_batch_it_is_not_redriven_behind_a_newer_one(sidecar: Cli) -> None:
    """The IDs of two streams give no order: what is redriven first counts as newer."""
    about = {"type": "run.abort", "tenant_id": "t", "stack_id": "s"}
    sidecar.drain()
    for event_id, at in (("old", HIGHEST), ("new", "1-0")):
        sidecar.letter({"event_id": event_id, **about}, at)
    ran = sidecar("dead", "redrive", "--all", "--force", "--reason", "x", "--json")
    told = {one["event_id"]: one["detail"] for one in ran.objects()}
    assert (told["new"], "new overtakes it" in told["old"]) == ("", True)


def test_the_highest_id_ends_the_archive_and_what_is_read_of_it(bricked: Cli) -> None:
    """It is archived once and read once; the stream made anew is archived from its beginning."""
    bricked.drain()
    archive = ("archive", "--json")
    rows = sum(one["rows"] for one in bricked(*archive).objects())
    assert rows == 18  # with two tenures, and their ends
    assert bricked(*archive).objects() == []
    bricked.client.xtrim(STREAM, maxlen=0)
    assert bricked("trace", "unread-2").code == 0
    assert bricked(*REMAKE).code == 0
    _goes_on(bricked)
    bricked(*archive)
    bricked.client.xtrim(STREAM, maxlen=0)
    for event_id in ("unread-2", "new"):
        assert f" {STREAM}/" in bricked("trace", event_id).out
