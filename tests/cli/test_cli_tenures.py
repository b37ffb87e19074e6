"""Who owned a control stream, with which settings: on record, within bounds."""

from __future__ import annotations

import json
from typing import Any

import redis

from sidecar import __version__
from sidecar.redis.keys import Keys
from sidecar.redis.tenures import (
    MOST_AN_HOUR,
    MOST_OF_ALL,
    Outage,
    Owner,
    put_end_on_record,
    put_on_record,
    put_outage_on_record,
)
from sidecar.worker.settings import Settings, build, recorded
from sidecar.worker.wiring import whoami
from tests.cli.harness import KEYS, Cli

OWNER = Owner("host:1", "1.0", "{}")


def _tenures(client: redis.Redis, stream: str = KEYS.control) -> list[dict[str, str]]:
    found: Any = client.xrange(KEYS.tenures)
    told = [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in found]
    return [one for one in told if one["what"] == "tenure" and one["stream"] == stream]


def test_an_owner_is_on_record(sidecar: Cli, client: redis.Redis) -> None:
    """Each tenure is on record with worker, release and settings, without secrets."""
    sidecar.work(lease_s="3", redis=sidecar.url.replace("//", "//default:@"))
    (record,) = _tenures(client)
    assert (record["by"], record["version"]) == (whoami(), __version__)
    settings = json.loads(record["settings"])
    assert settings["lease"] == 3.0
    assert settings["trim_control"] == "age=604800s"
    assert "default:" not in record["settings"]
    sidecar.work(lease_s="4")
    assert [json.loads(one["settings"])["lease"] for one in _tenures(client)] == [3.0, 4.0]


def test_an_owner_that_ends_in_good_order_is_on_record(sidecar: Cli, client: redis.Redis) -> None:
    """Before the next one begins, within the bounds of the rest."""
    sidecar.work()
    sidecar.work()
    found: Any = client.xrange(KEYS.tenures)
    assert [fields[b"what"] for _, fields in found] == [b"tenure", b"ended"] * 2
    assert found[1][1] == {
        b"what": b"ended", b"stream": KEYS.control.encode(), b"by": whoami().encode(),
    }  # fmt: skip
    for _ in range(MOST_AN_HOUR + 5):
        put_end_on_record(client, KEYS, OWNER)
    assert client.xlen(KEYS.tenures) == 2 + MOST_AN_HOUR


def test_tenures_do_not_push_out_what_else_is_on_record(client: redis.Redis) -> None:
    """A stream that passes from hand to hand has a bounded number of records an hour."""
    for _ in range(MOST_AN_HOUR + 5):
        put_on_record(client, KEYS, OWNER)
    assert len(_tenures(client)) == MOST_AN_HOUR
    put_on_record(client, Keys.of("other", KEYS.notifications), OWNER)
    assert len(_tenures(client, "other")) == 1


def test_many_streams_do_not_push_out_what_else_is_on_record(client: redis.Redis) -> None:
    """All streams together have a bounded number of records an hour, however many they are."""
    client.xadd(KEYS.tenures, {"what": "forgot"})
    for number in range(MOST_OF_ALL + 20):
        put_on_record(client, Keys.of(f"s{number}", KEYS.notifications), OWNER)
    assert client.xlen(KEYS.tenures) == 1 + MOST_OF_ALL
    put_on_record(client, KEYS, OWNER)
    assert not _tenures(client)


def test_outages_are_on_record_within_the_same_bounds(client: redis.Redis) -> None:
    """With what was away, from when to when; they push out no tenure and no tenure them."""
    outage = Outage("store", 1_790_000_000.0, 1_790_000_008.5, "away" * 1000)
    for _ in range(MOST_AN_HOUR + 5):
        put_outage_on_record(client, KEYS, "host:1", outage)
    put_on_record(client, KEYS, OWNER)
    assert len(_tenures(client)) == 1
    found: Any = client.xrange(KEYS.tenures)
    assert len(found) == MOST_AN_HOUR + 1
    told = {k.decode(): v.decode() for k, v in found[0][1].items()}
    assert len(told.pop("detail")) == 500
    assert told == {
        "what": "outage", "stream": KEYS.control, "by": "host:1", "of": "store",
        "since": "2026-09-21T14:13:20.000Z", "until": "2026-09-21T14:13:28.500Z",
    }  # fmt: skip


def test_a_key_of_another_kind_keeps_no_worker_from_serving(client: redis.Redis) -> None:
    """What cannot be put on record is left out; `status` names the key."""
    client.set(KEYS.tenures, "x")
    put_on_record(client, KEYS, OWNER)
    assert client.get(KEYS.tenures) == b"x"


def test_a_record_is_bounded_and_has_every_setting() -> None:
    """However many patterns an operator gives, a record has at most some kilobytes."""
    urls = dict.fromkeys(("redis", "source_store", "fleet_store"), "file:///" + "x" * 5000)
    many = build(allow_type=["type" * 50] * 1000, **{**urls, "redis": "redis://a:b@c/0"})
    found = recorded(many)
    assert len(json.dumps(found)) < 8192
    assert len(found) == len(Settings.model_fields)
    assert "a:b" not in str(found)
