"""Who sits there."""

from __future__ import annotations

import getpass
import os
import socket


def whoami() -> str:
    """Return user@host, for records of who did what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user without a name
    return f"{user}@{socket.gethostname()}".encode(errors="replace").decode()
