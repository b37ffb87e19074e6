"""What is asked of Redis for a page of notifications, and what its answers mean.

Nothing here waits but `read`: the two faces of the feed do, each in its own way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from sidecar.errors import UsageError
from sidecar.redis.bounded import fewer
from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged, trimmed_id
from sidecar.redis.errors import NotPermitted, RedisError, Refused, is_absent, is_misplaced, named
from sidecar.redis.keys import Keys
from sidecar.redis.source import Entry
from sidecar.redis.trimmed import gone_field, went_since
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.incarnations import Cursor, Incarnation, doubt_of, incarnation_of, is_lost, parse
from sidecar.wire.notification import Notification
from sidecar.wire.trust import Trust, Untrusted, untrusted

_log: Final = logging.getLogger("sidecar.feed")


class FeedGap(Exception):
    """Notifications after the cursor are gone, or the stream ends before it.

    Start again from a snapshot: continuing would miss changes in silence.

    Attributes:
        kind: `trimmed`, what came after the cursor; `tail_lost`, the stream ends before it; or
            `made_anew`, the server lost its memory, or its tail, and the stream continued since
            without what the cursor knows.
        cursor: after which nothing can be told.
        first: the control_version of the oldest notification there is; `end + 1` without any.
        end: the one that was given last; 0 without a stream.

    """

    def __init__(
        self, words: str, kind: Literal["trimmed", "tail_lost", "made_anew"], *, cursor: int,
        first: int, end: int,
    ) -> None:  # fmt: skip
        super().__init__(words)
        self.kind = kind
        self.cursor = cursor
        self.first = first
        self.end = end


class ForeignEntry(ValueError):
    """The notification stream has an entry that is no notification.

    Attributes:
        cursor: the control_version that passes it.

    """

    def __init__(self, words: str, cursor: int) -> None:
        super().__init__(words)
        self.cursor = cursor


class _NoCursor(ValueError):
    """An entry's ID is not its notification's control_version."""


class Batch(list[Notification]):
    """Notifications in order: a list that knows where reading continues.

    Attributes:
        cursor: whatever is wanted up to this control_version is in the list, or was before it.
            To be kept as the cursor once the list is applied, best as it is: a `Cursor` knows of
            which incarnation of the stream it is.
        more: whether the stream had more after it.

    """

    def __init__(self, found: Iterable[Notification], cursor: Cursor, *, more: bool) -> None:
        super().__init__(found)
        self.cursor = cursor
        self.more = more


class _Found(NamedTuple):
    """What was found of the stream beside its entries."""

    info: dict[str, Any] | None
    """None where there was no such stream."""
    noted: bytes | None
    """How far was trimmed."""
    incarnations: Sequence[Incarnation]


Filter = Callable[[Notification], bool]
"""Tells whether a notification is wanted."""


def wanted(
    tenants: str | Collection[str] | None, types: str | Collection[str] | None, ref_prefix: str
) -> Filter | None:
    """Return a filter that wants what fits all that is given; None when nothing is.

    Raises `UsageError` for names that are empty: a computed set would read everything in silence.
    """
    some_tenants, some_types = _names("tenant", tenants), _names("type", types)
    above = ref_prefix.rstrip("/") + "/"

    def wants(one: Notification) -> bool:
        return (
            (not some_tenants or one.tenant_id in some_tenants)
            and (not some_types or one.type in some_types)
            and (not ref_prefix or f"{one.artifact_ref}/".startswith(above))
        )

    return wants if some_tenants or some_types or ref_prefix else None


def _names(option: str, given: str | Collection[str] | None) -> frozenset[str]:
    if given is None:
        return frozenset()
    names = frozenset([given] if isinstance(given, str) and given else given)
    if not names:
        raise UsageError(f"{option}={given!r} is empty; leave it out to read every {option}")
    return names


class Reading:
    """Asks for what comes after a cursor, and reads the answers."""

    def __init__(self, stream: str, wants: Filter | None, trust: Trust | None = None) -> None:
        self._stream = stream
        self.trust = trust
        self._keys = Keys.of("", stream)
        self.wants = wants
        self._is_blind = False
        self._is_warned = False
        self.is_there = True
        """Whether there was such a stream when it was read last."""
        self.at_cursor: Entry | None = None
        """The entry that the cursor named, when it was read last."""
        self._found = _Found(None, None, ())

    def ask(self, pipeline: Any, since: int, limit: int, wait_s: float) -> None:  # noqa: ANN401 -- of either client
        """Put the commands into `pipeline`: to read, and only then to look for a gap.

        So nothing can be trimmed, nor the stream be made anew, between the look and the read. How
        far was trimmed is read after where the stream begins: it explains that, whatever comes in
        between. They wait up to `wait_s` seconds for a first entry.
        """
        if limit < 1:
            raise ValueError(f"limit is {limit}: it must be at least 1")
        block = ("BLOCK", max(1, int(wait_s * 1000))) if wait_s > 0 else ()
        pipeline.hget(self._keys.incarnations, "list")
        pipeline.execute_command(
            "XREAD", "COUNT", limit, *block, "STREAMS", self._stream, EntryId.of_version(since)
        )
        pipeline.xinfo_stream(self._stream)
        pipeline.hget(self._keys.trimmed, gone_field(self._stream))
        pipeline.hget(self._keys.trimmed, self._stream)
        pipeline.xrange(self._stream, EntryId.of_version(since), EntryId.of_version(since))
        pipeline.hget(self._keys.incarnations, "list")

    def read(self, client: Client, since: int, limit: int, wait_s: float = 0.0) -> Batch:
        """Return what comes after a cursor: fewer than `limit` where so many are too much.

        Raises as `batch`.
        """

        def ask(count: int) -> Batch:
            with client.pipeline(transaction=False) as pipeline:
                self.ask(pipeline, since, count, wait_s)
                return self.batch(pipeline.execute(raise_on_error=False), since)

        return fewer(ask, limit)[0]

    def batch(self, answers: list[Any], since: int) -> Batch:
        """Return what the answers bring.

        Raises `FeedGap`, `ForeignEntry`, with keys to trust `Untrusted`, and `RedisError`.
        """
        answers = [named(one) if isinstance(one, Refused) else one for one in answers]
        before, after = self._seen(answers.pop(0)), self._seen(answers.pop())
        for at in (2, 3):
            if isinstance(answers[at], Refused) and is_misplaced(answers[at]):
                answers[at] = b"another kind of key"
        read, info, gone, noted, there = _without_errors(answers)
        self._see(is_there=info is not None)
        self._found = _Found(info, noted, after or ())
        self.at_cursor = Entry(EntryId.of_version(since), there[0][1]) if there else None
        if since:
            lost = after is not None and is_lost(since, after, is_there=bool(there))
            doubt = doubt_of(since, after or (), _end(info))
            self._check_gap(since, noted, gone, info, lost=lost, doubt=doubt)
        found = self._notifications(read[0][1] if read else [])
        # Of which incarnation it is is sure only where no other began while it was read.
        own = after[-1].id if after and before == after else ""
        if not found:
            own = own or incarnation_of(since)
        cursor = Cursor(found[-1].control_version if found else since, own)
        more = bool(found) and cursor < _end(info)
        return Batch(filter(self.wants, found) if self.wants else found, cursor, more=more)

    @property
    def first(self) -> int:
        """The control_version of the oldest notification when it was read last; `end + 1` without
        any.
        """
        return _first(self._found.info)

    @property
    def end(self) -> int:
        """The control_version that was given last when it was read last; 0 without a stream."""
        return _end(self._found.info)

    def complete_since(self, page: Batch) -> int:
        """Return after which control_version nothing is missing of what was read from 0.

        `page` is what that brought first. 0 where there never was anything before it.
        """
        info, noted, incarnations = self._found
        if info is None or not page:
            return self.end
        trimmed, is_told = self._trimmed(noted, EntryId(info["last-generated-id"].decode()))
        is_whole = is_told and not trimmed and info.get("entries-added") == info["length"]
        has_lost = any(not one.kept for one in incarnations[1:])
        return 0 if is_whole and not has_lost else page[0].control_version - 1

    def _see(self, *, is_there: bool) -> None:
        """Note whether there is such a stream; log that there is none, once until there is."""
        if self.is_there and not is_there:
            _log.warning(
                "there is no stream %s yet: it is waited for; is the name right?", self._stream
            )
        self.is_there = is_there

    def _seen(self, answer: Any) -> list[Incarnation] | None:  # noqa: ANN401 -- redis-py
        """Return the stream's incarnations; None for a login that must not see them."""
        if not isinstance(answer, NotPermitted):
            return parse(*_without_errors([answer]))
        if not self._is_blind:
            _log.warning(
                "a stream that was made anew is not noticed: Redis does not let this login read"
                " %s; grant it", self._keys.incarnations,
            )  # fmt: skip
        self._is_blind = True
        return None

    def _trimmed(self, noted: bytes | None, last: EntryId) -> tuple[int, bool]:
        """Return up to where the sidecar trimmed, and whether that can be told."""
        try:
            mark = trimmed_id(self._keys, self._stream, noted, last=last) or FIRST
        except Damaged as damaged:
            if not self._is_warned:
                _log.warning(
                    "what was trimmed cannot be known, so gaps are taken for real: %s", damaged
                )
            self._is_warned = True
            return 0, False
        return mark.control_version, True

    def _notifications(self, entries: list[tuple[bytes, list[bytes]]]) -> list[Notification]:
        found: list[Notification] = []
        for entry_id, flat in entries:
            parts = iter(flat)
            fields = dict(zip(parts, parts))  # noqa: B905 -- two of one iterator
            try:
                if self.trust:
                    self.trust.check(self._stream, EntryId(entry_id.decode()), fields)
                one = Notification.of_entry(fields)
                if entry_id != b"%d-%d" % divmod(one.control_version, 1000):
                    raise _NoCursor
            except Untrusted:
                if found:
                    break
                raise
            except (KeyError, ValueError) as error:
                if found:
                    break  # first what is before it
                raise self._foreign(entry_id, error) from error
            found.append(one)
        return found

    def _check_gap(
        self, since: int, noted: bytes | None, gone: bytes | None, info: dict[str, Any] | None, *,
        lost: bool, doubt: str,
    ) -> None:  # fmt: skip
        if info is None:
            words = f"the cursor is {since}, and there is no stream {self._stream}{doubt}"
            raise FeedGap(words, "tail_lost", cursor=since, first=1, end=0)
        trimmed, is_told = self._trimmed(noted, EntryId(info["last-generated-id"].decode()))
        end = _end(info)
        first = _first(info)
        if since > end:
            words = f"the cursor is {since}, and the stream ends at {end}: its tail is lost{doubt}"
            raise FeedGap(words, "tail_lost", cursor=since, first=first, end=end)
        if lost:
            words = (
                f"the cursor is {since}, of a history of {self._stream} that the server lost: the"
                f" stream was made anew, or restored, and ends at {end}{doubt}"
            )
            raise FeedGap(words, "made_anew", cursor=since, first=first, end=end)
        # Known since Redis 7.0.
        whole = is_told and info.get("entries-added") == info["length"]
        # Trimmed by the sidecar, or by hand, which no one noted: then nobody knows how much of it
        # came after the cursor. Where the sidecar's trimming ended, only counting tells.
        is_past = trimmed < since and not whole
        is_past |= trimmed == since and went_since(gone, EntryId.of_version(since), _gone(info))
        if since < trimmed or (is_past and since < min(first, end)):
            words = f"the cursor is {since}, and the stream begins only at {first}{doubt}"
            raise FeedGap(words, "trimmed", cursor=since, first=first, end=end)

    def _foreign(self, entry_id: bytes, error: Exception) -> ForeignEntry | Untrusted:
        name = EntryId(entry_id.decode())
        if self.trust:
            return untrusted(self._stream, name, "foreign", "no sidecar wrote it")
        return ForeignEntry(
            f"{self._stream} has an entry that no sidecar wrote, {name} ({type(error).__name__});"
            f" since={name.control_version} passes it",
            name.control_version,
        )


def _without_errors(answers: list[Any]) -> list[Any]:
    """Return the answers, None about a stream that is not there; raise the first error."""
    for answer in answers:
        if isinstance(answer, RedisError) and not is_absent(answer):
            raise answer
    return [None if isinstance(answer, RedisError) else answer for answer in answers]


def _first(info: dict[str, Any] | None) -> int:
    """Return the control_version of the oldest notification; without any, what follows the end."""
    oldest = info["first-entry"] if info else None
    return EntryId(oldest[0].decode()).control_version if oldest else _end(info) + 1


def _gone(info: dict[str, Any]) -> int | None:
    """Return how many notifications are not there any more; None before Redis 7.0."""
    added = info.get("entries-added")
    return None if added is None else int(added) - int(info["length"])


def _end(info: dict[str, Any] | None) -> int:
    """Return the control_version given last, also when that entry is gone."""
    return EntryId(info["last-generated-id"].decode()).control_version if info else 0
