"""A control-plane node at work: one thread changes the database, one empties the outbox."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import orjson

from sidecar.demo import schema
from sidecar.demo.controlplane import ControlPlane, Outgoing
from sidecar.errors import Unreachable
from sidecar.producer import Producer

BATCH: Final = 16
RETRY_S: Final = 0.1
STOP_TIMEOUT_S: Final = 10.0


class Thread(threading.Thread):
    """A thread whose exception is not lost: `check` raises it where someone looks."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._told_to_stop = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work, and keep what it raises."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 -- `check` raises it again
            self._error = error

    def stop(self) -> None:
        """Let it do no more, and wait until it has ended."""
        self._told_to_stop.set()
        if self.is_alive():
            self.join(STOP_TIMEOUT_S)

    def check(self) -> None:
        """Raise what the thread died of, if it did."""
        if self._error is not None:
            raise self._error


class Writer(Thread):
    """Makes a number of changes, `per_s` a second."""

    def __init__(self, plane: ControlPlane, changes: int, per_s: float) -> None:
        super().__init__("writer", self._write)
        self._plane = plane
        self._changes = changes
        self._pause_s = 1 / per_s
        self.transactions = 0
        self.events = 0

    def _write(self) -> None:
        due = time.monotonic()
        for _ in range(self._changes):
            if self._told_to_stop.wait(max(0.0, due - time.monotonic())):
                return
            self.events += self._plane.change()
            self.transactions += 1
            due = max(due + self._pause_s, time.monotonic() - 1.0)


class Emitter(Thread):
    """Sends what stands in the outbox, in order, and takes off what was sent.

    Dying between the two, it would send again, under the same event_id: absorbed by the sidecar.
    """

    def __init__(self, path: Path, producer: Producer) -> None:
        super().__init__("emitter", self._emit)
        self._path = path
        self._producer = producer
        self.sent = 0

    def send(self, out: Outgoing) -> None:
        """Publish one event, however long Redis is away."""
        fields = {k: v for k, v in out.event.items() if k not in ("event_id", "type")}
        while not self._told_to_stop.is_set():
            try:
                self._producer.publish(
                    type=out.event["type"],
                    ref=out.ref,
                    data=out.data,
                    manifest=out.manifest,
                    event_id=out.event["event_id"],
                    **fields,
                )
            except Unreachable:
                self._told_to_stop.wait(RETRY_S)
            else:
                self.sent += 1
                return

    def _emit(self) -> None:
        with closing(schema.connect(self._path)) as db:
            while not self._told_to_stop.is_set():
                batch = db.execute(
                    "SELECT * FROM outbox ORDER BY control_version LIMIT ?", (BATCH,)
                ).fetchall()
                if not batch:
                    self._told_to_stop.wait(0.01)
                    continue
                for number, event, ref, data, manifest in batch:
                    self.send(Outgoing(number, orjson.loads(event), ref, data, manifest))
                if not self._told_to_stop.is_set():
                    db.execute("DELETE FROM outbox WHERE control_version <= ?", (batch[-1][0],))
