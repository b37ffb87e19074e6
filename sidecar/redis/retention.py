"""Trimming: what is old, or too much, and what nobody needs any more.

Each stream has a *floor* below which nobody needs anything: what a consumer group has yet to read
or to acknowledge, what the relay has yet to finish, what a registered reader has yet to pass, and,
of the notifications, what is younger than the deduplication window, for a duplicate of it would
otherwise be a duplicate of nothing; with an archive, what is not in it yet. A policy never reaches
above the floor. How far trimming goes is noted before it goes there, so that a reader never takes
for unread what it never saw.

Trimming needs no fence: floors only rise, and what lies below them nobody needs, whoever trims.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis.commands.core import Script

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.readers import Reader, registered
from sidecar.redis.scan import entry_id_of, server_time_us
from sidecar.redis.source import FIRST, id_after, id_before, id_pair

ROUND: Final = 1000
"""Entries trimmed in one go: more would keep Redis from its other clients."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long a stream is kept. Without either limit, for ever."""

    age_s: float | None = None
    length: int | None = None


def parse_policy(text: str) -> Policy:
    """Read `never`, or one or both of `age=7d` and `length=1000000`. Raises `ValueError`."""
    from sidecar.settings import seconds

    if text.strip() == "never":
        return Policy()
    age_s, length = None, None
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name == "age":
            age_s = seconds(value)
        elif name == "length" and re.fullmatch("[0-9]{1,15}", value):
            length = int(value)
        else:
            raise ValueError(
                f"{part.strip()!r} is no limit; write age=7d, length=1000000, both with a comma,"
                " or never"
            )
    return Policy(age_s, length)


class Trimmed(NamedTuple):
    """What trimming one stream came to."""

    stream: str
    removed: int
    more: bool
    """Whether there is more to trim at once."""


class Retention:
    """Trims the streams of one control stream's keys. Methods raise redis-py's errors."""

    def __init__(
        self,
        control: Client,
        notify: Client,
        keys: Keys,
        policies: Mapping[str, Policy],
        *,
        dedup_window_s: float,
        archived_first: bool = False,
    ) -> None:
        """`policies` are those of `control`, `notifications` and `dead`.

        With `archived_first`, what is not in the archive yet stays.
        """
        self._control = control
        self._notify = notify
        self._keys = keys
        self._policies = policies
        self._dedup_window_s = dedup_window_s
        self._archived_first = archived_first
        self._note = _script(notify, "note_trimmed")

    def trim(self) -> list[Trimmed]:
        """Trim each stream a little."""
        keys = self._keys
        return [
            self._trim(self._control, keys.control, "control", self._control_floor()),
            self._trim(self._notify, keys.notifications, "notifications", self._reader_floor()),
            self._trim(self._notify, keys.dead, "dead", None),
        ]

    def readers(self) -> list[Reader]:
        """Return the registered readers of the notifications."""
        return registered(self._notify, self._keys)

    def _control_floor(self) -> str:
        """Return the lowest entry that the relay may not have finished."""
        low: Any = self._notify.get(self._keys.low)
        return low.decode() if low else FIRST

    def _reader_floor(self) -> str:
        """Return the lowest notification that a reader needs, or deduplication."""
        now_us = server_time_us(self._notify)
        remembered = max(0, now_us - int(self._dedup_window_s * 1e6))
        passed = [r.control_version + 1 for r in self.readers() if not r.expired]
        return entry_id_of(min([remembered, *passed]))

    def _trim(self, client: Client, stream: str, policy: str, floor: str | None) -> Trimmed:
        first_kept = self._first_kept(client, stream, self._policies[policy], floor)
        last = _last_to_go(client, stream, first_kept) if first_kept else None
        if last is None:
            return Trimmed(stream, 0, more=False)
        self._note(keys=[self._keys.trimmed], args=[stream, *id_pair(last)])
        removed: Any = client.xtrim(stream, minid=id_after(last), approximate=False)
        return Trimmed(stream, int(removed), more=int(removed) >= ROUND)

    def _first_kept(
        self, client: Client, stream: str, policy: Policy, floor: str | None
    ) -> str | None:
        """Return the lowest ID that stays; None when all do."""
        wanted = []
        if policy.age_s is not None:
            cutoff_us = server_time_us(client) - int(policy.age_s * 1e6)
            wanted.append(f"{max(0, cutoff_us) // 1000}-0")
        if policy.length is not None:
            excess: Any = client.xlen(stream)
            last = _oldest(client, stream, int(excess) - policy.length)
            wanted += [id_after(last)] if last else []
        if not wanted:
            return None
        floors = [*_group_floors(client, stream), *([floor] if floor else [])]
        if self._archived_first:
            archived: Any = self._notify.hget(self._keys.archived, stream)
            floors.append(id_after(archived.decode()) if archived else FIRST)
        return min([max(wanted, key=id_pair), *floors], key=id_pair)


def _last_to_go(client: Client, stream: str, first_kept: str) -> str | None:
    """Return the last entry below `first_kept`, or of so many as go in one round."""
    last = _oldest(client, stream, ROUND)
    if last is None or id_pair(last) < id_pair(first_kept):
        return last
    found: Any = client.xrevrange(stream, id_before(first_kept), "-", count=1)
    return str(found[0][0].decode()) if found else None


def _oldest(client: Client, stream: str, n: int) -> str | None:
    """Return the ID of the n-th oldest entry, of the thousandth at most; None without any."""
    if n <= 0:
        return None
    found = _script(client, "oldest")(keys=[stream], args=[min(n, ROUND)])
    return str(found.decode()) if found else None


def _group_floors(client: Client, stream: str) -> list[str]:
    """Return, for each consumer group, the lowest entry that it may still need."""
    if not client.exists(stream):
        return []
    floors = []
    groups: Any = client.xinfo_groups(stream)
    for group in groups:
        pending: Any = client.xpending(stream, group["name"])
        unread = id_after(group["last-delivered-id"].decode())
        floors.append(
            min(pending["min"].decode(), unread, key=id_pair) if pending["min"] else unread
        )
    return floors


def _script(client: Client, name: str) -> Script:
    return client.register_script(files("sidecar.redis").joinpath("lua", f"{name}.lua").read_text())
