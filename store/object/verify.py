"""Reading all that is stored in the object backend's bucket, and setting aside what is damaged."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from typing import TYPE_CHECKING

from store.contract import Checked
from store.errors import Corrupt
from store.foreign import foreign
from store.object.errors import Absent, Conflict
from store.object.layout import (
    CURRENTS,
    QUARANTINE,
    VERSIONS,
    VersionKey,
    folder_of,
    is_path,
    is_under,
    new_nonce,
    now_text,
    place_of,
    record_left,
    ref_of,
    stored_of,
    version_key,
)
from store.object.reading import fault as fault_in
from store.object.stream import open_stream
from store.record import Newer, Quarantined, note_of_damage, parse
from store.streams import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from obstore import ObjectMeta

    from store.object.client import Bucket
    from store.object.layout import Stored
    from store.object.stream import DataStream
    from store.record import Record

_NOTE_MAX_BYTES = 2048
_FOREIGN = ""
"""In place of the path of a key that has none."""


def verify(
    bucket: Bucket, prefix: str, *, quarantine: bool, part: tuple[int, int]
) -> Iterator[Checked]:
    """Read every record at and under `prefix`, and its data; yield what was found of each."""
    share, shares = part
    reading = _Reading(bucket, prefix, quarantine=quarantine)
    for path, key in itertools.chain(_currents(bucket, prefix), _versions(bucket, prefix)):
        if zlib.crc32(path.encode()) % shares == share:
            where = bucket.where(key)
            try:
                yield from reading.record(path, key) if is_path(path) else [foreign(where)]
            except Newer as newer:
                yield Checked(where, _ref_or_none(path), 0, str(newer))


def _currents(bucket: Bucket, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the key of each current record; some may lie beside `prefix`."""
    folder = CURRENTS
    if prefix:
        place = place_of(prefix)
        yield place.path, place.current
        folder = f"{CURRENTS}/{folder_of(prefix)}"
    for meta in bucket.keys(folder):
        path = meta["path"].removeprefix(f"{CURRENTS}/")
        if not (prefix and path == place_of(prefix).path):
            yield path, meta["path"]


def _versions(bucket: Bucket, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the key of each version's newest record: nobody reads older ones."""
    folders = [VERSIONS]
    own = ""
    if prefix:
        own = place_of(prefix).path
        folders = [f"{VERSIONS}/{own}", f"{VERSIONS}/{folder_of(prefix)}"]
    for folder in folders:
        keys = ((meta["path"], version_key(meta["path"])) for meta in bucket.keys(folder))
        for path, found in itertools.groupby(keys, key=lambda each: each[1] and each[1].path):
            if path is None:
                yield from ((_FOREIGN, key) for key, _ in found)
            elif path != own or folder == folders[0]:  # else its folder was the first
                for key in _newest(key for _, key in found if key):
                    yield path, key.text


def _newest(keys: Iterable[VersionKey]) -> Iterable[VersionKey]:
    """Return the newest record of each version."""
    in_order = sorted((key for key in keys if key.data_digest), key=lambda key: key.nonce)
    return {(key.data_digest, key.manifest_digest): key for key in in_order}.values()


class _Reading:
    """What is found, record by record."""

    def __init__(self, bucket: Bucket, prefix: str, *, quarantine: bool) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._quarantine = quarantine

    def record(self, path: str, key: str) -> Iterator[Checked]:
        got = self._bucket.get(key)
        if got is None:
            return  # collected since the listing
        where = self._bucket.where(key)
        stored: Stored | None = None
        aside = error = None
        try:
            stored = stored_of(got.content, key, where, got.meta["size"])
            ref: str | None = stored.record.ref
            fault = fault_in(self._bucket, stored)
            error = f"{where} is damaged: {fault}: put it again" if fault else None
        except Quarantined as damage:
            ref, error, aside = _ref_or_none(path), str(damage), damage.kept
        except Corrupt as damage:
            ref, error = _ref_or_none(path), str(damage)
        if ref is not None and not is_under(ref, self._prefix):
            return
        if error and not aside:
            try:
                aside = self._set_aside(key, got.meta, record_left(got.content, key))
            except Absent:
                return  # as above
        yield Checked(where, ref, got.meta["size"], error, aside)
        if stored and not stored.record.inline and version_key(key):
            yield from self._data(stored)

    def _data(self, stored: Stored) -> Iterator[Checked]:
        """Read the data of a version's record."""
        record = stored.record
        key = place_of(record.ref).object(stored.nonce)
        where = self._bucket.where(key)
        stream = open_stream(self._bucket, key)
        if stream is None:
            if self._bucket.head(stored.key) is not None:  # else both were collected
                error = f"{where} is missing, and {stored.key} needs it: put it again"
                yield Checked(where, record.ref, 0, error)
            return
        digest, size, start = _read(stream)
        if digest == record.data_digest:
            yield Checked(where, record.ref, size, None)
            return
        error, aside = f"{where} is damaged: the data fails its checksum: put it again", None
        try:
            parse(start, where)
        except Quarantined as damage:
            error, aside = str(damage), damage.kept
        except (Corrupt, Newer):
            try:
                aside = self._set_aside(key, self._bucket.head(key))
            except Absent:
                return  # collected since it was read
        yield Checked(where, record.ref, size, error, aside)

    def _set_aside(
        self, key: str, meta: ObjectMeta | None, record: Record | None = None
    ) -> str | None:
        """Copy what is damaged, and leave a note in its place: reading it stays `Corrupt`.

        Raises `Absent` when it is gone.
        """
        if not self._quarantine or meta is None:
            return None
        aside = f"{QUARANTINE}/{new_nonce(now_text())}/{key}"
        where = self._bucket.where(aside)
        self._bucket.copy(key, aside)
        mode = self._bucket.unchanged(meta)
        if mode is not None or not key.startswith(f"{CURRENTS}/"):
            try:
                self._bucket.put(key, note_of_damage(where, record), mode)
            except Conflict:
                return None  # a Put has healed it meanwhile
        return where


def _read(stream: DataStream) -> tuple[str, int, bytes]:
    """Read to the end; return digest, size and, where a note of damage would be, the start."""
    digest, size, start = hashlib.sha256(), 0, b""
    while chunk := stream.read(CHUNK_BYTES):
        start = start or chunk[:_NOTE_MAX_BYTES]
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size, start


def _ref_or_none(path: str) -> str | None:
    try:
        return ref_of(path)
    except ValueError:
        return None
