"""Looking after the object backend's bucket: verify what is stored, collect what nobody needs.

A collector has no lock against the Puts of others. It may delete safely because a version that a
ref left never becomes current again (a Put of the same content writes another one), and because
nothing is deleted before it has been out of use for longer than anybody relies on it.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from typing import TYPE_CHECKING, NamedTuple

from store.contract import Checked, Collected
from store.errors import Corrupt, InvalidRef
from store.object_client import Conflict
from store.object_layout import (
    CURRENTS,
    OBJECTS,
    QUARANTINE,
    TOMBSTONE,
    VERSIONS,
    Place,
    VersionKey,
    folder_of,
    is_under,
    new_nonce,
    now_text,
    place_of,
    ref_of,
    stored_of,
    version_key,
)
from store.streams import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from obstore import ObjectMeta

    from store.contract import Pin, Retention
    from store.object_client import Bucket
    from store.object_layout import Stored


# Verify: every record, and the data that it names.


def verify(
    bucket: Bucket, prefix: str, *, quarantine: bool, part: tuple[int, int]
) -> Iterator[Checked]:
    """Read every record at and under `prefix`, and its data; yield what was found of each."""
    share, shares = part
    for key, path in _records(bucket, prefix):
        if zlib.crc32(path.encode()) % shares == share:
            yield from _Check(bucket, prefix, quarantine=quarantine).record(key)


def _records(bucket: Bucket, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of each record; `prefix` may let some through that are beside."""
    if not prefix:
        folders = [CURRENTS, VERSIONS]
    else:
        place = place_of(prefix)
        yield place.current, place.path
        under = folder_of(prefix)
        folders = [f"{VERSIONS}/{place.path}", f"{CURRENTS}/{under}", f"{VERSIONS}/{under}"]
    for meta in itertools.chain.from_iterable(map(bucket.keys, folders)):
        key = meta["path"]
        version = version_key(key)
        if version and version.data_digest:
            yield key, version.path
        elif key.startswith(f"{CURRENTS}/") and key.endswith("@"):
            yield key, key.removeprefix(f"{CURRENTS}/")


class _Check:
    """One record's."""

    def __init__(self, bucket: Bucket, prefix: str, *, quarantine: bool) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._quarantine = quarantine

    def record(self, key: str) -> Iterator[Checked]:
        got = self._bucket.get(key)
        if got is None:
            return  # collected since the listing
        where = self._bucket.where(key)
        stored: Stored | None = None
        error: str | None
        try:
            stored = stored_of(got.content, key, where)
            ref: str | None = stored.record.ref
            error = self._fault(stored, where)
        except Corrupt as damage:
            ref, error = _ref_of_key(key), str(damage)
        if ref is not None and not is_under(ref, self._prefix):
            return
        aside = None
        if error and not got.content.startswith(TOMBSTONE):
            aside = self._set_aside(key, got.meta)
        yield Checked(where, ref, len(got.content), error, aside)
        if stored and not stored.record.inline and version_key(key):
            yield from self._object(stored)

    def _fault(self, stored: Stored, where: str) -> str | None:
        record = stored.record
        if hashlib.sha256(stored.manifest).hexdigest() != record.manifest_digest:
            return f"{where} is damaged: its manifest fails its checksum: put it again"
        if record.inline and hashlib.sha256(stored.data).hexdigest() != record.data_digest:
            return f"{where} is damaged: its data fails its checksum: put it again"
        return None

    def _object(self, stored: Stored) -> Iterator[Checked]:
        record = stored.record
        key = place_of(record.ref).object(stored.nonce)
        where = self._bucket.where(key)
        meta = self._bucket.head(key)
        if meta is None:
            if self._bucket.head(stored.key) is not None:  # else both were collected
                error = f"{where} is missing, and {stored.key} needs it: put it again"
                yield Checked(where, record.ref, 0, error)
            return
        size, error = self._read_object(key, record.data_digest, where)
        aside = self._set_aside(key, meta) if error and size >= 0 else None
        yield Checked(where, record.ref, max(size, 0), error, aside)

    def _read_object(self, key: str, digest: str, where: str) -> tuple[int, str | None]:
        """Return how much was read, -1 for what was set aside before, and what is wrong."""
        stream, found, size, start = self._bucket.stream(key), hashlib.sha256(), 0, b""
        while stream and (chunk := stream.read(CHUNK_BYTES)):
            start = start or chunk[: len(TOMBSTONE)]
            found.update(chunk)
            size += len(chunk)
        if found.hexdigest() == digest:
            return size, None
        if start == TOMBSTONE:
            return -1, f"{where} lies in {QUARANTINE}/ since it was found damaged: put it again"
        return size, f"{where} is damaged: the data fails its checksum: put it again"

    def _set_aside(self, key: str, meta: ObjectMeta) -> str | None:
        """Copy what is damaged, and leave a mark in its place: reading it stays `Corrupt`."""
        if not self._quarantine:
            return None
        aside = f"{QUARANTINE}/{new_nonce(now_text())}/{key}"
        self._bucket.copy(key, aside)
        mode = self._bucket.unchanged(meta)
        if mode is not None or not key.startswith(f"{CURRENTS}/"):
            try:
                self._bucket.put(key, TOMBSTONE + self._bucket.where(aside).encode(), mode)
            except Conflict:
                return None  # a Put has healed it meanwhile
        return self._bucket.where(aside)


def _ref_of_key(key: str) -> str | None:
    version = version_key(key)
    try:
        return ref_of(version.path if version else key.removeprefix(f"{CURRENTS}/"))
    except ValueError:
        return None


# Collect: candidates, pins, another look, delete.


class _Copy(NamedTuple):
    """One record of a version, or without digests one object."""

    key: VersionKey
    path: str
    size_bytes: int
    written_at: float


