"""Pumps that are killed, and a real worker after them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.outbox.places import KINDS, STREAM
from tests.servers import stores

KILLS: Final = int(os.environ.get("OUTBOX_KILLS", "60"))


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS)
def test_what_killed_pumps_sent_is_published_once_and_in_order(
    kind: str,
    tmp_path: Path,
    redis_url: str,
    client: redis.Redis,
    server_of: Callable[[str], str],
) -> None:
    """None is lost, none is published twice, and each tenant's come in the order of commits.

    More kills than 60: OUTBOX_KILLS=1000.
    """
    words = (kind, server_of(kind), str(tmp_path), redis_url, str(KILLS), str(KILLS))
    killed = subprocess.run(
        [sys.executable, "-m", "tests.outbox.killed", *words],
        capture_output=True, text=True, check=True, timeout=60 + KILLS,
    )  # fmt: skip
    staged: list[str] = json.loads(killed.stdout)
    assert len(staged) >= KILLS
    appended = [_event_id(fields) for _, fields in _entries(client, STREAM)]
    assert list(dict.fromkeys(appended)) == staged
    subprocess.run(
        [sys.executable, "-m", "sidecar", "run", "--drain", "--redis", redis_url,
         "--data-dir", str(tmp_path / "worker"), *stores(tmp_path)],
        check=True, capture_output=True, timeout=60 + KILLS,
    )  # fmt: skip
    published = [_event_id(fields) for _, fields in _entries(client, "control:notifications")]
    assert sorted(published) == sorted(staged)
    for tenant in "abc":
        assert _of(tenant, published) == _of(tenant, staged)
    assert not client.exists("{control:notifications}:dead")


def _entries(client: redis.Redis, stream: str) -> list[Any]:
    found: Any = client.xrange(stream)
    return list(found)


def _event_id(fields: dict[bytes, bytes]) -> str:
    return str(json.loads(fields[b"event"])["event_id"])


def _of(tenant: str, event_ids: list[str]) -> list[str]:
    return [one for one in event_ids if one.startswith(tenant)]
