"""What can be wrong with the streams, and with the keys, groups and readers beside them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from sidecar import __version__
from sidecar.errors import UsageError
from sidecar.ops.doctor.finding import Check, Level, Told, parted
from sidecar.ops.status import Status
from sidecar.redis.beside import second
from sidecar.redis.client import Side, check_stream
from sidecar.redis.damage import garbage, misplaced, or_else, trimmed_of
from sidecar.redis.errors import translated
from sidecar.redis.fitness import check_format, check_letters, check_owner
from sidecar.redis.groups import group_of
from sidecar.redis.halts import BY_ITSELF, Halt
from sidecar.redis.holding import OURS
from sidecar.redis.keys import CONSUMER, Keys
from sidecar.redis.lag import lag_of
from sidecar.redis.members import damaged_workers
from sidecar.redis.readers import Reader, Readers, registered
from sidecar.redis.rights import LACKS, UNKNOWN, refused
from sidecar.redis.room import without_room
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.wire.ids import HIGHEST, HIGHEST_VERSION
from sidecar.wire.moments import rfc3339, span, time_us
from sidecar.wire.trust import Trust
from sidecar.wire.urls import redact
from sidecar.worker.settings import Settings

CLOCK_BACK_S: Final = 60.0
LONG_S: Final = 86_400
"""For so long a tenant may be paused before that is an error."""
_GRANT: Final = (
    "ask as the worker's user, correct a mistyped stream's name, or grant what the user `sidecar`"
    " has in deploy/redis/users.acl, then ACL LOAD"
)
_WHOLE: Final = "do not rename or forbid commands; use Redis 6.2, Valkey 7.2 or newer, whole"
_AGAIN: Final = (
    "find out who did it, and have producers send again what is not published; then end this"
    " warning, while they rest:"
)


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of a deployment, which share one notification stream."""

    control: Side
    notify: Side
    keys: list[Keys]
    settings: Settings

    @property
    def first(self) -> Keys:
        """The keys of the first control stream."""
        return self.keys[0]


@dataclass(frozen=True, slots=True)
class Seen:
    """The streams, and what `status` says of them."""

    streams: Streams
    status: Status


# --- what has to be right before more can be asked ------------------------------------------------


def _by_key(names: Iterable[str]) -> str:
    """Return commands with their keys, each key once."""
    found: dict[str, list[str]] = {}
    for name in names:
        command, _, key = name.partition(" on ")
        found.setdefault(key, []).append(command)
    return "; ".join(", ".join(each) + (key and f" on {key}") for key, each in found.items())


def _rights(streams: Streams, wanted: str) -> Iterator[Told]:
    found: dict[str, list[str]] = {}
    for one in streams.keys:
        for url, why, what in refused(streams.control, streams.notify, one):
            if why == wanted:
                found.setdefault(redact(url), []).append(what)
    for url, names in found.items():
        each = _by_key(dict.fromkeys(names))
        if wanted == LACKS:
            yield Told(f"the user of {url} {LACKS}: {each}", _GRANT)
        else:
            yield Told(f"{url} {UNKNOWN}: {each}", _WHOLE)


def _kinds(streams: Streams) -> Iterator[Told]:
    control, notify = streams.control, streams.notify
    wanted = [(control.at(one.control), control.url, one.control) for one in streams.keys]
    wanted += [(notify.client, notify.url, name)
               for name in (streams.first.notifications, streams.first.dead)]  # fmt: skip
    for client, url, name in wanted:
        try:
            check_stream(client, url, name)
        except UsageError as error:
            yield parted(error)


# --- keys and names -------------------------------------------------------------------------------


def _damaged(seen: Seen) -> Iterator[Told]:
    client, streams = seen.streams.notify.client, seen.streams
    found: list[Exception] = []
    for one in streams.keys:
        found += [*misplaced(client, one), *garbage(client, one)]
    found += or_else([], partial(damaged_workers, client, streams.first))
    found += or_else(Readers([], []), partial(registered, client, streams.first)).bad
    for said in dict.fromkeys(map(str, found)):
        what, _, fix = said.partition(": ")
        yield Told(what, fix)


def _no_room(seen: Seen) -> Iterator[Told]:
    streams = seen.streams
    yield from map(parted, without_room(streams.control, streams.notify, streams.keys))


def _owner(seen: Seen) -> Iterator[Told]:
    notify, keys = seen.streams.notify, seen.streams.first
    for check in (check_owner, check_letters):
        try:
            check(notify.client, notify.url, keys)
        except UsageError as error:
            yield parted(error)


