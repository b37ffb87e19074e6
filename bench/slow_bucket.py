"""A bucket that takes a while: S3 in memory, as much as a store needs of it, each answer late.

`python -m bench.slow_bucket DELAY_S ALLOWED` prints its URL. With ALLOWED over 0, what comes beyond
so many requests a second is told to slow down. `GET /?usual` says how many were under way at once,
the median of the later half of those since it was asked before; `GET /?reads` how many objects were
asked for since then.
"""

from __future__ import annotations

import asyncio
import sys
from email.utils import formatdate
from itertools import count
from statistics import median_low
from urllib.parse import unquote

OK, PARTIAL, ABSENT, REFUSED, SLOW_DOWN = 200, 206, 404, 412, 503


class Bucket:
    """What all connections share."""

    def __init__(self, delay_s: float, allowed: float) -> None:
        self.delay_s, self.allowed = delay_s, allowed
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.tags = count(1)
        self.under_way = self.reads = 0
        self.beside: list[int] = []
        """How many were under way when each came."""
        self.room, self.at = allowed, 0.0

    def is_too_much(self, now: float) -> bool:
        """Count a request, and tell whether it is one too many."""
        if not self.allowed:
            return False
        self.room = min(self.allowed, self.room + (now - self.at) * self.allowed)
        self.at = now
        if self.room < 1:
            return True
        self.room -= 1
        return False

    def told(self, query: str) -> int:
        """Return what is counted, and count anew."""
        if query == "reads":
            reads, self.reads = self.reads, 0
            return reads
        later, self.beside = self.beside[len(self.beside) // 2 :], []
        return median_low(later)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """Do what is asked for, and return the answer."""
        key, _, query = path.partition("?")
        key = unquote(key)
        if query in ("reads", "usual"):
            return _answer(OK, str(self.told(query)).encode())
        if "list-type" in query:
            return _answer(OK, b"<ListBucketResult></ListBucketResult>")
        self.reads += method != "PUT"
        found = self.objects.get(key)
        if method == "PUT":
            wanted = headers.get("if-match", found[1] if found else "")
            is_there = "if-none-match" in headers and found is not None
            if is_there or (found[1] if found else "") != wanted:
                return _answer(REFUSED, b"<Error><Code>PreconditionFailed</Code></Error>")
            tag = f'"{next(self.tags):032x}"'
            self.objects[key] = body, tag
            return _answer(OK, b"", f"ETag: {tag}\r\n")
        if found is None:
            return _answer(ABSENT, b"<Error><Code>NoSuchKey</Code></Error>")
        return _found(*found, headers.get("range", ""), is_head=method == "HEAD")


def _found(content: bytes, tag: str, asked: str, *, is_head: bool) -> bytes:
    more = f"ETag: {tag}\r\nLast-Modified: {formatdate(usegmt=True)}\r\n"
    if not asked:
        return _answer(OK, content, more, is_head=is_head)
    begin, end = (int(number) for number in asked.removeprefix("bytes=").split("-"))
    piece = content[begin : end + 1]
    more += f"Content-Range: bytes {begin}-{begin + len(piece) - 1}/{len(content)}\r\n"
    return _answer(PARTIAL, piece, more)


def _answer(status: int, body: bytes, more: str = "", *, is_head: bool = False) -> bytes:
    head = f"HTTP/1.1 {status} S\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode()
    return head if is_head else head + body


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, and so on."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket, self.loop = bucket, asyncio.get_running_loop()
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = bytes(self.received[:end]).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = end + 4 + int(headers.get("content-length", 0))
        if len(self.received) < size:
            return
        body = bytes(self.received[end + 4 : size])
        del self.received[:size]
        method, path, _ = first.split(" ")
        bucket = self.bucket
        bucket.under_way += 1
        bucket.beside.append(bucket.under_way)
        if bucket.is_too_much(self.loop.time()):
            answer = _answer(SLOW_DOWN, b"<Error><Code>SlowDown</Code></Error>")
        else:
            answer = bucket.answer(method, path, headers, body)
        self.loop.call_later(bucket.delay_s, self.send, answer)

    def send(self, answer: bytes) -> None:
        """Answer at last."""
        self.bucket.under_way -= 1
        self.transport.write(answer)


async def serve(delay_s: float, allowed: float) -> None:
    """Serve until somebody ends it."""
    bucket = Bucket(delay_s, allowed)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(bucket), "127.0.0.1", 0, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), float(sys.argv[2])))
