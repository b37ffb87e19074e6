"""How much of an answer is kept: a bound for memory, whatever others wrote into Redis.

What a sidecar writes there has at most 17 KiB in one value, and 24 KiB in one entry. So
answers of more than 8 MiB are read by hand, and cut to that on their way: an entry of hundreds of
MiB costs time, and no memory. What is still too much then is an error.

Of an entry that is cut, the size is as it was, and the beginning of its event is there: it ends as
`too_large`, with the same dead letter, whatever answer it came in.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis
from redis._parsers import _AsyncHiredisParser, _HiredisParser
from redis.utils import SENTINEL

T = TypeVar("T")
MOST_BYTES: Final = 8 << 20
"""Answers to one command, or to one pipeline, are taken as they come up to here."""
MOST_KEPT_BYTES: Final = 4 * MOST_BYTES
"""Of longer ones that much is kept at most, what Python needs for it included."""
VALUE_BYTES: Final = 17 << 10
"""So much of one value is kept then. It is more than a control entry may have."""
ENTRY_BYTES: Final = 24 << 10
"""So much of the fields of one entry, beside its event. It is more than a dead letter has."""
_OBJECT_BYTES: Final = 64
_EVENT: Final = b"event"
_BULK: Final = ord("$")
_ID: Final = re.compile(rb"\d{1,20}-\d{1,20}")


class TooMuch(redis.ResponseError):
    """The answer has more than any that is expected, also when its values are cut."""


class CutFields(list[bytes]):
    """The names and values of an entry, as far as they were kept."""

    size_bytes = 0
    """What all of them had."""


def fewer(ask: Callable[[int], T], count: int) -> tuple[T, int]:
    """Ask for so many, or for as many as are not too much; return the answer, and how many.

    Raises `TooMuch` where one is, and what `ask` raises.
    """
    while True:
        try:
            return ask(count), count
        except TooMuch:
            if count == 1:
                raise
            count = max(1, count // 4)


class _Large(Exception):
    """The answers since the last command have more than `MOST_BYTES`."""


class _Recorded:
    """hiredis's reader, and what it has not made answers of, in case that this grows large."""

    def __init__(self, reader: Any) -> None:  # noqa: ANN401 -- untyped
        self.gets, self._has_data, self._feed = reader.gets, reader.has_data, reader.feed
        self.raw = bytearray()
        self.answers = 0
        """So many of the answers in `raw` were made."""
        self.cut: _Cut | None = None
        self._total = 0

    def begin(self) -> None:
        """Note that a command is sent: its answers are another's."""
        self.raw, self.answers, self._total, self.cut = bytearray(), 0, 0, None

    def feed(self, buffer: bytearray, start: int, length: int) -> None:
        """Take what came from the socket. Raises `_Large`."""
        part = memoryview(buffer)[start : start + length]
        if self.cut:
            self.cut.raw += part
            return
        self.raw += part
        self._total += length
        if self._total > MOST_BYTES:
            raise _Large
        self._feed(buffer, start, length)

    def has_data(self) -> bool:
        """Tell whether there is something of which no answer was made yet."""
        return self.cut.has_data() if self.cut else bool(self._has_data())

    def answered(self) -> None:
        """Note that an answer was made."""
        self.answers += 1
        if not self.has_data():
            self.raw, self.answers = bytearray(), 0


