"""Whether this user may send what a worker sends, or another role, asked command by command.

Each command is sent in a form that changes nothing: it reads, or it is refused for its arguments,
which a server looks at after the rights. Two have no such form: their key is removed again. So it
is the server that answers, by whatever rules and renamed commands it has, and nobody needs a right
to ask (`ACL DRYRUN` and `ACL GETUSER` do).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sidecar.redis.client import Client, Side
from sidecar.redis.errors import NotPermitted, Refused
from sidecar.redis.keys import Keys

_NO_SHA: Final = "0" * 40
_STREAM: Final = (
    "TYPE {}", "EXISTS {}", "XINFO STREAM {}", "XRANGE {} - - COUNT 1", "XREVRANGE {} - - COUNT 1",
    "XTRIM {} MAXLEN = -1", "MEMORY USAGE {}",
)  # fmt: skip
_CONTROL: Final = (
    *_STREAM, "XLEN {}", "XINFO GROUPS {}", "XPENDING {} none", "XACK {} none 0-0",
    "XGROUP CREATE {} none none", "XGROUP SETID {} none none",
    "XREADGROUP GROUP none none COUNT 1 STREAMS {} >", "XCLAIM {} none none 0 0-0",
)  # fmt: skip
_OUTBOUND: Final = (*_STREAM, "XADD {} none field value")
_BESIDE: Final = (
    "GET {}", "SET {} value none", "EXISTS {}", "EXPIRE {} 1", "PERSIST {}", "PTTL {}",
    "HGET {} f", "HMGET {} f", "HGETALL {}", "HSCAN {} 0", "HEXISTS {} f", "HSET {} f v f",
    "HINCRBY {} f none", "HDEL {} f", "GETRANGE {} 0 0", "SREM {} m", "SSCAN {} 0",
    f"EVALSHA {_NO_SHA} 1 {{}}", "SADD {} m", "HSETNX {} f v", "DEL {}",
    "MEMORY USAGE {}",
)  # fmt: skip
_ANYWHERE: Final = ("PING", "INFO", "TIME")
_SCRIPTS: Final = (f"SCRIPT EXISTS {_NO_SHA}", "SCRIPT LOAD return(1)", "WAIT 0 1")
_READ: Final = (
    "TYPE {}", "XINFO STREAM {}", "XRANGE {} - - COUNT 1", "XREVRANGE {} - - COUNT 1",
)  # fmt: skip
_TAIL: Final = (*_READ, "XREAD COUNT 1 STREAMS {} $")
_QUEUE: Final = (*_READ, "XINFO GROUPS {}", "XPENDING {} none")
_APPEND: Final = ("XADD {} none field value",)
_SCRIPT: Final = (f"EVALSHA {_NO_SHA} 1 {{}}",)
_TYPED: Final = ("TYPE {}", "XINFO STREAM {}", "XRANGE {} - - COUNT 1")
_FIELD: Final = ("HGET {} f",)
_FIELDS: Final = ("HMGET {} f",)
_KEY: Final = ("GET {}", "EXISTS {}")
ROLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "producer": {"control": ("TYPE {}", *_APPEND)},
    "waiter": {
        "": ("TIME",), "control": ("XRANGE {} - - COUNT 1", "XINFO GROUPS {}", *_APPEND),
        "notifications": (*_TAIL, "EXISTS {}"), "dead": _TAIL, "low": ("GET {}",),
        "halt": (*_FIELD, *_FIELDS), "paused": ("HGETALL {}",), "workers": ("HGETALL {}",),
        "registered": ("SSCAN {} 0", "GETRANGE {} 0 0"), "readers": ("HSCAN {} 0",),
    },
    "controller": {
        "": ("TIME",), "notifications": _TAIL, "trimmed": (*_FIELD, "EXISTS {}"),
        "incarnations": _FIELD, "fleet": _FIELD, "registered": ("SADD {} ''",),
    },
    "operator": {
        "": ("INFO", "TIME"), "control": (*_QUEUE, "XLEN {}", "XREAD COUNT 1 STREAMS {} $",
        "MEMORY USAGE {}"),
        "notifications": (*_TAIL, "XLEN {}"), "dead": (*_TAIL, "XLEN {}"),
        "lease": (*_KEY, "PTTL {}"), "low": _KEY, "workers": ("HGETALL {}", "HSCAN {} 0"),
        "trimmed": (*_FIELD, *_FIELDS), "registered": ("SSCAN {} 0",), "halt": _FIELDS,
        "paused": ("HGETALL {}",), "stream": ("GETRANGE {} 0 0",),
    },
    "halter": {
        "halt": ("TYPE {}", *_FIELDS, "HSET {} f v f", "HDEL {} f", "HINCRBY {} f none", *_SCRIPT),
        "halts": _APPEND, "paused": (*_FIELD, "HGETALL {}", "HDEL {} f"), "rows": ("HDEL {} f",),
        "fence": ("EXISTS {}",),
    },
    "redriver": {
        "": ("TIME",), "control": (*_QUEUE, *_APPEND, *_SCRIPT), "notifications": _READ,
        "dead": (*_READ, "XLEN {}", "XDEL {} 0-0"), "redriven": _APPEND, "trimmed": _FIELD,
        "low": _KEY, "resent": _FIELDS, "paused": ("HGETALL {}",),
    },
    "repairer": {
        "": ("TIME",), "control": (*_QUEUE, *_APPEND, *_SCRIPT), "notifications": _READ,
        "dead": _READ, "redriven": _APPEND, "resent": (*_FIELDS, "HSET {} f v f"), "low": _KEY,
        "workers": ("HGETALL {}",), "trimmed": _FIELD, "paused": ("HGETALL {}",),
    },
    "eraser": {
        "": ("INFO", "SCAN 0 COUNT 1"), "notifications": _TYPED, "dead": _TYPED,
        "control": (*_TYPED, "XINFO GROUPS {}", "XPENDING {} none"), "low": _KEY,
        "workers": ("HGETALL {}",), "fleet": _FIELD,
        "halt": (*_SCRIPT, *_FIELDS, "HDEL {} f", "HINCRBY {} f none"), "halts": _APPEND,
        "paused": (*_FIELD, "HGETALL {}", "HDEL {} f"), "rows": ("HDEL {} f",),
        "fence": ("EXISTS {}",),
    },
    "collector": {
        "": ("INFO", "SCAN 0 COUNT 1"), "control": ("TYPE {}", "XRANGE {} - - COUNT 1",
        "XINFO STREAM {}", "XINFO GROUPS {}"), "notifications": ("XRANGE {} - - COUNT 1",),
        "dead": ("XRANGE {} - - COUNT 1",), "fleet": (*_FIELD, "EXISTS {}"),
    },
}  # fmt: skip
"""By the users of deploy/redis/users.acl, and by key, what each sends, but for what has no form
that changes nothing (`GETSET`, `HSETNX`, `MULTI`)."""
_WITH_COMMANDS_BELOW: Final = ("XINFO", "XGROUP", "SCRIPT", "MEMORY")
LACKS: Final = "may not send"
UNKNOWN: Final = "does not know"


def refused(control: Side, notify: Side, keys: Keys) -> Iterator[tuple[str, str, str]]:
    """Yield what is refused: the server's URL, `LACKS` or `UNKNOWN`, and which command on what.

    May raise `RedisError`.
    """
    probe = f"{keys.prefix}:doctor"
    wanted = (
        (control, control.at(keys.control), keys.control, (*_ANYWHERE, *_CONTROL)),
        (notify, notify.client, "", (*_ANYWHERE, *_SCRIPTS)),
        (notify, notify.client, keys.notifications, _OUTBOUND),
        (notify, notify.client, keys.dead, _OUTBOUND),
        (notify, notify.client, probe, _BESIDE),
    )
    for side, client, key, commands in wanted:
        for command in commands:
            why = _refusal(client, command, key)
            if why:
                yield side.url, why, _named(command) + (f" on {key}" if "{}" in command else "")


def lacking(role: str, control: Side, notify: Side, keys: Keys) -> Iterator[str]:
    """Yield what this user may not send, and one of `ROLES` does: which command on which key.

    May raise `RedisError`.
    """
    for attribute, commands in ROLES[role].items():
        key = str(getattr(keys, attribute)) if attribute else ""
        client = control.at(key) if attribute == "control" else notify.client
        for command in commands:
            if _refusal(client, command, key):
                yield _named(command) + (f" on {key}" if key else "")


def commands(role: str = "") -> set[str]:
    """Return all commands that are asked for, as an ACL names them; of a worker, or a role."""
    of_worker = (*_ANYWHERE, *_SCRIPTS, *_CONTROL, *_OUTBOUND, *_BESIDE)
    every = (one for each in ROLES[role].values() for one in each) if role else of_worker
    return {_named(command) for command in every}


def _named(command: str) -> str:
    first, *rest = command.split()
    return f"{first}|{rest[0]}".lower() if first in _WITH_COMMANDS_BELOW else first.lower()


def _refusal(client: Client, command: str, key: str) -> str:
    words = [{"{}": key, "''": ""}.get(word, word) for word in command.split()]
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except NotPermitted:
        return LACKS
    except Refused as error:
        return UNKNOWN if "unknown command" in str(error).lower() else ""
    return ""
