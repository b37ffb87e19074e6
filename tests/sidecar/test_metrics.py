"""What a worker's /metrics shows, against the catalogue, and against what is brought about."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

import store
from sidecar.redis import readers
from sidecar.redis.client import Client, connect
from sidecar.redis.ends import look
from sidecar.redis.keys import Keys
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.scan import StreamInfo
from sidecar.telemetry import catalogue, outside
from sidecar.telemetry.catalogue import Kind
from sidecar.telemetry.gathered import SHOWN_S, Gathered, Sample
from sidecar.telemetry.growth import MOST_MARKS, Growth
from sidecar.telemetry.timings import Timings
from sidecar.wire.event import Reason
from sidecar.wire.ids import FIRST, EntryId
from sidecar.worker import gathering
from sidecar.worker.metrics import Metrics, StreamMetrics
from sidecar.worker.settings import build
from sidecar.worker.supervision import Supervisor
from tests.metrics_page import ROOT, metrics_page
from tests.servers import free_port
from tests.sidecar.harness import (
    PATIENCE_S,
    Rig,
    at_work,
    eventually,
    silent_log,
)

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gather often, so that no test waits for it."""
    monkeypatch.setattr(gathering, "EVERY_S", 0.2)


@contextmanager
def worker(rig: Rig, fleet: Path, **options: Any) -> Iterator[int]:
    """Run a worker with --http; yield its port."""
    port = free_port()
    urls = {name: f"file://{fleet}/{name}" for name in ("source", "fleet")}
    settings = build(
        redis=rig.url, source_store=urls["source"], fleet_store=urls["fleet"],
        http=f"127.0.0.1:{port}", lease_s=1, **options,
    )  # fmt: skip
    with at_work(settings):
        yield port


def scraped(port: int) -> Series:
    """Return every series that a worker shows now."""
    return {(sample.name, frozenset(sample.labels.items())): sample.value
            for sample in samples(exposition(port))}  # fmt: skip


def samples(text: str) -> list[Any]:
    """Return the samples of an exposition."""
    return [one for family in text_string_to_metric_families(text) for one in family.samples]


