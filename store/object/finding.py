"""Which versions refs have: a listing of keys, and the header of each record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.contract import Listed
from store.errors import Corrupt
from store.object.layout import VERSIONS, Place, pair_of, place_of, version_key
from store.object.reading import begun
from store.record import HEADER_MAX_BYTES, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from store.contract import Version
    from store.object.client import Bucket
    from store.object.layout import Stored, VersionKey

_Newest = dict[tuple[str | None, str | None], "VersionKey"]
"""By the digests of a version, its newest record."""


def versions_of(bucket: Bucket, refs: Iterable[str]) -> Iterator[Listed]:
    """Yield the versions of each ref that is there; a folder's keys are listed once."""
    folders: dict[str, dict[str, str]] = {}
    for ref in refs:
        path = place_of(ref).path
        folders.setdefault(path.rpartition("/")[0], {})[path] = ref
    for folder, by_path in folders.items():
        records = _newest_records(bucket, folder, by_path)
        for path, ref in by_path.items():
            listed = _listed(bucket, ref, path, records[path])
            if listed.versions or listed.error:
                yield listed


def _listed(bucket: Bucket, ref: str, path: str, newest: _Newest) -> Listed:
    try:
        return Listed(ref, _versions(bucket, Place(path), newest))
    except Corrupt as error:
        return Listed(ref, (), error)


def _newest_records(bucket: Bucket, folder: str, paths: Iterable[str]) -> dict[str, _Newest]:
    """Return the newest record of each version of the refs with these paths in the folder."""
    found: dict[str, _Newest] = {path: {} for path in paths}
    first, last = (f"{VERSIONS}/{one(found)}" for one in (min, max))
    if first == last:
        keys = bucket.keys(first)
    else:
        keys = bucket.keys(f"{VERSIONS}/{folder}" if folder else VERSIONS, after=first)
    for meta in keys:
        if meta["path"] >= f"{last}0":  # behind all that begins with the last, and a slash
            break
        key = version_key(meta["path"])
        if key and key.data_digest and key.path in found:
            pair, newest = (key.data_digest, key.manifest_digest), found[key.path]
            if pair not in newest or key.nonce > newest[pair].nonce:
                newest[pair] = key
    return found


def _versions(bucket: Bucket, place: Place, newest: _Newest) -> tuple[Version, ...]:
    """Return the versions of a ref, the newest first. Raises `Corrupt`."""
    current = _header(bucket, place.current)
    here = current and pair_of(current.record)
    listed: dict[tuple[str, str], Stored] = {}
    for pair, key in newest.items():
        # The current record is a copy of its version's, as a rule: one read shows both.
        is_current = current and pair == here and key.nonce == current.nonce
        stored = current if is_current else _header(bucket, key.text)
        if stored:  # else it was collected since the listing
            listed[pair_of(stored.record)] = stored
    if current and here:
        listed.setdefault(here, current)
    by_age = sorted(listed.items(), key=lambda each: each[1].nonce, reverse=True)
    return tuple(version_of(each.record, current=pair == here) for pair, each in by_age)


def _header(bucket: Bucket, key: str) -> Stored | None:
    found = begun(bucket, key, HEADER_MAX_BYTES)
    return found and found[1]
