"""The object backend while the network and the service misbehave, each time as planned."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from datetime import UTC, datetime
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
from store.testing.samples import Interrupted, Trickle
from tests.proofs import sampled
from tests.servers import START_TIMEOUT_S
from tests.store import object_server
from tests.store.object_server import (
    cut_at,
    cut_short,
    held,
    lost_in_the_service,
    lost_reply,
    no_tag_fits,
    refused,
    said_in_the_body,
    silent,
    silent_after,
    status,
    trickling,
    unconditional,
    unquoted_only,
)
from tests.store.working import (
    BIG,
    HUGE,
    PART_BYTES,
    PASSING,
    REF,
    WORK,
    put_at_a_position,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import ObjectMeta

    from tests.store.object_server import Fault, Proxy, S3Server

HEAD: ObjectMeta = {
    "path": "", "last_modified": datetime.now(UTC), "size": 0, "e_tag": None, "version": None,
}  # fmt: skip
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


@pytest.mark.parametrize(
    "fault", sampled(PASSING, ["4", "6"], lambda fault: str(PASSING.index(fault)))
)
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


def test_a_listing_of_nothing_is_a_missing_bucket(
    opened: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where obstore finds nothing to list, that is an error of the store."""
    gone = (os.stat("/nowhere") for _ in "1")
    monkeypatch.setattr(opened._bucket._obstore, "list", lambda *_, **__: gone)
    with pytest.raises(Unavailable, match="bucket does not exist"):
        list(opened._bucket.keys("refs"))


def test_who_does_not_wait_for_long_has_one_client(opened: ObjectStore) -> None:
    """Each failed write asks by the same client: one of its own has connections of its own."""
    bucket = opened._bucket
    assert bucket.hasty() is bucket.hasty()
    assert bucket.hasty() is not bucket.hasty(retries=False)


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


# Ambiguous writes: the answer is lost, or says what is not so.


