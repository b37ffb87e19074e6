"""The object backend at work on real servers, with faults between, and what only they can show."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import store
from sidecar.feed import Feed
from sidecar.producer import Producer
from sidecar.worker import app
from sidecar.worker.settings import build
from store import Pin, Retention, Unavailable, checksum_of
from store.object import ObjectStore
from store.object.client import Bucket
from store.object.urls import location_of
from store.testing.samples import blob_of
from tests.servers import PATIENCE_S, START_TIMEOUT_S
from tests.sidecar.harness import silent_log
from tests.store.buckets import open_bucket
from tests.store.object_server import held, lost_in_the_service, silent, silent_after, status
from tests.store.services.ceph import Ceph
from tests.store.working import BIG, HUGE, PART_BYTES, PASSING, REF, WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.store.object_server import Fault, Proxy
    from tests.store.services.service import Service

pytestmark = pytest.mark.slow

ODD_REFS = (
    "a", "a/b", "A", "x", "x.manifest.json", "dir.", "dot/.hidden", "=41", "%41", "a b", "a+b",
    "caf\u00e9", "cafe\u0301", "\U0001f600", "q?x#y&z", "tilde~", "back\\slash", "s" * 255,
    "/".join("d" * 512), "@", "a@/b", "clock/now", "STORE",
)  # fmt: skip
WRITER = """
import sys, store
opened, number = store.open_url(sys.argv[1]), int(sys.argv[2])
for i in range(20):
    opened.put("one/ref", b"%d-%d" % (i, number), b"m", position=(i, number))
"""
UPLOADER = """
import sys, time, store
class Endless:
    def read(self, size):
        print(flush=True)
        return b"x" * size
store.open_url(sys.argv[1]).put_from("stacks/t_1/web/42", Endless(), b"killed")
"""


@pytest.fixture
def bucket(s3: Service) -> str:
    return s3.new_bucket()


@pytest.fixture
def opened(s3: Service, bucket: str) -> ObjectStore:
    return open_bucket(bucket, scheme=s3.scheme, shortest_grace_s=0.0)


def url_of(s3: Service, bucket: str) -> str:
    return f"{s3.scheme}://{bucket}/fleet"


# Faults between.


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_one_fault_anywhere_is_not_noticed(
    s3: Service, bucket: str, proxy: Proxy, work: Callable[[ObjectStore], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whichever request meets a passing fault, everything succeeds, and once."""
    monkeypatch.setattr("store.object.client.PART_BYTES", PART_BYTES)
    work(open_bucket(bucket, scheme=s3.scheme, shortest_grace_s=0.0))
    requests = proxy.seen()
    for i in range(0, requests, 1 + requests // 8):
        proxy.heal()
        proxy.plan("", "", PASSING[i % len(PASSING)], skip=i)
        location = location_of(f"{s3.scheme}://{bucket}/{i}")
        work(ObjectStore(Bucket(location, 20.0), shortest_grace_s=0.0))
        assert proxy.seen() > i


@pytest.mark.parametrize(
    "fault", [status(403, "AccessDenied"), status(503, "SlowDown"), silent], ids=range(3)
)
def test_an_outage_that_passes(s3: Service, bucket: str, proxy: Proxy, fault: Fault) -> None:
    """While all requests fail a Put is `Unavailable`; afterwards the same one succeeds."""
    opened = open_bucket(bucket, scheme=s3.scheme)
    opened.put(REF, b"old", b"m")
    patient, hasty = opened._writer._bucket, Bucket(location_of(url_of(s3, bucket)), 2.0)
    opened._writer._bucket = hasty  # only what must fail does so soon
    proxy.plan("", "", fault, times=9999)
    with pytest.raises(Unavailable):
        opened.put(REF, b"new", b"m")
    proxy.heal()
    opened._writer._bucket = patient
    assert opened.get(REF) == (b"old", b"m")
    opened.put(REF, b"new", b"m")
    assert opened.get(REF) == (b"new", b"m")


def test_a_completed_upload_is_found(s3: Service, bucket: str, proxy: Proxy) -> None:
    """An upload whose completion is answered with an error again and again is found to be done."""
    opened = open_bucket(bucket, scheme=s3.scheme, timeout_s=6.0)
    method, part = ("PUT", "comp=blocklist") if s3.scheme == "az" else ("POST", "uploadId=")
    proxy.plan(method, part, lost_in_the_service, times=9999)
    data = blob_of(20 << 20)
    opened.put_from(REF, io.BytesIO(data), b"m")
    assert checksum_of(opened.get(REF).data) == checksum_of(data)
    assert len([key for key in s3.keys(bucket) if "/objects/" in key]) == 1


def test_a_write_that_arrives_late_undoes_nothing(s3: Service, bucket: str, proxy: Proxy) -> None:
    """A Put that was given up, and is applied after later ones, does not move the ref back."""
    hasty = open_bucket(bucket, scheme=s3.scheme)
    hasty.put(REF, b"old", b"m")
    hasty._writer._bucket = Bucket(location_of(url_of(s3, bucket)), 3.0)
    released = threading.Event()
    proxy.plan("PUT", "/refs/", held(released), times=99)
    with pytest.raises(Unavailable):
        hasty.put(REF, b"late", b"m")
    proxy.heal()
    open_bucket(bucket, scheme=s3.scheme).put(REF, b"new", b"m")
    released.set()
    assert proxy.late.acquire(timeout=START_TIMEOUT_S)
    assert hasty.get(REF) == (b"new", b"m")


def test_a_stalled_download_is_taken_up(s3: Service, bucket: str, proxy: Proxy) -> None:
    """An answer that stops in the middle, for longer than the time allowed, continues anew."""
    opened = open_bucket(bucket, scheme=s3.scheme, timeout_s=3.0)
    opened.put(REF, BIG, b"m")
    proxy.plan("GET", "/objects/", silent_after(1_000_000), times=2)
    assert opened.get(REF) == (BIG, b"m")


# Size, number, and several at once.


def test_a_large_upload(opened: ObjectStore) -> None:
    """200 MiB go in parts and come back the same."""
    piece, sent = blob_of(1 << 20), hashlib.sha256()

    class Pieces:
        left = 200

        def read(self, size: int, /) -> bytes:
            assert size >= len(piece)
            self.left -= 1
            chunk = piece if self.left >= 0 else b""
            sent.update(chunk)
            return chunk

    checksum = opened.put_from(REF, Pieces(), b"m")
    assert checksum == f"sha256:{sent.hexdigest()}"
    with opened.open(REF, checksum=checksum) as reader:
        size_bytes = sum(len(chunk) for chunk in iter(lambda: reader.read(1 << 20), b""))
    assert size_bytes == 200 << 20


@pytest.mark.proof
def test_more_than_a_page_of_versions(opened: ObjectStore) -> None:
    """1,100 versions of a ref are listed, read by checksum, and collected but for pins."""
    opened.put(REF, b"current", b"m", position=(9, 0))

    def put(i: int) -> None:
        opened.put(REF, b"%d" % i, b"m", position=(1, i))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(1100)))
    assert opened.get(REF) == (b"current", b"m")
    assert len(list(opened.versions(REF))) == 1101
    assert opened.get(REF, checksum=checksum_of(b"550")) == (b"550", b"m")
    pins = [Pin(REF, checksum_of(b"550"))]
    time.sleep(1.1)  # services tell whole seconds
    assert len(list(opened.collect(Retention(0.0), lambda: pins))) == 1099
    assert opened.get(REF, checksum=checksum_of(b"550")) == (b"550", b"m")


