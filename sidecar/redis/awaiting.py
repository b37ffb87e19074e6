"""What became of an event, and waiting for that: woken by its notification or its dead letter.

Where both streams end is noted first, then is looked whether it has ended, and then is read on
from there, blocking: what ends in between is read. After an outage all of it begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice, takewhile
from typing import Any, Final, Literal, NamedTuple

import orjson

from sidecar.redis.client import Client, Side, connect
from sidecar.redis.errors import LoginRefused, Outage, Refused, named, translated
from sidecar.redis.holdups import held_up_by, unfinished
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetter
from sidecar.redis.scan import PAGE, pages_back, stream_info
from sidecar.redis.source import Entry
from sidecar.wire.event import Event, Rejected, decode
from sidecar.wire.event import named as said_by
from sidecar.wire.identity import identity_digest, known_by
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.notification import Notification
from sidecar.wire.reasons import explain, fix_of
from sidecar.wire.subject import CLOCK_SLACK_MS

BLOCK_S: Final = 5.0
"""So long blocks one read. Then is looked whether the streams are still those that were read."""
RETRY_S: Final = 0.2
MOST_LETTERS: Final = 10_000
"""So many of the newest dead letters are looked at."""
_CONTENT_BYTES: Final = 16
"""Before the control_version in the index: what tells an event's content from another's."""


class Outcome(NamedTuple):
    """What became of an event.

    Attributes:
        state: `published`; `duplicate`, of an event that was published before; `dead`; `waiting`.
        event_id: empty of a stack's version that nobody has seen yet.
        control_version: of its notification, or of the one that it duplicates; else 0.
        reason: why it is dead; `detail` says what exactly was wrong, and `fix` how to fix that.
        waits_for: what it waits for, in words for a person.

    """

    state: Literal["published", "duplicate", "dead", "waiting"]
    event_id: str
    control_version: int = 0
    reason: str = ""
    detail: str = ""
    fix: str = ""
    waits_for: str = ""


class Sought(NamedTuple):
    """Which event: by its event_id, or a stack's version. What was sent just now has an origin."""

    event_id: str = ""
    tenant_id: str = ""
    stack_id: str = ""
    version: int = 0
    origin: str = ""
    content: bytes = b""
    """The digest of its content: an earlier event with another one is no duplicate of it."""

    def is_in(self, notification: Notification) -> bool:
        """Tell whether a notification is of it."""
        if self.event_id:
            return notification.event_id == self.event_id
        one = notification.tenant_id, notification.stack_id, notification.version
        return one == (self.tenant_id, self.stack_id, self.version)

    def has_died(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter is of it."""
        if self.origin:
            return letter.origin == self.origin
        return self.is_event(letter.to_entry())

    def is_event(self, fields: Mapping[bytes, bytes]) -> bool:
        """Tell whether a control entry is of it, as far as it can be read."""
        try:
            event: Event | None = decode(fields)[0]
        except Rejected:
            event = None
        if self.event_id or event is None:
            return said_by(event, fields)[1] == (self.event_id or None)
        of = event.tenant_id, event.stack_id, event.version
        return of == (self.tenant_id, self.stack_id, self.version)

    @property
    def since_ms(self) -> int:
        """Before when it cannot have died."""
        entry = Origin(self.origin).entry
        return entry.ms - CLOCK_SLACK_MS if entry else 0

    @property
    def sign(self) -> bytes:
        """What the JSON of its notification has in it, so that no other need be decoded."""
        name, text = ("event_id", self.event_id) if self.event_id else ("stack_id", self.stack_id)
        return orjson.dumps({name: text})[1:-1]


Elsewhere = Callable[[], Outcome | None]
"""Looks where this module does not: in what the index has forgotten, and in the archive."""


class Awaiting:
    """One wait for the end of one event. `keys` has each control stream that it may be in."""

    def __init__(
        self, control: Side, notify_url: str, keys: Sequence[Keys], sought: Sought,
        elsewhere: Elsewhere | None = None,
    ) -> None:  # fmt: skip
        self._control, self._url, self._keys = control, notify_url, keys
        self._sought, self._elsewhere = sought, elsewhere
        self._first = keys[0]
        self._at: dict[str, EntryId] = {}
        """Up to where each outbound stream was read; empty until it was looked."""

    def outcome(self, timeout_s: float) -> Outcome:
        """Return what became of it, `waiting` after `timeout_s` seconds.

        Raises `Unreachable` where Redis is away then, and `UsageError` as `translated`.
        """
        deadline = time.monotonic() + timeout_s
        client = connect(self._url, key=self._first.notifications, block_s=BLOCK_S)
        with translated(self._url), closing(client):
            while True:
                found = self._try(client, deadline)
                if found is not None:
                    return found
                if time.monotonic() >= deadline:
                    return self._still(client)

    def _try(self, client: Client, deadline: float) -> Outcome | None:
        """Look, or read on; after an outage look again. Raises what it is, once it is too late."""
        try:
            if self._at:
                return self._woken(client, deadline - time.monotonic())
            self._at = self._ends(client)
            return self._looked(client)
        except (*Outage, Refused) as error:
            passes = isinstance(named(error), Outage) and not isinstance(error, LoginRefused)
            if not passes or time.monotonic() + RETRY_S >= deadline:
                raise
            self._at = {}
            time.sleep(RETRY_S)
            return None

    def _ends(self, client: Client) -> dict[str, EntryId]:
        streams = self._first.notifications, self._first.dead
        found = {stream: stream_info(client, stream) for stream in streams}
        return {stream: info.last_id if info else FIRST for stream, info in found.items()}

    # --- looking ---------------------------------------------------------------------------------

    def _looked(self, client: Client) -> Outcome | None:
        found = self._indexed(client) if self._sought.event_id else self._notified(client)
        if found or (found := self._buried(client)):
            return found
        if self._sought.origin or self._elsewhere is None:
            return None
        if any(
            unfinished(self._control, client, keys, self._sought.is_event) for keys in self._keys
        ):
            return None
        return self._elsewhere()

    def _indexed(self, client: Client) -> Outcome | None:
        """Return what the deduplication index knows of it."""
        digest = identity_digest(self._sought.event_id)
        known: Any = client.hget(self._first.seen(digest), digest[2:])
        content, version = (known or b"")[:_CONTENT_BYTES], (known or b"")[_CONTENT_BYTES:]
        if not version.isdigit():
            return None
        if self._sought.content not in (b"", content):
            return None  # its own end is a dead letter, and comes
        return self._published(client, int(version))

    def _published(self, client: Client, control_version: int) -> Outcome:
        at = EntryId.of_version(control_version)
        entries: Any = client.xrange(self._first.notifications, at, at)
        origin = (entries[0][1] or {}).get(b"origin", b"") if entries else b""
        return self._of_origin(self._sought.event_id, control_version, origin.decode())

    def _of_origin(self, event_id: str, control_version: int, origin: str) -> Outcome:
        is_other = origin and self._sought.origin not in (
            "",
            origin,
        )  # one that is trimmed: unknown
        return Outcome("duplicate" if is_other else "published", event_id, control_version)

    def _notified(self, client: Client) -> Outcome | None:
        """Look through all notifications: no index knows stacks."""
        for page in pages_back(client, self._first.notifications):
            for entry in page:
                if found := self._of_notification(entry):
                    return found
        return None

    def _buried(self, client: Client) -> Outcome | None:
        """Return the newest dead letter of it, unless it was sent again since and waits."""
        pages = pages_back(client, self._first.dead, page=PAGE // 5)
        newest = islice((entry for page in pages for entry in page), MOST_LETTERS)
        since = takewhile(lambda entry: entry.id.ms >= self._sought.since_ms, newest)
        found = ((entry, self._of_letter(entry)) for entry in since)
        entry, dead = next((one for one in found if one[1]), (None, None))
        if entry is None or self._sought.origin:
            return dead
        return None if self._is_sent_again(client, DeadLetter(entry.id, entry.fields)) else dead

    def _is_sent_again(self, client: Client, letter: DeadLetter) -> bool:
        """Tell whether it is there once more: its own entry may lie above an unfinished one."""
        died = Origin(letter.origin)
        return any(
            unfinished(
                self._control, client, keys, self._sought.is_event,
                died.entry.after if died.entry and died.stream == keys.control else FIRST,
            )
            for keys in self._keys
        )  # fmt: skip

    # --- being woken -----------------------------------------------------------------------------

    def _woken(self, client: Client, left_s: float) -> Outcome | None:
        """Wait for what comes, and return it if it ends the event."""
        block_ms = max(1, int(min(left_s, BLOCK_S) * 1000))
        answer: Any = client.xread(dict(self._at), count=PAGE, block=block_ms)  # type: ignore[arg-type]
        for stream, entries in _read(answer):
            self._at[stream] = entries[-1].id
            judge = self._of_letter if stream == self._first.dead else self._of_notification
            if found := next(filter(None, map(judge, entries)), None):
                return found
        if not answer and self._is_lost(client):
            self._at = {}
        return None

    def _is_lost(self, client: Client) -> bool:
        """Tell whether a stream ends before what was read of it: then it is another one."""
        ends = self._ends(client)
        return any(ends[stream] < at for stream, at in self._at.items())

    def _of_notification(self, entry: Entry) -> Outcome | None:
        if self._sought.sign not in entry.fields.get(b"event", b""):
            return None
        try:
            one = Notification.of_entry(entry.fields)
        except (KeyError, ValueError):
            return None  # no sidecar wrote it
        if not self._sought.is_in(one) or self._conflicts(one, entry):
            return None
        return self._of_origin(one.event_id, one.control_version, one.origin)

    def _conflicts(self, one: Notification, entry: Entry) -> bool:
        """Tell whether it is of another event with this event_id: then ours is to die yet."""
        if self._sought.origin in ("", one.origin):
            return False
        return known_by(entry.fields).content != self._sought.content

    def _of_letter(self, entry: Entry) -> Outcome | None:
        letter = DeadLetter(entry.id, entry.fields)
        if not self._sought.has_died(letter):
            return None
        try:
            fix = fix_of(letter.reason, letter.event())
        except Rejected:
            fix = explain(letter.reason).fix
        event_id = letter.hints()[1]
        return Outcome("dead", event_id, 0, letter.reason, letter.detail, fix)

    def _still(self, client: Client) -> Outcome:
        origin = Origin(self._sought.origin)
        why = [
            held_up_by(self._control, client, keys, self._sought.is_event, origin.entry)
            for keys in self._keys if origin.stream in ("", keys.control)
        ]  # fmt: skip
        streams = ", ".join(keys.control for keys in self._keys)
        nowhere = f"nothing of that name in {streams}: was it appended, and there?"
        said = next(filter(None, why), nowhere)
        return Outcome("waiting", self._sought.event_id, waits_for=said)


def _read(answer: Any) -> Iterator[tuple[str, list[Entry]]]:  # noqa: ANN401 -- redis-py
    for stream, entries in answer or ():
        yield stream.decode(), [Entry(EntryId(id_.decode()), fields) for id_, fields in entries]
