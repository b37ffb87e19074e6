"""Writes what is in the streams into the archive, before trimming takes it.

What is written depends on the entries alone, so that a worker which writes again what is there
already changes nothing. How far it went is noted in Redis (`redis.archived`), for trimming, and
lies in the names of the segments, for a worker that comes after a Redis that lost its memory. Who
archives a stream claims it, so that two seldom write the same; where they do, readers take each
entry once.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from sidecar.errors import SidecarError
from sidecar.history.archive import ArchiveHistory, Ends, apart, loss_of, pack
from sidecar.history.checkpoints import checkpoints_of, write_checkpoint
from sidecar.history.horizon import expire
from sidecar.history.linking import kept, link_to, lost_end, manifest_of, previous_of
from sidecar.history.live import LiveHistory
from sidecar.history.places import archive_of_another
from sidecar.history.sealing import Sealer, Sealing
from sidecar.history.segments import Damaged
from sidecar.history.state import sealed_state_at, state_at
from sidecar.redis.archived import Claim, is_due, note_archived, nothing_lacks
from sidecar.redis.client import Client
from sidecar.redis.errors import translated
from sidecar.redis.keys import Keys
from sidecar.redis.source import Entry
from sidecar.stores import explained
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.trust import BadSeal
from store import VersionedStore

LOOK_EVERY_S: Final = 0.2
RENEW_ROWS: Final = 10_000
"""A claim is renewed at so many rows that are compared."""


class Sizes(NamedTuple):
    """When a segment is full, and a checkpoint is due."""

    rows: int = 20_000
    """A segment is closed at so many rows, or bytes of rows."""
    size_bytes: int = 8 << 20
    checkpoint_rows: int = 20_000
    """A checkpoint follows so many."""


USUAL: Final = Sizes()


class Archived(NamedTuple):
    """One segment that was written."""

    stream: str
    ref: str
    rows: int
    size_bytes: int
    """As it is stored."""


class _Uncovered(NamedTuple):
    """Notifications that no checkpoint has: they are counted on, since segments are ever more."""

    reached: EntryId
    """The last one."""
    rows: int
    checkpoint_rows: int
    """What the newest checkpoint has."""
    least_rows: int

    @property
    def is_worth_it(self) -> bool:
        """Tell whether a checkpoint is."""
        return self.rows >= self.least_rows and 2 * self.rows >= self.checkpoint_rows

    def followed_by(self, after: EntryId, entries: list[Entry]) -> _Uncovered | None:
        """Return it with a segment that begins behind `after`; None where another wrote between."""
        if after != self.reached:
            return None
        return self._replace(reached=entries[-1].id, rows=self.rows + len(entries))


class Archiver:
    """Archives the streams of one notification stream.

    Methods raise `Unreachable` and `SidecarError`, for Redis as for the store.
    """

    def __init__(
        self, live: LiveHistory, store: VersionedStore, notify: Client, keys: Keys, *,
        sizes: Sizes = USUAL, hold: Callable[[EntryId], None] = lambda _: None,
        sealer: Sealer | None = None,
    ) -> None:  # fmt: skip
        """`hold` is told up to where the control stream is archived; `sealer` seals what is
        written.
        """
        self._live, self._store, self._notify, self._keys = live, store, notify, keys
        self._sizes, self._hold, self._sealer = sizes, hold, sealer
        self._refused: BadSeal | None = None
        """Why no state was written last."""
        self._links: dict[str, tuple[EntryId, str]] = {}
        """By stream: where the segment that was written last ends, and what the next says of it."""
        self._uncovered: _Uncovered | None = None

    def is_due(self, stream: str, every_s: float) -> bool:
        """Tell whether the stream's last segment was closed so long ago, by any worker."""
        with translated(self._live.describe()):
            return is_due(self._notify, self._keys, stream, every_s)

    def archive(self, stream: str, *, rest: bool, wait_s: float = 0.0) -> Iterator[Archived]:
        """Write all that fills segments; with `rest`, also what is left over. Yield each.

        Nothing is written while another archives the stream; after `wait_s` seconds of that raises
        `SidecarError`, unless it is 0.
        """
        self._check_own()
        claim = Claim(self._notify, self._keys, stream)
        if not self._claimed(claim, stream, wait_s):
            return
        try:
            yield from self._archive(claim, stream, rest=rest)
        finally:
            with suppress(SidecarError), translated(self._live.describe()):
                claim.release()  # else it runs out

    def _check_own(self) -> None:
        """Refuse to mix two logs, whose rows nobody could tell apart. Raises `SidecarError`."""
        with explained(), translated(self._live.describe()):
            other = archive_of_another(self._store, self._notify, self._keys)
        if other:
            raise SidecarError(
                f"the archive of {self._keys.notifications} in this store is that of the log"
                f" {other}; give one of the two another --notify-stream or a store of its own or,"
                f" if that log is gone for good, sidecar store gc --forget {shlex.quote(other.id)}"
                " --reason …"
            )

    def _claimed(self, claim: Claim, stream: str, wait_s: float) -> bool:
        ends_at = time.monotonic() + wait_s
        while True:
            if self._holds(claim):
                return True
            if not wait_s:
                return False
            if time.monotonic() >= ends_at:
                raise SidecarError(f"{stream} is being archived by another; try again later")
            time.sleep(LOOK_EVERY_S)

    def _archive(self, claim: Claim, stream: str, *, rest: bool) -> Iterator[Archived]:
        reached = self._reached(stream, partial(self._holds, claim))
        self._held(stream, reached)
        while reached < LAST and (batch := self._batch(stream, reached.after)):
            entries, full = batch
            if not (full or rest):
                return
            gap, within = self._missing(stream, reached, entries)
            if within:
                continue  # trimmed by hand while it was read: read again what is left
            done = self._write(stream, reached, entries, gap)
            reached = entries[-1].id
            if not self._holds(claim):
                return  # another took over meanwhile, and its mark may be higher
            with translated(self._live.describe()):
                client = self._live.client(stream)
                note_archived(client, self._notify, self._keys, stream, entries[-1])
            self._held(stream, reached)
            yield done

    def _holds(self, claim: Claim) -> bool:
        with translated(self._live.describe()):
            return claim.hold()

    def _held(self, stream: str, reached: EntryId) -> None:
        if stream == self._keys.control:
            with translated(self._live.describe()):
                self._hold(reached)

    def _batch(self, stream: str, first: EntryId) -> tuple[list[Entry], bool] | None:
        """Return entries for one segment, and whether they fill it; None when there are none."""
        found: list[Entry] = []
        size_bytes = 0
        for entry in self._live.entries(stream, first):
            found.append(entry)
            size_bytes += sum(map(len, entry.fields)) + sum(map(len, entry.fields.values()))
            if len(found) >= self._sizes.rows or size_bytes >= self._sizes.size_bytes:
                return found, True
        return (found, False) if found else None

    def _missing(
        self, stream: str, reached: EntryId, entries: list[Entry]
    ) -> tuple[Ends | None, bool]:
        """Return what was trimmed before the entries, and whether anything was among them."""
        reach = self._live.reach(stream)
        if reach is None:
            return None, False
        with translated(self._live.describe()):
            # Where all was trimmed that is archived, what comes next may be much later: no gap.
            client = self._live.client(stream)
            whole = nothing_lacks(client, self._notify, self._keys, stream, reached)
        before = [] if whole else reach.missing(reached.after, entries[0].id.before)
        within = reach.missing(entries[0].id.after, entries[-1].id)
        return ((before[0].first, before[-1].last) if before else None), bool(within)

    def _write(
        self, stream: str, after: EntryId, entries: list[Entry], gap: Ends | None
    ) -> Archived:
        """Write a segment of what follows `after`, up to where the stream is archived."""
        archive = ArchiveHistory(self._store, self._live.streams)
        ours, before = self._links.get(stream, (FIRST, ""))
        if ours != after or not before:  # the last one is another's: all are looked through
            lost = lost_end(archive, stream, after, entries[0].id)
            before = lost.link if lost else previous_of(archive, stream, entries[0].id)
            if lost:
                gap = lost.ends[0], gap[1] if gap else lost.ends[1]
                self._tell_lost(stream, lost.ends)
        vouches = self._sealer if stream == self._keys.notifications else None
        doubted = vouches.doubted(entries) if vouches else None
        ref, data, manifest = pack(self._keys.notifications, stream, entries, gap, before, doubted)
        with explained():
            ref = apart(self._store, ref, manifest)
            manifest = self._sealer.sealed(ref, manifest) if self._sealer else manifest
            manifest = kept(archive, ref, manifest)
            self._store.put(ref, data, manifest)
        self._links[stream] = entries[-1].id, link_to(archive, stream, ref, manifest)
        if stream == self._keys.notifications and self._uncovered:
            self._uncovered = self._uncovered.followed_by(after, entries)
        return Archived(stream, ref, len(entries), len(data) + len(manifest))

    def _tell_lost(self, stream: str, lost: Ends) -> None:
        """Leave a mark of what the archive had: a gap in a name could have been trimmed as well."""
        with explained():
            self._store.put(loss_of(self._keys.notifications, stream, lost), b"", b"")

    def expire(self, stream: str, keep_s: float) -> Iterator[str]:
        """Remove what is older than `keep_s` seconds; yield each ref that went.

        By the clock that is behind, Redis's or this machine's: one that runs ahead removes nothing.
        """
        self._check_own()
        now_us = min(self._live.now_us(), time.time_ns() // 1000)
        horizon = EntryId.of_version(max(0, now_us - int(keep_s * 1e6)))
        yield from expire(self._store, self._live, stream, horizon)

    def keep_state(self) -> None:
        """Write a checkpoint once it is worth it: so that a state is soon found, whatever its size,
        and all checkpoints together have no more than twice the rows of the log. What it takes to
        read a state is in proportion to the state then, never to the history.

        Call it after each segment of the notifications. Raises `OSError` besides: what it makes
        may need room on the disk.
        """
        reached = self._reached(self._keys.notifications)
        if reached == FIRST:
            return
        archive = ArchiveHistory(self._store, self._live.streams)
        if self._uncovered is None or self._uncovered.reached != reached:
            self._uncovered = self._count(archive, reached)
        if not self._uncovered.is_worth_it:
            return
        self._write_state(archive, reached, self._sealer)
        self._uncovered = None

    def _write_state(
        self, archive: ArchiveHistory, reached: EntryId, sealer: Sealer | None
    ) -> None:
        notifications, at = self._keys.notifications, reached.control_version
        if sealer is None:
            state = state_at(archive, at)
            write_checkpoint(self._store, notifications, reached, state.keyed(), state.gaps)
            return
        try:
            self._look_at_refused(archive, sealer)
            state, proof = sealed_state_at(archive, at, sealer.trust)
        except BadSeal as error:
            self._refused = error
            raise SidecarError(
                f"no state is archived: {error}; find out who wrote it, and take it out: sidecar"
                f" archive --drop {shlex.quote(error.ref)} --reason …"
            ) from error
        head = previous_of(archive, notifications, reached.after)
        how = Sealing(sealer.sealed, head, proof.unproven)
        rows = sealer.vouched(state.keyed())
        write_checkpoint(self._store, notifications, reached, rows, state.gaps, how)

    def _look_at_refused(self, archive: ArchiveHistory, sealer: Sealer) -> None:
        """Refuse the seal that was refused last, if it is there yet: nothing else is read again.

        Unless another worker has written a newer state: what came before that is not read.
        """
        bad, self._refused = self._refused, None
        notifications = self._keys.notifications
        if not bad or max(checkpoints_of(self._store, notifications), default=FIRST) > bad.last:
            return
        if manifest := manifest_of(archive, bad.ref):
            sealer.trust.sealer(notifications, bad.ref, manifest, bad.last)

    def _count(self, archive: ArchiveHistory, reached: EntryId) -> _Uncovered:
        checkpoint = archive.checkpoint(reached)
        begin, size = (checkpoint.last, checkpoint.rows) if checkpoint else (FIRST, 0)
        since = [name for name in archive.names(self._keys.notifications) if name.last > begin]
        return _Uncovered(reached, sum(map(archive.rows, since)), size, self._sizes.checkpoint_rows)

    def _reached(self, stream: str, renew: Callable[[], object] = lambda: None) -> EntryId:
        """Return the last entry that is archived; of a stream made anew, none is.

        Calls `renew` now and then: it may have to read the whole stream.
        """
        noted = self._live.archived_to(stream)
        if noted is not None:
            return noted
        archive = ArchiveHistory(self._store, self._live.streams)
        last = archive.last(stream)
        reach = self._live.reach(stream)
        if reach is None or reach.first is None or reach.first > last:
            return last
        # A name says nothing: each row that Redis has is looked for, in order.
        there = _between(archive.lines(stream, reach.first, last), renew)
        try:
            has_all = all(line in there for line in self._live.lines(stream, reach.first, last))
        except Damaged:
            has_all = False  # what Redis still has is archived anew
        return last if has_all else FIRST


def _between(lines: Iterator[bytes], renew: Callable[[], object]) -> Iterator[bytes]:
    for number, line in enumerate(lines, 1):
        if number % RENEW_ROWS == 0:
            renew()
        yield line
