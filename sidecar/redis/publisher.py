"""What the active worker writes on the notification stream's side, all of it under the fence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any, Final, NamedTuple

import orjson

from sidecar.redis.client import TIMEOUT_S, Client
from sidecar.redis.damage import Damaged
from sidecar.redis.ends import Ends, look
from sidecar.redis.forgotten import Loss, put_on_record
from sidecar.redis.halts import MAX_HALT_RECORDS, Halt
from sidecar.redis.keys import Keys
from sidecar.redis.lease import Fenced, Lease
from sidecar.redis.scripts import script_of
from sidecar.redis.signed import Signing
from sidecar.redis.source import Entry
from sidecar.redis.tenants import MOST_ROWS, all_paused
from sidecar.wire.event import MAX_ENTRY_BYTES
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.signing import Signer

MOST_LETTERS: Final = 100
"""So many dead letters are written at once: with 16 KiB each they take 1.6 MiB of Redis."""


class Halted(Exception):
    """The control stream is halted until `sidecar resume`."""


class TenantsChanged(Exception):
    """Nothing was done: tenants were paused or resumed that this worker does not know of yet."""


class NotReplicated(Exception):
    """Fewer replicas than asked for have what was written. It may be published, or be lost yet."""


class Outcome(Enum):
    """What became of one event given to `Publisher.publish`."""

    PUBLISHED = "published"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """Published before under this event_id, with other content."""
    FORGOTTEN = "forgotten"
    """Was taken for a duplicate, but the index no longer knows it: it must be done in full.
    Nothing after it was done."""


class Verdict(NamedTuple):
    """The outcome for one event, and the control_version it has (0 for the last two)."""

    outcome: Outcome
    control_version: int


class Buried(Enum):
    """What became of one dead letter given to `Publisher.bury`."""

    WRITTEN = 1
    HALTED_NOW = 2
    """Written, and as it was one too many in a row, the stream is halted."""
    PAUSED_NOW = 3
    """Written, and as it was one too many in a row of its tenant, that is paused."""
    NOT_NOW = 0
    """No letter was written: its tenant was paused by one before it."""
    ALREADY = -3
    """It has a letter."""
    PUBLISHED = -4
    """No letter was written: the event is published."""


class Outbound(NamedTuple):
    """One event as the publish script takes it."""

    identity: bytes
    """Digest of the event_id, and of the content: 16 bytes each."""
    json: bytes
    """Up to the value of control_version; empty for an event that the index is said to know."""
    origin: str
    traceparent: bytes


_Run = tuple[Sequence[Outbound], EntryId, int, Sequence[tuple[int, str]]]
"""What `Publisher.begin` is given."""


class Seen(NamedTuple):
    """What the deduplication index remembers of an event_id."""

    content_digest: bytes
    control_version: int


ANYBODYS: Final = b"-" * 16
"""What the index has as the content of an origin that had a dead letter, of whichever entry.

So older releases marked all of them. This one marks so what was deleted before it was read.
"""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter (docs/contract.md, "Dead letters")."""

    origin: Origin
    identity: bytes
    """Event and content digest, to be looked up in the index; empty when it must not be."""
    fields: Mapping[str, str | bytes | int]
    begins_row: bool = False
    """Something was published between it and the letter before."""
    counts: bool = True
    """It is one more in a row of dead letters."""
    tenant: str = ""
    """Whose it says to be, also where it is no event; empty of nobody's."""
    begins_row_of_tenant: bool = False
    """Something of its tenant was published between it and the tenant's letter before."""
    mark: bytes = ANYBODYS
    """Of the entry; see `dead_mark`."""


def origin_digest(origin: str) -> bytes:
    """Return the digest under which the index remembers an origin's dead letter."""
    return identity_digest("origin " + origin)


def dead_mark(entry: Entry) -> bytes:
    """Return what the index has as the content of this entry's origin, once it has a dead letter.

    It is of the field `event`, as far as a letter has it: a stream that lost its end may give the
    ID again, and the mark must not speak for that entry. 16 bytes.
    """
    if not entry.fields:
        return ANYBODYS
    return hashlib.sha256(b"dead letter " + entry.raw_event[:MAX_ENTRY_BYTES]).digest()[:16]


def is_dead(origin: Seen | None, entry: Entry) -> bool:
    """Tell by what the index knows of its origin whether an entry has a dead letter."""
    if origin is None:
        return False
    mark = dead_mark(entry)
    return ANYBODYS in (mark, origin.content_digest) or origin.content_digest == mark


_OUTCOMES: Final = {0: Verdict(Outcome.CONFLICT, 0), 1: Verdict(Outcome.FORGOTTEN, 0)}


