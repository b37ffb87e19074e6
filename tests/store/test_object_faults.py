"""The object backend while the network and the service misbehave, each time as planned."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import pytest

import store
from store import (
    ChecksumMismatch,
    ConfigError,
    Corrupt,
    NotFound,
    Retention,
    Unavailable,
    checksum_of,
)
from store.object import ObjectStore
from store.object.client import Bucket
from store.object.urls import location_of
from store.testing.samples import Interrupted, Trickle, blob_of
from tests.servers import START_TIMEOUT_S
from tests.store import object_server
from tests.store.object_server import (
    cut_at,
    held,
    lost_reply,
    refused,
    silent,
    silent_after,
    status,
    trickling,
    unconditional,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.store.object_server import Fault, Proxy, S3Server

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
]
OUTAGES: list[Fault] = [
    status(500, "InternalError"),
    status(503, "SlowDown"),
    status(403, "AccessDenied"),
    status(401, "Unauthorized"),
    status(400, "BadRequest"),
    status(404, "NoSuchBucket"),
    refused,
    silent,
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads have the smallest parts that S3 permits."""
    monkeypatch.setattr("store.object.client.PART_BYTES", PART_BYTES)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.fixture
def opened(bucket: str, proxy: Proxy) -> ObjectStore:
    """A store that is reached through the proxy."""
    opened = open_bucket(bucket)
    proxy.heal()
    return opened


def open_bucket(bucket: str, *, timeout_s: float = 3.0) -> ObjectStore:
    location = location_of(f"s3://{bucket}/fleet")
    return ObjectStore(Bucket(location, timeout_s), shortest_grace_s=0.0)


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


# One fault, at any request.


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_one_fault_anywhere_is_not_noticed(
    bucket: str, proxy: Proxy, work: Callable[[ObjectStore], None]
) -> None:
    """Whichever request meets a passing fault, everything succeeds, and once."""
    work(open_bucket(bucket))
    requests = proxy.seen()
    for i in range(0, requests, 1 + requests // 12):
        fault = PASSING[i % len(PASSING)]
        proxy.heal()
        proxy.plan("", "", fault, skip=i)
        work(ObjectStore(Bucket(location_of(f"s3://{bucket}/{i}"), 3.0), shortest_grace_s=0.0))
        assert proxy.seen() > i


@pytest.mark.parametrize("fault", PASSING, ids=range(len(PASSING)))
def test_every_passing_fault_of_a_put(bucket: str, proxy: Proxy, fault: Fault) -> None:
    """Each kind of passing fault, at each request of a Put with a position."""
    for i in range(12):
        opened = ObjectStore(Bucket(location_of(f"s3://{bucket}/{i}"), 3.0))
        proxy.heal()
        proxy.plan("", "", fault, skip=i)
        put_at_a_position(opened)
        assert len(list(opened.versions(REF))) == 3


# An outage, for as long as it lasts.


def operations(opened: ObjectStore) -> list[Callable[[], Any]]:
    pin: dict[str, Any] = {"checksum": checksum_of(b"data"), "manifest_checksum": checksum_of(b"m")}
    return [
        lambda: opened.get(REF),
        lambda: opened.get("absent"),
        lambda: opened.get(REF, checksum=checksum_of(b"other")),
        lambda: opened.get("absent", **pin),
        lambda: opened.open(REF),
        lambda: opened.exists(REF),
        lambda: opened.exists("absent"),
        lambda: opened.exists("absent", **pin),
        lambda: list(opened.list()),
        lambda: list(opened.list("absent")),
        lambda: list(opened.versions(REF)),
        lambda: list(opened.versions("absent")),
        lambda: list(opened.verify(quarantine=True)),
        lambda: list(opened.collect(Retention(0.0), lambda: ())),
        lambda: opened.put(REF, b"new", b"new"),
        lambda: opened.put(REF, BIG, b"new"),
        lambda: opened.put_from(REF, io.BytesIO(HUGE), b"new", position=(9, 0)),
    ]


@pytest.mark.parametrize("fault", OUTAGES, ids=range(len(OUTAGES)))
def test_an_outage_is_unavailable(bucket: str, proxy: Proxy, fault: Fault) -> None:
    """While requests fail every operation is `Unavailable`, with a fix and without secrets."""
    opened = open_bucket(bucket)
    opened.put(REF, b"data", b"m")
    hasty = open_bucket(bucket)
    hasty._bucket = hasty._writer._bucket = Bucket(hasty._bucket.location, 0.1)
    proxy.plan("", "", fault, times=10_000)
    for operation in operations(hasty):
        with pytest.raises(Unavailable) as raised:
            operation()
        assert bucket in str(raised.value)
        assert ": " in str(raised.value)
        for secret in object_server.CREDENTIALS.values():
            assert secret == "us-east-1" or secret not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(Unavailable):
        open_bucket(bucket, timeout_s=0.1)
    proxy.heal()
    assert opened.get(REF) == (b"data", b"m")
    assert not opened.exists("absent")
    assert len(list(opened.versions(REF))) == 1


def test_a_refusal_is_not_tried_again(opened: ObjectStore, proxy: Proxy) -> None:
    """403 is told at once, with what to grant: trying again would not help."""
    proxy.plan("", "", status(403, "AccessDenied"), times=99)
    with pytest.raises(Unavailable, match=r"403 Forbidden AccessDenied: let the credentials"):
        opened.get(REF)
    assert proxy.seen() == 1


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://127.0.0.1:1", "does not let us connect"),
        ("http://nowhere.invalid", "resolve|answer in time"),
    ],
)
def test_nobody_there(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, endpoint: str, said: str
) -> None:
    """An endpoint that refuses, or has no address, is told as that."""
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(Unavailable, match=said):
        open_bucket(bucket, timeout_s=0.3)


