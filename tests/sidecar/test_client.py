"""Connections: which servers are refused, and what a log may show of a URL."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sidecar.errors import UsageError
from sidecar.redis.client import check_server, connect
from sidecar.wire.urls import redact

INFO = b"redis_version:5.0.14\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n"


class OldServer(socketserver.StreamRequestHandler):
    """Speaks as much of the protocol as a Redis 5 would before it is refused."""

    def handle(self) -> None:
        """Answer INFO, and every other command with an error."""
        while header := self.rfile.readline():
            words = []
            for _ in range(int(header[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            known = words[0].upper() == b"INFO"
            self.wfile.write(b"$%d\r\n%s\r\n" % (len(INFO), INFO) if known else b"-ERR unknown\r\n")


@contextmanager
def old_server() -> Iterator[str]:
    """Run one on a free port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_server_that_is_too_old_is_refused() -> None:
    """Redis before 6.2 is refused, with its version and the one that is needed."""
    with (
        old_server() as url,
        connect(url) as client,
        pytest.raises(UsageError, match=r"5\.0\.14.*6\.2 or newer"),
    ):
        check_server(client, url, writes=True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@h:6379/0", "redis://u:***@h:6379/0"),
        ("redis://:secret@h", "redis://:***@h"),
        ("rediss://h?password=secret&x=1", "rediss://h?password=***&x=1"),
        ("redis://h:6379", "redis://h:6379"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock?password=***"),
        ("redis://u:secret@[bad", "redis://u:***@[bad"),
        ("redis://u:se/cr@et@h", "redis://u:***@h"),
        ("redis://u:secret@h?password=secret", "redis://u:***@h?password=***"),
        ("redis+cluster://u:secret@a:1,b:2", "redis+cluster://u:***@a:1,b:2"),
        (
            "rediss+sentinel://u:secret@a:1,b:2/m/0?sentinel_password=secret",
            "rediss+sentinel://u:***@a:1,b:2/m/0?sentinel_password=***",
        ),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    """What a log shows of a URL has no password in it."""
    assert redact(url) == shown
