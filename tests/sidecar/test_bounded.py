"""Answers of Redis that are too large for memory: what is kept of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.connection import Connection

from sidecar.redis import bounded
from sidecar.redis.bounded import MOST_BYTES, BoundedParser, TooMuch
from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.scan import pages, pages_back, stream_info
from sidecar.redis.source import ControlStream
from sidecar.wire.event import MAX_ENTRY_BYTES
from sidecar.wire.ids import FIRST, LAST
from tests.servers import Server

KEYS = Keys.of("control:events", "control:notifications")
MIB = 1 << 20
ids = st.builds("{}-{}".format, st.integers(0, 2**64 - 1), st.integers(0, 9)).map(str.encode)
values = st.none() | st.integers(-9, 10**12) | st.binary(max_size=40) | ids
pairs = st.builds(
    lambda one, fields: [one, [part for pair in fields for part in pair]],
    ids, st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=40))),
)  # fmt: skip
answers = st.recursive(values | pairs, lambda inner: st.lists(inner, max_size=5), max_leaves=20)


def resp(value: Any) -> bytes:
    """Return an answer as the server sends it."""
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(resp, value))


@contextmanager
def answering(raw: bytes, part: int) -> Iterator[BoundedParser]:
    """Yield a parser at whose other end these bytes are sent, so many at a time."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        for at in range(0, len(raw), part):
            theirs.sendall(raw[at : at + part])

    sender = threading.Thread(target=send)
    with closing(ours), closing(theirs):
        connection: Any = Connection(parser_class=BoundedParser, socket_read_size=part)  # type: ignore[no-untyped-call]
        connection._sock = ours
        parser = connection._parser
        parser.on_connect(connection)
        parser.begin()
        sender.start()
        yield parser
        sender.join()


@settings(max_examples=40)
@example([[b"1-1", [b"no", []]], [b"1-1", [None, b"entry"]], [b"1-1", [b"a", b"b", 7, b"c"]]], 1, 0)
@given(st.lists(answers, min_size=1, max_size=4), st.integers(1, 300), st.integers(0, 400))
def test_answers_are_as_hiredis_has_them(sent: list[Any], part: int, most: int) -> None:
    """Wherever among them those begin that are read by hand, and however they come."""
    with (
        pytest.MonkeyPatch.context() as patch,
        answering(b"".join(map(resp, sent)), part) as parser,
    ):
        patch.setattr(bounded, "MOST_BYTES", most)
        found = [parser.read_response() for _ in sent]
    expected = [_without_empty(one) for one in sent]
    assert [_without_empty(one) for one in found] == expected


@pytest.mark.parametrize("part", [5, 7])
def test_the_next_command_has_its_own_answer(part: int) -> None:
    """Also where it is read by hand from the end of a value on: nothing is left of it then."""
    sent = [[12] * 20, 34, [56], 78]  # each value, and each beginning, of five bytes
    with (
        pytest.MonkeyPatch.context() as patch,
        answering(b"".join(map(resp, sent)), part) as parser,
    ):
        patch.setattr(bounded, "MOST_BYTES", 6 * part)
        found = [parser.read_response()]
        if part == 5:  # nothing was read beyond the answer
            assert not parser._reader.has_data()
            parser.begin()
        found += [parser.read_response() for _ in sent[1:]]
    assert found == sent


def _without_empty(answer: Any) -> Any:
    """Leave out fields of entries that have neither name nor value: they may be dropped."""
    if not isinstance(answer, list):
        return answer
    if len(answer) == 2 and bounded._is_id(answer[0]) and isinstance(answer[1], list):
        each = iter(answer[1])
        if all(isinstance(one, bytes) for one in answer[1]) and len(answer[1]) % 2 == 0:
            kept = [part for pair in zip(each, each, strict=True) if any(pair) for part in pair]
            return [answer[0], kept]
    return [_without_empty(one) for one in answer]


def test_an_error_among_them_is_an_error() -> None:
    """As a pipeline wants it: the answers behind it are read all the same."""
    with (
        pytest.MonkeyPatch.context() as patch,
        answering(b"+OK\r\n-WRONGTYPE no\r\n:7\r\n*1\r\n-ERR in\r\n", 3) as parser,
    ):
        patch.setattr(bounded, "MOST_BYTES", 4)
        found = [parser.read_response() for _ in range(4)]
        assert [found[0], found[2]] == [b"OK", 7]
        assert isinstance(found[1], redis.ResponseError)
        assert isinstance(found[3][0], redis.ResponseError)


def giant(client: redis.Redis, entry_id: str, *more: str | bytes, mib: int = 16) -> None:
    """Append an entry of many fields of a MiB each, and more fields behind them."""
    filler = b"x" * MIB
    fields = [part for number in range(mib) for part in (f"f{number}", filler)]
    client.execute_command("XADD", KEYS.control, entry_id, *fields, *more)  # type: ignore[no-untyped-call]


