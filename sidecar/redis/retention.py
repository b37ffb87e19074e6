"""Trimming: what is old, or too much, and what nobody needs any more.

Each stream has a *floor* below which nobody needs anything: what a consumer group has yet to read
or to acknowledge, what the relay has yet to finish, what a registered reader has yet to pass, and,
of the notifications, what is younger than the deduplication window, for a duplicate of it would
otherwise be a duplicate of nothing; with an archive, what is not in it yet. A policy never reaches
above the floor. How far trimming goes is noted before it goes there, so that a reader never takes
for unread what it never saw.

Trimming needs no fence: floors only rise, and nobody needs what lies below them, so that any worker
may trim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from sidecar.redis.anchors import Anchor, anchors_of
from sidecar.redis.archived import archived_to
from sidecar.redis.client import Client
from sidecar.redis.damage import check_archived, low_of
from sidecar.redis.ends import look
from sidecar.redis.groups import position_of
from sidecar.redis.keepers import Keeper, keepers
from sidecar.redis.keys import Keys, groups_of
from sidecar.redis.memory import memories
from sidecar.redis.readers import Readers, swept
from sidecar.redis.room import check_room
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.scripts import script_of
from sidecar.redis.source import Entry
from sidecar.redis.times import age_s
from sidecar.redis.trimmed import note_trimmed
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.units import seconds

KINDS: Final = ("control", "notifications", "dead")
ROUND: Final = 1000
"""Entries trimmed in one go: more would keep Redis from its other clients."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long a stream is kept. Without any limit, for ever."""

    age_s: float | None = None
    length: int | None = None
    full_s: float | None = None
    """The age that is kept in place of `age_s` while the server is nearly full."""

    def __str__(self) -> str:
        """Return it as it is written."""
        age = [] if self.age_s is None else [f"age={self.age_s:g}s"]
        length = [] if self.length is None else [f"length={self.length}"]
        full = [] if self.full_s is None else [f"full={self.full_s:g}s"]
        return ",".join(age + length + full) or "never"


def parse_policy(text: str) -> Policy:
    """Read `never`, or some of `age=7d`, `length=1000000`, `full=1d`. Raises `ValueError`."""
    policy = Policy()
    for part in text.split(",") if text.strip() != "never" else ():
        name, _, value = part.strip().partition("=")
        if name == "age" and re.search("[a-z]", value):
            policy = replace(policy, age_s=seconds(value))
        elif name == "full" and re.search("[a-z]", value):
            policy = replace(policy, full_s=seconds(value))
        elif name == "length" and re.fullmatch("[0-9]{1,15}", value):
            policy = replace(policy, length=int(value))
        else:
            raise ValueError(
                "that is no limit; write age=7d (with the unit), length=1000000, full=1d (the age"
                " while Redis is nearly full), several with commas, or never"
            )
    if policy.full_s is not None and policy.age_s is not None and policy.full_s > policy.age_s:
        raise ValueError("full is for less than age: what is kept while Redis is nearly full")
    return policy


class Trimmed(NamedTuple):
    """What trimming one stream came to."""

    stream: str
    removed: int
    more: bool
    """Whether there is more to trim at once."""
    blocked_by: frozenset[str] = frozenset()
    """Who needs what the policy would trim now: a consumer `group`, a `reader`, the `archive`,
    `unfinished` entries, or the deduplication `window`; or `ids` that tell no age."""
    early: bool = False
    """Whether it was trimmed sooner than usual, for the server is nearly full."""


