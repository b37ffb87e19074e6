"""Incidents by somebody who had not read the rules: as an on-call engineer knows them from life.

Each says in plain words who did what, and what came of it. What `caused` names was put beside it
only afterwards. `cut_by_hand`, `same_version` and `foreign` were made for them.
"""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta

import store
from examples.incident.fleet import CONTROL, GROUP, NOTIFY, ROW, Fleet, checksum, key
from examples.incident.scenes import Steps, first, last, scene


@scene
def limit_lowered_while_a_job_repacks(fleet: Fleet, tenant: str) -> Steps:
    """A deploy lowers the largest artifact; in the same minute a job of the tenant repacks a ref.

    web@2 is too large for the deploy's new limit. db@1's ref has other bytes than its event pins.
    """
    fleet.activate(tenant, 1, data=b"1" * 20_000)
    fleet.settle()
    fleet.restart(max_artifact_size="5000")
    web = fleet.activate(tenant, 2, data=b"2" * 20_000)
    ref = f"stacks/{tenant}/db/1"
    fleet.store.put(ref, b"packed again", b"{}")
    db = fleet.activate(tenant, 1, stack="db", ref=ref, data=None, checksum=checksum("packed"))
    fleet.dead(web)
    fleet.dead(db)
    fleet.restart()
    fleet.caused("limit_changed")
    fleet.caused("artifact_rewritten", tenant)
    fleet.may("artifact_too_large")
    fleet.may("not_served")
    fleet.may("held_behind")
    yield


@scene
def resumed_too_early(fleet: Fleet, tenant: str) -> Steps:
    """A release of a producer writes versions as text; its tenant is paused after a row of deaths.

    The operator resumes it before the release is rolled back, so that it is paused again.
    """
    fleet.activate(tenant, 1)
    fleet.settle()
    for turn in range(2):
        for at in range(ROW):
            fleet.append(event_id=f"{tenant}-r{turn}-{at}", type="stack.activated",
                         tenant_id=tenant, stack_id="web", version=str(at + 2))  # fmt: skip
        fleet.dead(f"{tenant}-r{turn}-{ROW - 1}")
        fleet.wait(1)
        fleet.sidecar("resume", "--tenant", tenant, "--reason", "producer says it is fixed")
    fleet.activate(tenant, 2)
    fleet.settle()
    fleet.caused("malformed", tenant)
    fleet.caused("paused", tenant)
    yield


@first
def stream_deleted_at_night(fleet: Fleet, tenant: str) -> Steps:
    """A clean-up script deletes the control stream while three events of a tenant are unread.

    Producers make it anew with their next event. The three never arrive: nobody has them.
    """
    fleet.settle()
    fleet.stop()
    for version in (1, 2, 3):
        fleet.activate(tenant, version)
    fleet.redis.delete(CONTROL)
    fleet.ordinary(2)
    fleet.start()
    fleet.settle()
    fleet.caused("cut_by_hand", "control:events")
    fleet.may("group_touched")
    fleet.may("not_served")
    yield


@scene
def clock_a_day_ahead(fleet: Fleet, tenant: str) -> Steps:
    """One producer's host believes that it is tomorrow."""
    for version in range(1, 11):
        ahead = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        fleet.activate(tenant, version, created_at=ahead)
        fleet.ordinary()
    fleet.settle()
    fleet.caused("producer_clock", tenant)
    yield


@scene
def two_nodes_share_ids(fleet: Fleet, tenant: str) -> Steps:
    """A node was cloned from another's image, and numbers its events as that one does.

    The clone's events, of another tenant, die where the first node's were there before.
    """
    for at in range(1, 5):
        fleet.change(tenant, event_id=f"node7-{tenant}-{at}")
        fleet.change(f"{tenant}_clone", event_id=f"node7-{tenant}-{at}")
        yield
    fleet.caused("event_id_reused", f"{tenant}_clone")


@scene
def redriven_by_a_script(fleet: Fleet, tenant: str) -> Steps:
    """A script redrives all artifact_missing of a tenant by force. web goes back from 3 to 2."""
    fleet.activate(tenant, 1)
    late = fleet.activate(tenant, 2, data=None, checksum=checksum("late"))
    fleet.dead(late)
    fleet.activate(tenant, 3)
    fleet.settle()
    fleet.store.put(f"stacks/{tenant}/web/2", b"late", b"{}")
    fleet.sidecar("dead", "redrive", "--all", "--tenant", tenant, "--force", "--reason", "cron",
                  "--source-store", fleet.source.absolute().as_uri())  # fmt: skip
    fleet.settle()
    fleet.caused("went_back", f"{tenant}/web")
    fleet.caused("artifact_missing", f"{tenant}/web@2")
    fleet.may("held_behind")
    yield


