"""A worker that signs: each notification is verified, whatever happened while it was signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Outbound, Outcome, Publisher
from sidecar.redis.scan import server_time_us
from sidecar.redis.signed import AHEAD_US, MOST_AHEAD_US, Signing
from sidecar.wire.event import MAX_ENTRY_BYTES
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.keyfiles import new_pair
from sidecar.wire.keyring import Keyring
from sidecar.wire.notification import MAX_NOTIFICATION_BYTES, Notification
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust, Untrusted
from sidecar.worker.pipeline import Rules
from tests.sidecar.harness import NOTIFICATIONS, Rig

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Sly(Signer):
    """A signer, while which signs something else happens."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def signed(self, stream: str, notifications: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Sign, and let that happen before it is sent."""
        found = super().signed(stream, notifications)
        self.meanwhile()
        return found


@pytest.fixture
def signer(tmp_path: Path) -> Sly:
    """A worker's key, whose public half is in the directory `trust`."""
    public, _ = new_pair(tmp_path / "key")
    (tmp_path / "trust").mkdir()
    public.rename(tmp_path / "trust/key.pub")
    return Sly(tmp_path / "key")


@pytest.fixture
def trust(tmp_path: Path, signer: Sly) -> Trust:
    """Who trusts that worker."""
    del signer
    return Trust(tmp_path / "trust")


def entries(client: redis.Redis) -> list[tuple[EntryId, dict[bytes, bytes]]]:
    """Return the notifications."""
    found: Any = client.xrange(NOTIFICATIONS)
    return [(EntryId(entry_id.decode()), fields) for entry_id, fields in found]


def verified(client: redis.Redis, trust: Trust) -> list[str]:
    """Return the event_ids of the notifications, each verified."""
    for at, fields in entries(client):
        trust.check(NOTIFICATIONS, at, fields)
    return [json.loads(fields[b"event"])["event_id"] for _, fields in entries(client)]


def owner(url: str, signer: Signer | None, control: str = "control:events") -> Publisher:
    """Return the owner of a control stream."""
    keys = Keys.of(control, NOTIFICATIONS)
    found = Publisher(connect(url), keys, lease_s=60, dedup_window_s=3600, signer=signer)
    assert found.acquire() is not None
    return found


def outbound(name: str, content: str = "", *, known: bool = False) -> Outbound:
    """Return an event to publish."""
    raw = b'{"event_id":"%b","control_version":' % name.encode()
    identity = identity_digest(name) + identity_digest(content)
    return Outbound(identity, b"" if known else raw, Origin(f"control:events/{name}"), b"")


def test_whatever_a_worker_publishes_is_signed(rig: Rig, signer: Sly, trust: Trust) -> None:
    """Events with and without artifacts and traces, duplicates and dead letters between them."""
    rig.signer, rig.rules = signer, Rules(signs=True)
    expected = set()
    for number in range(150):
        name = f"e{number}"
        expected.add(name)
        if number % 3:
            rig.emit(name, tenant=f"t{number % 5}", ž="x" * number)
        else:
            rig.emit_artifact(name, tenant=f"t{number % 5}")
        if number % 4 == 0:
            rig.emit(name, tenant="t0", other="content")
            rig.add("no event", traceparent=TRACEPARENT)
            rig.add(
                json.dumps({"event_id": f"{name}'", "type": "run.abort"}), traceparent=TRACEPARENT
            )
            expected.add(f"{name}'")
    rig.drain()
    found = verified(rig.client, trust)
    assert len(found) == len(expected)
    assert set(found) == expected
    for at, fields in entries(rig.client):
        note = Notification.of_entry(fields)
        assert note.signature is not None
        assert note.signature.split()[1] == signer.key_id
        assert note.control_version == at.control_version


