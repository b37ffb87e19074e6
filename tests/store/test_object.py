"""The object backend keeps the contract, on a real S3 server of moto's."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import store
from store import ConfigError, Corrupt, Pin, Retention, Unavailable, checksum_of
from store.object import ObjectStore, collect
from store.object.layout import PREFIX_MAX_BYTES, folder_of, place_of, ref_of, version_key
from store.object.urls import location_of
from store.testing.samples import wait_out
from tests.store.buckets import open_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.object_server import S3Server

REF = "stacks/t_1/web/42"
BIG = b"b" * 100_000


def keys_of(s3: S3Server, bucket: str) -> list[str]:
    """Return every key of the store, without its prefix, as the service lists them."""
    return [key.removeprefix("fleet/") for key in s3.keys(bucket)]


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.fixture
def opened(bucket: str) -> ObjectStore:
    return open_bucket(bucket)


def digest(blob: bytes) -> str:
    return checksum_of(blob).removeprefix("sha256:")


# The layout, without the package.


def test_layout_of_small_data(s3: S3Server, bucket: str, opened: ObjectStore) -> None:
    """A small artifact is one record, twice: its version's, and the ref's current one."""
    data, manifest = b"data\n", b"{manifest}"
    opened.put(REF, data, manifest, position=(17, 3))
    *_, current, version = [key for key in s3.keys(bucket) if REF in key]
    assert current == f"fleet/refs/{REF}@"
    folder, _, nonce = version.rpartition("/")
    assert folder == f"fleet/versions/{REF}@/{digest(data)}/{digest(manifest)}"
    header, _, body = s3.read(bucket, current).partition(b"\n\n")
    assert header.decode().split("\n")[:4] == [
        f"nonce {nonce}",
        "artifact-record 1",
        f"ref {REF}",
        f"data {checksum_of(data)} 5",
    ]
    assert body == b"{manifest}data\n"
    assert s3.read(bucket, version) == s3.read(bucket, current)


def test_layout_of_large_data(s3: S3Server, bucket: str, opened: ObjectStore) -> None:
    """Data over 64 KiB lies in an object of its own, under the nonce of its record."""
    opened.put(REF, BIG, b"m")
    [data] = [key for key in s3.keys(bucket) if "/objects/" in key]
    assert data.startswith(f"fleet/versions/{REF}@/objects/")
    assert s3.read(bucket, data) == BIG
    nonce = data.rpartition("/")[2]
    assert s3.read(bucket, f"fleet/refs/{REF}@").startswith(f"nonce {nonce}\n".encode())


def test_a_bucket_without_a_prefix(s3: S3Server, bucket: str) -> None:
    """A whole bucket can be a store."""
    whole = store.open_url(f"s3://{bucket}")
    whole.put(REF, b"data", b"m")
    assert store.open("object", store.StoreConfig(url=f"s3://{bucket}/")).get(REF) == (
        b"data",
        b"m",
    )
    assert f"refs/{REF}@" in s3.keys(bucket)


SEGMENTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=40
).filter(lambda segment: segment not in {".", ".."} and len(segment.encode()) <= 255)
REFS = st.lists(SEGMENTS, min_size=1, max_size=60).map("/".join)


@settings(max_examples=150)
@given(ref=REFS.filter(lambda ref: len(ref.encode()) <= 1024))
@example(ref="a.")
@example(ref="a./b")
@example(ref="A")
@example(ref="=41")
@example(ref="...")
@example(ref="/".join("d" * 512))
@example(ref="/".join(["s" * 255] * 4))
def test_keys_are_legal_and_tell_the_ref(ref: str) -> None:
    """A ref's path is plain ASCII within the services' limits, and tells the ref unless hashed."""
    path = place_of(ref).path
    assert re.fullmatch(r"[a-z0-9._=/-]+@", path)
    for segment in path.split("/"):
        assert len(segment) <= 250
        assert not segment.endswith((".", "/"))
    assert path.count("/") < 60
    # quarantine/NONCE/versions/PATH/DATA/MANIFEST/NONCE, below the longest prefix
    assert PREFIX_MAX_BYTES + 1 + 44 + 9 + len(path) + 2 * 65 + 33 <= 1024
    assert ref_of(path) in {ref, None}
    if not any(part.startswith("==") for part in path.split("/")):
        assert ref_of(path) == ref
    assert f"{path}/".startswith(f"{folder_of(ref).rsplit('/', 1)[0]}")


def test_refs_beyond_a_keys_length_are_listed(opened: ObjectStore) -> None:
    """A ref that is too long for a key is found by every prefix of it, and only by those."""
    long = "/".join("d" * 512)
    beside = "/".join("d" * 500 + "e")
    for ref in (long, beside, "d/x"):
        opened.put(ref, ref.encode(), b"m")
    for prefix in ("", "d", "/".join("d" * 39), "/".join("d" * 40), "/".join("d" * 500)):
        assert sorted(opened.list(prefix)) == sorted(
            ref for ref in (long, beside, "d/x") if not prefix or ref.startswith(f"{prefix}/")
        )
    assert {each.ref for each in opened.verify("/".join("d" * 510))} == {long}
    assert opened.get(long).data == long.encode()


# What a Put relies on.


def test_a_put_writes_keys_of_its_own(s3: S3Server, bucket: str) -> None:
    """Whatever was put before, a Put writes each of its keys anew, but for the current record."""
    opened = open_bucket(bucket, shortest_grace_s=0.0)
    before: set[str] = set()
    for data, position in [(BIG, None), (b"s", None), (BIG, (1, 0)), (b"s", (2, 0)), (b"s", None)]:
        opened.put(REF, data, b"m", position=position)
        keys = {key for key in s3.keys(bucket) if "/versions/" in key}
        assert len(keys - before) == (2 if data == BIG else 1)
        current = s3.read(bucket, f"fleet/refs/{REF}@")
        assert current[6:38].decode() in {key.rpartition("/")[2] for key in keys - before}
        before = keys


def test_the_same_put_within_minutes_writes_nothing(s3: S3Server, bucket: str) -> None:
    """A small artifact that is put again while its record is young is left as it is."""
    opened = open_bucket(bucket)
    opened.put(REF, b"data", b"m", position=(5, 0))
    before = [key for key in s3.keys(bucket) if "clock" not in key]
    opened.put(REF, b"data", b"m", position=(5, 0))
    opened.put(REF, b"data", b"m", position=(4, 0))
    opened.put(REF, b"data", b"m")
    assert [key for key in s3.keys(bucket) if "clock" not in key] == before
    opened.put(REF, b"data", b"m", position=(6, 0))
    assert [key for key in s3.keys(bucket) if "clock" not in key] != before


def test_what_is_young_is_told_by_the_services_clock(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is behind does not make an old record look young."""
    opened = open_bucket(bucket, shortest_grace_s=0.0)
    opened._writer._reliable_s = 1.0
    opened.put(REF, b"data", b"m")
    wait_out(2.1)  # the service tells whole seconds
    ours = time.time
    monkeypatch.setattr(time, "time", lambda: ours() - 1000)
    before = s3.keys(bucket)
    opened.put(REF, b"data", b"m")
    assert len([key for key in s3.keys(bucket) if "clock" not in key]) == len(before) + 1


