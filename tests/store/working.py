"""Work for the object backend, each piece checked at its end, and faults that it outlives."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from store import Retention, checksum_of
from store.testing.samples import blob_of
from tests.store.object_server import (
    cut_at,
    late,
    lost_in_the_service,
    lost_reply,
    refused,
    status,
    twice,
)

if TYPE_CHECKING:
    from store.object import ObjectStore
    from tests.store.object_server import Fault

REF = "stacks/t_1/web/42"
BIG = blob_of(3 << 20)
PART_BYTES = 5 << 20
HUGE = blob_of(PART_BYTES + 12_345)

PASSING: list[Fault] = [
    status(500, "InternalError"),
    status(503, "SlowDown"),
    status(429, "TooManyRequests"),
    refused,
    lost_reply,
    cut_at(0),
    lost_in_the_service,
    twice,
    late(0.05),
]


def put_small(opened: ObjectStore) -> None:
    opened.put(REF, b"small", b"m")
    assert opened.get(REF) == (b"small", b"m")


def put_at_a_position(opened: ObjectStore) -> None:
    opened.put(REF, b"old", b"m", position=(1, 0))
    opened.put(REF, b"new", b"m", position=(3, 0))
    opened.put(REF, b"late", b"m", position=(2, 0))
    assert opened.get(REF) == (b"new", b"m")
    assert opened.get(REF, checksum=checksum_of(b"late")) == (b"late", b"m")


def put_large(opened: ObjectStore) -> None:
    opened.put(REF, BIG, b"m")
    assert opened.get(REF) == (BIG, b"m")


def put_stream(opened: ObjectStore) -> None:
    opened.put_from(REF, io.BytesIO(HUGE), b"m")
    with opened.open(REF) as reader:
        assert reader.read() == HUGE


def look(opened: ObjectStore) -> None:
    opened.put(REF, b"1", b"m")
    opened.put(REF, b"2", b"m")
    assert not opened.exists("absent")
    assert list(opened.list()) == [REF]
    assert len(list(opened.versions(REF))) == 2
    assert [each.error for each in opened.verify()] == [None] * 3
    assert len(list(opened.collect(Retention(0.0), lambda: ()))) == 1


WORK = [put_small, put_at_a_position, put_large, put_stream, look]
