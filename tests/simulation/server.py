"""A small Redis in this process: the commands that the sidecar sends, and its Lua scripts.

It knows nothing of connections or time: `execute` applies one command at once, by the clock that
it was given. A differential test holds it against a real server. Keys, names and values are bytes;
an answer is what a RESP2 parser makes of it: bytes, int, None, a list, or an error as a value.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from lupa import lua51
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError

from tests.simulation.streams import (
    LAST,
    Group,
    Id,
    Pending,
    Stream,
    bound,
    parse_id,
    show_id,
)

Fields = list[bytes]
OK: Final = b"OK"
WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"
NO_GROUP: Final = "NOGROUP No such key '%s' or consumer group '%s'%s"


class Refused(Exception):
    """A command's error; its words are the server's."""


class Blocked(Exception):
    """A read has to wait for entries of `stream`, for `timeout_ms` at most, 0 is for ever.

    It is a group's, or anyone's who has read up to `after`.
    """

    def __init__(
        self, stream: bytes, group: bytes | None, timeout_ms: int, after: Id = (0, 0)
    ) -> None:
        super().__init__(stream, group, timeout_ms, after)  # all of it: it may cross processes
        self.stream, self.group, self.timeout_ms, self.after = stream, group, timeout_ms, after


def error_of(refused: Refused) -> RedisError:
    """Return what redis-py makes of an error's words."""
    error: RedisError = BaseParser.parse_error(str(refused))  # type: ignore[no-untyped-call]
    return error


