"""Thousands of readers that somebody registered: the same few lines, and the same trimming."""

from __future__ import annotations

from typing import Any, Final
from unittest.mock import Mock

import pytest

from sidecar.ops.doctor import finding
from sidecar.redis import readers
from sidecar.redis.client import connect
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.scan import server_time_us
from sidecar.replay.trace import MOST_NAMED
from sidecar.telemetry import outside
from sidecar.worker import housekeeping
from sidecar.worker.housekeeping import Chores, Housekeeper
from tests.cli.harness import HOSTILE, KEYS, Cli

pytestmark = pytest.mark.server
MANY: Final = 120
MOST: Final = 50
"""Readers of each kind: those of the common hash, which everybody could write once."""
NAMES: Final = [f"{HOSTILE}-{number}" for number in range(MANY)]


@pytest.fixture(autouse=True)
def _registered(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MOST", MOST)
    now_us = server_time_us(sidecar.client)
    lines = {"good": f"{{}} {now_us} 60", "expired": f"{{}} {now_us - 61 * 10**6} 60",
             "bad": "{} x"}  # fmt: skip
    for kind, line in lines.items():
        mapping: dict[Any, Any] = {
            f"{kind}-{name}": line.format(1000 + at) for at, name in enumerate(NAMES)
        }
        sidecar.client.hset(KEYS.readers, mapping=mapping)
    sidecar.client.sadd(KEYS.registered, *(f"nobody-{name}" for name in NAMES))


def test_those_that_hold_back_most_are_kept_in_mind(sidecar: Cli) -> None:
    """A worker and a command keep so many of them, and know how many others there are."""
    client = connect(sidecar.url)
    for found in (readers.registered(client, KEYS), readers.swept(client, KEYS)):
        assert len(found.good) == len(found.bad) == MOST
        assert found.more == 3 * MANY - 2 * MOST
        assert {one.control_version for one in found.good} == set(range(1000, 1000 + MOST))
        assert not any(one.expired for one in found.good)


def test_none_of_them_is_trimmed_past(sidecar: Cli) -> None:
    """Trimming stops at the last of all, as it does at the last of few."""
    client = connect(sidecar.url)
    for at in range(990, 1010):
        client.xadd(KEYS.notifications, {"event": "{}"}, id=f"{at // 1000}-{at % 1000}")
    retention = Retention(client, client, KEYS, {"notifications": Policy(length=0)},
                          dedup_window_s=0)  # fmt: skip
    assert retention.trim_one("notifications").removed == 11


def test_a_person_reads_few_lines(sidecar: Cli) -> None:
    """Status, doctor and trace name some, and say how many there are besides."""
    status = sidecar("status")
    more = f"up to {3 * MANY - 2 * MOST} more readers are registered"
    assert more in status.out.replace("\n", " ")
    sidecar.lay_out("source", "fleet")
    doctor = sidecar("doctor", "--json").objects()
    kinds = [one["kind"] for one in doctor]
    assert max(map(kinds.count, kinds)) == finding.MOST + 1
    sidecar.emit("e1")
    sidecar.work()
    trace = sidecar("trace", "e1")
    assert trace.out.count("good-") == MOST_NAMED
    assert f"and {MOST - MOST_NAMED} more" in trace.out.replace("\n", " ")
    for ran in (status, trace):
        assert "\x1b" not in ran.out
        assert "\x07" not in ran.out


def test_metrics_name_few_and_nothing_that_steers(sidecar: Cli) -> None:
    """A scrape has series of a few readers, whose names are text."""
    samples = list(outside.ReadersBehind(connect(sidecar.url), KEYS).gather())
    names = {one.labels[0] for one in samples if one.meter.name.startswith("sidecar_reader_")}
    assert len(names) == outside.MOST_READERS
    assert all(name.isprintable() for name in names)


def test_a_worker_logs_few_lines(sidecar: Cli) -> None:
    """However many have expired, or are not believed, some are named at a time."""
    said: list[str] = []
    log = Mock(warning=lambda event, **_: said.append(event))
    client = connect(sidecar.url)
    retention = Retention(client, client, KEYS, {}, dedup_window_s=0)
    chores = Chores(Mock(), {}, Mock())
    keeper = Housekeeper(chores, Mock(), 1.0, Mock(), log)
    keeper._warn_of_readers(retention)
    assert said.count("reader not believed") == housekeeping.MOST_TOLD


@pytest.mark.parametrize(("more", "times"), [(0, 2), (5, 1)])
def test_a_reader_that_was_out_of_sight_in_a_crowd_is_not_told_of_again(
    more: int, times: int
) -> None:
    """Of a crowd others are kept in mind each time; one that was seen alive is told of again."""
    said: list[str] = []
    log = Mock(warning=lambda event, **about: said.append(about.get("reader", event)))
    keeper = Housekeeper(Chores(Mock(), {}, Mock()), Mock(), 1.0, Mock(), log)

    def seen(name: str, *, expired: bool) -> Mock:
        reader = readers.Reader(name, 1, 1, 1, expired)
        return Mock(readers=lambda: readers.Readers([reader], [], more))

    for name in ("one", "other", "one"):
        keeper._warn_of_readers(seen(name, expired=True))
    assert said.count("one") == times
    keeper._warn_of_readers(seen("one", expired=False))
    keeper._warn_of_readers(seen("one", expired=True))
    assert said.count("one") == times + 1
