"""What happens to one event between the control stream and the notification stream.

Read top to bottom: `admit` decodes an entry and holds it against the rules; `carry` resolves its
artifact at the source, verifies it, and puts it into the fleet's store. Knows no Redis.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sidecar import notification
from sidecar.event import KNOWN_TYPES, Event, Reason, Rejected, content_digest, decode
from sidecar.policy import Mismatch
from store import (
    Artifact,
    Capability,
    InvalidRef,
    NotFound,
    Position,
    Store,
    StoreError,
    Unavailable,
    check_ref,
    checksum_of,
    versioned,
)

DEFAULT_MAX_ARTIFACT_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator lets through, beyond what the contract fixes."""

    types: frozenset[str] = KNOWN_TYPES
    tenant_scope: tuple[str, ...] = ()
    """Patterns such as `stacks/{tenant}/*`; when there are any, a ref must match one."""
    max_artifact_bytes: int = DEFAULT_MAX_ARTIFACT_BYTES


@dataclass(slots=True)
class Admitted:
    """An event that keeps the rules."""

    event: Event
    body: dict[str, Any]
    content_digest: bytes
    traceparent: bytes
    unstamped: bytes
    """The notification's JSON, complete but for the checksum of the manifest, if it has one."""


class Pipeline:
    """Admits entries and carries artifacts. Safe to use from several threads."""

    def __init__(self, source: Store, fleet: Store, rules: Rules) -> None:
        self._source = source
        self._pinned_source = versioned(source, Capability.PINNED_GET)
        self._fleet = fleet
        self._ordered_fleet = versioned(fleet, Capability.POSITION)
        self._turns = _Turns()
        self._rules = rules
        self._one_store = _same_storage(source, fleet)

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
        if event.artifact_ref:
            self._check_ref(event)
        traceparent = fields.get(b"traceparent", b"")
        unstamped = notification.unstamped(body, event.manifest_checksum)
        size_bytes = notification.size_bytes(
            unstamped,
            origin,
            traceparent,
            stamps_manifest=bool(event.artifact_ref and not event.manifest_checksum),
        )
        if size_bytes > notification.MAX_NOTIFICATION_BYTES:
            raise Rejected(
                Reason.TOO_LARGE,
                f"its notification would have {size_bytes} bytes; at most"
                f" {notification.MAX_NOTIFICATION_BYTES} fit",
            )
        return Admitted(event, body, content_digest(body), traceparent, unstamped)

    def carry(self, admitted: Admitted, position: Position) -> None:
        """Bring the event's artifact into the fleet's store; complete `admitted.unstamped`.

        When it returns, the pinned artifact is in the fleet's store, durable and verified.
        `position` is the entry's place in the control stream. Raises `Rejected`,
        `policy.Mismatch` and `store.StoreError`, for `policy.decide`.
        """
        event = admitted.event
        artifact = self._resolve(event)
        manifest_checksum = self._verify(event, artifact)
        if not self._one_store:
            self._put(event.artifact_ref, artifact, position)
        admitted.unstamped = notification.unstamped(admitted.body, manifest_checksum)

    def _check_ref(self, event: Event) -> None:
        try:
            check_ref(event.artifact_ref)
        except InvalidRef as error:
            raise Rejected(Reason.BAD_REF, f"artifact_ref: {error}") from error
        scope = self._rules.tenant_scope
        if scope and not any(_allows(p, event.tenant_id, event.artifact_ref) for p in scope):
            raise Rejected(
                Reason.FORBIDDEN_REF,
                f"artifact_ref: --tenant-scope does not let tenant {event.tenant_id!r} name"
                f" {event.artifact_ref!r}",
            )

    def _resolve(self, event: Event) -> Artifact:
        """Read the version that the event pins; what is there, if the source keeps no versions."""
        if self._pinned_source is None:
            return self._source.get(event.artifact_ref)
        try:
            return self._pinned_source.get(
                event.artifact_ref,
                checksum=event.checksum,
                manifest_checksum=event.manifest_checksum or None,
            )
        except NotFound:
            if self._pinned_source.exists(event.artifact_ref):
                raise Mismatch(
                    f"no version of {event.artifact_ref!r} at the source has the checksum"
                    f" {event.checksum}"
                    + (f" with {event.manifest_checksum}" if event.manifest_checksum else "")
                ) from None
            raise

    def _verify(self, event: Event, artifact: Artifact) -> str:
        """Check what the source gave, whatever it promised; return the manifest's checksum."""
        size_bytes = len(artifact.data) + len(artifact.manifest)
        if size_bytes > self._rules.max_artifact_bytes:
            raise Rejected(
                Reason.ARTIFACT_TOO_LARGE,
                f"{event.artifact_ref!r} has {size_bytes} bytes; --max-artifact-size allows"
                f" {self._rules.max_artifact_bytes}",
            )
        data_checksum = checksum_of(artifact.data)
        if data_checksum != event.checksum:
            raise Mismatch(
                f"{event.artifact_ref!r} at the source is {data_checksum}, not {event.checksum}"
                + self._why_other()
            )
        manifest_checksum = checksum_of(artifact.manifest)
        if event.manifest_checksum not in ("", manifest_checksum):
            raise Mismatch(
                f"the manifest of {event.artifact_ref!r} at the source is {manifest_checksum},"
                f" not {event.manifest_checksum}" + self._why_other()
            )
        return manifest_checksum

    def _why_other(self) -> str:
        if self._pinned_source is not None:
            return ""
        return (
            f"; {self._source.name} keeps no versions: once a ref is rewritten, an event of what"
            " was there before cannot be resolved"
        )

    def _put(self, ref: str, artifact: Artifact, position: Position) -> None:
        try:
            if self._ordered_fleet:
                self._ordered_fleet.put(ref, artifact.data, artifact.manifest, position=position)
            else:
                with self._turns.take(ref, position) as is_due:
                    if is_due:
                        self._fleet.put(ref, artifact.data, artifact.manifest)
        except (InvalidRef, Unavailable):
            raise
        except StoreError as error:
            # Absence and corruption are verdicts on the source; in the fleet they are an outage.
            raise Unavailable(f"the fleet's store: {error}") from error


