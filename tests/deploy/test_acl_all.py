"""Every command of the server, and keys of every kind, as each user of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any, Final

import pytest
import redis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.deploy.harness import DEPLOY, USERS, Server, granted, only_on
from tests.proofs import sampled

pytestmark = pytest.mark.server

ALWAYS: Final = {"auth", "hello", "quit", "reset"}
"""What a server lets anybody send."""
BELOW: Final = {
    "acl": "cat deluser dryrun genpass getuser list load log save setuser users whoami",
    "client": "caching getname getredir id info kill list no-evict pause reply setname tracking"
    " trackinginfo unblock unpause",
    "cluster": "addslots delslots failover flushslots forget getkeysinslot info meet nodes"
    " replicate reset setslot slots",
    "command": "count getkeys info", "config": "get resetstat rewrite set",
    "latency": "doctor history reset", "memory": "doctor purge stats usage",
    "module": "list load unload", "object": "encoding freq idletime refcount",
    "pubsub": "channels numpat numsub", "script": "debug exists flush kill load",
    "slowlog": "get len reset",
    "xgroup": "create createconsumer delconsumer destroy setid", "xinfo": "consumers groups stream",
}  # fmt: skip
"""What Redis 6.2 does not tell of: the commands below one."""
SAMPLE: Final = ("sidecar", "halter")
REFUSED: Final = ("to run the", "command not allowed")
"""To this user; to all, as DEBUG and MODULE are from 7.0 on."""

KEYED: Final[dict[str, tuple[str, ...]]] = {
    "persist": ("KEY",), "type": ("KEY",), "exists": ("KEY",),
    "get": ("KEY",), "pttl": ("KEY",), "del": ("KEY",),
    "set": ("KEY", "v"), "expire": ("KEY", "1000"), "hget": ("KEY", "f"), "hmget": ("KEY", "f"),
    "hgetall": ("KEY",), "hscan": ("KEY", "0"), "hexists": ("KEY", "f"),
    "hset": ("KEY", "f", "v"), "hdel": ("KEY", "f"),
    "hsetnx": ("KEY", "f", "v"), "hincrby": ("KEY", "f", "1"), "getset": ("KEY", "v"),
    "getrange": ("KEY", "0", "9"), "sadd": ("KEY", "m"), "srem": ("KEY", "m"),
    "sscan": ("KEY", "0"), "xlen": ("KEY",), "xrange": ("KEY", "-", "+"),
    "xrevrange": ("KEY", "+", "-"), "xadd": ("KEY", "*", "f", "v"), "xdel": ("KEY", "1-1"),
    "xtrim": ("KEY", "MAXLEN", "9"), "xack": ("KEY", "g", "1-1"), "xpending": ("KEY", "g"),
    "xclaim": ("KEY", "g", "c", "0", "1-1"), "xread": ("STREAMS", "KEY", "0"),
    "xreadgroup": ("GROUP", "g", "c", "STREAMS", "KEY", ">"), "xinfo|stream": ("KEY",),
    "memory|usage": ("KEY",),
    "xinfo|groups": ("KEY",), "xgroup|create": ("KEY", "g", "0"), "xgroup|setid": ("KEY", "g", "0"),
}  # fmt: skip
KEYLESS: Final = {
    "ping", "role", "cluster|slots", "info", "wait", "time", "scan", "multi", "exec", "evalsha",
    "script|load", "script|exists", "script|kill",
}  # fmt: skip


def patterns(user: str) -> list[str]:
    """Return which keys the file gives a user."""
    lines = (DEPLOY / "redis" / "users.acl").read_text().splitlines()
    words = next(line for line in lines if line.startswith(f"user {user} ")).split()
    return [word[1:] for word in words if word.startswith("~")]


def commands(admin: redis.Redis) -> Iterator[list[str]]:
    """Yield every command of the server, with as many arguments as it wants."""
    admin.set_response_callback("COMMAND", lambda answer, **_: answer)
    listed: Any = admin.execute_command("COMMAND")  # type: ignore[no-untyped-call]
    for name, arity, *rest in listed:
        more = rest[7] if len(rest) > 7 else []
        for below, least, *_ in more:
            yield [*below.decode().split("|"), *["x"] * (abs(least) - 2)]
        if not more and name.decode() in BELOW:
            for word in BELOW[name.decode()].split():
                yield [name.decode(), word, *["x"] * 5]
        elif not more:
            yield [name.decode(), *["x"] * (abs(arity) - 1)]


def name_of(command: list[str]) -> str:
    """Return a command as the file writes it."""
    below = command[0] in BELOW or command[0] in {"function"}
    return "|".join(command[: 2 if below else 1])


def refused(server: Server, user: str, all_of_them: list[list[str]]) -> Iterator[str]:
    """Yield the commands that the server does not let a user run, whatever the keys."""
    first = {command: min(keys) for command, keys in only_on(user).items()}
    with closing(server.client(user)) as client:
        for command in all_of_them:
            if command[0] in first:
                command[1] = first[command[0]]
            try:
                client.execute_command(*command)  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                if any(words in str(error) for words in REFUSED):
                    yield name_of(command)
                    continue
            except (redis.RedisError, ValueError, IndexError, KeyError, TypeError):
                pass  # it is let through, and its arguments make no sense
            client.connection_pool.disconnect()  # it may wait in a transaction


@pytest.mark.parametrize("user", sampled(USERS, SAMPLE))
def test_of_all_commands_a_user_may_send_those_of_its_line(server: Server, user: str) -> None:
    """Each other one is refused, whatever the server can do."""
    with closing(server.client("admin")) as admin:
        everything = [one for one in commands(admin) if name_of(one) not in ALWAYS]
    names = set(map(name_of, everything))
    assert len(names) > 200
    assert granted(user) <= names
    assert names - set(refused(server, user, everything)) == granted(user)


def test_every_grant_is_in_the_tables() -> None:
    """A command that is granted anew is tried with keys, too."""
    for user in USERS:
        assert granted(user) <= KEYED.keys() | KEYLESS


def _words(command: str, key: str) -> list[str]:
    return [*command.split("|"), *(key if word == "KEY" else word for word in KEYED[command])]


def _may(client: redis.Redis, user: str, key: str) -> dict[str, bool]:
    """Tell of each command with keys that the user has whether it may send it for this key."""
    names = sorted(granted(user) & KEYED.keys())
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.execute_command(*_words(name, key))  # type: ignore[no-untyped-call]
        answers = pipeline.execute(raise_on_error=False)
    denied = redis.exceptions.NoPermissionError
    return {name: not isinstance(one, denied) for name, one in zip(names, answers, strict=True)}


near: Final = st.sampled_from([
    "control:events", "control:notifications", "{control:notifications}",
    "{control:notifications}:",
    "{control:notifications}:seen:0000", "{control:notifications}:halt:control:events",
    "{control:notifications}:reader:controller", "{control:notifications}:fence:control:events",
    "{control:notifications}:resent", "{control:notifications}:redriven",
    "{control:notifications}:dead", "{control:notifications}:halts",
    "{control:notifications}:registered", "",
])  # fmt: skip
keys: Final = st.builds(
    lambda base, at, cut, put: base[:at] + put + base[at + cut :],
    near, st.integers(0, 50), st.integers(0, 2), st.text("{}:*?[]\\ax0", max_size=3),
)  # fmt: skip


@pytest.mark.parametrize("user", sampled(USERS, SAMPLE))
def test_a_user_reaches_the_keys_of_its_patterns(server: Server, user: str) -> None:
    """Whatever a key is called: what the patterns take is let through, all else is refused.

    So is a command that is granted for one key, for every other.
    """
    given_to, only = patterns(user), only_on(user)

    with closing(server.client(user)) as client:

        @settings(
            max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(keys)
        def reaches(key: str) -> None:
            assume(key)
            assume(not set("?[]\\") & set("".join(given_to)))
            matches = any(fnmatchcase(key, pattern) for pattern in given_to)
            for command, may in _may(client, user, key).items():
                named = command not in only or key in only[command]
                assert may == (matches and named), command

        reaches()
    server.call("admin", "FLUSHALL")