class Server:
    """Keys and what they hold. Give `now_us` the server's clock: microseconds since the epoch."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.data: dict[bytes, Any] = {}
        self.expires_ms: dict[bytes, int] = {}
        self.scripts: dict[bytes, bytes] = {}
        self.refuse: Callable[[bytes, bool], str | None] = lambda _key, _goes_on: None
        """Says why a write to a key is refused; is told whether its script has written before."""
        self.appended: Callable[[bytes, Id, Fields], None] = lambda _key, _id, _fields: None
        """Is told of every entry appended, at the moment that it can be read."""
        self.acknowledged: Callable[[bytes, Id], None] = lambda _key, _id: None
        """Is told of every entry taken off a pending list by XACK."""
        self.delivered: Callable[[bytes, Id], None] = lambda _key, _id: None
        """Is told of every entry that a group hands out for the first time."""
        self.removed: Callable[[bytes, Sequence[Id]], None] = lambda _key, _ids: None
        """Is told of entries that are there no more, whatever took them."""
        self.admits: Callable[[bytes, Sequence[bytes], bool], str | None] = lambda *_: None
        """Says why a command is refused; is told whether its script has written before."""
        self.renamed: Callable[[bytes, bytes], None] = lambda _old, _new: None
        self.run_id = b"%040x" % 1
        self.changes = 0
        """Counts what commands changed."""
        self._has_written = False
        """Whether the script that runs sent a command that writes, changed it anything or not."""
        self._now_us = now_us
        self._lua = _Lua.shared()

    def execute(self, args: Sequence[bytes], *, may_block: bool = False) -> Any:
        """Apply one command; return its answer, an error as a value. Raises `Blocked`."""
        try:
            return self.call(args, may_block=may_block)
        except Refused as refused:
            return error_of(refused)

    def call(self, args: Sequence[bytes], *, may_block: bool = False) -> Any:
        """Apply one command. Raises `Refused`, and `Blocked` when it `may_block`."""
        self._has_written = False
        if self.expires_ms:
            self._expire()
        return self.apply(args, may_block=may_block)

    def apply(self, args: Sequence[bytes], *, may_block: bool = False) -> Any:
        """Apply one command, maybe a script's."""
        name = args[0]
        if name not in _KNOWN:
            name = name.upper()
        why = self.admits(name, args, self._has_written)
        if why:
            raise Refused(why)
        handler = _HANDLERS.get(name)
        if handler is None:
            return self._read(name, args[1:], may_block=may_block)
        if name in _WRITES:
            why = self.refuse(args[1], self._has_written) if name in _GROWS else None
            if why:
                raise Refused(why)
            self._has_written = True
        return handler(self, args[1:])

    def _read(self, name: bytes, args: Sequence[bytes], *, may_block: bool) -> Any:
        if name == b"XREADGROUP":
            return self._xreadgroup(args, may_block=may_block)
        if name == b"XREAD":
            return self._xread(args, may_block=may_block)
        raise Refused(f"ERR unknown command '{name.decode()}'")

    def _expire(self) -> None:
        now_ms = self._now_us() // 1000
        if min(self.expires_ms.values()) > now_ms:
            return
        for key in [key for key, at in self.expires_ms.items() if at <= now_ms]:
            del self.expires_ms[key]
            self.data.pop(key, None)  # never a stream: the sidecar gives none an end

    def _get(self, key: bytes, kind: type) -> Any:
        value = self.data.get(key)
        if value is not None and type(value) is not kind:
            raise Refused(WRONG_TYPE)
        return value

    # --- keys, strings, hashes -----------------------------------------------------------------

    def _ping(self, _: Sequence[bytes]) -> bytes:
        return b"PONG"

    def _time(self, _: Sequence[bytes]) -> list[bytes]:
        return [b"%d" % part for part in divmod(self._now_us(), 1_000_000)]

    def _set(self, args: Sequence[bytes]) -> bytes | None:
        key, value = args[:2]
        if b"NX" in args and key in self.data:
            return None
        self.data[key] = value
        self.expires_ms.pop(key, None)
        for unit, unit_ms in ((b"PX", 1), (b"EX", 1000)):
            if unit in args:
                lasts_ms = int(args[args.index(unit) + 1]) * unit_ms
                self.expires_ms[key] = self._now_us() // 1000 + lasts_ms
        self.changes += 1
        return OK

    def _get_string(self, args: Sequence[bytes]) -> bytes | None:
        value: bytes | None = self._get(args[0], bytes)
        return value

    def _getset(self, args: Sequence[bytes]) -> bytes | None:
        before = self._get_string(args)
        self._set(args)
        return before

    def _getrange(self, args: Sequence[bytes]) -> bytes:
        first, last = int(args[1]), int(args[2])
        return (self._get_string(args) or b"")[first : last + 1]

    def _sadd(self, args: Sequence[bytes]) -> int:
        found: set[bytes] | None = self._get(args[0], set)
        if found is None:
            found = self.data[args[0]] = set()
        new = set(args[1:]) - found
        found |= new
        self.changes += len(new)
        return len(new)

    def _srem(self, args: Sequence[bytes]) -> int:
        found: set[bytes] = self._get(args[0], set) or set()
        gone = found.intersection(args[1:])
        found -= gone
        self.changes += len(gone)
        if gone and not found:
            self._remove(args[0])
        return len(gone)

    def _sscan(self, args: Sequence[bytes]) -> list[Any]:
        return [b"0", sorted(self._get(args[0], set) or ())]

    def _pttl(self, args: Sequence[bytes]) -> int:
        if args[0] not in self.data:
            return -2
        at = self.expires_ms.get(args[0])
        return -1 if at is None else at - self._now_us() // 1000

    def _expire_in(self, args: Sequence[bytes], unit_ms: int = 1000) -> int:
        if args[0] not in self.data:
            return 0
        self.expires_ms[args[0]] = self._now_us() // 1000 + int(args[1]) * unit_ms
        self.changes += 1
        return 1

    def _pexpire_in(self, args: Sequence[bytes]) -> int:
        return self._expire_in(args, 1)

    def _ttl(self, args: Sequence[bytes]) -> int:
        left_ms = self._pttl(args)
        return left_ms if left_ms < 0 else (left_ms + 500) // 1000

    def _persist(self, args: Sequence[bytes]) -> int:
        found = self.expires_ms.pop(args[0], None) is not None
        self.changes += found
        return int(found)

    def _del(self, args: Sequence[bytes]) -> int:
        found = [key for key in args if key in self.data]
        for key in found:
            self._remove(key)
        return len(found)

    def _remove(self, key: bytes) -> None:
        self.changes += 1
        value = self.data.pop(key)
        self.expires_ms.pop(key, None)
        if type(value) is Stream:
            self.removed(key, value.ids)

    def _type(self, args: Sequence[bytes]) -> bytes:
        kinds = {bytes: b"string", dict: b"hash", set: b"set", Stream: b"stream"}
        value = self.data.get(args[0])
        return b"none" if value is None else kinds[type(value)]

    def _rename(self, args: Sequence[bytes]) -> bytes:
        old, new = args
        if old not in self.data:
            raise Refused("ERR no such key")
        if old == new:
            return OK
        if new in self.data:
            self._remove(new)
        value = self.data.pop(old)
        self.data[new] = value
        self.expires_ms.pop(new, None)
        if old in self.expires_ms:
            self.expires_ms[new] = self.expires_ms.pop(old)
        self.changes += 1
        self.renamed(old, new)
        return OK

    def _renamenx(self, args: Sequence[bytes]) -> int:
        if args[0] in self.data and args[1] in self.data:
            return 0
        self._rename(args)
        return 1

    def _flush(self, _: Sequence[bytes]) -> bytes:
        for key in list(self.data):
            self._remove(key)
        return OK

    def _scan(self, args: Sequence[bytes]) -> list[Any]:
        words = {name.upper(): value for name, value in zip(args[1::2], args[2::2], strict=True)}
        pattern, kind = words.get(b"MATCH", b"*"), words.get(b"TYPE")
        keys = [
            key
            for key in self.data
            if fnmatchcase(key, pattern) and kind in (None, self._type([key]))
        ]
        return [b"0", keys]

    def _dbsize(self, _: Sequence[bytes]) -> int:
        return len(self.data)

    def _info(self, _: Sequence[bytes]) -> bytes:
        return b"\r\n".join([
            b"# Server", b"redis_version:7.2.4", b"redis_mode:standalone",
            b"run_id:" + self.run_id, b"server_time_usec:%d" % self._now_us(),
            b"# Memory", b"used_memory:1", b"maxmemory:0",
            b"maxmemory_policy:noeviction", b"# Replication", b"role:master",
            b"master_replid:" + self.run_id,
            b"connected_slaves:0", b"# Cluster", b"cluster_enabled:0", b"",
        ])  # fmt: skip

    def _role(self, _: Sequence[bytes]) -> list[Any]:
        return [b"master", 0, []]

    def _exists(self, args: Sequence[bytes]) -> int:
        return sum(key in self.data for key in args)

    def _hset(self, args: Sequence[bytes]) -> int:
        found = self._hash(args[0])
        before = len(found)
        found.update(zip(args[1::2], args[2::2], strict=True))
        self.changes += 1
        return len(found) - before

    def _hsetnx(self, args: Sequence[bytes]) -> int:
        found = self._hash(args[0])
        if args[1] in found:
            return 0
        found[args[1]] = args[2]
        self.changes += 1
        return 1

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] | None = self._get(key, dict)
        if found is None:
            found = self.data[key] = {}
        return found

    def _hget(self, args: Sequence[bytes]) -> bytes | None:
        return (self._get(args[0], dict) or {}).get(args[1])

    def _hmget(self, args: Sequence[bytes]) -> list[bytes | None]:
        found = self._get(args[0], dict) or {}
        return [found.get(name) for name in args[1:]]

    def _hgetall(self, args: Sequence[bytes]) -> list[bytes]:
        return [part for pair in (self._get(args[0], dict) or {}).items() for part in pair]

    def _hexists(self, args: Sequence[bytes]) -> int:
        return int(args[1] in (self._get(args[0], dict) or {}))

    def _hdel(self, args: Sequence[bytes]) -> int:
        found = self._get(args[0], dict) or {}
        gone = [name for name in args[1:] if found.pop(name, None) is not None]
        self.changes += len(gone)
        if gone and not found:
            self._remove(args[0])
        return len(gone)

    def _hlen(self, args: Sequence[bytes]) -> int:
        return len(self._get(args[0], dict) or {})

    def _hkeys(self, args: Sequence[bytes]) -> list[bytes]:
        return list(self._get(args[0], dict) or {})

    def _hvals(self, args: Sequence[bytes]) -> list[bytes]:
        return list((self._get(args[0], dict) or {}).values())

    def _hscan(self, args: Sequence[bytes]) -> list[Any]:
        return [b"0", self._hgetall(args[:1])]

    def _incr(self, args: Sequence[bytes]) -> int:
        value = int(self._get(args[0], bytes) or b"0") + (int(args[1]) if len(args) > 1 else 1)
        self.data[args[0]] = b"%d" % value
        self.changes += 1
        return value

    def _mget(self, args: Sequence[bytes]) -> list[bytes | None]:
        found = [self.data.get(key) for key in args]
        return [value if type(value) is bytes else None for value in found]

    def _hincrby(self, args: Sequence[bytes]) -> int:
        found = self._hash(args[0])
        value = int(found.get(args[1], b"0")) + int(args[2])
        found[args[1]] = b"%d" % value
        self.changes += 1
        return value

    # --- streams -------------------------------------------------------------------------------

    def _stream(self, key: bytes) -> Stream:
        stream: Stream | None = self._get(key, Stream)
        return stream if stream is not None else Stream()

    def _xadd(self, args: Sequence[bytes]) -> bytes | None:
        key, wanted, *fields = args
        if wanted == b"NOMKSTREAM":
            if key not in self.data:
                return None
            wanted, *fields = fields
        if wanted == b"MAXLEN":  # and "~": of so few entries as are here none goes
            fields = fields[1:] if fields[0] in (b"~", b"=") else fields
            wanted, *fields = fields[1:]
        stream = self._stream(key)
        if wanted == b"*":
            now_ms = self._now_us() // 1000
            last_ms, seq = stream.last
            entry_id = (now_ms, 0) if now_ms > last_ms else (last_ms, seq + 1)
        else:
            entry_id = parse_id(wanted)
            if entry_id == (0, 0):
                raise Refused("ERR The ID specified in XADD must be greater than 0-0")
            if stream.last == LAST:
                raise Refused("ERR The stream has exhausted the last possible ID")
            if entry_id <= stream.last:
                raise Refused(
                    "ERR The ID specified in XADD is equal or smaller than the target stream top"
                    " item"
                )
        self.data[key] = stream
        stream.add(entry_id, fields)
        self.changes += 1
        self.appended(key, entry_id, fields)
        return show_id(entry_id)

    def _xdel(self, args: Sequence[bytes]) -> int:
        stream = self._stream(args[0])
        gone = [each for each in map(parse_id, args[1:]) if stream.delete(each)]
        self.changes += len(gone)
        if gone:
            self.removed(args[0], gone)
        return len(gone)

    def _xtrim(self, args: Sequence[bytes]) -> int:
        """Trim exactly: of nodes as coarse as a real server's, there are none here."""
        key, strategy, *rest = args
        limit = rest[1] if rest[0] in (b"=", b"~") else rest[0]
        stream = self._stream(key)
        if strategy.upper() == b"MAXLEN":
            gone = stream.ids[: max(0, len(stream.ids) - int(limit))]
        else:
            gone = stream.ids[: bisect_left(stream.ids, parse_id(limit))]
        stream.trim(len(gone))
        self.changes += len(gone)
        if gone:
            self.removed(key, gone)
        return len(gone)

    def _xsetid(self, args: Sequence[bytes]) -> bytes:
        if args[0] not in self.data:
            raise Refused("ERR no such key")
        stream, wanted = self._stream(args[0]), parse_id(args[1])
        if stream.ids and wanted < stream.ids[-1]:
            raise Refused(
                "ERR The ID specified in XSETID is smaller than the target stream top item"
            )
        stream.last = wanted
        self.changes += 1
        return OK

    def _xlen(self, args: Sequence[bytes]) -> int:
        return len(self._stream(args[0]).ids)

    def _xrange(self, args: Sequence[bytes]) -> list[Any]:
        stream = self._stream(args[0])
        ids = stream.between(bound(args[1], low=True), bound(args[2], low=False))
        return [_entry(stream, each) for each in ids[: _count(args[3:])]]

    def _xrevrange(self, args: Sequence[bytes]) -> list[Any]:
        stream = self._stream(args[0])
        ids = stream.between(bound(args[2], low=True), bound(args[1], low=False))[::-1]
        return [_entry(stream, each) for each in ids[: _count(args[3:])]]

    def _xinfo(self, args: Sequence[bytes]) -> list[Any]:
        kind, key = args[0].upper(), args[1]
        if key not in self.data:
            raise Refused("ERR no such key")
        stream = self._stream(key)
        if kind == b"GROUPS":
            return [
                [
                    b"name", name, b"consumers", len(group.consumers),
                    b"pending", len(group.pending), b"last-delivered-id", show_id(group.last),
                    b"entries-read", group.read, b"lag", stream.lag(group),
                ]
                for name, group in sorted(stream.groups.items())
            ]  # fmt: skip
        if kind == b"CONSUMERS":
            group = self._group(key, args[2], "")
            return [
                [b"name", name, b"pending", len(group.ids_of(name)), b"idle", 0, b"inactive", -1]
                for name in sorted(group.consumers)
            ]
        return [
            b"length", len(stream.ids), b"last-generated-id", show_id(stream.last),
            b"max-deleted-entry-id", show_id(stream.deleted), b"entries-added", stream.added,
            b"groups", len(stream.groups),
            b"first-entry", _entry(stream, stream.ids[0]) if stream.ids else None,
            b"last-entry", _entry(stream, stream.ids[-1]) if stream.ids else None,
        ]  # fmt: skip

    def _xgroup(self, args: Sequence[bytes]) -> Any:
        what, key, name = args[0].upper(), args[1], args[2]
        if key not in self.data and b"MKSTREAM" not in args:
            raise Refused(
                "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may"
                " want to use the MKSTREAM option to create an empty stream automatically."
            )
        stream = self._stream(key)
        if what == b"CREATE":
            if name in stream.groups:
                raise Refused("BUSYGROUP Consumer Group name already exists")
            self.data[key] = stream
            stream.groups[name] = Group(_start(stream, args[3]))
            self.changes += 1
            return OK
        if what == b"DESTROY":
            self.changes += name in stream.groups
            return int(stream.groups.pop(name, None) is not None)
        group = stream.groups.get(name)
        if group is None:
            raise Refused(
                f"NOGROUP No such consumer group '{name.decode()}' for key name '{key.decode()}'"
            )
        self.changes += 1
        if what == b"SETID":
            group.last, group.read = _start(stream, args[3]), None
            return OK
        if what == b"CREATECONSUMER":
            before = len(group.consumers)
            group.consumers.add(args[3])
            return len(group.consumers) - before
        return group.drop_consumer(args[3])

    def _xack(self, args: Sequence[bytes]) -> int:
        group = self._stream(args[0]).groups.get(args[1])
        acknowledged = 0
        for raw in args[2:]:
            entry_id = parse_id(raw)
            if group and group.pending.pop(entry_id, None):
                acknowledged += 1
                self.acknowledged(args[0], entry_id)
        self.changes += acknowledged
        return acknowledged

    def _xpending(self, args: Sequence[bytes]) -> list[Any]:
        group = self._group(args[0], args[1], "")
        if len(args) > 2:
            return self._pending_entries(group, args[2:])
        if not group.pending:
            return [0, None, None, None]
        by_consumer: dict[bytes, int] = {}
        for each in group.pending.values():
            by_consumer[each.consumer] = by_consumer.get(each.consumer, 0) + 1
        counts = [[name, b"%d" % count] for name, count in sorted(by_consumer.items())]
        return [
            len(group.pending), show_id(min(group.pending)), show_id(max(group.pending)), counts,
        ]  # fmt: skip

    @staticmethod
    def _pending_entries(group: Group, args: Sequence[bytes]) -> list[Any]:
        low, high = bound(args[0], low=True), bound(args[1], low=False)
        consumer = args[3] if len(args) > 3 else None
        found = [
            [show_id(entry_id), each.consumer, 0, each.deliveries]
            for entry_id, each in sorted(group.pending.items())
            if low <= entry_id <= high and consumer in (None, each.consumer)
        ]
        return found[: int(args[2])]

    def _group(self, key: bytes, name: bytes, then: str) -> Group:
        group = self._stream(key).groups.get(name)
        if group is None:
            raise Refused(NO_GROUP % (key.decode(), name.decode(), then))
        return group

    def _xreadgroup(self, args: Sequence[bytes], *, may_block: bool) -> Any:
        _, group_name, consumer, *options = args
        at = options.index(b"STREAMS")
        key, start = options[at + 1], options[at + 2]
        words = dict(zip(options[:at:2], options[1:at:2], strict=True))
        count = int(words.get(b"COUNT", b"0")) or None
        group = self._group(key, group_name, " in XREADGROUP with GROUP option")
        group.consumers.add(consumer)
        stream = self._stream(key)
        if start != b">":
            return [[key, self._history(stream, group, consumer, parse_id(start), count)]]
        ids = stream.after(group.last)[:count]
        if not ids and may_block and b"BLOCK" in words:
            raise Blocked(key, group_name, int(words[b"BLOCK"]))
        for entry_id in ids:
            group.pending[entry_id] = Pending(consumer, 1)
            stream.advance(group, entry_id)
            self.changes += 1
            self.delivered(key, entry_id)
        return [[key, [_entry(stream, each) for each in ids]]] if ids else None

    def _xread(self, args: Sequence[bytes], *, may_block: bool) -> Any:
        at = list(args).index(b"STREAMS")
        key, start = args[at + 1], args[at + 2]
        words = dict(zip(args[:at:2], args[1:at:2], strict=True))
        stream = self._stream(key)
        after = _start(stream, start)
        ids = stream.after(after)[: int(words.get(b"COUNT", b"0")) or None]
        if not ids and may_block and b"BLOCK" in words:
            raise Blocked(key, None, int(words[b"BLOCK"]), after)
        return [[key, [_entry(stream, each) for each in ids]]] if ids else None

    def _xclaim(self, args: Sequence[bytes]) -> list[Any]:
        """Claim what is pending; how long it was idle is not known here."""
        key, name, consumer, _, *rest = args
        group, stream = self._group(key, name, ""), self._stream(key)
        ids = [parse_id(raw) for raw in rest if raw[:1].isdigit()]
        just_id = b"JUSTID" in rest
        group.consumers.add(consumer)
        claimed = []
        for entry_id in ids:
            if entry_id not in group.pending and b"FORCE" in rest and entry_id in stream.fields:
                group.pending[entry_id] = Pending(consumer, 0)
            if entry_id not in group.pending:
                continue
            self.changes += 1
            if entry_id not in stream.fields:
                del group.pending[entry_id]  # a ghost goes, since Redis 7.0
                continue
            mark = group.pending[entry_id]
            mark.consumer, mark.deliveries = consumer, mark.deliveries + (not just_id)
            claimed.append(entry_id)
        return [show_id(i) if just_id else _entry(stream, i) for i in claimed]

    @staticmethod
    def _history(
        stream: Stream, group: Group, consumer: bytes, after: Id, count: int | None
    ) -> list[Any]:
        ids = [entry_id for entry_id in group.ids_of(consumer) if entry_id > after][:count]
        for entry_id in ids:
            group.pending[entry_id].deliveries += 1
        return [_entry(stream, each) for each in ids]

    # --- scripts -------------------------------------------------------------------------------

    def _script(self, args: Sequence[bytes]) -> Any:
        what = args[0].upper()
        if what == b"LOAD":
            sha = hashlib.sha1(args[1], usedforsecurity=False).hexdigest().encode()
            self.scripts[sha] = args[1]
            return sha
        if what == b"EXISTS":
            return [int(sha in self.scripts) for sha in args[1:]]
        self.scripts.clear()
        return OK

    def _evalsha(self, args: Sequence[bytes]) -> Any:
        if args[0] not in self.scripts:
            raise Refused("NOSCRIPT No matching script. Please use EVAL.")
        return self._eval([self.scripts[args[0]], *args[1:]])

    def _eval(self, args: Sequence[bytes]) -> Any:
        source, count = args[0], int(args[1])
        return self._lua.run(self, source, args[2 : 2 + count], args[2 + count :])


