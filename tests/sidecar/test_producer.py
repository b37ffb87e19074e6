"""The producer's side: an artifact from a file, as it is read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import redis

import store
from sidecar.errors import UsageError
from sidecar.producer import Producer
from sidecar.wire.event import Rejected

STREAM = "control:events"
DATA = b"x" * 3_000_000


class _Plain:
    """A third party's store: it can put bytes, and nothing else."""

    name = "plain"

    def __init__(self) -> None:
        self.stored: dict[str, store.Artifact] = {}

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        assert isinstance(data, bytes)
        self.stored[ref] = store.Artifact(data, manifest)

    def get(self, ref: str) -> store.Artifact:
        return self.stored[ref]

    def exists(self, ref: str) -> bool:
        return ref in self.stored


@pytest.mark.parametrize("plain", [False, True])
def test_data_may_be_a_binary_file(
    redis_url: str, client: redis.Redis, tmp_path: Path, *, plain: bool
) -> None:
    """The event names the checksum of what was read, whatever the store can do."""
    source: store.Store = _Plain() if plain else store.open_url(tmp_path.as_uri() + "/s")
    (tmp_path / "data").write_bytes(DATA)
    with (tmp_path / "data").open("rb") as file:
        event = Producer(redis_url, STREAM, source).publish(
            type="key.changed", ref="r", data=file, manifest=b"m"
        )
    assert event.checksum == store.checksum_of(DATA)
    assert source.get("r") == (DATA, b"m")
    entries: Any = client.xrange(STREAM)
    assert event.checksum.encode() in entries[0][1][b"event"]


def test_a_broken_event_reads_nothing(redis_url: str, client: redis.Redis) -> None:
    """It is refused before the file is touched, and before anything is stored."""
    source, file = _Plain(), io.BytesIO(DATA)
    with pytest.raises(Rejected):
        Producer(redis_url, STREAM, source).publish(type="", ref="r", data=file)
    assert (file.tell(), source.stored, client.exists(STREAM)) == (0, {}, 0)


def test_a_file_that_cannot_be_read_appends_nothing(
    redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    """What the file raises comes through."""

    class Failing(io.RawIOBase):
        def read(self, _size: int = -1, /) -> bytes:
            raise OSError("the disk is gone")

    source = store.open_url(tmp_path.as_uri())
    with pytest.raises(OSError, match="the disk is gone"):
        Producer(redis_url, STREAM, source).publish(type="key.changed", ref="r", data=Failing())
    assert not source.exists("r")
    assert not client.exists(STREAM)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"ref": "r"}, "data"),
        ({"manifest": b"m"}, "data"),
        ({"ref": "r", "data": "text"}, "data"),
        ({"ref": "r", "data": {"a": 1}}, "data"),
        ({"ref": "r", "data": b"d", "manifest": {"files": []}}, "manifest"),
        ({"ref": 7, "data": b"d"}, "ref"),
        ({"ref": ".sidecar/logs/x", "data": b"d"}, "artifact_ref"),
        ({"ref": "r", "data": b"d", "checksum": "sha256:" + "0" * 64}, "checksum"),
        ({"ref": "r", "data": b"d", "artifact_ref": "other"}, "artifact_ref"),
        ({"note": "x" * 9000}, "its notification would have"),
        ({"ref": "r", "data": io.BytesIO(DATA), "note": "x" * 9000}, "its notification"),
    ],
)
def test_what_a_worker_would_refuse_is_refused_at_once(
    redis_url: str, client: redis.Redis, wrong: dict[str, Any], field: str
) -> None:
    """With the field's name, before anything is stored or appended."""
    source = _Plain()
    with pytest.raises(Rejected, match=f": {field}"):
        Producer(redis_url, STREAM, source).publish(type="key.changed", **wrong)
    assert (source.stored, client.exists(STREAM)) == ({}, 0)


def test_an_artifact_that_is_there_may_be_named(redis_url: str, client: redis.Redis) -> None:
    """Without data the fields of an artifact are the caller's own."""
    checksum = store.checksum_of(b"there before")
    event = Producer(redis_url, STREAM, _Plain()).publish(
        type="key.changed", artifact_ref="r", checksum=checksum
    )
    assert (event.artifact_ref, event.checksum) == ("r", checksum)
    assert client.xlen(STREAM) == 1


def test_a_url_is_no_store(redis_url: str) -> None:
    """That is said when the producer is made, with what to write."""
    wrong: Any = "file:///srv/source"
    with pytest.raises(UsageError, match=r"store.open_url"):
        Producer(redis_url, STREAM, wrong)
