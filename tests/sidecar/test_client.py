"""Connections: which servers are refused, and what a log may show of a URL."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sidecar.errors import UsageError
from sidecar.redis.client import check_server, connect
from sidecar.wire.urls import redact
from tests.sidecar.test_topology import speaker

INFO = b"redis_version:5.0.14\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n"


def old(words: Sequence[bytes]) -> bytes:
    """Answer INFO as a Redis 5 does, and every other command with an error."""
    if words[0].upper() == b"INFO":
        return b"$%d\r\n%s\r\n" % (len(INFO), INFO)
    return b"-ERR unknown\r\n"


def test_a_server_that_is_too_old_is_refused() -> None:
    """Redis before 6.2 is refused, with its version and the one that is needed."""
    with (
        speaker(old) as port,
        connect(url := f"redis://127.0.0.1:{port}") as client,
        pytest.raises(UsageError, match=r"5\.0\.14.*6\.2 or newer"),
    ):
        check_server(client, url, writes=True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@h:6379/0", "redis://h:6379/0"),
        ("redis://:secret@h", "redis://h"), ("redis://secret@h", "redis://h"),
        ("rediss://h?Password=secret&x=1", "rediss://h"), ("redis://h:6379", "redis://h:6379"),
        ("redis://u%3Asecret%40h", "redis://…"), ("redis://u:secret", "redis://…"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
        ("redis://u:secret@[bad", "redis://…"), ("redis://u:se/cr@et@h", "redis://…"),
        ("redis://h/secret", "redis://h/…"), ("redis:///u:secret@h", "redis://…"),
        ("redis:/u:secret@h", "…"), ("redis:secret@h", "…"), ("u:secret@h", "…"), ("secret", "…"),
        ("Redis://u:secret@h", "…"), ("reids://u:secret@h/0", "reids://h/…"),
        ("redis+cluster://u:secret@a:1,b:2", "redis+cluster://a:1,b:2"),
        ("redis://u:secret@[::1]:6379/1", "redis://[::1]:6379/1"),
        (
            "rediss+sentinel://u:secret@a:1,b:2/m/0?sentinel_password=secret",
            "rediss+sentinel://a:1,b:2/m/0",
        ),
        ("s3://bucket/some/prefix?secret_key=secret", "s3://bucket/some/prefix"),
        ("s3://key:secret@bucket/prefix", "s3://bucket/prefix"), ("memory:", "memory:"),
        ("file:///var/lib/a%20b", "file:///var/lib/a%20b"), ("file:///u:secret@h", "file://…"),
    ],
)  # fmt: skip
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    """What a log shows of a URL has no password in it."""
    assert redact(url) == shown


@pytest.mark.unit
@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379"])
def test_another_scheme_is_named_as_the_cause(url: str) -> None:
    """It is not said to be missing, and the forms that there are follow."""
    with pytest.raises(UsageError, match=r"its scheme is not one of a Redis; write redis://"):
        connect(url)
