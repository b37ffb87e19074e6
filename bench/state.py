"""`python -m bench.state [SUBJECTS] [--signed]`: how long a controller takes to get the state.

A history of ten notifications a subject, archived as a worker does it and trimmed, and a tenth of
that live after it. A process of its own imports the feed, reads the state and looks at each
notification of it; what counts is its processor time and the most memory that it had. With
`--signed` the worker signs notifications and archive, in runs of 64, and the feed verifies.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import store
from sidecar.history.archiver import Archiver
from sidecar.history.live import LiveHistory
from sidecar.history.sealing import Sealer
from sidecar.redis.client import Client, Side
from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.keys import Keys
from sidecar.wire.ids import EntryId
from sidecar.wire.keyfiles import new_pair
from sidecar.wire.signing import Signer
from store import Capability, versioned

KEYS = Keys.of("control:events", "control:notifications")
BASE = 1_790_000_000_000_000
TENANTS = 200
CHUNK = 10_000
READER = """
import sys, time
from pathlib import Path
import store
from sidecar.feed import Feed
began, imported = time.perf_counter(), time.process_time()
fleet, trust = store.open_url(sys.argv[2], create=False), sys.argv[3] or None
with Feed(sys.argv[1], store=fleet, trust=trust) as feed:
    state = feed.state()
    count = sum(1 for _ in state)
most = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(f"{count:,} subjects, complete since {state.complete_since}:"
      f" {time.process_time() - imported:.2f} s of processor,"
      f" {time.perf_counter() - began:.2f} s by the clock;"
      f" the process had {int(most) / 1024:.0f} MiB at most")
"""


def publish(
    client: Client, first: int, count: int, subjects: int, chance: random.Random,
    signer: Signer | None,
) -> None:  # fmt: skip
    """Append so many notifications, each of some subject."""
    for begin in range(first, first + count, CHUNK):
        found: list[tuple[int, bytes, bytes]] = []
        for n in range(begin, min(begin + CHUNK, first + count)):
            # Each subject once, and then any.
            subject = n if n < subjects else chance.randrange(subjects)
            tenant, cv = f"t_{subject % TENANTS:03}", BASE + 1000 * n
            event = {
                "id": n, "event_id": f"evt_{n:032x}", "type": "key.changed", "tenant_id": tenant,
                "artifact_ref": f"rows/{tenant}/{subject}",
                "checksum": f"sha256:{chance.getrandbits(256):064x}",
                "created_at": "2026-11-02T10:00:00Z", "manifest_checksum": "sha256:" + "ab" * 32,
                "control_version": cv,
            }  # fmt: skip
            origin = f"control:events/{cv // 1000}-0"
            found.append((cv, origin.encode(), json.dumps(event, separators=(",", ":")).encode()))
        _append(client, found, signer)


def _append(client: Client, found: list[tuple[int, bytes, bytes]], signer: Signer | None) -> None:
    pipeline = client.pipeline(transaction=False)
    signed = [(origin, event) for _, origin, event in found]
    signatures = signer.signed(KEYS.notifications, signed) if signer else [b""] * len(found)
    for (cv, origin, event), signature in zip(found, signatures, strict=True):
        fields: dict[Any, Any] = {"event": event, "origin": origin}
        fields |= {"signature": signature} if signature else {}
        pipeline.xadd(KEYS.notifications, fields, id=EntryId.of_version(cv))
    pipeline.execute()


def _key(directory: Path) -> tuple[Signer, Path]:
    """Make a key; return it, and the directory of those who trust it."""
    (directory / "trust").mkdir()
    public, _ = new_pair(directory / "bench")
    public.rename(directory / "trust" / public.name)
    return Signer(directory / "bench"), directory / "trust"


def main(subjects: int, *, signs: bool) -> None:
    """Make the history, then read its state."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as directory:
        fleet = versioned(store.open_url((Path(directory) / "fleet").as_uri()), Capability.STREAM)
        assert fleet
        signer, trust = _key(Path(directory)) if signs else (None, "")
        server = EmbeddedServer(Path(directory) / "redis")
        try:
            side = Side.open(server.url, KEYS.notifications)
            client, live = side.client, LiveHistory(side, side, [KEYS], fleet)
            sealer = Sealer(signer, KEYS.notifications) if signer else None
            archiver = Archiver(live, fleet, client, KEYS, sealer=sealer)
            for part in range(10):
                publish(client, part * subjects, subjects, subjects, chance, signer)
                for _ in archiver.archive(KEYS.notifications, rest=True):
                    archiver.keep_state()
                client.hset(KEYS.trimmed, KEYS.notifications, live.reach(KEYS.notifications).last)
                client.xtrim(KEYS.notifications, maxlen=0, approximate=False)
            publish(client, 10 * subjects, subjects // 10, subjects, chance, signer)
            where = (server.url, (Path(directory) / "fleet").as_uri(), str(trust))
            subprocess.run([sys.executable, "-c", READER, *where], check=True)
        finally:
            server.close()


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if one != "--signed"]
    main(int(given[0]) if given else 100_000, signs="--signed" in sys.argv)
