"""The pump: what was committed in the outbox is put, then appended, in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.errors import Incomplete, Unreachable, UsageError
from sidecar.producer.checking import check_entry, wrong
from sidecar.producer.outbox.staging import check_event, check_size
from sidecar.producer.outbox.table import Database, Ended, NotNow, Row
from sidecar.producer.outbox.wiring import check_database, opened, shown
from sidecar.redis.client import check_stream, connect, url_of
from sidecar.redis.errors import Outage, translated
from sidecar.redis.keys import named
from sidecar.wire.event import Reason, Rejected
from store import InvalidRef, Store, StoreError, checksum_of

KEEP_S: Final = 86400.0
"""So long are rows kept that were sent."""
BATCH: Final = 100
"""So many rows are read, sent, and then marked in one transaction."""
POLL_S: Final = 0.2
LONGEST_WAIT_S: Final = 30.0


class AnotherPump(Incomplete):
    """Another pump has the outbox. There is one at a time."""


class Pump:
    """Sends what is staged in the outbox of `database` to one control stream.

        pump = Pump("/var/lib/app.db", "redis://…", "control:events",
                    store.open_url("file:///var/lib/node"))
        pump.run(stop)                 # or: await pump.run_async()

    `database` is the path of an SQLite file, or the URL of a PostgreSQL. Artifacts are put into
    `store` before their events are appended, at least once, always with the `event_id` that was
    staged: the worker publishes it once. Rows that were sent are removed after `keep_s` seconds.
    `told` gets a line for a person whenever the pump has to wait, and for each row that goes dead.
    One thread at a time may use it.

    Raises `UsageError` for a URL or a stream's name that is none.
    """

    def __init__(
        self, database: str | Path, redis_url: str | Path, stream: str, store: Store, *,
        keep_s: float = KEEP_S, told: Callable[[str], object] = lambda _: None,
    ) -> None:  # fmt: skip
        self._name = check_database(database)
        self._url = url_of(redis_url)
        self._stream = named("stream", stream)
        self._client = connect(self._url, key=stream)
        self._store = store
        self._keep_s = keep_s
        self._tell = told
        self._database: Database | None = None
        self._is_ours = False
        self._told = ""
        self._has_worked = False

    def run(self, stop: threading.Event, *, poll_s: float = POLL_S) -> None:
        """Send until `stop` is set, and wait for whatever is away, however long.

        Raises `UsageError` for an outbox that is not there or of another format, and for what only
        a person can fix at Redis: a refused login or a replica, too, until all was sent once.
        """
        wait_s = poll_s
        while not stop.is_set():
            trouble = self._trouble(stop)
            if trouble is None:
                wait_s = poll_s
            else:
                is_long = not isinstance(trouble, AnotherPump)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S) if is_long else poll_s
            stop.wait(wait_s)

    def _trouble(self, stop: threading.Event) -> Exception | None:
        """Send all that waits; return what stops that, told once, if it passes."""
        try:
            self.once(stop)
            self._has_worked = True
        except (Unreachable, StoreError, AnotherPump, UsageError) as error:
            if isinstance(error, UsageError) and not self._passes(error):
                raise
            if str(error) != self._told:
                self._tell(f"{error}; waiting")
            self._told = str(error)
            return error
        self._told = ""
        return None

    def _passes(self, error: UsageError) -> bool:
        """Tell whether it is a login or a node that was the right one, and will be again: a
        password is rotated, a failover is not through.
        """
        return self._has_worked and (
            isinstance(error, NotNow) or isinstance(error.__cause__, Outage)
        )

    async def run_async(self, *, poll_s: float = POLL_S) -> None:
        """As `run`, in a thread, until it is cancelled; the row that is being sent ends first."""
        stop = threading.Event()
        running = asyncio.ensure_future(asyncio.to_thread(self.run, stop, poll_s=poll_s))
        try:
            await asyncio.shield(running)
        finally:
            stop.set()
            await asyncio.gather(running, return_exceptions=True)

    def once(self, stop: threading.Event | None = None) -> int:
        """Send all that waits, remove what was done long ago, and return how many were sent.

        Raises `AnotherPump`; `Unreachable` and `store.StoreError` for what is away: all that was
        sent is marked then, and trying again is safe; and `UsageError` as `run`.
        """
        try:
            return self._once(self._held(), stop or threading.Event())
        except AnotherPump:
            raise  # the connection is good: it asks again and again
        except BaseException:
            self._let_go()  # whatever it was, the next time begins with a new connection
            raise

    def _once(self, database: Database, stop: threading.Event) -> int:
        sent = 0
        while not stop.is_set() and (rows := database.waiting(BATCH)):
            sent += self._send(database, rows, stop)
        while not stop.is_set() and database.forget(self._keep_s):
            pass
        return sent

    def close(self) -> None:
        """Close the connections, and let another pump in."""
        self._let_go()
        self._client.close()

    def _held(self) -> Database:
        """Return the database, open and ours alone."""
        if self._database is None:
            self._database = opened(self._name)
        if not self._is_ours:
            if not self._database.lock():
                raise AnotherPump(f"another pump has the outbox of {shown(self._name)}")
            check_stream(self._client, self._url, self._stream)
            self._is_ours = True
        return self._database

    def _let_go(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database, self._is_ours = None, False

    def _send(self, database: Database, rows: list[Row], stop: threading.Event) -> int:
        """Send rows one after another, then mark them, also those before one that failed."""
        ended: list[Ended] = []
        try:
            for row in rows:
                if stop.is_set():
                    break
                ended.append(Ended(row, self._sent(database, row)))
        finally:
            if ended:
                database.end(ended)
        return sum(one.dead is None for one in ended)

    def _sent(self, database: Database, row: Row) -> Rejected | None:
        """Put, then append. Returns why no rule allows it, if that is so."""
        entry = {b"event": row.event}
        if row.traceparent:
            entry[b"traceparent"] = row.traceparent
        try:
            self._bring(database, row, entry)
        except (InvalidRef, Rejected) as error:
            why = error if isinstance(error, Rejected) else Rejected(Reason.BAD_REF, str(error))
            self._tell(f"row {row.number} of the outbox is dead: {why}")
            return why
        with translated(self._url):
            # One by one: of several at once the second may be taken after the first is refused.
            self._client.xadd(self._stream, {**entry})  # type: ignore[dict-item]
        return None

    def _bring(self, database: Database, row: Row, entry: dict[bytes, bytes]) -> None:
        """Check a row, and put its artifact. Raises `Rejected` and `store.InvalidRef`."""
        event, _ = check_entry(entry, self._stream)
        check_event(event)
        if row.size_bytes is None:
            return
        check_size(row.size_bytes)
        if not event.artifact_ref:
            raise wrong("artifact_ref", "missing: the row has data")
        data, manifest = database.artifact(row.number)
        _agree("checksum", event.checksum, data)
        if event.manifest_checksum:
            _agree("manifest_checksum", event.manifest_checksum, manifest)
        self._store.put(event.artifact_ref, data, manifest)


def _agree(field: str, said: str, blob: bytes) -> None:
    found = checksum_of(blob)
    if said != found:
        detail = f"{field} is {said}, and that of the row is {found}"
        raise Rejected(Reason.CHECKSUM_MISMATCH, detail)
