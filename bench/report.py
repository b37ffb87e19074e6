"""`python -m bench.report`: a report of 100,000 events in a real browser."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from sidecar.history.live import LiveHistory
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.replay.report import Report
from sidecar.replay.timeline import lives
from sidecar.replay.window import Filter, Window, covered
from tests.report.browser import driver
from tests.servers import running, usual

EVENTS = 100_000
TENANTS = 500
BASE_MS = 1_790_000_000_000
PAN = """
const done = arguments[arguments.length - 1], times = [], box = document.querySelector('#timeline');
let last = performance.now();
const step = (n) => requestAnimationFrame((now) => {
  times.push(now - last); last = now;
  if (n === 0) return done(times.slice(2));
  const keys = ['+', 'ArrowRight', 'ArrowLeft', '-'];
  box.dispatchEvent(new KeyboardEvent('keydown', { key: keys[n % 4], bubbles: true }));
  step(n - 1);
});
step(120);
"""


def plant(client: redis.Redis, keys: Keys) -> None:
    """Append so many entries, with their notifications."""
    chance = random.Random(1)
    for begin in range(0, EVENTS, 1000):
        pipeline = client.pipeline(transaction=False)
        for n in range(begin, begin + 1000):
            ms, took = BASE_MS + 10 * n, chance.randrange(1, 9)
            event: dict[str, Any] = {
                "id": n, "event_id": f"evt_{n:08}", "type": "key.changed",
                "tenant_id": f"t_{chance.randrange(TENANTS):04}", "version": n,
                "artifact_ref": f"rows/{n}", "checksum": "sha256:" + "ab" * 32,
                "control_version": (ms + took) * 1000,
            }  # fmt: skip
            entry: Any = {"event": json.dumps(event)}
            note: Any = {**entry, "origin": f"{keys.control}/{ms}-0"}
            pipeline.xadd(keys.control, entry, id=f"{ms}-0")
            pipeline.xadd(keys.notifications, note, id=f"{ms + took}-0")
        pipeline.execute()


def main() -> None:
    """Make it, open it, pan it, and say what that takes."""
    keys = Keys.of("control:events", "control:notifications")
    with running(usual()) as server, tempfile.TemporaryDirectory() as directory:
        client = redis.Redis.from_url(server.url)
        plant(client, keys)
        side = Side.open(server.url, keys.control)
        history = LiveHistory(side, side, [keys])
        began = time.monotonic()
        report = Report(history, Window(), Filter(), covered(history, Window()))
        for life in lives(history, Window()):
            report.add(life)
        path = Path(directory, "report.html")
        path.write_bytes(b"".join(report.html()))
        print(f"made in {time.monotonic() - began:.1f} s: {len(report):,} events,"
              f" {path.stat().st_size / 2**20:.1f} MiB")  # fmt: skip
        with driver() as window:
            browser = window()
            began = time.monotonic()
            browser.open(path)
            print(f"opened in {time.monotonic() - began:.2f} s")
            frames = browser.run_async(PAN)
            middle, slow = statistics.median(frames), sorted(frames)[-4]
            print(f"zoomed and panned: a frame in {middle:.0f} ms (median), {slow:.0f} ms (p97)")


if __name__ == "__main__":
    main()
