"""What a feed resolves from: the fleet's store, and a cache beside it."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable
from typing import Any

from sidecar.errors import UsageError
from sidecar.feed.ahead import ahead_of
from sidecar.feed.cache import Cache
from sidecar.feed.kept import Pinned
from sidecar.wire.bounds import bounded
from sidecar.wire.erasures import erasures_of
from sidecar.wire.notification import Notification
from sidecar.wire.urls import redact
from store import Artifact, ArtifactReader, Capability, Store, VersionedStore, versioned


class Artifacts:
    """The artifacts that notifications pin. Safe to use from several threads."""

    def __init__(self, store: Store | None, cache: Cache | None) -> None:
        """Raises `UsageError` for a cache beside no store that pins."""
        self.store = versioned(store, Capability.PINNED_GET) if store else None
        self._lack = _lack(store)
        self.cache = cache
        if cache and not self.store:
            raise UsageError(f"beside a cache, the feed needs {self._lack}")
        self.is_fleets = store is None or not versioned(store, Capability.IDENTITY)
        """Whether nothing is left to compare: the store is theirs, or nobody can tell."""

    def check_store(self, noted: Any, url: str) -> None:  # noqa: ANN401 -- of either client
        """Raise `UsageError` when the store is not the one whose identity is noted, if any is."""
        identity = self.store.identity if self.store and noted else None
        if identity and noted.decode(errors="replace") != identity:
            raise UsageError(
                f"the feed's store is {identity}, and the notifications on {redact(url)} name"
                f" the store {noted.decode(errors='replace')}; open that one"
            )
        self.is_fleets = True

    def ahead(
        self, notifications: Iterable[Notification], ahead: int
    ) -> Generator[Notification, None, None]:
        """Yield what is given, while the next of it comes into the cache."""
        if self.cache is None:
            raise UsageError("to prefetch, the feed needs a cache: Feed(…, cache=Cache(…))")
        return ahead_of(notifications, ahead, self._prefetch)

    def _prefetch(self, notification: Notification) -> None:
        if self.cache and (pin := Pinned.by(notification)):
            self.cache.prefetch(pin, lambda: self._open_there(notification))

    def cached(self, notification: Notification) -> Artifact | None:
        """Return the artifact if it is in the cache; neither Redis nor the store is asked."""
        pin = Pinned.by(notification)
        return self.cache.find(pin) if self.cache and pin else None

    def cached_reader(self, notification: Notification) -> ArtifactReader | None:
        """Open the artifact if it is in the cache."""
        pin = Pinned.by(notification)
        return self.cache.find_reader(pin) if self.cache and pin else None

    def get(self, notification: Notification) -> Artifact:
        """Return the artifact. Raises as `Feed.resolve`."""
        if self.cache and (pin := Pinned.by(notification)):
            return self.cache.get(pin, lambda: self._open_there(notification))
        return self._get_there(notification)

    def open(self, notification: Notification) -> ArtifactReader:
        """Open the artifact. Raises as `Feed.resolve`."""
        if self.cache and (pin := Pinned.by(notification)):
            return self.cache.open(pin, lambda: self._open_there(notification))
        return self._open_there(notification)

    def _get_there(self, notification: Notification) -> Artifact:
        store, pin = self._pinned(notification)
        with erasures_of(store).told(notification.artifact_ref, notification.checksum):
            return store.get(notification.artifact_ref, **pin, **bounded(store))

    def _open_there(self, notification: Notification) -> ArtifactReader:
        """Open the artifact in the store."""
        store, pin = self._pinned(notification)
        if versioned(store, Capability.STREAM):
            with erasures_of(store).told(notification.artifact_ref, notification.checksum):
                return store.open(notification.artifact_ref, **pin, **bounded(store))
        data, manifest = self._get_there(notification)
        return ArtifactReader(
            io.BytesIO(data), checksum=notification.checksum, size_bytes=len(data),
            manifest=manifest, where=notification.artifact_ref,
        )  # fmt: skip

    def _pinned(self, notification: Notification) -> tuple[VersionedStore, dict[str, Any]]:
        """Return where the artifact is, and which version."""
        if not notification.artifact_ref:
            raise ValueError(f"{notification.event_id} names no artifact")
        if self.store is None:
            raise UsageError(f"to resolve, the feed needs {self._lack}")
        return self.store, {
            "checksum": notification.checksum,
            "manifest_checksum": notification.manifest_checksum or None,
        }


def _lack(store: Store | None) -> str:
    """Say what a feed without a store that pins needs."""
    if store is None:
        return "the fleet's store, and was given none; pass store=store.open_url(URL, create=False)"
    return f"a store that declares pinned-get, and the backend {store.name!r} does not"