def test_of_several_copies_the_newest_counts(
    s3: S3Server, bucket: str, opened: ObjectStore
) -> None:
    """A version that was damaged and put again is read from its new copy, also when it is past."""
    opened.put(REF, BIG, b"m")
    for key in s3.keys(bucket):
        if "/objects/" in key:
            s3.write(bucket, key, b"damaged")
    opened.put(REF, BIG, b"m")
    opened.put(REF, b"other", b"m")
    assert opened.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")


# Opening.


def test_a_newer_format_is_refused(s3: S3Server, bucket: str) -> None:
    """A store of another format is not touched: `ConfigError` names both formats."""
    s3.write(bucket, "fleet/STORE", b"artifact-store 2\n")
    with pytest.raises(ConfigError, match=r"artifact-store 2.*artifact-store 1"):
        open_bucket(bucket)
    assert s3.read(bucket, "fleet/STORE") == b"artifact-store 2\n"


def test_a_foreign_prefix_is_refused(s3: S3Server, bucket: str) -> None:
    """A prefix that holds something else is not taken over; what lies beside it is no matter."""
    s3.write(bucket, "fleet2/something", b"")
    open_bucket(bucket)
    s3.write(bucket, "other/something", b"x")  # an empty one may be a folder's marker
    with pytest.raises(ConfigError, match="not empty"):
        store.open_url(f"s3://{bucket}/other")


def test_a_missing_bucket_is_unavailable(s3: S3Server) -> None:
    """A bucket that does not exist cannot be opened, and the message says so."""
    with pytest.raises(Unavailable, match=r"bucket does not exist"):
        store.open_url(f"s3://{s3.new_bucket()}x/fleet")


