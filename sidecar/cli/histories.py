"""The history that the shared options mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.history import History
    from sidecar.history import Streams as StreamNames
    from sidecar.history.archive import ArchiveHistory
    from store import VersionedStore


def open_history(
    data_dir: Path,
    redis: str | None,
    notify_redis: str | None,
    streams: Sequence[str],
    notify_stream: str,
    dead_stream: str | None,
    fleet_store: str | None,
    bundle: Path | None,
) -> History:
    """Open what there is of these streams, or what lies in the bundle.

    Raises `UsageError` and `Unreachable`.
    """
    if bundle is not None:
        from sidecar.history.bundle import BundleHistory

        if redis or notify_redis or fleet_store:
            raise UsageError("--bundle stands in place of --redis and --fleet-store; drop either")
        return BundleHistory(bundle)
    from sidecar.cli.servers import Servers, keys_of
    from sidecar.history.joined import JoinedHistory
    from sidecar.history.live import LiveHistory
    from sidecar.redis.client import Side

    keys = keys_of(streams, notify_stream, dead_stream)
    servers = Servers(data_dir, redis, notify_redis)
    fleet = _fleet(fleet_store, data_dir)
    live = LiveHistory(
        Side.open(servers.control, keys[0].control),
        Side.open(servers.notify, notify_stream),
        keys,
        fleet,
    )
    live.check()
    archive = archive_of(live.streams, fleet) if fleet else None
    return JoinedHistory(archive, live) if archive else live


def archive_of(streams: StreamNames, fleet: VersionedStore) -> ArchiveHistory | None:
    """Return the archive of these streams; None when the store has none."""
    from sidecar.history.archive import ArchiveHistory
    from store import Capability

    if not fleet.capabilities.issuperset({Capability.LIST, Capability.STREAM}):
        return None
    archive = ArchiveHistory(fleet, streams)
    there = any(archive.names(stream) for stream in (*streams.control, *streams[1:]))
    return archive if there else None


def _fleet(url: str | None, data_dir: Path) -> VersionedStore | None:
    """Open the fleet's store; None when none is named, nor lies where one would."""
    from sidecar.stores import open_existing
    from store import Capability, versioned

    default = data_dir / "fleet"
    if not url and not default.is_dir():
        return None
    return versioned(open_existing(url or None, default), Capability.PINNED_GET)
