"""Groups of options that say which events are wanted, and from when."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.cli.options import verify_by
from sidecar.terminal.groups import option
from sidecar.wire.trust import Trust


@dataclass(frozen=True)
class Between:
    """The options that say which window is looked at."""

    since: str | None = option(
        None,
        "Begin after this control_version, or at this entry ID or time: milliseconds, RFC 3339, or"
        " so long ago (15m, 2h, 7d). Default: the oldest there is.",
        "POSITION",
    )
    until: str | None = option(
        None, "End with this control_version, entry ID or time. Default: now.", "POSITION",
    )  # fmt: skip


@dataclass(frozen=True)
class Believed(Between):
    """The same, and whom notifications in it must be signed by."""

    verify: Trust | None = verify_by(
        "First see that each notification in the window is signed by a key in this directory; exit"
        " 1 if one is not."
    )


@dataclass(frozen=True)
class OfStack:
    """The options that say whose events are wanted."""

    tenant: str = option("", "Only this tenant's events.")
    stack: str = option("", "Only events of this stack.")


@dataclass(frozen=True)
class OfRef:
    """The option that says which artifacts are wanted."""

    ref: str = option("", "Only events of this artifact_ref, or of one under it.")


@dataclass(frozen=True)
class _OfType(OfStack):
    type_: str = option("", "Only events of this type.")


@dataclass(frozen=True)
class Of(OfRef, _OfType):
    """The options that say which events are wanted."""

    def given(self) -> dict[str, str]:
        """Return them as the fields of a `Selection`."""
        return {"tenant": self.tenant, "stack": self.stack, "type": self.type_, "ref": self.ref}
