"""The archive kept up beside the relays.

In a thread of its own: a slow store must not keep a worker from telling the others that it lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from structlog.typing import FilteringBoundLogger

from sidecar.history.archiver import Archiver
from sidecar.redis.keys import Keys, outbound_of
from sidecar.worker.share import Share
from sidecar.worker.supervision import Supervisor
from sidecar.worker.threads import Beside

LOOK_EVERY_S: Final = 10.0
ARCHIVING: Final = "archiving"
CHECKPOINTS: Final = "checkpoints"
EXPIRING: Final = "expiring"
EXPIRE_EVERY_S: Final = 3600.0
EXPIRE_AT_ONCE: Final = 1000
"""So much goes of a stream, then what is new is archived."""


class Archiving(Beside):
    """Archives what this worker is responsible for: the control streams that it owns, and of the
    others those that belong to the first of all.
    """

    def __init__(
        self, archivers: Mapping[str, Archiver], keys: Mapping[str, Keys], share: Share,
        every_s: float, supervisor: Supervisor, log: FilteringBoundLogger, *,
        keep_s: float | None = None,
    ) -> None:  # fmt: skip
        """Both by control stream. A segment is closed in `every_s` seconds, and kept `keep_s`."""
        attempt = partial(supervisor.attempt, ARCHIVING, "", self._look)
        super().__init__("archive", min(LOOK_EVERY_S, every_s), attempt)
        self._archivers, self._keys, self._share = archivers, keys, share
        self._every_s, self._keep_s = every_s, keep_s
        self._supervisor, self._log = supervisor, log
        self._expire_at = time.monotonic()
        self._owed: set[str] = set()
        """By control stream: whose archiver may have a checkpoint to write."""

    def close(self) -> None:
        """End, once what is under way is through, unless that takes too long.

        Nothing is lost then: what is not noted as archived is archived again.
        """
        super().close()
        if self._thread.is_alive():
            self._log.warning("the archive is left as it is: the store does not answer")

    def _look(self) -> None:
        """Archive of each stream what is due."""
        streams = list(self._streams())
        for work in (ARCHIVING, CHECKPOINTS, EXPIRING):
            self._supervisor.only(work, {"", *(stream for _, stream in streams)})
        for control, stream in streams:
            step = partial(self._archive, control, stream)
            self._supervisor.attempt(ARCHIVING, stream, step)
            if stream == self._keys[control].notifications:
                self._checkpoint(control)
        if self._keep_s is not None and time.monotonic() >= self._expire_at:
            self._expire_at = time.monotonic() + EXPIRE_EVERY_S
            self._expire_all(streams, self._keep_s)

    def _expire_all(self, streams: Iterable[tuple[str, str]], keep_s: float) -> None:
        for control, stream in streams:
            keys = self._keys[control]
            # Records of what people did are few, and stay.
            if stream in (control, keys.notifications, keys.dead):
                step = partial(self._expire, control, stream, keep_s)
                self._supervisor.attempt(EXPIRING, stream, step)

    def _expire(self, control: str, stream: str, keep_s: float) -> None:
        """Remove some of what is older than the horizon; what is left goes after the next look."""
        removed = 0
        for _ in self._archivers[control].expire(stream, keep_s):
            removed += 1
            if self._stopping.is_set() or removed >= EXPIRE_AT_ONCE:
                self._expire_at = time.monotonic()
                break
        if removed:
            self._log.info("expired", stream=stream, removed=removed)

    def _streams(self) -> Iterator[tuple[str, str]]:
        """Yield the streams to archive, each with the control stream whose archiver does it."""
        for control in sorted(self._share.owned):
            yield control, control
        first = min(self._keys)
        if first in self._share.owned:
            keys = self._keys[first]
            for stream in outbound_of(keys):
                yield first, stream

    def _archive(self, control: str, stream: str) -> None:
        archiver = self._archivers[control]
        rest = archiver.is_due(stream, self._every_s)
        for one in archiver.archive(stream, rest=rest):
            self._log.info("archived", stream=stream, rows=one.rows, size_bytes=one.size_bytes)
            if stream == self._keys[control].notifications:
                self._owed.add(control)
                self._checkpoint(control)
            if self._stopping.is_set():
                return

    def _checkpoint(self, control: str) -> None:
        """Write the checkpoint that may be due; one that fails keeps no segment back."""
        if control in self._owed:
            stream = self._keys[control].notifications
            self._supervisor.attempt(CHECKPOINTS, stream, partial(self._keep_state, control))

    def _keep_state(self, control: str) -> None:
        self._archivers[control].keep_state()
        self._owed.discard(control)
