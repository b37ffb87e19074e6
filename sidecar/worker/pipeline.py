"""What happens to one event between the control stream and the notification stream.

Read top to bottom: `admit` decodes an entry and holds it against the rules; `carry` resolves its
artifact at the source, verifies it, and puts it into the fleet's store. Knows no Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from sidecar.wire import notification
from sidecar.wire.bounds import MAX_MANIFEST_BYTES
from sidecar.wire.event import (
    KNOWN_TYPES,
    Event,
    Reason,
    Rejected,
    content_digest,
    decode_body,
    event_of,
)
from sidecar.wire.scope import Scope, refuse_reserved
from sidecar.worker import inflight
from sidecar.worker.opening import LACKS, Opener, Several
from sidecar.worker.policy import Mismatch
from store import (
    CHUNK_BYTES,
    ArtifactReader,
    Capability,
    ChecksumMismatch,
    Corrupt,
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
    signs: bool = False
    """Whether a notification needs room for a signature."""

    @classmethod
    def of_options(
        cls, *, allow_type: Iterable[str] | None, tenant_scope: Iterable[str] | None,
        max_artifact_bytes: int | None, event_id_scope: Iterable[str] | None,
        sign_key: object,
    ) -> Self:  # fmt: skip
        """Return the rules that options make; None is an option that is not given.

        No parameter has a default, so that a command which judges as a worker cannot omit one.
        """
        limit = DEFAULT_MAX_ARTIFACT_BYTES if max_artifact_bytes is None else max_artifact_bytes
        types = KNOWN_TYPES.union(allow_type or ())
        return cls(
            types, tuple(tenant_scope or ()), limit, tuple(event_id_scope or ()),
            signs=sign_key is not None,
        )  # fmt: skip


class Carried(NamedTuple):
    """When the steps of an artifact's way were over, by the relay's clock."""

    resolved_at: float
    """It was found at the source; 0 when it was not."""
    ended_at: float


@dataclass(slots=True)
class Admitted:
    """An event that keeps the rules."""

    event: Event | None
    """None of one without an artifact: nobody asks."""
    body: dict[str, Any]
    content_digest: bytes
    traceparent: bytes
    unstamped: bytes
    """The notification's JSON, complete but for the checksum of the manifest, if it has one."""
    carried: Carried | None = None
    """Of the last attempt; only noted for traces."""


