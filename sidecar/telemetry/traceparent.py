"""W3C's trace context, as an entry carries it. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, Protocol

_FORM: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
"""Of W3C's trace context: what a version after 00 adds comes last."""
_LONGEST_BYTES: Final = 512


class TracerProvider(Protocol):
    """One of OpenTelemetry's API, as an application has it."""

    def get_tracer(self, instrumenting_module_name: str, /) -> Any:  # noqa: ANN401 -- theirs
        """Return a tracer of this name."""


class Parent(NamedTuple):
    """What a traceparent says: the span that what comes is a part of."""

    trace_id: int
    span_id: int
    is_sampled: bool


def parent_of(traceparent: bytes) -> Parent | None:
    """Return what it says; None for one that is malformed, absent, or says nothing."""
    found = _FORM.fullmatch(traceparent) if len(traceparent) <= _LONGEST_BYTES else None
    if found is None or (found[1] == b"00" and found[5]):
        return None
    return Parent(int(found[2], 16), int(found[3], 16), bool(int(found[4], 16) & 1))