def test_four_processes_on_one_ref(s3: Service, bucket: str, opened: ObjectStore) -> None:
    """Of writers in several processes the last position wins, and no version is lost."""
    url = url_of(s3, bucket)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, str(number)]) for number in range(4)
    ]
    assert [writer.wait(300) for writer in writers] == [0] * 4
    assert opened.get("one/ref") == (b"19-3", b"m")
    assert len(list(opened.versions("one/ref"))) == 80


def test_refs_that_are_taken_for_new(
    s3: Service, bucket: str, opened: ObjectStore, proxy: Proxy
) -> None:
    """New refs take two requests each in the end; one that was not new moves as it should."""
    eager = open_bucket(bucket, scheme=s3.scheme)
    for i in range(8):
        eager.put(f"warm/{i}", b"warm", b"m")
    proxy.heal()
    eager.put("warm/8", b"warm", b"m")
    assert proxy.seen() == 2
    opened.put(REF, b"old", b"m", position=(1, 0))
    eager.put(REF, b"new", b"m", position=(2, 0))
    assert eager.get(REF) == (b"new", b"m")
    assert eager.get(REF, checksum=checksum_of(b"old")) == (b"old", b"m")


def test_odd_refs(opened: ObjectStore) -> None:
    """Whatever a ref looks like, it is kept apart from all others, and listed as it is."""
    for ref in ODD_REFS:
        opened.put(ref, ref.encode(), b"m")
    assert sorted(opened.list()) == sorted(ODD_REFS)
    for ref in ODD_REFS:
        assert opened.get(ref) == (ref.encode(), b"m")


