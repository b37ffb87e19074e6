"""Opens the version that an event pins, in one store: the producer's, or the fleet's own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

from sidecar.wire.bounds import bounded
from sidecar.wire.event import Event
from sidecar.worker.inflight import SMALL_BYTES
from sidecar.worker.policy import Mismatch
from store import (
    Artifact,
    ArtifactReader,
    Capability,
    Corrupt,
    Limit,
    NotFound,
    Store,
    capabilities,
    versioned,
)

LACKS: Final = (NotFound, Mismatch, Corrupt)
"""How a store answers that it has nothing right at a ref."""


class Several(Exception):
    """A store has more than one version that an event may mean."""


class Opener:
    """Opens artifacts of one store, whatever that can do.

    Attributes:
        pins: whether the store has the version that is asked for, whatever else is at its ref.
        streams: whether an artifact is read in constant memory, and its sizes are looked at first.
        whole: arguments of `open`, for all that is taken.
        small: the same, for what takes little memory.

    """

    def __init__(self, store: Store, limit: Limit) -> None:
        self.store = store
        self._streaming = versioned(store, Capability.STREAM)
        self._listing = versioned(store, Capability.LIST)
        self.pins = Capability.PINNED_GET in capabilities(store)
        self.whole = bounded(store, limit)
        self.small = bounded(store, Limit(limit.size_bytes, SMALL_BYTES))
        self.streams = bool(self._streaming and self.whole)

    def open(self, event: Event, limits: Mapping[str, Any]) -> ArtifactReader:
        """Open the version that the event pins; what is there, if the store keeps no versions.

        Raises `Mismatch` where its ref has others only, and as `VersionedStore.open`.
        """
        how: dict[str, Any] = {**limits}
        if self.pins:
            how["checksum"] = event.checksum
            if event.manifest_checksum:
                how["manifest_checksum"] = event.manifest_checksum
        try:
            if self._streaming:
                return self._streaming.open(event.artifact_ref, **how)
            get: Any = self.store.get
            return _in_memory(get(event.artifact_ref, **how))
        except NotFound:
            if self.pins and self.store.exists(event.artifact_ref):
                raise Mismatch(
                    f"no version of {event.artifact_ref!r} at the source has the checksum"
                    f" {event.checksum}"
                    + (f" with {event.manifest_checksum}" if event.manifest_checksum else "")
                ) from None
            raise

    def pinning(self, event: Event) -> Event:
        """Return the event with its manifest pinned, for what no later version may stand in.

        Raises `NotFound` where the store does not have its version, or keeps none, and `Several`
        where it has more, which differ in the manifest, and the event pins none.
        """
        if not self.pins or not (event.manifest_checksum or self._listing):
            raise NotFound(event.artifact_ref)
        if event.manifest_checksum or not self._listing:
            return event
        found = self._listing.versions(event.artifact_ref)
        manifests = {one.manifest_checksum for one in found if one.checksum == event.checksum}
        if not manifests:
            raise NotFound(event.artifact_ref)
        if len(manifests) > 1:
            raise Several(f"has that data with {len(manifests)} manifests, the event pins none")
        return event.model_copy(update={"manifest_checksum": manifests.pop()})


def _in_memory(artifact: Artifact) -> ArtifactReader:
    return ArtifactReader(
        io.BytesIO(artifact.data),
        checksum=None,
        size_bytes=len(artifact.data),
        manifest=artifact.manifest,
        where="the source",
    )
