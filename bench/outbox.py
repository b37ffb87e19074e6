"""`python -m bench.outbox [DIRECTORY]`: what staging costs a writer, and how fast a pump is.

Each in SQLite and in PostgreSQL, which flush each commit. A writer changes a row of 300 bytes and
commits; beside it one that stages an event, or an event and 4 KiB, in the same transaction. They
take turns, and the ratio is the median of neighbours. Then eight writers at once, each for a tenant
of its own, or all for one. The pump sends what was staged to a memory store and a real Redis.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import store
from sidecar.producer import outbox
from sidecar.redis.embedded import EmbeddedServer
from tests import postgres
from tests.outbox.places import KINDS, Place

ROUNDS = 30
COMMITS = 20
WRITERS = 8
ROWS = 5000
ARTIFACT = bytes(range(256)) * 16
FLUSHED = ("fsync=on", "shared_buffers=128MB", "autovacuum=on")

Staged = Callable[[Any, str], object]
STAGED: dict[str, Staged] = {
    "a bare change": lambda _, __: None,
    "and an event": lambda db, tenant: outbox.stage(db, type="key.changed", tenant_id=tenant),
    "and an event with 4 KiB": lambda db, tenant: outbox.stage(
        db, type="key.changed", tenant_id=tenant, ref=f"rows/{tenant}", data=ARTIFACT
    ),
}


def main(directory: str | None = None) -> None:
    """Print all of it."""
    with ExitStack() as stack:
        if directory is not None:
            tempfile.tempdir = directory
        where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(closing(EmbeddedServer(where)))
        url = stack.enter_context(postgres.running(*FLUSHED))
        for kind, make in KINDS.items():
            (where / kind).mkdir()
            place = make(where / kind, server.url, url)
            place.run("CREATE TABLE changes (change TEXT)")
            print(f"{kind}, one writer")
            _one_writer(place)
            if kind == "postgres":  # SQLite has one writer at a time
                _many_writers(place)
            _pump(place)
            place.close()


def _commits(place: Place, staged: Staged, tenant: str = "t") -> float:
    """Change and commit; return how long one took, in milliseconds."""
    with closing(place.connect()) as db:
        change = place.written("INSERT INTO changes VALUES (?)")
        began = time.perf_counter()
        for _ in range(COMMITS):
            db.execute(change, ("x" * 300,))
            staged(db, tenant)
            db.commit()
        return (time.perf_counter() - began) / COMMITS * 1000


def _one_writer(place: Place) -> None:
    took: dict[str, list[float]] = {name: [] for name in STAGED}
    for _ in range(ROUNDS):
        for name, staged in STAGED.items():
            took[name].append(_commits(place, staged))
    bare = took["a bare change"]
    for name, each in took.items():
        ratio = statistics.median(one / other for one, other in zip(each, bare, strict=True))
        print(f"  {name:24} {statistics.median(each):6.2f} ms a commit, {ratio:.2f} of a bare one")


def _many_writers(place: Place) -> None:
    print(f"postgres, {WRITERS} writers")
    ways = {
        "a bare change": (STAGED["a bare change"], "t{}"),
        "an event, own tenants": (STAGED["and an event"], "t{}"),
        "an event, one tenant": (STAGED["and an event"], "t"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with ThreadPoolExecutor(WRITERS) as threads:
        for _ in range(ROUNDS // 3):
            for name, (staged, tenant) in ways.items():
                began = time.perf_counter()
                tenants = [tenant.format(number) for number in range(WRITERS)]
                list(threads.map(partial(_commits, place, staged), tenants))
                rates[name].append(WRITERS * COMMITS / (time.perf_counter() - began))
    for name, each in rates.items():
        print(f"  {name:24} {statistics.median(each):6.0f} commits a second")


def _pump(place: Place) -> None:
    place.forget_all()
    for name, more in (("event", {}), ("event with 4 KiB", {"ref": "r", "data": ARTIFACT})):
        place.stage(*(f"{name} {number}" for number in range(ROWS)), **more)
        pump = place.pump(store=store.open_url("memory:"))
        began, spent = time.perf_counter(), time.process_time()
        assert pump.once() == ROWS
        rate = ROWS / (time.perf_counter() - began)
        each_us = (time.process_time() - spent) / ROWS * 1e6
        pump.close()
        print(f"  the pump, each an {name:18} {rate:6.0f} a second, {each_us:.0f} µs of processor")


if __name__ == "__main__":
    main(*sys.argv[1:])