def _entry(stream: Stream, entry_id: Id) -> list[Any]:
    fields = stream.fields.get(entry_id)
    return [show_id(entry_id), fields and list(fields)]


def _count(options: Sequence[bytes]) -> int | None:
    return int(options[1]) if options else None


def _start(stream: Stream, raw: bytes) -> Id:
    return stream.last if raw == b"$" else parse_id(raw)


class _Lua:
    """One interpreter for all servers of this process; it keeps scripts compiled."""

    _one: _Lua | None = None

    def __init__(self) -> None:
        self._runtime = lua51.LuaRuntime(encoding=None)
        self._table = self._runtime.table_from
        self._compiled: dict[bytes, Any] = {}
        self._server: Server
        library = self._runtime.table()
        library[b"call"] = self._call
        library[b"pcall"] = self._pcall
        library[b"sha1hex"] = lambda text: (
            hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        )
        self._runtime.globals()[b"redis"] = library
        self._runtime.execute(
            b"redis.error_reply = function(words) return {err = words} end\n"
            b"redis.status_reply = function(words) return {ok = words} end\n"
            b"cjson = {null = io.stdout}"  # of a type that nothing else has
        )
        cjson = self._runtime.globals()[b"cjson"]
        self._null = cjson[b"null"]
        cjson[b"decode"] = self._decode

    @classmethod
    def shared(cls) -> _Lua:
        cls._one = cls._one or cls()
        return cls._one

    def run(self, server: Server, source: bytes, keys: Sequence[bytes], args: Any) -> Any:
        script = self._compiled.get(source)
        if script is None:
            wrapped = b"return function(KEYS, ARGV)\n" + source + b"\nend"
            script = self._compiled[source] = self._runtime.execute(wrapped)
        self._server = server
        return self._reply(script(self._table(list(keys)), self._table(list(args))))

    def _call(self, *args: Any) -> Any:
        return self._from_reply(
            self._server.apply([arg if type(arg) is bytes else _argument(arg) for arg in args])
        )

    def _pcall(self, *args: Any) -> Any:
        try:
            return self._call(*args)
        except Refused as refused:
            return self._table({b"err": str(refused).encode()})

    def _decode(self, text: bytes) -> Any:
        return self._from_json(json.loads(text))

    def _from_json(self, value: Any) -> Any:
        if value is None:
            return self._null
        if isinstance(value, str):
            return value.encode(errors="surrogatepass")
        if isinstance(value, dict):
            return self._table({k.encode(): self._from_json(v) for k, v in value.items()})
        return self._table(map(self._from_json, value)) if isinstance(value, list) else value

    def _from_reply(self, reply: Any) -> Any:
        if reply is OK:
            return self._table({b"ok": OK})
        if type(reply) is list:
            return self._table([
                item if type(item) is bytes and item is not OK else self._from_reply(item)
                for item in reply
            ])  # fmt: skip
        return False if reply is None else reply

    def _reply(self, value: Any) -> Any:
        kind = type(value)
        if kind is bytes or value is None:
            return value
        if kind is bool:
            return 1 if value else None
        if kind is int or kind is float:
            return math.trunc(value)
        if value[b"err"]:
            raise Refused(value[b"err"].decode())
        return value[b"ok"] or self._list(value)

    def _list(self, table: Any) -> list[Any]:
        """Return the items of a table up to the first nil."""
        found: list[Any] = []
        for index in range(1, len(table) + 1):
            item = table[index]
            if item is None:
                break
            found.append(item if type(item) is bytes else self._reply(item))
        return found