def _format(seen: Seen) -> Iterator[Told]:
    notify = seen.streams.notify
    try:
        check_format(notify.client, notify.url, seen.streams.first)
    except UsageError as error:
        yield parted(error)


def _slip(seen: Seen) -> Iterator[Told]:
    for one in seen.streams.keys:
        try:
            _second(seen.streams, one)
        except UsageError as error:
            yield parted(error)


def _deployment(seen: Seen) -> Iterator[Told]:
    for one in seen.streams.keys:
        try:
            said = _second(seen.streams, one)
        except UsageError:
            continue
        if said:
            yield Told(said.partition(";")[0], "correct --notify-stream, unless it is meant")


def _second(streams: Streams, keys: Keys) -> str:
    control, notify = streams.control, streams.notify
    with translated(control.url):
        return second(
            control.at(keys.control), notify.client, keys,
            wanted=streams.settings.second_deployment,
        )  # fmt: skip


def _names(seen: Seen) -> Iterator[Told]:
    yield from map(parted, seen.status.unknown)


# --- groups and entries ---------------------------------------------------------------------------


def _group_gone(seen: Seen) -> Iterator[Told]:
    for one in seen.status.streams:
        if one.exists and not one.group and one.lowest_unfinished:
            yield Told(
                f"the group of the workers on {one.stream} is gone",
                "let a worker run: it makes the group again at the lowest unfinished entry; find"
                " out who destroyed it",
            )


def _position(seen: Seen) -> Iterator[Told]:
    for one in seen.status.streams:
        if one.position_beyond_end:
            yield Told(
                f"the group's position on {one.stream} was set beyond its end",
                "let a worker run: it sets the position back; find out who used XGROUP SETID",
            )


def _consumers(seen: Seen) -> Iterator[Told]:
    for one in seen.status.streams:
        for name, count in one.pending_by_consumer.items():
            if name != CONSUMER:
                yield Told(
                    f"{count:,} entries of {one.stream} are pending under the consumer {name!r}",
                    "have that program use a group of its own; a worker takes the entries over",
                )


def _groups(seen: Seen) -> Iterator[Told]:
    for one in seen.status.kept:
        what, _, fix = str(one).rpartition("; ")
        yield Told(what, fix)


def _times(seen: Seen) -> Iterator[Told]:
    for one in seen.status.streams:
        if not one.ids_are_times and not (one.last_id and one.last_id.ms >= HIGHEST):  # no room
            yield Told(
                f"the newest entry IDs of {one.stream} are not of the server's clock",
                "have the producer append with *, or trim by length: --trim-control length=…",
            )


def _lost_unread(seen: Seen) -> Iterator[Told]:
    for one in seen.streams.keys:
        client, name = seen.streams.control.at(one.control), one.control
        group = group_of(client, name, one.group)  # before the other: what comes after is no loss
        info = stream_info(client, name)
        if group and info and group.get("lag"):
            waiting = lag_of(client, one, group, info) or 0
            position, read = group["last-delivered-id"].decode(), (info.added or 0) - waiting
            if (lost := int(group["lag"]) - waiting) > 0:
                yield Told(
                    f"{lost:,} entries of {name} were trimmed or deleted before a worker read them",
                    f"{_AGAIN} `XGROUP SETID {shlex.join((name, one.group))} {position}"
                    f" ENTRIESREAD {read}`",
                )


def _halted(seen: Seen) -> Iterator[Told]:
    letters = "see `sidecar dead ls`, set right what it says, then `sidecar resume`"
    for one in seen.status.streams:
        if one.halt:
            yield Told(
                f"{one.stream} is halted since {one.halt.since} by {one.halt.by}:"
                f" {one.halt.reason}",
                letters if one.halt.by == BY_ITSELF else "ask them; then `sidecar resume`",
            )


def _tenant_paused(seen: Seen) -> Iterator[Told]:
    return _paused(seen, is_long=False)


def _paused_long(seen: Seen) -> Iterator[Told]:
    return _paused(seen, is_long=True)


def _paused(seen: Seen, *, is_long: bool) -> Iterator[Told]:
    long_ago_us = server_time_us(seen.streams.notify.client) - LONG_S * 10**6
    for one in seen.status.streams:
        for tenant, pause in one.paused.items():
            if ((time_us(pause.since) or 0) < long_ago_us) != is_long:
                continue
            yield Told(
                f"tenant {tenant!r} of {one.stream} is paused since {pause.since} by {pause.by}:"
                f" {pause.reason}; {one.pending:,} entries of the stream wait, or are at work",
                _resumed(tenant, one.stream, pause),
            )