def remembered(client: Client, keys: Keys, event_digests: Sequence[bytes]) -> list[Seen | None]:
    """Look event_ids up in the deduplication index. Raises `Damaged`, and `RedisError`."""
    pipeline = client.pipeline(transaction=False)
    for digest in event_digests:
        pipeline.hget(keys.seen(digest), digest[2:])
    return _all_seen(keys, event_digests, pipeline.execute())


def _all_seen(
    keys: Keys, event_digests: Sequence[bytes], found: Sequence[bytes | None]
) -> list[Seen | None]:
    return [
        _seen(keys, digest, known) if known is not None else None
        for digest, known in zip(event_digests, found, strict=True)
    ]


def sent_again(client: Client, keys: Keys, event_digests: Sequence[bytes]) -> list[bytes | None]:
    """Return of each event that a repair sent again the digest of its content, in 16 bytes.

    None of each other one. Raises `RedisError`.
    """
    fields = [digest[2:] for digest in event_digests]
    notes: Any = client.hmget(keys.resent, fields) if fields else []
    return [note and note[:16] for note in notes]


def _seen(keys: Keys, digest: bytes, known: bytes) -> Seen:
    if not known[16:].isdigit():
        raise Damaged(
            keys.seen(digest), known, f"HDEL its field {digest[2:]!r}; what it remembered may then"
            " be published a second time",
        )  # fmt: skip
    return Seen(known[:16], int(known[16:]))


