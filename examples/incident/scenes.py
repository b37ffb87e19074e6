"""The scenes of the corpus: each one thing that goes wrong in a real fleet, and what is true of it.

A scene is a generator. It plays on a `Fleet`, for a tenant of its own, and says by `caused` what
`sidecar explain` has to name. At each `yield` others continue: ordinary events, other scenes.
Where nothing may come between, it does not yield. README.md shows how to add one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from examples.incident.fleet import (
    BUDGET_S,
    CONTROL,
    DEAD,
    GROUP,
    LARGEST,
    NOTIFY,
    ROW,
    Fleet,
    checksum,
    key,
)

Steps = Iterator[None]
Scene = Callable[[Fleet, str], Steps]
SCENES: Final[dict[str, Scene]] = {}
FIRST: Final[set[str]] = set()
"""Scenes that take other events' traces with them: they are over before another begins."""
LAST: Final[set[str]] = set()
"""Scenes after which something waits: they come last, and nobody waits for the end of the queue."""
LONG_S: Final = 8.0
"""So long an outage is well over what a rule calls long."""


def scene(play: Scene) -> Scene:
    """Take a scene into the corpus, under its function's name."""
    SCENES[play.__name__] = play
    return play


def first(play: Scene) -> Scene:
    """Take a scene into the corpus that comes before all others."""
    FIRST.add(play.__name__)
    return scene(play)


def last(play: Scene) -> Scene:
    """Take a scene into the corpus that comes after all others, and leaves something waiting."""
    LAST.add(play.__name__)
    return scene(play)


@scene
def healthy(fleet: Fleet, tenant: str) -> Steps:
    """Nothing goes wrong: a producer sends an event again, a ref gets other bytes, a rollout."""
    again = fleet.change(tenant, ref=f"rows/{tenant}/a")
    yield
    fleet.change(tenant, ref=f"rows/{tenant}/b", event_id=f"{tenant}-b")
    fleet.change(tenant, ref=f"rows/{tenant}/b", event_id=f"{tenant}-b")
    fleet.settle()
    fleet.restart()
    yield
    fleet.change(tenant, ref=f"rows/{tenant}/a", event_id=f"{again}-2")


@scene
def ordinary_day(fleet: Fleet, tenant: str) -> Steps:
    """A day in short: archive, keep rules, a reader, a planned pause, two rolling restarts."""
    fleet.settle()
    fleet.environment = {
        "SIDECAR_ARCHIVE": "true", "SIDECAR_ARCHIVE_EVERY": "1s", "SIDECAR_KEEP": "last=3,age=1d",
    }  # fmt: skip
    version = 0
    with fleet.reader("edge-1", ttl_s=86_400) as feed:
        for _ in range(2):
            fleet.stand_by()
            fleet.stop()
            for _ in range(4):
                version += 1
                fleet.activate(tenant, version, data=b"of a day" * version)
                fleet.wait(1)
                fleet.settle()
                feed.passed(feed.poll(since=0, limit=100_000)[-1].control_version)
    fleet.environment = {}
    fleet.sidecar("pause", "--tenant", tenant, "--reason", "its database moves, CHG-7")
    fleet.change(tenant)
    fleet.wait(1)
    fleet.sidecar("resume", "--tenant", tenant, "--reason", "CHG-7 is done")
    fleet.settle()
    fleet.caused("paused", tenant)
    fleet.may("reader_stuck", "edge-1")
    yield


# --- events that end as dead letters -------------------------------------------------------------


@scene
def event_id_reused(fleet: Fleet, tenant: str) -> Steps:
    """A build node is set up from an old image, and counts its events from the beginning."""
    for version in (1, 2, 3):
        fleet.activate(tenant, version)
    yield
    fleet.activate(tenant, 4, event_id=f"{tenant}-web-2")
    fleet.caused("event_id_reused", tenant)


@scene
def artifact_missing(fleet: Fleet, tenant: str) -> Steps:
    """A producer appends an event, and dies before it has put the artifact."""
    fleet.activate(tenant, 1)
    fleet.activate(tenant, 2, data=None)
    fleet.caused("artifact_missing", f"{tenant}/web@2")
    yield


