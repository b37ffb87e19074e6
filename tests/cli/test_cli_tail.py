"""`sidecar tail`, notifications as they come."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.harness import HOSTILE, NOTIFICATIONS, TRACEPARENT, Cli

BASE_MS = 1_790_000_000_000


def _plant(sidecar: Cli, count: int, **more: Any) -> list[int]:
    """Plant notifications a second apart; return their control_versions."""
    versions = []
    for i in range(count):
        ms = BASE_MS + 1000 * i
        event = {
            "id": 0, "event_id": f"e{i}", "type": "key.changed", "tenant_id": "t",
            "control_version": ms * 1000 + 1, **more,
        }  # fmt: skip
        sidecar.notification(event, f"{ms}-1", f"control:events/{ms}-0")
        versions.append(ms * 1000 + 1)
    return versions


def _ids(sidecar: Cli, *args: str) -> list[str]:
    ran = sidecar("tail", "--json", *args)
    assert ran.code == 0, ran.err
    return [found["event_id"] for found in ran.objects()]


def test_tail_shows_what_a_worker_published(sidecar: Cli) -> None:
    """One line a notification, with position, time, type, whose, ref and event_id."""
    event = sidecar.bring("e1", "keys/1", b"k", "--tenant", "t_1", "--traceparent", TRACEPARENT)
    sidecar.drain()
    line = sidecar("tail").out
    assert all(part in line for part in ("key.changed", "t_1", "keys/1", "e1"))
    found = sidecar("tail", "--json").object()
    assert found["checksum"] == event["checksum"]
    assert found["origin"].startswith("control:events/")
    assert found["traceparent"] == TRACEPARENT
    assert str(found["control_version"]) in line


def test_the_window_is_chosen_by_position_time_and_count(sidecar: Cli) -> None:
    """--since is exclusive of a control_version and inclusive of a time; -n is last or first."""
    versions = _plant(sidecar, 5)
    third = datetime.fromtimestamp(BASE_MS / 1000 + 2, UTC).isoformat()
    assert _ids(sidecar) == ["e0", "e1", "e2", "e3", "e4"]
    assert _ids(sidecar, "-n", "2") == ["e3", "e4"]
    assert _ids(sidecar, "-n", "9") == ["e0", "e1", "e2", "e3", "e4"]
    assert _ids(sidecar, "-n", "0") == []
    assert _ids(sidecar, "--since", str(versions[1])) == ["e2", "e3", "e4"]
    assert _ids(sidecar, "--since", str(versions[1]), "-n", "1") == ["e2"]
    assert _ids(sidecar, "--since", third) == ["e2", "e3", "e4"]
    assert _ids(sidecar, "--since", "0") == ["e0", "e1", "e2", "e3", "e4"]


def test_a_duration_counts_back_from_the_servers_clock(sidecar: Cli) -> None:
    """`15m` and `15m ago` begin fifteen minutes before now."""
    _plant(sidecar, 1)
    sidecar.emit("new")
    sidecar.drain()
    assert _ids(sidecar, "--since", "15m") == ["new"]
    assert _ids(sidecar, "--since", "2m ago") == ["new"]


def test_pages_are_joined(sidecar: Cli) -> None:
    """More notifications than a page has come all, once, in order; so do the last of them."""
    pipeline = sidecar.client.pipeline()
    for i in range(2500):
        event = {"id": 0, "event_id": f"e{i}", "type": "t", "control_version": BASE_MS * 1000 + i}
        entry: dict[Any, Any] = {"event": json.dumps(event), "origin": f"c/{i}-0"}
        pipeline.xadd(NOTIFICATIONS, entry, id=f"{BASE_MS + i // 1000}-{i % 1000}")
    pipeline.execute()
    assert _ids(sidecar) == [f"e{i}" for i in range(2500)]
    assert _ids(sidecar, "-n", "1500") == [f"e{i}" for i in range(1000, 2500)]


@pytest.mark.parametrize("args", [(), ("--since", "1m"), ("--since", "2999-01-01T00:00:00Z")])
def test_an_empty_window_is_exit_5(sidecar: Cli, args: tuple[str, ...]) -> None:
    """Nothing is printed but one line on standard error."""
    if args:
        _plant(sidecar, 1)
    ran = sidecar("tail", *args)
    assert (ran.code, ran.raw) == (5, b"")
    assert "there is no notification" in ran.err


def test_a_gap_is_exit_3(sidecar: Cli) -> None:
    """A cursor below what was trimmed, or above the end, is told and not skipped."""
    versions = _plant(sidecar, 3)
    sidecar.client.xtrim(NOTIFICATIONS, maxlen=1, approximate=False)
    noted = f"{versions[1] // 1000}-{versions[1] % 1000}"
    sidecar.client.hset(f"{{{NOTIFICATIONS}}}:trimmed", NOTIFICATIONS, noted)
    below = sidecar("tail", "--since", str(versions[0]))
    assert (below.code, below.raw) == (3, b"")
    assert "leave out --since" in below.err
    above = sidecar("tail", "--since", str(versions[2] + 10))
    assert above.code == 3


@pytest.mark.parametrize("since", ["yesterday", "2026-11-02T10:00:00", "15 parsecs", "-5"])
def test_a_since_that_is_nothing_is_exit_2(sidecar: Cli, since: str) -> None:
    """The line says what can be written."""
    ran = sidecar("tail", f"--since={since}")
    assert ran.code == 2
    assert "RFC 3339" in ran.err


def test_resolve_verifies_each_artifact_and_goes_on_after_a_failure(sidecar: Cli) -> None:
    """Sizes of the good, a mark on the missing, exit 1 at the end."""
    sidecar.emit("plain")
    sidecar.bring("good", "a", b"data")
    sidecar.drain()
    assert "ok 4 + 0 bytes" in sidecar("tail", "--resolve").out
    nothing = "sha256:" + "0" * 64
    lost = {"artifact_ref": "gone", "checksum": nothing, "manifest_checksum": nothing}
    now = datetime.now(UTC) + timedelta(minutes=1)
    ms = int(now.timestamp() * 1000)
    event = {"id": 0, "event_id": "bad", "type": "t", "control_version": ms * 1000, **lost}
    sidecar.notification(event, f"{ms}-0", "control:events/1-1")
    ran = sidecar("tail", "--resolve", "--json")
    assert ran.code == 1
    plain, good, bad = ran.objects()
    assert "resolved" not in plain
    assert good["resolved"] == {"ok": True, "size_bytes": 4, "manifest_size_bytes": 0}
    assert not bad["resolved"]["ok"]
    assert "FAILED NotFound" in sidecar("tail", "--resolve").out


def test_resolve_needs_a_fleet_store_that_is_there(sidecar: Cli) -> None:
    """Without one it is refused, with the option that names it, and none is made."""
    ran = sidecar("tail", "--resolve")
    assert ran.code == 2
    assert "give --fleet-store" in ran.err
    assert not (sidecar.directory / "data-dir").exists()


def test_follow_wakes_for_what_comes_and_ends_well_on_a_signal(sidecar: Cli) -> None:
    """`-n 0 -f` prints only what is published from then on; SIGTERM is exit 0."""
    _plant(sidecar, 2)
    with sidecar.running("tail", "-n", "1", "--follow", "--json") as tail:
        assert tail.stdout
        assert json.loads(tail.stdout.readline())["event_id"] == "e1"
        _plant_one_more(sidecar)
        assert json.loads(tail.stdout.readline())["event_id"] == "late"
        tail.send_signal(signal.SIGTERM)
        assert tail.wait(60) == 0


def test_follow_with_since_and_a_count_ends_by_itself(sidecar: Cli) -> None:
    """It waits until so many have come."""
    versions = _plant(sidecar, 3)
    ran = sidecar("tail", "-f", "--since", str(versions[0]), "-n", "2", "--json")
    assert [found["event_id"] for found in ran.objects()] == ["e1", "e2"]


def test_hostile_strings_are_inert(sidecar: Cli) -> None:
    """No escape sequence, markup or change of direction out of an event takes effect."""
    _plant(sidecar, 1, tenant_id=HOSTILE, type="[red]x")
    ran = sidecar("tail")
    assert "[red]x" in ran.out
    assert "[bold]x[/bold]" in ran.out
    assert ran.out.rstrip("\n").isprintable()
    assert sidecar("tail", "--json").object()["tenant_id"] == HOSTILE


def test_a_reader_that_leaves_ends_it_quietly(sidecar: Cli) -> None:
    """`sidecar tail | head -1` is exit 0, with nothing on standard error."""
    _plant(sidecar, 900, filler="x" * 500)
    ran = sidecar.shell("sidecar tail --json | head -1")
    assert (ran.code, ran.err) == (0, "")
    assert ran.object()["event_id"] == "e0"


def test_an_entry_of_no_sidecar_is_told(sidecar: Cli) -> None:
    """Exit 1 and a line, no traceback."""
    strange: dict[Any, Any] = {"a": "b"}
    sidecar.client.xadd(NOTIFICATIONS, strange)
    ran = sidecar("tail")
    assert ran.code == 1
    assert "no sidecar wrote" in ran.err


def test_a_key_that_is_no_stream_is_exit_2(sidecar: Cli) -> None:
    """The notification stream's name belongs to something else."""
    sidecar.client.set(NOTIFICATIONS, "x")
    assert sidecar("tail").code == 2


def _plant_one_more(sidecar: Cli) -> None:
    ms = BASE_MS + 60_000
    event = {"id": 0, "event_id": "late", "type": "t", "control_version": ms * 1000}
    sidecar.notification(event, f"{ms}-0", "control:events/9-9")