def test_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without its secret is told when the store is opened."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="credentials"):
        open_bucket(s3.new_bucket())


def test_a_slow_transfer_is_waited_for(bucket: str, proxy: Proxy) -> None:
    """What counts is progress: an answer may take longer than the time-out if it continues."""
    opened = open_bucket(bucket, timeout_s=2.0)
    opened.put(REF, BIG, b"m")
    opened.put("small", b"data", b"m" * 70_000)
    proxy.heal()
    proxy.plan("GET", "@", trickling(6, 0.5), times=99)
    with opened.open(REF) as reader:
        assert reader.read() == BIG
    assert opened.get("small").manifest == b"m" * 70_000
    assert proxy.seen() == 3, "it was begun anew"


# Reading continues where it broke.


def test_a_cut_body_is_taken_up(opened: ObjectStore, proxy: Proxy) -> None:
    """A connection that breaks again and again in the middle of an answer costs no byte."""
    opened.put(REF, BIG, b"m")
    proxy.plan("GET", "/objects/", cut_at(700_000), times=3)
    assert opened.get(REF) == (BIG, b"m")
    assert proxy.seen("GET", "/objects/") == 4


def test_a_stalled_body_is_taken_up(bucket: str, proxy: Proxy) -> None:
    """An answer that stops in the middle, for longer than the time allowed, continues anew."""
    opened = open_bucket(bucket, timeout_s=1.5)
    opened.put(REF, BIG, b"m")
    proxy.plan("GET", "/objects/", silent_after(1_000_000), times=2)
    with opened.open(REF) as reader:
        assert b"".join(iter(lambda: reader.read(100_000), b"")) == BIG
    assert proxy.seen("GET", "/objects/") >= 3


def test_a_body_that_does_not_come(bucket: str, proxy: Proxy) -> None:
    """An answer of which nothing comes in time is `Unavailable`, and not short."""
    opened = open_bucket(bucket, timeout_s=1.5)
    opened.put(REF, BIG, b"m")
    proxy.plan("GET", "/objects/", silent_after(0), times=99)
    with opened.open(REF) as reader, pytest.raises(Unavailable, match="answer in time"):
        reader.read()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s3, bucket, key: s3.write(bucket, key, BIG[::-1]), Corrupt),
        (lambda s3, bucket, key: s3.delete(bucket, key), Unavailable),
    ],
    ids=["replaced", "removed"],
)
def test_what_is_taken_up_is_the_same(
    s3: S3Server, bucket: str, proxy: Proxy, change: Any, error: type[Exception]
) -> None:
    """When the object was replaced or removed meanwhile, two halves are not put together."""
    opened = open_bucket(bucket, timeout_s=1.5)
    opened.put(REF, BIG, b"m")
    [key] = [key for key in s3.keys(bucket) if "/objects/" in key]
    proxy.plan("GET", "/objects/", silent_after(1_000_000))
    with opened.open(REF) as reader:
        assert reader.read(1000) == BIG[:1000]
        change(s3, bucket, key)
        with pytest.raises(error, match="while it was read"):
            reader.read()


def test_a_listing_that_breaks_off_goes_on(opened: ObjectStore, proxy: Proxy) -> None:
    """A listing whose answer is cut is asked for again, and yields everything once."""
    for i in range(3):
        opened.put(f"a/{i}", b"", b"")
    proxy.plan("GET", "list-type", cut_at(100), times=2)
    assert sorted(opened.list()) == ["a/0", "a/1", "a/2"]


