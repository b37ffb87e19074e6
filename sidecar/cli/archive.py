"""`sidecar archive`: the streams into the fleet's store, by hand."""

from __future__ import annotations

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    FleetStore,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)


def archive(
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    fleet_store: FleetStore = None,
    *,
    json: Json = False,
) -> None:
    """Write what is in the streams, and not in the archive yet, into the fleet's store.

    Control entries, notifications, dead letters and the records of what was put back, in
    compressed segments with checksums, under the refs .sidecar/archive/. `replay`, `trace` and
    `diff` then read across archive and Redis. `sidecar run --archive` does it all the time, and
    trims nothing that is not archived.

    Examples:
      sidecar archive

      sidecar archive --redis redis://localhost --fleet-store s3://fleet

    """
    from sidecar.cli import output
    from sidecar.cli.progress import progress, size
    from sidecar.cli.servers import Servers, keys_of
    from sidecar.cli.store import needs, open_chosen
    from sidecar.history.archiver import Archiver
    from sidecar.history.live import LiveHistory
    from sidecar.redis.client import Side
    from store import Capability

    keys = keys_of(stream, notify_stream, dead_stream)
    servers = Servers(data_dir, redis, notify_redis)
    control = Side.open(servers.control, keys[0].control)
    notify = Side.open(servers.notify, notify_stream)
    opened = open_chosen(None, fleet_store, data_dir)
    needs(opened, Capability.LIST, "cannot hold an archive")
    fleet = needs(opened, Capability.STREAM, "cannot hold an archive")
    live = LiveHistory(control, notify, keys, fleet)
    live.check()
    archiver = Archiver(live, fleet, notify.client, keys[0])
    rows = size_bytes = 0
    with progress(json=json) as tell:
        for name in (*live.streams.control, *live.streams[1:]):
            for one in archiver.archive(name, rest=True):
                rows, size_bytes = rows + one.rows, size_bytes + one.size_bytes
                tell(f"{name}: {rows:,} entries")
                if json:
                    output.json_line(one._asdict())
    if not json:
        output.line(f"{rows:,} entries archived, {size(size_bytes)}")
