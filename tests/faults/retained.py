"""Killed passes of retention: `python -m tests.faults.retained REDIS DIRECTORY KILLS SEED`.

In each round a producer and a worker leave what they would: versions that are announced, that wait,
that died, that nobody announced. Then a pass is forked, a worker's or `sidecar store gc`, over the
fleet's store or the producers', and killed at a random line of the product. After each it is looked
at what is left. Prints what was found, as one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import redis

import store
from sidecar.cli import main as command
from sidecar.ops.sweeping import sweep
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.wire import keeping
from sidecar.wire.keeping import KeepRule, Published
from sidecar.wire.removals import ROOT
from sidecar.worker.retaining import Place, SweepOrder
from store import VersionedStore, checksum_of

KEYS: Final = Keys.of("control:events", "control:notifications")
STACKS: Final = ("stacks/t/a", "stacks/t/b", "stacks/u/a")
LARGE: Final = 70_000
"""Over what lies in a record: it is an object of its own."""
ENDS: Final = ("published", "published", "published", "waits", "dead", "orphan")
MOSTLY: Final = 0.75
"""So many passes are killed; the others tell how many lines one takes by now."""
TRACED: Final = ("sidecar.ops", "sidecar.wire.removals", "store.file")


class Fleet:
    """One server and two stores, and what must be so."""

    def __init__(self, url: str, directory: Path, rng: random.Random) -> None:
        self._url, self._directory, self._rng = url, directory, rng
        self._client = redis.Redis.from_url(url)
        self._client.xgroup_create(KEYS.control, KEYS.group, "0", mkstream=True)
        self._client.set(KEYS.fence, "token")
        self.stores = {name: self._open(name) for name in ("fleet", "source")}
        self._version: Counter[str] = Counter()
        self._newest: dict[str, str] = {}
        """By stack, the ref that was announced last."""
        self._gone: defaultdict[str, set[str]] = defaultdict(set)
        self._steps: dict[Any, int] = {}
        """By kind of pass, how many lines it takes."""
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        for stack in STACKS:  # before anything is announced, a pass may not know the store
            self._event(stack, "published")

    def _open(self, name: str) -> VersionedStore:
        found = store.versioned(store.open_url((self._directory / name).as_uri()))
        assert found
        return found

    # --- what producers and workers do ----------------------------------------------------------

    def work(self) -> None:
        """Let some events come, each with its end; trim what is old."""
        if self._rng.random() < 0.5:
            self._finish_what_waits()
        for stack in STACKS:
            for _ in range(self._rng.randint(0, 3)):
                self._event(stack, self._rng.choice(ENDS))
        self._client.xtrim(KEYS.notifications, maxlen=6, approximate=False)
        self._client.xtrim(KEYS.control, maxlen=4, approximate=False)
        self._client.xtrim(KEYS.dead, maxlen=2, approximate=False)

    def _event(self, stack: str, end: str) -> None:
        self._version[stack] += 1
        ref = f"{stack}/{self._version[stack]}"
        data = ref.encode() * (LARGE // len(ref) if self._rng.random() < 0.2 else 1)
        self.stores["source"].put(ref, data, b"m")
        self.found[end] += 1
        if end == "orphan":
            return
        _, tenant, name = stack.split("/")
        event = json.dumps({
            "event_id": ref, "type": "stack.activated", "tenant_id": tenant, "stack_id": name,
            "version": self._version[stack], "artifact_ref": ref, "checksum": checksum_of(data),
        })  # fmt: skip
        entry: Any = self._client.xadd(KEYS.control, {"event": event})
        self._client.xreadgroup(KEYS.group, "worker", {KEYS.control: ">"})
        if end != "dead":
            self.stores["fleet"].put(ref, data, b"m")
        if end == "published":
            self._publish(entry, {b"event": event.encode()})
        if end == "dead":
            letter: dict[Any, Any] = {
                "event": event,
                "origin": "control:events/1-1",
                "reason": "poison",
            }
            self._client.xadd(KEYS.dead, letter)
            self._client.xack(KEYS.control, KEYS.group, entry)

    def _finish_what_waits(self) -> None:
        waiting: Any = self._client.xpending_range(KEYS.control, KEYS.group, "-", "+", 100)
        for one in waiting:
            entry = one["message_id"]
            found: Any = self._client.xrange(KEYS.control, entry, entry)
            if found:
                self._publish(entry, found[0][1])
            else:  # it was trimmed: its dead letter names nothing
                self._client.xack(KEYS.control, KEYS.group, entry)

    def _publish(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        event = json.loads(fields[b"event"])
        origin = f"{KEYS.control}/{entry.decode()}"
        self._client.xadd(KEYS.notifications, {"event": fields[b"event"], "origin": origin})
        self._client.xack(KEYS.control, KEYS.group, entry)
        stack, _, version = event["artifact_ref"].rpartition("/")
        newest = int(self._newest.get(stack, "/0").rpartition("/")[2])
        self._newest[stack] = f"{stack}/{max(newest, int(version))}"

    # --- passes that are killed -----------------------------------------------------------------

    def kill_a_pass(self) -> None:
        """Fork a pass, and kill it at some line; then look at what is left."""
        name = self._rng.choice(("fleet", "source"))
        do = self._rng.choice((self._by_hand, self._as_a_worker))
        before, known = set(self._refs(name)), self._records(name)
        kind = do, name
        late = max(self._rng.random(), self._rng.random())  # what counts is near the end
        is_known = kind in self._steps and self._rng.random() < MOSTLY
        limit = int(self._steps[kind] * late) if is_known else sys.maxsize
        lines = _forked(lambda: do(name), limit)
        if lines is None:
            self.found["killed"] += 1
        else:
            self.found["through"] += 1
            self._steps[kind] = lines + lines // 20
        went = before - set(self._refs(name))
        self.found["went"] += len(went)
        self._gone[name] |= went
        if went and self._records(name) <= known:
            self.wrong.append(f"{sorted(went)} went from {name}, and no record says so")
        self.found["killed amid"] += bool(went and lines is None)

    def _as_a_worker(self, name: str) -> None:
        side = Side(redis.Redis.from_url(self._url), self._url)
        stores = {one: self._open(one) for one in ("fleet", "source")}
        rule: Any = [KeepRule.parse("last=2")] if name == "fleet" else Published(0.0, 0.0)
        place = Place(name, stores[name], rule, stores["fleet"])
        sweep(SweepOrder(place, side, side, [KEYS], 0.0, 10_000, "", "me", True, lambda: None))

    def _by_hand(self, name: str) -> None:
        keeping.SHORTEST_GRACE_S = keeping.KEEPS_LITTLE_S = 0.0  # type: ignore[misc]
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        rule = "last=2" if name == "fleet" else "published+0s,orphans=0s"
        sys.argv = [
            "sidecar", "store", "gc", "--redis", self._url, "--grace", "0", "--allow-short-grace",
            "--yes", "--keep", rule, "--fleet-store", (self._directory / "fleet").as_uri(),
            "--store", (self._directory / name).as_uri(),
        ]  # fmt: skip
        try:
            command()
        except SystemExit as end:
            if end.code:
                raise

    # --- what must be so ------------------------------------------------------------------------

    def look(self) -> None:
        """See that nothing needed is gone, nothing that went is back, and all is whole."""
        for stack, ref in self._newest.items():
            self._is_whole("fleet", ref, f"the newest of {stack}")
        for ref in self._named(KEYS.notifications, "-"):
            self._is_whole("fleet", ref, "announced")
        pending: Any = self._client.xpending(KEYS.control, KEYS.group)
        waits = self._named(KEYS.control, pending["min"] or "+")
        for ref in waits | self._named(KEYS.dead, "-"):
            self._is_whole("source", ref, "not finished")
        for name in self.stores:
            self._look_into(name)

    def _look_into(self, name: str) -> None:
        refs = set(self._refs(name))
        if back := self._gone[name] & refs:
            self.wrong.append(f"{sorted(back)} went from {name}, and came back")
        for ref in refs:
            self._is_whole(name, ref, "left")
        for found in self.stores[name].verify():
            if found.error:
                self.wrong.append(f"{name}: {found.where}: {found.error}")

    def _is_whole(self, name: str, ref: str, what: str) -> None:
        try:
            data, _ = self.stores[name].get(ref)
        except store.StoreError as error:
            self.wrong.append(f"{ref} ({what}) in {name}: {type(error).__name__}: {error}")
        else:
            if data[: len(ref)] != ref.encode():
                self.wrong.append(f"{ref} has other data in {name}")

    def _named(self, stream: str, first: Any) -> set[str]:
        found: Any = self._client.xrange(stream, first)
        return {json.loads(fields[b"event"])["artifact_ref"] for _, fields in found}

    def _refs(self, name: str) -> list[str]:
        return [ref for ref in self.stores[name].list() if ref.startswith("stacks/")]

    def _records(self, name: str) -> int:
        return sum(1 for _ in self.stores[name].list(ROOT))

    def finish(self) -> None:
        """Let a pass over each store come to its end: what may go has gone."""
        for name in self.stores:
            before = len(self._refs(name))
            self._as_a_worker(name)
            self.found[f"left in {name}"] = len(self._refs(name))
            self.found["went at last"] += before - len(self._refs(name))
        self.look()


def _forked(do: Callable[[], object], limit: int) -> int | None:
    """Do it in a child, which is killed after so many lines; return how many it took to its end."""
    lines = 0

    def step(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_globals.get("__name__", "").startswith(TRACED):
            return None
        lines += event == "line"
        if lines > limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            sys.settrace(step)
            do()
            sys.settrace(None)
            os.write(writing, str(lines).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert said, "a pass failed"
        return int(said)
    return None


def main(url: str, directory: str, kills: str, seed: str) -> None:
    """Kill so often."""
    fleet = Fleet(url, Path(directory), random.Random(int(seed)))
    while fleet.found["killed"] < int(kills) and len(fleet.wrong) < 10:
        fleet.work()
        fleet.kill_a_pass()
        fleet.look()
        print(fleet.found["killed"], end=" ", file=sys.stderr, flush=True)  # noqa: T201 -- as below
    fleet.finish()
    print(json.dumps({"found": fleet.found, "wrong": fleet.wrong}))  # noqa: T201 -- what it is for


if __name__ == "__main__":
    main(*sys.argv[1:])
