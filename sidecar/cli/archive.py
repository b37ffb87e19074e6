"""`sidecar archive`: the streams into the fleet's store, by hand."""

from __future__ import annotations

from sidecar.cli.histories import Archived
from sidecar.cli.options import Json
from sidecar.history.archiver import Archiver
from sidecar.history.live import LiveHistory
from sidecar.redis.archived import CLAIM_S
from sidecar.stores import needs
from sidecar.terminal import output
from sidecar.terminal.progress import progress, size
from store import Capability


def archive(where: Archived, *, json: Json = False) -> None:
    """Write what is in the streams, and not in the archive yet, into the fleet's store.

    Control entries, notifications, dead letters and the records of redrives, halts and of what
    Redis forgot, in compressed segments with checksums, under the refs .sidecar/archive/. `replay`,
    `trace` and `diff` then read across archive and Redis. `sidecar run --archive` does it all the
    time, and trims nothing that is not archived.

    Examples:
      sidecar archive

      sidecar archive --redis redis://localhost --fleet-store s3://fleet

    """
    keys, control, notify, opened = where.keys, where.control, where.notify, where.fleet()
    needs(opened, Capability.LIST, "cannot hold an archive")
    fleet = needs(opened, Capability.STREAM, "cannot hold an archive")
    live = LiveHistory(control, notify, keys, fleet)
    live.check()
    archiver = Archiver(live, fleet, notify.client, keys[0])
    rows = size_bytes = 0
    with progress(json=json) as tell:
        for name in (*live.streams.control, *live.streams[1:]):
            for one in archiver.archive(name, rest=True, wait_s=2 * CLAIM_S):
                rows, size_bytes = rows + one.rows, size_bytes + one.size_bytes
                if name == where.notify_stream:
                    archiver.keep_state()
                tell(f"{name}: {rows:,} entries")
                if json:
                    output.json_line(one._asdict())
    if not json:
        output.line(f"{rows:,} entries archived, {size(size_bytes)}")
