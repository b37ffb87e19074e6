"""The feed, for fleet controllers: notifications in order, and the artifacts they pin.

    feed = Feed("redis://…", store=store.open_url("s3://…"))
    for n in feed.follow(since=cursor):
        data, manifest = feed.resolve(n)
        apply(n.event_id, n.type, n.tenant_id, n.version, data)
        cursor = n.control_version

`AsyncFeed` has the same names, to be awaited. A controller keeps its cursor with what it applied,
in one transaction (`Applied`), or beside it (`FileCursor`, `RedisCursor`); a notification that it
has applied already is known by its `event_id`. docs/feed.md has the whole of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

from sidecar.cursors import Applied, FileCursor, RedisCursor
from sidecar.errors import UsageError
from sidecar.notification import Notification, parse
from sidecar.redis.client import Outage, connect, translated
from sidecar.redis.keys import Keys
from sidecar.redis.readers import DEFAULT_TTL_S, passed
from store import Artifact, ArtifactReader, Capability, Store, versioned

__all__ = [
    "Applied", "AsyncFeed", "Feed", "FeedGap", "FileCursor", "ForeignEntry", "Notification",
    "RedisCursor",
]  # fmt: skip

PAGE: Final = 1000
BLOCK_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0

_Answer = TypeVar("_Answer")


class FeedGap(Exception):
    """Notifications after the cursor are gone, or the stream ends before it.

    Start again from a snapshot: going on would miss changes in silence.
    """


class ForeignEntry(ValueError):
    """The notification stream has an entry that is no notification."""


class _Page(NamedTuple):
    """What one reading brought."""

    found: list[Notification]
    """Those that the feed is for."""
    read_to: int
    """The control_version up to which all was read."""
    more: bool
    """Whether there may be more at once."""


class Feed:
    """Reads one notification stream. Not for use from several threads at once.

    Attributes:
        position: the control_version up to which nothing more comes of this feed: all has been
            returned, or was not for it. Ahead of the last notification where others follow it.

    """

    def __init__(
        self,
        redis_url: str,
        *,
        notify_stream: str = "control:notifications",
        store: Store | None = None,
        reader: str | None = None,
        reader_ttl_s: int = DEFAULT_TTL_S,
        tenant: str | None = None,
        type: str | None = None,  # noqa: A002 -- the contract's name
        ref_prefix: str = "",
    ) -> None:
        """`tenant`, `type` and `ref_prefix` leave out what is not of these. A prefix `stacks/t_1`
        takes that ref and all under it.

        With `reader`, a name of this reader alone, what `passed` has not passed is kept for it.
        That ends when nothing is heard of it for `reader_ttl_s` seconds.
        """
        self._url = redis_url
        self._stream = notify_stream
        self._keys = Keys.of("", notify_stream)
        self._reader = reader
        self._reader_ttl_s = reader_ttl_s
        self._tenant, self._type, self._ref_prefix = tenant, type, ref_prefix.rstrip("/")
        self._client = connect(redis_url, key=notify_stream, block_s=BLOCK_S)
        self._store = versioned(store, Capability.PINNED_GET) if store else None
        self.position = 0

    def poll(self, since: int = 0, *, wait_s: float = 0.0, limit: int = PAGE) -> list[Notification]:
        """Return at most `limit` notifications with a control_version above `since`, ascending.

        With none there, waits for one up to `wait_s` seconds (at most `BLOCK_S`). `since=0` means
        from the oldest there is. Raises `FeedGap`, `ForeignEntry`, and `Unreachable` when Redis
        is away.
        """
        with translated(self._url):
            page = self._read_on(since, limit)
            if not page.found and wait_s and self._wait(page.read_to, min(wait_s, BLOCK_S)):
                page = self._read_on(page.read_to, limit)
        self.position = page.read_to
        return page.found

    def follow(self, since: int = 0) -> Iterator[Notification]:
        """Yield notifications above `since` as they come, for ever.

        Wakes at once, and outlives a Redis that goes away and comes back. Raises `FeedGap` and
        `ForeignEntry`.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                page = self._next(since)
                pause_s = FIRST_PAUSE_S
            except Outage:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            for notification in page.found:
                self.position = notification.control_version
                yield notification
            self.position = since = page.read_to

    def resolve(self, notification: Notification) -> Artifact:
        """Return the artifact that the notification pins, verified.

        Raises `store.StoreError` as the store does, `UsageError` without a store that pins, and
        `ValueError` for a notification without an artifact.
        """
        pin = self._pin(notification)
        if self._store is None:
            raise UsageError("to resolve, the feed needs a store that declares pinned-get")
        return self._store.get(notification.artifact_ref, **pin)

    def open(self, notification: Notification) -> ArtifactReader:
        """Open what `resolve` would return, to be read in constant memory, whatever its size.

        Raises as `resolve`, and `UsageError` for a store that does not stream; damage is raised by
        the read that would have met the end.
        """
        pin = self._pin(notification)
        if self._store is None or Capability.STREAM not in self._store.capabilities:
            raise UsageError("to open, the feed needs a store that declares pinned-get and stream")
        return self._store.open(notification.artifact_ref, **pin)

    def passed(self, control_version: int) -> None:
        """Note that this reader needs nothing up to `control_version` any more; 0 at the beginning.

        Call it when what was read is durably applied, every so often. Raises `Unreachable`, and
        `UsageError` for a feed without the name of a reader.
        """
        if not self._reader:
            raise UsageError("to register, the feed needs a name: Feed(…, reader='controller-1')")
        with translated(self._url):
            passed(self._client, self._keys, self._reader, control_version, self._reader_ttl_s)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @staticmethod
    def _pin(notification: Notification) -> dict[str, str | None]:
        if not notification.artifact_ref:
            raise ValueError(f"{notification.event_id} names no artifact")
        return {
            "checksum": notification.checksum,
            "manifest_checksum": notification.manifest_checksum or None,
        }

    def _next(self, since: int) -> _Page:
        """Read on from `since`; wait a moment when there is nothing yet."""
        page = self._read(since, PAGE)
        if page.read_to == since and self._wait(since, BLOCK_S):
            page = self._read(since, PAGE)
        return page

    def _wait(self, since: int, wait_s: float) -> bool:
        block_ms = max(1, int(wait_s * 1000))
        return bool(self._client.xread({self._stream: _entry_id(since)}, 1, block_ms))

    def _read_on(self, since: int, limit: int) -> _Page:
        """Read on over what is not for this feed."""
        page = self._read(since, limit)
        while not page.found and page.more:
            page = self._read(page.read_to, limit)
        return page

    def _is_wanted(self, notification: Notification) -> bool:
        ref, prefix = notification.artifact_ref, self._ref_prefix
        return (
            self._tenant in (None, notification.tenant_id)
            and self._type in (None, notification.type)
            and (not prefix or ref == prefix or ref.startswith(prefix + "/"))
        )

    def _read(self, since: int, limit: int) -> _Page:
        entries: list[Any] = (
            self._client.xrange(self._stream, _entry_id(since + 1), "+", count=limit) or []
        )
        if since:
            self._check_gap(since)
        found: list[Notification] = []
        read_to = since
        for entry_id, fields in entries:
            try:
                notification = parse(fields)
            except (KeyError, ValueError) as error:
                if read_to > since:
                    break  # first what is before it
                raise ForeignEntry(
                    f"{self._stream} has an entry that no sidecar wrote, {entry_id.decode()}"
                    f" ({type(error).__name__}); since={_control_version(entry_id)} passes it"
                ) from error
            read_to = _control_version(entry_id)
            if self._is_wanted(notification):
                found.append(notification)
        return _Page(found, read_to, len(entries) == limit)

    def _check_gap(self, since: int) -> None:
        """Look after reading, so that nothing can be trimmed between the look and the read."""
        noted: Any = self._client.hget(self._keys.trimmed, self._stream)
        trimmed = _control_version(noted or b"0-0")
        if not self._client.exists(self._stream):
            raise FeedGap(f"the cursor is {since}, and there is no stream {self._stream}")
        info = self._client.xinfo_stream(self._stream)
        end = _control_version(info["last-generated-id"])
        if since > end:
            raise FeedGap(f"the cursor is {since}, and the stream ends at {end}: its tail is lost")
        first = _control_version(info["first-entry"][0]) if info["first-entry"] else end + 1
        whole = info.get("entries-added") == info["length"]  # known since Redis 7.0
        # Trimmed by the sidecar, or by hand, which no one noted: then nobody knows how much of it
        # came after the cursor.
        if since < trimmed or (trimmed < since < min(first, end) and not whole):
            raise FeedGap(f"the cursor is {since}, and the stream begins only at {first}")


