"""How far a stream is archived, and who archives it.

`{N}:archived` has, by stream, the highest entry ID up to which all lies in the archive. IDs say
nothing of a stream that was deleted and made anew, so `{N}:segments` has beside it, by stream, the
ID with which the last segment ends, a checksum of that entry, when the segment was closed (the
server's clock, microseconds since the epoch) and, where nothing had come after that entry and the
server counts it, how many entries the stream had been given. The mark counts while the stream
agrees.

Other fleets may trim the control stream, too. The group `archive:N` on it keeps them from what is
not archived yet.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.damage import trimmed_of
from sidecar.redis.groups import group_of
from sidecar.redis.keys import Keys
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.scripts import noting, script_of
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, LAST, EntryId

CLAIM_S: Final = 60.0
_SEGMENT: Final = re.compile(rb"(\S+) (\S+) ([0-9]{1,17})(?: ([0-9]{1,17}))?")


def checksum_of(entry: Entry) -> str:
    """Return a checksum of an entry's ID and fields."""
    digest = hashlib.sha256(entry.id.encode())
    for part in (part for pair in entry.fields.items() for part in pair):
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()[:32]


def note_archived(client: Client, notify: Client, keys: Keys, stream: str, last: Entry) -> None:
    """Note that a segment was closed that ends with `last`; `client` leads to the stream.

    Raises `RedisError`.
    """
    words = f"{last.id} {checksum_of(last)} {server_time_us(notify)}"
    info = stream_info(client, stream)
    if info and info.last_id == last.id and info.added is not None:
        words += f" {info.added}"
    note = noting(notify)
    note(keys=[keys.segments], args=[stream, words])  # first: without it the mark counts for less
    note(keys=[keys.archived], args=[stream, last.id])


def archived_to(client: Client, notify: Client, keys: Keys, stream: str) -> EntryId | None:
    """Return up to where all that is in the stream is archived; None when nobody can tell.

    `client` leads to the stream, `notify` to the notifications. Nothing is told of a stream that
    was made anew, nor where someone wrote an ID that is none. Raises `RedisError`.
    """
    noted: Any = notify.hget(keys.archived, stream)
    mark = EntryId.read(noted or b"")
    if mark is None:
        return None
    info = stream_info(client, stream)
    if info is None or info.first_id is None or info.first_id > mark:
        return mark  # nothing is there that it could be wrong about
    found: Any = client.xrange(stream, mark, mark)
    if not found:
        return mark if info.last_id == mark else None
    told: Any = notify.hget(keys.segments, stream)
    words = _SEGMENT.fullmatch(told or b"")
    if words is None or words[1] != noted:
        return mark  # noted by an older release
    return mark if checksum_of(Entry(mark, found[0][1])).encode() == words[2] else None


def nothing_lacks(client: Client, notify: Client, keys: Keys, stream: str, mark: EntryId) -> bool:
    """Tell whether all that the stream was given after `mark` is there, and nothing before it.

    By counting, so false where more had come as `mark` was noted. Before Redis 7, which does not
    count, the note of trimming is believed: what people trim besides goes unseen.
    Clients as `archived_to` takes them. Raises `RedisError`.
    """
    info = stream_info(client, stream)
    if info is None or info.added is None:
        return trimmed_of(notify, keys, stream) == mark
    told: Any = notify.hget(keys.segments, stream)
    words = _SEGMENT.fullmatch(told or b"")
    if words is None or words[4] is None or words[1] != mark.encode():
        return False
    is_behind = info.first_id is None or info.first_id > mark
    return is_behind and info.added - int(words[4]) == info.length


def hold(control: Client, keys: Keys, last: EntryId) -> None:
    """Have nothing trimmed of the control stream behind `last`, by other fleets either.

    They know nothing of this archive, but trim nothing that a group has yet to read. Nobody reads
    through this one. Raises `RedisError`.
    """
    found = group_of(control, keys.control, keys.archivers)
    if found is not None:
        if found["last-delivered-id"] != last.encode():
            control.xgroup_setid(keys.control, keys.archivers, last)
    elif control.exists(keys.control):
        control.xgroup_create(keys.control, keys.archivers, last)


def let_go(control: Client, keys: Keys) -> None:
    """Hold nothing back any more: nobody archives. Raises `RedisError`."""
    if group_of(control, keys.control, keys.archivers) is not None:
        hold(control, keys, LAST)


def is_due(notify: Client, keys: Keys, stream: str, every_s: float) -> bool:
    """Tell whether the last segment was closed so long ago. Raises `RedisError`.

    The first time it is asked counts as one: so the time continues over restarts.
    """
    told: Any = notify.hget(keys.segments, stream)
    words, now_us = _SEGMENT.fullmatch(told or b""), server_time_us(notify)
    if words is None:
        noting(notify)(keys=[keys.segments], args=[stream, f"{FIRST} - {now_us}"])
        return False
    return not 0 <= now_us - int(words[3]) < every_s * 1e6  # a clock that went back counts as long


class Claim:
    """Says who archives a stream, so that two seldom do: it is harmless, and makes double work.

    It runs out by itself after `CLAIM_S`. Methods raise `RedisError`.
    """

    def __init__(self, notify: Client, keys: Keys, stream: str) -> None:
        self._notify, self._key = notify, keys.archiving(stream)
        self._token = secrets.token_hex(8)

    def hold(self) -> bool:
        """Take or keep it; tell whether it is ours."""
        claim = script_of(self._notify, "claim")
        return bool(claim(keys=[self._key], args=[self._token, int(CLAIM_S * 1000)]))

    def release(self) -> None:
        """Give it back, if it is ours."""
        if self._notify.get(self._key) == self._token.encode():
            self._notify.delete(self._key)
