"""What happens to one event between the control stream and the notification stream.

Read top to bottom: `admit` decodes an entry and holds it against the rules; `carry` resolves its
artifact at the source, verifies it, and puts it into the fleet's store. Knows no Redis.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from sidecar.wire import notification
from sidecar.wire.bounds import MAX_MANIFEST_BYTES, bounded
from sidecar.wire.event import (
    KNOWN_TYPES,
    Event,
    Reason,
    Rejected,
    content_digest,
    decode,
)
from sidecar.wire.scope import Scope, refuse_reserved
from sidecar.worker import inflight
from sidecar.worker.policy import Mismatch
from store import (
    CHUNK_BYTES,
    Artifact,
    ArtifactReader,
    Capability,
    ChecksumMismatch,
    InvalidRef,
    Limit,
    NotFound,
    Position,
    Store,
    StoreError,
    TooLarge,
    Unavailable,
    capabilities,
    check_ref,
    checksum_of,
    versioned,
)

DEFAULT_MAX_ARTIFACT_BYTES: Final = 1 << 30
_SHORT_CHARS: Final = len("sha256:") + 12


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator lets through, beyond what the contract fixes."""

    types: frozenset[str] = KNOWN_TYPES
    tenant_scope: tuple[str, ...] = ()
    """Patterns such as `stacks/{tenant}/*`; when there are any, a ref must match one."""
    max_artifact_bytes: int = DEFAULT_MAX_ARTIFACT_BYTES
    event_id_scope: tuple[str, ...] = ()
    """Patterns such as `{tenant}/*`; when there are any, an event_id must match one."""

    @classmethod
    def of_options(
        cls, *, allow_type: Iterable[str] | None, tenant_scope: Iterable[str] | None,
        max_artifact_bytes: int | None, event_id_scope: Iterable[str] | None,
    ) -> Self:  # fmt: skip
        """Return the rules that options make; None is an option that is not given.

        No parameter has a default, so that a command which judges as a worker cannot omit one.
        """
        limit = DEFAULT_MAX_ARTIFACT_BYTES if max_artifact_bytes is None else max_artifact_bytes
        types = KNOWN_TYPES.union(allow_type or ())
        return cls(types, tuple(tenant_scope or ()), limit, tuple(event_id_scope or ()))


class Carried(NamedTuple):
    """When the steps of an artifact's way were over, by the relay's clock."""

    resolved_at: float
    """It was found at the source; 0 when it was not."""
    ended_at: float


@dataclass(slots=True)
class Admitted:
    """An event that keeps the rules."""

    event: Event
    body: dict[str, Any]
    content_digest: bytes
    traceparent: bytes
    unstamped: bytes
    """The notification's JSON, complete but for the checksum of the manifest, if it has one."""
    carried: Carried | None = None
    """Of the last attempt; only noted for traces."""