@scene
def volume_away(fleet: Fleet, tenant: str) -> Steps:
    """The fleet store's volume is not mounted for ten seconds. Events wait, none is lost."""
    fleet.activate(tenant, 1)
    fleet.settle()
    away = fleet.fleet.with_name("away")
    fleet.fleet.rename(away)
    fleet.activate(tenant, 2)
    fleet.wait(10)
    shutil.rmtree(fleet.fleet, ignore_errors=True)
    away.rename(fleet.fleet)
    fleet.settle()
    fleet.caused("store_away")
    fleet.may("not_served")
    yield


@scene
def killed_for_memory_again_and_again(fleet: Fleet, tenant: str) -> Steps:
    """The kernel kills the worker four times, each time soon after it began."""
    for version in range(1, 5):
        fleet.activate(tenant, version)
        fleet.stop(kill=True)
        fleet.ordinary()
        time.sleep(2.5)
        fleet.start()
        fleet.wait(1)
    fleet.settle()
    fleet.caused("flapping")
    fleet.may("not_served")
    yield


@scene
def reader_decommissioned(fleet: Fleet, tenant: str) -> Steps:
    """A controller is shut down for good, but registered: it reads no more, and holds trimming."""
    fleet.activate(tenant, 1)
    fleet.settle()
    with fleet.reader("ctl-old", ttl_s=86_400) as feed:
        feed.passed(feed.poll(since=0)[-1].control_version)
    fleet.activate(tenant, 2)
    fleet.wait(34)
    fleet.caused("reader_stuck", "ctl-old")
    yield


@scene
def tenant_floods(fleet: Fleet, tenant: str) -> Steps:
    """A tenant's importer runs in a loop: 3000 events at once. The worker keeps up."""
    fleet.settle()
    pipe = fleet.redis.pipeline()
    for at in range(3000):
        event = {"event_id": f"{tenant}-import-{at}", "type": "key.changed", "tenant_id": tenant}
        pipe.xadd(CONTROL, {"event": json.dumps(event)})
    pipe.execute()
    fleet.ordinary()
    fleet.settle()
    fleet.caused("flooding", tenant)
    yield


@first
def replica_promoted_by_hand(fleet: Fleet, tenant: str) -> Steps:
    """A replica that lagged is promoted by hand: what the last second brought is gone."""
    fleet.activate(tenant, 1)
    fleet.settle()
    had = {name: fleet.redis.dump(name) for name in fleet.redis.scan_iter("*")}
    for version in (2, 3, 4):
        fleet.activate(tenant, version)
    fleet.settle()
    pipe = fleet.redis.pipeline()
    pipe.flushall()
    for name, value in had.items():
        if value is not None:
            pipe.restore(name, 0, value)
    pipe.execute()
    time.sleep(3)
    fleet.ordinary(2)
    fleet.settle()
    fleet.caused("redis_lost")
    fleet.may("not_served")
    yield


@scene
def quiet_hour(fleet: Fleet, tenant: str) -> Steps:
    """Nothing happens: a version now and then."""
    for version in (1, 2):
        fleet.activate(tenant, version)
        fleet.wait(2)
        yield


@scene
def rolling_deploy(fleet: Fleet, tenant: str) -> Steps:
    """A deploy starts the new worker, then stops the old one. Nothing is wrong."""
    fleet.activate(tenant, 1)
    fleet.stand_by()
    fleet.stop()
    fleet.activate(tenant, 2)
    fleet.settle()
    yield


@scene
def renamed_tenant(fleet: Fleet, tenant: str) -> Steps:
    """A tenant was renamed; its producer still writes refs under the old name, and is paused."""
    fleet.activate(tenant, 1)
    for version in range(2, 2 + ROW):
        fleet.activate(tenant, version, ref=f"stacks/old_{tenant}/web/{version}")
    fleet.dead(f"{tenant}-web-{1 + ROW}")
    fleet.wait(1)
    fleet.sidecar("resume", "--tenant", tenant, "--reason", "renamed in the producer, too")
    fleet.activate(tenant, 2 + ROW)
    fleet.settle()
    fleet.caused("forbidden", tenant)
    fleet.caused("paused", tenant)
    yield