@scene
def held_behind(fleet: Fleet, tenant: str) -> Steps:
    """The same, with more of the tenant behind it: that waits until the event is dead."""
    event_id = fleet.activate(tenant, 1, data=None)
    for _ in range(4):
        fleet.change(tenant)
    fleet.wait(BUDGET_S)
    fleet.dead(event_id)
    fleet.caused("artifact_missing", f"{tenant}/web@1")
    fleet.caused("held_behind", tenant)
    yield


@last
def waits_for_its_artifact(fleet: Fleet, tenant: str) -> Steps:
    """An event is tried again, now, and more of its tenant waits behind it."""
    fleet.settle()
    fleet.restart(retry_budget="90s")
    fleet.activate(tenant, 1, data=None)
    fleet.change(tenant)
    fleet.wait(4)
    fleet.caused("held_behind", tenant)
    yield


@scene
def artifact_rewritten(fleet: Fleet, tenant: str) -> Steps:
    """A job packs an artifact anew before its event is read: other bytes than the event pins."""
    fleet.activate(tenant, 1)
    ref = f"stacks/{tenant}/web/2"
    fleet.store.put(ref, b"packed", b"{}")
    fleet.activate(tenant, 2, data=None, checksum=checksum("as it was"))
    fleet.caused("artifact_rewritten", ref)
    yield


@scene
def artifact_too_large(fleet: Fleet, tenant: str) -> Steps:
    """A tenant's snapshot has outgrown the limit."""
    fleet.activate(tenant, 1)
    fleet.activate(tenant, 2, data=b"x" * (LARGEST + 1))
    fleet.caused("artifact_too_large", f"{tenant}/web@2")
    yield


@scene
def artifact_late(fleet: Fleet, tenant: str) -> Steps:
    """A producer appends the event first, and puts the artifact seconds later."""
    ref, data = f"stacks/{tenant}/web/1", b"late"
    fleet.settle()
    fleet.activate(tenant, 1, data=None, checksum=checksum("late"))
    fleet.wait(4.2)
    fleet.store.put(ref, data, b"{}")
    fleet.settle()
    fleet.caused("artifact_late", ref)
    yield


@scene
def limit_changed(fleet: Fleet, tenant: str) -> Steps:
    """Somebody rolls out a smaller --max-artifact-size, and takes it back when stacks die."""
    fleet.activate(tenant, 1, data=b"x" * 50_000)
    fleet.settle()
    fleet.restart(max_artifact_size="20000")
    fleet.activate(tenant, 2, data=b"x" * 50_000)
    fleet.settle()
    fleet.restart()
    fleet.caused("limit_changed", tenant)
    fleet.caused("artifact_too_large", f"{tenant}/web@2")
    yield


@scene
def scope_narrowed(fleet: Fleet, tenant: str) -> Steps:
    """Somebody rolls out a narrower --tenant-scope: many tenants' events die, until it is back."""
    fleet.settle()
    fleet.restart(tenant_scope="stacks/{tenant}/*")
    for number in range(8):
        fleet.change(f"{tenant}_{number}")
    fleet.dead(f"{tenant}_7-row-{fleet.rows}")
    fleet.restart()
    fleet.caused("limit_changed", f"{tenant}_0")
    fleet.caused("forbidden", f"{tenant}_7")
    yield


@scene
def bad_release(fleet: Fleet, tenant: str) -> Steps:
    """A release of a producer writes versions as strings."""
    for version in (1, 2):
        fleet.activate(tenant, version)
    yield
    for version in (3, 4, 5):
        fleet.activate(tenant, version, data=None, base_version=f"{version}")
    fleet.caused("malformed", tenant)


@scene
def bad_release_halts(fleet: Fleet, tenant: str) -> Steps:
    """A bad release names no tenant: so many dead letters in a row that the stream is halted."""
    fleet.settle()
    for number in range(ROW):
        fleet.append(event_id=f"{tenant}-r2-{number}", type="stack.activated", version=f"{number}")
    fleet.until(lambda: _halted(fleet), "the halt")
    fleet.wait(1)
    fleet.sidecar("resume", "--reason", "the release was taken back")
    fleet.settle()
    fleet.caused("malformed")
    fleet.caused("halted", CONTROL)
    yield


