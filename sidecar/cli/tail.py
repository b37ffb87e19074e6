"""`sidecar tail`: notifications as they come."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    DataDir,
    FleetStore,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
)
from sidecar.errors import Incomplete, SidecarError

if TYPE_CHECKING:
    from sidecar.feed import Feed
    from sidecar.notification import Notification
    from sidecar.redis.client import Client
    from sidecar.redis.scan import StreamInfo


def tail(
    since: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_SINCE",
            metavar="POSITION",
            help="Begin after this control_version, or at this time: RFC 3339, or so long ago"
            " (15m, 2h, 7d). Default: the oldest retained.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            envvar="SIDECAR_COUNT",
            min=0,
            help="Only the last so many; with --since, the first so many after it.",
        ),
    ] = None,
    *,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", envvar="SIDECAR_FOLLOW", help="Go on with what comes."),
    ] = False,
    resolve: Annotated[
        bool,
        typer.Option(
            "--resolve",
            envvar="SIDECAR_RESOLVE",
            help="Fetch and verify each artifact from the fleet's store; exit 1 if one fails.",
        ),
    ] = False,
    json: Json = False,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    notify_stream: NotifyStream = NOTIFY_STREAM,
    fleet_store: FleetStore = None,
) -> None:
    """Print notifications, the oldest first.

    Without options all that are retained. With --since and -n it ends after so many, --follow or
    not. Exit codes: 1 an artifact did not resolve, 3 notifications after --since are gone,
    5 there is no notification in the window.

    Examples:
      sidecar tail -n 10

      sidecar tail -n 0 --follow   (only what comes from now on)

      sidecar tail --since 15m --resolve

      sidecar tail --since 1791234567890123 --json | jq -r .artifact_ref

    """
    from sidecar.cli.servers import Servers
    from sidecar.feed import Feed
    from sidecar.redis.client import check_stream, connect, redact
    from sidecar.stores import open_existing

    store = open_existing(fleet_store or None, data_dir / "fleet") if resolve else None
    url = Servers(data_dir, redis, notify_redis).notify
    client = connect(url, key=notify_stream)
    check_stream(client, url, notify_stream)
    with _told(url):
        cursor = _begin(client, notify_stream, since, count)
        feed = Feed(url, notify_stream=notify_stream, store=store)
        found = _following(feed, cursor) if follow else _retained(feed, cursor)
        if count is not None and (since or not follow):
            found = islice(found, count)
        show = _Printer(feed if resolve else None, json=json)
        for notification in found:
            show(notification)
    if show.failed:
        raise typer.Exit(1)
    if not (show.printed or follow or count == 0):
        window = f" since {since}" if since else ""
        raise _NothingThere(f"there is no notification{window} in {notify_stream} on {redact(url)}")


class _NothingThere(SidecarError):
    """The window is empty."""

    exit_code = 5


def _begin(client: Client, stream: str, since: str | None, count: int | None) -> int:
    """Return the control_version after which to begin; 0 is with the oldest there is."""
    from sidecar.moments import parse_since
    from sidecar.redis.scan import control_version_of, pages_back, server_time_us, stream_info

    info = stream_info(client, stream)
    end = control_version_of(info.last_id) if info else 0
    if since:
        begin = parse_since(since, server_time_us(client))
        cursor = begin.control_version
        return _from_time(cursor, info) if begin.is_time else cursor
    if count is None:
        return 0
    if count == 0:
        return end
    for page in pages_back(client, stream):
        if count <= len(page):
            return control_version_of(page[count - 1].id) - 1
        count -= len(page)
    return 0


def _from_time(cursor: int, info: StreamInfo | None) -> int:
    """Return the cursor for a time, at which there need not be a notification."""
    from sidecar.redis.scan import control_version_of

    if info is None:
        return 0
    if info.added is None and info.first_id and cursor < control_version_of(info.first_id):
        return 0  # before Redis 7.0 nothing tells whether there was anything before the oldest
    # After the last notification a cursor would have lost the stream's tail; a time has not.
    return min(cursor, control_version_of(info.last_id))


def _retained(feed: Feed, cursor: int) -> Iterator[Notification]:
    while True:
        found = feed.poll(cursor)
        yield from found
        if not found:
            return
        cursor = found[-1].control_version


def _following(feed: Feed, cursor: int) -> Iterator[Notification]:
    """Follow until SIGINT or SIGTERM: to stop by them is to be done."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield from feed.follow(cursor)
    except KeyboardInterrupt:
        return


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what a feed raises into words for a person."""
    from sidecar.feed import FeedGap, ForeignEntry
    from sidecar.redis.client import translated

    try:
        with translated(url):
            yield
    except FeedGap as error:
        raise Incomplete(
            f"{error}; leave out --since to begin with the oldest that is retained"
        ) from error
    except ForeignEntry as error:
        raise SidecarError(f"{error}; is --notify-stream right?") from error
    except KeyboardInterrupt:
        return


class _Printer:
    """Prints notifications, resolved if `feed` is given."""

    def __init__(self, feed: Feed | None, *, json: bool) -> None:
        self._feed = feed
        self._json = json
        self.printed = 0
        self.failed = 0

    def __call__(self, notification: Notification) -> None:
        resolved = self._resolve(notification) if self._feed else None
        self.printed += 1
        self.failed += resolved is not None and not resolved["ok"]
        if self._json:
            self._print_json(notification, resolved)
        else:
            self._print_line(notification, resolved)

    def _resolve(self, notification: Notification) -> dict[str, Any] | None:
        import store
        from sidecar.stores import explained

        assert self._feed  # noqa: S101 -- asked by the caller
        if not notification.artifact_ref:
            return None
        try:
            data, manifest = self._feed.resolve(notification)
        except store.Unavailable:
            with explained():  # an outage is no verdict on the artifact
                raise
        except (store.StoreError, ValueError) as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}
        return {"ok": True, "size_bytes": len(data), "manifest_size_bytes": len(manifest)}

    def _print_json(self, notification: Notification, resolved: dict[str, Any] | None) -> None:
        from sidecar.cli import output

        body = notification.model_dump(mode="json") | {
            "origin": notification.origin,
            "traceparent": notification.traceparent,
        }
        always = ("id", "event_id", "type", "control_version")
        body = {k: v for k, v in body.items() if k in always or v or k not in _OPTIONAL}
        if resolved is not None:
            body["resolved"] = resolved
        output.json_line(body)

    def _print_line(self, notification: Notification, resolved: dict[str, Any] | None) -> None:
        from sidecar.cli import output
        from sidecar.moments import rfc3339

        whose = "/".join(part for part in (notification.tenant_id, notification.stack_id) if part)
        if notification.version:
            whose += f"@{notification.version}"
        parts = [
            (str(notification.control_version), "bold"),
            (rfc3339(notification.control_version), "dim"),
            (f"{notification.type:<16}", "cyan"),
            (f"{whose or '-':<16}", ""),
            (f"{notification.artifact_ref or '-':<20}", ""),
            (notification.event_id, "dim"),
        ]
        if self._feed:
            parts.append(_verdict(resolved))
        output.styled(parts)


_OPTIONAL = frozenset({
    "tenant_id", "stack_id", "version", "base_version", "artifact_ref", "checksum",
    "manifest_checksum", "created_at", "traceparent",
})  # fmt: skip


def _verdict(resolved: dict[str, Any] | None) -> tuple[str, str]:
    if resolved is None:
        return "no artifact", "dim"
    if not resolved["ok"]:
        return f"FAILED {resolved['error']}", "bold red"
    sizes = f"{resolved['size_bytes']:,} + {resolved['manifest_size_bytes']:,} bytes"
    return f"ok {sizes}", "green"
