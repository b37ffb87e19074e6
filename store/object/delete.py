"""Removing a ref from a bucket that has neither locks nor conditional deletes.

The current record goes first: from then on the ref is absent. Then its versions' records go, those
that were there before it was looked at: a Put that comes meanwhile has keys of its own. Large data
stays for collection: a Put that is nearly done may name it. If such a Put had moved the ref just
before the current record went, the ref is pointed at its version again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from store.errors import Corrupt
from store.object.errors import Conflict
from store.object.layout import VERSIONS, VersionKey, content_of, place_of, version_key
from store.object.reading import begun, whole
from store.record import HEADER_MAX_BYTES, Newer

if TYPE_CHECKING:
    from collections.abc import Collection

    from store.object.client import Bucket
    from store.object.layout import Place, Stored


class _Record(NamedTuple):
    """A version's record, as a listing shows it."""

    key: VersionKey
    written_at: float


class _Current(NamedTuple):
    """A ref's current record; `stored` is None when it cannot be read."""

    stored: Stored | None
    written_at: float


def delete(bucket: Bucket, ref: str, digests: Collection[str] | None, unused_s: float) -> bool:
    """Remove what is at `ref`, or only the versions with such data; see `VersionedStore.delete`.

    Raises `Corrupt` when nothing tells whether a damaged current record is such a version.
    """
    place = place_of(ref)
    records = _records(bucket, place)
    current = _current(bucket, place)
    goes = current is not None and _goes(bucket, place, current, digests)
    leaving = [each for each in records if digests is None or each.key.data_digest in digests]
    written = [each.written_at for each in leaving]
    if current and goes:
        written.append(current.written_at)
    if unused_s and written and max(written) > bucket.now() - unused_s:
        return False
    if goes:
        bucket.delete(place.current)
    for each in leaving:
        bucket.delete(each.key.text)
    if goes:
        _restore(bucket, place, {each.key.text for each in records})
    return goes or bool(leaving)


def _records(bucket: Bucket, place: Place) -> list[_Record]:
    found = []
    for meta in bucket.keys(f"{VERSIONS}/{place.path}"):
        key = version_key(meta["path"])
        if key and key.data_digest:
            found.append(_Record(key, meta["last_modified"].timestamp()))
    return found


def _current(bucket: Bucket, place: Place) -> _Current | None:
    try:
        found = begun(bucket, place.current, HEADER_MAX_BYTES)
        return found and _Current(found[1], found[0].meta["last_modified"].timestamp())
    except (Corrupt, Newer):
        meta = bucket.head(place.current)
        return meta and _Current(None, meta["last_modified"].timestamp())


def _goes(bucket: Bucket, place: Place, current: _Current, digests: Collection[str] | None) -> bool:
    if digests is None:
        return True
    if current.stored:
        return current.stored.record.data_digest in digests
    raise Corrupt(
        f"{bucket.where(place.current)} is damaged, and may be the version to delete: put the ref"
        " again, or delete all of it"
    )


def _restore(bucket: Bucket, place: Place, known: set[str]) -> None:
    """Point the ref at what was put meanwhile, unless its own Put did."""
    for each in sorted(_records(bucket, place), key=lambda one: one.key.nonce, reverse=True):
        if each.key.text in known:
            continue
        with contextlib.suppress(Corrupt):
            found = begun(bucket, each.key.text)
            if found:
                own = whole(bucket, found[1])
                content = content_of(own.record, own.nonce, own.manifest, own.data)
                with contextlib.suppress(Conflict):
                    bucket.put(place.current, content, bucket.unchanged(None))
                return