class Pipeline:
    """Admits entries and carries artifacts. Safe to use from several threads."""

    def __init__(
        self, source: Store, fleet: Store, rules: Rules, *, only_looks: bool = False
    ) -> None:
        """A source that would make a thread wait for its files to rest is asked again instead.

        With `only_looks` everything is verified, and nothing is put.
        """
        self.one_store = same_storage(source, fleet)
        """Whether an artifact is verified where it is, and nothing is put."""
        self._puts = not (self.one_store or only_looks)
        source = getattr(source, "impatient", lambda: source)()
        self._limit = Limit(rules.max_artifact_bytes, MAX_MANIFEST_BYTES)
        self._source = Opener(source, self._limit)
        self._again = Opener(fleet, self._limit)
        self._fleet = fleet
        self._streaming_fleet = versioned(fleet, Capability.STREAM)
        self._orders_fleet = Capability.POSITION in capabilities(fleet)
        self.keeps_versions = Capability.PINNED_GET in capabilities(fleet)
        """Whether what is put at a ref can be resolved when something else is put there."""
        self.streams = bool(self._source.streams and self._streaming_fleet)
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
        body = decode_body(fields, size_bytes)
        if body["type"] not in self._rules.types:
            raise Rejected(
                Reason.UNKNOWN_TYPE,
                f"type: {body['type']!r} is not known; --allow-type adds one",
            )
        ref, tenant = body.get("artifact_ref", ""), body.get("tenant_id", "")
        if self._ids and not self._ids.allows(tenant, body["event_id"]):
            raise Rejected(
                Reason.FORBIDDEN_ID,
                f"event_id: --event-id-scope does not let tenant {tenant!r} use"
                f" {body['event_id']!r}",
            )
        if ref:
            self._check_ref(tenant, ref)
        traceparent = fields.get(b"traceparent", b"")
        manifest_checksum = body.get("manifest_checksum", "")
        unstamped = notification.unstamped(body, manifest_checksum)
        notification.check_size(
            unstamped, origin, traceparent,
            stamps_manifest=bool(ref and not manifest_checksum), signs=self._rules.signs,
        )  # fmt: skip
        event = event_of(body) if ref else None
        return Admitted(event, body, content_digest(body), traceparent, unstamped)

    def carry(self, admitted: Admitted, position: Position) -> None:
        """Bring the event's artifact into the fleet's store; complete `admitted.unstamped`.

        When it returns, the pinned artifact is in the fleet's store, durable and verified. What the
        source has no more, and the fleet's store has, is put from there: so `position` counts, and
        no collection takes it meanwhile. `position` is the entry's place in the control stream.
        Raises `Rejected`, `policy.Mismatch` and `store.StoreError`, for `policy.decide`. Between
        stores that stream, memory does not grow with the data; the manifest is in memory.
        """
        event = admitted.event
        assert event is not None  # noqa: S101 -- there is an artifact
        try:
            manifest_checksum = self._bring(event, position, self._source)
        except LACKS as lack:
            manifest_checksum = self._bring_again(event, position, lack)
        admitted.unstamped = notification.unstamped(admitted.body, manifest_checksum)

    def _bring(self, event: Event, position: Position, source: Opener) -> str:
        """Open the artifact and deliver it; wait first where that takes too much of memory."""
        hold, tenant = self._in_flight.hold, event.tenant_id
        if not (source.streams and self._streaming_fleet):
            # It is in memory, whole, before anybody can count it.
            with self._open_large(event, source) as artifact:
                return self._deliver(event, artifact, position)
        try:
            opened = self._open(event, source, source.small)
        except TooLarge:  # only a large manifest has to be counted before it is read: data streams
            with (
                hold(tenant, inflight.BUFFERED_BYTES),
                self._open_large(event, source) as artifact,
            ):
                return self._deliver(event, artifact, position)
        with opened as artifact, hold(tenant, artifact.size_bytes):
            return self._deliver(event, artifact, position)

    def _bring_again(self, event: Event, position: Position, lack: Exception) -> str:
        """Deliver from the fleet's store what the source lacks; raise `lack` where that does, too.

        As it was published first: exactly the pair that the event pins. Where it pins no manifest,
        and there are several with its data, none is taken.
        """
        also = "" if self._source.pins or not isinstance(lack, Mismatch) else (
            f"; that store ({self._source.store.name}) keeps only the newest of each ref:"
            " once one is rewritten, an event of what was there before cannot be resolved"
        )  # fmt: skip
        if not self.one_store:
            try:
                return self._bring(self._again.pinning(event), position, self._again)
            except (NotFound, Mismatch, InvalidRef):
                pass
            except Several as error:
                also += f"; the fleet's store {error}"
            except Corrupt as error:
                also += f"; the fleet's store has it, damaged: {error}"
        if also:
            raise _kind_of(lack)(f"{lack}{also}") from lack
        raise lack

    def _deliver(self, event: Event, artifact: ArtifactReader, position: Position) -> str:
        """Verify the artifact, and put it where it is not; return its manifest's checksum."""
        self._check_size(event, artifact)
        manifest_checksum = _check_manifest(event, artifact)
        if self._puts:
            self._put(event, artifact, position)
        else:
            _check_data(event, artifact)
        return manifest_checksum

    def _open(self, event: Event, source: Opener, limits: Mapping[str, Any]) -> ArtifactReader:
        return source.open(event, limits)

    def _open_large(self, event: Event, source: Opener) -> ArtifactReader:
        try:
            return self._open(event, source, source.whole)
        except TooLarge as error:
            raise _too_large(str(error)) from error

    def _check_ref(self, tenant: str, ref: str) -> None:
        try:
            check_ref(ref)
        except InvalidRef as error:
            raise Rejected(Reason.BAD_REF, f"artifact_ref: {error}") from error
        refuse_reserved(ref)
        if self._scope:
            self._check_scope(tenant, ref)

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


def _kind_of(lack: Exception) -> type[Exception]:
    return next(kind for kind in LACKS if isinstance(lack, kind))


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


def same_storage(source: Store, fleet: Store) -> bool:
    """Tell whether both show one storage, as far as they say."""
    if source is fleet:
        return True
    location = getattr(source, "location", None)
    return location is not None and location == getattr(fleet, "location", None)
