"""The script of the demo, chapter by chapter. Every figure in it is measured."""

from __future__ import annotations

import hashlib
import shlex
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import orjson

import store
from sidecar.demo import controller, evidence, schema
from sidecar.demo.controlplane import SNAPSHOT_TYPE, ControlPlane, Snapshot, take_snapshot
from sidecar.demo.evidence import Claim, Entry, Evidence, size
from sidecar.demo.node import Emitter, Thread, Writer
from sidecar.demo.processes import LEASE_S, Child, start_controller, start_worker
from sidecar.demo.stage import Stage
from sidecar.embedded import EmbeddedServer
from sidecar.errors import SidecarError
from sidecar.event import Reason, Rejected
from sidecar.feed import Feed
from sidecar.producer import Producer
from sidecar.reasons import explain
from sidecar.redis.client import connect, translated
from sidecar.redis.keys import Keys
from sidecar.redis.source import id_pair
from sidecar.settings import file_url
from sidecar.stores import open_store

KEYS: Final = Keys.of("control:events", "control:notifications")
CHANGES: Final = 320
"""Transactions in each of the two chapters that make them."""
CALM_PER_S: Final = 160.0
BUSY_PER_S: Final = 200.0
PATIENCE_S: Final = 30.0
"""How long nothing at all may happen; on a slow disk the whole takes as long as it takes."""
LOOK_EVERY_S: Final = 0.02
BACKLOG: Final = 40
"""Entries that come up while the worker is stalled, before it is let go on and killed."""
IN_HAND: Final = 8
"""Entries that it should have in its hands then."""
STALLS: Final = 5
BARS: Final = ("committed", "notified", "applied")


class Stuck(SidecarError):
    """Something that should have happened did not."""


