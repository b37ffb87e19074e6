"""The rules that workers have, for commands that judge as a worker would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.pipeline import Rules

AllowTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-type", envvar="SIDECAR_ALLOW_TYPE", metavar="T", help="As the workers have it."
    ),
]
TenantScopes = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant-scope",
        envvar="SIDECAR_TENANT_SCOPE",
        metavar="PATTERN",
        help="As the workers have it.",
    ),
]
MaxArtifactSize = Annotated[
    str | None,
    typer.Option(
        "--max-artifact-size",
        envvar="SIDECAR_MAX_ARTIFACT_SIZE",
        metavar="SIZE",
        help="As the workers have it.",
    ),
]


def rules_of(
    allow_type: list[str] | None, tenant_scope: list[str] | None, max_artifact_size: str | None
) -> Rules:
    """Return the rules that the options say. Raises `UsageError`."""
    from sidecar.event import KNOWN_TYPES
    from sidecar.pipeline import DEFAULT_MAX_ARTIFACT_BYTES, Rules
    from sidecar.settings import size_bytes

    try:
        limit = size_bytes(max_artifact_size) if max_artifact_size else DEFAULT_MAX_ARTIFACT_BYTES
    except ValueError as error:
        raise UsageError(f"--max-artifact-size: {error}") from error
    return Rules(KNOWN_TYPES | set(allow_type or ()), tuple(tenant_scope or ()), limit)