def exposition(port: int) -> str:
    """Return what a scrape gets; empty while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except OSError:
        return ""
    finally:
        connection.close()


def value(series: Series, name: str, **labels: str) -> float | None:
    """Return the value of one series; None where it is absent."""
    return series.get((name, frozenset(labels.items())))


def has_gathered(port: int, stream: str) -> bool:
    """Tell whether all was gathered, once the group was there."""
    found = scraped(port)
    name = "sidecar_gathered_timestamp_seconds"
    is_lag_known = value(found, "sidecar_lag_entries", stream=stream) is not None
    return is_lag_known and all(value(found, name, what=one) for one in catalogue.GATHERINGS)


# --- the page, the catalogue and what a worker shows ---------------------------------------------


def test_the_page_is_the_catalogues() -> None:
    """docs/metrics.md is what `make pages` makes of the catalogue."""
    assert (ROOT / "docs/metrics.md").read_text() == metrics_page(), "run `make pages`"


def test_a_worker_shows_what_the_catalogue_has(rig: Rig, tmp_path: Path) -> None:
    """Each metric of a worker is in the catalogue with its kind and labels, and each of the
    catalogue is shown; each but those that may be unknown has a series before anything happens.
    """
    known = {one.name: one for one in catalogue.ALL}
    with worker(rig, tmp_path, archive=True) as port:
        eventually(lambda: has_gathered(port, rig.control))
        families = list(text_string_to_metric_families(exposition(port)))
    shown = {
        family.name + ("_total" if family.type == "counter" else ""): family for family in families
        if not family.name.endswith("_created")
    }  # fmt: skip
    assert shown.keys() == known.keys()
    for name, family in shown.items():
        assert family.type == known[name].kind.value, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(known[name].labels), name
    silent = {name for name, family in shown.items() if not family.samples}
    assert silent <= {
        "sidecar_reader_lag_entries", "sidecar_reader_lag_seconds",
        "sidecar_store_added_refs_per_day", "sidecar_store_added_bytes_per_day",
    }  # fmt: skip


def test_names_keep_to_the_conventions() -> None:
    """Counters end in _total and nothing else does; units are base units; no label has no bound."""
    units = ("_seconds", "_bytes", "_total", "_entries", "_info")
    for one in catalogue.ALL:
        assert (one.kind is Kind.COUNTER) == one.name.endswith("_total"), one.name
        assert one.meaning.endswith("."), one.name
        assert one.action.endswith((".", "?")), one.name
        assert not {"tenant", "tenant_id", "ref", "event_id"} & set(one.labels)
        assert one.kind is not Kind.HISTOGRAM or one.name.endswith(units)


def test_works_are_those_that_are_supervised() -> None:
    """The catalogue lists the work beside relaying by the names that the code gives it."""
    source = "".join(path.read_text() for path in (ROOT / "sidecar/worker").glob("*.py"))
    for work in catalogue.WORKS:
        assert f'"{work}"' in source, work
    given = re.findall(r'attempt\(\s*"(\w+)"', source)
    assert set(given) <= set(catalogue.WORKS)


def test_every_reason_counts_from_zero() -> None:
    """A reason that never came has a series, so that the first dead letter is a rise."""
    metrics = Metrics()
    StreamMetrics(metrics, "s")
    shown = {one.labels["reason"] for one in samples(metrics.exposition().decode())
             if one.name == "sidecar_dead_letters_total"}  # fmt: skip
    assert shown == set(Reason)


# --- what a relay counts -------------------------------------------------------------------------


def test_deliveries_are_timed(rig: Rig, tmp_path: Path) -> None:
    """Each published event is counted in the time to its notification, and in each stage."""
    with worker(rig, tmp_path) as port:
        for number in range(5):
            rig.emit(f"e{number}")
        eventually(lambda: len(rig.published()) == 5)
        name, stream = "sidecar_delivery_duration_seconds_count", rig.control
        eventually(lambda: value(scraped(port), name, stream=stream) == 5)
        found = scraped(port)
    for stage in ("wait", "publish"):
        count = value(found, "sidecar_stage_duration_seconds_count", stream=stream, stage=stage)
        assert count == 5
    last = EntryId(rig.client.xinfo_stream(rig.keys.notifications)["last-generated-id"].decode())
    shown = value(found, "sidecar_last_publish_timestamp_seconds", stream=stream)
    assert shown == last.control_version / 1e6
    assert value(found, "sidecar_owner", stream=stream) == 1


def test_ids_that_are_no_times_are_not_timed(rig: Rig) -> None:
    """An entry whose ID a producer gave takes part in no histogram."""
    rig.client.xadd(rig.control, {"event": '{"event_id":"e","type":"key.changed"}'}, id="5-1")
    with rig.relay() as run:
        eventually(lambda: rig.published() == ["e"])
        eventually(lambda: any(one.published for one in run.observer.took))
    assert sum(one.published for one in run.observer.took) == 1
    assert not any(one.deliveries_s or one.waits_s for one in run.observer.took)


def test_timings_fall_into_their_buckets() -> None:
    """A duration is in the bucket of its bound and in all above, as many times as it counts."""
    timings = Timings(catalogue.STAGE)
    series = timings.series("s", "wait")
    series.add(0.001, 3)
    series.add_all([0.4, 1e9])
    (family,) = timings.collect()
    found = {one.labels.get("le"): one.value for one in family.samples}
    assert (found["0.001"], found["0.25"], found["0.5"], found["7200.0"]) == (3, 3, 4, 4)
    assert found["+Inf"] == 5


# --- what is gathered ----------------------------------------------------------------------------


def added(client: Any, stream: str, entry_id: str = "*") -> EntryId:
    """Append an entry, and return its ID."""
    return EntryId(client.xadd(stream, {"event": "x"}, id=entry_id).decode())


def found_in(samples: Any) -> dict[str, float]:
    """Return the values of samples by name and labels."""
    return {"/".join((one.meter.name, *one.labels)): one.value for one in samples}


def test_what_waits_is_gathered(rig: Rig) -> None:
    """Lag and pending are told in entries and in seconds."""
    client, keys = connect(rig.url), rig.keys
    client.xgroup_create(keys.control, keys.group, id="0", mkstream=True)
    seconds, micros = client.time()
    then = seconds * 1000 + micros // 1000 - 50_000
    for number in range(3):
        client.xadd(keys.control, {"event": "x"}, id=f"{then + number}-0")
    client.xreadgroup(keys.group, "worker", {keys.control: ">"}, count=1)
    streams = outside.Streams({keys.control: client}, client, [keys])
    found = found_in(streams.gather())
    assert found[f"sidecar_lag_entries/{keys.control}"] == 2
    assert found[f"sidecar_pending_entries/{keys.control}"] == 1
    assert 49 < found[f"sidecar_unread_age_seconds/{keys.control}"] < 50 + PATIENCE_S
    assert 49 < found[f"sidecar_pending_age_seconds/{keys.control}"] < 50 + PATIENCE_S
    assert found[f"sidecar_stream_entries/{keys.control}/control"] == 3
    assert found[f"sidecar_stream_without_room/{keys.control}"] == 0


def test_an_unknown_lag_is_absent(rig: Rig) -> None:
    """Where nobody has read, or the position lies beyond the end, there is no lag, not 0."""
    client, keys = connect(rig.url), rig.keys
    client.xadd(keys.control, {"event": "x"})
    streams = outside.Streams({keys.control: client}, client, [keys])
    assert f"sidecar_lag_entries/{keys.control}" not in found_in(streams.gather())
    client.xgroup_create(keys.control, keys.group, id="99999999999999-0")
    assert f"sidecar_lag_entries/{keys.control}" not in found_in(streams.gather())


@pytest.mark.parametrize("wrong", ["control", "notifications", "dead", "low"])
def test_a_key_that_is_damaged_hides_no_other_stream(rig: Rig, wrong: str) -> None:
    """Who needs the key tells of it; what waits in another stream is gathered all the same."""
    client, keys, other = connect(rig.url), rig.keys, Keys.of("other", rig.notify)
    for stream in (keys, other):
        client.xgroup_create(stream.control, stream.group, id="0", mkstream=True)
    client.xadd(other.control, {"event": "x"})
    client.set(getattr(keys, wrong), "x")
    controls = {keys.control: client, other.control: client}
    found = found_in(outside.Streams(controls, client, [keys, other]).gather())
    assert found["sidecar_lag_entries/other"] == 1
    lags = found_in(outside.archive(controls, client, [keys, other], every_s=60))
    assert lags["sidecar_archive_lag_seconds/other"] >= 0


def test_what_was_trimmed_unread_is_no_lag(rig: Rig) -> None:
    """Entries that somebody trimmed before they were read do not wait, and never will."""
    client, keys = connect(rig.url), rig.keys
    streams = outside.Streams({keys.control: client}, client, [keys])
    lag = f"sidecar_lag_entries/{keys.control}"
    client.xgroup_create(keys.control, keys.group, id="0", mkstream=True)
    for _ in range(2):
        client.xadd(keys.control, {"event": "x"})
    client.xreadgroup(keys.group, "worker", {keys.control: ">"}, count=1)
    client.xtrim(keys.control, maxlen=0, approximate=False)
    assert found_in(streams.gather())[lag] == 0
    client.xadd(keys.control, {"event": "x"})
    assert found_in(streams.gather())[lag] == 1
    client.xreadgroup(keys.group, "worker", {keys.control: ">"}, count=1)
    assert found_in(streams.gather())[lag] == 0


def test_ids_that_are_no_times_have_no_age(rig: Rig) -> None:
    """Entries whose IDs count rows have no age, not that of 1970."""
    client, keys = connect(rig.url), rig.keys
    client.xadd(keys.control, {"event": "x"}, id="7-1")
    client.xgroup_create(keys.control, keys.group, id="0")
    streams = outside.Streams({keys.control: client}, client, [keys])
    found = found_in(streams.gather())
    assert found[f"sidecar_lag_entries/{keys.control}"] == 1
    assert f"sidecar_unread_age_seconds/{keys.control}" not in found


def test_ids_that_only_look_like_times_have_no_age(rig: Rig) -> None:
    """Where a notification came a month after what its entry's ID says, IDs are no times."""
    client, keys = connect(rig.url), rig.keys
    old = EntryId.of(client.time()[0] * 1000 - 30 * 86_400_000)
    added(client, keys.control, old)
    client.xgroup_create(keys.control, keys.group, id="0")
    client.xadd(keys.notifications, {"origin": f"{keys.control}/{old}"})
    streams = outside.Streams({keys.control: client}, client, [keys])
    assert f"sidecar_unread_age_seconds/{keys.control}" not in found_in(streams.gather())


