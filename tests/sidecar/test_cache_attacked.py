"""The cache under everything at once: processes that are killed and stopped, files that go."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

import store
from sidecar.feed import Cache, cache, cachedir
from sidecar.feed.kept import Pinned
from store import ArtifactReader
from tests.sidecar.test_cache import forked, left_in, taken

CONTROLLERS: Final = 4
ROUNDS: Final = 80
MAX_BYTES: Final = 2_000_000
SIZES: Final = [0, 10, 5000, 60_000, 300_000]
SEED: Final = 5


class Host:
    """Controllers of one host, and the artifacts that they resolve."""

    def __init__(self, where: Path, done: Path) -> None:
        chance = random.Random(SEED)
        self.where, self._done = where, done
        self._data = [chance.randbytes(chance.choice(SIZES)) for _ in range(60)]

    def controller(self, seed: int) -> None:
        """Resolve and open artifacts in three threads, until it is done. Other bytes end it."""
        one = Cache(self.where, MAX_BYTES)
        threads = [threading.Thread(target=self._resolve, args=(one, seed + n)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _resolve(self, one: Cache, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not self._done.exists():
                with suppress(store.Unavailable):
                    self._once(one, chance)
        except BaseException:  # noqa: BLE001 -- the process ends by it
            os._exit(3)

    def _once(self, one: Cache, chance: random.Random) -> None:
        number = chance.randrange(len(self._data))
        data = self._data[number]
        pin = Pinned(f"{number}", store.checksum_of(data), store.checksum_of(b"{}"))

        def fetch() -> ArtifactReader:
            time.sleep(chance.choice([0.0, 0.005]))
            if chance.random() < 0.05:
                raise store.Unavailable("not now")
            return ArtifactReader(
                io.BytesIO(data), checksum=None, size_bytes=len(data), manifest=b"{}", where="r"
            )

        way = chance.choice(["resolve", "open", "prefetch"])
        if way == "resolve":
            assert (one.find(pin) or one.get(pin, fetch)) == (data, b"{}")
        elif way == "open":
            with one.find_reader(pin) or one.open(pin, fetch) as reader:
                assert reader.readall() == data
        else:
            one.prefetch(pin, fetch)


def flip(path: Path, chance: random.Random) -> None:
    """Write another byte somewhere into some file."""
    file = chance.choice([*path.glob("kept/*")])
    with file.open("r+b") as opened:
        opened.seek(chance.randrange(max(1, file.stat().st_size)))
        opened.write(b"\xff")


@pytest.mark.proof
def test_whatever_happens_a_controller_gets_what_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other bytes, no error but the store's, never more than the cache may take."""
    monkeypatch.setattr(cachedir, "PATIENCE_S", 0.5)
    monkeypatch.setattr(cache, "REST_S", 0.01)
    where, done, chance = tmp_path / "cache", tmp_path / "done", random.Random(SEED)
    host = Host(where, done)
    deeds: list[Callable[[], object]] = [
        lambda: shutil.rmtree(where, ignore_errors=True),
        lambda: shutil.rmtree(where / "coming", ignore_errors=True),
        lambda: (where / "used").unlink(missing_ok=True),
        *[lambda: flip(where, chance)] * 3,
    ]
    with ExitStack() as stack:
        running = [
            stack.enter_context(forked(partial(host.controller, 10 * number)))
            for number in range(CONTROLLERS)
        ]
        for number in range(ROUNDS):
            time.sleep(0.02)
            with suppress(FileNotFoundError, IndexError):
                chance.choice(deeds)()
            with suppress(FileNotFoundError):
                assert taken(where) <= MAX_BYTES
            if number % 5 == 0:
                with stopped(running[0]):
                    time.sleep(0.02)
                os.kill(running[0], signal.SIGKILL)
                os.waitpid(running.pop(0), 0)
                again = partial(host.controller, 1000 * (number + 1))
                running.append(stack.enter_context(forked(again)))
        done.touch()
        codes = {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in running}
        assert codes == {0}
    Cache(where, MAX_BYTES)
    assert not [name for name in left_in(where) if name.endswith(".held")]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process stand still for the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