@pytest.mark.parametrize(
    "fault", [lost_reply, lost_in_the_service, said_in_the_body], ids=lambda fault: fault.__name__
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_completed_upload_whose_answer_is_lost(
    s3: S3Server, bucket: str, opened: ObjectStore, proxy: Proxy, fault: Fault, is_stream: bool
) -> None:
    """An upload that is complete, though its answer says otherwise or nothing, is not repeated."""
    proxy.plan("POST", "uploadId=", fault)
    if is_stream:
        opened.put_from(REF, io.BytesIO(HUGE), b"m")
    else:
        opened.put(REF, HUGE, b"m")
    assert opened.get(REF) == (HUGE, b"m")
    assert len([key for key in s3.keys(bucket) if "/objects/" in key]) == 1
    assert proxy.seen("PUT", "partNumber=") == 2
    assert b"<UploadId>" not in s3.request("GET", f"{bucket}?uploads")


def test_another_content_at_the_key_is_no_success(opened: ObjectStore, proxy: Proxy) -> None:
    """What lies at a key after a write that failed counts only if it is what was sent."""

    def garbled(exchange: object_server.Exchange) -> None:
        exchange.body = exchange.body[::-1]
        exchange.fetch()
        status(403, "AccessDenied")(exchange)

    proxy.plan("PUT", "/objects/", garbled)
    with pytest.raises(Unavailable, match="AccessDenied"):
        opened.put(REF, BIG, b"m")
    assert not opened.exists(REF)


@pytest.mark.parametrize("where", ["/versions/", "/refs/", "/objects/"])
def test_a_write_is_found_after_an_outage_of_answers(
    s3: S3Server, bucket: str, proxy: Proxy, where: str
) -> None:
    """A write of which each answer fails, for as long as it is asked, is found to be done."""
    opened = open_bucket(bucket, timeout_s=4.0)
    proxy.plan("PUT", where, lost_in_the_service, times=9999)
    opened.put(REF, BIG, b"m")
    assert opened.get(REF) == (BIG, b"m")
    assert len([key for key in s3.keys(bucket) if "/objects/" in key]) == 1


@pytest.mark.parametrize(("method", "where"), [("PUT", "/versions/"), ("POST", "uploadId=")])
def test_absence_on_a_write_is_not_always_the_bucket(
    opened: ObjectStore, proxy: Proxy, method: str, where: str
) -> None:
    """A 404 for a write into a bucket that is there does not send people to make the bucket."""
    proxy.plan(method, where, status(404, "NoSuchUpload"), times=99)
    with pytest.raises(Unavailable, match="NoSuchUpload") as raised:
        opened.put_from(REF, io.BytesIO(HUGE), b"m")
    assert "bucket does not exist" not in str(raised.value)


@pytest.mark.parametrize("size_bytes", [10, 100_000])
@pytest.mark.parametrize("when", ["copy", "note"])
def test_a_collection_beside_quarantine(
    s3: S3Server, bucket: str, opened: ObjectStore, proxy: Proxy, size_bytes: int, when: str
) -> None:
    """Damage that is collected before it was moved aside, or as it is, stops no verification."""
    opened.put(REF, b"d" * size_bytes, b"m")
    opened.put("other", b"data", b"m")
    (damaged,) = (
        key for key in s3.keys(bucket) if "/versions/" in key and REF in key
        and ("/objects/" in key or size_bytes == 10)
    )  # fmt: skip
    s3.write(bucket, damaged, s3.read(bucket, damaged)[:-1] + b"X")

    def collected(exchange: object_server.Exchange) -> None:
        s3.delete(bucket, damaged)
        object_server.passed(exchange)

    proxy.plan("PUT", "/quarantine/" if when == "copy" else f"/{damaged}", collected)
    checked = list(opened.verify(quarantine=True))
    assert [each.quarantined for each in checked if each.where.endswith(damaged)] in ([], [None])
    assert sum(each.error is None for each in checked) == (3 if size_bytes == 10 else 4)


# Answers that end early without saying so.


def test_an_answer_that_is_shorter_than_it_says(opened: ObjectStore, proxy: Proxy) -> None:
    """A body that ends before what its header promises is asked for again, and no damage."""
    opened.put("small", b"data", b"m")
    opened.put(REF, BIG, b"m")
    for part, size_bytes in (("/small@", 30), ("/refs/", 30), ("/objects/", 1_000_000)):
        proxy.plan("GET", part, cut_short(size_bytes))
    assert opened.get("small") == (b"data", b"m")
    assert opened.get(REF) == (BIG, b"m")


@pytest.mark.parametrize("part", ["/refs/", "/objects/"])
def test_an_answer_to_another_request(
    s3: S3Server, bucket: str, opened: ObjectStore, proxy: Proxy, part: str
) -> None:
    """What was asked for by somebody else is never taken for what was asked for."""
    opened.put(REF, BIG, b"m")
    opened.put("other", BIG[::-1], b"m")
    (key,) = (key for key in s3.keys(bucket) if part in key and "other" in key)

    def mistaken(exchange: object_server.Exchange) -> None:
        exchange.path = f"/{bucket}/{key}"
        object_server.passed(exchange)

    proxy.plan("GET", part, mistaken)
    with contextlib.suppress(Corrupt):  # another copy may be there to read
        assert opened.get(REF) == (BIG, b"m")
    assert opened.get(REF) == (BIG, b"m")


def test_a_listing_that_is_cut(opened: ObjectStore, proxy: Proxy) -> None:
    """A page of a listing that ends in its middle is `Unavailable` or asked for again, not less."""
    for i in range(3):
        opened.put(f"a/{i}", b"", b"")
    proxy.plan("GET", "list-type", cut_short(400), times=1)
    assert sorted(opened.list()) == ["a/0", "a/1", "a/2"]


# What services say.


@pytest.mark.parametrize(
    ("code", "name", "message", "fix"),
    [
        (403, "RequestTimeTooSkewed", "", "clock of this host"),
        (403, "InvalidAccessKeyId", "", "knows no such key"),
        (403, "SignatureDoesNotMatch", "", "not that of the key"),
        (400, "ExpiredToken", "", "renew it"),
        (403, "QuotaExceeded", "", "raise the quota"),
        (503, "SlowDown", "", "fewer store threads"),
        (400, "KMS.DisabledException", "", "key that encrypts"),
        (403, "AccessDenied", "not allowed to perform: kms:GenerateDataKey", "key that encrypts"),
        (400, "InvalidRequest", "a header is required with Object Lock parameters",
         "AWS_CHECKSUM_ALGORITHM=SHA256"),
        (409, "BlobImmutableDueToPolicy", "", "retention rule"),
        (403, "AccessDenied", "Access Denied because object protected by object lock.",
         "retention rule"),
        (400, "UserProjectMissing", "requester pays bucket", "AWS_REQUEST_PAYER"),
        (403, "AccessDenied", "", "let the credentials read, write"),
    ],
)  # fmt: skip
def test_what_a_service_says_has_its_fix(
    bucket: str, proxy: Proxy, code: int, name: str, message: str, fix: str
) -> None:
    """Each refusal is told with its own fix, whatever the refs are called."""
    opened = open_bucket(bucket)
    proxy.plan("PUT", "versions/", status(code, name, message), times=9999)
    with pytest.raises(Unavailable, match=f"{name}: .*{fix}"):
        opened.put("object-lock/retention/SlowDown", b"data", b"m")


# Services without conditional writes, or with some of their own.


def test_a_service_that_wants_no_quotes(bucket: str, proxy: Proxy) -> None:
    """Where each tag in quotes is refused, the right one, too, they are left out: refs move."""
    proxy.plan("PUT", "", unquoted_only, times=9999)
    opened = open_bucket(bucket)
    put_at_a_position(opened)
    assert opened.caveats() == ()
    assert opened._bucket.unchanged({**HEAD, "e_tag": '"tag"'}) == {"e_tag": "tag"}


def test_a_service_that_takes_no_tag(bucket: str, proxy: Proxy) -> None:
    """Where no tag is ever right, Puts do without condition, and what that means is told."""
    proxy.plan("PUT", "", no_tag_fits, times=9999)
    opened = open_bucket(bucket)
    put_at_a_position(opened)
    (caveat,) = opened.caveats()
    assert re.search("move the ref back; use a release", caveat)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_conflict_without_a_change(bucket: str, proxy: Proxy, is_new: bool) -> None:
    """A refusal of what nobody changed is tried again, and then told as the service's."""
    opened = open_bucket(bucket)
    if not is_new:
        opened.put(REF, b"old", b"m")
    conflict = status(412, "PreconditionFailed")
    proxy.plan("PUT", "/refs/", conflict, times=2)
    opened.put(REF, b"new", b"m")
    assert opened.get(REF) == (b"new", b"m")
    proxy.plan("PUT", "/refs/", conflict, times=9999)
    with pytest.raises(Unavailable, match="says again and again that it changed"):
        opened.put(REF, b"newer", b"m")


def test_a_service_that_changes_its_mind(bucket: str, proxy: Proxy) -> None:
    """Where conditions come to be refused while a worker runs, it finds the form that is taken."""
    opened = open_bucket(bucket)
    put_at_a_position(opened)
    proxy.plan("PUT", "", unquoted_only, times=9999)
    opened.put(REF, b"newer", b"m", position=(4, 0))
    assert opened.get(REF) == (b"newer", b"m")


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
    assert len(opened.caveats()) == 1


def test_conditional_writes_are_used(opened: ObjectStore, proxy: Proxy) -> None:
    """Where a service knows conditions, it is asked once, and they are used."""
    put_at_a_position(opened)
    assert opened._bucket.unchanged(None) == "create"
    assert proxy.seen("PUT", "/STORE") == 3


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
