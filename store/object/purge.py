"""Removing refs from a bucket with all that is left of them.

Every key of a ref has the ref's path in it, also those in quarantine: nothing is shared. Records go
first, as in `store.object.delete`, then the data that has none any more. A Put looks for its data
before it moves the ref, so one that loses it here fails, and can be done again; what such a Put had
moved meanwhile goes, too.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from store.contract import Collected
from store.errors import Corrupt
from store.object.delete import delete
from store.object.layout import CURRENTS, QUARANTINE, VERSIONS, place_of, version_key
from store.object.reading import begun
from store.record import HEADER_MAX_BYTES, Newer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from obstore import ObjectMeta

    from store.object.client import Bucket
    from store.object.layout import Place


def purge(
    bucket: Bucket, refs: Iterable[str], only: Mapping[str, Collection[str]], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove what is left of `refs`; see `VersionedStore.purge`."""
    places = {place_of(ref).path: ref for ref in refs}
    for ref in places.values():
        yield from _of_ref(bucket, ref, only.get(ref), dry_run=dry_run)
    for meta in bucket.keys(QUARANTINE):
        ref = places.get(_path_of(meta["path"].split("/", 2)[-1]), "")
        if ref:
            if not dry_run:
                bucket.delete(meta["path"])
            yield Collected("damaged", bucket.where(meta["path"]), ref, meta["size"])


def _path_of(key: str) -> str:
    """Return the path of the ref whose key it is, if it is one's."""
    found = version_key(key)
    return found.path if found else key.removeprefix(f"{CURRENTS}/")


def _of_ref(
    bucket: Bucket, ref: str, only: Collection[str] | None, *, dry_run: bool
) -> Iterator[Collected]:
    place = place_of(ref)
    found, current = _leaving(bucket, place, only), bucket.head(place.current)
    if only is not None:
        current = current if _data_of(bucket, place) in only else None
    if not dry_run:
        delete(bucket, ref, only, 0.0)
        _remove_data(bucket, place, found)
    for meta in [*found, *([current] if current else [])]:
        key = version_key(meta["path"])
        kind = "object" if key and not key.data_digest else "record"
        yield Collected(kind, bucket.where(meta["path"]), ref, meta["size"])


def _data_of(bucket: Bucket, place: Place) -> str:
    """Return the digest of the data at the ref; that of a damaged record nothing tells."""
    with contextlib.suppress(Corrupt, Newer):
        found = begun(bucket, place.current, HEADER_MAX_BYTES)
        return found[1].record.data_digest if found else ""
    return ""


def _leaving(bucket: Bucket, place: Place, only: Collection[str] | None) -> list[ObjectMeta]:
    """Return the keys of a ref's versions, but for those that stay."""
    found = list(bucket.keys(f"{VERSIONS}/{place.path}"))
    if only is None:
        return found
    keys = [key for meta in found if (key := version_key(meta["path"]))]
    stay = {key.nonce for key in keys if key.data_digest and key.data_digest not in only}
    staying = {key.text for key in keys if key.nonce in stay}
    return [meta for meta in found if meta["path"] not in staying]


def _remove_data(bucket: Bucket, place: Place, found: list[ObjectMeta]) -> None:
    """Remove the data without a record, then what a Put had moved beside it."""
    keys = [key for meta in found if (key := version_key(meta["path"]))]
    data = {key.nonce: key for key in keys if not key.data_digest}
    for key in data.values():
        bucket.delete(key.text)
    for meta in bucket.keys(f"{VERSIONS}/{place.path}") if data else ():
        if (key := version_key(meta["path"])) and key.nonce in data:
            bucket.delete(key.text)
    with contextlib.suppress(Corrupt, Newer):
        current = begun(bucket, place.current, HEADER_MAX_BYTES) if data else None
        if current and current[1].nonce in data:
            bucket.delete(place.current)
