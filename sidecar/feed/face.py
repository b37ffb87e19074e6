"""What the two faces of the feed have in common: options, the store, and the registered reader."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from sidecar.errors import UsageError
from sidecar.feed.ahead import ahead_of
from sidecar.feed.cache import Cache
from sidecar.feed.kept import Pinned
from sidecar.feed.reading import Batch, FeedGap, Reading, wanted
from sidecar.feed.state import State, archive_of, read_state
from sidecar.redis import client as redis_client
from sidecar.redis.client import url_of
from sidecar.redis.errors import LoginRefused, NotPermitted, Refused, outage
from sidecar.redis.keys import Keys, named
from sidecar.redis.readers import DEFAULT_TTL_S, check
from sidecar.telemetry.traceparent import TracerProvider
from sidecar.telemetry.tracing import spans_of
from sidecar.wire.bounds import bounded
from sidecar.wire.erasures import erasures_of
from sidecar.wire.incarnations import Cursor
from sidecar.wire.notification import Notification
from sidecar.wire.trust import Trust
from sidecar.wire.urls import FiledUrl, redact
from store import Artifact, ArtifactReader, Capability, Store, VersionedStore, versioned

POLL_LIMIT: Final = 1000
PAGE: Final = 200
"""What `follow` reads at a time: few enough to lie in the processor's cache while it is checked."""
BLOCK_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0
HEARTBEAT_S: Final = 60.0

Client = TypeVar("Client")

_log: Final = logging.getLogger("sidecar.feed")


def is_lasting(error: Refused) -> bool:
    """Tell whether a note about the reader will be refused next time, too.

    A server that takes no writes just now, a replica or one without memory, can be read.
    """
    return isinstance(error, NotPermitted) or str(error).startswith("WRONGTYPE")