def _argument(arg: Any) -> bytes:
    if isinstance(arg, bytes):
        return arg
    return b"%d" % arg if isinstance(arg, int) else b"%.17g" % arg


Handler = Callable[[Server, Sequence[bytes]], Any]
_HANDLERS: Final[dict[bytes, Handler]] = {
    b"PING": Server._ping,
    b"TIME": Server._time,
    b"SET": Server._set,
    b"GET": Server._get_string,
    b"GETSET": Server._getset,
    b"GETRANGE": Server._getrange,
    b"SADD": Server._sadd,
    b"SREM": Server._srem,
    b"SSCAN": Server._sscan,
    b"PTTL": Server._pttl,
    b"EXPIRE": Server._expire_in,
    b"DEL": Server._del,
    b"EXISTS": Server._exists,
    b"HSET": Server._hset,
    b"HSETNX": Server._hsetnx,
    b"HGET": Server._hget,
    b"HMGET": Server._hmget,
    b"HGETALL": Server._hgetall,
    b"HEXISTS": Server._hexists,
    b"HDEL": Server._hdel,
    b"HINCRBY": Server._hincrby,
    b"TTL": Server._ttl,
    b"PEXPIRE": Server._pexpire_in,
    b"PERSIST": Server._persist,
    b"UNLINK": Server._del,
    b"TYPE": Server._type,
    b"RENAME": Server._rename,
    b"RENAMENX": Server._renamenx,
    b"FLUSHDB": Server._flush,
    b"FLUSHALL": Server._flush,
    b"SCAN": Server._scan,
    b"DBSIZE": Server._dbsize,
    b"INFO": Server._info,
    b"ROLE": Server._role,
    b"HLEN": Server._hlen,
    b"HKEYS": Server._hkeys,
    b"HVALS": Server._hvals,
    b"HSCAN": Server._hscan,
    b"INCR": Server._incr,
    b"INCRBY": Server._incr,
    b"MGET": Server._mget,
    b"XTRIM": Server._xtrim,
    b"XSETID": Server._xsetid,
    b"XADD": Server._xadd,
    b"XDEL": Server._xdel,
    b"XLEN": Server._xlen,
    b"XRANGE": Server._xrange,
    b"XREVRANGE": Server._xrevrange,
    b"XINFO": Server._xinfo,
    b"XGROUP": Server._xgroup,
    b"XACK": Server._xack,
    b"XPENDING": Server._xpending,
    b"XCLAIM": Server._xclaim,
    b"SCRIPT": Server._script,
    b"EVALSHA": Server._evalsha,
    b"EVAL": Server._eval,
}
_KNOWN: Final = frozenset({*_HANDLERS, b"XREADGROUP", b"XREAD"})
_GROWS: Final = frozenset({b"SET", b"GETSET", b"SADD", b"HSET", b"HSETNX", b"HINCRBY", b"XADD"})
_WRITES: Final = _GROWS | {b"DEL", b"SREM", b"HDEL", b"EXPIRE", b"PEXPIRE", b"XDEL", b"XTRIM"}