@scene
def unknown_type(fleet: Fleet, tenant: str) -> Steps:
    """A producer sends a new type before the workers allow it."""
    fleet.change(tenant)
    fleet.append(event_id=f"{tenant}-new", type="invoice.sent", tenant_id=tenant)
    fleet.caused("unknown_type", tenant)
    yield


@scene
def forbidden_ref(fleet: Fleet, tenant: str) -> Steps:
    """A tenant names the artifact of another."""
    fleet.change(tenant)
    fleet.append(
        event_id=f"{tenant}-steals", type="key.changed", tenant_id=tenant,
        artifact_ref="rows/t_ash/1", checksum=checksum("theirs"),
    )  # fmt: skip
    fleet.caused("forbidden", tenant)
    yield


@scene
def deleted_while_pending(fleet: Fleet, tenant: str) -> Steps:
    """Somebody deletes entries that a worker has read and not finished."""
    fleet.activate(tenant, 1, data=None)
    entry = fleet.append(event_id=f"{tenant}-2", type="key.changed", tenant_id=tenant)
    fleet.until(lambda: _is_read(fleet, entry), "the worker to read the entry")
    fleet.redis.xdel(CONTROL, entry)
    fleet.wait(BUDGET_S)
    fleet.settle()
    fleet.caused("trimmed_before_read")
    fleet.caused("artifact_missing", f"{tenant}/web@1")
    fleet.may("held_behind", tenant)
    yield


@scene
def poison(fleet: Fleet, tenant: str) -> Steps:
    """A driver of the producers' store dies of one artifact, and takes each worker with it."""
    fleet.settle()
    fleet.stop()
    deadly = fleet.directory / "deadly"
    (deadly / "deadly-1.dist-info").mkdir(parents=True)
    (deadly / "deadly.py").write_text(_DEADLY)
    (deadly / "deadly-1.dist-info" / "METADATA").write_text("Name: deadly\nVersion: 1\n")
    points = "[artifact_sidecar.stores]\ndeadly = deadly:Deadly\n"
    (deadly / "deadly-1.dist-info" / "entry_points.txt").write_text(points)
    fleet.environment = {"PYTHONPATH": str(deadly), "DEADLY": fleet.source.absolute().as_uri()}
    fleet.activate(tenant, 1, ref=f"stacks/{tenant}/poison/1")
    while not _died(fleet, f"{tenant}-web-1"):
        if not fleet.workers or fleet.workers[0].poll() is not None:
            fleet.workers.clear()
            fleet.start(source_store="deadly://source")
        time.sleep(0.1)
    fleet.settle()
    fleet.environment = {}
    fleet.restart()
    fleet.caused("poison", f"{tenant}/web@1")
    fleet.caused("flapping", CONTROL)
    fleet.may("not_served")
    yield


_DEADLY: Final = """
import os
import store

class Deadly:
    name = "deadly"

    def __init__(self, config):
        self._store = store.open_url(os.environ["DEADLY"])

    def put(self, ref, data, manifest):
        self._store.put(ref, data, manifest)

    def exists(self, ref):
        return self._store.exists(ref)

    def get(self, ref):
        if "/poison/" in ref:
            os.abort()
        return self._store.get(ref)
"""


@scene
def died_of_a_later_release(fleet: Fleet, tenant: str) -> Steps:
    """A later release was tried, and left a dead letter whose reason this one does not know."""
    fleet.activate(tenant, 1)
    event_id = f"{tenant}-sealed"
    fleet.append(event_id=event_id, type="key.changed", tenant_id=tenant, artifact_ref="rows/x")
    letter = fleet.dead(event_id)
    fields = fleet.redis.xrange(DEAD, letter, letter)[0][1]
    fleet.redis.xadd(DEAD, fields | {b"reason": b"seal_broken", b"detail": b"of seal 7"})
    fleet.redis.xdel(DEAD, letter)
    fleet.caused("died", event_id)
    yield


# --- halts -------------------------------------------------------------------------------------


@scene
def paused_by_hand(fleet: Fleet, tenant: str) -> Steps:
    """Somebody pauses a tenant while its importer is looked at, and resumes it."""
    fleet.sidecar("pause", "--tenant", tenant, "--reason", "its importer repeats itself")
    fleet.change(tenant)
    fleet.wait(1)
    fleet.sidecar("resume", "--tenant", tenant, "--reason", "the importer is fixed")
    fleet.caused("paused", tenant)
    yield