class Retention:
    """Trims the streams of one control stream's keys.

    Methods raise `RedisError`, and `Damaged` where nobody can tell what is needed yet.
    """

    def __init__(
        self, control: Client, notify: Client, keys: Keys, policies: Mapping[str, Policy], *,
        dedup_window_s: float, archived_first: bool = False,
    ) -> None:  # fmt: skip
        """`policies` are those of `control`, `notifications` and `dead`.

        With `archived_first`, what is not in the archive yet stays.
        """
        self._control = control
        self._notify = notify
        self._keys = keys
        self._policies = policies
        self._dedup_window_s = dedup_window_s
        self._archived_first = archived_first

    @property
    def streams(self) -> dict[str, str]:
        """Which streams are trimmed, by `KINDS`."""
        keys = self._keys
        return dict(zip(KINDS, (keys.control, keys.notifications, keys.dead), strict=True))

    def check_room(self, kind: str) -> None:
        """Raise `NoRoom` where one stream takes no more entries."""
        check_room(self._client_of(kind), self.streams[kind], kind)

    def keepers(self, kind: str) -> list[Keeper]:
        """Return whose groups keep one stream from being trimmed."""
        own = groups_of(self._keys) if kind == "control" else ()
        return keepers(self._client_of(kind), self.streams[kind], own)

    def trim_one(self, kind: str) -> Trimmed:
        """Trim one stream a little."""
        floors: dict[str, EntryId] = {}
        if kind == "control":
            floors["unfinished"] = self._control_floor()
        elif kind == "notifications":
            floors = self._notification_floors()
        return self._trim(self._client_of(kind), self.streams[kind], kind, floors)

    def readers(self) -> Readers:
        """Return the registered readers of the notifications."""
        return swept(self._notify, self._keys)

    def _client_of(self, kind: str) -> Client:
        return self._control if kind == "control" else self._notify

    def _control_floor(self) -> EntryId:
        """Return the lowest entry that the relay may not have finished.

        A stream without the relay's group, that never came as far as what is noted of it, or has
        not the anchors that are, is another than that one: of it nothing may be finished yet.
        """
        low, stream = low_of(self._notify, self._keys) or FIRST, self._keys.control
        info = stream_info(self._control, stream)
        position = position_of(self._control, stream, self._keys.group)
        if info is None or position is None:
            return FIRST
        beyond = max(low.before, position)
        return FIRST if beyond > info.last_id else self._anchored(low)

    def _anchored(self, low: EntryId) -> EntryId:
        """Return `low`, or up to where the stream has anchors if it has not the newest."""
        anchors = anchors_of(self._notify, self._keys)
        if not anchors or self._is_there(anchors[0]):  # an older release noted none
            return low
        older = (one.id.after for one in anchors[1:] if self._is_there(one))
        return next(older, FIRST)

    def _is_there(self, anchor: Anchor) -> bool:
        stream = self._keys.control
        found: Any = self._control.xrange(stream, anchor.id, anchor.id)
        entry = Entry(anchor.id, found[0][1]) if found else None
        return anchor.is_in(look(self._control, stream, anchor.id), entry)

    def _notification_floors(self) -> dict[str, EntryId]:
        """Return the lowest notification that a reader needs, and deduplication."""
        now_us = server_time_us(self._notify)
        remembered = max(0, now_us - int(self._dedup_window_s * 1e6))
        floors = {"window": EntryId.of_version(remembered)}
        passed = [r.control_version + 1 for r in self.readers().good if not r.expired]
        return floors | ({"reader": EntryId.of_version(min(passed))} if passed else {})

    def _trim(
        self, client: Client, stream: str, policy: str, floors: dict[str, EntryId]
    ) -> Trimmed:
        """Note how far it goes, then go there, or less far where a group came meanwhile.

        `floors` are the lowest entries that are needed, by whom, whatever groups need.
        """
        limits, early = self._limits(client, policy)
        wanted = max(_wanted(client, stream, limits), default=None)
        if wanted is None:
            untold = {"ids"} if limits.age_s is not None and limits.length is None else ()
            return Trimmed(stream, 0, False, frozenset(untold))  # noqa: FBT003 -- no more
        if self._archived_first:
            floors["archive"] = self._archive_floor(client, stream)
        kept = min([wanted, *floors.values()])
        group = self._keys.group if policy == "control" else ""
        below = _below(client, stream, kept, group, trim=False)
        if below.last is None:
            return Trimmed(stream, 0, False, _blockers(client, stream, wanted, floors))  # noqa: FBT003 -- no more
        note_trimmed(self._notify, self._keys, stream, below.last, below.gone)
        removed = _below(client, stream, below.last.after, group, trim=True).removed
        return Trimmed(stream, removed, more=removed > 0 and below.more, early=early)

    def _limits(self, client: Client, policy: str) -> tuple[Policy, bool]:
        """Return what holds now, and whether that is less than usual."""
        usual = self._policies[policy]
        if usual.full_s is None or not any(m.is_nearly_full for m in memories([("", client)])):
            return usual, False
        return replace(usual, age_s=usual.full_s), True

    def _archive_floor(self, client: Client, stream: str) -> EntryId:
        check_archived(self._notify, self._keys, stream)
        archived = archived_to(client, self._notify, self._keys, stream)
        return archived.after if archived else FIRST


def _blockers(
    client: Client, stream: str, wanted: EntryId, floors: Mapping[str, EntryId]
) -> frozenset[str]:
    """Return who needs the first entry, though the policy wants it trimmed; nothing could be."""
    info = stream_info(client, stream)
    first = info.first_id if info else None
    if first is None or first >= wanted:
        return frozenset()
    return frozenset(by for by, floor in floors.items() if floor <= first) or frozenset({"group"})


def _wanted(client: Client, stream: str, policy: Policy) -> Iterator[EntryId]:
    """Yield by each limit of a policy the lowest ID that it keeps."""
    if policy.age_s is not None:
        now_us = server_time_us(client)
        cutoff = EntryId.of(max(0, now_us - int(policy.age_s * 1e6)) // 1000)
        if _tells_age(client, stream, cutoff, now_us):
            yield cutoff
    if policy.length is not None:
        length: Any = client.xlen(stream)
        last = _oldest(client, stream, int(length) - policy.length)
        if last:
            yield last.after


def _tells_age(client: Client, stream: str, cutoff: EntryId, now_us: int) -> bool:
    """Tell whether an ID below `cutoff` is of something old. Of an empty stream all are.

    A producer's row numbers and seconds are not of 1970. What comes before an old entry is older.
    """
    found: Any = client.xrevrange(stream, cutoff.before, FIRST, count=1)
    found = found or client.xrange(stream, FIRST, LAST, count=1)
    return not found or age_s(EntryId(found[0][0].decode()), now_us) is not None


class _Below(NamedTuple):
    """What goes of a stream in one round."""

    removed: int
    last: EntryId | None
    """The highest that goes; None without any."""
    more: bool
    """Whether more may go in another round."""
    gone: int | None
    """How many of all that the stream ever had are gone then; None before Redis 7.0."""


def _below(client: Client, stream: str, kept: EntryId, group: str, *, trim: bool) -> _Below:
    """Trim a round of what lies below `kept` and no group needs, or only look.

    A stream without `group`, if that is given, is another than the one that was looked at.
    """
    args: list[str | int] = [kept, ROUND, int(trim), group]
    answer: Any = script_of(client, "trim")(keys=[stream], args=args)
    gone = int(answer[3]) if answer[3] else None
    return _Below(int(answer[0]), EntryId.read(answer[1]), bool(answer[2]), gone)


def _oldest(client: Client, stream: str, n: int) -> EntryId | None:
    """Return the ID of the n-th oldest entry, or of one before it where many are to be read: of the
    thousandth at most, or of huge ones of fewer; None without any.
    """
    if n <= 0:
        return None
    found = script_of(client, "oldest")(keys=[stream], args=[min(n, ROUND)])
    return EntryId(found.decode()) if found else None
