"""What `replay export` wrote, in place of servers and stores."""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import UsageError
from sidecar.history.bundle import BundleHistory


def in_bundle(bundle: Path, named: str | None) -> BundleHistory:
    """Return what lies in the bundle, unless a server or a store is `named` beside it.

    Raises `UsageError`, also for a URL: it may have a password, and paths are printed.
    """
    if ":/" in str(bundle):  # a path keeps one slash of two
        raise UsageError("--bundle: the path of a bundle is wanted, and that is a URL")
    if named:
        raise UsageError("--bundle stands in place of --redis and --fleet-store; drop either")
    return BundleHistory(bundle)