class _Candidate(NamedTuple):
    """What may go. `keys` in the order in which they go: the record before its data."""

    kind: str
    copy: _Copy
    keys: tuple[str, ...]
    size_bytes: int


class _Now(NamedTuple):
    nonce: str
    written_at: float


def collect(
    bucket: Bucket, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove what no ref, no pin and no rule of `retention` needs; yield each, once removed."""
    now = bucket.now()
    candidates: dict[str, list[_Candidate]] = {}
    for path, copies in itertools.groupby(_copies(bucket), key=lambda copy: copy.key.path):
        found = list(_candidates(bucket, Place(path), list(copies), retention, now))
        if found:
            candidates[path] = found
    _unpin(candidates, pins())
    for path, found in candidates.items():
        place = Place(path)
        ref = _ref_at(bucket, place, found)
        here = _current_of(bucket, place)
        for candidate in found:
            if here is None or candidate.copy.key.nonce == here.nonce:
                continue
            if candidate.kind == OBJECT and _has_record(bucket, place, candidate.copy.key.nonce):
                continue
            for key in candidate.keys if not dry_run else ():
                bucket.delete(key)
            where = bucket.where(candidate.copy.path)
            yield Collected(candidate.kind, where, ref, candidate.size_bytes)


VERSION, OBJECT, LEFTOVER = "version", "object", "leftover"


def _copies(bucket: Bucket) -> Iterator[_Copy]:
    for meta in bucket.keys(VERSIONS):
        key = version_key(meta["path"])
        if key:
            yield _Copy(key, meta["path"], meta["size"], meta["last_modified"].timestamp())


def _candidates(
    bucket: Bucket, place: Place, copies: list[_Copy], retention: Retention, now: float
) -> Iterator[_Candidate]:
    """Yield what may go of one ref. What is not sure is kept.

    Where a listing is not in order, a ref comes in several groups: then more is kept.
    """
    oldest_at = now - retention.grace_s
    records = sorted((c for c in copies if c.key.data_digest), key=lambda copy: copy.key.nonce)
    objects = {copy.key.nonce: copy for copy in copies if not copy.key.data_digest}
    if not any(copy.written_at <= oldest_at for copy in copies):
        return
    here = _current_of(bucket, place)
    if here is None:
        return  # the current record is damaged: who knows which it was
    with_record = {copy.key.nonce for copy in records} | {here.nonce}
    for nonce, copy in objects.items():
        if nonce not in with_record and copy.written_at <= oldest_at:
            yield _Candidate(OBJECT, copy, (copy.path,), copy.size_bytes)
    yield from _old_records(records, objects, here, retention, now)


def _old_records(
    records: list[_Copy], objects: dict[str, _Copy], here: _Now, retention: Retention, now: float
) -> Iterator[_Candidate]:
    rank = 0 if any(copy.key.nonce == here.nonce for copy in records) else -1
    seen = {_pair_of(copy) for copy in records if copy.key.nonce == here.nonce}
    # Out of use since the next newer one was written: before that, it may have been current.
    left_at = here.written_at
    for copy in reversed(records):
        first = _pair_of(copy) not in seen
        seen.add(_pair_of(copy))
        rank += first
        since = max(left_at, copy.written_at)
        left_at = copy.written_at
        if copy.key.nonce == here.nonce or since > now - retention.grace_s:
            continue
        kept = rank < retention.keep_last or copy.written_at > now - retention.keep_newer_s
        if first and kept:
            continue
        data = objects.get(copy.key.nonce)
        keys = (copy.path, data.path) if data else (copy.path,)
        size = copy.size_bytes + (data.size_bytes if data else 0)
        yield _Candidate(VERSION if first else LEFTOVER, copy, keys, size)


def _unpin(candidates: dict[str, list[_Candidate]], pins: Iterable[Pin]) -> None:
    """Strike what is pinned off the candidates. All pins are read, one at a time."""
    for pin in pins:
        path = place_of(pin.ref).path
        found = candidates.get(path)
        if found:
            candidates[path] = [each for each in found if not _is_pinned(each, pin)]


def _is_pinned(candidate: _Candidate, pin: Pin) -> bool:
    key = candidate.copy.key
    return (
        candidate.kind == VERSION
        and pin.checksum == f"sha256:{key.data_digest}"
        and pin.manifest_checksum in (None, f"sha256:{key.manifest_digest}")
    )


def _current_of(bucket: Bucket, place: Place) -> _Now | None:
    """Return the ref's current nonce and since when; an empty one when the ref has none."""
    got = bucket.get(place.current)
    if got is None:
        return _Now("", 0.0)
    try:
        stored = stored_of(got.content, place.current, bucket.where(place.current))
    except Corrupt:
        return None
    return _Now(stored.nonce, got.meta["last_modified"].timestamp())


def _has_record(bucket: Bucket, place: Place, nonce: str) -> bool:
    """Tell whether a Put has written the record of that data meanwhile."""
    return any(
        meta["path"].endswith(f"/{nonce}") and f"/{OBJECTS}/" not in meta["path"]
        for meta in bucket.keys(f"{VERSIONS}/{place.path}")
    )


def _ref_at(bucket: Bucket, place: Place, found: list[_Candidate]) -> str | None:
    """Return whose these are; None when it is not in the keys and no record tells."""
    with_ref = ref_of(place.path)
    if with_ref is not None:
        return with_ref
    for key in (place.current, *(each.copy.path for each in found)):
        got = bucket.get(key)
        try:
            if got is not None:
                return stored_of(got.content, key, bucket.where(key)).record.ref
        except (Corrupt, InvalidRef):
            continue
    return None


def _pair_of(copy: _Copy) -> tuple[str | None, str | None]:
    return copy.key.data_digest, copy.key.manifest_digest
