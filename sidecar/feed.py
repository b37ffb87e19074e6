"""The feed, for fleet controllers: notifications in order, and the artifacts they pin.

    feed = Feed("redis://…", store=store.open_url("s3://…"))
    for n in feed.follow(since=cursor):
        data, manifest = feed.resolve(n)
        apply(n.event_id, n.type, n.tenant_id, n.version, data)
        cursor = n.control_version

A controller keeps its cursor with what it applied; a notification that it has applied already is
known by its `event_id`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from sidecar.errors import UsageError
from sidecar.notification import Notification, parse
from sidecar.redis.client import Outage, connect, translated
from sidecar.redis.keys import Keys
from sidecar.redis.readers import DEFAULT_TTL_S, passed
from store import Artifact, Capability, Store, versioned

PAGE: Final = 1000
BLOCK_S: Final = 1.0
MAX_PAUSE_S: Final = 5.0


class FeedGap(Exception):
    """Notifications after the cursor are gone, or the stream ends before it.

    Start again from a snapshot: going on would miss changes in silence.
    """


class ForeignEntry(ValueError):
    """The notification stream has an entry that is no notification."""


class Feed:
    """Reads one notification stream. Not for use from several threads at once."""

    def __init__(
        self,
        redis_url: str,
        *,
        notify_stream: str = "control:notifications",
        store: Store | None = None,
        reader: str | None = None,
        reader_ttl_s: int = DEFAULT_TTL_S,
    ) -> None:
        """With `reader`, a name of this reader alone, what `passed` has not passed is kept for it.

        That ends when nothing is heard of it for `reader_ttl_s` seconds.
        """
        self._url = redis_url
        self._stream = notify_stream
        self._keys = Keys.of("", notify_stream)
        self._reader = reader
        self._reader_ttl_s = reader_ttl_s
        self._client = connect(redis_url, key=notify_stream, block_s=BLOCK_S)
        self._store = versioned(store, Capability.PINNED_GET) if store else None

    def poll(self, since: int = 0, *, wait_s: float = 0.0, limit: int = PAGE) -> list[Notification]:
        """Return at most `limit` notifications with a control_version above `since`, ascending.

        With none there, waits for one up to `wait_s` seconds (at most `BLOCK_S`). `since=0` means
        from the oldest there is. Raises `FeedGap`, `ForeignEntry`, and `Unreachable` when Redis
        is away.
        """
        with translated(self._url):
            found = self._read(since, limit)
            if not found and wait_s:
                block_ms = max(1, int(min(wait_s, BLOCK_S) * 1000))
                if self._client.xread({self._stream: _entry_id(since)}, 1, block_ms):
                    found = self._read(since, limit)
        return found

    def follow(self, since: int = 0) -> Iterator[Notification]:
        """Yield notifications above `since` as they come, for ever.

        Wakes at once, and outlives a Redis that goes away and comes back. Raises `FeedGap` and
        `ForeignEntry`.
        """
        pause_s = 0.1
        while True:
            try:
                found = self._read(since, PAGE)
                if not found:
                    self._client.xread({self._stream: _entry_id(since)}, 1, int(BLOCK_S * 1000))
                pause_s = 0.1
            except Outage:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            for notification in found:
                yield notification
                since = notification.control_version

    def resolve(self, notification: Notification) -> Artifact:
        """Return the artifact that the notification pins, verified.

        Raises `store.StoreError` as the store does, `UsageError` without a store that pins, and
        `ValueError` for a notification without an artifact.
        """
        if not notification.artifact_ref:
            raise ValueError(f"{notification.event_id} names no artifact")
        if self._store is None:
            raise UsageError("to resolve, the feed needs a store that declares pinned-get")
        return self._store.get(
            notification.artifact_ref,
            checksum=notification.checksum,
            manifest_checksum=notification.manifest_checksum or None,
        )

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

    def _read(self, since: int, limit: int) -> list[Notification]:
        entries: list[Any] = (
            self._client.xrange(self._stream, _entry_id(since + 1), "+", count=limit) or []
        )
        if since:
            self._check_gap(since)
        found: list[Notification] = []
        for entry_id, fields in entries:
            try:
                found.append(parse(fields))
            except (KeyError, ValueError) as error:
                if found:
                    break  # first what is before it
                raise ForeignEntry(
                    f"{self._stream} has an entry that no sidecar wrote, {entry_id.decode()}"
                    f" ({type(error).__name__}); since={_control_version(entry_id)} passes it"
                ) from error
        return found

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


def _entry_id(control_version: int) -> str:
    return f"{control_version // 1000}-{control_version % 1000}"


def _control_version(entry_id: bytes) -> int:
    ms, _, seq = entry_id.partition(b"-")
    return int(ms) * 1000 + int(seq)
