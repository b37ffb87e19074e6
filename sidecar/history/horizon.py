"""How long the archive is kept: what is older than its horizon goes, and has *expired* then.

Of the notifications stays what is after the newest state before the horizon, and that state: so the
state at the horizon, and at any time since, is known. Records of what people did stay, too.

Before anything goes, a ref beside the segments tells up to where it may be gone (`mark_of`). So a
reader is told, and makes nothing up, whenever the one that removes is killed; the next one
continues. A state goes only when a newer one was read whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sidecar.history.archive import ArchiveHistory, Name, mark_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.live import LiveHistory
from sidecar.redis.times import EARLIEST_MS
from sidecar.stores import explained
from sidecar.wire.ids import FIRST, LAST, EntryId
from store import VersionedStore


def expire(
    store: VersionedStore, live: LiveHistory, stream: str, horizon: EntryId
) -> Iterator[str]:
    """Remove what the archive has of a stream before `horizon`; yield each ref that went.

    What Redis still has, and what a registered reader has yet to pass, stays. IDs that are no times
    tell no age, so what has them stays. Raises `Unreachable` and `SidecarError`.
    """
    archive = ArchiveHistory(store, live.streams)
    bound, states = _states(archive, stream, min(horizon, _needed(live, stream)))
    going = _going(archive.names(stream), bound)
    with explained():
        marks = _marked(archive, stream, max((name.last for name in going), default=FIRST))
        for ref in (*(name.ref for name in going), *states, *marks):
            store.delete(ref)
            yield ref


def _marked(archive: ArchiveHistory, stream: str, last: EntryId) -> list[str]:
    """Tell that all up to `last` may be gone; return the marks that are outdated."""
    contents = archive.contents(stream)
    expired = max(last, contents.expired)
    if expired > contents.expired:
        archive.store.put(mark_of(archive.streams.notifications, stream, expired), b"", b"")
    gone = (one.ref for _, one in contents.gone if one.last <= expired)
    return [*(ref for at, ref in contents.marks.items() if at < expired), *gone]


def _states(archive: ArchiveHistory, stream: str, bound: EntryId) -> tuple[EntryId, list[str]]:
    """Return up to where nothing of a stream is needed, and the refs of states that are not.

    Of notifications that is the last one in the newest state up to `bound`; FIRST where there is
    none. Raises `Damaged`.
    """
    if stream != archive.streams.notifications:
        return bound, []
    newest = archive.checkpoint(bound)
    if newest is None:
        return FIRST, []
    for _ in newest.keyed():
        pass  # its end tells whether it is whole
    refs = checkpoints_of(archive.store, archive.streams.notifications)
    return newest.last, [refs[last] for last in sorted(refs) if last < newest.last]


def _needed(live: LiveHistory, stream: str) -> EntryId:
    """Return the ID up to which nobody needs a stream in Redis any more."""
    reach = live.reach(stream)
    needed = [reach.first.before] if reach and reach.first else []
    if stream == live.streams.notifications:
        needed += [
            EntryId.of_version(one.control_version) for one in live.readers() if not one.expired
        ]
    return min(needed, default=LAST)


def _going(names: Iterable[Name], bound: EntryId) -> list[Name]:
    """Return the segments that lie up to `bound`, and overlap none that stays; oldest first."""
    going = []
    for name in sorted(names, key=lambda one: one.last, reverse=True):
        if name.last > bound or name.last.ms < EARLIEST_MS:
            bound = min(bound, name.first.before)
        else:
            going.append(name)
    return going[::-1]
