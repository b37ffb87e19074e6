"""The feed for a controller with threads, or none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sidecar.feed.face import BLOCK_S, PAGE, POLL_LIMIT, Face, Following
from sidecar.feed.reading import Batch
from sidecar.redis import readers
from sidecar.redis.client import Client, connect
from sidecar.redis.errors import NotPermitted, Outage, Refused, translated
from sidecar.redis.fleet import STORE
from sidecar.wire.notification import Notification
from store import Artifact, ArtifactReader


class Feed(Face[Client]):
    """Reads one notification stream. Not for use from several threads at once.

    Close it, or use it as a context manager.
    """

    _connect = staticmethod(connect)

    def poll(self, since: int = 0, *, wait_s: float = 0.0, limit: int = POLL_LIMIT) -> Batch:
        """Return at most `limit` notifications with a control_version above `since`, ascending.

        With none there, waits for one up to `wait_s` seconds. `since=0` means from the oldest
        there is. Raises `FeedGap`, `ForeignEntry`, and `Unreachable` when Redis is away.
        """
        since, deadline = self._known(since), time.monotonic() + wait_s
        with translated(self._url):
            batch = self._read(since, limit, 0.0)
            while not batch and (batch.more or time.monotonic() < deadline):
                left_s = 0.0 if batch.more else deadline - time.monotonic()
                batch = self._read(batch.cursor, limit, min(left_s, BLOCK_S))
        self.position = batch.cursor
        return batch

    def follow(self, since: int = 0) -> Iterator[Notification]:
        """Yield notifications above `since` as they come, for ever.

        Wakes at once, and outlives a Redis that goes away and comes back, of which it logs both
        (`sidecar.feed`). Registers the reader, if it has a name, as one that needs nothing up to
        `since`. Raises `FeedGap`, `ForeignEntry`, and `UsageError` when Redis refuses the login or
        a command.
        """
        for batch in self.batches(since):
            for notification in batch:
                self.position = self._at(notification, batch)
                yield notification
            self.position = batch.cursor

    def batches(self, since: int = 0) -> Iterator[Batch]:
        """Do what `follow` does in batches, each with the cursor to keep once it is applied.

        A batch is empty when all that came was filtered out: its cursor has moved all the same.
        """
        self._begin(since)
        at = Following(self._known(since))
        while True:
            with translated(self._url):
                try:
                    batch = self._read(at.cursor, PAGE, at.wait_s)
                    self._heartbeat()  # not before: a cursor in a gap is no reader's
                except Outage as error:
                    self._away(error)
                    time.sleep(at.failed())
                    continue
            self._back()
            if at.moved(batch):
                yield batch

    def resolve(self, notification: Notification) -> Artifact:
        """Return the artifact that the notification pins, verified.

        Raises `store.StoreError` as the store does, `UsageError` without a store that pins, or with
        another one than the notifications name, and `ValueError` for a notification without an
        artifact.
        """
        with self._span(notification):
            self._compare_store()
            return self._get(notification)

    def open(self, notification: Notification) -> ArtifactReader:
        """Open what `resolve` would return, to be read in constant memory and closed.

        What was read is verified when its end is met, not before: damage is raised then. A store
        that does not declare `stream` reads it at once. Raises as `resolve`.
        """
        with self._span(notification):
            self._compare_store()
            return self._open(notification)

    def passed(self, control_version: int) -> None:
        """Note that this reader needs nothing up to `control_version` any more; 0 at the beginning.

        Call it when what was read is durably applied, every so often: `follow` and `batches` only
        say that the reader is still there. While Redis is away, or takes no writes, it is only
        remembered, and noted later by them or by the next call. Raises `UsageError` for a feed
        without the name of a reader, and when Redis refuses the login or lacks the permission.
        """
        self._owe(control_version)
        with translated(self._url):
            try:
                self._heartbeat()
            except Outage as error:
                self._away(error)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Feed:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _read(self, since: int, limit: int, wait_s: float) -> Batch:
        with self._client.pipeline(transaction=False) as pipeline:
            self._reading.ask(pipeline, since, limit, wait_s)
            return self._reading.batch(pipeline.execute(raise_on_error=False), since)

    def _compare_store(self) -> None:
        """Compare the store with the one that is noted, once; Redis need not be there, nor let us.

        Raises `UsageError` when it is another.
        """
        if not self._is_fleets:
            with suppress(*Outage):
                self._check_store(self._noted_store())

    def _noted_store(self) -> Any:  # noqa: ANN401 -- redis-py's answer
        with suppress(NotPermitted):
            return self._client.hget(self._keys.fleet, STORE.decode())
        return None

    def _heartbeat(self) -> None:
        position = self._due()
        if position is None:
            return
        try:
            self._tell(position)
        except Refused as error:
            self._refuse(error)

    def _tell(self, control_version: int) -> None:
        readers.passed(self._client, self._keys, self._reader, control_version, self._reader_ttl_s)
        self._told(control_version)
