"""Watches the fence (G7) from outside: who publishes and buries, as Redis itself tells it.

MONITOR shows every command in the order in which Redis runs it, those of scripts too. So it shows
each new owner as its token is set, and by whose token each notification and letter was written:
a worker that is not the owner any more must have written none.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.faults import outside

FENCE_KEY: Final = "{control:notifications}:fence:control:events"
_TOKEN: Final = re.compile(rb'"([0-9a-f]{32})"')
_WRITES: Final = tuple(
    f'lua] "XADD" "{stream}"'.encode() for stream in (outside.NOTIFICATIONS, outside.DEAD)
)
_OWNER: Final = f'lua] "SET" "{FENCE_KEY}"'.encode()
_SCRIPT: Final = b'] "EVALSHA" '


class FenceWatch:
    """Reads MONITOR in a thread; after a crash of Redis it begins again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._owner: bytes | None = None
        """None while it has not seen who it is."""
        self._writer: bytes | None = None
        """The token of the script that runs."""
        self.writes = 0
        """How many notifications and letters it has seen written by a known owner."""
        self.violations: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch for as long as the block lasts."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            while thread.is_alive():
                with suppress(OSError):
                    if self._socket:
                        self._socket.shutdown(socket.SHUT_RDWR)
                thread.join(0.05)

    def see(self, line: bytes) -> None:
        """Take one line of MONITOR."""
        if _SCRIPT in line:
            token = _TOKEN.search(line)
            self._writer = token[1] if token else None
        elif _OWNER in line:
            self._owner = self._writer
        elif self._owner and any(write in line for write in _WRITES):
            self.writes += 1
            if self._writer != self._owner:
                self.violations.append(
                    f"G7: {self._writer!r} writes while {self._owner!r} is the owner:"
                    f" {line[:200].decode(errors='replace')}"
                )

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as server:
                self._socket = server
                server.sendall(b"MONITOR\r\n")
                self._owner = self._writer = None
                with server.makefile("rb") as lines:
                    for line in lines:
                        self.see(line)