def test_of_an_entry_of_hundreds_of_mib_its_event_and_its_size_are_kept(
    redis_server: Server, client: redis.Redis
) -> None:
    """Whoever reads it, and whatever lies before its event: its letter is one and the same."""
    event = b"e" * (2 * MAX_ENTRY_BYTES)
    giant(client, "1-0", "event", event)
    client.xadd(KEYS.control, {"event": "small"}, id="2-0")
    with closing(connect(redis_server.url)) as bound:
        (found,) = pages(bound, KEYS.control)
        assert [one.id for one in found] == ["1-0", "2-0"]
        (back,) = pages_back(bound, KEYS.control)
        assert [one.id for one in back] == ["2-0", "1-0"]
        info = stream_info(bound, KEYS.control)
        assert info is not None
        assert info.first_id == "1-0"
        control = ControlStream(bound, bound, KEYS)
        control.create_group(FIRST)
        large, small = control.read_new(2, None)
        assert large.size_bytes > 16 * MIB
        assert small.size_bytes == len("event" + "small")
        for each in (large, found[0]):
            assert each.raw_event[:MAX_ENTRY_BYTES] == event[:MAX_ENTRY_BYTES]
            assert sum(map(len, each.fields.values())) < 64 << 10
        assert bound.get("nothing") is None, "the connection is in step"


def test_what_has_many_parts_is_read_by_fewer_at_a_time(
    redis_server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages come all the same, and none is left out; one that is too much alone is an error."""
    monkeypatch.setattr(bounded, "MOST_BYTES", 1 << 10)
    monkeypatch.setattr(bounded, "MOST_KEPT_BYTES", 8 << 10)
    names = [f"{number}-0" for number in range(1, 41)]
    for name in names:
        client.xadd(KEYS.control, {"event": "x" * 1000}, id=name)
    with closing(connect(redis_server.url)) as bound:
        read = [one.id for page in pages(bound, KEYS.control, page=40) for one in page]
        back = [one.id for page in pages_back(bound, KEYS.control, page=40) for one in page]
        assert read == back[::-1] == names
        control = ControlStream(bound, bound, KEYS)
        found = [one.id for page in control.pages(FIRST, names[-1], 40) for one in page]  # type: ignore[arg-type]
        assert found == names
        control.create_group(FIRST)
        with pytest.raises(TooMuch):
            control.read_new(16, None)
        assert control.pending().total == 16
        there: list[Any] = []
        while more := control.read_pending(there[-1] if there else FIRST, 16):
            there += [one.id for one in more]
        assert there == names[:16]
        client.rpush("many", *range(5000))
        with bound.pipeline(transaction=False) as pipeline:
            pipeline.lrange("many", 0, -1)
            pipeline.get("nothing")
            with pytest.raises(TooMuch, match="MiB"):
                pipeline.execute()
        assert bound.llen("many") == 5000, "it connects anew"


def test_an_entry_of_very_many_fields_is_passed_over(
    redis_server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes are counted to the last, and the event is found wherever it is."""
    monkeypatch.setattr(bounded, "MOST_BYTES", 1 << 10)
    tiny = [part for n in range(60_000) for part in (f"{n % 700}", "event"[: n % 6])]
    for event in ([], ["event", "it", "event", "is"]):
        fields = [*tiny, *event, *tiny[:10]]
        client.execute_command("XADD", KEYS.control, "*", *fields)  # type: ignore[no-untyped-call]
        with closing(connect(redis_server.url)) as bound:
            found = ControlStream(bound, bound, KEYS).last_to(LAST)
        assert found
        assert found.size_bytes == sum(map(len, fields))
        assert found.raw_event == (b"is" if event else b"")


def test_names_that_look_like_ids_are_names(redis_server: Server, client: redis.Redis) -> None:
    """A pair of a name and a large value is no entry, whatever the name is."""
    client.hset("hash", "1-1", b"*" * (9 * MIB))
    with closing(connect(redis_server.url)) as bound:
        assert bound.hgetall("hash") == {b"1-1": b"*" * bounded.VALUE_BYTES}
        client.hset("hash", "1-1", b"*1\r\n$1\r\nx\r\n" + b"*" * (9 * MIB))
        (value,) = bound.hgetall("hash").values()
        assert len(value) == bounded.VALUE_BYTES
        with bound.pipeline(transaction=False) as pipeline:
            pipeline.hmget("hash", "nothing", "1-1")
            pipeline.get("nothing")
            assert pipeline.execute()[1] is None


def test_large_answers_are_no_slower_than_their_bytes(
    redis_server: Server, client: redis.Redis
) -> None:
    """A pipeline of values each of which is legal is whole, though all of them are many bytes."""
    client.set("value", b"v" * 16_000)
    with closing(connect(redis_server.url)) as bound, bound.pipeline(transaction=False) as pipeline:
        count = 2 * MOST_BYTES // 16_000
        for _ in range(count):
            pipeline.get("value")
        assert set(pipeline.execute()) == {b"v" * 16_000}