def test_a_stream_out_of_ids_is_told(rig: Rig) -> None:
    """Each of the three streams that takes no more entries is marked."""
    client, keys = connect(rig.url), rig.keys
    client.xadd(keys.notifications, {"event": "x"}, id="18446744073709551615-1")
    streams = outside.Streams({keys.control: client}, client, [keys])
    found = found_in(streams.gather())
    assert found[f"sidecar_stream_without_room/{keys.notifications}"] == 1
    assert found[f"sidecar_stream_without_room/{keys.dead}"] == 0


def test_readers_are_bounded_and_the_last_come_first(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many readers have series: those that are furthest behind."""
    monkeypatch.setattr(outside, "MOST_READERS", 2)
    client, keys = connect(rig.url), rig.keys
    ids = [added(client, keys.notifications) for _ in range(9)]
    for number in (0, 3, 8):
        readers.passed(client, keys, f"r{number}", ids[number].control_version, 60)
    behind = outside.ReadersBehind(client, keys)
    found = found_in(behind.gather())
    assert found["sidecar_readers/good"] == 3
    assert found.get("sidecar_reader_lag_entries/r0", 1) >= 1  # before Redis 7 it is unknown
    assert found["sidecar_reader_lag_seconds/r0"] >= 0
    assert found["sidecar_reader_lag_seconds/r3"] >= 0
    assert not any("r8" in name for name in found)


def test_a_reader_that_has_all_is_not_behind(rig: Rig) -> None:
    """Its lag is 0 in entries and in seconds."""
    client, keys = connect(rig.url), rig.keys
    last = added(client, keys.notifications)
    readers.passed(client, keys, "r", last.control_version, 60)
    found = found_in(outside.ReadersBehind(client, keys).gather())
    assert found["sidecar_reader_lag_entries/r"] == found["sidecar_reader_lag_seconds/r"] == 0


def info(last: int, added: int, length: int) -> StreamInfo:
    """Return what a stream says whose last control_version is `last`."""
    first = EntryId.of_version(1_000_000)
    return StreamInfo(length, EntryId.of_version(last), first, added, FIRST)


def test_growth_tells_how_many_follow() -> None:
    """At marks the count is exact, between two it is the share of their distance."""
    growth = Growth()
    assert growth.since(5) is None
    growth.note(info(2_000_000, 100, 100))
    growth.note(info(3_000_000, 300, 300))
    assert growth.since(3_000_000) == 0
    assert growth.since(2_000_000) == 200
    assert growth.since(2_500_000) == 100
    assert growth.since(0) == 300
    growth.note(info(1_500_000, 5, 5))
    assert growth.since(1_500_000) == 0


def test_growth_is_bounded() -> None:
    """However long it watches, it keeps so many marks, and the newest is exact."""
    growth = Growth()
    for number in range(5 * MOST_MARKS):
        growth.note(info(2_000_000 + number, number + 1, 1))
    assert len(growth._versions) <= MOST_MARKS
    assert growth.since(2_000_000 + 5 * MOST_MARKS - 2) == 1


def test_what_cannot_be_gathered_again_is_absent() -> None:
    """A value is shown for a minute after it was due again, and then no more."""
    now = [0.0]
    gathered = Gathered(clock=lambda: now[0], wall_clock=lambda: 7.0)
    gathered.put("streams", [Sample(catalogue.LAG_ENTRIES, 3, ("s",))], 5)

    def shown() -> list[float]:
        return [one.value for family in gathered.collect() for one in family.samples
                if family.name == "sidecar_lag_entries"]  # fmt: skip

    assert shown() == [3]
    now[0] = 5 + SHOWN_S
    assert shown() == []


def test_servers_tell_memory_and_clock(rig: Rig) -> None:
    """Used memory, its limit and the distance of the clocks are told of each server."""
    client = connect(rig.url)
    skewed = outside.servers({"control": client}, wall_clock=lambda: 0.0)
    found = found_in(skewed)
    assert found["sidecar_redis_memory_used_bytes/control"] > 0
    assert found["sidecar_redis_memory_max_bytes/control"] == 0
    assert found["sidecar_redis_clock_skew_seconds/control"] > 1e9


def test_memory_is_told_by_part(rig: Rig, client: redis.Redis) -> None:
    """Each part of the deployment has a series; none where the user may not send MEMORY USAGE."""
    keys = rig.keys
    for _ in range(300):
        client.xadd(keys.notifications, {"event": "x" * 1000})

    def gathered(mine: Client) -> dict[str, float]:
        return found_in(outside.parts({keys.control: mine}, mine, [keys]))

    found = gathered(connect(rig.url))
    names = {f"sidecar_redis_memory_part_bytes/{one}"
             for one in ("control", "notifications", "dead", "index", "own")}  # fmt: skip
    assert found.keys() == names
    assert 300_000 < found["sidecar_redis_memory_part_bytes/notifications"] < 600_000
    assert 0 < found["sidecar_redis_memory_part_bytes/index"] < 1_000_000
    rights = ["+@all", "-memory"]
    client.acl_setuser("u", reset=True, enabled=True, nopass=True, keys=["*"], commands=rights)
    assert gathered(connect(rig.url.replace("redis://", "redis://u:x@"))) == {}


def test_disks_of_file_stores(tmp_path: Path) -> None:
    """Bytes and inodes are told of file stores, and of no other."""
    urls = {"source": "memory:", "fleet": tmp_path.as_uri()}
    found = {(one.meter.name, *one.labels): one.value for one in outside.disks(urls)}
    assert found["sidecar_store_free_bytes", "fleet"] > 0
    assert found["sidecar_store_free_bytes", "fleet"] <= found["sidecar_store_size_bytes", "fleet"]
    assert not any("source" in name for name in found)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, {"source", "fleet"}), ({"keep": ("last=2,age=1d",)}, {"source"}),
        ({"source_keep": ("published+1h",)}, {"fleet"}),
        ({"keep": ("last=2,age=1d",), "source_keep": ("published+1h",)}, set()),
    ],
)  # fmt: skip
def test_a_worker_tells_what_a_day_adds_where_no_rule_is_followed(
    rig: Rig, tmp_path: Path, options: dict[str, Any], told: set[str]
) -> None:
    """In refs and bytes, of each such store."""
    fleet = store.open_url((tmp_path / "fleet").as_uri())
    fleet.put("a", b"data", b"m")
    body = {"event_id": "a", "type": "run.abort", "artifact_ref": "a",
            "checksum": store.checksum_of(b"data"), "manifest_checksum": store.checksum_of(b"m"),
            "control_version": 1}  # fmt: skip
    rig.client.xadd(rig.notify, {"event": json.dumps(body), "origin": f"{rig.control}/1-1"})
    with worker(rig, tmp_path, **options) as port:
        eventually(lambda: has_gathered(port, rig.control))
        found = scraped(port)
    for name, each in (("refs", 1), ("bytes", 5)):
        shown = {one: value(found, f"sidecar_store_added_{name}_per_day", store=one)
                 for one in ("source", "fleet")}  # fmt: skip
        assert shown == {one: each if one in told else None for one in shown}


def test_the_archives_lag(rig: Rig) -> None:
    """Without an archive there is an interval of 0; with one, what is not in it has an age."""
    client, keys = connect(rig.url), rig.keys
    client.xadd(keys.control, {"event": "x"})
    assert found_in(outside.archive({}, client, [keys], 0)) == {
        "sidecar_archive_interval_seconds": 0
    }
    found = found_in(outside.archive({keys.control: client}, client, [keys], 60))
    assert found[f"sidecar_archive_lag_seconds/{keys.control}"] >= 0
    assert found[f"sidecar_archive_lag_seconds/{keys.dead}"] == 0


# --- who keeps a stream from being trimmed -------------------------------------------------------


@pytest.mark.parametrize("by", ["group", "reader", "archive", "window"])
def test_who_blocks_trimming_is_told(rig: Rig, by: str) -> None:
    """Where the policy would trim and someone needs the entries, trimming says who."""
    client, keys = connect(rig.url), rig.keys
    first = added(client, keys.notifications, "1000-0")
    client.xadd(keys.notifications, {"event": "x"}, id="2000-0")
    if by == "group":
        client.xgroup_create(keys.notifications, "foreign", id="0")
    if by == "reader":
        readers.passed(client, keys, "r", first.control_version - 1, 60)
    retention = Retention(
        client, client, keys, {"notifications": Policy(length=1)},
        dedup_window_s=10**10 if by == "window" else 1, archived_first=by == "archive",
    )  # fmt: skip
    assert retention.trim_one("notifications").blocked_by == {by}


def test_nobody_blocks_what_is_trimmed(rig: Rig) -> None:
    """Where nothing stands in the way, nobody is said to."""
    client, keys = connect(rig.url), rig.keys
    for number in (1, 2):
        client.xadd(keys.notifications, {"event": "x"}, id=f"{number}000-0")
    policies = {"notifications": Policy(length=1)}
    retention = Retention(client, client, keys, policies, dedup_window_s=1)
    trimmed = retention.trim_one("notifications")
    assert (trimmed.removed, trimmed.more, trimmed.blocked_by) == (1, False, frozenset())
    assert retention.trim_one("notifications").blocked_by == frozenset()


# --- what it costs -------------------------------------------------------------------------------


def test_gathering_costs_so_many_commands(rig: Rig, client: redis.Redis) -> None:
    """A round of gathering sends Redis no more than so many commands, however long the streams."""
    keys, mine = rig.keys, connect(rig.url)
    mine.xgroup_create(keys.control, keys.group, id="0", mkstream=True)
    for _ in range(500):
        mine.xadd(keys.control, {"event": "x"})
        mine.xadd(keys.notifications, {"event": "x"})
    streams = outside.Streams({keys.control: mine}, mine, [keys])
    behind = outside.ReadersBehind(mine, keys)
    list(streams.gather()), list(behind.gather())
    client.config_resetstat()
    rounds = [*streams.gather(), *behind.gather(), *outside.servers({"control": mine})]
    stats: Any = client.info("commandstats")
    made = sum(found["calls"] for name, found in stats.items() if "config" not in name)
    assert rounds
    assert made <= 35, stats
    assert look(mine, keys.control, FIRST)


def test_a_disk_that_hangs_hides_nothing_else() -> None:
    """What waits in the streams is gathered again and again while the disks' step stands still."""
    go_on, rounds = threading.Event(), list[Sample]()

    def gather() -> list[Sample]:
        rounds.append(Sample(catalogue.LAG_ENTRIES, 1, ("s",)))
        return rounds[-1:]

    steps = {
        "stores": gathering.Step(lambda: rounds[:0] if go_on.wait(60) else []),
        "streams": gathering.Step(gather, every_s=0.01),
    }
    metrics = Metrics()
    one = gathering.Gathering(steps, metrics.gathered, Supervisor(metrics, silent_log()))
    one.start()
    try:
        eventually(lambda: len(rounds) > 1)
    finally:
        go_on.set()
        one.close()


def test_a_scrape_asks_nobody(rig: Rig, tmp_path: Path, client: redis.Redis) -> None:
    """Scraping a hundred times sends Redis nothing: commands come at their interval alone."""
    metrics = Metrics()
    StreamMetrics(metrics, rig.control)
    client.config_resetstat()
    for _ in range(100):
        metrics.exposition()
    stats: Any = client.info("commandstats")
    assert {name for name in stats if "config" not in name} <= {"cmdstat_info"}
    del tmp_path