class Pipeline:
    """Admits entries and carries artifacts. Safe to use from several threads."""

    def __init__(self, source: Store, fleet: Store, rules: Rules) -> None:
        """A source that would make a thread wait for its files to rest is asked again instead."""
        self.one_store = _same_storage(source, fleet)
        """Whether an artifact is verified where it is, and nothing is put."""
        source = getattr(source, "impatient", lambda: source)()
        self._source = source
        self._streaming_source = versioned(source, Capability.STREAM)
        self._pins_source = Capability.PINNED_GET in capabilities(source)
        self._limit = Limit(rules.max_artifact_bytes, MAX_MANIFEST_BYTES)
        self._limits = bounded(source, self._limit)
        self._small = bounded(source, Limit(rules.max_artifact_bytes, inflight.SMALL_BYTES))
        self._fleet = fleet
        self._streaming_fleet = versioned(fleet, Capability.STREAM)
        self._orders_fleet = Capability.POSITION in capabilities(fleet)
        self.keeps_versions = Capability.PINNED_GET in capabilities(fleet)
        """Whether what is put at a ref can be resolved when something else is put there."""
        self.streams = bool(self._streaming_source and self._streaming_fleet and self._limits)
        """Whether an artifact takes no more memory than `inflight.BUFFERED_BYTES`."""
        self._in_flight = inflight.InFlight()
        self._rules = rules
        self._scope = Scope(rules.tenant_scope)
        self._spelled: Callable[[str], str] = getattr(source, "spelled", str)
        self._ids = Scope(rules.event_id_scope, neighbours_part=True) or None

    def apart(self, most_bytes: int) -> Self:
        """Return the same with a bound of its own on the bytes that are on their way."""
        other = copy(self)
        other._in_flight = inflight.InFlight(most_bytes)  # noqa: SLF001 -- of the same class
        return other

    def admit(
        self, fields: Mapping[bytes, bytes], origin: str, size_bytes: int | None = None
    ) -> Admitted:
        """Decode the fields of the entry `origin` and check them. Raises `Rejected`."""
        if not fields:
            raise Rejected(
                Reason.ENTRY_LOST, "the entry was deleted or trimmed while it was pending"
            )
        event, body = decode(fields, size_bytes)
        if event.type not in self._rules.types:
            raise Rejected(
                Reason.UNKNOWN_TYPE,
                f"type: {event.type!r} is not known; --allow-type adds one",
            )
        if self._ids and not self._ids.allows(event.tenant_id, event.event_id):
            raise Rejected(
                Reason.FORBIDDEN_ID,
                f"event_id: --event-id-scope does not let tenant {event.tenant_id!r} use"
                f" {event.event_id!r}",
            )
        if event.artifact_ref:
            self._check_ref(event)
        traceparent = fields.get(b"traceparent", b"")
        unstamped = notification.unstamped(body, event.manifest_checksum)
        stamps = bool(event.artifact_ref and not event.manifest_checksum)
        notification.check_size(unstamped, origin, traceparent, stamps_manifest=stamps)
        return Admitted(event, body, content_digest(body), traceparent, unstamped)

    def carry(self, admitted: Admitted, position: Position) -> None:
        """Bring the event's artifact into the fleet's store; complete `admitted.unstamped`.

        When it returns, the pinned artifact is in the fleet's store, durable and verified.
        `position` is the entry's place in the control stream. Raises `Rejected`,
        `policy.Mismatch` and `store.StoreError`, for `policy.decide`. Between stores that stream,
        memory does not grow with the data; the manifest is in memory.
        """
        try:
            manifest_checksum = self._carry(admitted.event, position)
        except Mismatch as mismatch:
            if self._pins_source:
                raise
            raise Mismatch(
                f"{mismatch}; that store ({self._source.name}) keeps only the newest of each ref:"
                " once one is rewritten, an event of what was there before cannot be resolved"
            ) from mismatch
        admitted.unstamped = notification.unstamped(admitted.body, manifest_checksum)

    def _carry(self, event: Event, position: Position) -> str:
        """Open the artifact and deliver it; wait first where that takes too much of memory."""
        hold, tenant = self._in_flight.hold, event.tenant_id
        if not self.streams:  # it is in memory, whole, before anybody can count it
            with self._open_large(event) as artifact:
                return self._deliver(event, artifact, position)
        try:
            opened = self._open(event, self._small)
        except TooLarge:  # only a large manifest has to be counted before it is read: data streams
            with hold(tenant, inflight.BUFFERED_BYTES), self._open_large(event) as artifact:
                return self._deliver(event, artifact, position)
        with opened as artifact, hold(tenant, artifact.size_bytes):
            return self._deliver(event, artifact, position)

    def _deliver(self, event: Event, artifact: ArtifactReader, position: Position) -> str:
        """Verify the artifact, and put it where it is not; return its manifest's checksum."""
        self._check_size(event, artifact)
        manifest_checksum = _check_manifest(event, artifact)
        if self.one_store:
            _check_data(event, artifact)
        else:
            self._put(event, artifact, position)
        return manifest_checksum

    def _open_large(self, event: Event) -> ArtifactReader:
        try:
            return self._open(event, self._limits)
        except TooLarge as error:
            raise _too_large(str(error)) from error

    def _check_ref(self, event: Event) -> None:
        try:
            check_ref(event.artifact_ref)
        except InvalidRef as error:
            raise Rejected(Reason.BAD_REF, f"artifact_ref: {error}") from error
        refuse_reserved(event.artifact_ref)
        if self._scope:
            self._check_scope(event.tenant_id, event.artifact_ref)

    def _check_scope(self, tenant: str, ref: str) -> None:
        """Hold the ref against the scope, and whatever ref the source opens in its place."""
        try:
            opened = self._spelled(ref)
        except InvalidRef as error:
            raise Rejected(Reason.BAD_REF, f"artifact_ref: {error}") from error
        if self._scope.allows(tenant, ref) and self._scope.allows(tenant, opened):
            return
        also = "" if opened == ref else f", which is {opened!r} in the source store"
        raise Rejected(
            Reason.FORBIDDEN_REF,
            f"artifact_ref: --tenant-scope does not let tenant {tenant!r} name {ref!r}{also}",
        )

    def _open(self, event: Event, limits: Mapping[str, Any]) -> ArtifactReader:
        """Open the version that the event pins; what is there, if the source keeps no versions."""
        try:
            if self._streaming_source:
                opened = self._streaming_source.open
                return opened(event.artifact_ref, **self._pins(event), **limits)
            get: Any = self._source.get
            return _in_memory(get(event.artifact_ref, **self._pins(event), **limits))
        except NotFound:
            if self._pins_source and self._source.exists(event.artifact_ref):
                raise Mismatch(
                    f"no version of {event.artifact_ref!r} at the source has the checksum"
                    f" {event.checksum}"
                    + (f" with {event.manifest_checksum}" if event.manifest_checksum else "")
                ) from None
            raise

    def _pins(self, event: Event) -> dict[str, Any]:
        if not self._pins_source:
            return {}
        if event.manifest_checksum:
            return {"checksum": event.checksum, "manifest_checksum": event.manifest_checksum}
        return {"checksum": event.checksum}

    def _check_size(self, event: Event, artifact: ArtifactReader) -> None:
        """Look again, for a source that knows no limits."""
        try:
            self._limit.check(repr(event.artifact_ref), artifact.size_bytes, len(artifact.manifest))
        except TooLarge as error:
            raise _too_large(str(error)) from error

    def _put(self, event: Event, artifact: ArtifactReader, position: Position) -> None:
        """Put what is read from `artifact`, if it is what the event says."""
        ref, manifest = event.artifact_ref, artifact.manifest
        at: dict[str, Position] = {"position": position} if self._orders_fleet else {}
        try:
            if self._streaming_fleet:
                self._streaming_fleet.put_from(
                    ref, artifact, manifest, checksum=event.checksum, **at
                )
            else:
                self._fleet.put(ref, _checked_data(event, artifact), manifest, **at)
        except ChecksumMismatch as error:
            raise _mismatch(event) from error
        except (InvalidRef, Unavailable):
            raise
        except StoreError as error:
            if error is artifact.error:
                raise
            # Absence and corruption are verdicts on the source; in the fleet they are an outage.
            raise Unavailable(f"the fleet's store: {error}") from error


