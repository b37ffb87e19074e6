"""`sidecar audit --since`: what was trimmed is judged by what the archive has of it."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

import store
from sidecar.history.archive import ArchiveHistory
from sidecar.history.live import LiveHistory
from sidecar.ops.evidence import PAGE, Evidence
from sidecar.ops.waiting import EntryRange
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.wire.ids import EntryId
from store import Capability, versioned
from tests.cli.harness import NOTIFICATIONS, STREAM, Cli, Ran

TENANTS = 2


def audit(sidecar: Cli, *args: str) -> tuple[Ran, list[tuple[str, str, str | None]], Any]:
    """Audit; return how it ended, whom it named, and the summary."""
    ran = sidecar("audit", "--json", *args)
    *culprits, summary = ran.objects()
    told = sorted((one["guarantee"], one["problem"], one["event_id"]) for one in culprits)
    return ran, told, summary["summary"]


def archive(sidecar: Cli) -> None:
    """Archive all there is."""
    ran = sidecar("archive")
    assert ran.code == 0, ran.err


def ids(sidecar: Cli, stream: str) -> list[str]:
    """Return the IDs of what is in a stream."""
    found: Any = sidecar.client.xrange(stream)
    return [entry_id.decode() for entry_id, _ in found]


@pytest.fixture
def relayed(sidecar: Cli) -> Cli:
    """Ten events of two tenants, the first two with artifacts, and one that is dead."""
    for n in range(2):
        sidecar.bring(f"e{n}", f"ref/{n}", b"data %d" % n, "--tenant", f"t{n % TENANTS}")
    for n in range(2, 10):
        sidecar.emit(f"e{n}", "--tenant", f"t{n % TENANTS}")
    sidecar.client.xadd(STREAM, {"event": "not JSON"})
    sidecar.work()
    return sidecar


def trim(sidecar: Cli) -> None:
    """Trim all but the last of each stream."""
    for stream in (STREAM, NOTIFICATIONS):
        sidecar.trim(stream, 1)


def test_what_was_archived_and_trimmed_is_judged(relayed: Cli) -> None:
    """With --since everything is there again; without it, what is in Redis is the window."""
    archive(relayed)
    trim(relayed)
    ran, told, summary = audit(relayed, "--since", "1h")
    assert (ran.code, told) == (0, []), ran.err
    assert (summary["entries"], summary["notifications"], summary["dead_letters"]) == (11, 10, 1)
    assert summary["expired"] == 0
    assert [one["trimmed"] for one in summary["covered"]] == [False]
    assert audit(relayed)[2]["entries"] == 1


def test_what_was_trimmed_before_it_was_archived_is_expired(relayed: Cli) -> None:
    """The archive invents nothing: its gap is a part of the window that is gone."""
    trim(relayed)
    archive(relayed)
    relayed.emit("later")
    relayed.work()
    ran, told, summary = audit(relayed, "--since", "1h")
    assert (ran.code, told) == (3, [])
    assert summary["entries"] == 2
    assert [one["trimmed"] for one in summary["covered"]] == [True]


def fourth(sidecar: Cli) -> tuple[str, dict[Any, Any]]:
    """Return the notification of `e4`: tenants have no order among each other."""
    found: Any = sidecar.client.xrange(NOTIFICATIONS)
    return next((at.decode(), fields) for at, fields in found if b'"e4"' in fields[b"event"])


def lose(sidecar: Cli) -> None:
    """Delete a notification: its entry ended as nothing."""
    sidecar.client.xdel(NOTIFICATIONS, fourth(sidecar)[0])


def publish_twice(sidecar: Cli) -> None:
    """Publish the event of a notification again."""
    sidecar.client.xadd(NOTIFICATIONS, fourth(sidecar)[1])


def swap(sidecar: Cli) -> None:
    """Let a tenant's notification come once more after its next."""
    at, fields = fourth(sidecar)
    sidecar.client.xdel(NOTIFICATIONS, at)
    sidecar.client.xadd(NOTIFICATIONS, fields)


def invent(sidecar: Cli) -> None:
    """Publish what has no entry."""
    event = {"event_id": "new", "type": "key.changed", "tenant_id": "other"}
    before, _, number = ids(sidecar, STREAM)[4].partition("-")
    sidecar.notification(event, "*", f"{STREAM}/{before}-{int(number) + 77}")


