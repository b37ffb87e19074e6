"""`sidecar wait` and `emit --wait`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.redis.client import connect
from sidecar.redis.readers import passed
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import EntryId
from tests.cli.harness import KEYS, NOTIFICATIONS, STREAM, Cli


def wait(sidecar: Cli, *words: str) -> tuple[int, dict[str, Any]]:
    """Only look; return the exit code, and what is told."""
    ran = sidecar("wait", *words, "--timeout", "0", "--json")
    return ran.code, ran.object()


def forget(sidecar: Cli, event_id: str) -> None:
    """Have the index forget an event, as it does after its window."""
    digest = identity_digest(event_id)
    assert sidecar.client.hdel(KEYS.seen(digest), digest[2:])


def test_each_end_has_its_exit_code(sidecar: Cli) -> None:
    """0 published, 1 dead with reason and fix, 3 while it waits, and what for."""
    sidecar.emit("e", "--tenant", "t", "--stack", "web", "--version", "7")
    code, found = wait(sidecar, "e")
    assert (code, found["state"]) == (3, "waiting")
    assert "no worker serves" in found["waits_for"]
    sidecar.client.xadd(STREAM, {"event": json.dumps({"event_id": "x", "type": "nope"})})
    sidecar.work()
    code, found = wait(sidecar, "e")
    ((at, _),) = sidecar.notifications()
    published = {"state": "published", "event_id": "e"}
    assert code == 0
    assert found == {**published, "control_version": EntryId(at).control_version}
    assert wait(sidecar, "t/web@7") == (code, found)
    assert wait(sidecar, "t/web@8")[0] == 3
    code, found = wait(sidecar, "x")
    assert (code, found["reason"]) == (1, "unknown_type")
    ran = sidecar("wait", "x")
    assert ran.code == 1
    assert "fix: " in ran.out


def test_a_name_of_a_stacks_form_may_be_an_event(sidecar: Cli) -> None:
    """--as event says so; and --as stack wants that form."""
    sidecar.emit("t/web@7")
    sidecar.work()
    assert wait(sidecar, "t/web@7")[0] == 3
    assert wait(sidecar, "t/web@7", "--as", "event")[0] == 0
    assert sidecar("wait", "e", "--as", "stack").code == 2
    assert sidecar("wait", "e", "--as", "thing").code == 2


def test_what_the_index_has_forgotten_is_found_in_the_streams(sidecar: Cli) -> None:
    """So is an event that was published before the window."""
    sidecar.emit("e")
    sidecar.work()
    forget(sidecar, "e")
    assert wait(sidecar, "e")[0] == 0


def test_what_was_trimmed_is_found_in_the_archive(sidecar: Cli) -> None:
    """As `trace` finds it."""
    sidecar.bring("e", "ref/a", b"data")
    sidecar.work(archive=True)
    ran = sidecar("archive")
    assert ran.code == 0, ran.err
    forget(sidecar, "e")
    found: Any = sidecar.client.xrange(NOTIFICATIONS)
    sidecar.client.hset(KEYS.trimmed, NOTIFICATIONS, found[-1][0])
    sidecar.client.xtrim(NOTIFICATIONS, maxlen=0, approximate=False)
    code, said = wait(sidecar, "e")
    assert (code, said["state"]) == (0, "published"), said


def test_readers_are_waited_for(sidecar: Cli) -> None:
    """All that are registered, or those named; 3 while one has not passed it."""
    sidecar.emit("e")
    sidecar.work()
    assert wait(sidecar, "e", "--readers", "all")[0] == 0
    at = wait(sidecar, "e")[1]["control_version"]
    with connect(sidecar.url) as client:
        passed(client, KEYS, "a", at, 60)
        passed(client, KEYS, "b", at - 1, 60)
    code, found = wait(sidecar, "e", "--readers", "all")
    assert (code, found["readers"]) == (3, {"a": True, "b": False})
    assert wait(sidecar, "e", "--readers", "a")[0] == 0
    ran = sidecar("wait", "e", "--readers", "b", "--readers", "a", "--timeout", "0")
    assert ran.code == 3
    assert "not passed  b" in ran.out


def test_emit_waits(sidecar: Cli) -> None:
    """It prints the event, then what became of it, with the exit code of `wait`."""
    ran = sidecar("emit", "--type", "key.changed", "--event-id", "e", "--wait", "--timeout", "0")
    assert (ran.code, ran.objects()[1]["state"]) == (3, "waiting")
    sidecar.work()
    ran = sidecar("emit", "--type", "key.changed", "--event-id", "e", "--wait")
    assert (ran.code, ran.objects()[1]["state"]) == (0, "duplicate")


@pytest.mark.parametrize("options", [[], ["--wait"]])
def test_emit_is_woken_by_a_worker(sidecar: Cli, options: list[str]) -> None:
    """With a worker beside it the end comes; without --wait nothing is waited for."""
    with sidecar.running("run"):
        ran = sidecar("emit", "--type", "nope", "--event-id", "e", *options)
        if options:
            assert (ran.code, ran.objects()[1]["reason"]) == (1, "unknown_type"), ran.err
        else:
            assert (ran.code, len(ran.objects())) == (0, 1)
