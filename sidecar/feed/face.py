"""What the two faces of the feed have in common: options, the store, and the registered reader."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from sidecar.errors import UsageError
from sidecar.feed.artifacts import Artifacts
from sidecar.feed.cache import Cache
from sidecar.feed.reading import Batch, FeedGap, Reading, wanted
from sidecar.feed.registration import Registration
from sidecar.feed.state import State, archive_of, read_state
from sidecar.redis import client as redis_client
from sidecar.redis.client import url_of
from sidecar.redis.errors import LoginRefused, outage
from sidecar.redis.keys import Keys, named
from sidecar.redis.readers import DEFAULT_TTL_S
from sidecar.telemetry.traceparent import TracerProvider
from sidecar.telemetry.tracing import spans_of
from sidecar.wire.incarnations import Cursor
from sidecar.wire.notification import Notification
from sidecar.wire.trust import Trust
from sidecar.wire.urls import FiledUrl, redact
from store import Store

POLL_LIMIT: Final = 1000
PAGE: Final = 200
"""What `follow` reads at a time: few enough to lie in the processor's cache while it is checked."""
BLOCK_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0

Client = TypeVar("Client")

_log: Final = logging.getLogger("sidecar.feed")


def as_it_comes(client: Any) -> Any:  # noqa: ANN401 -- either client
    """Return the client, which leaves entries as they come: redis-py's own parsing of them costs
    more than the rest of reading them.
    """
    client.set_response_callback("XREAD", lambda answer, **_: answer)
    return client


class Following:
    """Where one `batches` is, and how long it waits: for more, and after an outage."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.wait_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    def moved(self, batch: Batch) -> bool:
        """Take in what was read; tell whether that is further than before."""
        has_moved, self.cursor = batch.cursor > self.cursor, batch.cursor
        self.wait_s, self._pause_s = 0.0 if has_moved else BLOCK_S, FIRST_PAUSE_S
        return has_moved

    def failed(self) -> float:
        """Return for how many seconds to pause before the next try."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, MAX_PAUSE_S)
        self.wait_s = 0.0
        return pause_s


class Face(Generic[Client]):
    """Reads one notification stream.

    Attributes:
        position: the control_version up to which nothing more comes of this feed: all has been
            returned, or was not for it. Ahead of the last notification where others follow it.
            A `Cursor` once something was read.

    """

    _connect: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        redis_url: str | Path,
        *,
        notify_stream: str = "control:notifications",
        store: Store | None = None,
        reader: str | None = None,
        reader_ttl_s: int = DEFAULT_TTL_S,
        tenant: str | Collection[str] | None = None,
        type: str | Collection[str] | None = None,  # noqa: A002 -- the contract's name
        ref_prefix: str = "",
        cache: Cache | None = None,
        tracer_provider: TracerProvider | None = None,
        trust: Trust | str | Path | None = None,
    ) -> None:
        """Connect lazily: nothing is sent yet. Raises `UsageError` for what cannot be meant.

        With `reader`, a name of this reader alone, what comes after where it began to follow, or
        `passed` has passed since, is kept for it until nothing is heard of it for `reader_ttl_s`
        seconds.

        With a path, that of a file that has the URL, each new connection reads the login there
        again, and a login that is refused is waited for once one was not: a new password needs no
        restart.

        `tenant` and `type`, one or several but not none, and `ref_prefix` leave out what is not of
        these. A prefix `stacks/t_1` takes that ref and all under it.

        With a `cache`, `resolve` and `open` ask the store only for what that does not have.

        With `trust`, public keys or the directory that they are in, each notification must have the
        signature of one: any other raises `Untrusted`, also one that the feed leaves out.

        With an OpenTelemetry `tracer_provider`, each `resolve` and `open` has a span in the trace
        of its event.
        """
        self._registration = Registration(reader, reader_ttl_s)
        self._url = url_of(redis_url)
        self._reading = Reading(notify_stream, wanted(tenant, type, ref_prefix), Trust.of(trust))
        self._artifacts = Artifacts(store, cache)
        self._keys = Keys.of("", named("notify_stream", notify_stream))
        self._spans = spans_of(tracer_provider)
        self.position: int = 0
        self._away_for: set[str] = set()
        self._was_in = False
        """Whether the login was taken."""
        client = self._connect(self._url, key=notify_stream, block_s=BLOCK_S)
        self._client: Client = as_it_comes(client)

    def _span(self, notification: Notification) -> AbstractContextManager[None]:
        """Return what lasts as long as a notification is resolved."""
        if self._spans is None:
            return nullcontext()
        stream, traceparent = self._keys.notifications, notification.traceparent
        return self._spans.resolving(stream, vars(notification), traceparent)

    def _read_state(self, client: redis_client.Client) -> State:
        """Return the state; `client` is one for threads. Raises as `read_state`."""
        archive = archive_of(self._artifacts.store, client, self._keys)
        return read_state(client, self._keys, archive, self._reading)

    def _may_again(self, *, state: bool, again: bool) -> bool:
        """Tell whether a gap leads to the state again. Raises `UsageError` for half of a wish."""
        if again and not state:
            raise UsageError("again=True begins again with the state; pass state=True, too")
        return again

    def _again(self, gap: FeedGap, *, allowed: bool) -> FeedGap:
        """Log that a follower begins again with the state; raise the gap unless that is allowed."""
        if not allowed:
            raise gap
        _log.warning("the state is read again, and followed from there: %s", gap)
        return gap

    def _at(self, notification: Notification, batch: Batch) -> Cursor:
        """Return the cursor at one of a batch."""
        return Cursor(notification.control_version, batch.cursor.incarnation)

    def _known(self, since: int) -> int:
        """Return the cursor, with what this feed knows of it when it has just been there."""
        return self.position if since == self.position else since

    def _away(self, error: Exception) -> None:
        """Log that Redis is away, each kind once until it is back. Raises what does not pass."""
        if isinstance(error, LoginRefused) and not (
            self._was_in and isinstance(self._url, FiledUrl)
        ):
            raise error
        kind = type(error).__name__
        if kind not in self._away_for:
            _log.warning("waiting: %s", outage(self._url, error))
        self._away_for.add(kind)

    def _back(self) -> None:
        """Log that Redis is back, if it was away."""
        self._was_in = True
        if self._away_for:
            _log.info("%s is back", redact(self._url))
        self._away_for.clear()

    def _begin(self, since: int) -> None:
        """Have the reader, if it has a name, registered with the first heartbeat."""
        if self._registration.name:
            self._registration.owe(since)

    def _told(self, control_version: int) -> None:
        self._registration.told(control_version, self._url)
        self._back()

    def _due(self) -> int | None:
        """Return what to note of the reader; None: nothing is due.

        Of a stream that is not there nothing is noted: its name may be mistyped.
        """
        return self._registration.due() if self._reading.is_there else None