def test_a_long_listing(opened: ObjectStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of many pages, of which some break off, continues where it was."""
    monkeypatch.setattr("store.object.client._PAGE_KEYS", 2)
    refs = [f"a/{i}" for i in range(7)]
    for ref in refs:
        opened.put(ref, b"", b"")

    def page(exchange: object_server.Exchange) -> None:
        exchange.path += "&max-keys=2"
        object_server.passed(exchange)

    def broken_page(exchange: object_server.Exchange) -> None:
        exchange.path += "&max-keys=2"
        cut_at(100)(exchange)

    proxy.plan("GET", "list-type", page, times=2)
    proxy.plan("GET", "list-type", broken_page, times=1)
    proxy.plan("GET", "list-type", page, times=99)
    assert sorted(opened.list()) == refs
    assert proxy.seen("GET", "start-after") > 0


# Writing: once, whole, and never back.


@pytest.mark.parametrize("fault", [lost_reply, status(500), status(409, "Conflict")], ids=range(3))
def test_a_lost_answer_is_no_rival(opened: ObjectStore, proxy: Proxy, fault: Fault) -> None:
    """A conditional write whose answer was lost is found to be done, not a conflict."""
    opened.put(REF, b"old", b"m", position=(1, 0))
    proxy.plan("PUT", "/refs/", fault)
    opened.put(REF, b"new", b"m", position=(2, 0))
    assert proxy.seen("PUT", "/refs/") == 3, "it was written once more than needed"
    assert opened.get(REF) == (b"new", b"m")
    assert len(list(opened.versions(REF))) == 2


@pytest.mark.parametrize("position", [None, (2, 0)])
def test_a_write_that_arrives_late_undoes_nothing(
    bucket: str, proxy: Proxy, position: store.Position | None
) -> None:
    """A Put that was given up, and is applied after later ones, does not move the ref back."""
    hasty = open_bucket(bucket, timeout_s=1.5)
    hasty.put(REF, b"old", b"m", position=(1, 0))
    released = threading.Event()
    proxy.plan("PUT", "/refs/", held(released), times=99)
    with pytest.raises(Unavailable):
        hasty.put(REF, b"late", b"m", position=position)
    proxy.heal()
    patient = open_bucket(bucket)
    patient.put(REF, b"new", b"m", position=position)
    released.set()
    assert proxy.late.acquire(timeout=START_TIMEOUT_S)
    assert patient.get(REF) == (b"new", b"m")


@pytest.mark.parametrize(
    ("error", "checksum"),
    [(Interrupted("Ctrl-C"), None), (OSError("gone"), None), (None, "sha256:" + "0" * 64)],
    ids=["interrupted", "broken", "refused"],
)
def test_an_upload_that_fails_leaves_nothing(
    s3: S3Server,
    bucket: str,
    opened: ObjectStore,
    proxy: Proxy,
    error: BaseException | None,
    checksum: str | None,
) -> None:
    """An upload that breaks or is refused leaves no key, and its parts are thrown away."""
    before = s3.keys(bucket)
    with pytest.raises(type(error) if error else ChecksumMismatch):
        opened.put_from(REF, Trickle(HUGE + HUGE, 1 << 20, error), b"m", checksum=checksum)
    assert proxy.seen("PUT", "partNumber=") > 0
    assert proxy.seen("DELETE", "uploadId=") > 0
    assert s3.keys(bucket) == before
    assert b"<UploadId>" not in s3.request("GET", f"{bucket}?uploads")


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_that_cannot_be_written(
    s3: S3Server, bucket: str, proxy: Proxy, method: str
) -> None:
    """An upload that the service fails is `Unavailable`; the ref and its pair stay as they were."""
    opened = open_bucket(bucket, timeout_s=1.5)
    opened.put(REF, b"old", b"m")
    before = s3.keys(bucket)
    proxy.plan(method, "uploadId=", status(500), times=999)
    with pytest.raises(Unavailable):
        opened.put_from(REF, io.BytesIO(HUGE), b"new")
    proxy.heal()
    assert opened.get(REF) == (b"old", b"m")
    assert s3.keys(bucket) == before


def test_copies_from_store_to_store(s3: S3Server, opened: ObjectStore) -> None:
    """What is read from one bucket can be put into another as it comes."""
    source = open_bucket(s3.new_bucket())
    source.put(REF, HUGE, b"m")
    with source.open(REF) as reader:
        opened.put_from(REF, reader, reader.manifest, checksum=reader.checksum)
    assert opened.get(REF) == (HUGE, b"m")


# Services without conditional writes.


@pytest.mark.parametrize("fault", [unconditional, status(501, "NotImplemented")], ids=range(2))
def test_without_conditional_writes(bucket: str, proxy: Proxy, fault: Fault) -> None:
    """Where a service knows no conditions, it is found out, and Puts in sequence do the same."""
    opened = open_bucket(bucket, timeout_s=3.0)
    proxy.plan("PUT", "/STORE", fault, times=99)
    proxy.plan("PUT", "/refs/", fault if fault is unconditional else object_server.passed, times=99)
    put_at_a_position(opened)
    assert opened._bucket.unchanged(None) is None
    opened.put(REF, b"plain", b"m")
    assert opened.get(REF) == (b"plain", b"m")
    assert proxy.seen("PUT", "/STORE") <= 2


def test_conditional_writes_are_used(opened: ObjectStore, proxy: Proxy) -> None:
    """Where a service knows conditions, it is asked once, and they are used."""
    put_at_a_position(opened)
    assert opened._bucket.unchanged(None) == "create"
    assert proxy.seen("PUT", "/STORE") == 1


def test_absence_is_told_by_the_storage(opened: ObjectStore, proxy: Proxy) -> None:
    """Somebody's 404 for a key is no absence unless the store itself is there."""
    opened.put(REF, b"data", b"m")
    proxy.plan("", "", status(404, "NoSuchKey"), times=99)
    for read in (opened.get, opened.exists):
        with pytest.raises(Unavailable, match="STORE is missing"):
            read(REF)
    proxy.heal()
    with pytest.raises(NotFound):
        opened.get("absent")