@pytest.mark.parametrize(
    ("harm", "problems"),
    [
        (lose, [("G3", "lost", "e4")]),
        (publish_twice, [("G2", "twice", "e4"), ("G3", "two_ends", "e4"),
                         ("G4", "out_of_order", "e4")]),
        (swap, [("G4", "out_of_order", "e4")]),
        (invent, [("G3", "no_entry", "new")]),
    ],
)  # fmt: skip
def test_damage_in_the_archive_is_named(
    relayed: Cli, harm: Callable[[Cli], None], problems: list[tuple[str, str, str]]
) -> None:
    """Harmed, archived and trimmed: the same culprits as if it all lay in Redis."""
    harm(relayed)
    archive(relayed)
    relayed.emit("last")
    relayed.work()
    trim(relayed)
    ran, told, _ = audit(relayed, "--since", "1h")
    assert (ran.code, told) == (1, problems)


def test_what_the_archive_has_stands(relayed: Cli) -> None:
    """A notification deleted once it was archived had been published all the same."""
    archive(relayed)
    lose(relayed)
    relayed.emit("last")
    relayed.work()
    trim(relayed)
    ran, told, _ = audit(relayed, "--since", "1h")
    assert (ran.code, told) == (0, []), ran.err


def test_without_a_notification_stream_what_was_published_is_found_all_the_same(
    relayed: Cli,
) -> None:
    """Deleted after it was archived: only what came after that is lost."""
    archive(relayed)
    relayed.client.delete(NOTIFICATIONS)
    group, later = f"sidecar:{NOTIFICATIONS}", relayed.emit("later")
    relayed.client.xreadgroup(group, "w", {STREAM: ">"})
    relayed.client.xack(STREAM, group, ids(relayed, STREAM)[-1])
    assert audit(relayed, "--since", "1h")[1] == [("G3", "lost", later["event_id"])]


def test_an_entry_from_the_future_has_its_end_long_before(sidecar: Cli) -> None:
    """A producer's ID proves no age: what looks lost is looked for in all of the archive."""
    sidecar.lay_out()
    ahead = int(time.time() * 1000) + 60 * 86400 * 1000
    for n in range(3):
        event = json.dumps({"event_id": f"e{n // 2}", "type": "key.changed"})
        sidecar.client.xadd(STREAM, {"event": event}, id=f"{ahead + n}-0")
    sidecar.work()
    archive(sidecar)
    for n in range(2):
        event = json.dumps({"event_id": f"later{n}", "type": "key.changed"})
        sidecar.client.xadd(STREAM, {"event": event}, id=f"{ahead + 9 + n}-0")
    sidecar.work()
    archive(sidecar)
    trim(sidecar)
    for key in sidecar.client.scan_iter("*:seen:*"):
        sidecar.client.delete(key)
    ran, told, summary = audit(sidecar, "--since", f"{ahead}-0")
    assert (told, summary["notifications"], summary["duplicates"]) == ([], 4, 1), ran.err


def test_what_was_published_twice_is_found_however_far_ahead_the_ids_are(sidecar: Cli) -> None:
    """Where entry IDs are no times, all archived notifications are read."""
    sidecar.lay_out()
    ahead = int(time.time() * 1000) + 60 * 86400 * 1000
    for n in range(2):
        event = json.dumps({"event_id": "e", "type": "key.changed"})
        sidecar.client.xadd(STREAM, {"event": event}, id=f"{ahead + n}-0")
        sidecar.work()
        for key in sidecar.client.scan_iter("*:seen:*"):
            sidecar.client.delete(key)
    archive(sidecar)
    trim(sidecar)
    assert ("G2", "twice", "e") in audit(sidecar, "--since", f"{ahead}-0")[1]


def test_what_redis_still_has_is_judged_by_redis(relayed: Cli) -> None:
    """A notification deleted where readers still look is lost, though the archive has it."""
    archive(relayed)
    lose(relayed)
    assert audit(relayed, "--since", "1h")[1] == [("G3", "lost", "e4")]


def test_artifacts_of_what_was_trimmed_may_be_gone(relayed: Cli) -> None:
    """Nothing pins them any more; one that a notification in Redis names is a culprit."""
    archive(relayed)
    fleet = relayed.directory / "data-dir" / "fleet"
    for path in [*(fleet / "refs" / "ref").glob("?@*")]:
        path.unlink()
    gone = [("G1", "artifact", f"e{n}") for n in range(2)]
    assert audit(relayed, "--since", "1h")[1] == gone
    trim(relayed)
    _, told, summary = audit(relayed, "--since", "1h")
    assert (told, summary["artifacts"]) == ([], 0)


