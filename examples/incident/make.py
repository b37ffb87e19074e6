"""Make an incident, for real, and record it: `python examples/incident/make.py incident.zip`.

A real worker on a real server relays the events of a dozen tenants for half a minute. Three things
go wrong on the way, none of them worth a call by itself; together they keep one tenant's stack
from ever reaching version 7. What is left is a bundle for `sidecar replay`, `trace` and `diff`.

Which three stands below, in `Incident`. Try docs/review.md before you read on.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

import store
from sidecar.producer import Producer
from sidecar.redis.embedded import EmbeddedServer

CONTROL = "control:events"
TENANTS = tuple(f"t_{name}" for name in (
    "acme", "borealis", "cyan", "dahlia", "ember", "fjord", "gala", "heron", "iris", "juno",
    "krill", "lumen",
))  # fmt: skip
VICTIM, NOISY = "t_acme", "krill"
ROW_HALTS = 25
"""So many dead letters in a row halt the stream: the worker's --max-consecutive-dead."""
PATIENCE_S = 120.0


class Incident:
    """What happened, in order. Everybody's ordinary work continues between the scenes."""

    def __init__(self, directory: Path, url: str) -> None:
        self._url = url
        self._redis = redis.Redis.from_url(url)
        # A node of the older fleet: one file a ref, and no versions.
        (directory / "node").mkdir()
        self.source = f"chassis-file://{directory / 'node'}"
        self._store = store.open_url(self.source)
        self._producer = Producer(url, CONTROL, self._store)
        self._chance = random.Random(7)
        self._versions = dict.fromkeys(TENANTS, 0)
        self._rows = 0

    def play(self, resume: Callable[[], object]) -> None:
        """Play all scenes. `resume` is what the operator does when the stream has halted."""
        self._ordinary(6, activate=True)
        self._node_is_set_up_anew()
        self._ordinary(2, activate=False)
        # On a busy machine the worker may be behind. What it has not finished when the halt comes
        # would hold version 7 up afterwards: a fourth cause, and by chance.
        _settle(self._url)
        self._bad_release()
        self._second_attempt_behind_the_halt()
        self._ordinary(2, activate=False)
        self._nightly_compaction()
        resume()
        self._ordinary(2, activate=False)
        self._next_version()
        self._ordinary(2, activate=False)

    # --- the three causes ----------------------------------------------------------------------

    def _node_is_set_up_anew(self) -> None:
        """Acme's build node starts from an old image: it counts its events from 3 again.

        Version 7 goes out under the event_id that version 3 had. The worker takes it for what it
        is, an event_id with other content, and buries it: id_conflict.
        """
        self._activate(VICTIM, 7, event_id=f"{VICTIM}-build-3")

    def _bad_release(self) -> None:
        """Krill releases a producer that writes versions as strings, and no tenant.

        That is as many dead letters in a row as halt the stream, for everybody: no tenant is to
        blame, so none can be paused alone.
        """
        for number in range(ROW_HALTS):
            event = {
                "id": number, "event_id": f"{NOISY}-r2-{number}", "type": "stack.activated",
                "stack_id": "web", "version": str(number + 1),
            }  # fmt: skip
            self._redis.xadd(CONTROL, {"event": json.dumps(event)})
        _until(lambda: self._redis.hexists(_key("halt:" + CONTROL), "reason"), "the halt")

    def _second_attempt_behind_the_halt(self) -> None:
        """Acme's team sees no version 7, and sends it again under an id of its own: it waits."""
        self._activate(VICTIM, 7, event_id=f"{VICTIM}-build-7-again")

    def _nightly_compaction(self) -> None:
        """A job on acme's node packs its snapshots anew: same rows, other bytes, same ref.

        The node keeps no versions, so what the waiting event pins is gone: checksum_mismatch, as
        soon as the stream continues.
        """
        self._store.put(_snapshot_ref(VICTIM, 7), _snapshot(VICTIM, 7, packed=True), _manifest(7))

    def _next_version(self) -> None:
        """Acme gives up on 7, and activates 8: from here on 7 is overtaken, and stays so."""
        self._activate(VICTIM, 8)

    # --- what is always continuing ---------------------------------------------------------------

    def _ordinary(self, rounds: int, *, activate: bool) -> None:
        for _ in range(rounds):
            for tenant in TENANTS:
                if activate:
                    self._versions[tenant] += 1
                    self._activate(tenant, self._versions[tenant])
                for _ in range(self._chance.randrange(1, 5)):
                    self._change_a_row(tenant)
                time.sleep(self._chance.uniform(0.01, 0.12))

    def _activate(self, tenant: str, version: int, event_id: str | None = None) -> None:
        self._producer.publish(
            type="stack.activated", tenant_id=tenant, stack_id="web", version=version,
            base_version=version - 1, ref=_snapshot_ref(tenant, version),
            data=_snapshot(tenant, version), manifest=_manifest(version),
            event_id=event_id or f"{tenant}-build-{version}",
        )  # fmt: skip

    def _change_a_row(self, tenant: str) -> None:
        self._rows += 1
        name = self._chance.choice(("keys", "hosts", "members"))
        kind = {"keys": "key.changed", "hosts": "hostname.bound", "members": "membership.changed"}
        row = {"tenant": tenant, "revision": self._rows, "count": self._chance.randrange(100)}
        self._producer.publish(
            type=kind[name], tenant_id=tenant, ref=f"rows/{tenant}/{name}/{self._rows}",
            data=json.dumps(row).encode(), event_id=f"{tenant}-row-{self._rows}",
        )  # fmt: skip


