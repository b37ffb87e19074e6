"""Who sits there, and what was typed."""

from __future__ import annotations

import getpass
import os
import socket

from sidecar.errors import UsageError


def utf8(option: str, value: str) -> str:
    """Return a value that will be stored. Raises `UsageError` when it is not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        message = f"{option}: {value!a} is not UTF-8; set the locale, or type it again"
        raise UsageError(message) from None
    return value


def whoami() -> str:
    """Return user@host, for records of who did what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user without a name
    return f"{user}@{socket.gethostname()}".encode(errors="replace").decode()
