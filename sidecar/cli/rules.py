"""The rules that workers have, for commands that judge as a worker would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.terminal.groups import option
from sidecar.wire.event import KNOWN_TYPES
from sidecar.wire.units import size_bytes
from sidecar.worker.pipeline import DEFAULT_MAX_ARTIFACT_BYTES, Rules

_AS_WORKERS: Final = "As the workers have it."


@dataclass(frozen=True)
class WorkerRules:
    """The rules that workers have, for commands that judge as a worker would."""

    allow_type: list[str] | None = option(None, _AS_WORKERS, "T")
    tenant_scope: list[str] | None = option(None, _AS_WORKERS, "PATTERN")
    event_id_scope: list[str] | None = option(None, _AS_WORKERS, "PATTERN")
    max_artifact_size: int | None = option(None, _AS_WORKERS, "SIZE", unit=size_bytes)

    def rules(self) -> Rules:
        """Return them. Raises `UsageError`."""
        known = KNOWN_TYPES | set(self.allow_type or ())
        limit = self.max_artifact_size
        if limit is None:
            limit = DEFAULT_MAX_ARTIFACT_BYTES
        return Rules(known, tuple(self.tenant_scope or ()), limit, tuple(self.event_id_scope or ()))
