"""The memory backend: the whole contract in a dict, for tests and for trying things out."""

from __future__ import annotations

import io
import secrets
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

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
    checksum_of,
    rank,
)
from store.errors import ChecksumMismatch, ConfigError, Corrupt, NotFound
from store.forked import OneProcess
from store.many import delete_each, one_by_one
from store.refs import check_ref, checked
from store.streams import CHUNK_BYTES, ArtifactReader, Readable
from store.urls import shown

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator

_Key = tuple[str, str]  # (data checksum, manifest checksum)


@dataclass(slots=True)
class _Stored:
    artifact: Artifact
    stored_at: float
    used_at: float
    """When the ref last pointed at it, as far as it does no more."""


class _Found(NamedTuple):
    """A version as one moment showed it."""

    ref: str
    key: _Key
    stored: _Stored
    current: bool

    @property
    def where(self) -> str:
        return f"memory:{self.ref}@{self.key[0]}.{self.key[1]}"

    def error(self) -> str | None:
        data, manifest = self.stored.artifact
        if (checksum_of(data), checksum_of(manifest)) == self.key:
            return None
        return f"{self.where} is damaged: it fails its checksum; put it again"


@dataclass(slots=True)
class _Entry:
    """What lies at a ref. `versions` is in the order of their last Put."""

    current: _Key | None
    """None when that version was deleted, and others were not."""
    position: Position | None
    versions: dict[_Key, _Stored] = field(default_factory=dict)


