"""What `replay export` wrote, in place of servers and stores."""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import UsageError
from sidecar.history.bundle import BundleHistory


def in_bundle(bundle: Path, named: str | None) -> BundleHistory:
    """Return what lies in the bundle, unless a server or a store is `named` beside it.

    Raises `UsageError`.
    """
    if named:
        raise UsageError("--bundle stands in place of --redis and --fleet-store; drop either")
    return BundleHistory(bundle)