def _resumed(tenant: str, stream: str, pause: Halt) -> str:
    """Say how a paused tenant continues."""
    if pause.reason.startswith(OURS):  # no resume lifts it
        return (
            "ask them: it is being erased; if that run was killed, `sidecar tenant erase"
            f" {shlex.quote(tenant)} --reason … --continue` does the rest"
        )
    first = f"see `sidecar dead ls --tenant {shlex.quote(tenant)}`, set right what it says"
    return (
        f"{first if pause.by == BY_ITSELF else 'ask them'}; then"
        f" `sidecar resume --tenant {shlex.quote(tenant)} --stream {shlex.quote(stream)}`"
    )


def _forgot(seen: Seen) -> Iterator[Told]:
    window_us = int(seen.streams.settings.dedup_window_s * 1e6)
    since_us = server_time_us(seen.streams.notify.client) - window_us
    for one in [each for each in seen.status.forgotten if each.noticed_us > since_us][:1]:
        yield Told(f"Redis forgot: {one}", "run `sidecar audit`, then `sidecar audit --repair`")


def _clock_back(seen: Seen) -> Iterator[Told]:
    last = seen.status.notifications
    age_s = last.last_age_s or 0
    if age_s < -CLOCK_BACK_S and (last.last_control_version or 0) < HIGHEST_VERSION:
        yield Told(
            f"the newest notification is {span(-age_s)} ahead of Redis's clock",
            "set Redis's clock right; versions go on rising by one a notification until it has"
            " caught up",
        )


# --- readers, retention, workers ------------------------------------------------------------------


def _readers(seen: Seen) -> list[Reader]:
    client, keys = seen.streams.notify.client, seen.streams.first
    return or_else(Readers([], []), partial(registered, client, keys)).good


def _expired_readers(seen: Seen) -> Iterator[Told]:
    for one in _readers(seen):
        if one.expired:
            yield Told(
                f"the reader {one.name!r} was last heard of at {rfc3339(one.seen_us)}, and expired",
                "start it, or DEL its key if it is gone for good",
            )


def _lost_readers(seen: Seen) -> Iterator[Told]:
    client, keys = seen.streams.notify.client, seen.streams.first
    mark = or_else(None, partial(trimmed_of, client, keys, keys.notifications))
    for one in _readers(seen):
        if mark and 0 < one.control_version < mark.control_version:
            yield Told(
                f"the reader {one.name!r} has passed {one.control_version}, and notifications up to"
                f" {mark.control_version} are trimmed",
                "have it begin from a snapshot, or from the archive; then raise"
                " --trim-notifications above its longest absence",
            )


def _holding_readers(seen: Seen) -> Iterator[Told]:
    policy = seen.streams.settings.trim_notifications
    return _behind(seen, policy.age_s, f"--trim-notifications {policy}", "is not trimmed")


def _holding_the_archive(seen: Seen) -> Iterator[Told]:
    keep_s = seen.streams.settings.archive_keep_s
    named = "" if keep_s is None else f"--archive-keep {span(keep_s)}"
    return _behind(seen, keep_s, named, "stays in the archive")


def _behind(seen: Seen, age_s: float | None, named: str, stays: str) -> Iterator[Told]:
    if age_s is None:
        return
    now_us = server_time_us(seen.streams.notify.client)
    for one in _readers(seen):
        if not one.expired and 0 < one.control_version < now_us - age_s * 1e6:
            behind = span((now_us - one.control_version) / 1e6)
            yield Told(
                f"the reader {one.name!r} is {behind} behind, more than {named}",
                f"find out why it does not call passed(); what it has not passed {stays}",
            )


def _window(seen: Seen) -> Iterator[Told]:
    settings = seen.streams.settings
    age_s = settings.trim_notifications.age_s
    if age_s is not None and age_s < settings.dedup_window_s:
        yield Told(
            f"--trim-notifications age={span(age_s)} is shorter than --dedup-window"
            f" {span(settings.dedup_window_s)}",
            "make the window shorter, or the age longer: what is in the window is not trimmed",
        )


def _versions(seen: Seen) -> Iterator[Told]:
    by_version: dict[str, list[str]] = {}
    for one in seen.status.workers:
        by_version.setdefault(one.version or "an older release", []).append(one.name)
    if by_version.keys() - {__version__}:
        each = "; ".join(f"{v}: {', '.join(names)}" for v, names in sorted(by_version.items()))
        yield Told(
            f"workers of other releases than this {__version__} are registered ({each})",
            "update all workers together, and this command with them",
        )


