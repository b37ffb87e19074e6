"""What the active worker writes on the notification stream's side, all of it under the fence."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis.commands.core import Script

from sidecar.redis.client import TIMEOUT_S, Client
from sidecar.redis.halts import MAX_HALT_RECORDS
from sidecar.redis.keys import Keys, identity_digest
from sidecar.redis.source import id_pair


class Fenced(Exception):
    """Another worker owns the control stream now, or the fence was lost with Redis's memory."""


class Halted(Exception):
    """The control stream is halted until `sidecar resume`."""


class NotReplicated(Exception):
    """Fewer replicas than asked for have what was written. It may be published, or be lost yet."""


class Damaged(Exception):
    """A key of the sidecar's holds what no sidecar wrote. Nothing is done until it is mended."""

    def __init__(self, key: str, value: bytes, mend: str) -> None:
        super().__init__(f"the key {key} holds {value[:64]!r}, which no sidecar wrote: {mend}")


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
    ALREADY = -3
    """Its origin has a letter."""
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


class Seen(NamedTuple):
    """What the deduplication index remembers of an event_id."""

    content_digest: bytes
    control_version: int


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter (section 3 of the contract)."""

    origin: str
    identity: bytes
    """Event and content digest, to be looked up in the index; empty when it must not be."""
    fields: Mapping[str, str | bytes | int]
    begins_row: bool = False
    """Something was published between it and the letter before."""


BURIED: Final = b"-" * 16
"""What the index has as the content of an origin that has a dead letter."""


def origin_digest(origin: str) -> bytes:
    """Return the digest under which the index remembers an origin's dead letter."""
    return identity_digest("origin " + origin)


_OUTCOMES: Final = {0: Verdict(Outcome.CONFLICT, 0), 1: Verdict(Outcome.FORGOTTEN, 0)}


def remembered(client: Client, keys: Keys, event_digests: Sequence[bytes]) -> list[Seen | None]:
    """Look event_ids up in the deduplication index. Raises `Damaged`, and redis-py's errors."""
    pipeline = client.pipeline(transaction=False)
    for digest in event_digests:
        pipeline.hget(keys.seen(digest), digest[2:])
    return [
        _seen(keys, digest, known) if known is not None else None
        for digest, known in zip(event_digests, pipeline.execute(), strict=True)
    ]


def _seen(keys: Keys, digest: bytes, known: bytes) -> Seen:
    if not known[16:].isdigit():
        raise Damaged(
            keys.seen(digest), known, f"HDEL its field {digest[2:]!r}; what it remembered may then"
            " be published a second time",
        )  # fmt: skip
    return Seen(known[:16], int(known[16:]))


