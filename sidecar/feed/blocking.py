"""The feed for a controller with threads, or none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, overload

from sidecar.feed.face import BLOCK_S, PAGE, POLL_LIMIT, Face, Following
from sidecar.feed.reading import Batch, FeedGap
from sidecar.feed.state import Followed, State, StateBegins
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
        there is. Raises `FeedGap`, `ForeignEntry`, `Untrusted`, and `Unreachable` when Redis is
        away.
        """
        since, deadline = self._known(since), time.monotonic() + wait_s
        with translated(self._url):
            batch = self._read(since, limit, 0.0)
            while not batch and (batch.more or time.monotonic() < deadline):
                left_s = 0.0 if batch.more else deadline - time.monotonic()
                batch = self._read(batch.cursor, limit, min(left_s, BLOCK_S))
        self.position = batch.cursor
        return batch

    def state(self) -> State:
        """Return the newest notification of each subject, as of about now.

        From the archive in the feed's store, if there is one, and from what Redis has; without an
        archive, `State.complete_since` tells since when nothing is missing. Of a subject whose
        newest notification the feed leaves out (`tenant`, `type`, `ref_prefix`) there is none.
        Raises `Unreachable` when Redis or the store is away, `UsageError` for a store that is
        another than the notifications name, and `SidecarError` for a damaged archive.
        """
        with translated(self._url):
            found = self._look()
        self.position = found.cursor
        return found

    @overload
    def follow(self, since: int = 0) -> Iterator[Notification]: ...
    @overload
    def follow(self, since: int = 0, *, state: bool, again: bool = False) -> Iterator[Followed]: ...
    def follow(
        self, since: int = 0, *, state: bool = False, again: bool = False
    ) -> Iterator[Followed]:
        """Yield notifications above `since` as they come, for ever.

        Wakes at once, and outlives a Redis that goes away and comes back, of which it logs both
        (`sidecar.feed`). Registers the reader, if it has a name, as one that needs nothing up to
        `since`. Raises `FeedGap`, `ForeignEntry`, `Untrusted`, and `UsageError` when Redis refuses
        the login or a command.

        With `state`, one that begins at 0 begins with what `state()` returns, between a
        `StateBegins` and a `StateEnds`; and raises what that does, but waits for Redis. With
        `again`, a gap is not raised: it yields the state again, and its `StateBegins` has the gap.
        """
        gap, allowed = None, self._may_again(state=state, again=again)
        while True:
            if state and not since:
                found = self._state_in_time()
                yield StateBegins(gap)
                yield from found
                since = self.position = found.cursor
                yield found.ends()
            try:
                yield from self._follow(since)
            except FeedGap as error:
                gap, since = self._again(error, allowed=allowed), 0

    def _state_in_time(self) -> State:
        """Return the state once Redis is there; what comes after it is kept for the reader."""
        at, found = Following(0), list[State]()
        while not found:
            with translated(self._url):
                try:
                    found.append(self._look())
                except Outage as error:
                    self._away(error)
                    time.sleep(at.failed())
        self._back()
        if self._registration.name:
            self.passed(found[0].cursor)
        return found[0]

    def _look(self) -> State:
        self._compare_store()
        return self._read_state(self._client)

    def _follow(self, since: int) -> Iterator[Notification]:
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
            if found := self._artifacts.cached(notification):
                return found
            self._compare_store()
            return self._artifacts.get(notification)

    def open(self, notification: Notification) -> ArtifactReader:
        """Open what `resolve` would return, to be read in constant memory and closed.

        What was read is verified when its end is met, not before: damage is raised then. A store
        that does not declare `stream` reads it at once. Raises as `resolve`.
        """
        with self._span(notification):
            if found := self._artifacts.cached_reader(notification):
                return found
            self._compare_store()
            return self._artifacts.open(notification)

    def prefetch(
        self, notifications: Iterable[Notification], *, ahead: int = 8
    ) -> Iterator[Notification]:
        """Yield what is given, while the artifacts of the next `ahead` come into the cache.

        As many threads fetch, 64 at most. For what is there already: a batch, a state. What
        `follow` yields would be held back until more comes. What cannot be fetched is left for
        `resolve` to raise. Raises `UsageError` for a feed without a cache.
        """
        return self._artifacts.ahead(notifications, ahead)

    def passed(self, control_version: int) -> None:
        """Note that this reader needs nothing up to `control_version` any more; 0 at the beginning.

        Call it when what was read is durably applied, every so often: `follow` and `batches` only
        say that the reader is still there. While Redis is away, or takes no writes, it is only
        remembered, and noted later by them or by the next call. Raises `UsageError` for a feed
        without the name of a reader, and when Redis refuses the login or lacks the permission.
        """
        self._registration.owe(control_version)
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
        return self._reading.read(self._client, since, limit, wait_s)

    def _compare_store(self) -> None:
        """Compare the store with the one that is noted, once; Redis need not be there, nor let us.

        Raises `UsageError` when it is another.
        """
        if not self._artifacts.is_fleets:
            with suppress(*Outage):
                self._artifacts.check_store(self._noted_store(), self._url)

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
            self._registration.refused(error, self._url)

    def _tell(self, control_version: int) -> None:
        one = self._registration
        readers.passed(self._client, self._keys, one.name, control_version, one.ttl_s)
        self._told(control_version)