class AsyncFeed:
    """A `Feed` for asyncio: the same names and errors, awaited.

    It reads in a thread of its own, for what is cancelled must not leave a connection in the middle
    of an answer; artifacts are resolved in others, several at once. A task that is cancelled stops
    waiting at once, and the thread at most a second later.
    """

    def __init__(self, redis_url: str, **options: Any) -> None:  # noqa: ANN401 -- those of Feed
        """Take what `Feed` takes."""
        self._feed = Feed(redis_url, **options)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")

    @property
    def position(self) -> int:
        """As `Feed.position`."""
        return self._feed.position

    async def poll(
        self, since: int = 0, *, wait_s: float = 0.0, limit: int = PAGE
    ) -> list[Notification]:
        """As `Feed.poll`."""
        return await self._run(lambda: self._feed.poll(since, wait_s=wait_s, limit=limit))

    async def follow(self, since: int = 0) -> AsyncIterator[Notification]:
        """As `Feed.follow`."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                page = await self._run(lambda: self._feed._next(since))  # noqa: B023, SLF001
                pause_s = FIRST_PAUSE_S
            except Outage:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            for notification in page.found:
                self._feed.position = notification.control_version
                yield notification
            self._feed.position = since = page.read_to

    async def resolve(self, notification: Notification) -> Artifact:
        """As `Feed.resolve`."""
        return await asyncio.to_thread(self._feed.resolve, notification)

    async def open(self, notification: Notification) -> ArtifactReader:
        """As `Feed.open`; what it returns is read in a thread: `asyncio.to_thread(reader.read)`."""
        return await asyncio.to_thread(self._feed.open, notification)

    async def passed(self, control_version: int) -> None:
        """As `Feed.passed`."""
        await self._run(lambda: self._feed.passed(control_version))

    async def close(self) -> None:
        """As `Feed.close`."""
        await self._run(self._feed.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _entry_id(control_version: int) -> str:
    return f"{control_version // 1000}-{control_version % 1000}"


def _control_version(entry_id: bytes) -> int:
    ms, _, seq = entry_id.partition(b"-")
    return int(ms) * 1000 + int(seq)