class _Turns:
    """Keeps this worker's Puts into a store without positions from moving a ref back.

    Threads carry one ref's artifacts in any order, and what was put last would stay.
    """

    _STRIPES: Final = 64
    _REFS_A_STRIPE: Final = 256

    def __init__(self) -> None:
        self._locks = [threading.Lock() for _ in range(self._STRIPES)]
        self._latest = [OrderedDict[str, Position]() for _ in range(self._STRIPES)]

    @contextmanager
    def take(self, ref: str, position: Position) -> Iterator[bool]:
        """Hold the ref; tell whether no later position was put there."""
        stripe = hash(ref) % self._STRIPES
        latest = self._latest[stripe]
        with self._locks[stripe]:
            is_due = position >= latest.get(ref, position)
            yield is_due
            if is_due:
                latest[ref] = position
                latest.move_to_end(ref)
            if len(latest) > self._REFS_A_STRIPE:
                latest.popitem(last=False)


def _same_storage(source: Store, fleet: Store) -> bool:
    if source is fleet:
        return True
    identity = getattr(source, "identity", None)
    return identity is not None and identity == getattr(fleet, "identity", None)


def _allows(pattern: str, tenant: str, ref: str) -> bool:
    """Tell whether `pattern` lets `tenant` name `ref`: `{tenant}` is the tenant, `*` anything.

    A tenant without a name, or with a slash in it, fits no `{tenant}`: it could stand for
    another tenant's corner.
    """
    if "{tenant}" in pattern and (not tenant or "/" in tenant):
        return False
    return _compiled(pattern, tenant).fullmatch(ref) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str, tenant: str) -> re.Pattern[str]:
    special = {"{tenant}": re.escape(tenant), "*": ".*"}
    parts = re.split(r"(\{tenant\}|\*)", pattern)
    return re.compile("".join(special.get(part) or re.escape(part) for part in parts), re.DOTALL)