def _too_large(problem: str) -> Rejected:
    return Rejected(Reason.ARTIFACT_TOO_LARGE, f"{problem} (--max-artifact-size)")


def _in_memory(artifact: Artifact) -> ArtifactReader:
    return ArtifactReader(
        io.BytesIO(artifact.data),
        checksum=None,
        size_bytes=len(artifact.data),
        manifest=artifact.manifest,
        where="the source",
    )


def _check_manifest(event: Event, artifact: ArtifactReader) -> str:
    """Check the manifest, whatever the source promised; return its checksum."""
    checksum = checksum_of(artifact.manifest)
    if event.manifest_checksum not in ("", checksum):
        raise Mismatch(
            f"the event pins the manifest {_short(event.manifest_checksum)}, the producer's store"
            f" has another one at {event.artifact_ref!r}"
        )
    return checksum


def _check_data(event: Event, artifact: ArtifactReader) -> None:
    """Read the data through, in constant memory, and hold it against the event."""
    digest = hashlib.sha256()
    while chunk := artifact.read(CHUNK_BYTES):
        digest.update(chunk)
    _compare(event, f"sha256:{digest.hexdigest()}")


def _checked_data(event: Event, artifact: ArtifactReader) -> bytes:
    """Read the data into memory and hold it against the event."""
    data = artifact.readall()
    _compare(event, checksum_of(data))
    return data


def _compare(event: Event, checksum: str) -> None:
    if checksum != event.checksum:
        raise _mismatch(event)


def _mismatch(event: Event) -> Mismatch:
    """Return what says that the data is other than the event's, and not what it is.

    It may be another tenant's, and a reader of the dead letter may not be allowed to know it.
    """
    return Mismatch(
        f"the event pins {_short(event.checksum)}, the producer's store has other data at"
        f" {event.artifact_ref!r}"
    )


def _short(checksum: str) -> str:
    """Return so much of a checksum as a person compares."""
    return f"{checksum[:_SHORT_CHARS]}…"


def _same_storage(source: Store, fleet: Store) -> bool:
    if source is fleet:
        return True
    location = getattr(source, "location", None)
    return location is not None and location == getattr(fleet, "location", None)
