"""The way to a node: Sentinels and nodes that lie, lag or are something else."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import redis

from sidecar.errors import Unreachable, UsageError
from sidecar.redis.client import check_server, connect
from sidecar.redis.errors import translated
from sidecar.redis.publisher import Publisher
from sidecar.redis.source import ControlStream
from sidecar.redis.topology import Elsewhere, WrongNode
from sidecar.wire.ids import EntryId
from tests import servers
from tests.servers import Server
from tests.sidecar.harness import Rig, eventually, last_said
from tests.sidecar.test_publisher import KEYS

Answer = bytes | Exception
Handler = Callable[[Sequence[bytes]], bytes]


@contextmanager
def speaker(answer: Handler) -> Iterator[int]:
    """Answer each command with what `answer` makes of it; yield the port."""

    class Speaker(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while header := self.rfile.readline():
                words = []
                for _ in range(int(header[1:])):
                    length = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(length + 2)[:-2])
                self.wfile.write(answer(words))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Speaker) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def sentinel(port: Callable[[], int | None]) -> Handler:
    """Be a Sentinel that names this port as the master's, or knows no master."""

    def answer(words: Sequence[bytes]) -> bytes:
        if words[0] != b"SENTINEL":
            return b"-ERR unknown command\r\n"
        named = port()
        if named is None:
            return b"*-1\r\n"
        return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(named)), named)

    return answer


AT_ONCE = ("--repl-diskless-sync-delay", "0")


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """A master and its replica."""
    with ExitStack() as stack:
        master = stack.enter_context(servers.running(servers.usual(), arguments=AT_ONCE))
        follows = ("--replicaof", "127.0.0.1", str(master.port))
        yield master, stack.enter_context(servers.running(servers.usual(), arguments=follows))


def test_a_replica_named_as_the_master_is_refused(pair: tuple[Server, Server]) -> None:
    """A Sentinel that lags names a replica: nothing is sent to it; the next answer is tried."""
    master, replica = pair
    named = iter([replica.port, replica.port, master.port])
    with (
        speaker(sentinel(lambda: next(named))) as port,
        closing(connect(f"redis+sentinel://127.0.0.1:{port}/fleet")) as client,
    ):
        with pytest.raises(Elsewhere, match=rf"{replica.port} was named as the master.* a slave"):
            client.xadd("s", {"f": "v"})
        with pytest.raises(Unreachable, match="was named as the master"), translated("redis://x"):
            client.xadd("s", {"f": "v"})
        assert client.xadd("s", {"f": "v"})


def test_a_sentinel_that_was_cut_off_does_not_mislead_for_ever(pair: tuple[Server, Server]) -> None:
    """Its answer leads nowhere; the next attempt asks the next Sentinel."""
    master, _ = pair
    gone = servers.free_port()
    with (
        speaker(sentinel(lambda: gone)) as cut_off,
        speaker(sentinel(lambda: master.port)) as well,
        closing(connect(f"redis+sentinel://127.0.0.1:{cut_off},127.0.0.1:{well}/fleet")) as client,
    ):
        with pytest.raises(redis.ConnectionError, match=str(gone)):
            client.ping()
        assert client.ping()


def test_a_master_without_its_replicas_is_left_for_another(
    pair: tuple[Server, Server], redis_url: str, client: redis.Redis
) -> None:
    """The worker reaches a master that was cut off; it asks anew, and continues at the next one."""
    master, _ = pair
    cut_off = int(redis_url.rpartition(":")[2].partition("/")[0])
    named = [cut_off]
    with (
        speaker(sentinel(lambda: named[0])) as port,
        redis.Redis.from_url(master.url, protocol=2) as client_of_next,
    ):
        rig = Rig(f"redis+sentinel://127.0.0.1:{port}/fleet", client, wait_replicas=1)
        rig.emit("kept from acknowledgement")
        with rig.relay() as run:
            eventually(lambda: last_said(run, "0 of 1"), "it waits for a replica")
            named[0] = master.port
            following = Rig(master.url, client_of_next)
            following.emit("e")
            eventually(lambda: following.published() == ["e"], "it continues at the next master")
            eventually(lambda: following.pending() == 0, "with its replica")


def test_a_name_that_no_sentinel_knows_is_a_usage_error() -> None:
    """All Sentinels answer, and none knows the master: exit 2; one that is away: exit 4."""
    with speaker(sentinel(lambda: None)) as one, speaker(sentinel(lambda: None)) as other:
        url = f"redis+sentinel://127.0.0.1:{one},127.0.0.1:{other}/nobody"
        with (
            closing(connect(url)) as client,
            pytest.raises(UsageError, match="no master named 'nobody'"),
            translated(url),
        ):
            client.ping()
        url = f"redis+sentinel://127.0.0.1:{one},127.0.0.1:{servers.free_port()}/nobody"
        with closing(connect(url)) as client, pytest.raises(Unreachable), translated(url):
            client.ping()


def test_a_server_is_no_sentinel_and_no_cluster(redis_server: Server) -> None:
    """Who names a plain server where Sentinels or nodes are asked for is told, with exit 2."""
    for url in (
        f"redis+sentinel://127.0.0.1:{redis_server.port}/fleet",
        f"redis+cluster://127.0.0.1:{redis_server.port}",
    ):
        with (
            closing(connect(url, key="k")) as client,
            pytest.raises(UsageError, match=f"{redis_server.port}: .*; are the hosts"),
            translated(url),
        ):
            client.ping()