def test_a_store_that_lost_its_mark_is_unavailable(
    s3: S3Server, bucket: str, opened: ObjectStore
) -> None:
    """Where the STORE key is gone, nothing is told to be absent."""
    opened.put(REF, b"data", b"m")
    s3.delete(bucket, "fleet/STORE")
    for read in (opened.get, opened.exists, opened.versions):
        with pytest.raises(Unavailable, match="STORE is missing"):
            read("absent")
    with pytest.raises(Unavailable, match="STORE is missing"):
        opened.exists(REF, checksum=checksum_of(b"other"))
    with pytest.raises(Unavailable, match="STORE is missing"):
        list(opened.list())
    assert opened.get(REF) == (b"data", b"m")


def test_without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where obstore is not installed the message says how to install it."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"obstore.* pip install '\.\[object\]'"):
        store.open_url("s3://bucket/prefix")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "no bucket"),
        ("s3:bucket", "no bucket"),
        ("s3:///prefix", "no bucket"),
        ("s3://b/prefix", "no bucket"),
        ("s3://bucket/a?region=x", "not plain"),
        ("s3://bucket/a#b", "not plain"),
        ("s3://bucket/a//b", "not plain"),
        ("s3://bucket/a b", "not plain"),
        ("s3://bucket/a.", "not plain"),
        ("s3://bucket/../a", "not plain"),
        ("s3://bucket/" + "p" * 201, "200"),
        ("s3://KEY:hunter2@bucket/a", "environment"),
        ("az://account.blob:443/x", "environment"),
        ("object://bucket/a", "s3://bucket/prefix"),
        ("s3://[bucket/a", "s3://bucket/prefix"),
    ],
)
def test_urls_that_name_no_place(url: str, said: str) -> None:
    """A URL that names no bucket and plain prefix is refused, and its secrets are not repeated."""
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        store.open("object", store.StoreConfig(url=url))
    assert "hunter2" not in str(raised.value)


def test_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two handles are identical exactly when endpoint, bucket and prefix are the same."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)

    def identity(url: str, **environment: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return location_of(url).storage

    here = {"AWS_ENDPOINT_URL": "http://here:9000"}
    assert identity("s3://bucket/a", **here) == identity("s3://bucket/a/", **here)
    assert identity("s3://bucket/a", **here) == identity(
        "s3://bucket/a", AWS_ENDPOINT_URL_S3="http://HERE:9000/", AWS_ENDPOINT_URL="http://there"
    )
    different = [
        identity("s3://bucket/a", **here),
        identity("s3://bucket/b", **here),
        identity("s3://bucket", **here),
        identity("s3://other/a", **here),
        identity("s3://bucket/a", AWS_ENDPOINT_URL="http://there:9000"),
        identity("s3://bucket/a"),
        identity("s3://bucket/a", AWS_REGION="cn-north-1"),
        identity("gs://bucket/a"),
        identity("az://bucket/a"),
        identity("az://bucket/a", AZURE_STORAGE_ACCOUNT_NAME="one"),
    ]
    assert len(set(different)) == len(different)


def test_other_services_open_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """GCS and Azure are reached with what the environment says: their names, not S3's."""
    key = {"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": True}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/account")
    for url in ("gs://bucket/fleet", "az://container/fleet"):
        with pytest.raises(Unavailable, match="does not let us connect") as raised:
            store.open("object", store.StoreConfig(url=url, timeout_s=0.2))
        assert "c2VjcmV0" not in str(raised.value)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "hunter2")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    for url in ("gs://bucket/fleet", "az://container/fleet"):
        with pytest.raises(ConfigError, match="credentials") as raised_config:
            store.open_url(url)
        assert "hunter2" not in str(raised_config.value)


