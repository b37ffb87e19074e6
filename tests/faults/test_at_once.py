"""Several workers begin at once from nothing: none takes what another half made for an error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from sidecar.worker.settings import file_url
from tests.faults.zygote import Zygote
from tests.proofs import sampled
from tests.sidecar.harness import PATIENCE_S, eventually

STARTS: Final = 4
"""Of each layout; of all of them, twenty."""
COUNTS: Final = (2, 3, 4)
SETTLED: Final = ('"event": "active"', '"event": "standby"')
WRONG: Final = ("Traceback", '"level": "error"', "second deployment")


def _apart(url: str, top: Path) -> list[str]:
    source, fleet = file_url(top / "source"), file_url(top / "fleet")
    return ["--redis", url, "--source-store", source, "--fleet-store", fleet]


def _one_store(url: str, top: Path) -> list[str]:
    store = file_url(top / "store")
    return ["--redis", url, "--source-store", store, "--fleet-store", store]


def _archived(url: str, top: Path) -> list[str]:
    streams = [word for name in ("a", "b", "c") for word in ("--stream", f"{top.name}:{name}")]
    return [*_apart(url, top), "--archive", *streams]


def _chassis(url: str, top: Path) -> list[str]:
    (top / "source").mkdir()
    source = file_url(top / "source").replace("file:", "chassis-file:")
    return [*_apart(url, top), "--source-store", source]


def _embedded(_: str, top: Path) -> list[str]:
    return ["--data-dir", str(top / "data")]


LAYOUTS: Final = (_apart, _one_store, _archived, _chassis, _embedded)


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    """Workers that begin a millisecond apart."""
    with closing(Zygote()) as found:
        yield found


@pytest.mark.parametrize(
    "layout", sampled(LAYOUTS, ["embedded"], name=lambda one: one.__name__.strip("_"))
)
def test_workers_that_begin_at_once_serve(
    redis_url: str, tmp_path: Path, zygote: Zygote, layout: Callable[[str, Path], list[str]]
) -> None:
    """One serves and the others stand by, with nothing to warn of; none ends by itself."""
    for start in range(STARTS):
        top = tmp_path / f"start{start}"
        top.mkdir()
        names = ["--stream", f"{top.name}:events", "--notify-stream", f"{top.name}:notifications"]
        words = ["run", *names, "--lease", "1", *layout(redis_url, top)]
        logs = [top / f"worker{number}.log" for number in range(COUNTS[start % len(COUNTS)])]
        for log in logs:
            log.touch()
        workers = {zygote.start(words, log): log for log in logs}
        for pid, log in workers.items():
            eventually(lambda p=pid, a=log: zygote.poll(p) is not None or _said(a, SETTLED))  # type: ignore[misc]
            assert _said(log, SETTLED), log.read_text()
            assert not _said(log, WRONG), log.read_text()
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        assert [zygote.wait(pid, PATIENCE_S) for pid in workers] == [0] * len(workers)


def _said(log: Path, words: tuple[str, ...]) -> bool:
    text = log.read_text()
    return any(word in text for word in words)