@last
def paused_and_forgotten(fleet: Fleet, tenant: str) -> Steps:
    """An operator pauses a tenant for a move, and goes home. web@2 waits ever since."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.sidecar("pause", "--tenant", tenant, "--reason", "its database moves")
    fleet.activate(tenant, 2)
    fleet.wait(2)
    fleet.caused("paused", tenant)
    yield


@scene
def group_destroyed_as_unused(fleet: Fleet, tenant: str) -> Steps:
    """Somebody tidies up consumer groups, the relay's among them. None is lost."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.redis.xgroup_destroy(CONTROL, GROUP)
    fleet.activate(tenant, 2)
    fleet.wait(3)
    fleet.settle()
    fleet.caused("group_touched")
    yield


@first
def trimmed_by_cron(fleet: Fleet, tenant: str) -> Steps:
    """Cron cuts the control stream to no entry while the worker is down: three events are gone."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.stop()
    for version in (2, 3, 4):
        fleet.activate(tenant, version)
    fleet.redis.xtrim(CONTROL, maxlen=0, approximate=False)
    fleet.ordinary()
    fleet.start()
    fleet.settle()
    fleet.caused("cut_by_hand", "control:events")
    fleet.may("not_served")
    yield


@scene
def stuck_entry_deleted(fleet: Fleet, tenant: str) -> Steps:
    """An engineer deletes by hand the entry that holds its tenant back."""
    fleet.activate(tenant, 1)
    fleet.settle()
    entry = fleet.append(event_id=f"{tenant}-stuck", type="stack.activated", tenant_id=tenant,
                         stack_id="web", version=2, artifact_ref=f"stacks/{tenant}/web/2",
                         checksum=checksum("stuck"))  # fmt: skip
    fleet.wait(2)
    fleet.redis.xdel(CONTROL, entry)
    fleet.restart()
    fleet.activate(tenant, 3)
    fleet.settle()
    fleet.caused("trimmed_before_read")
    fleet.may("held_behind")
    fleet.may("not_served")
    yield


@scene
def release_rolled_back_in_time(fleet: Fleet, tenant: str) -> Steps:
    """A producer's new release forgets the stack's name in six events; then it is rolled back."""
    for version in (1, 2):
        fleet.activate(tenant, version)
    fleet.settle()
    for version in range(3, 9):
        fleet.append(event_id=f"{tenant}-web-{version}", type="stack.activated", tenant_id=tenant,
                     version=version)  # fmt: skip
    fleet.wait(1)
    fleet.activate(tenant, 9)
    fleet.settle()
    fleet.caused("malformed", tenant)
    yield


@scene
def two_builds_race(fleet: Fleet, tenant: str) -> Steps:
    """Two build nodes race: web@5 is sent before web@4, and the fleet serves 4 at the end."""
    for version in (3, 5, 4):
        fleet.activate(tenant, version)
        yield
    fleet.settle()
    fleet.caused("older_version", f"{tenant}/web")


@scene
def outbox_sends_again(fleet: Fleet, tenant: str) -> Steps:
    """A pump forgot how far it was, and sends the last forty events again, twice. All absorbed."""
    for _ in range(3):
        for at in range(40):
            fleet.append(event_id=f"{tenant}-o-{at}", type="key.changed", tenant_id=tenant)
        fleet.settle()
        yield
    fleet.caused("producer_doubled", tenant)


@scene
def memory_full(fleet: Fleet, tenant: str) -> Steps:
    """Redis is at its maxmemory for nine seconds, with an event on its way; then it gets more."""
    fleet.activate(tenant, 1)
    fleet.settle()
    for worker in fleet.workers:
        worker.send_signal(19)
    fleet.activate(tenant, 2)
    fleet.redis.config_set("maxmemory", "1mb")
    for worker in fleet.workers:
        worker.send_signal(18)
    time.sleep(9)
    fleet.redis.config_set("maxmemory", "0")
    fleet.settle()
    fleet.caused("redis_full")
    fleet.may("not_served")
    yield


@first
def flushed_by_mistake(fleet: Fleet, tenant: str) -> Steps:
    """Somebody flushes the production server, in the belief that it is a test's."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.redis.flushall()
    time.sleep(4)
    fleet.activate(tenant, 2)
    fleet.ordinary()
    fleet.settle()
    fleet.caused("redis_lost")
    fleet.may("group_touched")
    fleet.may("not_served")
    yield


@scene
def host_migrates(fleet: Fleet, tenant: str) -> Steps:
    """The owner's virtual machine stands still for seven seconds; a standby takes over in time."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.start()
    fleet.workers[0].send_signal(19)
    fleet.wait(7)
    fleet.workers[0].send_signal(18)
    fleet.wait(1)
    fleet.stop()
    fleet.settle()
    fleet.may("not_served")
    yield


@scene
def upload_is_slow(fleet: Fleet, tenant: str) -> Steps:
    """A producer appends first and uploads after: web@2 comes four seconds late, db@1 behind it."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.activate(tenant, 2, data=None, checksum=checksum("slow"))
    fleet.activate(tenant, 1, stack="db")
    fleet.wait(4)
    fleet.store.put(f"stacks/{tenant}/web/2", b"slow", b"{}")
    fleet.settle()
    fleet.caused("artifact_late", f"{tenant}/web@2")
    fleet.may("held_behind")
    yield


