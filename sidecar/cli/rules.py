"""The rules that workers have, for commands that judge as a worker would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.terminal.groups import option
from sidecar.wire.units import artifact_size
from sidecar.worker.pipeline import Rules

_AS_WORKERS: Final = "As the workers have it."


@dataclass(frozen=True)
class WorkerRules:
    """The rules that workers have, for commands that judge as a worker would."""

    allow_type: list[str] | None = option(None, _AS_WORKERS, "T")
    tenant_scope: list[str] | None = option(None, _AS_WORKERS, "PATTERN")
    event_id_scope: list[str] | None = option(None, _AS_WORKERS, "PATTERN")
    max_artifact_size: int | None = option(None, _AS_WORKERS, "SIZE", unit=artifact_size)

    sign_key: str | None = option(None, _AS_WORKERS, "FILE")

    def rules(self) -> Rules:
        """Return them. Raises `UsageError`."""
        return Rules.of_options(
            allow_type=self.allow_type, tenant_scope=self.tenant_scope,
            max_artifact_bytes=self.max_artifact_size, event_id_scope=self.event_id_scope,
            sign_key=self.sign_key,
        )  # fmt: skip
