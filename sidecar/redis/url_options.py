"""What may be given in the query of a Redis URL: each option, and what its value may be.

redis-py takes all that it makes connections from. Some of that breaks what is built on them:
answers of another shape (`protocol`, `decode_responses`), or commands that are sent twice
(`retry_on_error`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

import redis

from sidecar.wire.names import nearest
from sidecar.wire.urls import Unclear

MAX_TIMEOUT_S: Final = 3600.0
_YES_OR_NO: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_CERT_REQS: Final = ("none", "optional", "required")
_OF_REDIS_PY: Final = frozenset(inspect.signature(redis.Redis).parameters)
"""No password is called so."""


class WrongOption(Unclear):
    """An option of a URL's query that may not be given, or not so; its text has no value."""


def _text(value: str) -> str:
    return value


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise Unclear(f"seconds are wanted, above 0 and up to {MAX_TIMEOUT_S:g}")
    return seconds


def _flag(value: str) -> bool:
    if value.lower() not in _YES_OR_NO:
        raise Unclear("true or false is wanted")
    return _YES_OR_NO[value.lower()]


def _readable(value: str) -> str:
    if not os.access(value, os.R_OK):
        raise Unclear("it names no file that can be read")
    return value


def _cert_reqs(value: str) -> str:
    if value not in _CERT_REQS:
        raise Unclear(f"one of {', '.join(_CERT_REQS)} is wanted")
    return value


def database(value: str) -> int:
    """Return the number of a database. Raises `Unclear`."""
    if not (value.isascii() and value.isdecimal() and len(value) < len("100000")):
        raise Unclear("a database is a number, 0 in most cases")
    return int(value)


Values = dict[str, Callable[[str], Any]]

_EVERY: Final[Values] = {
    "username": _text, "password": _text, "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds, "socket_keepalive": _flag,
}  # fmt: skip
_TLS: Final[Values] = {
    "ssl_ca_certs": _readable, "ssl_ca_path": _readable, "ssl_certfile": _readable,
    "ssl_keyfile": _readable, "ssl_password": _text, "ssl_cert_reqs": _cert_reqs,
    "ssl_check_hostname": _flag,
}  # fmt: skip
_SENTINEL: Final[Values] = {"sentinel_username": _text, "sentinel_password": _text}
_ONE_SERVER: Final[Values] = {"db": database}


def allowed(scheme: str) -> Values:
    """Return the options that a URL of this scheme may have, each with what reads its value."""
    base, _, kind = scheme.partition("+")
    return {
        **_EVERY,
        **(_TLS if base == "rediss" else {}),
        **(_SENTINEL if kind == "sentinel" else _ONE_SERVER if not kind else {}),
    }


def read_query(scheme: str, query: str) -> dict[str, Any]:
    """Return the options that a query gives, as redis-py takes them.

    Raises `WrongOption` with the name of the first that is wrong, and never its value. A name that
    is like none is not repeated either: it may be a piece of a password.
    """
    options: dict[str, Any] = {}
    values = allowed(scheme)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in values:
            raise _unknown(scheme, name)
        if name in options or not value:
            raise WrongOption(f"{name} in its query is {'given twice' if value else 'empty'}")
        try:
            options[name] = values[name](value)
        except Unclear as error:
            raise WrongOption(f"{name} in its query: {error}") from None
    return options


def _unknown(scheme: str, name: str) -> WrongOption:
    """Say that there is no such option, and which may be meant."""
    values = allowed(scheme)
    if name in _TLS:
        return WrongOption(
            f"{name} in its query is for TLS; write {scheme.replace('s', 'ss', 1)}://"
        )
    meant = nearest(name, values)
    shown = name if meant or name in _OF_REDIS_PY or name in _SENTINEL else "an option"
    hint = f"is {meant} meant? " if meant else ""
    return WrongOption(
        f"{shown} in its query is none that may be given; {hint}there are"
        f" {', '.join(sorted(values))}"
    )
