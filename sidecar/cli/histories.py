"""All streams of a system with their past, as the shared options mean it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidecar.cli.bundles import in_bundle
from sidecar.cli.servers import Fleet, Live, Source
from sidecar.history import History
from sidecar.history.archive import ArchiveHistory, own_archive
from sidecar.history.joined import JoinedHistory
from sidecar.history.live import LiveHistory
from sidecar.ops.missing import unknown
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.terminal import output
from sidecar.worker.fleetstore import otherness
from store import Store


@dataclass(frozen=True)
class Archived(Fleet, Live):
    """All streams of a system, and the fleet's store, which has their archive."""

    def history(self, bundle: Path | None) -> History:
        """Open what there is of these streams, or what lies in the bundle.

        Raises `UsageError` and `Unreachable`.
        """
        if bundle is not None:
            return in_bundle(bundle, self.named or self.fleet_store)
        keys, fleet = self.keys, self.fleet_if_any()
        live = LiveHistory(self.control, self.notify, keys, fleet)
        live.check()
        output.hints(unknown(self.control, self.notify, keys))
        if fleet and (other := self.other_store(fleet)):
            output.hint(f"--fleet-store: {other}; what it lacks is reported as lost")
        archive = own_archive(fleet, self.notify, keys, output.hint) if fleet else None
        return JoinedHistory(archive, live) if archive else live

    def other_store(self, fleet: Store) -> str:
        """Say how the store at hand is not the one that the notifications name, if it is not."""
        notify = self.notify
        return otherness(notify.client, self.keys[0], notify.url, fleet, self.fleet_url)


@dataclass(frozen=True)
class _Sourced(Source, Live):
    """Here for the order of the options."""


@dataclass(frozen=True)
class Everything(Archived, _Sourced):
    """All streams of a system, and both stores."""


def archive_for(fleet: Fleet, keys: Keys, notify: Side) -> Callable[[], ArchiveHistory | None]:
    """Return what opens the archive in the fleet's store, if that is needed."""

    def opened() -> ArchiveHistory | None:
        store = fleet.fleet_if_any()
        return own_archive(store, notify, [keys], output.hint) if store else None

    return opened