@scene
def blob_rots(fleet: Fleet, tenant: str) -> Steps:
    """A disk flips bits in the fleet's copy of web@1, long after it was published."""
    data = f"{tenant} rots ".encode() * 2000
    fleet.activate(tenant, 1, data=data)
    fleet.settle()
    for path in fleet.fleet.rglob("*"):
        if path.is_file() and data[:500] in path.read_bytes():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes().replace(b"rots", b"rotZ", 1))
    fleet.caused("artifact_gone", f"{tenant}/web")
    yield


@scene
def removed_by_rm(fleet: Fleet, tenant: str) -> Steps:
    """Somebody frees space in the fleet's store with rm: the data of web@1 is gone."""
    data = f"{tenant} gone ".encode() * 2000
    fleet.activate(tenant, 1, data=data)
    fleet.settle()
    for path in list(fleet.fleet.rglob("*")):
        if path.is_file() and data[:500] in path.read_bytes():
            path.unlink()
    fleet.caused("artifact_gone", f"{tenant}/web")
    yield


@scene
def deploy_names_another_source(fleet: Fleet, tenant: str) -> Steps:
    """A deploy names a wrong source store: what is sent meanwhile dies, until it is rolled back."""
    fleet.activate(tenant, 1)
    fleet.settle()
    wrong = fleet.directory / f"scratch-{tenant}"
    store.open_url(wrong.absolute().as_uri()).put("rows/other/1", b"of another node", b"{}")
    fleet.restart(source_store=wrong.absolute().as_uri())
    event = fleet.activate(tenant, 2)
    fleet.dead(event)
    fleet.restart()
    fleet.activate(tenant, 3)
    fleet.settle()
    fleet.caused("artifact_missing", f"{tenant}/web@2")
    fleet.caused("limit_changed")
    fleet.may("held_behind")
    fleet.may("not_served")
    yield


@scene
def planned_maintenance(fleet: Fleet, tenant: str) -> Steps:
    """An operator pauses the stream for five seconds, with a reason, and resumes it."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.sidecar("pause", "--reason", "switch replaced, CHG-88")
    fleet.activate(tenant, 2)
    fleet.wait(5)
    fleet.sidecar("resume", "--reason", "CHG-88 done")
    fleet.settle()
    fleet.caused("halted")
    yield


@scene
def markup_in_a_name(fleet: Fleet, tenant: str) -> Steps:
    """A tenant whose name is markup announces a version, and never puts its artifact."""
    name = f"{tenant}<b onload=x>"
    event = fleet.activate(name, 1, data=None)
    fleet.dead(event)
    fleet.caused("artifact_missing", f"{tenant}<b onload=x>/web@1")
    yield


@scene
def two_nodes_both_lead(fleet: Fleet, tenant: str) -> Steps:
    """Two build nodes both hold the lead: each activates web@5, with bytes of its own."""
    fleet.activate(tenant, 4)
    yield
    fleet.activate(tenant, 5, event_id=f"{tenant}-a-5", data=b"of a")
    yield
    fleet.activate(tenant, 5, event_id=f"{tenant}-b-5", data=b"of b")
    fleet.settle()
    fleet.caused("same_version", f"{tenant}/web@5")


@scene
def halt_key_deleted(fleet: Fleet, tenant: str) -> Steps:
    """Somebody lifts a halt with DEL in place of `sidecar resume`: no record says who."""
    fleet.activate(tenant, 1)
    fleet.settle()
    fleet.sidecar("pause", "--reason", "change freeze")
    time.sleep(2)
    fleet.redis.delete(key(f"halt:{CONTROL}"))
    fleet.activate(tenant, 2)
    fleet.settle()
    fleet.caused("halted", CONTROL)
    yield


@scene
def notified_by_hand(fleet: Fleet, tenant: str) -> Steps:
    """Somebody in a hurry announces web@2 himself, by XADD to the notifications."""
    fleet.activate(tenant, 1)
    fleet.settle()
    event = {"event_id": f"{tenant}-hand", "type": "stack.activated", "tenant_id": tenant,
             "stack_id": "web", "version": 2}  # fmt: skip
    fleet.redis.xadd(NOTIFY, {"event": json.dumps(event)})
    fleet.caused("foreign", tenant)
    yield
