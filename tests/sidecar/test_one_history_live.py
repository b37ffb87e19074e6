"""What `test_one_history` says holds on a real server, too, and `audit` judges by the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import redis

import store
from sidecar.history.live import LiveHistory
from sidecar.ops.audit import Audit, AuditOrder
from sidecar.redis.client import Side
from sidecar.redis.keys import CONSUMER, Keys
from sidecar.redis.publisher import ANYBODYS, origin_digest
from sidecar.wire.identity import identity_of
from sidecar.wire.ids import FIRST, EntryId, Origin
from tests.proofs import sampled
from tests.sidecar.planted_history import (
    CONTROLS,
    DEAD,
    HALTS,
    NOTIFICATIONS,
    REDRIVEN,
    TRIMMED,
    Planted,
    Sent,
)
from tests.sidecar.test_one_history import shown

SEEDS: Final = 400
SAMPLE: Final = 12
KEYS: Final = [Keys.of(control, NOTIFICATIONS) for control in CONTROLS]
JUDGED: Final = {
    "published": "notification", "duplicate": "duplicate", "dead": "dead_letter",
    "redriven": "dead_letter", "waiting": "waiting", TRIMMED: "expired",
}  # fmt: skip
"""How an audit counts an entry, by how it ended."""


@pytest.mark.parametrize("seed", sampled(range(SEEDS), [str(n) for n in range(SAMPLE)]))
def test_an_audit_agrees_with_what_is_shown(
    seed: int, client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    """Of each entry on how it ended. It accuses all that came to nothing, and nobody else; but
    where notifications were trimmed, what may have been among them has expired. And what a live
    system shows is what its bundle does.
    """
    planted = Planted(random.Random(seed)).play()
    load(planted, client)
    side = Side(client, redis_url)
    ends, backs = shown(LiveHistory(side, side, KEYS))
    sure = {one.origin for one in planted.sent if one.end != TRIMMED}
    recorded, same = shown(planted.write(tmp_path))
    assert {one: end for one, end in ends.items() if one in sure} == {
        one: end for one, end in recorded.items() if one in sure
    }
    assert backs == same
    audit = Audit(side, side, store.open_url("memory:"), AuditOrder(KEYS, sample=0))
    lost = {Origin.of(one.stream, one.entry or FIRST) for one in audit.run()}
    left = set().union(*map(planted.there, CONTROLS))
    there = [one for one in planted.sent if one.origin in left]
    unknown = {one.origin for one in there if one.end == "unknown"}
    assert lost <= unknown if planted.trimmed != FIRST else lost == unknown
    again = {one.event_id for one in planted.sent if one.end == "published"}
    ended = (judged(one, again) for one in there if one.end != "unknown")
    assert audit.found.ends == Counter([*ended, *["expired"] * len(unknown - lost)])


def judged(one: Sent, published: set[str]) -> str:
    """Return as what an audit counts an entry.

    For what a repair sent again the new one stands; what waits and is published is a duplicate.
    """
    is_again = one.end == "waiting" and one.event_id in published
    is_repaired = one.end == "redriven" and not one.died_us
    return "duplicate" if is_again or is_repaired else JUDGED[one.end]


def load(planted: Planted, client: redis.Redis) -> None:
    """Write a history into a server, with all that a worker notes beside its streams."""
    one = KEYS[0]
    names = {NOTIFICATIONS: NOTIFICATIONS, DEAD: one.dead, REDRIVEN: one.redriven, HALTS: one.halts}
    if planted.trimmed != FIRST:
        client.xadd(NOTIFICATIONS, {"event": "{}"}, id=planted.trimmed)
        client.xtrim(NOTIFICATIONS, maxlen=0, approximate=False)
        client.hset(one.trimmed, NOTIFICATIONS, planted.trimmed)
    for name, stream in names.items():
        for entry, *fields in planted.rows[name]:
            client.xadd(stream, dict(zip(fields[::2], fields[1::2], strict=True)), id=entry)
    for sent in planted.sent:
        assert sent.origin.entry
        client.xadd(sent.origin.stream, {"event": json.dumps(sent.said)}, id=sent.origin.entry)
        remember(planted, sent, client)
    for keys in KEYS:
        read(planted, keys, client)


def remember(planted: Planted, sent: Sent, client: redis.Redis) -> None:
    """Have the deduplication index know what was published and buried, as a worker would."""
    identity, content = identity_of({b"event": json.dumps(sent.said).encode()})
    at = sent.ended_us or planted.trimmed.control_version
    if sent.end in ("published", TRIMMED):
        client.hset(KEYS[0].seen(identity), identity[2:], content + str(at).encode())
    if sent.died_us:
        origin = origin_digest(sent.origin)
        client.hset(KEYS[0].seen(origin), origin[2:], ANYBODYS + str(sent.died_us).encode())


def read(planted: Planted, keys: Keys, client: redis.Redis) -> None:
    """Hand out all that a control stream has, acknowledge what has ended, and trim what was."""
    if not client.exists(keys.control):
        return
    client.xgroup_create(keys.control, keys.group, "0")
    found: Any = client.xreadgroup(keys.group, CONSUMER, {keys.control: ">"})
    ended = {one.origin.entry for one in planted.sent
             if one.end != "waiting" and one.origin.stream == keys.control}  # fmt: skip
    entries = [EntryId(entry.decode()) for entry, _ in found[0][1]]
    for one in ended.intersection(entries):
        client.xack(keys.control, keys.group, str(one))
    kept = planted.rows[keys.control]
    first = EntryId(kept[0][0]) if kept else entries[-1].after
    if first != entries[0]:
        client.xtrim(keys.control, minid=first, approximate=False)
        client.hset(keys.trimmed, keys.control, first.before)
