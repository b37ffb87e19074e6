"""Files that hold a URL or a password, as they are read at the start and at each connection."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

LARGEST_BYTES: Final = 64 << 10
"""No value is larger."""


class TooLarge(ValueError):
    """The file has more than any value."""


def read_secret(path: str | os.PathLike[str]) -> str:
    """Return what stands in the file, without space around it; never wait for it.

    What is no file (a FIFO, a device) could make each connection wait, or never end. Raises
    `OSError`, `TooLarge`, and `ValueError` for what is no text.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        raw = file.read(LARGEST_BYTES + 1)
    if len(raw) > LARGEST_BYTES:
        raise TooLarge(f"it has over {LARGEST_BYTES >> 10} KiB")
    return raw.decode().strip()
