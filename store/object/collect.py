"""Garbage collection in a bucket that has neither locks nor conditional deletes.

It is safe because of what a Put does: a version that its ref has left is never made current again,
since a Put of the same content writes keys of its own. So what was found out of use stays out of
use, however late a delete arrives, but for pins, and those are asked for last.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, NamedTuple

from store.contract import Collected
from store.errors import Corrupt, InvalidRef
from store.object.layout import (
    VERSIONS,
    Place,
    VersionKey,
    place_of,
    ref_of,
    version_key,
)
from store.object.reading import begun
from store.record import HEADER_MAX_BYTES, Newer
from store.refs import check_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from store.contract import Pin, Retention
    from store.object.client import Bucket

_VERSION, _OBJECT, _LEFTOVER = "version", "object", "leftover"


class _Copy(NamedTuple):
    """One record of a version, or without digests one object, and when it was written."""

    key: VersionKey
    size_bytes: int
    written_at: float

    @property
    def pair(self) -> tuple[str | None, str | None]:
        return self.key.data_digest, self.key.manifest_digest


class _Candidate(NamedTuple):
    """What may go: a record and the data that it names, in this order, or data without one."""

    kind: str
    copies: tuple[_Copy, ...]

    @property
    def key(self) -> VersionKey:
        return self.copies[0].key


class _Current(NamedTuple):
    """Which record is a ref's current one, and since when; an empty nonce when it has none."""

    nonce: str
    written_at: float


def collect(
    bucket: Bucket, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove what no ref, no pin and no rule of `retention` needs; yield each, once removed."""
    now = bucket.now()
    candidates: dict[str, list[_Candidate]] = {}
    for path, copies in itertools.groupby(_copies(bucket), key=lambda copy: copy.key.path):
        retention.breathe()
        if found := list(_candidates(bucket, path, list(copies), retention, now)):
            candidates[path] = found
    _spare(candidates, pins())
    for path, found in candidates.items():
        yield from _remove(bucket, path, found, dry_run=dry_run)


def _copies(bucket: Bucket) -> Iterator[_Copy]:
    for meta in bucket.keys(VERSIONS):
        key = version_key(meta["path"])
        if key:
            yield _Copy(key, meta["size"], meta["last_modified"].timestamp())


def _spare(candidates: dict[str, list[_Candidate]], pins: Iterable[Pin]) -> None:
    """Take out of the candidates, by path, what a pin needs."""
    for pin in pins:
        try:
            check_ref(pin.ref)
        except InvalidRef:
            continue  # it names nothing that could be here
        path = place_of(pin.ref).path
        if path in candidates:
            candidates[path] = [each for each in candidates[path] if not _keeps(pin, each)]


def _candidates(
    bucket: Bucket, path: str, copies: list[_Copy], retention: Retention, now: float
) -> Iterator[_Candidate]:
    """Yield what may go of one ref.

    Where a listing is not in order, one ref comes in several groups, and more is kept.
    """
    oldest_at = now - retention.grace_s
    if all(copy.written_at > oldest_at for copy in copies):
        return
    current = _current_of(bucket, path)
    if current is None:
        return
    records = sorted((c for c in copies if c.key.data_digest), key=lambda copy: copy.key.nonce)
    objects = {copy.key.nonce: copy for copy in copies if not copy.key.data_digest}
    yield from _old_versions(records, objects, current, retention, now)
    named = {copy.key.nonce for copy in records} | {current.nonce}
    for nonce, copy in objects.items():
        if nonce not in named and copy.written_at <= oldest_at:
            yield _Candidate(_OBJECT, (copy,))


def _old_versions(
    records: list[_Copy], objects: dict[str, _Copy], current: _Current, retention: Retention,
    now: float,
) -> Iterator[_Candidate]:  # fmt: skip
    """Yield the records, oldest first in `records`, that no rule keeps, newest first."""
    seen = {copy.pair for copy in records if copy.key.nonce == current.nonce}
    # Out of use since the next newer one was written: until then it may have been current.
    left_at = current.written_at
    for copy in reversed(records):
        is_version = copy.pair not in seen
        seen.add(copy.pair)
        unused_since = max(left_at, copy.written_at)
        left_at = copy.written_at
        if copy.key.nonce == current.nonce or unused_since > now - retention.grace_s:
            continue
        is_recent = copy.written_at > now - retention.keep_newer_s
        if is_version and (is_recent or len(seen) <= retention.keep_last):
            continue
        data = objects.get(copy.key.nonce)
        copies = (copy, data) if data else (copy,)
        yield _Candidate(_VERSION if is_version else _LEFTOVER, copies)


def _keeps(pin: Pin, candidate: _Candidate) -> bool:
    return (
        candidate.kind == _VERSION
        and pin.checksum == f"sha256:{candidate.key.data_digest}"
        and pin.manifest_checksum in (None, f"sha256:{candidate.key.manifest_digest}")
    )


def _remove(
    bucket: Bucket, path: str, found: list[_Candidate], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove candidates after another look at the ref."""
    current = _current_of(bucket, path)
    ref = _ref_of(bucket, path, found)
    for candidate in found:
        if current is None or candidate.key.nonce == current.nonce:
            continue
        if candidate.kind == _OBJECT and _has_record(bucket, candidate.key):
            continue
        for copy in candidate.copies if not dry_run else ():
            bucket.delete(copy.key.text)
        size = sum(copy.size_bytes for copy in candidate.copies)
        yield Collected(candidate.kind, bucket.where(candidate.key.text), ref, size)


def _current_of(bucket: Bucket, path: str) -> _Current | None:
    """Return what the ref points at; None when that cannot be read: it may be anything."""
    key = Place(path).current
    try:
        found = begun(bucket, key, HEADER_MAX_BYTES)
    except (Corrupt, Newer):
        return None
    if found is None:
        return _Current("", 0.0)
    got, stored = found
    return _Current(stored.nonce, got.meta["last_modified"].timestamp())


def _has_record(bucket: Bucket, key: VersionKey) -> bool:
    """Tell whether a Put has written the record of that data since the listing."""
    found = (version_key(meta["path"]) for meta in bucket.keys(f"{VERSIONS}/{key.path}"))
    return any(each and each.data_digest and each.nonce == key.nonce for each in found)


def _ref_of(bucket: Bucket, path: str, found: list[_Candidate]) -> str | None:
    """Return whose these are; None when neither the keys nor any record tells."""
    ref = ref_of(path)
    keys = [Place(path).current, *(each.key.text for each in found if each.kind != _OBJECT)]
    while ref is None and keys:
        key = keys.pop(0)
        with contextlib.suppress(Corrupt, Newer):
            record = begun(bucket, key, HEADER_MAX_BYTES)
            ref = record and record[1].record.ref
    return ref
