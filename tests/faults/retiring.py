"""Whole workers, killed while they follow keep rules: `python -m tests.faults.retiring DIR KILLS`.

`sidecar run --keep … --source-keep …` on a real server, under load, killed with -9 at a random
moment, and started again. After each kill it is judged from outside what is left: what is current
and what any entry names is whole, what went stays away and is on record. A pass is due all the
time, and rests twice as long as it works, for nobody can wait an hour for each; all else is the
worker as it is. Prints what was found, as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis

import store
from sidecar.redis import readers
from sidecar.redis.keys import Keys
from sidecar.wire.ids import EntryId
from sidecar.wire.removals import ROOT, removals
from store import checksum_of
from tests import servers
from tests.faults import outside
from tests.faults.fleet import Worker
from tests.faults.zygote import Zygote

KEYS: Final = Keys.of(outside.CONTROL, outside.NOTIFICATIONS)
STACKS: Final = ("t/a", "t/b", "u/a", "u/b", "v/a")
ENDS: Final = ("published",) * 6 + ("late", "dead", "orphan", "orphan")
OPTIONS: Final = (
    "--lease", "0.3", "--max-consecutive-dead", "0", "--store-threads", "2",
    "--keep", "last=2", "--keep-grace", "1s", "--source-keep", "published+1s,orphans=3s",
    "--dedup-window", "5s", "--trim-control", "length=10", "--trim-notifications", "length=10",
    "--trim-dead", "length=10",
)  # fmt: skip
LARGE_BYTES: Final = 70_000
LATE_S: Final = 0.5
LIVES_S: Final = 2.0
"""At most so long a worker lives once it is active."""
PATIENCE_S: Final = 120.0
READER: Final = "judge"


class Late(NamedTuple):
    """What an event names already, and its producer has yet to put."""

    due: float
    ref: str
    data: bytes


def opened(path: Path) -> store.VersionedStore:
    """Open a file store, which is made if there is none."""
    path.mkdir(exist_ok=True)
    found = store.versioned(store.open_url(path.as_uri()), store.Capability.MANY)
    assert found
    return found


class Deployment:
    """A server, two stores, a producer, and what must be so."""

    def __init__(self, url: str, directory: Path, rng: random.Random) -> None:
        self._url, self._directory, self._rng = url, directory, rng
        self._client: Any = redis.Redis.from_url(url)
        self._stores = {name: opened(directory / name) for name in ("fleet", "source")}
        self._versions = dict.fromkeys(STACKS, 0)
        self._late: list[Late] = []
        self._put: set[str] = set()
        """What the producer has put."""
        self._announced: set[str] = set()
        """The event_ids that must be published in the end."""
        self._published: set[str] = set()
        self.newest: dict[str, dict[str, Any]] = {}
        """By stack, what was announced last."""
        self._there: dict[str, set[str]] = {name: set() for name in self._stores}
        self._gone: dict[str, set[str]] = {name: set() for name in self._stores}
        """What went, as the store shows or as history says."""
        self._records: dict[str, set[str]] = {name: set() for name in self._stores}
        self._last = "0-0"
        self._workers = 0
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        readers.passed(self._client, KEYS, READER, 0, 86_400)

    # --- what the producer does -----------------------------------------------------------------

    def produce(self) -> None:
        """Send one event, or leave an artifact that nobody announces; put what is late."""
        while self._late and self._late[0].due < time.monotonic():
            self._put_now(*self._late.pop(0)[1:])
        stack, end = self._rng.choice(STACKS), self._rng.choice(ENDS)
        self._versions[stack] += 1
        ref = f"stacks/{stack}/{self._versions[stack]}"
        data = ref.encode() * (LARGE_BYTES // len(ref) if self._rng.random() < 0.2 else 1)
        self.found[end] += 1
        if end == "late":
            self._late.append(Late(time.monotonic() + LATE_S, ref, data))
        else:
            self._put_now(ref, data)
        if end != "orphan":
            self._client.xadd(KEYS.control, {"event": self._event(ref, data, end)})

    def _put_now(self, ref: str, data: bytes) -> None:
        self._stores["source"].put(ref, data, b"m")
        self._put.add(ref)

    def _event(self, ref: str, data: bytes, end: str) -> bytes:
        _, tenant, name, version = ref.split("/")
        if end != "dead":
            self._announced.add(ref)
        return json.dumps({
            "event_id": ref, "type": "unheard.of" if end == "dead" else "stack.activated",
            "tenant_id": tenant, "stack_id": name, "version": int(version), "artifact_ref": ref,
            "checksum": checksum_of(data),
        }).encode()  # fmt: skip

    # --- workers that are killed ----------------------------------------------------------------

    def kill_one(self, zygote: Zygote) -> None:
        """Start a worker, produce beside it, and kill it at some moment."""
        worker, ends = self._start(zygote), time.monotonic() + PATIENCE_S
        patient = self._rng.random() < 0.9  # else it dies while it starts
        while patient and worker.state != "active" and time.monotonic() < ends:
            self._produce_a_while(zygote, worker)
            worker.refresh()
        if patient and self._rng.random() < 0.6:  # else it may die before it comes to that
            before, ended = self._announced_removals(), self._ended_removals()
            while self._announced_removals() == before and time.monotonic() < ends:
                self._produce_a_while(zygote, worker)
            comes_to_its_end = self._rng.random() < 0.2  # with large data, and on record
            while comes_to_its_end and self._ended_removals() == ended and time.monotonic() < ends:
                self._produce_a_while(zygote, worker)
        dies = time.monotonic() + self._rng.uniform(0, LIVES_S)
        while time.monotonic() < dies:
            self._produce_a_while(zygote, worker)
        os.kill(worker.pid, signal.SIGKILL)
        zygote.wait(worker.pid, PATIENCE_S)
        self.found["killed"] += 1

    def _announced_removals(self) -> int:
        """Return how many passes have begun to remove something, as far as that is on record."""
        return sum(1 for one in self._stores.values() for _ in one.list(ROOT))

    def _ended_removals(self) -> int:
        """Return how many passes are on record as through."""
        return sum(one.complete for opened in self._stores.values() for one in removals(opened))

    def _start(self, zygote: Zygote, *more: str) -> Worker:
        self._workers += 1
        log = self._directory / f"worker{self._workers}.log"
        log.touch()
        named = servers.stores(self._directory)
        arguments = ["run", "--redis", self._url, *named, *OPTIONS, *more]
        return Worker(zygote.start(arguments, log), log)

    def _produce_a_while(self, zygote: Zygote, worker: Worker) -> None:
        if (code := zygote.poll(worker.pid)) is not None:
            raise SystemExit(f"a worker ended by itself with {code}: {worker.tail()}")
        self.produce()
        time.sleep(self._rng.uniform(0, 0.03))

    # --- what must be so ------------------------------------------------------------------------

    def judge(self) -> None:
        """Look at all of it; nobody works meanwhile."""
        self._read_on()
        for event in self.newest.values():
            self.wrong += outside.resolvable(event, self._directory / "fleet")
        for ref, checksum in self._unfinished():
            self._is_at_the_source(ref, checksum)
        for name in self._stores:
            self._look_into(name)

    def _read_on(self) -> None:
        """Read the notifications as a controller does: all that can be read can be resolved."""
        for _, fields in self._client.xrange(KEYS.notifications):
            event = json.loads(fields[b"event"])
            self.wrong += outside.resolvable(event, self._directory / "fleet")
        for entry, fields in self._client.xrange(KEYS.notifications, f"({self._last}"):
            event = json.loads(fields[b"event"])
            self._last = entry.decode()
            self.newest[f"{event['tenant_id']}/{event['stack_id']}"] = event
            self._published.add(event["event_id"])
        passed = EntryId(self._last).control_version
        readers.passed(self._client, KEYS, READER, passed, 86_400)

    def _unfinished(self) -> Iterator[tuple[str, str]]:
        """Yield what is read at the source again: what is pending or unread, and dead letters."""
        client, read_to = self._client, "0-0"
        pending: list[Any] = []
        if client.exists(KEYS.control) and (groups := client.xinfo_groups(KEYS.control)):
            read_to = groups[0]["last-delivered-id"].decode()
            pending = client.xpending_range(KEYS.control, KEYS.group, "-", "+", 10_000)
        entries = client.xrange(KEYS.control, f"({read_to}")
        for one in pending:
            entries += client.xrange(KEYS.control, one["message_id"], one["message_id"])
        for _, fields in (*entries, *client.xrange(KEYS.dead)):
            event = json.loads(fields[b"event"])
            if event["artifact_ref"] in self._put:
                yield event["artifact_ref"], event["checksum"]

    def _is_at_the_source(self, ref: str, checksum: str) -> None:
        try:
            self._stores["source"].get(ref, checksum=checksum)
        except store.StoreError as error:
            self.wrong.append(f"{ref} is not finished: {type(error).__name__}: {error}")

    def _look_into(self, name: str) -> None:
        """See that what went is on record, and stays away, and that all else is whole."""
        opened, records = self._stores[name], list(removals(self._stores[name]))
        there = {ref for ref in opened.list() if ref.startswith("stacks/")}
        went, new = self._there[name] - there, {one.id for one in records} - self._records[name]
        self.found[f"went from {name}"] += len(went)
        self.found[f"passes over {name}"] += len(new)
        cut_short = sum(not one.complete for one in records if one.id in new)
        self.found[f"cut short in {name}"] += cut_short
        if went and not new:
            self.wrong.append(f"{sorted(went)} went from {name}, and no record says so")
        self._there[name] = there
        self._gone[name] |= went | {ref for one in records for ref, _ in one.refs}
        self._records[name] |= new
        if back := self._gone[name] & there:
            self.wrong.append(f"{sorted(back)} went from {name}, and are there")
        self.wrong += [f"{name}: {one.where}: {one.error}" for one in opened.verify() if one.error]

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def finish(self, zygote: Zygote) -> None:
        """Let the last worker finish all that there is; every event has its end."""
        for one in self._late:
            self._put_now(one.ref, one.data)
        self._late.clear()
        code = zygote.wait(self._start(zygote, "--drain").pid, PATIENCE_S)
        if code != 0:
            self.wrong.append(f"the drain ended with {code}")
        self.judge()
        if lost := self._announced - self._published:
            self.wrong.append(f"{sorted(lost)[:5]} of {len(lost)} were never published")


def run(directory: Path, kills: int, seed: int) -> Deployment:
    """Kill so many workers; return what was found."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.running(servers.usual()))
        zygote = stack.enter_context(closing(Zygote(hasty=True)))
        deployment = Deployment(server.url, directory, random.Random(f"retiring {seed}"))
        stack.callback(deployment.close)
        while deployment.found["killed"] < kills and len(deployment.wrong) < 10:
            deployment.kill_one(zygote)
            deployment.judge()
            sys.stderr.write(f"{deployment.found['killed']} ")
            sys.stderr.flush()
        deployment.finish(zygote)
        return deployment


def main() -> None:
    """Kill, judge, and say what was found."""
    options = argparse.ArgumentParser(prog="python -m tests.faults.retiring", description=__doc__)
    options.add_argument("directory", type=Path)
    options.add_argument("kills", type=int)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    done = run(chosen.directory, chosen.kills, chosen.seed)
    sys.stdout.write(json.dumps({"found": done.found, "wrong": done.wrong}) + "\n")
    raise SystemExit(bool(done.wrong))


if __name__ == "__main__":
    main()