@scene
def paused_by_its_dead(fleet: Fleet, tenant: str) -> Steps:
    """A tenant's dead letters in a row pause it; somebody resumes it."""
    fleet.settle()
    for number in range(ROW):
        fleet.append(event_id=f"{tenant}-bad-{number}", type="key.changed", tenant_id=tenant,
                     artifact_ref=f"rows/{tenant}/{number}")  # fmt: skip
    fleet.change(tenant)
    fleet.until(lambda: _paused(fleet, tenant), "the pause")
    fleet.sidecar("resume", "--tenant", tenant, "--reason", "its producer is fixed")
    fleet.caused("paused", tenant)
    fleet.caused("malformed", tenant)
    yield


@scene
def halted_by_hand(fleet: Fleet, tenant: str) -> Steps:
    """An operator halts the stream while a store moves."""
    fleet.sidecar("pause", "--reason", "the fleet store moves")
    fleet.change(tenant)
    fleet.wait(2)
    fleet.sidecar("resume", "--reason", "moved")
    fleet.settle()
    fleet.caused("halted", CONTROL)
    yield


@last
def halted_still(fleet: Fleet, tenant: str) -> Steps:
    """The same, and nobody has resumed it."""
    fleet.settle()
    fleet.sidecar("pause", "--reason", "until Monday")
    fleet.change(tenant)
    fleet.wait(2)
    fleet.caused("halted", CONTROL)
    yield


# --- workers -----------------------------------------------------------------------------------


@scene
def no_worker(fleet: Fleet, tenant: str) -> Steps:
    """The worker is stopped, and the next one is started late."""
    fleet.settle()
    fleet.stop()
    fleet.change(tenant)
    fleet.wait(LONG_S)
    fleet.start()
    fleet.settle()
    fleet.caused("not_served")
    yield


@scene
def frozen(fleet: Fleet, tenant: str) -> Steps:
    """The worker's machine stands still."""
    fleet.settle()
    fleet.change(tenant)
    fleet.freeze(LONG_S)
    fleet.settle()
    fleet.caused("not_served")
    yield


@scene
def other_store(fleet: Fleet, tenant: str) -> Steps:
    """A worker is given an empty store, by somebody who removed the note that refuses it."""
    fleet.settle()
    fleet.stop()
    fleet.redis.delete(key("fleet"))
    fleet.start(fleet_store=(fleet.directory / "other").absolute().as_uri())
    fleet.change(tenant)
    fleet.settle()
    fleet.caused("other_store", CONTROL)
    fleet.may("artifact_gone")
    fleet.stop()
    fleet.redis.delete(key("fleet"))
    fleet.start()
    yield


@scene
def fleet_store_away(fleet: Fleet, tenant: str) -> Steps:
    """The volume with the fleet's store is unmounted, and comes back."""
    fleet.settle()
    aside = fleet.fleet.rename(fleet.directory / "aside")
    fleet.change(tenant)
    fleet.wait(LONG_S)
    aside.rename(fleet.fleet)
    fleet.settle()
    fleet.wait(2)
    fleet.caused("store_away", tenant)
    yield


@scene
def redis_away(fleet: Fleet, tenant: str) -> Steps:
    """Redis answers nobody for a while."""
    fleet.settle()
    fleet.change(tenant)
    fleet.redis.client_pause(int(LONG_S * 1000))
    time.sleep(LONG_S)
    fleet.wait(1)
    fleet.settle()
    fleet.wait(2)
    fleet.caused("redis_away")
    yield


@scene
def redis_full(fleet: Fleet, tenant: str) -> Steps:
    """Redis has no memory for what is new, until somebody gives it more."""
    fleet.settle()
    fleet.stop()
    fleet.change(tenant)
    fleet.ordinary()
    fleet.redis.config_set("maxmemory", "1")
    fleet.start()
    time.sleep(LONG_S)
    fleet.redis.config_set("maxmemory", "0")
    fleet.settle()
    fleet.wait(2)
    fleet.caused("redis_full")
    fleet.may("not_served")
    yield


@last
def no_worker_now(fleet: Fleet, tenant: str) -> Steps:
    """The worker was stopped, and nobody has started another."""
    fleet.settle()
    fleet.stop()
    fleet.change(tenant)
    fleet.wait(LONG_S)
    fleet.caused("not_served")
    yield