def test_plain_http_only_where_it_is_written(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is spoken to in plain text but an endpoint that the environment says so of."""
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint.replace("http://", "https://"))
    with pytest.raises(Unavailable):
        open_bucket(bucket, timeout_s=0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    open_bucket(bucket)
    key = {"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": True}
    monkeypatch.setenv(
        "GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key | {"gcs_base_url": s3.endpoint})
    )
    with pytest.raises(Unavailable, match="not https"):
        store.open("object", store.StoreConfig(url="gs://bucket/fleet", timeout_s=0.3))


# Care.


def test_the_grace_is_longer_than_what_a_put_relies_on(opened: ObjectStore) -> None:
    """A grace that is too short is refused before anything is looked at."""
    with pytest.raises(ValueError, match="3600 s"):
        opened.collect(Retention(3599.0), lambda: ())
    assert list(opened.collect(Retention(3600.0), lambda: ())) == []


def test_data_without_a_record_is_collected(s3: S3Server, bucket: str) -> None:
    """What a crashed Put left goes after the grace: data without a record, and older copies."""
    opened = open_bucket(bucket, shortest_grace_s=0.0)
    for data in (BIG, BIG, b"small"):
        opened.put(REF, data, b"m")
    orphan = f"fleet/versions/{REF}@/objects/{'0' * 32}"
    s3.write(bucket, orphan, b"never finished")
    assert list(opened.collect(Retention(3600.0), lambda: ())) == []
    pins = [Pin(REF, checksum_of(BIG))]
    gone = list(opened.collect(Retention(0.0), lambda: pins))
    assert sorted((each.kind, each.ref, each.size_bytes > 60_000) for each in gone) == [
        ("leftover", REF, True),
        ("object", REF, False),
    ]
    assert orphan not in s3.keys(bucket)
    assert opened.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")
    assert list(opened.collect(Retention(0.0), lambda: pins)) == []


def test_the_grace_of_each_copy(opened: ObjectStore) -> None:
    """A version's grace begins when the next is written; data without a record has its own."""
    opened.put(REF, b"current", b"m")
    path = place_of(REF).path
    folder = f"versions/{path}"

    def copy(key: str, written_at: float) -> collect._Copy:
        taken = version_key(f"{folder}/{key}")
        assert taken
        return collect._Copy(taken, 1, written_at)

    pair = f"{'a' * 64}/{'b' * 64}"
    copies = [
        copy(f"{pair}/{1:032x}", 0.0),
        copy(f"{'c' * 64}/{'d' * 64}/{2:032x}", 1000.0),
        copy(f"objects/{3:032x}", 900.0),
    ]

    def gone(now: float) -> list[str]:
        found = collect._candidates(
            opened._bucket, path, copies, Retention(200.0, keep_last=0), now
        )
        return sorted(each.kind for each in found if each.key.nonce != f"{2:032x}")

    assert gone(1050.0) == []
    assert gone(1150.0) == ["object"]
    assert gone(1250.0) == ["object", "version"]


def test_data_that_got_its_record_meanwhile_stays(s3: S3Server, bucket: str) -> None:
    """A Put that writes its record while others collect keeps its data."""
    opened = open_bucket(bucket, shortest_grace_s=0.0)
    opened.put(REF, BIG, b"m")
    opened.put(REF, b"small", b"m")
    records = [key for key in s3.keys(bucket) if f"/{digest(BIG)}/" in key]
    kept = {key: s3.read(bucket, key) for key in records}
    for key in records:
        s3.delete(bucket, key)

    def pins() -> Iterator[Pin]:
        for key, content in kept.items():
            s3.write(bucket, key, content)
        yield from ()

    assert list(opened.collect(Retention(0.0), pins)) == []
    assert opened.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")


def test_nothing_is_collected_beside_a_damaged_record(s3: S3Server, bucket: str) -> None:
    """While it is not known which version is current, all of that ref's stay."""
    opened = open_bucket(bucket, shortest_grace_s=0.0)
    for data in (b"1", b"2"):
        opened.put(REF, data, b"m")
    s3.write(bucket, f"fleet/refs/{REF}@", b"garbage")
    assert list(opened.collect(Retention(0.0), lambda: ())) == []
    assert opened.get(REF, checksum=checksum_of(b"1")).data == b"1"


@pytest.mark.parametrize("size_bytes", [10, 100_000])
def test_quarantine_keeps_the_bytes(
    s3: S3Server, bucket: str, opened: ObjectStore, size_bytes: int
) -> None:
    """What was damaged lies in quarantine/ as it was found, and its place tells where."""
    opened.put(REF, b"d" * size_bytes, b"m")
    keys = [key for key in s3.keys(bucket) if REF in key]
    damaged = next((key for key in keys if "/objects/" in key), f"fleet/refs/{REF}@")
    content = s3.read(bucket, damaged)[:-1] + b"X"
    s3.write(bucket, damaged, content)
    [checked] = [each for each in opened.verify(quarantine=True) if each.error]
    assert checked.where == f"s3://{bucket}/{damaged}"
    aside = str(checked.quarantined).removeprefix(f"s3://{bucket}/")
    assert aside.startswith("fleet/quarantine/")
    assert s3.read(bucket, aside) == content
    again = [each for each in opened.verify(quarantine=True) if each.error]
    assert [each.quarantined for each in again] == [checked.quarantined]
    with pytest.raises(Corrupt):
        opened.get(REF)


def test_missing_data_is_corrupt(s3: S3Server, bucket: str, opened: ObjectStore) -> None:
    """A record whose data is gone is damage, not absence; Verify tells the same."""
    opened.put(REF, BIG, b"m")
    [data] = [key for key in s3.keys(bucket) if "/objects/" in key]
    s3.delete(bucket, data)
    with pytest.raises(Corrupt, match="missing"):
        opened.get(REF)
    [error] = [each.error for each in opened.verify() if each.error]
    assert "missing" in error
    opened.put(REF, BIG, b"m")
    assert opened.get(REF) == (BIG, b"m")


@pytest.mark.parametrize("content", [b"", b"garbage", b"nonce " + b"0" * 32 + b"\n"])
def test_damaged_records(s3: S3Server, bucket: str, opened: ObjectStore, content: bytes) -> None:
    """A record that is no record is `Corrupt` for whoever reads it, and a Put heals it."""
    opened.put(REF, b"data", b"m")
    s3.write(bucket, f"fleet/refs/{REF}@", content)
    for read in (opened.get, opened.versions, opened.open):
        with pytest.raises(Corrupt, match="damaged"):
            read(REF)
    assert opened.exists(REF)
    assert opened.get(REF, checksum=checksum_of(b"data")) == (b"data", b"m")
    with pytest.raises(Corrupt):
        opened.get(REF, checksum=checksum_of(b"other"))
    opened.put(REF, b"data", b"m", position=(1, 0))
    assert opened.get(REF) == (b"data", b"m")


def test_a_record_of_another_ref_is_corrupt(s3: S3Server, bucket: str, opened: ObjectStore) -> None:
    """A record that was copied over another ref's is not taken for it."""
    opened.put("a", b"data", b"m")
    opened.put("b", b"data", b"m")
    s3.write(bucket, "fleet/refs/b@", s3.read(bucket, "fleet/refs/a@"))
    with pytest.raises(Corrupt, match="another ref"):
        opened.get("b")


def test_foreign_keys_among_the_refs(s3: S3Server, bucket: str, opened: ObjectStore) -> None:
    """A key that no ref has, and a folder's marker, are no matter when refs are listed."""
    opened.put(REF, b"data", b"m")
    for key in ("stacks/", "UPPER@"):
        s3.write(bucket, f"fleet/refs/{key}", b"")
    assert list(opened.list()) == [REF]


def test_the_current_version_counts_without_its_own_record(
    s3: S3Server, bucket: str, opened: ObjectStore
) -> None:
    """A ref whose version's record was lost is read, listed and kept all the same."""
    opened.put(REF, b"data", b"m")
    for key in s3.keys(bucket):
        if "/versions/" in key:
            s3.delete(bucket, key)
    assert opened.get(REF, checksum=checksum_of(b"data")) == (b"data", b"m")
    [version] = opened.versions(REF)
    assert version.current


# The identity.


def test_an_identity_is_made_when_it_is_first_asked_for(
    s3: S3Server, bucket: str, opened: ObjectStore
) -> None:
    """It lies at a key of its own; a store of an older release gets one as a new one does."""
    assert keys_of(s3, bucket) == ["STORE"]
    told = opened.identity
    assert keys_of(s3, bucket) == ["IDENTITY", "STORE"]
    assert s3.read(bucket, "fleet/IDENTITY") == f"{told}\n".encode()
    s3.write(bucket, "fleet/IDENTITY", b"x")
    with pytest.raises(Corrupt, match="IDENTITY"):
        _ = open_bucket(bucket).identity


def test_a_reader_makes_no_store(s3: S3Server, bucket: str) -> None:
    """Not to be created, one that is not there is refused, with its URL, and still not there."""
    url = f"s3://{bucket}/typo"
    with pytest.raises(store.ConfigError, match=f"no store at {url}"):
        store.open_url(url, create=False)
    assert list(s3.keys(bucket)) == []
    store.open_url(url).put(REF, b"data", b"m")
    assert store.open_url(url, create=False).get(REF) == (b"data", b"m")