class _OwnLock:
    """The lock of a store: between the threads of the process that made it, and for no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = OneProcess("what it puts nobody else would see")

    def __enter__(self) -> None:
        self._process.check()  # first: another thread may have held it while it was forked
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def open_memory(config: StoreConfig) -> MemoryStore:
    """Open a new, empty store. Raises `ConfigError` for a URL that says more than `memory:`."""
    if config.url not in ("", "memory:", "memory://"):
        raise ConfigError(f"{shown(config.url)} has options, and memory takes none: write memory:")
    return MemoryStore()


class MemoryStore:
    """Artifacts that live as long as this object. Every capability; safe between threads."""

    name = "memory"
    capabilities = frozenset(Capability)

    def __init__(self) -> None:
        self.quarantine: dict[str, Artifact] = {}
        """What `verify` moved aside, by where it lay."""
        self.location = f"memory:{id(self)}"
        self.identity = secrets.token_hex(16)
        self._entries: dict[str, _Entry] = {}
        self._lock = _OwnLock()

    def put(
        self, ref: str, data: Blob, manifest: Blob, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`."""
        check_ref(ref)
        check_position(position)
        artifact = Artifact(as_bytes(data), as_bytes(manifest))
        key = (checksum_of(artifact.data), checksum_of(artifact.manifest))
        with self._lock:
            entry = self._entries.setdefault(ref, _Entry(key, position))
            _remember(entry, key, artifact)
            _move(entry, key, position)

    def get(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> Artifact:
        """See `VersionedStore.get`."""
        return self._read(ref, checksum, manifest_checksum, limit).stored.artifact

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`."""
        return self._find(ref, checksum, manifest_checksum) is not None

    def put_from(
        self, ref: str, reader: Readable, manifest: Blob, *, checksum: str | None = None,
        position: Position | None = None,
    ) -> str:  # fmt: skip
        """See `VersionedStore.put_from`; memory holds it all, as it must."""
        check_ref(ref)
        check_pin(checksum, None)
        data = b"".join(iter(lambda: reader.read(CHUNK_BYTES), b""))
        found = checksum_of(data)
        if checksum not in (None, found):
            raise ChecksumMismatch(
                f"data for {ref!r} is {found}, not {checksum}: nothing was put; send it again"
            )
        self.put(ref, data, manifest, position=position)
        return found

    def open(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> ArtifactReader:
        """See `VersionedStore.open`."""
        found = self._read(ref, checksum, manifest_checksum, limit)
        data, manifest = found.stored.artifact
        return ArtifactReader(
            io.BytesIO(data),
            checksum=found.key[0],
            size_bytes=len(data),
            manifest=manifest,
            where=found.where,
        )

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`."""
        return iter(self._refs(prefix, lambda entry: entry.current is not None))

    def _refs(
        self, prefix: str = "", which: Callable[[_Entry], bool] = lambda _: True
    ) -> tuple[str, ...]:
        """Return the refs, without `which` those too whose current version was deleted."""
        if prefix:
            check_ref(prefix)
        with self._lock:
            refs = tuple(ref for ref, entry in self._entries.items() if which(entry))
        under = f"{prefix}/"
        return tuple(ref for ref in refs if not prefix or ref == prefix or ref.startswith(under))

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`."""
        check_ref(ref)
        versions = self._versions(ref)
        if not versions:
            raise NotFound(f"memory has nothing at ref {ref!r}")
        return map(_listed, versions)

    def verify(
        self, prefix: str = "", *, quarantine: bool = False, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Checked]:
        """See `VersionedStore.verify`. A part has whole refs."""
        index, count = part
        for ref in self._refs(prefix):
            if zlib.crc32(ref.encode()) % count == index:
                for found in self._versions(ref):
                    yield self._check(found, quarantine=quarantine)

    def _check(self, found: _Found, *, quarantine: bool) -> Checked:
        error = found.error()
        quarantined = None
        if error and quarantine:
            quarantined = found.where
            self.quarantine[quarantined] = found.stored.artifact
        size_bytes = sum(map(len, found.stored.artifact))
        return Checked(found.where, found.ref, size_bytes, error, quarantined)

    def collect(
        self, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.collect`."""
        now = time.time()
        candidates = [found for ref in self._refs() for found in self._idle(ref, retention, now)]
        pinned = set(pins())
        for found in candidates:
            if pinned.isdisjoint(_pins_of(found)) and self._let_go(found, dry_run=dry_run):
                size_bytes = sum(map(len, found.stored.artifact))
                yield Collected("version", found.where, found.ref, size_bytes)

    def _idle(self, ref: str, retention: Retention, now: float) -> Iterator[_Found]:
        """Yield the versions that `retention` lets go."""
        others = [found for found in self._versions(ref) if not found.current]
        for found in others[max(retention.keep_last - 1, 0) :]:
            if (
                now - found.stored.used_at >= retention.grace_s
                and now - found.stored.stored_at >= retention.keep_newer_s
            ):
                yield found

    def _let_go(self, found: _Found, *, dry_run: bool) -> bool:
        """Remove the version, unless somebody put it since it was found."""
        with self._lock:
            entry = self._entries.get(found.ref)
            if entry is None or entry.versions.get(found.key) is not found.stored:
                return False
            if not dry_run:
                self._remove(found.ref, entry, [found.key])
            return True

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        """See `VersionedStore.delete`."""
        check_ref(ref)
        check_pin(checksum, None)
        with self._lock:
            entry = self._entries.get(ref)
            gone = [key for key in entry.versions if checksum in (None, key[0])] if entry else []
            if entry is None or not gone or _is_used(entry, gone, time.time() - unused_s):
                return False
            self._remove(ref, entry, gone)
            return True

    def versions_of(self, refs: Iterable[str]) -> Iterator[Listed]:
        """See `VersionedStore.versions_of`."""
        return one_by_one(self, checked(refs))

    def delete_all(self, refs: Iterable[str], *, unused_s: float = 0.0) -> Iterator[str]:
        """See `VersionedStore.delete_all`."""
        return delete_each(self, checked(refs), unused_s=unused_s)

    def purge(
        self, refs: Iterable[str], *, only: Only = None, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.purge`."""
        for ref in checked(refs):
            wanted = (only or {}).get(ref)
            for found in self._versions(ref):
                if wanted is not None and found.key[0] not in wanted:
                    continue
                if self._let_go(found, dry_run=dry_run):
                    size_bytes = sum(map(len, found.stored.artifact))
                    yield Collected("record", found.where, ref, size_bytes)
            aside = [one for one in self.quarantine if one.rpartition("@")[0] == f"memory:{ref}"]
            for where in aside:
                yield Collected("damaged", where, ref, sum(map(len, self.quarantine[where])))
                if not dry_run:
                    del self.quarantine[where]

    def _remove(self, ref: str, entry: _Entry, keys: Iterable[_Key]) -> None:
        for key in keys:
            del entry.versions[key]
            if entry.current == key:
                entry.current = entry.position = None
        if not entry.versions:
            del self._entries[ref]

    def _versions(self, ref: str) -> builtins.list[_Found]:
        """Return the versions of a ref, the newest first; none when it is absent."""
        with self._lock:
            entry = self._entries.get(ref)
            if entry is None:
                return []
            return [
                _Found(ref, key, stored, key == entry.current)
                for key, stored in reversed(entry.versions.items())
            ]

    def _read(
        self, ref: str, checksum: str | None, manifest_checksum: str | None, limit: Limit | None
    ) -> _Found:
        """Return an intact version. Raises `NotFound` and `Corrupt`."""
        found = self._find(ref, checksum, manifest_checksum)
        if found is None:
            version = f" version {checksum} {manifest_checksum or ''}".rstrip()
            raise NotFound(f"memory has no{version if checksum else 'thing'} at ref {ref!r}")
        if limit:
            limit.check(found.where, *map(len, found.stored.artifact))
        error = found.error()
        if error:
            raise Corrupt(error)
        return found

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> _Found | None:
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        with self._lock:
            entry = self._entries.get(ref)
            if entry is None:
                return None
            # The current version counts as the newest, whenever it was stored.
            others = reversed(entry.versions) if checksum else ()
            for key in filter(None, (entry.current, *others)):
                if checksum in (None, key[0]) and manifest_checksum in (None, key[1]):
                    return _Found(ref, key, entry.versions[key], key == entry.current)
        return None


def _listed(found: _Found) -> Version:
    data, manifest = found.stored.artifact
    return Version(
        *found.key,
        size_bytes=len(data),
        manifest_size_bytes=len(manifest),
        stored_at=found.stored.stored_at,
        current=found.current,
    )


def _pins_of(found: _Found) -> tuple[Pin, Pin]:
    """Return the pins that would keep this version."""
    checksum, manifest_checksum = found.key
    return Pin(found.ref, checksum), Pin(found.ref, checksum, manifest_checksum)


def _is_used(entry: _Entry, keys: Iterable[_Key], since: float) -> bool:
    """Tell whether one of these was stored or pointed at after `since`."""
    stored = [entry.versions[key] for key in keys]
    return any(max(each.stored_at, each.used_at) > since for each in stored)


def _remember(entry: _Entry, key: _Key, artifact: Artifact) -> None:
    entry.versions.pop(key, None)
    now = time.time()
    entry.versions[key] = _Stored(artifact, stored_at=now, used_at=now)


def _move(entry: _Entry, key: _Key, position: Position | None) -> None:
    if entry.current is None:
        entry.current, entry.position = key, position
    elif position is None:
        if entry.current != key:
            _point(entry, key, None)
    elif entry.position is None or rank(position) >= rank(entry.position):
        _point(entry, key, position)


def _point(entry: _Entry, key: _Key, position: Position | None) -> None:
    if entry.current:
        entry.versions[entry.current].used_at = time.time()
    entry.current, entry.position = key, position
