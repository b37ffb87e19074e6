"""Which events are meant, by whose they are and what they are about."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.wire.event import Event


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are meant; an empty field means any."""

    tenant: str = ""
    stack: str = ""
    type: str = ""
    ref: str = ""
    """This artifact_ref, and what lies under it."""

    def __bool__(self) -> bool:
        return self != self.__class__()

    def has(self, event: Event | None, tenant: str = "") -> bool:
        """Tell whether an event is meant; of one that cannot be decoded `tenant` may be known."""
        if event is None:
            return self.tenant in ("", tenant) and not (self.stack or self.type or self.ref)
        ref = event.artifact_ref
        return (
            self.tenant in ("", event.tenant_id)
            and self.stack in ("", event.stack_id)
            and self.type in ("", event.type)
            and (not self.ref or ref == self.ref or ref.startswith(self.ref.rstrip("/") + "/"))
        )