class Demo:
    """One performance, in a directory of its own."""

    def __init__(self, stage: Stage, directory: Path, seed: int, *, kept: bool) -> None:
        self._stage = stage
        self._dir = directory
        self._seed = seed
        self._kept = kept
        self._began = time.monotonic()
        self._children: list[Child] = []
        self._threads: list[Thread] = []
        self._snapshots: list[Snapshot] = []
        self._claims: list[Claim] = []
        self._sent_by_hand = 0
        (directory / "snapshots").mkdir()

    def play(self) -> bool:
        """Play all chapters; tell whether everything held."""
        with ExitStack() as stack:
            self._make_control_plane(stack)
            self._start(stack)
            self._change()
            self._make_mistakes()
            self._kill()
            self._rebuild()
            self._read_from_outside()
        return self._finish()

    # --- 1 -------------------------------------------------------------------------------------

    def _make_control_plane(self, stack: ExitStack) -> None:
        began = time.monotonic()
        self._plane = ControlPlane(self._dir / "control-plane.db", self._seed)
        stack.callback(self._plane.close)
        took_s = time.monotonic() - began
        rows = self._plane.rows()
        total = sum(rows.values())
        self._stage.chapter(1, f"A control plane with {rows['tenants']} tenants, {total:,} rows")
        big = sorted(rows.items(), key=lambda item: -item[1])[:7]
        self._stage.say(
            "control_plane",
            f"SQLite, {len(rows)} tables, made in {took_s:.2f} s from seed {self._seed}:\n"
            + ", ".join(f"{count:,} {name}" for name, count in big),
            rows=rows, total_rows=total, seed=self._seed, seconds=round(took_s, 3),
        )  # fmt: skip

    # --- 2 -------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> None:
        self._stage.chapter(2, "A server, a worker, a fleet controller")
        began = time.monotonic()
        server = EmbeddedServer(self._dir)
        stack.callback(server.close)
        self._url = server.url
        self._redis = connect(server.url)
        stack.callback(self._redis.close)
        name, version = self._server_name()
        self._stage.say(
            "server",
            f"{name} {version}, embedded, up after {time.monotonic() - began:.2f} s",
            server=name, version=version,
        )  # fmt: skip
        self._fleet_url = file_url(self._dir / "fleet")
        self._source = open_store(file_url(self._dir / "source"))
        self._producer = Producer(server.url, KEYS.control, self._source)
        stack.callback(self._producer.close)
        self._emitter = Emitter(self._plane.path, self._producer)
        self._threads.append(self._emitter)
        stack.callback(self._stop_threads)
        self._fleet_db = self._dir / "fleet.db"
        stack.callback(self._stop_children)
        began = time.monotonic()
        self._worker = self._child(start_worker(server.url, self._dir))
        self._controller = self._child(
            start_controller(server.url, self._fleet_url, self._dir, self._fleet_db)
        )
        self._stage.say(
            "started",
            f"`sidecar run` is process {self._worker.pid}; its lease is {LEASE_S:g} s here (5 s by"
            f" default)\nthe fleet controller is process {self._controller.pid}, with an empty"
            " database and a Feed",
            worker_pid=self._worker.pid, controller_pid=self._controller.pid, lease_s=LEASE_S,
        )  # fmt: skip
        self._snapshot("before the first change")
        self._until(lambda: self._fleet().applied == 1, "the fleet controller to bootstrap")
        self._stage.say(
            "bootstrapped",
            f"the fleet controller has restored it: {time.monotonic() - began:.1f} s after both"
            " were started",
            seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip

    # --- 3 -------------------------------------------------------------------------------------

    def _change(self) -> None:
        self._stage.chapter(3, "Changes come, the fleet follows")
        first = self._last_entry()
        began = time.monotonic()
        self._emitter.start()
        writer = self._write(CALM_PER_S)
        with self._stage.bars(*BARS) as update:
            show = self._shower(writer, update)
            self._until(lambda: writer.transactions >= CHANGES // 2, "changes", show)
            self._snapshot("of a database that is being changed")
            self._until(lambda: self._is_through(writer), "the fleet to catch up", show)
        took_s = time.monotonic() - began
        raw = evidence.read(self._redis, KEYS)
        latencies = evidence.latencies_ms(raw, first, self._last_entry())
        median, p99 = statistics.median(latencies), latencies[int(len(latencies) * 0.99)]
        fleet = self._fleet()
        self._stage.say(
            "changes",
            f"{writer.transactions} transactions made {writer.events} events in {took_s:.1f} s;"
            f" the fleet has applied all of them\n"
            f"entry to notification: median {median:.1f} ms, p99 {p99:.1f} ms, artifact carried"
            f" and synced included",
            transactions=writer.transactions, events=writer.events, seconds=round(took_s, 3),
            median_ms=round(median, 2), p99_ms=round(p99, 2), applied=fleet.applied,
        )  # fmt: skip
        ref, times = self._most_rewritten(raw)
        self._busiest_ref = ref
        self._stage.say(
            "mutable_ref",
            f"{ref} was rewritten {times} times, and every notification pins the version it means",
            ref=ref, versions=times,
        )  # fmt: skip

    # --- 4 -------------------------------------------------------------------------------------

    def _make_mistakes(self) -> None:
        self._stage.chapter(4, "Mistakes")
        out = self._plane.change_by_hand("t_03")
        origin = self._send_without_checksum(out.event | {"artifact_ref": out.ref})
        self._emitter.send(out)
        self._settle()
        self._stage.say(
            "mended",
            f"sent again with its checksum, still as {out.event['event_id']}: published",
            event_id=out.event["event_id"],
        )  # fmt: skip
        before = self._redis.xlen(KEYS.notifications)
        self._emitter.send(out)
        self._settle()
        new = self._redis.xlen(KEYS.notifications) - before
        self._twice = out.event["event_id"]
        self._stage.say(
            "duplicate",
            f"a producer whose answer got lost sends {self._twice} once more: absorbed, {new} new"
            " notifications",
            event_id=self._twice, new_notifications=new,
        )  # fmt: skip
        self._producer.publish(type="run.abort", tenant_id="t_03", event_id=self._twice)
        self._sent_by_hand += 1
        letter = self._letter(2)
        self._bad = {origin: Reason.INVALID_EVENT, letter.origin: Reason.ID_CONFLICT}
        self._stage.say(
            "dead_letter",
            f"the same event_id for something else is no duplicate: {_told(letter)}\n"
            f"what to do: {_mend(letter)}",
            reason=_text(letter, "reason"), detail=_text(letter, "detail"), origin=letter.origin,
            mend=_mend(letter),
        )  # fmt: skip

    def _send_without_checksum(self, event: dict[str, object]) -> str:
        """Send an event that breaks a rule; return the origin of its dead letter."""
        try:
            self._producer.publish(**event)  # type: ignore[arg-type]
        except Rejected as rejected:
            refused = rejected.reason
        else:
            raise Stuck("sidecar.producer sent an artifact_ref without checksum")
        self._redis.xadd(KEYS.control, {"event": orjson.dumps(event)})
        self._sent_by_hand += 1
        letter = self._letter(1)
        self._stage.say(
            "dead_letter",
            f"an artifact_ref without checksum; sidecar.producer refuses it"
            f" ({refused}), so it goes in by hand\n"
            f"the worker sets it aside, and the stream goes on: {_told(letter)}\n"
            f"what to do: {_mend(letter)}",
            reason=_text(letter, "reason"), detail=_text(letter, "detail"), origin=letter.origin,
            mend=_mend(letter),
        )  # fmt: skip
        return letter.origin

    # --- 5 -------------------------------------------------------------------------------------

    def _kill(self) -> None:
        self._stage.chapter(5, "The worker is killed while it works")
        writer = self._write(BUSY_PER_S)
        with self._stage.bars(*BARS) as update:
            show = self._shower(writer, update)
            before = self._redis.xlen(KEYS.notifications)
            self._until(
                lambda: self._redis.xlen(KEYS.notifications) >= before + CHANGES // 5,
                "notifications",
                show,
            )
            self._stall_until_it_has_work_in_hand(writer, show)
            pid = self._worker.pid
            self._worker.kill()
            self._children.remove(self._worker)
            killed_at = time.monotonic()
            self._in_hand = self._pending_ids()
            published = self._redis.xlen(KEYS.notifications) - before
            unread = evidence.read(self._redis, KEYS).unread
            self._stage.say(
                "killed",
                f"{published} notifications on, process {pid} is stalled, let go on, and killed"
                f" with SIGKILL: it had {len(self._in_hand)} entries in its hands,"
                f" {unread} unread before it\nthe control plane goes on",
                pid=pid, published=published, in_hand=len(self._in_hand), unread=unread,
            )  # fmt: skip
            self._snapshot("while no worker runs")
            at = self._redis.xlen(KEYS.notifications)
            self._worker = self._child(start_worker(self._url, self._dir))
            self._until(lambda: self._redis.xlen(KEYS.notifications) > at, "a takeover", show)
            gap_s = time.monotonic() - killed_at
            self._until(lambda: self._is_through(writer), "the fleet to catch up", show)
        through_s = time.monotonic() - killed_at
        self._stage.say(
            "took_over",
            f"process {self._worker.pid} took over: {gap_s:.1f} s from the kill to the next"
            " notification, start of Python and lease included\n"
            f"all {writer.events} events of this chapter are through {through_s:.1f} s after the"
            " kill",
            pid=self._worker.pid, seconds=round(gap_s, 3), events=writer.events,
        )  # fmt: skip

    def _stall_until_it_has_work_in_hand(self, writer: Writer, show: Callable[[], None]) -> None:
        """Stop the worker where it holds entries that are neither published nor acknowledged.

        On a stall a backlog forms, which it takes into its hands when it goes on.
        """
        for _ in range(STALLS):
            self._worker.freeze()
            self._until(
                lambda: not writer.is_alive() or evidence.read(self._redis, KEYS).unread >= BACKLOG,
                "a backlog",
                show,
            )
            self._worker.thaw()
            deadline = time.monotonic() + LEASE_S / 2
            while len(self._pending_ids()) < IN_HAND and time.monotonic() < deadline:
                self._check()
            self._worker.freeze()
            if self._pending_ids():
                return
            self._worker.thaw()

    # --- 6 -------------------------------------------------------------------------------------

    def _rebuild(self) -> None:
        self._stage.chapter(6, "A fleet database from nothing but the last snapshot")
        self._emitter.stop()
        self._check()
        last = self._snapshots[-1]
        path = self._dir / "restored.db"
        began = time.monotonic()
        with (
            closing(Feed(self._url, store=store.open_url(self._fleet_url))) as feed,
            closing(controller.Fleet(path)) as fleet,
        ):
            notifications = controller.everything(feed)
            newest = [n for n in notifications if n.type == SNAPSHOT_TYPE][-1]
            fleet.bootstrap(feed.resolve(newest))
            restored_s = time.monotonic() - began
            self._compare_restored(path, last, newest.artifact_ref, restored_s)
            tail = [n for n in notifications if n.id > fleet.base]
            for n in tail:
                fleet.apply(n, feed.resolve(n) if n.artifact_ref else None)
        self._compare_now(path, len(tail))

    def _compare_restored(self, path: Path, last: Snapshot, ref: str, took_s: float) -> None:
        with closing(schema.connect(path)) as db:
            rows = schema.row_counts(db)
            problems = [str(p) for (p,) in db.execute("PRAGMA integrity_check") if p != "ok"]
            problems += [f"foreign key of {p[0]}" for p in db.execute("PRAGMA foreign_key_check")]
        theirs, ours = (
            _digest(schema.shared_content(path)),
            _digest(schema.shared_content(last.copy)),
        )
        total = sum(rows.values())
        held = theirs == ours and rows == last.rows and not problems and ref == last.ref
        self._stage.say(
            "restored",
            f"{ref}, {size(len(last.data))} of SQL: {total:,} rows in {took_s:.2f} s;"
            f" .dump is {theirs[:12]}…, at the source it was {ours[:12]}…",
            ref=ref, rows=total, sha256=theirs, source_sha256=ours, seconds=round(took_s, 3),
            control_version=last.control_version,
        )  # fmt: skip
        self._claims.append(
            Claim(
                "the last snapshot is the source then",
                held,
                f"{total:,} rows of {sum(last.rows.values()):,}, .dump"
                f" {'equal' if theirs == ours else 'DIFFERENT'},"
                f" {'; '.join(problems) or 'integrity and foreign keys sound'}",
                {"rows": total, "sha256": theirs},
            )
        )

    def _compare_now(self, path: Path, applied: int) -> None:
        ours = _digest(schema.shared_content(self._plane.path))
        restored = _digest(schema.shared_content(path))
        live = _digest(schema.shared_content(self._fleet_db))
        fleet = self._fleet()
        self._stage.say(
            "caught_up",
            f"then the {applied} changes after it: .dump is {restored[:12]}…, at the source it is"
            f" {ours[:12]}… now",
            applied=applied, sha256=restored, source_sha256=ours,
        )  # fmt: skip
        self._claims += [
            Claim(
                "snapshot + what came after = source now",
                restored == ours,
                f"{applied} changes applied, .dump {restored[:12]}… and {ours[:12]}…",
                {"applied": applied, "sha256": restored},
            ),
            Claim(
                "the live fleet = source now",
                live == ours and not fleet.out_of_order,
                f"{fleet.applied:,} notifications applied, {size(fleet.resolved_bytes)} resolved,"
                f" {fleet.out_of_order} out of order, .dump {live[:12]}…",
                {**fleet._asdict(), "sha256": live},
            ),
        ]

    # --- 7 -------------------------------------------------------------------------------------

    def _read_from_outside(self) -> None:
        self._stage.chapter(7, "Read from outside: XRANGE and the store, not the sidecar's word")
        code = self._worker.stop()
        self._children.remove(self._worker)
        raw = evidence.read(self._redis, KEYS)
        fleet = open_store(self._fleet_url)
        assert isinstance(fleet, store.VersionedStore)  # noqa: S101 -- it is the file store
        artifacts = evidence.resolvable(raw, fleet)
        self._claims = [
            evidence.conserved(raw, self._emitter.sent + self._sent_by_hand),
            evidence.once(raw),
            evidence.ordered(raw),
            evidence.positions(raw),
            artifacts.claim,
            evidence.by_reference(raw, artifacts.total_bytes),
            evidence.set_aside(raw, self._bad),
            evidence.absorbed(raw, self._twice),
            evidence.survived(raw, self._in_hand),
            *self._claims,
        ]
        self._stage.say(
            "read",
            f"the worker stopped on SIGTERM with exit code {code}; {len(raw.control):,} +"
            f" {len(raw.notifications):,} + {len(raw.letters)} entries read,"
            f" {size(artifacts.total_bytes)} hashed",
            worker_exit=code, control=len(raw.control), notifications=len(raw.notifications),
            dead_letters=len(raw.letters),
        )  # fmt: skip

    def _finish(self) -> bool:
        held = all(claim.held for claim in self._claims)
        took_s = time.monotonic() - self._began
        good = sum(claim.held for claim in self._claims)
        closing_ = f"{good} of {len(self._claims)} held, in {took_s:.1f} s."
        self._stage.end(self._claims, closing_, self._looks())
        return held

    def _looks(self) -> list[tuple[str, str]]:
        if not self._kept:
            return [
                ("the same, and all of it stays to be looked at", "sidecar demo --keep demo"),
                ("a worker of your own: embedded server, stores under .sidecar", "sidecar run"),
            ]
        directory = shlex.quote(str(self._dir))
        at = f"--data-dir {directory}"
        return [
            ("the server and a worker, again", f"sidecar run {at} &"),
            ("streams, lag, dead letters", f"sidecar status {at}"),
            ("the same proof, by the sidecar's own auditor", f"sidecar audit {at}"),
            ("the last notifications", f"sidecar tail {at} -n 5"),
            ("what was set aside, and why", f"sidecar dead ls {at}"),
            ("a ref through its versions", f"sidecar store versions {self._busiest_ref} {at}"),
            (
                "the fleet's database, and control-plane.db beside it",
                f"sqlite3 {directory}/fleet.db",
            ),
        ]

    # --- what the chapters share -----------------------------------------------------------------

    def _snapshot(self, when: str) -> None:
        """Take a snapshot and send it as any producer would: Put, then append."""
        number = len(self._snapshots) + 1
        began = time.monotonic()
        copy = self._dir / "snapshots" / f"{number}.db"
        snapshot = take_snapshot(self._plane.path, number, copy)
        took_s = time.monotonic() - began
        self._producer.publish(
            type=SNAPSHOT_TYPE,
            ref=snapshot.ref,
            data=snapshot.data,
            manifest=snapshot.manifest,
            event_id=f"snapshot_{self._seed}_{snapshot.control_version:06d}",
        )
        self._sent_by_hand += 1
        self._snapshots.append(snapshot)
        self._stage.say(
            "snapshot",
            f"snapshot {number}, {when}: {sum(snapshot.rows.values()):,} rows after change"
            f" {snapshot.control_version}, {size(len(snapshot.data))} of SQL, {took_s:.2f} s",
            number=number, ref=snapshot.ref, bytes=len(snapshot.data),
            rows=sum(snapshot.rows.values()), seconds=round(took_s, 3),
            manifest=orjson.loads(snapshot.manifest),
        )  # fmt: skip

    def _write(self, per_s: float) -> Writer:
        writer = Writer(self._plane, CHANGES, per_s)
        self._threads.append(writer)
        writer.start()
        return writer

    def _shower(
        self, writer: Writer, update: Callable[[str, int, int], None]
    ) -> Callable[[], None]:
        notified, applied = self._redis.xlen(KEYS.notifications), self._fleet().applied

        def show() -> None:
            update("committed", writer.transactions, CHANGES)
            update("notified", self._redis.xlen(KEYS.notifications) - notified, writer.events)
            update("applied", self._fleet().applied - applied, writer.events)

        return show

    def _until(
        self, done: Callable[[], bool], what: str, show: Callable[[], None] = lambda: None
    ) -> None:
        seen, since = self._progress(), time.monotonic()
        with translated(self._url):
            while not done():
                self._check()
                show()
                if (now := self._progress()) != seen:
                    seen, since = now, time.monotonic()
                if time.monotonic() > since + PATIENCE_S:
                    raise Stuck(
                        f"waited {PATIENCE_S:.0f} s for {what}, in vain; the end of the worker's"
                        f" log:\n{self._worker.last_words()}"
                    )
                time.sleep(LOOK_EVERY_S)

    def _progress(self) -> tuple[int, int, int]:
        """Return what grows as long as anything goes on."""
        streams = (KEYS.control, KEYS.notifications)
        sent, published = (self._redis.xlen(stream) for stream in streams)
        return sent, published, self._fleet().applied

    def _settle(self) -> None:
        self._until(self._is_settled, "the worker to finish")

    def _is_through(self, writer: Writer) -> bool:
        """Tell whether what the writer did is sent, published and applied."""
        if writer.is_alive() or not self._outbox_is_empty() or not self._is_settled():
            return False
        return self._fleet().applied == self._redis.xlen(KEYS.notifications)

    def _is_settled(self) -> bool:
        """Tell whether the worker has nothing left to read and nothing in its hands."""
        groups = self._redis.xinfo_groups(KEYS.control)
        if not groups or groups[0]["pending"]:
            return False
        last = self._redis.xinfo_stream(KEYS.control)["last-generated-id"]
        return bool(groups[0]["last-delivered-id"] == last)

    def _outbox_is_empty(self) -> bool:
        with closing(schema.connect(self._plane.path)) as db:
            return not db.execute("SELECT count(*) FROM outbox").fetchone()[0]

    def _letter(self, count: int) -> Entry:
        """Wait for that many dead letters, and return the newest."""
        self._until(lambda: self._redis.xlen(KEYS.dead) >= count, "a dead letter")
        return evidence.read(self._redis, KEYS).letters[-1]

    def _pending_ids(self) -> list[str]:
        found: list[Any] = self._redis.xpending_range(KEYS.control, KEYS.group, "-", "+", 10_000)
        return [entry["message_id"].decode() for entry in found]

    def _last_entry(self) -> tuple[int, int]:
        info = self._redis.xinfo_stream(KEYS.control)
        return id_pair(info["last-generated-id"].decode())

    def _most_rewritten(self, raw: Evidence) -> tuple[str, int]:
        refs = [e.event.get("artifact_ref", "") for e in raw.notifications]
        ref = max((r for r in refs if r), key=refs.count)
        return ref, refs.count(ref)

    def _fleet(self) -> controller.Status:
        return controller.status(self._fleet_db)

    def _server_name(self) -> tuple[str, str]:
        info = self._redis.info("server")
        name = str(info.get("server_name", "redis")).title()
        return name, str(info.get("valkey_version", info["redis_version"]))

    def _child(self, child: Child) -> Child:
        self._children.append(child)
        return child

    def _check(self) -> None:
        """Raise when a process or thread ended that should not have."""
        for child in self._children:
            child.check()
        for thread in self._threads:
            thread.check()

    def _stop_threads(self) -> None:
        for thread in self._threads:
            thread.stop()

    def _stop_children(self) -> None:
        for child in self._children:
            child.stop()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(entry: Entry, name: str) -> str:
    return entry.fields.get(name, b"").decode(errors="replace")


def _mend(letter: Entry) -> str:
    return explain(_text(letter, "reason")).mend


def _told(letter: Entry) -> str:
    return f"dead letter, {_text(letter, 'reason')} ({_text(letter, 'detail')})"
