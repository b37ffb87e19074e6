"""Which refs are a tenant's: what its events name, and what lies in its corner of the scope.

Without a scope anybody may name anything: what another tenant names, too, is kept then, and what
the workers' scope forbade to the tenant, as a dead letter tells: the entry is still in the control
stream, and says nothing of it. With a scope, another's claim counts only where that allows it, and
so does the tenant's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from sidecar.wire.event import RESERVED, Reason
from sidecar.wire.scope import Scope
from store import InvalidRef, VersionedStore, check_ref

_FORBIDDEN: Final = (
    "it may be another's: a worker's --tenant-scope forbade the tenant to name it; give the same"
)
Events = Callable[[], Iterable[Mapping[bytes, bytes]]]
"""Returns the fields of every entry that there is, of all kinds of streams."""


class Claim(NamedTuple):
    """What an entry says of a ref."""

    tenant: str
    ref: str
    forbidden: bool
    """It is a dead letter: a worker's `--tenant-scope` did not let the tenant name it."""


def claim_of(fields: Mapping[bytes, bytes]) -> Claim | None:
    """Return what an entry claims; None when it names no ref that a tenant may have.

    More leniently than a worker: what was never published may be stored all the same.
    """
    forbidden = fields.get(b"reason") == Reason.FORBIDDEN_REF.encode()
    with suppress(ValueError, RecursionError, InvalidRef):
        body = json.loads(fields.get(b"event", b"").decode(errors="replace"))
        ref, tenant = (body.get(name) for name in ("artifact_ref", "tenant_id"))
        check_ref(ref)
        if isinstance(tenant or "", str) and not ref.startswith(RESERVED):
            return Claim(tenant or "", ref, forbidden)
    return None


class Claims:
    """Finds the refs of one tenant.

    Attributes:
        refs: those that are its alone.
        kept: those that stay, each with why: who else claims it, as a rule.

    """

    def __init__(self, tenant: str, scope: Scope) -> None:
        self._tenant, self._scope = tenant, scope
        self.refs: set[str] = set()
        self._forbidden: set[str] = set()
        self.kept: dict[str, str] = {}

    def add_named(self, events: Events) -> None:
        """Add what the tenant's own events name. Raises as `events`."""
        for claim in self._claims(events):
            if claim.tenant == self._tenant:
                (self._forbidden if claim.forbidden else self.refs).add(claim.ref)

    def add_orphans(self, store: VersionedStore) -> None:
        """Add what lies where only this tenant may put it. Raises `store.StoreError`."""
        for corner in self._scope.corners(self._tenant):
            with suppress(InvalidRef):  # nothing can lie there
                for ref in store.list(corner):
                    owners = self._scope.owners(ref)
                    if self._tenant not in owners or ref.startswith(RESERVED):
                        continue
                    self.refs.add(ref)
                    if ref not in self.kept and len(owners) > 1:
                        self._keep(ref, f"{min(owners - {self._tenant})!r}, by the scope")

    def spare(self, events: Events) -> None:
        """Take out what another tenant claims, too. Raises as `events`."""
        for claim in self._claims(events):
            is_others = claim.tenant != self._tenant and not claim.forbidden
            if is_others and claim.ref in self.refs:
                self._keep(claim.ref, repr(claim.tenant) if claim.tenant else "no tenant")
        if not self._scope:
            self.kept = dict.fromkeys(self.refs & self._forbidden, _FORBIDDEN) | self.kept
        self.refs -= self.kept.keys()

    def _keep(self, ref: str, by: str) -> None:
        self.kept.setdefault(ref, f"{by} has it, too")

    def _claims(self, events: Events) -> Iterator[Claim]:
        for fields in events():
            claim = claim_of(fields)
            if claim and (not self._scope or self._scope.allows(claim.tenant, claim.ref)):
                yield claim