@scene
def flapping(fleet: Fleet, tenant: str) -> Steps:
    """Workers are killed and started again and again."""
    for _ in range(6):
        fleet.change(tenant)
        fleet.settle()
        fleet.stop(kill=True)
        fleet.until(lambda: not _leased(fleet), "the end of the lease")
        fleet.start()
    fleet.settle()
    fleet.caused("flapping", CONTROL)
    yield


# --- subjects ----------------------------------------------------------------------------------


@scene
def forced_back(fleet: Fleet, tenant: str) -> Steps:
    """A team asks for its missing build, and somebody redrives it by force: over a newer one."""
    event_id = fleet.activate(tenant, 5, data=None, checksum=checksum("five"))
    fleet.wait(BUDGET_S)
    letter = fleet.dead(event_id)
    fleet.activate(tenant, 6)
    fleet.settle()
    yield
    fleet.store.put(f"stacks/{tenant}/web/5", b"five", b"{}")
    fleet.sidecar("dead", "redrive", letter, "--force", "--reason", "they miss build 5")
    fleet.settle()
    fleet.caused("went_back", f"{tenant}/web")
    fleet.caused("artifact_missing", f"{tenant}/web@5")


@scene
def oldest_redriven(fleet: Fleet, tenant: str) -> Steps:
    """Of two dead letters the older is redriven: nothing was trimmed."""
    event_ids = [fleet.activate(tenant, n, stack=f"s{n}", data=None) for n in (1, 2)]
    fleet.wait(BUDGET_S)
    letter = fleet.dead(event_ids[0])
    fleet.store.put(f"stacks/{tenant}/s1/1", f"stacks/{tenant}/s1/1".encode(), b"{}")
    fleet.sidecar("dead", "redrive", letter, "--reason", "the node is back")
    fleet.settle()
    fleet.caused("artifact_missing", tenant)
    fleet.may("held_behind", tenant)
    yield


@scene
def older_version(fleet: Fleet, tenant: str) -> Steps:
    """A producer activates an older version: a rollback of its own."""
    fleet.activate(tenant, 8)
    yield
    fleet.activate(tenant, 7)
    fleet.caused("older_version", f"{tenant}/web")


@scene
def never_sent(fleet: Fleet, tenant: str) -> Steps:
    """A team waits for a version that its build has never sent."""
    fleet.activate(tenant, 1)
    yield
    fleet.caused("never_sent", f"{tenant}/web@2", ask=f"{tenant}/web@2")


@scene
def redriven_in_order(fleet: Fleet, tenant: str) -> Steps:
    """An event dies, its artifact is put, and it is redriven: all is well since."""
    event_id = fleet.activate(tenant, 1, data=None, checksum=checksum("one"))
    fleet.wait(BUDGET_S)
    letter = fleet.dead(event_id)
    yield
    fleet.store.put(f"stacks/{tenant}/web/1", b"one", b"{}")
    fleet.sidecar("dead", "redrive", letter, "--reason", "the node is back")
    fleet.settle()
    fleet.caused("artifact_missing", f"{tenant}/web@1")


# --- producers ---------------------------------------------------------------------------------


@scene
def clock_ahead(fleet: Fleet, tenant: str) -> Steps:
    """A node's clock is an hour ahead."""
    made = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    fleet.change(tenant, created_at=made)
    yield
    fleet.change(tenant, created_at=made)
    fleet.caused("producer_clock", tenant)


@scene
def doubled(fleet: Fleet, tenant: str) -> Steps:
    """Two producers of one tenant run, and each sends all."""
    sent = [(fleet.change(tenant, ref=f"rows/{tenant}/{n}"), n) for n in range(8)]
    yield
    for event_id, n in sent:
        fleet.change(tenant, ref=f"rows/{tenant}/{n}", event_id=event_id)
    fleet.caused("producer_doubled", tenant)


