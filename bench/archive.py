"""`python -m bench.archive [MILLIONS]`: what an archive costs, and how fast it is read.

Segments as the archiver writes them, of events as a fleet has them: size, speed of writing, the
state at a position, one event by its id. From that a year of ten million events a day is computed.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import store
from sidecar.history import About, Streams
from sidecar.history.archive import ArchiveHistory, pack
from sidecar.history.archiver import USUAL
from sidecar.history.checkpoints import write_checkpoint
from sidecar.history.rows import to_line
from sidecar.history.state import FleetState, state_at
from sidecar.redis.source import Entry
from store import Capability, versioned

STREAMS = Streams(("control:events",), "control:notifications", "dead", "redriven", "halts")
BASE_MS = 1_790_000_000_000
TENANTS, REFS = 2000, 200_000
YEAR = 365 * 10_000_000


def events(count: int) -> Iterator[tuple[Entry, Entry]]:
    """Yield so many control entries, each with its notification."""
    chance = random.Random(1)
    for n in range(count):
        ms, ref = BASE_MS + 8 * n, chance.randrange(REFS)
        tenant = f"t_{ref % TENANTS:04}"
        event = {
            "id": n, "event_id": f"evt_{chance.getrandbits(128):032x}", "type": "key.changed",
            "tenant_id": tenant, "artifact_ref": f"rows/{tenant}/{ref}",
            "checksum": f"sha256:{chance.getrandbits(256):064x}",
            "created_at": "2026-11-02T10:00:00Z",
        }  # fmt: skip
        note = {
            **event,
            "manifest_checksum": "sha256:" + "ab" * 32,
            "control_version": ms * 1000 + 5,
        }
        origin = f"control:events/{ms}-0".encode()
        yield (
            Entry(f"{ms}-0", {b"event": json.dumps(event, separators=(",", ":")).encode()}),
            Entry(f"{ms}-5", {b"event": json.dumps(note, separators=(",", ":")).encode(),
                              b"origin": origin}),
        )  # fmt: skip


def main(millions: float) -> None:
    """Write so many million events, then read."""
    gc.set_threshold(50_000)  # as the commands do
    count = int(millions * 1e6)
    with tempfile.TemporaryDirectory() as directory:
        fleet = versioned(store.open_url(Path(directory).as_uri()), Capability.STREAM)
        assert fleet
        state, since, packing_s, written = FleetState([]), 0, 0.0, 0
        batch: list[tuple[Entry, Entry]] = []
        for n, both in enumerate(events(count), 1):
            batch.append(both)
            if len(batch) < USUAL.rows and n < count:
                continue
            began = time.perf_counter()
            for stream, entries in zip((STREAMS.control[0], STREAMS.notifications),
                                       zip(*batch, strict=True), strict=True):  # fmt: skip
                ref, data, manifest = pack(STREAMS.notifications, stream, entries, None)
                fleet.put(ref, data, manifest)
                written += len(data) + len(manifest)
            packing_s += time.perf_counter() - began
            notes = [note for _, note in batch]
            state.fold(to_line(note).rstrip() for note in notes)
            since += len(batch)
            if since >= max(USUAL.checkpoint_rows, len(state) // 2):
                write_checkpoint(fleet, STREAMS.notifications, notes[-1].id, state.keyed(), [])
                since = 0
            batch = []
        stored = sum(os.stat(Path(d, f)).st_size for d, _, fs in os.walk(directory) for f in fs)
        print(f"{count:,} events: {written / count:.0f} bytes an event (entry and notification),"
              f" {stored / count:.0f} with checkpoints;"
              f" {count / packing_s:,.0f} events/s written")  # fmt: skip
        history = ArchiveHistory(fleet, STREAMS)
        for part in (0.03, 0.5, 0.999):
            began = time.perf_counter()
            found = sum(
                1 for _ in state_at(history, (BASE_MS + int(8 * count * part)) * 1000).refs()
            )
            took = time.perf_counter() - began
            print(f"at {part:.0%} of it: {found:,} refs in {took:.2f} s")
        wanted = json.loads(next(history.entries(STREAMS.control[0], f"{BASE_MS + 4 * count}-0"))
                            .fields[b"event"])["event_id"]  # fmt: skip
        began = time.perf_counter()
        near = history.entries(STREAMS.notifications, f"{BASE_MS + 4 * count - 10_000}-0",
                               f"{BASE_MS + 4 * count + 10_000}-0")  # fmt: skip
        assert any(wanted.encode() in entry.fields[b"event"] for entry in near)
        hinted_s = time.perf_counter() - began
        began = time.perf_counter()
        hits = list(history.entries(STREAMS.notifications, about=About(event_id=wanted)))
        scan_s = time.perf_counter() - began
        assert len(hits) < 20 * USUAL.rows
        print(f"one event: {hinted_s:.2f} s with its time to 20 s; {scan_s:.2f} s without")
        print(f"a year of 10,000,000 a day, computed: {stored / count * YEAR / 2**30:,.0f} GiB,"
              f" {2 * YEAR // USUAL.rows:,} segments, one event without its time"
              f" {scan_s * YEAR / count / 60:.0f} min")  # fmt: skip


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