class Publisher(Lease):
    """The publish and the dead letters of one control stream, by the owner of its lease.

    Not for use from several threads. Every method may raise `RedisError`.
    """

    def __init__(
        self, client: Client, keys: Keys, *, lease_s: float, dedup_window_s: float,
        wait_replicas: int = 0, worker: str = "", signer: Signer | None = None,
    ) -> None:  # fmt: skip
        """With `wait_replicas`, what is written counts only once so many replicas have it.

        With `signer`, each notification is signed. `worker` as `Lease` has it.
        """
        super().__init__(client, keys, lease_s=lease_s, worker=worker)
        self._window_s = int(dedup_window_s)
        self._wait_replicas = wait_replicas
        self._signing = Signing(signer, keys.notifications) if signer else None
        self._run: _Run | None = None
        """What was begun."""
        self._highest = 0
        self._changes = b""
        """How often tenants were paused or resumed, as far as this worker knows."""
        self.found = FIRST
        """The notification stream's last ID before the last run."""
        self._loaded = False
        self._sent: Any = None
        """The connection on which a publish waits for its answer."""
        self._scripts = {name: script_of(client, name) for name in _SCRIPTS}

    def acquire(self) -> int | None:
        """As `Lease.acquire`."""
        self._loaded = False  # it may be another server than before
        return super().acquire()

    def paused(self) -> Mapping[str, Halt]:
        """Return which tenants are paused, and why. Raises `Damaged` for too many."""
        self._changes, tenants = all_paused(self._client, self._keys)
        return tenants

    def check_tenants(self) -> None:
        """Raise `TenantsChanged` when tenants were paused or resumed since `paused` was called."""
        changes: Any = self._client.hget(self._keys.halt, "tenants")
        if (changes or b"") != self._changes:
            raise TenantsChanged

    def rows(self) -> set[str]:
        """Return the tenants of which dead letters came last."""
        found: Any = self._client.hgetall(self._keys.rows)
        return {tenant.decode(errors="replace") for tenant in found}

    def forget_short_rows(self) -> set[str]:
        """Forget the shorter half of the rows; return the tenants of the others.

        So who makes tenants up leaves room for those that come later.
        """
        found: Any = self._client.hgetall(self._keys.rows)
        short = sorted(found, key=lambda tenant: (len(found[tenant]), found[tenant]))
        short = short[: (len(short) + 1) // 2]
        if short:
            self._client.hdel(self._keys.rows, *short)
        return {tenant.decode(errors="replace") for tenant in found.keys() - set(short)}

    # --- deduplication, publish, dead letters ----------------------------------------------

    def seen(self, event_digests: Sequence[bytes]) -> list[Seen | None]:
        """Look event_ids up in the deduplication index, all in one. Raises `Damaged`."""
        shards = [self._keys.seen(digest) for digest in event_digests]
        fields = [digest[2:] for digest in event_digests]
        found: Any = self._scripts["seen"](keys=shards, args=fields)
        return _all_seen(self._keys, event_digests, found)

    def sent_again(self, event_digests: Sequence[bytes]) -> list[bytes | None]:
        """Return the content of those that a repair sent again; see `sent_again`."""
        return sent_again(self._client, self._keys, event_digests)

    def tenants_of(self, event_digests: Sequence[bytes]) -> list[str | None]:
        """Return whose the published events of these event_ids are; None where none is found.

        Raises `Damaged`.
        """
        pipeline = self._client.pipeline(transaction=False)
        for seen in self.seen(event_digests):
            at = EntryId.of_version(seen.control_version) if seen else FIRST
            pipeline.xrange(self._keys.notifications, at, at)
        return [_tenant_in(found) for found in pipeline.execute()]

    def publish(
        self, events: Sequence[Outbound], low: EntryId, *, row_ends_from: int = 1,
        tenants_rows: Sequence[tuple[int, str]] = (),
    ) -> list[Verdict]:  # fmt: skip
        """Publish `events` in order, each event_id once; note `low` as the lowest unfinished entry.

        The answer ends early at an event that the index has forgotten, or that the server has no
        memory for, and `low` is noted only when every one is published. A row of dead letters ends
        when the event of the number `row_ends_from`, from 1, or a later one is published, and no
        duplicate of an earlier; a tenant's, when one with such a number in `tenants_rows` is.
        Raises `Fenced`, `Halted` or `TenantsChanged`: nothing was published then. Raises
        `NotReplicated`.
        """
        self.begin(events, low, row_ends_from=row_ends_from, tenants_rows=tenants_rows)
        return self.finish()

    def begin(
        self, events: Sequence[Outbound], low: EntryId, *, row_ends_from: int = 1,
        tenants_rows: Sequence[tuple[int, str]] = (),
    ) -> None:  # fmt: skip
        """Send what `publish` sends, and do not wait for the answer.

        So the worker admits the next entries while Redis publishes these, in one thread: a
        second one would contend with it for the interpreter. `finish` is due before the next.
        """
        self._run = (events, low, row_ends_from, tenants_rows)
        self._send_run(*self._run)

    def _send_run(
        self, events: Sequence[Outbound], low: EntryId, row_ends_from: int,
        tenants_rows: Sequence[tuple[int, str]],
    ) -> None:  # fmt: skip
        one, floor = self._keys, self._highest
        keys = [one.fence, one.halt, one.low, one.notifications]
        keys += [one.incarnations, one.trimmed, one.archived, one.readers, one.resent, one.rows]
        keys += [one.seen(event.identity) for event in events]
        each: list[tuple[Any, ...]] = [(event.identity[2:], *event[1:]) for event in events]
        if self._signing:
            pairs = [(event.origin, event.json) for event in events]
            floor, signatures = self._signing.signed(pairs, floor)
            each = [(*event, sign) for event, sign in zip(each, signatures, strict=True)]
        args: list[Any] = [self._token, low, floor, row_ends_from, self._changes]
        args += (len(each[0]) if each else 0, *chain(*each), *chain(*tenants_rows))
        self._send("publish", keys, args)

    def finish(self) -> list[Verdict]:
        """Return the verdicts on what was begun, as `publish` does."""
        (state, highest, found, now_us, *results), reached = self._received()
        while state == _OVERTAKEN and self._signing and self._run:
            self._signing.overtaken(highest, now_us)
            self._send_run(*self._run)
            (state, highest, found, now_us, *results), reached = self._received()
        if self._signing:
            self._signing.published(now_us)
        self._run = None
        self._highest, self.found = highest, EntryId(found.decode())
        self._check_replicas(reached)
        published = Outcome.PUBLISHED
        return [Verdict(published, one) if one > 1 else _verdict(one) for one in results]

    def _send(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> None:
        """Send a script, and wait for no answer."""
        if not self._loaded:
            for script in self._scripts.values():
                self._client.script_load(script.script)
            self._loaded = True
        commands: list[tuple[Any, ...]] = [
            ("EVALSHA", self._scripts[name].sha, len(keys), *keys, *args)
        ]
        if self._wait_replicas:
            commands.append(("WAIT", self._wait_replicas, self._wait_ms))
        self._sent = self._client.connection_pool.get_connection()
        try:
            self._sent.send_packed_command(self._sent.pack_commands(commands))
        except BaseException:
            self.abandon()
            raise

    def _received(self) -> tuple[list[Any], int]:
        """Return a script's answer, and how many replicas have what it wrote."""
        try:
            answer = self._sent.read_response()
            reached = self._sent.read_response() if self._wait_replicas else 0
        except BaseException:
            self._loaded = False  # it may be that the script is gone
            self.abandon()
            raise
        self._release()
        if answer[0] in _REFUSED:
            raise _REFUSED[answer[0]]
        return answer, reached

    def abandon(self) -> None:
        """Forget what was begun: whether it was published shows when it is read again."""
        if self._sent is not None:
            self._sent.disconnect()
            self._release()

    def reconnect(self) -> None:
        """Let the next command look anew for the node to send it to; what was begun is kept."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _release(self) -> None:
        self._client.connection_pool.release(self._sent)
        self._sent = None

    @property
    def window_s(self) -> float:
        """How long the index remembers, at least."""
        return self._window_s

    @property
    def _wait_ms(self) -> int:
        """How long replicas may take: within the lease, and before the socket's own timeout."""
        return int(min(self._lease_ms / 3, TIMEOUT_S * 500))

    def _check_replicas(self, reached: int) -> None:
        if reached < self._wait_replicas:
            raise NotReplicated(
                f"{reached} of {self._wait_replicas} replicas took over what was written, within"
                f" {self._wait_ms} ms; nothing is acknowledged until they are connected and keep up"
            )

    def bury(
        self, letters: Sequence[Letter], low: EntryId, *, max_in_a_row: int, now: str,
        room: int = MOST_ROWS,
    ) -> list[Buried]:  # fmt: skip
        """Write dead letters in order, once an entry, never for a published event.

        But for one that a repair sent again, and whose notification is lost.

        `low` is the lowest entry that is unfinished once all of them are written. For `room` more
        tenants rows are counted.
        Returns an answer a letter, fewer when the stream is halted on the way or, now and then, a
        tenant paused, or one could not be written. Raises `Fenced`, `NotReplicated`; when it was so
        before the first, `Halted` or `TenantsChanged`.
        """
        done: list[Buried] = []
        lows = [low]
        for later in reversed(letters[1:]):
            lows.append(min(lows[-1], later.origin.entry or lows[-1]))
        lows.reverse()
        while len(done) < len(letters) and _LAST.isdisjoint(done):
            run = slice(len(done), len(done) + MOST_LETTERS)
            try:
                answers = self._bury(letters[run], lows[run], max_in_a_row, now, room)
            except (Halted, TenantsChanged):
                if not done:
                    raise
                break
            done += answers
            if len(answers) < len(letters[run]):
                break
        return done

    def _bury(
        self, letters: Sequence[Letter], lows: Sequence[EntryId], max_in_a_row: int, now: str,
        room: int,
    ) -> list[Buried]:  # fmt: skip
        """Write a run of letters, each with the lowest unfinished entry after it."""
        one = self._keys
        keys = [one.fence, one.halt, one.low, one.dead, one.halts]
        keys += [one.resent, one.trimmed, one.notifications, one.rows, one.paused]
        args: list[Any] = [
            self._token, max_in_a_row, now, one.control, MAX_HALT_RECORDS, self._changes, room,
        ]  # fmt: skip
        for letter, low in zip(letters, lows, strict=True):
            origin = origin_digest(letter.origin)
            keys += [one.seen(letter.identity or origin), one.seen(origin)]
            args += [
                low, letter.identity[2:], origin[2:] + letter.mark,
                int(letter.begins_row), int(letter.counts),
                f"{max_in_a_row} dead letters in a row, the last for {letter.fields['reason']!s}",
                letter.tenant, int(letter.begins_row_of_tenant),
                2 * len(letter.fields), *chain.from_iterable(letter.fields.items()),
            ]  # fmt: skip
        self._send("bury", keys, args)
        (_, *results), reached = self._received()
        self._check_replicas(reached)
        return [Buried(result) for result in results]

    def look(self, known: EntryId) -> Ends:
        """Hold the notification stream against a notification that it is known to have had."""
        return look(self._client, self.notifications, known, self._keys.incarnations)

    def put_on_record(self, loss: Loss) -> bool:
        """Put on record what Redis forgot; False when somebody did."""
        return put_on_record(self._client, self._keys, loss)

    @property
    def notifications(self) -> str:
        """The notification stream's name."""
        return self._keys.notifications


_SCRIPTS: Final = ("publish", "bury", "seen")
_REFUSED: Final[Mapping[int, type[Exception]]] = {0: Fenced, -1: Halted, -2: TenantsChanged}
"""What the state says with which a script answers that it did nothing."""
_OVERTAKEN: Final = -3
"""The state with which the publish script answers that what was signed for is given already."""
_LAST: Final = frozenset({Buried.HALTED_NOW, Buried.PAUSED_NOW})
"""What is answered in the last run that is written: the stream, or a tenant, waits from then on."""


def _tenant_in(found: list[tuple[bytes, dict[bytes, bytes]]]) -> str | None:
    for _, fields in found:
        with suppress(ValueError, AttributeError):
            return str(orjson.loads(fields.get(b"event", b"")).get("tenant_id") or "")
    return None


def _verdict(result: int) -> Verdict:
    """Return the verdict on an event that was not published now."""
    if result in _OUTCOMES:
        return _OUTCOMES[result]
    return Verdict(Outcome.DUPLICATE, -result)