def test_without_a_key_nothing_is_signed(rig: Rig) -> None:
    """A notification has the fields that it had."""
    rig.emit("e")
    rig.drain()
    ((_, fields),) = entries(rig.client)
    assert set(fields) == {b"event", b"origin"}
    assert Notification.of_entry(fields).signature is None


def test_what_others_published_meanwhile_has_the_run_signed_again(
    redis_url: str, client: redis.Redis, signer: Sly, trust: Trust
) -> None:
    """Another control stream's worker takes the control_versions that were signed for: the run is
    published behind it, once.
    """
    one, other = owner(redis_url, signer), owner(redis_url, Signer.of(_key(trust)), "control:other")
    one.publish([outbound("first")], FIRST)
    taken = iter(range(3))

    def take() -> None:
        number = next(taken, None)
        if number is not None:  # as one whose clock is half a second ahead
            other._highest = max(one._highest, server_time_us(client)) + 500_000 * (number + 1)
            other.publish([outbound(f"o{number}{i}") for i in range(20)], FIRST)

    signer.meanwhile = take
    verdicts = one.publish([outbound("a"), outbound("first"), outbound("b")], FIRST)
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.PUBLISHED, Outcome.DUPLICATE, Outcome.PUBLISHED,
    ]  # fmt: skip
    found = verified(client, trust)
    assert found[0] == "first"
    assert found[-2:] == ["a", "b"]
    assert len(found) == 63
    assert one.publish([outbound("a"), outbound("b")], FIRST) == [
        verdicts[0]._replace(outcome=Outcome.DUPLICATE),
        verdicts[2]._replace(outcome=Outcome.DUPLICATE),
    ]


def _key(trust: Trust) -> Path:
    keys = trust._keys
    assert isinstance(keys, Keyring)
    return keys.directory.parent / "key"


def test_a_run_that_comes_late_is_signed_again(
    redis_url: str, client: redis.Redis, signer: Sly, trust: Trust
) -> None:
    """control_version is never behind the server's time, however long signing took."""
    one = owner(redis_url, signer)
    one.publish([outbound("first")], FIRST)
    waits = iter([0.0, 0.05, 0.1])

    sent_us = [0]

    def wait() -> None:
        until_us = server_time_us(client) + int(next(waits, 0.0) * 1e6)
        while server_time_us(client) < until_us:
            pass
        sent_us[0] = until_us

    signer.meanwhile = wait
    for name in ("a", "b", "c"):
        one.publish([outbound(name)], FIRST)
        (last, _) = entries(client)[-1]
        assert sent_us[0] <= last.control_version <= server_time_us(client) + MOST_AHEAD_US
    assert verified(client, trust) == ["first", "a", "b", "c"]


def test_after_redis_lost_its_memory_control_versions_rise_all_the_same(
    redis_url: str, client: redis.Redis, signer: Sly, trust: Trust
) -> None:
    """Also above what a registered reader passed, of which the worker that signs knows nothing."""
    one = owner(redis_url, signer)
    passed = server_time_us(client) + 3_600_000_000
    prefix = Keys.of("control:events", NOTIFICATIONS).prefix
    client.set(f"{prefix}:reader:a", f"{passed} {passed} 60")
    client.sadd(f"{prefix}:registered", "a")
    (verdict,) = one.publish([outbound("a")], FIRST)
    assert verdict.control_version > passed
    assert verified(client, trust) == ["a"]


def test_what_is_only_looked_up_is_not_signed(
    redis_url: str, client: redis.Redis, signer: Sly, trust: Trust
) -> None:
    """Known events, conflicts and those that the index forgot, among others."""
    one = owner(redis_url, signer)
    one.publish([outbound("a")], FIRST)
    run = [outbound("a", known=True), outbound("b"), outbound("a", "other"), outbound("c")]
    found = [verdict.outcome for verdict in one.publish(run, FIRST)]
    assert found == [Outcome.DUPLICATE, Outcome.PUBLISHED, Outcome.CONFLICT, Outcome.PUBLISHED]
    run = [outbound("d"), outbound("forgotten", known=True), outbound("e")]
    found = [verdict.outcome for verdict in one.publish(run, FIRST)]
    assert found == [Outcome.PUBLISHED, Outcome.FORGOTTEN]
    assert verified(client, trust) == ["a", "b", "c", "d"]


