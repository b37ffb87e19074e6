"""`sidecar status --watch`, on a real terminal and into a pipe."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.cli.harness import TIMEOUT_S, Cli
from tests.servers import running, usual
from tests.sidecar.harness import eventually


@contextmanager
def watching(
    sidecar: Cli, *args: str, lines: int = 60
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """Run it with a terminal; yield the process, and what returns all that was written so far."""
    ours, theirs = pty.openpty()
    env = sidecar._environment({"TERM": "xterm", "LINES": str(lines)}, "status")
    seen = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                seen.extend(piece)
        except OSError:
            pass  # how Linux says that the other end is closed

    with subprocess.Popen(
        sidecar.argv("status", "--watch", *args), env=env, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield process, lambda: seen.decode(errors="replace")
        finally:
            process.kill()
            process.wait()
            reader.join(TIMEOUT_S)
            os.close(ours)


def drawn(seen: Callable[[], str], *words: str, without: str = "\0") -> str:
    """Wait until what was drawn last has these words; return that, for the next is drawn soon."""

    def has_come() -> str:
        now = seen().rpartition("as of ")[2]
        return now if all(word in now for word in words) and without not in now else ""

    return eventually(has_come, f"{words} are drawn")


@pytest.mark.server
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_is_drawn_again_until_it_is_stopped(sidecar: Cli, by: signal.Signals) -> None:
    """What changes is seen; to stop it is exit 0, and the screen is what it was before."""
    sidecar.emit("one")
    with watching(sidecar) as (process, seen):
        assert "HELD BACK" not in drawn(seen, "1", "dead letters")
        assert "[?1049h" in seen()  # the screen that has no history
        sidecar("pause", "--reason", "bad deploy")
        drawn(seen, "bad deploy")
        process.send_signal(by)
        assert process.wait(TIMEOUT_S) == 0
        eventually(lambda: "[?1049l" in seen())
        assert "Traceback" not in seen()


@pytest.mark.server
def test_what_does_not_fit_is_counted(sidecar: Cli) -> None:
    """On a small terminal the first lines are seen, and how many there are beyond."""
    with watching(sidecar, lines=8) as (_, seen):
        small = drawn(seen, "lines more")
        assert "control stream" in small
        assert "dead letters" not in small


@pytest.mark.server
def test_with_json_it_prints_a_line_each_time(sidecar: Cli) -> None:
    """Into a pipe, too."""
    with sidecar.running("status", "--watch", "--json") as process:
        assert process.stdout
        for _ in range(2):
            assert json.loads(process.stdout.readline())["streams"]
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.server
def test_without_a_terminal_it_says_what_to_do(sidecar: Cli) -> None:
    """It is exit 2, and names --json."""
    ran = sidecar("status", "--watch")
    assert ran.code == 2
    assert "--json" in ran.err


@pytest.mark.server
def test_what_was_seen_stays_while_redis_is_away(tmp_path: Path) -> None:
    """With its time, and why there is nothing newer; at the start it is exit 4."""
    with running(usual()) as server, redis.Redis.from_url(server.url, protocol=2) as client:
        sidecar = Cli(server.url, tmp_path, client)
        sidecar.emit("one")
        with watching(sidecar) as (_, seen):
            drawn(seen, "dead letters")
            server.process.kill()
            address = server.url.partition("//")[2].partition("/")[0]
            drawn(seen, "dead letters", address, without="Ctrl-C")
        assert sidecar("status", "--watch", "--json").code == 4
