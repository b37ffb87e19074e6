"""`sidecar run`: the worker."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    FleetStore,
    NotifyRedis,
    NotifyStream,
    Redis,
    SourceStore,
    Streams,
)


def run(
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    source_store: SourceStore = None,
    fleet_store: FleetStore = None,
    http: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_HTTP",
            metavar="HOST:PORT",
            help="Serve /livez, /readyz and /metrics there. Default: not at all.",
        ),
    ] = None,
    lease: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_LEASE",
            metavar="SECONDS",
            help="How long a worker that went silent keeps its stream.",
        ),
    ] = "5",
    retry_budget: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_RETRY_BUDGET",
            metavar="SECONDS",
            help="How long a missing or mismatched artifact is tried again.",
        ),
    ] = "60",
    allow_type: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SIDECAR_ALLOW_TYPE",
            metavar="TYPE",
            help="Let this event type through, too. Repeatable.",
        ),
    ] = None,
    tenant_scope: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SIDECAR_TENANT_SCOPE",
            metavar="PATTERN",
            help="Which refs a tenant may name: 'stacks/{tenant}/*'. Repeatable. Default: any.",
        ),
    ] = None,
    max_artifact_size: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_MAX_ARTIFACT_SIZE",
            metavar="SIZE",
            help="Larger artifacts end as dead letters.",
        ),
    ] = "1GiB",
    max_consecutive_dead: Annotated[
        int,
        typer.Option(
            envvar="SIDECAR_MAX_CONSECUTIVE_DEAD",
            help="Halt the stream after so many dead letters in a row; 0 is never.",
        ),
    ] = 100,
    dedup_window: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_DEDUP_WINDOW",
            metavar="TIME",
            help="How long an event_id is remembered.",
        ),
    ] = "7d",
    trim_control: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_TRIM_CONTROL",
            metavar="LIMITS",
            help="What of the control streams to trim once it is finished: age=7d,"
            " length=1000000, both with a comma, or never.",
        ),
    ] = "age=7d",
    trim_notifications: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_TRIM_NOTIFICATIONS",
            metavar="LIMITS",
            help="What of the notifications to trim once every registered reader has passed it;"
            " what is younger than --dedup-window stays.",
        ),
    ] = "age=30d",
    trim_dead: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_TRIM_DEAD", metavar="LIMITS", help="What of the dead letters to trim."
        ),
    ] = "age=90d",
    wait_replicas: Annotated[
        int,
        typer.Option(
            envvar="SIDECAR_WAIT_REPLICAS",
            metavar="N",
            help="Acknowledge an entry only once N replicas have its notification (WAIT).",
        ),
    ] = 0,
    store_threads: Annotated[
        int,
        typer.Option(envvar="SIDECAR_STORE_THREADS", help="Artifacts carried at the same time."),
    ] = 8,
    log_level: Annotated[
        str,
        typer.Option(envvar="SIDECAR_LOG_LEVEL", help="debug, info, warning or error."),
    ] = "info",
    *,
    allow_unpinned: Annotated[
        bool,
        typer.Option(
            "--allow-unpinned",
            envvar="SIDECAR_ALLOW_UNPINNED",
            help="Accept a fleet store that keeps no versions: a notification cannot be resolved"
            " once its ref is rewritten.",
        ),
    ] = False,
    archive: Annotated[
        bool,
        typer.Option(
            "--archive",
            envvar="SIDECAR_ARCHIVE",
            help="Archive the streams into the fleet's store, and trim nothing that is not there.",
        ),
    ] = False,
    archive_every: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_ARCHIVE_EVERY",
            metavar="TIME",
            help="Archive at least so often, however little there is.",
        ),
    ] = "1h",
    drain: Annotated[
        bool,
        typer.Option("--drain", envvar="SIDECAR_DRAIN", help="Finish what is there, then exit."),
    ] = False,
) -> None:
    """Relay control events until stopped by SIGTERM or SIGINT.

    Without options it needs nothing: an embedded server and two file stores under .sidecar.

    Examples:
      sidecar run

      sidecar run --redis redis://localhost:6379 --fleet-store file:///var/lib/fleet

      sidecar run --redis redis://localhost --drain   (exit 3: something is held back)

    """
    import signal
    import threading

    from sidecar import app, logs, settings

    chosen = settings.build(
        data_dir=data_dir,
        redis=redis,
        notify_redis=notify_redis,
        streams=tuple(stream),
        notify_stream=notify_stream,
        dead_stream=dead_stream,
        source_store=source_store,
        fleet_store=fleet_store,
        allow_unpinned=allow_unpinned,
        http=http,
        lease_s=lease,
        retry_budget_s=retry_budget,
        allow_type=tuple(allow_type or ()),
        tenant_scope=tuple(tenant_scope or ()),
        max_artifact_bytes=max_artifact_size,
        max_consecutive_dead=max_consecutive_dead,
        dedup_window_s=dedup_window,
        trim_control=trim_control,
        trim_notifications=trim_notifications,
        trim_dead=trim_dead,
        archive=archive,
        archive_every_s=archive_every,
        wait_replicas=wait_replicas,
        store_threads=store_threads,
        log_level=log_level,
        drain=drain,
    )
    log = logs.configure(chosen.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    raise typer.Exit(app.run(chosen, log, stop))