def test_a_lost_entry_is_repaired_from_the_archive(relayed: Cli) -> None:
    """Its bytes lie there alone; after the repair and the worker the audit is clean."""
    lose(relayed)
    archive(relayed)
    relayed.emit("last")
    relayed.work()
    relayed.trim(STREAM, 1)
    ran = relayed("audit", "--since", "1h", "--repair", "--reason", "why", "--force")
    assert (ran.code, "fixed" in ran.out) == (0, True), ran.out + ran.err
    relayed.work()
    assert audit(relayed, "--since", "1h")[1] == []


def test_a_repair_does_not_say_fixed_of_what_no_worker_publishes(relayed: Cli) -> None:
    """What was lost where notifications were trimmed since remains, and it says what to do."""
    lose(relayed)
    archive(relayed)
    relayed.emit("last")
    relayed.work()
    trim(relayed)
    ran = relayed("audit", "--since", "1h", "--repair", "--reason", "why", "--force")
    assert (ran.code, "another event_id" in ran.out) == (1, True), ran.out + ran.err
    assert relayed.client.xlen(STREAM) == 1


def append(sidecar: Cli, count: int) -> None:
    """Append so many entries."""
    for n in range(count):
        sidecar.client.xadd(STREAM, {"n": n})


def test_what_is_trimmed_while_it_is_read_is_read_once(sidecar: Cli) -> None:
    """Whatever trimming takes between two pages comes from the archive, in order."""
    fleet = versioned(
        store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri()), Capability.STREAM
    )
    assert fleet
    append(sidecar, PAGE // 2)
    archive(sidecar)
    keys = Keys.of(STREAM, NOTIFICATIONS)
    side = Side(sidecar.client, sidecar.url)
    kept = ArchiveHistory(fleet, LiveHistory(side, side, [keys]).streams)
    assert kept.reach(STREAM)
    append(sidecar, 5 * PAGE)
    archive(sidecar)
    every = ids(sidecar, STREAM)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        evidence = Evidence(side, side, [keys], EntryRange(EntryId("1-0")), db, kept)
        evidence.waiting.read()
        pages = evidence.entries(STREAM)
        read = [entry.id for entry in next(pages)]
        sidecar.trim(STREAM, PAGE + 10)
        read += [entry.id for entry in next(pages)]
        sidecar.trim(STREAM, 3)
        read += [entry.id for page in pages for entry in page]
    assert read == every


@pytest.fixture
def neighbour(relayed: Cli) -> Iterator[Cli]:
    """Another fleet that publishes into the same store, from another database: the stream's name
    is the same, as it is by default.
    """
    url = f"{relayed.url.removesuffix('/0')}/1"
    with redis.Redis.from_url(url, protocol=2) as client:
        yield Cli(url, relayed.directory, client)


def test_an_archive_is_of_one_log(relayed: Cli, neighbour: Cli) -> None:
    """Of two fleets in one store the second keeps none, nor reads what the first one keeps."""
    assert relayed("archive").code == 0
    before = relayed("store", "ls", ".sidecar/archive").out
    neighbour.emit("of-the-neighbour")
    neighbour.work()
    refused = neighbour("archive")
    assert (refused.code, "another --notify-stream" in refused.err) == (1, True), refused.err
    assert relayed("store", "ls", ".sidecar/archive").out == before
    for told in (neighbour("replay", "show", "--json"), neighbour("trace", "of-the-neighbour")):
        assert "it is not read" in told.err
        assert told.code == 0
    shown = neighbour("replay", "show", "--since", "1h", "--json").objects()
    assert {one["event_id"] for one in shown if one.get("event_id")} == {"of-the-neighbour"}
    assert relayed("archive").code == 0


def test_a_log_that_lost_its_memory_keeps_its_archive(relayed: Cli) -> None:
    """It has another id then, at the same address."""
    assert relayed("archive").code == 0
    relayed.client.flushdb()
    relayed.emit("after")
    relayed.work()
    assert relayed("archive").code == 0
    assert "it is not read" not in relayed("replay", "show", "--since", "1h").err


def test_a_loopback_address_is_one_of_its_host(
    relayed: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts with a Redis of their own each, at one address, and one store: two logs."""
    assert relayed("archive").code == 0
    relayed.client.flushdb()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    relayed.emit("after")
    relayed.work()
    refused = relayed("archive")
    assert refused.code == 1
    assert "--forget" in refused.err