def _signing(seen: Seen) -> Iterator[Told]:
    by_key: dict[str, list[str]] = {}
    for one in seen.status.workers:
        if one.signs is not None:  # an older release, which does not say, is told of by itself
            by_key.setdefault(one.signs, []).append(one.name)
    if len(by_key) > 1:
        each = "; ".join(
            f"{key or 'no key'}: {', '.join(names)}" for key, names in sorted(by_key.items())
        )
        yield Told(
            f"the workers of {seen.streams.first.notifications} do not all sign with one key"
            f" ({each})",
            "start each with the same --sign-key; while that is replaced, restart those that lack"
            " the new one (docs/trust.md)",
        )
    directory = seen.streams.settings.trust
    trust = Trust(directory) if directory else None
    for key, names in sorted(by_key.items()):
        if trust and key and (why := trust.lacks(key)):
            yield Told(
                f"{', '.join(names)} signs with the key {key}, which is not trusted: {why}",
                f"add its public half to {directory}, and to the directory of each who verifies,"
                " or start that worker with another --sign-key (docs/trust.md)",
            )


_ERROR, _WARNING = Level.ERROR, Level.WARNING
FIRST: Final[tuple[Check[Streams], ...]] = (
    Check("right-lacks", _ERROR, "the worker stops at the first command that it may not send",
          lambda about: _rights(about, LACKS)),
    Check("command-lacks", _ERROR, "the worker cannot do without these commands",
          lambda about: _rights(about, UNKNOWN)),
    Check("no-stream", _ERROR, "a worker refuses to start", _kinds),
)  # fmt: skip
CHECKS: Final[tuple[Check[Seen], ...]] = (
    Check("damaged-key", _ERROR, "what rests on the key stands still, or begins anew", _damaged),
    Check("no-room", _ERROR, "above the highest ID no entry can follow", _no_room),
    Check("newer-format", _ERROR, "a worker refuses to start", _format),
    Check("other-owner", _ERROR, "two logs would share their keys; a worker refuses to start",
          _owner),
    Check("mistyped-stream", _ERROR, "a worker refuses to start: all would be published again,"
          " where nobody reads", _slip),
    Check("second-deployment", _WARNING, "all is published again, and what this deployment has not"
          " finished is not trimmed", _deployment),
    Check("wrong-name", _WARNING, "nobody reads or writes what is named", _names),
    Check("group-gone", _WARNING, "until a worker makes it again, nothing is read", _group_gone),
    Check("position-beyond-end", _WARNING, "until a worker sets it back, nothing is read",
          _position),
    Check("foreign-consumer", _WARNING, "what another program reads in the workers' group is late",
          _consumers),
    Check("lost-unread", _WARNING, "their events are not published, and have no dead letter",
          _lost_unread),
    Check("foreign-group", _WARNING, "the stream grows: what a group has not finished is not"
          " trimmed", _groups),
    Check("ids-no-times", _WARNING, "they tell no age: trimming by age leaves them, and the stream"
          " grows", _times),
    Check("halted", _ERROR, "nothing of the stream is published", _halted),
    Check("tenant-paused", _WARNING, "nothing of the tenant is published", _tenant_paused),
    Check("tenant-paused-long", _ERROR, "nothing of the tenant has been published for over a day,"
          " nothing is trimmed beyond what waits, and Redis fills", _paused_long),
    Check("redis-forgot", _WARNING, "events may be missing", _forgot),
    Check("clock-went-back", _WARNING, "times of notifications are wrong, and trimming by age late",
          _clock_back),
    Check("reader-expired", _WARNING, "what it has not read may be trimmed", _expired_readers),
    Check("reader-lost-entries", _ERROR, "that controller has a gap: it missed notifications",
          _lost_readers),
    Check("reader-holds", _WARNING, "the notification stream grows", _holding_readers),
    Check("reader-holds-archive", _WARNING, "the archive is kept for longer than it was meant to",
          _holding_the_archive),
    Check("retention-below-window", _WARNING, "notifications stay longer than they were meant to",
          _window),
    Check("keys-differ", _WARNING, "a controller that verifies stops at what is not signed, or"
          " signed with a key that it does not trust", _signing),
    Check("versions-differ", _WARNING, "workers of two releases side by side are not promised",
          _versions),
)  # fmt: skip
