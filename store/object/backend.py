"""The object backend: S3, GCS and Azure behind one layout, by URL.

    store.open_url("s3://bucket/prefix")        gs://bucket/prefix     az://container/prefix

The URL says where; credentials, region and endpoint are read from the environment, by obstore
(the extra `object`): AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
AWS_ENDPOINT_URL and a web identity's, a container's or the instance's role; GOOGLE_SERVICE_ACCOUNT
(a path), GOOGLE_SERVICE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS or the metadata server;
AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, AZURE_CLIENT_ID,
AZURE_CLIENT_SECRET and AZURE_TENANT_ID, or a managed identity. An endpoint written as http:// is
spoken to without TLS, none else.

`store.object.layout` has the keys, `store.object.put` how they are written, `store.object.verify`,
`store.object.collect` and `store.object.delete` keep them in order.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
from typing import TYPE_CHECKING, TypeVar

from store.contract import (
    Artifact,
    Blob,
    Capability,
    Checked,
    Collected,
    Limit,
    Listed,
    Only,
    Pin,
    Position,
    Retention,
    StoreConfig,
    Version,
    as_bytes,
    check_pin,
    check_position,
    digests_of,
)
from store.errors import ConfigError, Corrupt, NotFound, Unavailable, no_store
from store.foreign import is_of_tools
from store.many import delete_each
from store.object import reading
from store.object.client import Bucket
from store.object.collect import collect
from store.object.delete import delete
from store.object.errors import Conflict, NotAllowed
from store.object.finding import versions_of
from store.object.layout import (
    CURRENTS,
    FORMAT,
    FORMAT_KEY,
    IDENTITY_KEY,
    Stored,
    folder_of,
    is_path,
    is_under,
    pair_of,
    place_of,
    ref_of,
    version_key,
)
from store.object.purge import purge
from store.object.put import Writer
from store.object.stream import open_stream
from store.object.urls import location_of
from store.object.verify import verify
from store.record import FIRST_BYTES, HEADER_MAX_BYTES
from store.refs import check_ref, checked
from store.streams import ArtifactReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from store.object.stream import DataStream
    from store.streams import Readable

_T = TypeVar("_T")

_UNCONDITIONAL = (
    "{}: the service has no conditional writes, or takes none of its own tags: of two that write a"
    " ref at the same moment the earlier may win, and a write that was given up may arrive late and"
    " move the ref back; use a release of the service that has If-Match, and let one worker write"
)

SHORTEST_GRACE_S = 3600.0
"""Garbage collection refuses a shorter grace: a Put may rely on what is a sixth as old."""


_IDENTITY = re.compile(rb"[0-9a-f]{32}\n")


def open_object(config: StoreConfig) -> ObjectStore:
    """Open, or create, the store at `config.url`.

    Raises `ConfigError` for a URL that names no place, settings that cannot be, a missing obstore,
    and as `ObjectStore`.
    """
    return ObjectStore(Bucket(location_of(config.url), config.timeout_s), create=config.create)


class _DataMissing(Corrupt):
    """A record is there, and its data is not."""


class ObjectStore:
    """Artifacts under one prefix of one bucket, for any number of threads, processes and hosts.

    Raises `ConfigError` when the prefix holds something else or a newer format, or no store and it
    is not to `create` one; `Unavailable` when it cannot be reached. With a store in it already,
    read-only credentials can open and read it.
    """

    name = "object"
    capabilities = frozenset(Capability)

    def __init__(
        self, bucket: Bucket, *, shortest_grace_s: float = SHORTEST_GRACE_S, create: bool = True
    ) -> None:
        self._bucket = bucket
        self._shortest_grace_s = shortest_grace_s
        self._writer = Writer(bucket, shortest_grace_s / 6)
        self.location = bucket.location.storage
        self._identity: str | None = None
        if not self._has_format():
            self._create(allowed=create)

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

    def _create(self, *, allowed: bool) -> None:
        if not allowed:
            raise no_store(str(self._bucket.location))
        for meta in self._bucket.keys(""):
            if meta["size"] == 0 or is_of_tools(meta["path"].rpartition("/")[2]):
                continue  # a folder's marker, as consoles leave them
            if self._has_format():  # another process was faster
                return
            raise ConfigError(
                f"{self._bucket.location} is not empty ({meta['path']}) and has no {FORMAT_KEY}:"
                f" name an empty prefix or, if this is a store, restore that key: {FORMAT!r}"
            )
        self._bucket.put(FORMAT_KEY, FORMAT)

    @property
    def identity(self) -> str | None:
        """See `VersionedStore.identity`. Made when it is first asked for: who only reads and puts
        spares the requests.
        """
        if self._identity is None:
            found = self._bucket.get(IDENTITY_KEY)
            if found is None:
                self._check_store()
                with contextlib.suppress(NotAllowed):
                    self._create_identity()
                found = self._bucket.get(IDENTITY_KEY)
            self._identity = found and _identity_in(self._bucket, found.content)
        return self._identity

    def caveats(self) -> tuple[str, ...]:
        """Return what the service cannot do, what that means, and the fix. It tries, by writing.

        Raises `Unavailable`.
        """
        if self._bucket.conditions.hold():
            return ()
        return (_UNCONDITIONAL.format(self._bucket.location),)

    def _create_identity(self) -> None:
        """Create the identity, unless there is one.

        A service without conditional writes takes that of two creators which comes last.
        """
        with contextlib.suppress(Conflict):
            self._bucket.put(
                IDENTITY_KEY, secrets.token_hex(16).encode() + b"\n", self._bucket.unchanged(None)
            )

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
        self, ref: str, reader: Readable, manifest: Blob, *, checksum: str | None = None,
        position: Position | None = None,
    ) -> str:  # fmt: skip
        """See `VersionedStore.put_from`. It holds some 24 MiB of the data at a time."""
        check_ref(ref)
        check_position(position)
        check_pin(checksum, None)
        manifest = as_bytes(manifest)
        return "sha256:" + self._writer.put_from(ref, reader, manifest, checksum, position)

    # Get: one record, perhaps one object, both digests.

    def get(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> Artifact:
        """See `VersionedStore.get`. Raises `Corrupt` with the key of what is damaged.

        A version that is not the current one costs a listing.
        """
        return self._read_by(
            ref, checksum, manifest_checksum, lambda found: self._artifact(ref, found, limit)
        )

    def _artifact(self, ref: str, found: Stored, limit: Limit | None) -> Artifact:
        with self._reader(ref, found, limit) as reader:
            return Artifact(reader.readall(), reader.manifest)

    def open(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> ArtifactReader:
        """See `VersionedStore.open`. A connection that breaks is taken up where it broke."""
        return self._read_by(
            ref, checksum, manifest_checksum, lambda found: self._reader(ref, found, limit)
        )

    def _reader(self, ref: str, found: Stored, limit: Limit | None) -> ArtifactReader:
        where = self._bucket.where(found.key)
        if limit:
            limit.check(where, found.record.data_size, found.record.manifest_size)
        found = reading.whole(self._bucket, found)
        fault = found.fault()
        if fault:
            raise Corrupt(f"{where} is damaged: {fault}: put it again")
        raw: io.BytesIO | DataStream | None = io.BytesIO(found.data)
        if not found.record.inline:
            key = place_of(ref).object(found.nonce)
            where = self._bucket.where(key)
            raw = open_stream(self._bucket, key)
        if raw is None:
            raise _DataMissing(f"{where} is missing, and {found.key} needs it: put it again")
        return ArtifactReader(
            raw,
            checksum=f"sha256:{found.record.data_digest}",
            size_bytes=found.record.data_size,
            manifest=found.manifest,
            where=where,
            close=raw.close,
        )

    def _read_by(
        self, ref: str, checksum: str | None, manifest_checksum: str | None,
        read: Callable[[Stored], _T],
    ) -> _T:  # fmt: skip
        """Read the version from the first of its records that is intact.

        Data that is missing may have been collected since its record was read; then that record
        is gone, too, and another look tells.
        """
        missing: list[str] | None = None
        while True:
            damage: list[Corrupt] = []
            for found in self._copies(ref, checksum, manifest_checksum):
                try:
                    if isinstance(found, Corrupt):
                        raise found
                    return read(found)
                except Corrupt as error:
                    damage.append(error)
            if not damage:
                self._check_store()
                version = f" version {checksum} {manifest_checksum or ''}".rstrip()
                raise NotFound(
                    f"{self._bucket.location} has no{version if checksum else 'thing'}"
                    f" at ref {ref!r}"
                )
            before, missing = missing, [str(e) for e in damage if isinstance(e, _DataMissing)]
            if not missing or missing == before:
                raise damage[0]

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`. Only `get` verifies data and manifest.

        Raises `Corrupt` when the record of a version that is asked for cannot be read at all.
        """
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        if checksum is not None:
            return self._has_version(ref, checksum, manifest_checksum)
        present = self._bucket.head(place_of(ref).current) is not None
        if not present:
            self._check_store()
        return present

    def _has_version(self, ref: str, checksum: str, manifest_checksum: str | None) -> bool:
        damage: Corrupt | None = None
        for found in self._copies(ref, checksum, manifest_checksum):
            if not isinstance(found, Corrupt):
                return True
            damage = damage or found
        if damage:
            raise damage  # it may be what was asked for
        self._check_store()
        return False

    def _copies(
        self, ref: str, checksum: str | None, manifest_checksum: str | None
    ) -> Iterator[Stored | Corrupt]:
        """Yield the records of the version asked for, the best first, and what is damaged."""
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        place = place_of(ref)
        pin = (checksum and _hex_of(checksum), manifest_checksum and _hex_of(manifest_checksum))
        try:
            current = self._read(place.current)
            if current and current.record.is_version(*pin):
                yield current
                pin = pair_of(current.record)
        except Corrupt as error:
            yield error
        data_digest, manifest_digest = pin
        if data_digest:
            yield from self._own_copies(place.versions(data_digest, manifest_digest))

    def _own_copies(self, folder: str) -> Iterator[Stored | Corrupt]:
        """Yield the version's own records in a folder, the newest first."""
        found = (version_key(meta["path"]) for meta in self._bucket.keys(folder))
        keys = sorted(filter(None, found), key=lambda key: key.nonce, reverse=True)
        for key in keys:
            if key.manifest_digest == keys[0].manifest_digest:  # the newest manifest counts
                try:
                    stored = self._read(key.text)
                except Corrupt as error:
                    yield error
                else:
                    if stored is not None:
                        yield stored  # else it was collected since the listing

    def _read(self, key: str, *, header_only: bool = False) -> Stored | None:
        found = reading.begun(self._bucket, key, HEADER_MAX_BYTES if header_only else FIRST_BYTES)
        return found and found[1]

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
        if not is_path(path):
            return None  # foreign
        ref = ref_of(path)
        if ref is None:
            found = self._read(key, header_only=True)
            ref = found and found.record.ref
        return ref

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`. It reads the header of every version."""
        check_ref(ref)
        for found in versions_of(self._bucket, [ref]):
            if found.error:
                raise found.error
            return iter(found.versions)
        self._check_store()
        raise NotFound(f"{self._bucket.location} has nothing at ref {ref!r}")

    def versions_of(self, refs: Iterable[str]) -> Iterator[Listed]:
        """See `VersionedStore.versions_of`. Keys are listed once for all refs of a folder."""
        listing = checked(refs)
        self._check_store()
        yield from versions_of(self._bucket, listing)

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
        self, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.collect`. Raises ValueError for a grace that is too short here."""
        _check_grace("a grace", retention.grace_s, self._shortest_grace_s)
        return collect(self._bucket, retention, pins, dry_run=dry_run)

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        """See `VersionedStore.delete`; docs/object-store.md has what a Put beside it may meet.

        Raises `Corrupt` as `store.object.delete.delete`, and ValueError for a time that is too
        short here.
        """
        check_ref(ref)
        check_pin(checksum, None)
        if unused_s:
            _check_grace("a time out of use", unused_s, self._shortest_grace_s)
        self._check_store()
        return delete(self._bucket, ref, [_hex_of(checksum)] if checksum else None, unused_s)

    def delete_all(self, refs: Iterable[str], *, unused_s: float = 0.0) -> Iterator[str]:
        """See `VersionedStore.delete_all`."""
        return delete_each(self, checked(refs), unused_s=unused_s)

    def purge(
        self, refs: Iterable[str], *, only: Only = None, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.purge`; docs/object-store.md has what a Put beside it may meet."""
        leaving = checked(refs)
        self._check_store()
        yield from purge(self._bucket, leaving, digests_of(only), dry_run=dry_run)


def _identity_in(bucket: Bucket, content: bytes) -> str:
    if not _IDENTITY.fullmatch(content):
        raise Corrupt(
            f"{bucket.where(IDENTITY_KEY)} is no identity: restore it; removed, the store gets a"
            " new one"
        )
    return content.decode().rstrip()


def _check_grace(what: str, given_s: float, shortest_s: float) -> None:
    if given_s < shortest_s:
        raise ValueError(
            f"{what} of {given_s:g} s is too short: in object storage a Put may rely on what is"
            f" {shortest_s / 6:g} s old, and a delete come late; give at least {shortest_s:g} s"
        )


def _hex_of(checksum: str) -> str:
    return checksum.removeprefix("sha256:")
