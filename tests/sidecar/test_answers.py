"""Error answers of Redis that pass are waited for by all who follow; the others are final."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.errors import SidecarError, Unreachable
from sidecar.feed import AsyncFeed, Feed
from sidecar.redis.errors import PASSES
from tests import servers
from tests.servers import Server
from tests.sidecar.harness import PATIENCE_S, Rig, eventually
from tests.sidecar.test_app import worker
from tests.sidecar.test_feed_faces import published
from tests.sidecar.test_topology import pair, sentinel, speaker

__all__ = ["pair"]

ANSWERS: Final = {
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "MISCONF Errors writing to the AOF file: No space left on device",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
    "UNBLOCKED": "UNBLOCKED client unblocked via CLIENT UNBLOCK",
    "max number of clients": "ERR max number of clients + cluster connections reached",
}
"""As servers say them."""
_OF_ANOTHER: Final = {"MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN"}
"""They say that the node is not the one: with a plain URL that is wrong usage at the start."""
FINAL: Final = ("ERR unknown command 'XREAD'", "NOPERM this user has no permissions", "ERR no")
_COMMAND: Final = re.compile(rb"\*\d+\r\n\$")


class Between:
    """Stands before a server: passes all on or, while `answer` is set, answers in its place."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.answer = ""
        self.answered = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for way in (self._requests, self._replies):
                    threading.Thread(target=way, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while piece := client.recv(65536):
                if not self.answer:
                    server.sendall(piece)
                    continue
                count = len(_COMMAND.findall(piece))
                client.sendall(f"-{self.answer}\r\n".encode() * count)
                self.answered += count
            server.shutdown(socket.SHUT_RDWR)

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while piece := server.recv(65536):
                client.sendall(piece)
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def between(rig: Rig) -> Iterator[Between]:
    """Something before the rig's server."""
    found = Between(int(rig.url.rpartition(":")[2].partition("/")[0]))
    yield found
    found.close()


def plain(between: Between) -> str:
    """Return the URL that leads through it."""
    return f"redis://127.0.0.1:{between.port}"


@contextmanager
def url_of(between: Between, code: str) -> Iterator[str]:
    """Yield a URL that leads through it, by a Sentinel where the answer is of another node."""
    if code not in _OF_ANOTHER:
        yield plain(between)
        return
    with speaker(sentinel(lambda: between.port)) as port:
        yield f"redis+sentinel://127.0.0.1:{port}/fleet"


def follow(url: str | Path, found: list[str]) -> None:
    """Follow until `end` is found."""
    with Feed(url) as feed:
        for one in feed.follow():
            found.append(one.event_id)
            if one.event_id == "end":
                return


async def follow_async(url: str | Path, found: list[str]) -> None:
    """Do the same with the other face."""
    async with AsyncFeed(url) as feed, aclosing(feed.follow()) as following:
        async for one in following:
            found.append(one.event_id)
            if one.event_id == "end":
                return


@contextmanager
def following(url: str | Path, found: list[str]) -> Iterator[None]:
    """Follow with both faces; the block ends when both have found `end`."""
    both: list[Future[None]] = [Future(), Future()]
    faces = (follow, lambda *to: asyncio.run(follow_async(*to)))
    for face, ended in zip(faces, both, strict=True):
        threading.Thread(target=_run, args=(face, url, found, ended), daemon=True).start()
    yield
    for ended in both:
        ended.result(PATIENCE_S)


def _run(face: Callable[..., None], url: str | Path, found: list[str], ended: Future[None]) -> None:
    try:
        face(url, found)
        ended.set_result(None)
    except BaseException as error:  # noqa: BLE001 -- the test raises it
        ended.set_exception(error)


def rig_at(url: str, rig: Rig) -> Rig:
    """Return the rig, its server reached by `url`."""
    return Rig(url, rig.client, rig.source, rig.fleet)


def state_of(port: int, stream: str) -> str:
    """Return what `/readyz` says of a stream; nothing while nobody answers."""
    with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", port)) as asked:
        asked.request("GET", "/readyz")
        return str(json.load(asked.getresponse())[stream]["state"])
    return ""


def test_the_table_is_whole() -> None:
    """Each answer that passes is tried below, and is in the operator's page."""
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    assert ANSWERS.keys() == PASSES.keys()
    assert all(f"| `{code}" in page for code in PASSES)


@pytest.mark.parametrize("code", ANSWERS)
def test_an_answer_that_passes_is_waited_for(
    rig: Rig, stores: dict[str, str], between: Between, code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """By a worker at work, one that starts, and both feeds; then all continue."""
    at_work, starting, found = servers.free_port(), servers.free_port(), list[str]()
    with (
        url_of(between, code) as url,
        following(url, found),
        worker(rig_at(url, rig), stores, http=f"127.0.0.1:{at_work}") as ended,
    ):
        rig.emit("first")
        eventually(lambda: found == ["first", "first"])
        between.answer = ANSWERS[code]
        with worker(rig_at(url, rig), stores, http=f"127.0.0.1:{starting}") as not_begun:
            eventually(lambda: state_of(at_work, rig.control) == "waiting", "at work")
            eventually(lambda: state_of(starting, rig.control) == "waiting", "at the start")
            eventually(lambda: caplog.text.count("waiting: ") >= 2)
            rig.emit("second")
            between.answer = ""
            eventually(lambda: found.count("second") == 2)
            rig.emit("end")
            eventually(lambda: rig.published() == ["first", "second", "end"])
        assert (ended.codes, not_begun.codes) == ([], [0])


@pytest.mark.parametrize("answer", FINAL)
def test_another_answer_is_final(between: Between, answer: str) -> None:
    """A feed that follows ends with it: to ask again would change nothing."""
    between.answer = answer
    with Feed(plain(between)) as feed, pytest.raises(SidecarError) as ended:
        next(feed.follow())
    assert not isinstance(ended.value, Unreachable)


def blocked(client: redis.Redis) -> list[dict[str, Any]]:
    """Return the clients that wait for entries of a feed."""
    return [one for one in client.client_list() if one["cmd"] == "xread" and "b" in one["flags"]]


@pytest.mark.parametrize("what", ["unblock", "unblock error", "kill"])
def test_a_feed_outlives_what_is_done_to_its_connection(
    rig: Rig, stores: dict[str, str], what: str
) -> None:
    """Both feeds continue, and nothing is missing or comes twice."""
    found: list[str] = []
    with worker(rig, stores), following(rig.url, found):
        rig.emit("first")
        eventually(lambda: found == ["first", "first"])
        eventually(lambda: len(blocked(rig.client)) == 2)
        for one in blocked(rig.client):
            if what == "kill":
                rig.client.client_kill_filter(_id=one["id"])
            else:
                rig.client.client_unblock(one["id"], error="error" in what)
        rig.emit("end")
        eventually(lambda: rig.published() == ["first", "end"])
    assert sorted(found) == ["end", "end", "first", "first"]


def test_a_feed_outlives_a_failover(pair: tuple[Server, Server]) -> None:
    """Its server becomes the replica of another, on which the next notification comes."""
    found: list[str] = []
    with (
        redis.Redis.from_url(pair[0].url) as before,
        redis.Redis.from_url(pair[1].url) as after,
        following(pair[0].url, found),
    ):
        published(before, 1000, event_id="first")
        eventually(lambda: found == ["first", "first"])
        eventually(lambda: len(blocked(before)) == 2)
        eventually(lambda: before.info("replication")["connected_slaves"] == 1)
        before.execute_command("FAILOVER")
        eventually(lambda: after.info("replication")["role"] == "master")
        published(after, 2000, event_id="end")
    assert sorted(found) == ["end", "end", "first", "first"]
