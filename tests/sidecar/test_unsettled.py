"""Files of a Go fleet that never come to rest: they hold up nobody but their own tenants."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.worker.carrying import Carrying, share_of
from sidecar.worker.width import Fixed
from sidecar.worker.window import Item
from store import Unavailable, checksum_of
from store.chassis import ChassisStore
from tests.sidecar.harness import Rig, eventually
from tests.sidecar.test_carrying import item

TENANTS = 60


def write(root: Path, ref: str, data: bytes) -> list[Path]:
    """Write an artifact as the Go side does: without a mark."""
    paths = [root / f"{ref}.manifest.json", root / ref]
    for path, blob in zip(paths, (b"{}", data), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return paths


@contextmanager
def touched(paths: list[Path]) -> Iterator[None]:
    """Touch these files, again and again."""
    stop = threading.Event()

    def touch() -> None:
        while not stop.wait(0.01):
            for n, path in enumerate(paths):
                # A manifest that is newer than its data: that looks like half of a Put.
                os.utime(path, (1e9, 1e9 if n % 2 else 2e9))

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.server
def test_files_that_never_rest_hold_up_their_tenants_alone(rig: Rig, tmp_path: Path) -> None:
    """Sixty tenants keep touching what they name; another tenant's event is published meanwhile."""
    rig.source = ChassisStore(str(tmp_path))
    restless = []
    for n in range(TENANTS):
        data = b"bad %d" % n
        restless += write(tmp_path, f"bad/{n}", data)
        rig.emit(f"bad{n}", tenant=f"bad{n}", artifact_ref=f"bad/{n}", checksum=checksum_of(data))
    write(tmp_path, "good", b"good")
    rig.emit("good", tenant="good", artifact_ref="good", checksum=checksum_of(b"good"))
    with touched(restless), rig.relay(retry_budget_s=60):
        eventually(lambda: "good" in rig.published())
    with rig.relay(retry_budget_s=60):
        eventually(lambda: len(rig.published()) == TENANTS + 1)
    rig.audit()


def test_who_asks_again_need_not_wait_anew(tmp_path: Path) -> None:
    """What cannot be told by its age is believed once it lay still, over several short looks."""
    manifest, _ = write(tmp_path, "empty", b"")  # of an empty file the age says nothing
    os.utime(manifest, (1e9, 2e9))  # newer than its data: it may be half of a Put
    asked, source = 0, ChassisStore(str(tmp_path)).impatient()
    while True:
        asked += 1
        try:
            assert source.get("empty") == (b"", b"{}")
            break
        except Unavailable:
            assert asked < 100
    assert asked > 1


def test_a_tenant_leaves_threads_to_others() -> None:
    """However many artifacts of one tenant hang, one of another is carried."""
    go_on, carried = threading.Event(), list[str | None]()

    def carry(one: Item) -> None:
        if one.tenant == "slow":
            go_on.wait(60)
        carried.append(one.tenant)

    with ThreadPoolExecutor(4) as pool:
        carrying = Carrying(pool, carry, Fixed(4))
        for n in range(50):
            one = item(n)
            one.tenant = "slow" if n < 49 else "quick"
            carrying.carry(one)
        try:
            eventually(lambda: carried == ["quick"])
        finally:
            go_on.set()
        eventually(lambda: len(carried) == 50)
        assert len(list(carrying.collect(60))) == 50
    assert [share_of(n) for n in (1, 2, 3, 4, 8)] == [1, 1, 2, 3, 6]