def test_a_sentinel_named_as_a_server_is_refused() -> None:
    """A Sentinel's own address as redis://: exit 2, and how to write it."""
    info = b"redis_version:7.2.0\r\nredis_mode:sentinel\r\n"
    with speaker(lambda _: b"$%d\r\n%s\r\n" % (len(info), info)) as port:
        url = f"redis://127.0.0.1:{port}"
        with closing(connect(url)) as client, pytest.raises(UsageError, match=r"redis\+sentinel"):
            check_server(client, url, writes=True)


def test_a_master_that_was_demoted_is_left(pair: tuple[Server, Server]) -> None:
    """After READONLY, from a command, a pipeline or a script, the next try connects anew."""
    master, _ = pair

    def pipelined(*, transaction: bool) -> None:
        pipeline = client.pipeline(transaction=transaction)
        pipeline.xadd("s", {"f": "v"})
        pipeline.execute()

    with (
        closing(connect(master.url)) as client,
        redis.Redis.from_url(master.url, protocol=2) as admin,
    ):
        for write in (
            lambda: client.xadd("s", {"f": "v"}),
            lambda: pipelined(transaction=False),
            lambda: pipelined(transaction=True),
            lambda: client.eval("return redis.call('SET', KEYS[1], 1)", 1, "k"),
            Publisher(client, KEYS, lease_s=1, dedup_window_s=60).acquire,
            lambda: ControlStream(client, client, KEYS).acknowledge(["1-1"]),
        ):
            admin.replicaof("NO", "ONE")
            ControlStream(client, client, KEYS).create_group(EntryId("0"))
            before = client.client_id()
            admin.replicaof("127.0.0.1", "1")
            with pytest.raises(WrongNode, match="is a replica, read-only"):
                write()
            assert client.client_id() != before


def test_who_is_blocked_while_the_master_is_demoted_is_told(pair: tuple[Server, Server]) -> None:
    """A reader that waits for an entry learns at once that its node is the master no more."""
    master, _ = pair
    with (
        closing(connect(master.url, block_s=10)) as client,
        redis.Redis.from_url(master.url, protocol=2) as admin,
    ):
        rig = Rig(master.url, client)
        rig.emit("e")
        demote = threading.Timer(0.2, lambda: admin.replicaof("127.0.0.1", "1"))
        control = ControlStream(client, client, rig.keys)
        control.create_group(EntryId("$"))
        demote.start()
        with pytest.raises(WrongNode):
            control.read_new(1, 10_000)
        demote.join()


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("http://h", "redis://"),
        ("redis+proxy://h", "no such scheme"),
        ("redis+sentinel://h:1", "/MASTER"),
        ("redis+sentinel://h:1/m/x", "/MASTER/DB"),
        ("redis+sentinel://h:1/m/0/x", "/MASTER/DB"),
        ("redis+sentinel://h:1,/m", "write %40"),
        ("redis+cluster://h:1,h:2/3", "no database but 0"),
        ("unix+cluster:///run/redis.sock", "no such scheme"),
        ("redis://h:port", "write %40"),
        ("redis://h/nought", "a database is a number"),
        ("redis://h/0/1", "a database is a number"),
    ],
)
def test_a_url_that_is_none_is_refused_with_its_fix(url: str, fix: str) -> None:
    """What is wrong with it is told before anything is sent."""
    with pytest.raises(UsageError, match=fix.replace("+", r"\+")):
        connect(url, key="k")


def test_no_part_of_a_password_is_in_a_message() -> None:
    """A password with a character that ends a URL's host part is not told as if it were a port."""
    for url in ("redis://u:zq/qz@h:1", "redis+cluster://u:zq/qz@h:1", "redis://u:zq?qz@h"):
        with pytest.raises(UsageError) as refused:
            connect(url, key="k")
        assert not re.search("zq|qz", str(refused.value))


def test_logins_of_sentinels_and_master_are_two(pair: tuple[Server, Server]) -> None:
    """The user of the URL is the master's; the Sentinels' own is in the query."""
    master, _ = pair
    seen: list[Sequence[bytes]] = []

    def answer(words: Sequence[bytes]) -> bytes:
        seen.append(words)
        return b"+OK\r\n" if words[0] == b"AUTH" else sentinel(lambda: master.port)(words)

    with redis.Redis.from_url(master.url) as admin:
        admin.acl_setuser(
            "u", reset=True, enabled=True, passwords=["+p@ss"], keys=["*"], categories=["+@all"]
        )
    with (
        speaker(answer) as port,
        closing(
            connect(
                f"redis+sentinel://u:p%40ss@127.0.0.1:{port}/fleet"
                "?sentinel_username=s&sentinel_password=q"
            )
        ) as client,
    ):
        assert client.acl_whoami() == "u"
    assert [b"AUTH", b"s", b"q"] in seen
    assert all(b"p@ss" not in words for words in seen)


def test_a_socket_in_the_file_system_still_works(tmp_path: Path) -> None:
    """unix:// needs no way: it leads to its server."""
    path = tmp_path / "redis.sock"
    with (
        servers.running(servers.usual(), arguments=("--unixsocket", str(path))),
        closing(connect(f"unix://{path}")) as client,
    ):
        assert client.ping()