class BoundedParser(_HiredisParser):
    """Makes answers of what a connection reads, in bounded memory. Speaks RESP2."""

    _ended: TooMuch | None = None
    """Why nothing is read any more, until the next command."""

    def on_connect(self, connection: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- redis-py
        """As redis-py."""
        self._connection = weakref.ref(connection)
        super().on_connect(connection, **kwargs)  # type: ignore[no-untyped-call]
        self._reader: Any = _Recorded(self._reader)

    def begin(self) -> None:
        """Note that a command is sent, or a pipeline."""
        self._ended = None
        if self._reader is not None:
            self._reader.begin()

    def read_response(
        self, disable_decoding: bool = False, push_request: bool = False,  # noqa: FBT001, FBT002 -- redis-py
        timeout: Any = SENTINEL,  # noqa: ANN401 -- redis-py
    ) -> Any:  # fmt: skip  # noqa: ANN401 -- redis-py
        """Return the next answer. Raises `TooMuch`, and what redis-py raises."""
        if self._ended:  # redis-py has closed the connection
            raise self._ended
        reader: _Recorded | None = self._reader
        if reader is None or reader.cut is None:
            try:
                answer = super().read_response(disable_decoding, push_request, timeout)
            except _Large:
                return self._read_cut(self._begin_to_cut(timeout))
            if reader is not None:
                reader.answered()
            return answer
        return self._read_cut()

    def _read_cut(self, skip: int = 0) -> Any:  # noqa: ANN401 -- redis-py
        """Return the next answer that is read by hand, behind so many others."""
        cut: _Cut = self._reader.cut
        try:
            for _ in range(skip):
                cut.answer()
            answer = cut.answer()
        except TooMuch as error:
            self._ended = error
            raise
        if isinstance(answer, redis.ConnectionError):
            raise answer
        return answer

    def _begin_to_cut(self, timeout: Any) -> int:  # noqa: ANN401 -- redis-py
        """Have the answer that is under way read by hand, and those behind it.

        Returns how many come before it once more.
        """

        def more() -> None:
            self.read_from_socket(timeout=timeout)  # type: ignore[no-untyped-call]

        reader: _Recorded = self._reader
        self.on_connect(self._connection())  # a new reader: this one stands in the middle of it
        self._reader.cut = _Cut(reader.raw, more, self.parse_error)
        return reader.answers


class AsyncBoundedParser(_AsyncHiredisParser):
    """Makes answers of what a coroutine's connection reads, up to `MOST_BYTES` of them.

    It cuts nothing: what is more is asked for on a blocking connection.
    """

    _ended: TooMuch | None = None
    """Why nothing is read any more, until the next command."""

    def on_connect(self, connection: Any) -> None:  # noqa: ANN401 -- redis-py
        """As redis-py."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._reader: Any = _Counted(self._reader)

    def begin(self) -> None:
        """Note that a command is sent, or a pipeline."""
        self._ended = None
        if self._reader is not None:
            self._reader.total = 0

    async def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 -- redis-py
        """Return the next answer. Raises `TooMuch`, and what redis-py raises."""
        if self._ended:  # the connection is closed
            raise self._ended
        try:
            return await super().read_response(*args, **options)
        except _Large:
            self._ended = TooMuch(f"the answers have more than {MOST_BYTES >> 20} MiB")
            self._reader = None  # with what it holds
            raise self._ended from None


class _Counted:
    """hiredis's reader, and how much came since the last command."""

    def __init__(self, reader: Any) -> None:  # noqa: ANN401 -- untyped
        self.gets, self.has_data, self._feed = reader.gets, reader.has_data, reader.feed
        self.total = 0

    def feed(self, buffer: bytes) -> None:
        """Take what came from the socket. Raises `_Large`."""
        self.total += len(buffer)
        if self.total > MOST_BYTES:
            raise _Large
        self._feed(buffer)


class _Cut:
    """Makes answers of raw bytes, and keeps of each value and entry its beginning."""

    def __init__(
        self, raw: bytearray, more: Callable[[], None], error: Callable[[str], Exception]
    ) -> None:
        """`more` appends to `raw` what comes next; `error` makes the error of an error's words."""
        self.raw = raw
        self._at = 0
        self._more = more
        self._error = error
        self._kept = 0

    def has_data(self) -> bool:
        """Tell whether something is left."""
        return len(self.raw) > self._at

    def answer(self) -> Any:  # noqa: ANN401 -- Redis
        """Return the next answer. Raises `TooMuch`."""
        kind, said = self._line()
        if kind == b"$":
            size = int(said)
            return None if size < 0 else self._value(size, VALUE_BYTES)
        if kind == b"*":
            return self._list(int(said))
        if kind == b":":
            return int(said)
        return self._error(said.decode(errors="replace")) if kind == b"-" else said

    def _list(self, length: int) -> list[Any] | None:
        if length < 0:
            return None
        found: list[Any] = []
        for at in range(length):
            self._keep(0)
            is_pair = at == 1 and length == 2 and _is_id(found[0])  # noqa: PLR2004
            found.append(self._entry() if is_pair and self._comes(b"*") else self.answer())
        return found

    def _entry(self) -> Any:  # noqa: ANN401 -- Redis
        """Return the fields of an entry; what is none, as it is."""
        _, said = self._line()
        length = int(said)
        if length <= 0 or length % 2:
            return self._list(length)
        fields, kept, left = CutFields(), 0, length // 2
        while left:
            if kept >= ENTRY_BYTES:
                left -= self._pass_over(left, fields)
                if not left:
                    break
            if not self._is_value_next():  # then it is no entry
                return [*fields, *(self._list(2 * left) or ())]
            left -= 1
            name_bytes = self._size()
            is_event = name_bytes == len(_EVENT) and self._comes(_EVENT)
            most = VALUE_BYTES if kept < ENTRY_BYTES or is_event else 0
            name = self._value(name_bytes, most)
            if not self._is_value_next():
                return [*fields, name, *(self._list(2 * left + 1) or ())]
            value_bytes = self._size()
            value = self._value(value_bytes, most)
            fields.size_bytes += name_bytes + value_bytes
            if name or value:
                fields += name, value
                kept += len(name) + len(value)
        return fields

    def _pass_over(self, pairs: int, fields: CutFields) -> int:
        """Pass over names and values that are here whole, up to an event; return how many pairs.

        There may be millions, while the lease runs: so it makes no objects and no calls for each.
        """
        raw, at, end, done, size = self.raw, self._at, len(self.raw), 0, 0
        while done < pairs and at < end and raw[at] == _BULK:
            line = raw.find(b"\r\n", at)
            value = line + 4 + (name_bytes := int(raw[at + 1 : line])) if line > 0 else end
            if value >= end or raw[value] != _BULK or raw.startswith(b"event\r\n", line + 2):
                break
            line = raw.find(b"\r\n", value)
            after = line + 4 + (value_bytes := int(raw[value + 1 : line])) if line > 0 else end + 1
            if after > end:
                break
            at, done, size = after, done + 1, size + name_bytes + value_bytes
        self._at = at
        fields.size_bytes += size
        return done

    def _size(self) -> int:
        return int(self._line()[1])

    def _value(self, size: int, most: int) -> bytes:
        """Return at most so many bytes of a value that has `size`."""
        most = min(size, most)
        value = self._peek(most)
        self._skip(size + 2)
        if most:
            self._keep(most)
        return value

    def _is_value_next(self) -> bool:
        return self._comes(b"$") and not self._comes(b"$-")

    def _comes(self, beginning: bytes) -> bool:
        return self._peek(len(beginning)) == beginning

    def _peek(self, count: int) -> bytes:
        while len(self.raw) - self._at < count:
            self._more()
        return bytes(self.raw[self._at : self._at + count])

    def _skip(self, count: int) -> None:
        while (there := len(self.raw) - self._at) < count:
            count -= there
            self.raw.clear()
            self._at = 0
            self._more()
        self._at += count

    def _line(self) -> tuple[bytes, bytes]:
        """Return the kind of what comes, and what its line says."""
        while (end := self.raw.find(b"\r\n", self._at)) < 0:
            self._more()
        line = bytes(self.raw[self._at : end])
        self._at = end + 2
        if self._at > VALUE_BYTES:
            del self.raw[: self._at]
            self._at = 0
        return line[:1], line[1:]

    def _keep(self, size_bytes: int) -> None:
        self._kept += size_bytes + _OBJECT_BYTES
        if self._kept > MOST_KEPT_BYTES:
            raise TooMuch(f"the answer has more than {MOST_KEPT_BYTES >> 20} MiB: none of ours has")


def _is_id(value: Any) -> bool:  # noqa: ANN401 -- Redis
    return isinstance(value, bytes) and _ID.fullmatch(value) is not None
