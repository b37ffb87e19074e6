"""Whether this user may send what a worker sends, asked command by command.

Each command is sent in a form that changes nothing: it reads, or it is refused for its arguments,
which a server looks at after the rights. Two have no such form: their key is removed again. So it
is the server that answers, by whatever rules and renamed commands it has, and nobody needs a right
to ask (`ACL DRYRUN` and `ACL GETUSER` do).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.redis.client import Client, Side
from sidecar.redis.errors import NotPermitted, Refused
from sidecar.redis.keys import Keys

_NO_SHA: Final = "0" * 40
_STREAM: Final = (
    "TYPE {}", "EXISTS {}", "XINFO STREAM {}", "XRANGE {} - - COUNT 1", "XREVRANGE {} - - COUNT 1",
    "XTRIM {} MAXLEN = -1",
)  # fmt: skip
_CONTROL: Final = (
    *_STREAM, "XLEN {}", "XINFO GROUPS {}", "XPENDING {} none", "XACK {} none 0-0",
    "XGROUP CREATE {} none none", "XGROUP SETID {} none none",
    "XREADGROUP GROUP none none COUNT 1 STREAMS {} >", "XCLAIM {} none none 0 0-0",
)  # fmt: skip
_OUTBOUND: Final = (*_STREAM, "XADD {} none field value")
_BESIDE: Final = (
    "GET {}", "SET {} value none", "EXISTS {}", "EXPIRE {} 1", "PERSIST {}", "PTTL {}",
    "HGET {} f", "HMGET {} f", "HGETALL {}", "HEXISTS {} f", "HSET {} f v f", "HINCRBY {} f none",
    "HDEL {} f", "GETRANGE {} 0 0", "SREM {} m", "SSCAN {} 0", f"EVALSHA {_NO_SHA} 1 {{}}",
    "SADD {} m", "HSETNX {} f v", "DEL {}",
)  # fmt: skip
_ANYWHERE: Final = ("PING", "INFO", "TIME")
_SCRIPTS: Final = (f"SCRIPT EXISTS {_NO_SHA}", "SCRIPT LOAD return(1)", "WAIT 0 1")
_WITH_COMMANDS_BELOW: Final = ("XINFO", "XGROUP", "SCRIPT")
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


def commands() -> set[str]:
    """Return all commands that are asked for, as an ACL names them."""
    every = (*_ANYWHERE, *_SCRIPTS, *_CONTROL, *_OUTBOUND, *_BESIDE)
    return {_named(command) for command in every}


def _named(command: str) -> str:
    first, *rest = command.split()
    return f"{first}|{rest[0]}".lower() if first in _WITH_COMMANDS_BELOW else first.lower()


def _refusal(client: Client, command: str, key: str) -> str:
    words = [key if word == "{}" else word for word in command.split()]
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except NotPermitted:
        return LACKS
    except Refused as error:
        return UNKNOWN if "unknown command" in str(error).lower() else ""
    return ""
