"""A healthy deployment, to be broken on purpose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from sidecar.ops.doctor import stores
from tests import servers
from tests.cli.harness import Cli
from tests.doctor.harness import Place, settled
from tests.servers import PATIENCE_S, Server


@pytest.fixture(scope="session")
def kept_server() -> Iterator[Server]:
    """A server that writes an append-only file, as a healthy one does."""
    with servers.running(servers.usual(), arguments=("--appendonly", "yes")) as server:
        yield server


@pytest.fixture
def place(kept_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A deployment that has relayed an event; on a disk with room, whatever this machine has."""
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\n")
    monkeypatch.setattr(stores, "MOUNTS", mounts)
    disk = SimpleNamespace(f_bavail=9 << 20, f_frsize=4096, f_blocks=10 << 20, f_files=100,
                           f_favail=90)  # fmt: skip
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with redis.Redis.from_url(kept_server.url, protocol=2, socket_timeout=PATIENCE_S) as client:
        settled(client)
        yield Place(Cli(kept_server.url, tmp_path, client), monkeypatch, disk, mounts)