@pytest.mark.parametrize("algorithm", ["", "SHA256"])
@pytest.mark.parametrize("is_locked", [False, True])
def test_a_versioned_bucket(
    s3: Service, is_locked: bool, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With versioning, or Object Lock and its retention, all works but for conditional writes."""
    if not isinstance(s3, Ceph):
        pytest.skip("this one has no versions")
    if algorithm:
        monkeypatch.setenv("AWS_CHECKSUM_ALGORITHM", algorithm)
    bucket = s3.new_versioned_bucket(is_locked=is_locked)
    opened = open_bucket(bucket, shortest_grace_s=0.0)
    for i in (0, 2, 1):
        opened.put(REF, b"%d" % i, b"m", position=(i, 0))
    opened.put("large", HUGE, b"m")
    assert opened.get(REF) == (b"2", b"m")
    assert opened.get("large") == (HUGE, b"m")
    time.sleep(1.1)  # services tell whole seconds
    assert len(list(opened.collect(Retention(0.0), lambda: ()))) == 2
    assert sorted(opened.list()) == ["large", REF]
    assert [each.error for each in opened.verify()] == [None] * 5
    assert len(opened.caveats()) == 1, (
        "Ceph has learned it: docs/object-store.md says that it cannot"
    )


# Away, refused, killed.


def test_a_missing_bucket(s3: Service, bucket: str, opened: ObjectStore) -> None:
    """A bucket that is not there, or not any more, is `Unavailable`, and the message says so."""
    with pytest.raises(Unavailable, match="bucket does not exist"):
        open_bucket(f"{bucket}x", scheme=s3.scheme)
    for key in s3.keys(bucket):
        s3.delete(bucket, key)
    s3.remove(bucket)
    with pytest.raises(Unavailable, match="bucket does not exist"):
        opened.put(REF, b"data", b"m")
    with pytest.raises(Unavailable, match="bucket"):
        opened.get(REF)


@pytest.mark.parametrize("large", [False, True])
def test_a_wrong_key(
    s3: Service, bucket: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that is not the key's is told as that, and not repeated."""
    if s3.scheme == "gs":
        pytest.skip("the stand-in takes any")
    opened = open_bucket(bucket, scheme=s3.scheme)
    name = "AZURE_STORAGE_ACCOUNT_KEY" if s3.scheme == "az" else "AWS_SECRET_ACCESS_KEY"
    monkeypatch.setenv(name, "d3Jvbmc=")
    wrong = Bucket(location_of(url_of(s3, bucket)), 5.0)
    opened._bucket = opened._writer._bucket = wrong
    with pytest.raises(Unavailable, match=r"not that of the key|AuthorizationFailure") as raised:
        opened.put(REF, HUGE if large else b"data", b"m")
    assert "d3Jvbmc=" not in str(raised.value)


def test_a_client_that_is_killed(s3: Service, bucket: str, opened: ObjectStore) -> None:
    """After kill -9 in the middle of an upload the old pair is there, and no key is left."""
    opened.put(REF, b"old", b"m")
    before = s3.keys(bucket)
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOADER, url_of(s3, bucket)], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout
        for _ in range(40):  # MiB: four parts are on their way
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert opened.get(REF) == (b"old", b"m")
    assert s3.keys(bucket) == before
    opened.put(REF, b"new", b"m")
    assert opened.get(REF) == (b"new", b"m")


def test_a_server_that_is_killed(s3: Service, opened: ObjectStore) -> None:
    """While the gateway is away Puts wait, and then succeed; what was put before is there."""
    if not isinstance(s3, Ceph):
        pytest.skip("this one keeps nothing on disk")
    opened.put(REF, b"old", b"m")
    s3.kill()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(opened.put, REF, b"new", b"m")
        s3.serve()
        waiting.result(PATIENCE_S)
    assert opened.get(REF) == (b"new", b"m")
    assert opened.get(REF, checksum=checksum_of(b"old")) == (b"old", b"m")


def test_a_relay_end_to_end(s3: Service, bucket: str, redis_url: str) -> None:
    """Events at rewritten refs are published, and each resolves to the version that it named."""
    source, fleet = (f"{s3.scheme}://{bucket}/{name}" for name in ("source", "fleet"))
    producer = Producer(redis_url, "control:events", store.open_url(source))
    for i in range(30):
        data = b"%d" % i if i % 10 else blob_of(100_000 + i)
        producer.publish(
            type="stack.activated", tenant_id=f"t{i % 3}", stack_id="web", version=i + 1,
            ref=f"stacks/t{i % 3}/web", data=data, manifest=json.dumps({"i": i}).encode(),
        )  # fmt: skip
    settings = build(redis=redis_url, source_store=source, fleet_store=fleet, drain=True)
    assert app.run(settings, silent_log(), threading.Event()) == 0
    feed = Feed(redis_url, store=store.open_url(fleet))
    found = feed.poll(since=0)
    assert sorted(json.loads(feed.resolve(one).manifest)["i"] for one in found) == [*range(30)]
    feed.close()
    producer.close()
