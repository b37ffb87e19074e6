"""What others wrote into Redis, on a person's screen: every command ends, in words that steer none.

A deployment in which things have happened, and then: own keys replaced by other kinds of keys, huge
and binary values, and entries of every stream whose fields have hostile text.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis
from hypothesis import strategies as st

from sidecar.redis.keys import records_of, streams_of
from tests import servers
from tests.cli.harness import HOSTILE, KEYS, STREAM, Cli
from tests.fuzz.running import Fuzzer

_STEERS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LAST_CODE: Final = 6
STREAMS: Final = [*streams_of(KEYS), *records_of(KEYS)]
OWN: Final = sorted(
    {value for name in dir(type(KEYS)) if isinstance(getattr(type(KEYS), name), property)
     and isinstance(value := getattr(KEYS, name), str)} | {*STREAMS, KEYS.reader("r")}
)  # fmt: skip
COMMANDS: Final = [
    "status", "doctor", "audit", "tail --since 0", "dead ls", "dead ls --each", "dead history",
    "dead redrive --dry-run --reason r --all", "trace e0", "trace t/web", "replay show",
    "replay at 0s", "replay check", "pause --reason r", "resume --reason r", "config show",
    "status --json", "tail --since 0 --json", "replay show --json",
]  # fmt: skip
FIELDS: Final = [
    "event",
    "origin",
    "reason",
    "detail",
    "attempts",
    "first_seen",
    "dead_at",
    "by",
    "at",
    "what",
    "stream",
    "letter",
    "event_id",
    "entry",
    "worker",
    "from",
    "to",
    "traceparent",
    HOSTILE,
]
TEXTS: Final = [
    HOSTILE, "", "\x00", "-1", "9" * 400, f"{STREAM}/1-1", f"{HOSTILE}/1-1", "1-1", "\u2066x\n\ry",
    json.dumps({"event_id": HOSTILE, "type": HOSTILE, "tenant_id": HOSTILE, "stack_id": HOSTILE}),
    json.dumps({"event_id": "e0", "type": "run.abort", "tenant_id": HOSTILE, HOSTILE: HOSTILE,
                "artifact_ref": HOSTILE, "checksum": "sha256:" + "0" * 64}),
]  # fmt: skip


class Planted(NamedTuple):
    """A key of another kind, or an entry of a stream."""

    key: str
    kind: str
    fields: dict[str, str]


_values = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(TEXTS), min_size=1, max_size=6)
_KINDS: Final = ["string", "huge", "binary", "list", "set", "hash", "zset", "stream"]
CASES: Final = st.lists(
    st.builds(Planted, st.sampled_from(OWN), st.sampled_from(_KINDS), _values)
    | st.builds(Planted, st.sampled_from(STREAMS), st.just("entry"), _values),
    min_size=1, max_size=4,
)  # fmt: skip


@functools.cache
def _server() -> tuple[str, Path]:
    """Start a server that ends with the process; return its URL, and a directory."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    return stack.enter_context(servers.running(servers.usual())).url, Path(directory)


@functools.cache
def _whole() -> dict[bytes, bytes]:
    """Let things happen; return what Redis has then."""
    with _commands() as sidecar:
        sidecar.lay_out("source", "fleet")
        for number in range(2):
            sidecar.emit(f"e{number}", "--tenant", "t", "--stack", "web")
        sidecar.client.xadd(STREAM, {"event": "no JSON"})
        sidecar.work()
        keys: Any = sidecar.client.keys()
        return {key: sidecar.client.dump(key) or b"" for key in keys}


@contextlib.contextmanager
def _commands() -> Iterator[Cli]:
    url, directory = _server()
    with redis.Redis.from_url(url, protocol=2) as client:
        yield Cli(url, directory, client)


def _plant(client: Any, one: Planted) -> None:
    if one.kind == "entry":
        with contextlib.suppress(redis.ResponseError):  # another kind of key is there already
            client.xadd(one.key, one.fields)
        return
    client.delete(one.key)
    make = {
        "string": lambda: client.set(one.key, next(iter(one.fields.values()))),
        "huge": lambda: client.set(one.key, HOSTILE * 50_000),
        "binary": lambda: client.set(one.key, bytes(range(256))),
        "list": lambda: client.rpush(one.key, *one.fields),
        "set": lambda: client.sadd(one.key, *one.fields),
        "hash": lambda: client.hset(one.key, mapping=one.fields | {STREAM: HOSTILE}),
        "zset": lambda: client.zadd(one.key, {HOSTILE: 1.5}),
        "stream": lambda: client.xadd(one.key, one.fields),
    }
    make[one.kind]()


def _screens(sidecar: Cli) -> Iterator[str]:
    for command in COMMANDS:
        ran = sidecar(*command.split())
        assert 0 <= ran.code <= _LAST_CODE, command
        yield f"{command}: {ran.out}{ran.err}"


def check(case: list[Planted]) -> int:
    """Plant it in a whole deployment, and look at it with each command."""
    whole = _whole()
    with _commands() as sidecar:
        sidecar.client.flushall()
        for key, value in whole.items():
            sidecar.client.restore(key, 0, value)
        for one in case:
            _plant(sidecar.client, one)
        for screen in _screens(sidecar):
            assert not _STEERS.search(screen), (case, screen)
            assert "Traceback" not in screen, (case, screen)
    return 1


FUZZER: Final = Fuzzer("screens", CASES, check)
