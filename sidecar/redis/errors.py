"""What goes wrong with a Redis, named by what follows, and in words for a person.

redis-py ends in this room: elsewhere its errors are caught by the names that they have here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.redis.topology import WrongNode, WrongService
from sidecar.wire.urls import redact

RedisError = exceptions.RedisError
"""Whatever can go wrong with a command; what has no name here is a bug."""
Refused = exceptions.ResponseError
"""The server answers that it will not."""
NotPermitted = exceptions.NoPermissionError
"""It will not for this user."""
Full = exceptions.OutOfMemoryError
"""It has no memory for that."""
LoginRefused = exceptions.AuthenticationError
"""It does not let this user in. To wait does not fix it."""
Outage: Final = (
    exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse,
)  # fmt: skip
"""It is away, loading or replaced, or a proxy answers for it."""
Failed: Final = (*Outage, Refused)
"""A command was not done: one of the above."""


class NotNow(exceptions.ConnectionError):
    """The server answers that it cannot do that now: an outage, of a server that is there."""


FULL: Final = "Redis is full"
"""How a relay's state begins that waits for memory."""

_CERTIFICATE_FIXES: Final = {
    "certificate has expired": "renew the server's certificate",
    "CERTIFICATE_VERIFY_FAILED": "name the authority that signed the server's certificate with"
    " ?ssl_ca_certs=/path/ca.pem, and the host as the certificate has it",
    "CERTIFICATE_REQUIRED": "the server wants a certificate: ?ssl_certfile=…&ssl_keyfile=…",
}

_CLOSED: Final = (
    "reset by peer", "closed by server", "Timeout connecting", "EOF occurred", "WRONG_VERSION",
)  # fmt: skip
"""How it looks when one side speaks TLS and the other does not, or a certificate lacks."""
FULL_FIX: Final = (
    "; nothing is lost; what is finished is trimmed by policy all the while; raise maxmemory, or"
    " shorten --trim-control, --trim-notifications or --trim-dead, and it continues"
)
PASSES: Final = {
    "BUSY": "a script runs that does not end: SCRIPT KILL ends it, as a user who may"
    " (deploy/redis/users.acl: rescuer), and it continues",
    "LOADING": "the server reads its data from its disk; it continues when that is done",
    "MASTERDOWN": "the replica there has lost its primary; it continues with the primary",
    "READONLY": "it continues as soon as the URL leads to the primary",
    "CLUSTERDOWN": "slots of the Cluster have no owner now; see CLUSTER INFO",
    "TRYAGAIN": "a slot is being moved; it continues when that is done",
    "OOM": FULL_FIX.removeprefix("; "),
    "MISCONF": "the server cannot save to its disk; fix that, and it continues",
    "NOREPLICAS": "too few replicas are in step (min-replicas-to-write); it continues with them",
    "NOSCRIPT": "somebody flushed the scripts; workers load theirs again",
    "UNBLOCKED": "somebody ended the wait (CLIENT UNBLOCK); it begins again",
    "max number of clients": "raise maxclients, or end connections that nobody needs",
}
"""The answers that pass, each by its code, or its words, with what an operator can do. They are
waited for, as a server is that is away; docs/operating.md has them. Any other is final: to ask
again changes nothing.
"""
_SIGN: Final = re.compile(rf"(?:^|[ -])({'|'.join(PASSES)})\b")
"""In the words of an answer, or of the error of a script that met it."""
_FIXES: Final = {
    "is a replica": PASSES["READONLY"],
    "WRONGTYPE": "a key is not what its name says; `sidecar status` names it; remove it, and it"
    " continues",
    "no control_version can follow": "`sidecar status` names the fix",
    "exhausted the last possible ID": "`sidecar status` names the fix",
}


def _passing(error: Exception) -> str:
    """Return which of the answers that pass this is; empty when it is none."""
    code = getattr(error, "status_code", None)
    if code in PASSES:
        return str(code)
    sign = _SIGN.search(str(error))
    return sign[1] if sign else ""


def is_full(error: Exception) -> bool:
    """Tell whether the server refused a write because it has no memory for it."""
    return "'maxmemory'" in str(error)


def is_misplaced(error: Exception) -> bool:
    """Tell whether a key is another kind of key than the command is for."""
    return "WRONGTYPE" in str(error)


def is_absent(error: Exception) -> bool:
    """Tell whether a stream that is asked about is not there."""
    return "no such key" in str(error)


def named(error: Exception) -> Exception:
    """Return an answer as the error that it is: an outage where it passes."""
    if not isinstance(error, Refused) or not _passing(error):
        return error
    return NotNow(str(error), status_code=_passing(error))


def fix_of(error: Exception) -> str:
    """Return what a running worker's operator can do about `error`, to be put behind it."""
    passes = PASSES.get(_passing(error), "")
    fixes = [fix for words, fix in _FIXES.items() if words in str(error) and fix != passes]
    return "".join(f"; {fix}" for fix in (passes, *fixes) if fix)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into ours: `Unreachable` (exit 4) or `UsageError` (exit 2)."""
    try:
        yield
    except Outage as error:
        raise outage(url, error) from error
    except Refused as error:
        raise _refusal(url, error) from error


def _refusal(url: str, error: Exception) -> SidecarError:
    if isinstance(named(error), NotNow):
        return outage(url, named(error))
    if isinstance(error, NotPermitted):
        return UsageError(
            f"{redact(url)}: the user lacks a permission ({error}); is the name of each stream"
            " right? If so, deploy/redis/users.acl lists what the sidecar needs"
        )
    if is_misplaced(error):
        return UsageError(
            f"{redact(url)}: a key is not what its name says ({error}); `sidecar status` names it"
        )
    return SidecarError(f"{redact(url)} answers: {error}{fix_of(error)}")


def outage(url: str, error: Exception) -> SidecarError:
    """Return what an outage means: to wait is no fix when the URL is wrong."""
    if isinstance(error, LoginRefused):
        return UsageError(
            f"{redact(url)} refuses the login: {str(error).rstrip('.')}; correct user and password"
            " in the URL, or in the file that holds it"
        )
    if isinstance(error, WrongNode):
        return UsageError(f"{redact(url)} {error}")
    if isinstance(error, WrongService):
        return UsageError(
            f"{redact(url)}: nobody there knows the way ({error}); are the hosts, their ports and"
            " the name right?"
        )
    for sign, fix in _CERTIFICATE_FIXES.items():
        if sign in str(error):
            return UsageError(f"{redact(url)}: {error}; {fix}")
    if _passing(error):
        return Unreachable(f"{redact(url)} cannot do that now ({error}){fix_of(error)}")
    return Unreachable(
        f"{redact(url)} cannot be reached ({error}); is the server up and the URL right?"
        + (_tls_hint(url) if any(sign in str(error) for sign in _CLOSED) else "")
    )


def _tls_hint(url: str) -> str:
    if url.startswith("rediss"):
        return " it may be that the port speaks no TLS, or wants a certificate (?ssl_certfile=…)"
    return " it may be that the port wants TLS: rediss://"