def _snapshot_ref(tenant: str, version: int) -> str:
    return f"stacks/{tenant}/web/{version}"


def _snapshot(tenant: str, version: int, *, packed: bool = False) -> bytes:
    rows = [f"INSERT INTO page VALUES({n},'{tenant} page {n}');" for n in range(1, version + 3)]
    if packed:
        rows.sort(reverse=True)
    return "\n".join(["CREATE TABLE page(id INTEGER, title TEXT);", *rows, ""]).encode()


def _manifest(version: int) -> bytes:
    return json.dumps({"format": "sql", "version": version}).encode()


def _key(name: str) -> str:
    return "{control:notifications}:" + name


def _until(holds: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > ends:
            raise SystemExit(f"{what} did not come within {PATIENCE_S:.0f} s; is the machine busy?")
        time.sleep(0.05)


def main(bundle: Path) -> None:
    """Play the incident in a temporary directory, and export it."""
    with tempfile.TemporaryDirectory(prefix="incident-") as name:
        directory = Path(name)
        server = EmbeddedServer(directory)
        try:
            incident = Incident(directory, server.url)
            options = ["--data-dir", str(directory)]
            worker = subprocess.Popen(
                [
                    *_SIDECAR, "run", *options, "--source-store", incident.source,
                    "--retry-budget", "2s", "--max-consecutive-dead", str(ROW_HALTS),
                    "--log-level", "error",
                ]
            )  # fmt: skip
            try:
                why = ["--reason", "krill's letters are known, ticket 4711"]
                incident.play(lambda: _sidecar("resume", *options, *why))
                _settle(server.url)
            finally:
                worker.terminate()
                worker.wait()
            _sidecar("replay", "export", str(bundle), *options)
        finally:
            server.close()
    print(f"{bundle} is ready: docs/review.md goes through it")


_SIDECAR = [sys.executable, "-m", "sidecar"]


def _sidecar(*arguments: str) -> None:
    subprocess.run([*_SIDECAR, *arguments], check=True, stdout=subprocess.DEVNULL)


def _settle(url: str) -> None:
    """Wait until the worker has finished all that was sent."""
    client = redis.Redis.from_url(url)
    group = "sidecar:control:notifications"

    def done() -> bool:
        groups = {one["name"].decode(): one for one in client.xinfo_groups(CONTROL)}
        last = client.xinfo_stream(CONTROL)["last-generated-id"]
        one = groups.get(group)  # the worker may be no further than its start
        return bool(one and one["pending"] == 0 and one["last-delivered-id"] == last)

    _until(done, "the end of the queue")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("say where the bundle goes: python examples/incident/make.py incident.zip")
    if os.path.lexists(sys.argv[1]):
        raise SystemExit(f"{sys.argv[1]} is there already: remove it, or name another path")
    main(Path(sys.argv[1]).absolute())
