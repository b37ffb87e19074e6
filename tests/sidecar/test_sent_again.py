"""What a repair notes as sent again is published once more, and nothing that is not lost is."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from sidecar.redis.finished import former_mark, unfinished
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Buried, Outcome, Publisher
from sidecar.redis.scripts import run_for_people
from sidecar.redis.source import Entry
from sidecar.wire.identity import identity_of
from sidecar.wire.ids import EntryId
from tests.sidecar.test_publisher import (
    KEYS,
    bury,
    clock_of,
    entries,
    identity,
    letter,
    outbound,
    owner,
    server,
)

__all__ = ["server"]

LOW = EntryId("1-0")


def _note(client: redis.Redis, event_id: str = "e", content: str = "content") -> list[Any]:
    """Note an event as sent again, as `audit --repair` does."""
    known = identity(event_id, content)
    answer: list[Any] = run_for_people(
        client, "send_again",
        [KEYS.notifications, KEYS.seen(known), KEYS.resent, KEYS.trimmed],
        [known[2:16], known[16:]],
    )  # fmt: skip
    return answer


def _forge(client: redis.Redis, version: int, event_id: str = "e") -> None:
    """Write the note that a stolen `repairer` would."""
    known = identity(event_id)
    client.hset(KEYS.resent, known[2:16], known[16:] + b"1 %d" % version)


def _published(one: Publisher) -> int:
    (verdict,) = one.publish([outbound("e")], LOW)
    assert verdict.outcome is Outcome.PUBLISHED
    return verdict.control_version


def _outcomes(one: Publisher) -> list[Outcome]:
    return [verdict.outcome for verdict in one.publish([outbound("e")], LOW)]


def test_what_is_lost_and_noted_is_published_once_more(server: redis.Redis) -> None:
    """Once, though it comes twice: then it is remembered as any other."""
    one = owner(server)
    first = _published(one)
    server.delete(KEYS.notifications)
    assert _note(server)[0] == 1
    assert _outcomes(one) == [Outcome.FORGOTTEN]
    assert _published(one) > first
    assert _outcomes(one) == [Outcome.DUPLICATE]
    assert len(entries(server)) == 1


def test_what_was_not_sent_again_stays_a_duplicate(server: redis.Redis) -> None:
    """Though its notification is lost: readers may have seen it."""
    one = owner(server)
    _published(one)
    server.delete(KEYS.notifications)
    assert _outcomes(one) == [Outcome.DUPLICATE]


def test_what_is_lost_and_refused_now_has_a_dead_letter(server: redis.Redis) -> None:
    """And is no duplicate of what is lost: the index forgets that, and a redrive publishes it."""
    one = owner(server)
    _published(one)
    server.delete(KEYS.notifications)
    assert bury(one, letter("s/1-0", "e")) == [Buried.PUBLISHED]
    assert _note(server)[0] == 1
    assert bury(one, letter("s/2-0", "e", "other")) == [Buried.WRITTEN]
    again = letter("s/3-0", "e")
    assert bury(one, again, again) == [Buried.WRITTEN, Buried.ALREADY]
    assert len(entries(server, KEYS.dead)) == 2
    assert _published(one)
    assert bury(one, letter("s/4-0", "e")) == [Buried.PUBLISHED]


def test_a_forged_note_buries_nothing_that_is_published(server: redis.Redis) -> None:
    """What is there, or was trimmed, is not lost."""
    one = owner(server)
    version = _published(one)
    _forge(server, version)
    assert bury(one, letter("s/1-0", "e")) == [Buried.PUBLISHED]
    server.delete(KEYS.notifications)
    server.hset(KEYS.trimmed, KEYS.notifications, EntryId.of_version(version))
    assert bury(one, letter("s/1-0", "e")) == [Buried.PUBLISHED]
    assert not server.exists(KEYS.dead)


def test_a_forged_note_publishes_nothing_twice(server: redis.Redis) -> None:
    """Neither what is there, nor what was trimmed, nor by a note of another control_version."""
    one = owner(server)
    version = _published(one)
    _forge(server, version)
    assert _outcomes(one) == [Outcome.DUPLICATE]
    server.xtrim(KEYS.notifications, maxlen=0, approximate=False)
    server.hset(KEYS.trimmed, KEYS.notifications, EntryId.of_version(version))
    assert _outcomes(one) == [Outcome.DUPLICATE]
    server.delete(KEYS.trimmed)
    _forge(server, version + 1)
    assert _outcomes(one) == [Outcome.DUPLICATE]
    server.hset(KEYS.resent, identity("e")[2:16], b"x" * 99)
    assert _outcomes(one) == [Outcome.DUPLICATE]
    server.delete(KEYS.resent)
    server.set(KEYS.resent, "another kind of key")
    assert _outcomes(one) == [Outcome.DUPLICATE]


def test_a_forged_note_gives_no_id_to_another_content(server: redis.Redis) -> None:
    """Its notification is lost, and still: the id is that of what was published under it."""
    one = owner(server)
    version = _published(one)
    server.delete(KEYS.notifications)
    other = identity("e", "another content")
    server.hset(KEYS.resent, other[2:16], other[16:] + b"1 %d" % version)
    (verdict,) = one.publish([outbound("e", "another content")], LOW)
    assert verdict.outcome is Outcome.CONFLICT


def test_what_is_there_or_unknown_is_not_noted(server: redis.Redis) -> None:
    """A repair that comes late learns that the notification is there."""
    one = owner(server)
    at = EntryId.of_version(_published(one))
    assert _note(server) == [-1, at.encode()]
    assert _note(server, "other") == [0, b""]
    assert _note(server, content="other") == [0, b""]
    server.xdel(KEYS.notifications, at)
    server.hset(KEYS.trimmed, KEYS.notifications, at)
    assert _note(server) == [-2, at.encode()]
    assert not server.exists(KEYS.resent)


@pytest.mark.parametrize("mark", ["note", "former"])
def test_earlier_entries_of_it_are_finished(server: redis.Redis, mark: str) -> None:
    """Also by what an earlier release wrote into the index."""
    one = owner(server)
    entry = Entry(EntryId("7-0"), {b"event": b'{"event_id":"e","type":"key.changed"}'})
    event, content = identity_of(entry.fields)
    assert list(unfinished(KEYS.control, [entry], one.seen, one.sent_again)) == [entry]
    if mark == "note":
        server.hset(KEYS.resent, event[2:], content + b"1 2")
    else:
        old = former_mark(event)
        server.hset(KEYS.seen(old), old[2:], content + b"1")
    assert list(unfinished(KEYS.control, [entry], one.seen, one.sent_again)) == []
    other = Entry(EntryId("8-0"), {b"event": b'{"event_id":"e","type":"dns.zone.upserted"}'})
    assert list(unfinished(KEYS.control, [other], one.seen, one.sent_again)) == [other]


def test_notes_go_with_the_window(server: redis.Redis) -> None:
    """What is younger stays."""
    now = clock_of(server)
    for event_id, age_s in (("old", 9000), ("young", 10)):
        value = b"c" * 16 + b"%d 7" % (now - age_s * 1_000_000)
        server.hset(KEYS.resent, identity(event_id)[2:16], value)
    Pruning(server, KEYS, dedup_window_s=1000).prune()
    assert server.hkeys(KEYS.resent) == [identity("young")[2:16]]


def test_all_of_a_run_that_was_sent_again_is_forgotten_at_once(server: redis.Redis) -> None:
    """A worker reads everything again for what is forgotten: once, however many events they are."""
    one = owner(server)
    run = [outbound(f"e{i}") for i in range(5)]
    one.publish(run, LOW)
    server.delete(KEYS.notifications)
    for i in (1, 2, 4):
        assert _note(server, f"e{i}")[0] == 1
    first = [verdict.outcome for verdict in one.publish(run, LOW)]
    assert first == [Outcome.DUPLICATE, Outcome.FORGOTTEN]
    known = [one.publish([event], LOW)[0].outcome for event in run]
    assert known == [
        Outcome.DUPLICATE,
        *[Outcome.PUBLISHED] * 2,
        Outcome.DUPLICATE,
        Outcome.PUBLISHED,
    ]