def _lack(store: Store | None) -> str:
    """Say what a feed without a store that pins needs."""
    if store is None:
        return "the fleet's store, and was given none; pass store=store.open_url(URL, create=False)"
    return f"a store that declares pinned-get, and the backend {store.name!r} does not"


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
        if reader is not None:
            check(reader, reader_ttl_s)
        self._url = url_of(redis_url)
        self._reading = Reading(notify_stream, wanted(tenant, type, ref_prefix), Trust.of(trust))
        self._store = versioned(store, Capability.PINNED_GET) if store else None
        self._lack = _lack(store)
        self._cache = cache
        if cache and not self._store:
            raise UsageError(f"beside a cache, the feed needs {self._lack}")
        self._is_fleets = store is None or not versioned(store, Capability.IDENTITY)
        """Whether nothing is left to compare: the store is theirs, or nobody can tell."""
        self._keys = Keys.of("", named("notify_stream", notify_stream))
        self._spans = spans_of(tracer_provider)
        self._reader = reader or ""
        self._reader_ttl_s = reader_ttl_s
        self.position: int = 0
        self._passed: int | None = None
        self._told_at = -math.inf
        self._away_for: set[str] = set()
        self._is_refused = False
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

    def _ahead(
        self, notifications: Iterable[Notification], ahead: int
    ) -> Generator[Notification, None, None]:
        """Yield what is given, while the next of it comes into the cache."""
        if self._cache is None:
            raise UsageError("to prefetch, the feed needs a cache: Feed(…, cache=Cache(…))")
        return ahead_of(notifications, ahead, self._prefetch)

    def _prefetch(self, notification: Notification) -> None:
        if self._cache and (pin := Pinned.by(notification)):
            self._cache.prefetch(pin, lambda: self._open_there(notification))

    def _cached(self, notification: Notification) -> Artifact | None:
        """Return the artifact if it is in the cache; neither Redis nor the store is asked."""
        pin = Pinned.by(notification)
        return self._cache.find(pin) if self._cache and pin else None

    def _cached_reader(self, notification: Notification) -> ArtifactReader | None:
        pin = Pinned.by(notification)
        return self._cache.find_reader(pin) if self._cache and pin else None

    def _get(self, notification: Notification) -> Artifact:
        if self._cache and (pin := Pinned.by(notification)):
            return self._cache.get(pin, lambda: self._open_there(notification))
        return self._get_there(notification)

    def _open(self, notification: Notification) -> ArtifactReader:
        if self._cache and (pin := Pinned.by(notification)):
            return self._cache.open(pin, lambda: self._open_there(notification))
        return self._open_there(notification)

    def _get_there(self, notification: Notification) -> Artifact:
        store, pin = self._pinned(notification)
        with erasures_of(store).told(notification.artifact_ref, notification.checksum):
            return store.get(notification.artifact_ref, **pin, **bounded(store))

    def _open_there(self, notification: Notification) -> ArtifactReader:
        """Open the artifact in the store."""
        store, pin = self._pinned(notification)
        if versioned(store, Capability.STREAM):
            with erasures_of(store).told(notification.artifact_ref, notification.checksum):
                return store.open(notification.artifact_ref, **pin, **bounded(store))
        data, manifest = self._get_there(notification)
        return ArtifactReader(
            io.BytesIO(data), checksum=notification.checksum, size_bytes=len(data),
            manifest=manifest, where=notification.artifact_ref,
        )  # fmt: skip

    def _pinned(self, notification: Notification) -> tuple[VersionedStore, dict[str, Any]]:
        """Return where the artifact is, and which version."""
        if not notification.artifact_ref:
            raise ValueError(f"{notification.event_id} names no artifact")
        if self._store is None:
            raise UsageError(f"to resolve, the feed needs {self._lack}")
        return self._store, {
            "checksum": notification.checksum,
            "manifest_checksum": notification.manifest_checksum or None,
        }

    def _read_state(self, client: redis_client.Client) -> State:
        """Return the state; `client` is one for threads. Raises as `read_state`."""
        archive = archive_of(self._store, client, self._keys)
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

    def _check_store(self, noted: Any) -> None:  # noqa: ANN401 -- of either client
        """Raise `UsageError` when the store is not the one whose identity is noted, if any is."""
        identity = self._store.identity if self._store and noted else None
        if identity and noted.decode(errors="replace") != identity:
            raise UsageError(
                f"the feed's store is {identity}, and the notifications on {redact(self._url)} name"
                f" the store {noted.decode(errors='replace')}; open that one"
            )
        self._is_fleets = True

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
        if self._reader:
            self._owe(since)

    def _owe(self, control_version: int) -> None:
        """Have the next heartbeat note that the reader needs nothing up to there."""
        if not self._reader:
            raise UsageError("to register, the feed needs a name: Feed(…, reader='controller-1')")
        self._passed, self._told_at = control_version, -math.inf

    def _refuse(self, error: Refused) -> None:
        """Log that the note about the reader was refused, once until it is taken.

        It is tried again with each heartbeat. Raises what will be refused next time, too.
        """
        if is_lasting(error):
            raise error
        if not self._is_refused:
            _log.warning(
                "%s takes no note of the reader %r, so what it has not passed may be trimmed; it is"
                " tried again: %s", redact(self._url), self._reader, error,
            )  # fmt: skip
        self._is_refused = True

    def _told(self, control_version: int) -> None:
        if self._is_refused:
            _log.info("%s has taken note of the reader %r", redact(self._url), self._reader)
        self._is_refused = False
        if control_version == self._passed:  # else another task has passed more meanwhile
            self._told_at = time.monotonic()
        self._back()

    def _due(self) -> int | None:
        """Return what to note of the reader, at first or lest it expires; None: nothing is due.

        Of a stream that is not there nothing is noted: its name may be mistyped.
        """
        if not self._reading.is_there:
            return None
        patience_s = min(HEARTBEAT_S, self._reader_ttl_s / 3)
        return self._passed if time.monotonic() - self._told_at > patience_s else None