class Publisher:
    """The lease, the publish and the dead letters of one control stream.

    Not for use from several threads. Every method may raise redis-py's errors.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        lease_s: float,
        dedup_window_s: float,
        wait_replicas: int = 0,
    ) -> None:
        """With `wait_replicas`, what is written counts only once so many replicas have it."""
        self._client = client
        self._keys = keys
        self._token = secrets.token_hex(16)
        self._lease_ms = int(lease_s * 1000)
        self._window_s = int(dedup_window_s)
        self._wait_replicas = wait_replicas
        self._highest = 0
        self._loaded = False
        self._sent: Any = None
        """The connection on which a publish waits for its answer."""
        self._scripts = {name: _script(client, name) for name in _SCRIPTS}

    # --- lease -----------------------------------------------------------------------------

    def acquire(self) -> int | None:
        """Become the owner of the control stream.

        Returns None while another owns it, else how many owners in a row ended without
        settling or giving the lease back.
        """
        self._loaded = False  # it may be another server than before
        owner, _, unclean = self._call("acquire", self._lease_keys, [self._token, self._lease_ms])
        return int(unclean) if owner else None

    def is_owned(self) -> bool:
        """Tell whether a lease of the control stream runs."""
        return bool(self._client.exists(self._keys.lease))

    def renew(self) -> str:
        """Keep the lease; return why the stream is halted, or an empty string.

        Raises `Fenced` when another worker has taken over.
        """
        owner, halted = self._call("renew", self._lease_keys, [self._token, self._lease_ms])
        if not owner:
            raise Fenced
        return str(halted.decode(errors="replace"))

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._call("release", self._lease_keys, [self._token])

    def lowest_unfinished(self) -> str | None:
        """Return the lowest entry that may be unfinished, as last noted. Raises `Damaged`."""
        low: Any = self._client.get(self._keys.low)
        if low is None:
            return None
        if not _ENTRY_ID.fullmatch(low):
            raise Damaged(
                self._keys.low, low, "delete it; then destroy the group, to have all read again"
            )
        return str(low, "ascii")

    def forget_lowest(self) -> None:
        """Forget the lowest unfinished entry: it was one of another stream of the same name."""
        self._client.delete(self._keys.low)

    def note_lowest(self, low: str) -> None:
        """Note the lowest entry that may be unfinished, where none is noted yet.

        Without the fence: what was the lowest once never is too high, and nothing is replaced.
        """
        self._client.set(self._keys.low, low, nx=True)

    def settle(self) -> None:
        """Note that this owner got through what its predecessors left."""
        self._client.hdel(self._keys.halt, "unclean", "alone", "alone_deaths")

    def run_alone(self, entry_id: str) -> int:
        """Note that `entry_id` is about to be run alone.

        Returns how often that was noted before without the worker living to note another.
        Raises `Damaged`.
        """
        found: Any = self._client.hmget(self._keys.halt, "alone", "alone_deaths")
        before, deaths = found
        if deaths and not deaths.isdigit():
            raise Damaged(self._keys.halt, deaths, "HDEL its field alone_deaths")
        count = int(deaths or 0) if before == entry_id.encode() else 0
        self._client.hset(self._keys.halt, mapping={"alone": entry_id, "alone_deaths": count + 1})
        return count

    def survived_alone(self) -> None:
        """Note that the entry that ran alone did not take the worker with it."""
        self._client.hdel(self._keys.halt, "alone", "alone_deaths")

    # --- deduplication, publish, dead letters ----------------------------------------------

    def seen(self, event_digests: Sequence[bytes]) -> list[Seen | None]:
        """Look event_ids up in the deduplication index. Raises `Damaged`."""
        return remembered(self._client, self._keys, event_digests)

    def publish(
        self, events: Sequence[Outbound], low: str, *, ends_row: bool = True
    ) -> list[Verdict]:
        """Publish `events` in order, each event_id once; note `low` as the lowest unfinished entry.

        The answer ends early at an event that the index has forgotten, and `low` is noted only
        when every one is published. With `ends_row`, a row of dead letters ends with this run.
        Raises `Fenced` or `Halted`: nothing was published then. Raises `NotReplicated`.
        """
        self.begin(events, low, ends_row=ends_row)
        return self.finish()

    def begin(self, events: Sequence[Outbound], low: str, *, ends_row: bool = True) -> None:
        """Send what `publish` sends, and do not wait for the answer.

        So the worker admits the next entries while Redis publishes these, in one thread: a
        second one would contend with it for the interpreter. `finish` is due before the next.
        """
        keys = [self._keys.fence, self._keys.halt, self._keys.low, self._keys.notifications]
        args: list[Any] = [self._token, low, self._highest, self._window_s, int(ends_row)]
        for event in events:
            keys.append(self._keys.seen(event.identity))
            args += (event.identity[2:], event.json, event.origin, event.traceparent)
        script = self._scripts["publish"]
        if not self._loaded:
            self._client.script_load(script.script)
            self._loaded = True
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args)]
        if self._wait_replicas:
            commands.append(("WAIT", self._wait_replicas, self._wait_ms))
        self._sent = self._client.connection_pool.get_connection()
        try:
            self._sent.send_packed_command(self._sent.pack_commands(commands))
        except BaseException:
            self.abandon()
            raise

    def finish(self) -> list[Verdict]:
        """Return the verdicts on what was begun, as `publish` does."""
        try:
            state, highest, *results = self._sent.read_response()
            reached = self._sent.read_response() if self._wait_replicas else 0
        except BaseException:
            self._loaded = False  # it may be that the script is gone
            self.abandon()
            raise
        self._release()
        if state == 0:
            raise Fenced
        if state == -1:
            raise Halted
        self._highest = highest
        self._check_replicas(reached)
        return [_verdict(result) for result in results]

    def abandon(self) -> None:
        """Forget what was begun: whether it was published shows when it is read again."""
        if self._sent is not None:
            self._sent.disconnect()
            self._release()

    def reconnect(self) -> None:
        """Let the next command look anew for the node to send it to."""
        self._client.connection_pool.disconnect()

    def _release(self) -> None:
        self._client.connection_pool.release(self._sent)
        self._sent = None

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
        self, letters: Sequence[Letter], low: str, *, max_in_a_row: int, now: str
    ) -> list[Buried]:
        """Write dead letters in order, once an origin, never for a published event.

        `low` is the lowest entry that is unfinished once all of them are written.
        Returns an answer a letter, fewer when the stream is halted on the way. Raises `Fenced`
        or, when it was halted before the first, `Halted`. Raises `NotReplicated`.
        """
        done: list[Buried] = []
        pipeline = self._client.pipeline(transaction=False)
        script = self._scripts["bury"]
        lows = [low]
        for later in reversed(letters[1:]):
            lows.insert(0, min(lows[0], _entry_of(later), key=id_pair))
        for letter, low_before, low_then in zip(letters, ["", *lows], lows, strict=False):
            origin = origin_digest(letter.origin)
            event = letter.identity or origin
            keys = [
                self._keys.fence, self._keys.halt, self._keys.low, self._keys.dead,
                self._keys.seen(event), self._keys.seen(origin), self._keys.halts,
            ]  # fmt: skip
            args = [
                self._token, low_then, self._window_s, max_in_a_row,
                letter.identity[2:], origin[2:],
                f"{max_in_a_row} dead letters in a row, the last for {letter.fields['reason']!s}",
                now, low_before, int(letter.begins_row), self._keys.control, MAX_HALT_RECORDS,
                *(item for pair in letter.fields.items() for item in pair),
            ]  # fmt: skip
            script(keys=keys, args=args, client=pipeline)
        if self._wait_replicas:
            pipeline.wait(self._wait_replicas, self._wait_ms)
        answers = pipeline.execute()
        reached = answers.pop() if self._wait_replicas else 0
        for answer in answers:
            if answer == 0:
                raise Fenced
            if answer == -1:
                break
            done.append(Buried(answer))
        if letters and not done:
            raise Halted
        self._check_replicas(reached)
        return done

    def misplaced(self) -> list[str]:
        """Name the keys that are there as something else than what the sidecar makes of them."""
        keys = self._keys
        wanted = dict.fromkeys((keys.fence, keys.lease, keys.low), "string")
        wanted |= dict.fromkeys((keys.notifications, keys.dead, keys.halts), "stream")
        wanted[keys.halt] = "hash"
        found: dict[str, Any] = {key: self._client.type(key) for key in wanted}
        return [
            f"{key} is a {kind.decode()}, not a {wanted[key]}"
            for key, kind in found.items()
            if kind.decode() not in (wanted[key], "none")
        ]

    @property
    def _lease_keys(self) -> list[str]:
        return [self._keys.fence, self._keys.lease, self._keys.halt]

    def _call(self, name: str, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 -- Lua
        return self._scripts[name](keys=keys, args=args)


_ENTRY_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_SCRIPTS: Final = ("acquire", "renew", "release", "publish", "bury")


def _entry_of(letter: Letter) -> str:
    return letter.origin.rpartition("/")[2]


def _script(client: Client, name: str) -> Script:
    source = files("sidecar.redis").joinpath("lua", f"{name}.lua").read_text()
    return client.register_script(source)


def _verdict(result: int) -> Verdict:
    if result in _OUTCOMES:
        return _OUTCOMES[result]
    if result < 0:
        return Verdict(Outcome.DUPLICATE, -result)
    return Verdict(Outcome.PUBLISHED, result)
