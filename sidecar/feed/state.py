"""The state for a controller: the newest notification of each subject, as of one control_version.

It comes from the archive in the feed's store, if there is one, and from what Redis has after that.
Nothing is asked for that a controller's login may not read (deploy/redis/users.acl): how far is
archived is told by the names in the store, and believed where Redis has the same entry there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Final, NamedTuple

from sidecar.feed.reading import Batch, FeedGap, Filter, ForeignEntry, Reading
from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import Keyed, Streams
from sidecar.history.places import archive_of_another
from sidecar.history.rows import to_line
from sidecar.history.sealing import Proof, tell
from sidecar.history.state import Believed, FleetState, sealed_state_at, state_at
from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.source import Entry
from sidecar.stores import explained
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.incarnations import Cursor
from sidecar.wire.notification import Notification
from sidecar.wire.signature import signer_of
from sidecar.wire.subject import subject_of
from sidecar.wire.trust import Trust
from store import Capability, VersionedStore

PAGE: Final = 1000
TRIES: Final = 10
"""So often trimming may overtake what reads the state; each time the archive has more."""


class StateBegins(NamedTuple):
    """`follow` yields the state from here on, up to `StateEnds`: what came before is outdated."""

    gap: FeedGap | None
    """Why it begins again; None for the first time."""


class StateEnds(NamedTuple):
    """The state was yielded; what comes now was published after it."""

    cursor: Cursor
    """The control_version that it is as of."""
    complete_since: int
    """See `State`."""
    unproven_until: int = 0
    """See `State`."""


Followed = Notification | StateBegins | StateEnds
"""What `follow` yields with the state."""


class State:
    """The newest notification of each subject, in the order of their control_versions.

    It can be iterated again. Memory is bounded: a large one lies in a temporary file.

    Attributes:
        cursor: the control_version that it is as of; what comes after it is to be followed.
        complete_since: 0 if the state is complete. Otherwise a control_version: a subject whose
            newest notification is not above it may be missing, for nothing has that any more.
        unproven_until: with keys to trust, 0 if the archive's seals prove that nothing was left out
            of it. Otherwise a control_version: up to there somebody may have left notifications
            out, for the archive is that of a worker without a key, or was changed.

    """

    def __init__(
        self, found: FleetState, cursor: Cursor, complete_since: int, wants: Filter | None,
        believed: Believed | None, unproven_until: int = 0,
    ) -> None:  # fmt: skip
        self._found, self._wants, self._believed = found, wants, believed
        self.unproven_until = unproven_until
        self.cursor = cursor
        self.complete_since = complete_since

    def ends(self) -> StateEnds:
        """Return what `follow` yields behind it."""
        return StateEnds(self.cursor, self.complete_since, self.unproven_until)

    def __iter__(self) -> Iterator[Notification]:
        """Yield those that the feed wants. Raises `Untrusted` for a feed with keys to trust."""
        for one in self._found.notifications(self._believed):
            if self._wants is None or self._wants(one):
                yield one


def archive_of(store: VersionedStore | None, client: Client, keys: Keys) -> ArchiveHistory | None:
    """Return the archive of the notifications in the feed's store; None where there is none.

    Raises `Unreachable` and `SidecarError` for the store, `RedisError`.
    """
    if store is None or not store.capabilities.issuperset({Capability.LIST, Capability.STREAM}):
        return None
    archive = ArchiveHistory(store, Streams.of([keys]))
    with explained():
        is_others = archive_of_another(store, client, keys) is not None
    return None if is_others else archive


def read_state(client: Client, keys: Keys, archive: ArchiveHistory | None, how: Reading) -> State:
    """Return the state as of about now, of what is wanted and trusted as `how` says.

    Raises `RedisError`, and as the archive does. `FeedGap` where trimming was faster each time,
    `Untrusted` for what Redis has.
    """
    live = _Live(client, keys.notifications, how)
    for _ in range(TRIES - 1):
        with suppress(FeedGap):  # trimmed, or made anew, while it was read
            return _read(live, archive)
    return _read(live, archive)


def _read(live: _Live, archive: ArchiveHistory | None) -> State:
    begin = _begin(live, archive)
    found, proof = _archived(archive, begin.archived, live.trust)
    cursor = live.fold(begin, found)
    unknown = (begin.complete_since, *(gap.last.last_version for gap in found.gaps))
    unproven = proof.unproven.last_version
    return State(found, cursor, max(unknown), live.wants, live.believed, unproven)


def _archived(
    archive: ArchiveHistory | None, position: int, trust: Trust | None
) -> tuple[FleetState, Proof]:
    if archive is None:
        return FleetState([]), Proof()
    if trust is None:
        return state_at(archive, position, archive.runs), Proof()
    found, proof = sealed_state_at(archive, position, trust)
    if proof.why:
        tell(proof, trust)
    return found, proof


class _Begin(NamedTuple):
    """Where the archive ends and what is live begins."""

    archived: int
    """The control_version up to which the archive is read."""
    page: Batch
    """What is live after it, of that the first."""
    end: int
    """The control_version that the stream had given last."""
    complete_since: int


def _begin(live: _Live, archive: ArchiveHistory | None) -> _Begin:
    """Return the first page after what is archived, or of all."""
    last = archive.last(live.stream, anew=True) if archive else FIRST
    while True:
        begin = live.after(last, archive) if archive and last != FIRST else None
        begin = begin or live.oldest(last.control_version)
        before, last = last, archive.last(live.stream, anew=True) if archive else FIRST
        if not begin.complete_since or last <= before:
            return begin  # else it was archived and trimmed meanwhile


class _Live:
    """The notifications in Redis, page by page."""

    def __init__(self, client: Client, stream: str, how: Reading) -> None:
        self.stream, self.wants = stream, how.wants
        self._client = client
        self.trust = how.trust
        self._reading = Reading(stream, None, how.trust)
        self.believed = partial(_believed, how.trust, stream) if how.trust else None

    def after(self, last: EntryId, archive: ArchiveHistory) -> _Begin | None:
        """Return the first page after `last`, with which the archive ends.

        None unless Redis has that very entry, or only what is behind it: the stream was made anew
        then, trimmed further, or somebody deleted from it.
        """
        try:
            page = self._page(last.control_version)
        except FeedGap:
            return None
        there = self._reading.at_cursor
        is_behind = there is None and self._reading.first > last.control_version
        if is_behind or (there and there in archive.entries(self.stream, last, last)):
            return _Begin(last.control_version, page, self._reading.end, 0)
        return None

    def oldest(self, archived: int) -> _Begin:
        """Return the first page of all: from there on Redis is right, whatever was archived."""
        page = self._page(0)
        if not self._reading.is_there:  # whatever comes is followed from 0
            return _Begin(archived, page, 0, archived)
        end, complete_since = self._reading.end, self._reading.complete_since(page)
        return _Begin(page[0].control_version - 1 if page else end, page, end, complete_since)

    def fold(self, begin: _Begin, state: FleetState) -> Cursor:
        """Take what is live into the state, up to the end; return the cursor there."""
        page = begin.page
        self._take(page, state)
        while page.cursor < begin.end:
            page = self._page(at := page.cursor)
            if page.cursor == at:  # the last of them are gone
                return Cursor(begin.end, page.cursor.incarnation)
            self._take(page, state)
        return page.cursor

    def _take(self, page: Batch, state: FleetState) -> None:
        """Take in a page. It is verified: its own key vouches for it, as long as that is good."""
        by_signer = groupby(page, lambda one: signer_of((one.signature or "").encode()))
        for signer, some in by_signer:
            sealer = signer if self.trust else ""
            state.fold_keyed(one for one in map(partial(_keyed, sealer=sealer), some) if one)

    def _page(self, since: int) -> Batch:
        """Return what comes after a cursor; an entry that no sidecar wrote replaces nothing."""
        while True:
            try:
                return self._reading.read(self._client, since, PAGE)
            except ForeignEntry as foreign:
                since = foreign.cursor


def _believed(trust: Trust, stream: str, row: Entry, sealer: str) -> None:
    trust.check(stream, row.id, row.fields, sealer=sealer)


def _keyed(one: Notification, sealer: str) -> Keyed | None:
    """Return it with what it replaces; None for what replaces nothing."""
    subject = subject_of(one.tenant_id, one.stack_id, one.artifact_ref)
    if subject is None:
        return None
    entry = Entry(EntryId.of_version(one.control_version), one.to_fields())
    return Keyed(subject, to_line(entry).rstrip(), sealer)