def test_an_event_leaves_room_for_its_signature(rig: Rig, signer: Sly, trust: Trust) -> None:
    """A notification has 8 KiB with its signature, too: what would be larger is a dead letter."""
    rig.signer, rig.rules = signer, Rules(signs=True)
    body = {"event_id": "fits", "type": "run.abort"}
    for size in range(MAX_NOTIFICATION_BYTES - 800, MAX_NOTIFICATION_BYTES, 100):
        rig.add(json.dumps(body | {"event_id": f"{size}", "pad": "x" * size}))
    rig.drain()
    assert MAX_ENTRY_BYTES > MAX_NOTIFICATION_BYTES
    sizes = [sum(map(len, one)) + sum(map(len, one.values())) for _, one in entries(rig.client)]
    assert verified(rig.client, trust)
    assert MAX_NOTIFICATION_BYTES - 500 < max(sizes) <= MAX_NOTIFICATION_BYTES
    assert "too_large" in rig.reasons()


def test_a_notification_signed_for_another_place_is_seen(
    redis_url: str, client: redis.Redis, signer: Sly, trust: Trust
) -> None:
    """Who may append to the stream cannot publish again what was signed once."""
    one = owner(redis_url, signer)
    one.publish([outbound("a")], FIRST)
    ((_, fields),) = entries(client)
    copy: Any = fields
    client.xadd(NOTIFICATIONS, copy)
    with pytest.raises(Untrusted):
        verified(client, trust)


def test_how_far_ahead_a_worker_is_shrinks_again(signer: Sly) -> None:
    """A hiccup of Redis does not let control_versions run ahead for ever."""
    now_us = 1_000_000_000
    signing = Signing(signer, NOTIFICATIONS, lambda: now_us / 1e6)
    for _ in range(8):
        floor, _ = signing.signed([("control:events/1-1", b"{")], 0)
        signing.overtaken(floor + 1, floor + 2)
    ahead = []
    for _ in range(100):
        floor, _ = signing.signed([("control:events/1-1", b"{")], 0)
        ahead.append(floor - now_us)
        signing.published(now_us)
    assert ahead[1] > 50 * AHEAD_US
    assert AHEAD_US <= ahead[-1] < 2 * AHEAD_US


def test_workers_that_overtake_each_other_stay_near_the_servers_time(
    redis_url: str, client: redis.Redis, signer: Sly, trust: Trust
) -> None:
    """Those of two control streams that publish in turn do not outbid each other: control_versions
    would run away from time, by seconds a run, and never come back.
    """
    owners = [owner(redis_url, signer, f"control:{name}") for name in "ab"]
    for one in owners:  # as after hiccups of Redis
        one._signing._ahead_us = MOST_AHEAD_US  # type: ignore[union-attr]
    for number in range(30):
        for one in owners:
            one.publish([outbound(f"{one._keys.control}{number}")], FIRST)
    (last, _) = entries(client)[-1]
    assert last.control_version < server_time_us(client) + 2 * MOST_AHEAD_US
    assert len(verified(client, trust)) == 60


def test_where_all_are_far_ahead_nobody_goes_farther_than_it_must(signer: Sly) -> None:
    """After a clock of Redis that went back by an hour, each is given what comes next."""
    now_us, last = 1_000_000_000, 4_600_000_000
    signing = Signing(signer, NOTIFICATIONS, lambda: now_us / 1e6)
    for _ in range(50):
        signing.overtaken(last, now_us)
        floor, _ = signing.signed([("control:events/1-1", b"{")], 0)
        assert floor == last
        signing.published(now_us)
        last += 1