@scene
def flooding(fleet: Fleet, tenant: str) -> Steps:
    """An importer sends thousands of events at once; the others are served beside it."""
    with fleet.redis.pipeline(transaction=False) as pipeline:
        for n in range(4000):
            event = {"event_id": f"{tenant}-{n}", "type": "run.abort", "tenant_id": tenant}
            pipeline.xadd(CONTROL, {"event": json.dumps(event)})
        pipeline.execute()
    fleet.wait(1)
    fleet.settle()
    fleet.caused("flooding", tenant)
    yield


@last
def silent(fleet: Fleet, tenant: str) -> Steps:
    """A producer that sent evenly dies; the others continue."""
    for _ in range(40):
        fleet.change(tenant)
        time.sleep(0.1)
    fleet.wait(23)
    fleet.caused("producer_silent", tenant)
    yield


# --- readers -----------------------------------------------------------------------------------


@last
def reader_stuck(fleet: Fleet, tenant: str) -> Steps:
    """A controller reads, and then stands still with one notification."""
    fleet.settle()
    with fleet.reader("edge-7") as feed:
        feed.passed(feed.poll(since=0)[-1].control_version)
        fleet.change(tenant)
        fleet.wait(32)
    fleet.caused("reader_stuck", "edge-7")
    yield


@last
def reader_expired(fleet: Fleet, tenant: str) -> Steps:
    """A controller has gone, and its time has run out."""
    fleet.settle()
    with fleet.reader("edge-8", ttl_s=2) as feed:
        feed.passed(feed.poll(since=0)[-1].control_version)
    fleet.change(tenant)
    fleet.wait(3)
    fleet.caused("reader_expired", "edge-8")
    yield


@first
def reader_in_a_gap(fleet: Fleet, tenant: str) -> Steps:
    """Somebody trims notifications that a controller has not read."""
    fleet.change(tenant)
    fleet.settle()
    with fleet.reader("edge-9") as feed:
        feed.passed(feed.poll(since=0)[0].control_version)
    fleet.ordinary()
    fleet.settle()
    fleet.redis.xtrim(NOTIFY, maxlen=3, approximate=False)
    fleet.caused("reader_gap", "edge-9")
    yield


# --- what is gone ------------------------------------------------------------------------------


@scene
def artifact_gone(fleet: Fleet, tenant: str) -> Steps:
    """Somebody deletes an artifact from the fleet's store by hand."""
    fleet.activate(tenant, 1)
    fleet.settle()
    yield
    shutil.rmtree(next((fleet.fleet / "refs").rglob(tenant)))
    fleet.caused("artifact_gone", f"{tenant}/web")


@scene
def read_by_hand(fleet: Fleet, tenant: str) -> Steps:
    """Somebody reads from the worker's group and acknowledges; the next worker does it again."""
    fleet.settle()
    fleet.stop()
    fleet.change(tenant)
    for _, entries in fleet.redis.xreadgroup(GROUP, "somebody", {CONTROL: ">"}):
        fleet.redis.xack(CONTROL, GROUP, *(entry for entry, _ in entries))
    fleet.start()
    fleet.settle()
    yield


@scene
def notification_deleted(fleet: Fleet, tenant: str) -> Steps:
    """Somebody deletes a notification by hand: no reader ever sees that change."""
    event_id = fleet.change(tenant)
    fleet.settle()
    fleet.ordinary()
    fleet.settle()
    for entry, fields in fleet.redis.xrange(NOTIFY):
        if f'"{event_id}"'.encode() in fields[b"event"]:
            fleet.redis.xdel(NOTIFY, entry)
    fleet.caused("lost", tenant)
    yield


@scene
def group_destroyed(fleet: Fleet, tenant: str) -> Steps:
    """Somebody removes the worker's group."""
    fleet.change(tenant)
    fleet.settle()
    fleet.redis.xgroup_destroy(CONTROL, GROUP)
    time.sleep(1)
    fleet.ordinary()
    fleet.settle()
    fleet.caused("group_touched", CONTROL)
    yield


@first
def wiped(fleet: Fleet, tenant: str) -> Steps:
    """Somebody empties Redis, or it comes back without its disk."""
    fleet.change(tenant)
    fleet.settle()
    fleet.redis.flushall()
    time.sleep(1)
    fleet.wait(3)
    fleet.settle()
    fleet.caused("redis_lost")
    yield


