"""A new password in the file that has a Redis's URL: under load, all continue without a restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
import redis

import store
from sidecar.errors import SidecarError, UsageError
from sidecar.feed import Feed
from sidecar.producer import Producer
from sidecar.redis.client import connect, connect_async, url_of
from tests.cli.harness import Cli
from tests.sidecar.harness import eventually
from tests.sidecar.test_answers import following
from tests.sidecar.test_topology import sentinel, speaker

USER: Final = "rotated"
PASSWORDS: Final = ("p%40ss-1", "p%40ss-2", "p%40ss-3")


class Secret:
    """A user of the server, and the file that has a URL with its password."""

    def __init__(self, url: str, client: redis.Redis, file: Path) -> None:
        self._url = url
        self._client = client
        self.file = file
        self.allow(PASSWORDS[0])
        self.write(PASSWORDS[0])

    def allow(self, password: str) -> None:
        """Let the user in with this password alone, and end its connections."""
        self._client.acl_setuser(
            USER, enabled=True, reset=True, keys=["*"], channels=["*"], commands=["+@all"],
            passwords=[f"+{password.replace('%40', '@')}"],
        )  # fmt: skip
        self._client.client_kill_filter(_type="normal", skipme=True)

    def write(self, password: str) -> None:
        """Write it into the file, as a mounted secret changes: at once."""
        new = self.file.with_suffix(".new")
        new.write_text(self._url.replace("://", f"://{USER}:{password}@") + "\n")
        new.replace(self.file)


@pytest.fixture
def secret(sidecar: Cli) -> Iterator[Secret]:
    """A user with its URL in a file."""
    yield Secret(sidecar.url, sidecar.client, sidecar.directory / "redis-url")
    sidecar.client.acl_deluser(USER)


@contextmanager
def producing(secret: Secret, directory: Path) -> Iterator[list[str]]:
    """Publish one event after the other, each until it is taken; yield their IDs."""
    stop, sent = threading.Event(), list[str]()
    source = store.open_url((directory / "data-dir" / "source").as_uri())
    producer = Producer(secret.file, "control:events", source)

    def run() -> None:
        while not stop.wait(0.01):
            name = f"e{len(sent)}"
            with suppress(SidecarError):
                producer.publish(type="key.changed", tenant_id="t", event_id=name)
                sent.append(name)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield sent
    stop.set()
    thread.join()
    producer.publish(type="key.changed", event_id="end")
    sent.append("end")
    producer.close()


def test_a_new_password_needs_no_restart(
    sidecar: Cli, secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    """Written before it is the only one, or after: worker, producer and both feeds lose nothing."""
    own = {"SIDECAR_REDIS_FILE": str(secret.file)}
    cli = Cli("", sidecar.directory, sidecar.client, own | sidecar.stores(wanted=True))
    found: list[str] = []
    with (
        cli.running("run", "--lease", "1") as worker,
        following(secret.file, found),
        producing(secret, sidecar.directory) as sent,
    ):
        eventually(lambda: found.count("e0") == 2)
        for first, second in ((secret.write, secret.allow), (secret.allow, secret.write)):
            new = PASSWORDS[1] if first == secret.write else PASSWORDS[2]
            first(new)
            if first == secret.allow:
                eventually(lambda: caplog.text.count("refuses the login") >= 2)
            second(new)
            count = len(sent) + 1
            eventually(lambda: len(sent) > count)  # noqa: B023 -- at once
            eventually(lambda: found.count(sent[count]) == 2)  # noqa: B023 -- as above
        assert worker.poll() is None
    assert sorted(found) == sorted(2 * sent)


def test_a_file_that_is_being_written_keeps_the_last_login(secret: Secret) -> None:
    """One that is gone, empty or half written for a moment ends no connection."""
    with connect(url_of(secret.file)) as client:
        for text in ("", "redis://", "nonsense", "redis://rotated:"):
            secret.file.write_text(text)
            client.connection_pool.disconnect()
            assert client.acl_whoami() == USER
        secret.file.unlink()
        client.connection_pool.disconnect()
        assert client.acl_whoami() == USER


def test_a_login_that_was_never_taken_is_final(secret: Secret) -> None:
    """A feed with a wrong password in the file ends: nobody has said that it will be right."""
    secret.write(PASSWORDS[1])
    with Feed(secret.file) as feed, pytest.raises(UsageError, match="refuses the login"):
        next(feed.follow())


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """It is named, with why."""
    with pytest.raises(UsageError, match=f"{tmp_path / name} with the Redis URL"):
        Feed(tmp_path / name)


def test_the_login_of_sentinels_is_read_again_too(secret: Secret, redis_url: str) -> None:
    """Theirs is in the query of the URL, and the master's before the hosts."""
    seen: list[bytes] = []

    def answer(words: Sequence[bytes]) -> bytes:
        seen.append(words[-1])
        port = int(redis_url.rpartition(":")[2].partition("/")[0])
        return b"+OK\r\n" if words[0] == b"AUTH" else sentinel(lambda: port)(words)

    with speaker(answer) as port:
        url = f"redis+sentinel://{USER}:{{0}}@127.0.0.1:{port}/fleet?sentinel_password={{1}}"
        secret.file.write_text(url.format(PASSWORDS[0], "q1"))
        with connect(url_of(secret.file)) as client:
            assert client.acl_whoami() == USER
            secret.allow(PASSWORDS[1])
            secret.file.write_text(url.format(PASSWORDS[1], "q2"))
            client.connection_pool.disconnect()
            assert client.acl_whoami() == USER
    assert [one for one in seen if one in (b"q1", b"q2")] == [b"q1", b"q2"]


def test_a_coroutine_reads_it_again_too(secret: Secret) -> None:
    """Without a warning."""

    async def run() -> None:
        async with connect_async(url_of(secret.file)) as client:
            assert await client.acl_whoami() == USER
            secret.write(PASSWORDS[1])
            secret.allow(PASSWORDS[1])
            await client.connection_pool.disconnect()
            assert await client.acl_whoami() == USER

    asyncio.run(run())
