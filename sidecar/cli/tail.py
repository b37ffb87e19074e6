"""`sidecar tail`: notifications as they come."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import typer

import store
from sidecar.cli.options import Json, verify_by
from sidecar.cli.servers import Fleet, Notifications
from sidecar.errors import Incomplete, NothingThere, SidecarError, UsageError
from sidecar.feed import Feed, FeedGap, ForeignEntry, Notification, Untrusted
from sidecar.feed.begin import cursor_of, retained
from sidecar.ops.missing import meant, nothing_in
from sidecar.redis.client import check_stream, connect
from sidecar.redis.errors import translated
from sidecar.stores import explained
from sidecar.terminal import output
from sidecar.terminal.groups import flag, option
from sidecar.wire.cloudevent import cloud_event
from sidecar.wire.moments import rfc3339
from sidecar.wire.trust import Trust


@dataclass(frozen=True)
class Followed(Fleet, Notifications):
    """A notification stream, and the store that its artifacts are in."""


@dataclass(frozen=True)
class Wanted:
    """The options that say which notifications are printed."""

    since: str | None = option(
        None,
        "Begin after this control_version, or at this entry ID or time: milliseconds, RFC 3339, or"
        " so long ago (15m, 2h, 7d). Default: the oldest retained.",
        "POSITION",
    )
    count: int | None = option(
        None,
        "Only the last so many; with --since, the first so many after it.",
        None,
        "--count",
        "-n",
        min=0,
    )
    follow: bool = flag("Go on with what comes.", "--follow", "-f")
    verify: Trust | None = verify_by(
        "Each must be signed by a key in this directory (docs/trust.md); exit 1 at the first that"
        " is not."
    )


def tail(
    where: Followed,
    wanted: Wanted,
    *,
    resolve: Annotated[
        bool,
        typer.Option(
            help="Fetch and verify each artifact from the fleet's store; exit 1 if one fails."
        ),
    ] = False,
    cloudevents: Annotated[
        bool, typer.Option(help="One CloudEvent 1.0 a line, as JSON; its dataref is the ref.")
    ] = False,
    json: Json = False,
) -> None:
    """Print notifications, the oldest first.

    Without options all that are retained. With --since and -n it ends after so many, --follow or
    not. Exit codes: 1 an artifact did not resolve, or a notification is not trusted,
    3 notifications after --since are gone, 5 there is no notification in the window.

    Examples:
      sidecar tail -n 10

      sidecar tail -n 0 --follow   (only what comes from now on)

      sidecar tail --since 15m --resolve

      sidecar tail --since 1791234567890123 --json | jq -r .artifact_ref

      sidecar tail --follow --cloudevents

      sidecar tail --verify trust --since 1h

    """
    if cloudevents and resolve:
        raise UsageError(
            "--cloudevents: an event has no room for what --resolve says; leave one out"
        )
    fleet = where.fleet() if resolve else None
    url, stream = where.notify_url, where.notify_stream
    client = connect(url, key=stream)
    check_stream(client, url, stream)
    with _told(url):
        cursor = cursor_of(client, stream, wanted.since, wanted.count)
        feed = Feed(url, notify_stream=stream, store=fleet, trust=wanted.verify)
        found = _following(feed, cursor) if wanted.follow else retained(feed, cursor)
        if wanted.count is not None and (wanted.since or not wanted.follow):
            found = islice(found, wanted.count)
        show = _Printer(feed if resolve else None, cloud_event if cloudevents else None, json=json)
        for notification in found:
            show(notification)
    if show.failed:
        raise typer.Exit(1)
    if not (show.printed or wanted.follow or wanted.count == 0):
        said = nothing_in(client, url, stream, wanted.since)
        raise NothingThere(said + meant(where.control_url, stream))


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
    try:
        with translated(url):
            yield
    except FeedGap as error:
        raise Incomplete(
            f"{error}; leave out --since to begin with the oldest that is retained"
        ) from error
    except ForeignEntry as error:
        raise SidecarError(f"{error}; is --notify-stream right?") from error
    except Untrusted as error:
        raise SidecarError(f"{error}; --since {error.cursor} passes it") from error
    except KeyboardInterrupt:
        return


class _Printer:
    """Prints notifications, resolved if `feed` is given, or as `form` has them."""

    def __init__(
        self,
        feed: Feed | None,
        form: Callable[[Notification], dict[str, Any]] | None,
        *,
        json: bool,
    ) -> None:
        self._feed = feed
        self._form = form
        self._json = json
        self.printed = 0
        self.failed = 0

    def __call__(self, notification: Notification) -> None:
        resolved = self._resolve(notification) if self._feed else None
        self.printed += 1
        self.failed += resolved is not None and not resolved["ok"]
        if self._form:
            output.json_line(self._form(notification))
        elif self._json:
            self._print_json(notification, resolved)
        else:
            self._print_line(notification, resolved)

    def _resolve(self, notification: Notification) -> dict[str, Any] | None:
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
        body = notification.to_json()
        if resolved is not None:
            body["resolved"] = resolved
        output.json_line(body)

    def _print_line(self, notification: Notification, resolved: dict[str, Any] | None) -> None:
        parts = [
            (str(notification.control_version), "bold"),
            (rfc3339(notification.control_version), "dim"),
            (f"{notification.type:<16}", "cyan"),
            (f"{notification.whose:<16}", ""),
            (f"{notification.artifact_ref or '-':<20}", ""),
            (notification.event_id, "dim"),
        ]
        if self._feed:
            parts.append(_verdict(resolved))
        output.styled(parts)


def _verdict(resolved: dict[str, Any] | None) -> tuple[str, str]:
    if resolved is None:
        return "no artifact", "dim"
    if not resolved["ok"]:
        return f"FAILED {resolved['error']}", "bold red"
    sizes = f"{resolved['size_bytes']:,} + {resolved['manifest_size_bytes']:,} bytes"
    return f"ok {sizes}", "green"
