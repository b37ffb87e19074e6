"""The script of the demo, chapter by chapter. Every figure in it is measured."""

import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from shlex import quote
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any, Final

import redis

import store
from examples.demo import schema
from examples.demo.claims import Claim, Evidence, judge, size
from examples.demo.fleet import READER, Fleet
from examples.demo.plane import SNAPSHOT_TYPE, ControlPlane, Outgoing, Snapshot, take_snapshot
from examples.demo.processes import Child, ask
from examples.demo.stage import Stage
from sidecar.feed import Feed, ForeignEntry, Notification, SidecarError
from sidecar.producer import Producer
from sidecar.producer.outbox import Pump
from sidecar.redis.embedded import EmbeddedServer

CONTROL: Final = "control:events"
NOTIFICATIONS: Final = "control:notifications"
GROUP: Final = "sidecar:control:notifications"
CHANGES: Final = 320
"""In each of the two chapters that make them."""
PATIENCE_S: Final = 60.0
"""How long nothing at all may move; on a slow disk the whole takes as long as it takes."""
LEASE_S: Final = 1.0
"""Short, so that a killed worker's successor need not wait: the default is 5 s."""
BACKLOG: Final = 40
"""Entries that come up while the worker is stalled, for it to take in hand."""


class Demo:
    """One performance, in a directory of its own."""

    def __init__(self, stage: Stage, directory: Path, seed: int, *, kept: bool) -> None:
        self._stage, self._dir, self._seed, self._kept = stage, directory, seed, kept
        self._fleet_db, self._fleet_url = directory / "fleet.db", (directory / "fleet").as_uri()
        self._stop, self._work = threading.Event(), Future[None]()
        self._snapshots: list[Snapshot] = []
        self._bad: dict[str, str] = {}
        self._interrupted = False
        self._by_hand = 0
        """Events that did not come from the control plane's outbox."""

    def interrupt(self, *_: object) -> None:
        """End soon, as a signal handler: nothing is left that was being started just now."""
        self._interrupted = True

    def play(self) -> bool:
        """Play all chapters; tell whether everything held."""
        began = time.monotonic()
        with ExitStack() as stack:
            self._make_control_plane(stack)
            self._start(stack)
            self._change()
            self._make_mistakes()
            self._kill()
            restored = self._rebuild()
            claims = self._judge() + restored
        held = sum(claim.held for claim in claims)
        text = f"{held} of {len(claims)} held, in {time.monotonic() - began:.1f} s."
        self._stage.end(claims, text, _looks(self._dir if self._kept else None))
        return held == len(claims)

    def _make_control_plane(self, stack: ExitStack) -> None:
        began = time.monotonic()
        self._plane = ControlPlane(self._dir / "control-plane.db", self._seed)
        stack.callback(self._plane.close)
        took_s, rows = time.monotonic() - began, schema.row_counts(self._plane.path)
        total, big = sum(rows.values()), Counter(rows).most_common(7)
        self._stage.chapter(1, f"A control plane with {rows['tenants']} tenants, {total:,} rows")
        self._stage.say(
            f"SQLite, {len(rows)} tables, made in {took_s:.2f} s from seed {self._seed}:\n"
            + ", ".join(f"{count:,} {name}" for name, count in big)
        )

    def _start(self, stack: ExitStack) -> None:
        self._stage.chapter(2, "A server, a worker, a fleet controller")
        server = EmbeddedServer(self._dir)
        stack.callback(server.close)
        self._url = server.url
        self._redis = stack.enter_context(redis.Redis.from_url(server.url))
        source = store.open_url((self._dir / "source").as_uri())
        self._producer = Producer(server.url, CONTROL, source)
        stack.callback(self._producer.close)
        self._pump = Pump(self._plane.path, server.url, CONTROL, source)
        stack.callback(self._pump.close)
        began = time.monotonic()
        self._worker = self._start_worker()
        stack.callback(self._stop_worker)
        self._controller = Child(
            self._dir / "controller.log", "examples.demo.fleet", str(self._fleet_db),
            SIDECAR_REDIS=server.url, SIDECAR_FLEET_STORE=self._fleet_url,
        )  # fmt: skip
        stack.callback(self._controller.stop)
        self._pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(self._stop.set)
        info: Any = self._redis.info("server")
        self._stage.say(
            f"{info['server_name'].title()} {info['valkey_version']}, embedded\n`sidecar run` is"
            f" process {self._worker.pid}; its lease is {LEASE_S:g} s here (5 s by default)\n"
            f"the fleet controller is process {self._controller.pid}, with an empty database and a"
            " Feed"
        )
        self._snapshot("before the first change")
        self._until(self._is_through, "the fleet controller to bootstrap")
        took_s = time.monotonic() - began
        self._stage.say(f"the fleet controller has restored it: {took_s:.1f} s after its start")

    def _change(self) -> None:
        self._stage.chapter(3, "Changes come, the fleet follows")
        began = time.monotonic()
        self._work_at(160.0)
        self._until(lambda: self._plane.sent >= CHANGES // 2, "changes")
        self._snapshot("of a database that is being changed")
        self._until(self._is_through, "the fleet to catch up")
        took_s = time.monotonic() - began
        waits_s = (one.get("delay_s") for one in ask(self._dir, "replay", "show"))
        waits_ms = sorted(1000 * wait_s for wait_s in waits_s if wait_s)
        median, p99 = statistics.median(waits_ms), waits_ms[int(len(waits_ms) * 0.99)]
        self._stage.say(
            f"{self._plane.sent} transactions in {took_s:.1f} s; the fleet has applied all of them"
            f"\nentry to notification: median {median:.1f} ms, p99 {p99:.1f} ms, artifact carried"
            " and synced included"
        )

    def _make_mistakes(self) -> None:
        self._stage.chapter(4, "Mistakes")
        out = self._plane.change_by_hand("t_03")
        self._twice = str(out[0]["event_id"])
        no_checksum = out[0] | {"artifact_ref": out[0]["ref"]}
        self._send_bad(no_checksum, "an artifact_ref without checksum", "invalid_event")
        new = [self._send_again(out) for _ in range(2)]
        self._stage.say(
            f"sent again with its checksum, still as {self._twice}: {new[0]} new notification\n"
            f"a producer whose answer got lost sends it once more: absorbed, {new[1]} new"
        )
        other = {"event_id": self._twice, "id": 0, "type": "run.abort", "tenant_id": "t_03"}
        self._send_bad(other, "the same event_id for something else", "id_conflict")

    def _send_again(self, out: Outgoing) -> int:
        """Send an event that was not sent from the outbox; return how many were published."""
        before = self._published()
        self._send(out)
        self._by_hand += 1
        self._until(self._is_settled, "the worker")
        return self._published() - before

    def _send_bad(self, event: dict[str, Any], what: str, reason: str) -> None:
        """Append what breaks a rule, past `sidecar.producer`, which refuses what it can see."""
        entry: Any = self._redis.xadd(CONTROL, {"event": json.dumps(event)})
        self._by_hand += 1
        origin = f"{CONTROL}/{entry.decode()}"
        self._bad[origin] = reason
        self._until(self._is_settled, "the worker")
        self._stage.say(f"{what}, by hand, and the stream continues")
        for one in ask(self._dir, "dead", "ls", "--each"):
            if one["origin"] == origin:
                (shown,) = ask(self._dir, "dead", "show", one["id"])
                self._stage.say(f"set aside as dead letter: {shown['reason']} ({shown['detail']})")
                self._stage.say(f"what to do: {shown['fix']}")

    def _kill(self) -> None:
        self._stage.chapter(5, "The worker is killed while it works")
        before, sent = self._published(), self._plane.sent
        self._work_at(200.0)
        self._until(lambda: self._published() > before + CHANGES // 5, "notifications")
        self._stall()
        self._worker.signal(SIGKILL)
        at, killed_at, self._in_hand = self._published(), time.monotonic(), self._pending()
        self._stage.say(
            f"{at - before} notifications later, process {self._worker.pid} is stalled,"
            f" continues, and is killed with SIGKILL: it had {len(self._in_hand)} entries in"
            f" hand, {self._group()['lag']} unread before it\nthe control plane continues",
            in_hand=len(self._in_hand),
        )
        self._snapshot("while no worker runs")
        self._worker = self._start_worker()
        self._until(lambda: self._published() > at, "a takeover")
        gap_s = time.monotonic() - killed_at
        self._until(self._is_through, "the fleet to catch up")
        took_s = time.monotonic() - killed_at
        self._stage.say(
            f"process {self._worker.pid} took over: {gap_s:.1f} s from the kill to the next"
            f" notification, start of Python and lease included\nall {self._plane.sent - sent}"
            f" events of this chapter are through {took_s:.1f} s after the kill"
        )

    def _stall(self) -> None:
        """Freeze the worker where it holds entries that are neither published nor acknowledged.

        While it is frozen a backlog forms, which it takes in hand when it continues.
        """
        self._worker.signal(SIGSTOP)
        self._until(lambda: self._work.done() or self._group()["lag"] > BACKLOG, "a backlog")
        self._until(self._took_some, "the worker to take some in hand")

    def _took_some(self) -> bool:
        """Let the frozen worker continue for a moment."""
        self._worker.signal(SIGCONT)
        time.sleep(0.005)
        self._worker.signal(SIGSTOP)
        return bool(self._pending()) or self._is_settled()

    def _rebuild(self) -> list[Claim]:
        self._check()
        self._stage.chapter(6, "A fleet database from nothing but the last snapshot")
        path = self._dir / "restored.db"
        notifications = self._notifications()
        newest = [n for n in notifications if n.type == SNAPSHOT_TYPE][-1]
        fleet_store = store.open_url(self._fleet_url, create=False)
        with closing(Fleet(path)) as fleet, Feed(self._url, store=fleet_store) as feed:
            fleet.bootstrap(feed.resolve(newest))
            then = _compare(path, self._snapshots[-1], newest.artifact_ref)
            self._stage.say(f"{newest.artifact_ref}: {then.found}")
            after = [n for n in notifications if n.id > fleet.base]
            fleet.apply(after, notifications[-1].control_version, feed.resolve)
        with closing(Fleet(self._fleet_db)) as fleet:
            applied, misfits, resolved_bytes = fleet.counts
        live, restored, source = map(schema.digest, (self._fleet_db, path, self._plane.path))
        changes = f"{len(after)} changes applied, .dump {restored[:12]}… and {source[:12]}…"
        self._stage.say(f"then what came after it: {changes} at the source now")
        found = f"{applied:,} notifications applied, {size(resolved_bytes)} resolved"
        found += f", {misfits} out of order, .dump {live[:12]}…"
        return [
            then,
            Claim("snapshot + what came after = source now", restored == source, changes),
            Claim("the live fleet = source now", live == source and not misfits, found),
        ]

    def _judge(self) -> list[Claim]:
        self._check()
        self._stage.chapter(7, "Audited: `sidecar audit`, the feed, and a plain XRANGE")
        entries: Any = self._redis.xrange(NOTIFICATIONS)
        *culprits, audited = ask(self._dir, "audit", may=1)
        evidence = Evidence(
            audited["summary"], culprits, ask(self._dir, "status")[0],
            ask(self._dir, "dead", "ls", "--each"), ask(self._dir, "trace", self._twice, may=1),
            self._notifications(), entries,
        )  # fmt: skip
        code, found = self._stop_worker(), evidence.summary
        broken = ", ".join(name for name, count in found["culprits"].items() if count)
        self._stage.say(
            f"`sidecar audit` has read {found['entries']:,} entries, {found['artifacts']:,}"
            f" artifacts: {f'broken is {broken}' if broken else 'G1 to G4 hold'}\n"
            f"the worker stopped on SIGTERM with exit code {code}"
        )
        sent = self._plane.sent + self._by_hand
        return judge(evidence, sent, self._bad, self._twice, self._in_hand)

    # --- what the chapters share -----------------------------------------------------------------

    def _start_worker(self) -> Child:
        where = ("--data-dir", str(self._dir))
        # Snapshots are nobody's: their ids are those that the producer draws.
        ids = ("--event-id-scope", "{tenant}/*", "--event-id-scope", "evt_*")
        lease = ("--lease", str(LEASE_S))
        return Child(self._dir / "worker.log", "sidecar", "run", *where, *lease, *ids)

    def _stop_worker(self) -> int:
        return self._worker.stop()  # the one that there is by then

    def _work_at(self, per_s: float) -> None:
        self._work = self._pool.submit(
            self._plane.work, self._pump.once, CHANGES, per_s, self._stop
        )

    def _send(self, out: Outgoing) -> None:
        """Put the artifact, then append the event."""
        event, data, manifest = out
        self._producer.publish(**event, data=data, manifest=manifest)

    def _snapshot(self, when: str) -> None:
        """Take a snapshot and send it as any producer would."""
        number = len(self._snapshots) + 1
        snapshot = take_snapshot(self._plane.path, self._dir / f"snapshot-{number}.db")
        self._producer.publish(
            type=SNAPSHOT_TYPE, ref=snapshot.ref, data=snapshot.data, manifest=snapshot.manifest
        )
        self._by_hand += 1
        self._snapshots.append(snapshot)
        of = f"{snapshot.ref}, {size(len(snapshot.data))} of SQL"
        self._stage.say(f"snapshot {number}, {when}: {of}")

    def _until(self, done: Callable[[], bool], what: str) -> None:
        """Wait for something, as long as anything moves."""
        seen, since = self._progress(), time.monotonic()
        with self._stage.watch(f"waiting for {what}") as show:
            while not done():
                self._check()
                if (now := self._progress()) != seen:
                    seen, since = now, time.monotonic()
                show(f"{now[0]} entries, {now[1]} notifications")
                if time.monotonic() > since + PATIENCE_S:
                    raise SidecarError(
                        f"nothing has moved for {PATIENCE_S:.0f} s, waiting for {what}; the end of"
                        f" the worker's log:\n{self._worker.last_words()}"
                    )
                time.sleep(0.02)

    def _progress(self) -> tuple[object, ...]:
        """Return what changes as long as anything moves."""
        sent, published = self._redis.xlen(CONTROL), self._published()
        return sent, published, self._plane.sent, self._group(), self._passed()

    def _is_settled(self) -> bool:
        """Tell whether the worker has nothing left to read and nothing in hand."""
        group = self._group()
        return bool(group) and not group["pending"] and group["lag"] == 0

    def _is_through(self) -> bool:
        """Tell whether all that was sent is published and applied."""
        if self._work.running() or not self._is_settled():
            return False
        newest: Any = self._redis.xrevrange(NOTIFICATIONS, count=1)
        event = json.loads(newest[0][1][b"event"]) if newest else {"control_version": 0}
        return self._passed() >= int(event["control_version"])

    def _passed(self) -> int:
        """Return the control_version up to which the fleet controller says it has applied all."""
        found: Any = self._redis.get(f"{{{NOTIFICATIONS}}}:reader:{READER}")
        return int(found.split()[0]) if found else 0

    def _group(self) -> dict[str, Any]:
        """Return what Redis says of the worker's consumer group; nothing before there is one."""
        groups: Any = self._redis.xinfo_groups(CONTROL) if self._redis.exists(CONTROL) else []
        return groups[0] if groups else {}

    def _pending(self) -> list[str]:
        """Return the origins of the entries that the worker has in hand."""
        found: Any = self._redis.xpending_range(CONTROL, GROUP, "-", "+", 10_000)
        return [f"{CONTROL}/{entry['message_id'].decode()}" for entry in found]

    def _published(self) -> int:
        return int(self._redis.xlen(NOTIFICATIONS))

    def _notifications(self) -> list[Notification]:
        found: list[Notification] = []
        with Feed(self._url) as feed, suppress(ForeignEntry):  # which the claims miss
            while page := feed.poll(feed.position):
                found += page
        return found

    def _check(self) -> None:
        """Raise when interrupted, or when something ended that should not have."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._worker.check()
        self._controller.check()
        if self._work.done():
            self._work.result()  # raises what it died of


def _compare(path: Path, snapshot: Snapshot, ref: str) -> Claim:
    """Hold that a database restored from `ref` is what the source was then."""
    same = schema.digest(path) == schema.digest(snapshot.copy)
    rows, wanted = (sum(schema.row_counts(one).values()) for one in (path, snapshot.copy))
    found = f"{rows:,} rows of {wanted:,}, .dump {'equal' if same else 'DIFFERENT'}"
    return Claim("the last snapshot is the source then", same and ref == snapshot.ref, found)


def _looks(kept: Path | None) -> list[str]:
    """Return commands to look around with, fit to be pasted all in one go."""
    sidecar = os.path.relpath(Path(sys.executable).with_name("sidecar"))
    if kept is None:
        return ['make demo DEMO="--keep demo"', f"{sidecar} run"]
    directory = quote(str(kept))
    at = f"--data-dir {directory}"
    return [
        f"{sidecar} run {at} 2>{directory}/worker.log &",
        f"until {sidecar} status {at} 2>{directory}/status.log; do sleep 1; done",
        *(f"{sidecar} {name} {at}" for name in ("audit", "tail -n 5", "dead ls")),
        f"sqlite3 {directory}/fleet.db .tables",
    ]
