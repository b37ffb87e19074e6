"""The door to traces: OpenTelemetry's packages are imported behind it, where somebody wants spans.

They are the extra `otel`, and without it nothing else is different.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.errors import UsageError
from sidecar.telemetry.traceparent import TracerProvider

if TYPE_CHECKING:
    from sidecar.telemetry.exporting import Exporting
    from sidecar.telemetry.spans import Spans


def spans_of(provider: TracerProvider | None) -> Spans | None:
    """Return what makes spans by an application's provider; None without one."""
    if provider is None:
        return None
    from sidecar.telemetry.spans import Spans

    return Spans(provider)


def exporting(instance: str, say: Callable[[str], None]) -> Exporting | None:
    """Return what sends spans to where the OTEL_… variables say; None where they say not to.

    `instance` is the name of this process, and `say` hears of what goes wrong. Raises `UsageError`
    without the extra, and for variables that cannot be meant.
    """
    try:
        from sidecar.telemetry.exporting import opened
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--traces needs OpenTelemetry ({error.name} is not there): in a checkout, pip"
            " install '.[otel]'"
        ) from None
    return opened(instance, say)