@first
def notifications_lost(fleet: Fleet, tenant: str) -> Steps:
    """A failover takes the newest notifications with it."""
    fleet.change(tenant)
    fleet.settle()
    fleet.wait(6)
    fleet.settle()
    fleet.redis.delete(NOTIFY)
    fleet.wait(6)
    fleet.settle()
    fleet.caused("redis_lost", NOTIFY)
    fleet.may("lost")
    yield


@first
def control_deleted(fleet: Fleet, tenant: str) -> Steps:
    """Somebody deletes the control stream when all in it is finished."""
    fleet.change(tenant)
    fleet.settle()
    fleet.redis.delete(CONTROL)
    time.sleep(1)
    fleet.wait(3)
    fleet.settle()
    fleet.caused("redis_lost", CONTROL)
    fleet.may("group_touched", CONTROL)
    yield


@first
def remade(fleet: Fleet, tenant: str) -> Steps:
    """A producer takes the highest ID: nobody can append, until the stream is made anew."""
    fleet.change(tenant)
    fleet.settle()
    event = {"event_id": f"{tenant}-last", "type": "key.changed", "tenant_id": tenant}
    fleet.stop()
    fleet.redis.xadd(CONTROL, {"event": json.dumps(event)}, id=f"{2**64 - 1}-{2**64 - 1}")
    fleet.sidecar("stream", "remake", CONTROL, "--reason", "a producer took the highest ID")
    fleet.start()
    fleet.change(tenant)
    fleet.settle()
    fleet.caused("remade", CONTROL)
    fleet.may("not_served")
    yield


@scene
def erased(fleet: Fleet, tenant: str) -> Steps:
    """A contract ends, and all artifacts of the tenant are removed for good."""
    fleet.activate(tenant, 1)
    fleet.change(tenant)
    fleet.settle()
    fleet.sidecar("tenant", "erase", tenant, "--reason", "its contract ended",
                  "--source-store", fleet.source.absolute().as_uri())  # fmt: skip
    fleet.caused("artifact_erased", tenant)
    fleet.may("paused", tenant)
    yield


@scene
def sent_after_it_was_erased(fleet: Fleet, tenant: str) -> Steps:
    """A producer that nobody told activates a version again whose artifact was erased."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.sidecar("tenant", "erase", tenant, "--reason", "its contract ended",
                  "--source-store", fleet.source.absolute().as_uri())  # fmt: skip
    event_id = fleet.activate(
        tenant, 1, event_id=f"{tenant}-again", data=None, checksum=checksum(f"{tenant} web 1")
    )
    fleet.wait(BUDGET_S)
    fleet.dead(event_id)
    fleet.caused("artifact_erased", f"{tenant}-again")
    fleet.may("artifact_erased", tenant)
    fleet.may("paused", tenant)
    yield


@first
def twice(fleet: Fleet, tenant: str) -> Steps:
    """Somebody deletes what deduplication knows, and a producer sends its event again."""
    event_id = fleet.change(tenant, ref=f"rows/{tenant}/twice")
    fleet.settle()
    fleet.stop()
    for name in fleet.redis.scan_iter(key("seen:*")):
        fleet.redis.delete(name)
    fleet.start()
    fleet.change(tenant, ref=f"rows/{tenant}/twice", event_id=event_id)
    fleet.settle()
    fleet.caused("twice", tenant)
    fleet.may("went_back")
    fleet.may("not_served")
    yield


def _died(fleet: Fleet, event_id: str) -> bool:
    return any(f'"{event_id}"'.encode() in fields[b"event"]
               for _, fields in fleet.redis.xrange(DEAD))  # fmt: skip


def _halted(fleet: Fleet) -> bool:
    return bool(fleet.redis.hexists("{control:notifications}:halt:" + CONTROL, "reason"))


def _paused(fleet: Fleet, tenant: str) -> bool:
    return any(tenant.encode() in one for one in _pauses(fleet))


def _pauses(fleet: Fleet) -> list[bytes]:
    return [field for _, fields in fleet.redis.xrange("{control:notifications}:halts")
            for field in fields.values()]  # fmt: skip


def _leased(fleet: Fleet) -> bool:
    return bool(fleet.redis.exists("{control:notifications}:lease:" + CONTROL))


def _is_read(fleet: Fleet, entry: str) -> bool:
    return bool(fleet.redis.xpending_range(CONTROL, GROUP, entry, entry, 1))
