"""A bad network between the workers and Redis: a TCP proxy that drops, delays, cuts, half-opens.

What happens to a piece of a request or of a reply is drawn from the seed, the connection's number
and the direction. A cut passes a part of the piece on, and then closes: the middle of a request, or
of a reply. A half-open connection swallows everything in silence, both ways, and stays open.
"""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

PIECE_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Weather:
    """How probable it is for a piece that something happens to it, and how long a delay is."""

    drop: float = 0.001
    cut: float = 0.002
    half_open: float = 0.0002
    delay: float = 0.02
    longest_delay_s: float = 0.05


CALM: Final = Weather(drop=0, cut=0, half_open=0, delay=0)


@dataclass(slots=True)
class _Connection:
    """The two sockets of one connection through the proxy."""

    client: socket.socket
    server: socket.socket
    swallowing: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Close both sides, and wake who reads from them."""
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class Proxy:
    """Listens on a loopback port of its own, and passes on to `target_port`."""

    def __init__(self, target_port: int, seed: int, weather: Weather) -> None:
        self.target_port = target_port
        """May be changed, as a failover behind a name does: new connections go there."""
        self._seed = seed
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.weather = weather
        """May be changed while it runs."""
        self.counts: Counter[str] = Counter()
        """What was done to connections, by kind."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve, in threads, for as long as the block lasts."""
        accepting = threading.Thread(target=self._accept, daemon=True)
        accepting.start()
        try:
            yield
        finally:
            self._stopped.set()
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            accepting.join()

    def _accept(self) -> None:
        connections: list[_Connection] = []
        number = 0
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()  # as a server that is away does
                continue
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection, number = _Connection(client, server), number + 1
            connections = [each for each in connections if each.client.fileno() >= 0]
            connections.append(connection)
            for name, source, sink in (("request", client, server), ("reply", server, client)):
                fate = random.Random(f"{self._seed}/{number}/{name}")
                threading.Thread(
                    target=self._pass_on, args=(connection, source, sink, fate, name), daemon=True
                ).start()
        for connection in connections:
            connection.close()

    def _pass_on(
        self,
        connection: _Connection,
        source: socket.socket,
        sink: socket.socket,
        fate: random.Random,
        name: str,
    ) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if not self._pass_piece(connection, sink, piece, fate, name):
                    break
        connection.close()

    def _pass_piece(
        self,
        connection: _Connection,
        sink: socket.socket,
        piece: bytes,
        fate: random.Random,
        name: str,
    ) -> bool:
        """Pass a piece on, or not; tell whether the connection is to stay."""
        happens = self._happens(fate)
        if happens:
            self.counts[f"{happens} ({name})"] += 1
        if happens == "half-open":
            connection.swallowing.set()
        if connection.swallowing.is_set():
            return True
        if happens == "drop":
            return False
        if happens == "cut":
            sink.sendall(piece[: fate.randrange(len(piece))])
            return False
        if happens == "delay":
            self._stopped.wait(fate.uniform(0, self.weather.longest_delay_s))
        sink.sendall(piece)
        return True

    def _happens(self, fate: random.Random) -> str:
        draw, weather = fate.random(), self.weather
        for name, probability in (
            ("drop", weather.drop), ("cut", weather.cut),
            ("half-open", weather.half_open), ("delay", weather.delay),
        ):  # fmt: skip
            if draw < probability:
                return name
            draw -= probability
        return ""
