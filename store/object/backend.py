"""The object backend: S3, GCS and Azure behind one layout, by URL.

    store.open_url("s3://bucket/prefix")        gs://bucket/prefix     az://container/prefix

The URL says where; credentials, region and endpoint are read from the environment, by obstore
(the extra `object`): AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
AWS_ENDPOINT_URL and a web identity's, a container's or the instance's role; GOOGLE_SERVICE_ACCOUNT
(a path), GOOGLE_SERVICE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS or the metadata server;
AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, AZURE_CLIENT_ID,
AZURE_CLIENT_SECRET and AZURE_TENANT_ID, or a managed identity. An endpoint written as http:// is
spoken to without TLS, none else.

`store.object.layout` has the keys, `store.object.put` how they are written, `store.object.verify`
and `store.object.collect` keep them in order.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from store.contract import (
    Artifact,
    Blob,
    Capability,
    Checked,
    Collected,
    Pin,
    Position,
    Retention,
    StoreConfig,
    Version,
    as_bytes,
    check_pin,
    check_position,
)
from store.errors import ConfigError, Corrupt, NotFound, Unavailable
from store.object.client import Bucket
from store.object.collect import collect
from store.object.layout import (
    CURRENTS,
    FORMAT,
    FORMAT_KEY,
    VERSIONS,
    Stored,
    folder_of,
    is_under,
    place_of,
    ref_of,
    stored_of,
    version_key,
)
from store.object.put import Writer
from store.object.stream import open_stream
from store.object.urls import location_of
from store.object.verify import verify
from store.record import HEADER_MAX_BYTES, version_of
from store.refs import check_ref
from store.streams import ArtifactReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from store.object.stream import DataStream
    from store.streams import Readable

SHORTEST_GRACE_S = 3600.0
"""Garbage collection refuses a shorter grace: a Put may rely on what is a sixth as old."""


def open_object(config: StoreConfig) -> ObjectStore:
    """Open, or create, the store at `config.url`.

    Raises `ConfigError` for a URL that names no place, settings that cannot be, a missing obstore,
    and as `ObjectStore`.
    """
    return ObjectStore(Bucket(location_of(config.url), config.timeout_s))


class ObjectStore:
    """Artifacts under one prefix of one bucket, for any number of threads, processes and hosts.

    Raises `ConfigError` when the prefix holds something else or a newer format, `Unavailable` when
    it cannot be reached. With a store in it already, read-only credentials can open and read it.
    """

    name = "object"
    capabilities = frozenset(Capability)

    def __init__(self, bucket: Bucket, *, shortest_grace_s: float = SHORTEST_GRACE_S) -> None:
        self._bucket = bucket
        self._shortest_grace_s = shortest_grace_s
        self._writer = Writer(bucket, shortest_grace_s / 6)
        self.identity = bucket.location.identity
        if not self._has_format():
            self._create()

    def _has_format(self) -> bool:
        """Tell whether there is a store. Raises `ConfigError` for one this release cannot read."""
        found = self._bucket.get(FORMAT_KEY)
        if found is None:
            return False
        if found.content != FORMAT:
            raise ConfigError(
                f"{self._bucket.where(FORMAT_KEY)} says {found.content[:60]!r}, this release reads"
                f" {FORMAT!r}: use the release that made the store, or a newer one"
            )
        return True

    def _create(self) -> None:
        for meta in self._bucket.keys(""):
            if self._has_format():  # another process was faster
                return
            raise ConfigError(
                f"{self._bucket.location} is not empty ({meta['path']}) and has no {FORMAT_KEY}:"
                f" name an empty prefix or, if this is a store, restore that key: {FORMAT!r}"
            )
        self._bucket.put(FORMAT_KEY, FORMAT)

    def _check_store(self) -> None:
        """Raise `Unavailable` unless the store is there: only then is anything else absent."""
        if self._bucket.head(FORMAT_KEY) is None:
            raise Unavailable(
                f"{self._bucket.where(FORMAT_KEY)} is missing, or the whole bucket: restore it"
            )

    # Put: data, version, current record.

    def put(
        self, ref: str, data: Blob, manifest: Blob, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`. Raises `Unavailable` when it cannot be written."""
        check_ref(ref)
        check_position(position)
        self._writer.put(ref, as_bytes(data), as_bytes(manifest), position)

    def put_from(
        self,
        ref: str,
        reader: Readable,
        manifest: Blob,
        *,
        checksum: str | None = None,
        position: Position | None = None,
    ) -> str:
        """See `VersionedStore.put_from`. It holds some 24 MiB of the data at a time."""
        check_ref(ref)
        check_position(position)
        check_pin(checksum, None)
        manifest = as_bytes(manifest)
        return "sha256:" + self._writer.put_from(ref, reader, manifest, checksum, position)

    # Get: one record, perhaps one object, both digests.

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> Artifact:
        """See `VersionedStore.get`. Raises `Corrupt` with the key of what is damaged.

        A version that is not the current one costs a listing.
        """
        with self.open(ref, checksum=checksum, manifest_checksum=manifest_checksum) as reader:
            return Artifact(reader.readall(), reader.manifest)

    def open(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> ArtifactReader:
        """See `VersionedStore.open`. A connection that breaks is taken up where it broke."""
        without_data = ""
        while True:
            found = self._find(ref, checksum, manifest_checksum)
            if found is None:
                version = f" version {checksum} {manifest_checksum or ''}".rstrip()
                raise NotFound(
                    f"{self._bucket.location} has no{version if checksum else 'thing'}"
                    f" at ref {ref!r}"
                )
            where = self._bucket.where(found.key)
            if hashlib.sha256(found.manifest).hexdigest() != found.record.manifest_digest:
                raise Corrupt(f"{where} is damaged: its manifest fails its checksum")
            raw: io.BytesIO | DataStream | None = io.BytesIO(found.data)
            if not found.record.inline:
                key = place_of(ref).object(found.nonce)
                where = self._bucket.where(key)
                raw = open_stream(self._bucket, key)
            if raw is not None:
                return ArtifactReader(
                    raw,
                    checksum=f"sha256:{found.record.data_digest}",
                    size_bytes=found.record.data_size,
                    manifest=found.manifest,
                    where=where,
                    close=raw.close,
                )
            if found.nonce == without_data:
                raise Corrupt(f"{where} is missing, and {found.key} needs it: put it again")
            without_data = found.nonce  # or was it collected since? then its record is gone, too

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`. Only `get` verifies data and manifest.

        Raises `Corrupt` when the record of a version that is asked for cannot be read at all.
        """
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        if checksum is not None:
            return self._find(ref, checksum, manifest_checksum) is not None
        present = self._bucket.head(place_of(ref).current) is not None
        if not present:
            self._check_store()
        return present

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> Stored | None:
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        place = place_of(ref)
        data_digest = checksum and _hex_of(checksum)
        manifest_digest = manifest_checksum and _hex_of(manifest_checksum)
        damage: Corrupt | None = None
        try:
            current = self._read(place.current)
            if current and current.record.is_version(data_digest, manifest_digest):
                return current
        except Corrupt as error:
            damage = error
        if data_digest:
            version = self._newest(place.versions(data_digest, manifest_digest))
            if version is not None:
                return version
        if damage is not None:
            raise damage  # it may be what was asked for
        self._check_store()
        return None

    def _newest(self, folder: str) -> Stored | None:
        keys = [meta["path"] for meta in self._bucket.keys(folder)]
        for key in sorted(keys, key=lambda key: key.rpartition("/")[2], reverse=True):
            found = self._read(key)
            if found is not None:
                return found  # else it was collected since the listing
        return None

    def _read(self, key: str, *, header_only: bool = False) -> Stored | None:
        got = self._bucket.get(key, first_bytes=HEADER_MAX_BYTES if header_only else None)
        return got and stored_of(got.content, key, self._bucket.where(key))

    # What there is.

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`. One request a thousand refs; memory is constant."""
        folder = CURRENTS
        if prefix:
            check_ref(prefix)
            folder = f"{CURRENTS}/{folder_of(prefix)}"
        self._check_store()
        if prefix and self.exists(prefix):
            yield prefix
        for meta in self._bucket.keys(folder):
            ref = self._ref_at(meta["path"])
            if ref is not None and ref != prefix and is_under(ref, prefix):
                yield ref

    def _ref_at(self, key: str) -> str | None:
        """Return the ref whose current record this is. Only a hashed name needs the record."""
        path = key.removeprefix(f"{CURRENTS}/")
        if not path.endswith("@"):
            return None  # a folder's marker, as some tools leave them
        try:
            ref = ref_of(path)
        except ValueError as error:
            where = self._bucket.where(key)
            raise Corrupt(f"{where} is no key of this store: {error}; move it away") from None
        if ref is None:
            found = self._read(key, header_only=True)
            ref = found and found.record.ref
        return ref

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`. It reads the header of every version."""
        check_ref(ref)
        place = place_of(ref)
        current = self._read(place.current, header_only=True)
        newest: dict[tuple[str | None, str | None], tuple[str, str]] = {}
        for meta in self._bucket.keys(f"{VERSIONS}/{place.path}"):
            key = version_key(meta["path"])
            if key and key.data_digest:
                pair = (key.data_digest, key.manifest_digest)
                newest[pair] = max(newest.get(pair, ("", "")), (key.nonce, meta["path"]))
        found = [self._read(path, header_only=True) for _, path in newest.values()]
        listed = {_pair_of(each): each for each in found if each}
        here = current and _pair_of(current)
        if current and here:
            listed.setdefault(here, current)
        if not listed:
            self._check_store()
            raise NotFound(f"{self._bucket.location} has nothing at ref {ref!r}")
        by_age = sorted(listed.items(), key=lambda each: each[1].nonce, reverse=True)
        return iter([version_of(each.record, current=pair == here) for pair, each in by_age])

    # Care.

    def verify(
        self, prefix: str = "", *, quarantine: bool = False, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Checked]:
        """See `VersionedStore.verify`. With `quarantine`, damaged bytes are copied to quarantine/
        and a mark is left in their place.
        """
        if prefix:
            check_ref(prefix)
        self._check_store()
        yield from verify(self._bucket, prefix, quarantine=quarantine, part=part)

    def collect(
        self,
        retention: Retention,
        pins: Callable[[], Iterable[Pin]],
        *,
        dry_run: bool = False,
    ) -> Iterator[Collected]:
        """See `VersionedStore.collect`. Raises ValueError for a grace that is too short here."""
        if retention.grace_s < self._shortest_grace_s:
            raise ValueError(
                f"a grace of {retention.grace_s:g} s is too short: in object storage a Put may rely"
                f" on what is {self._shortest_grace_s / 6:g} s old, and a delete come late; give at"
                f" least {self._shortest_grace_s:g} s"
            )
        return collect(self._bucket, retention, pins, dry_run=dry_run)


def _pair_of(stored: Stored) -> tuple[str, str]:
    return stored.record.data_digest, stored.record.manifest_digest


def _hex_of(checksum: str) -> str:
    return checksum.removeprefix("sha256:")
