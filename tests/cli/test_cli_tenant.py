"""`sidecar tenant erase`: of a tenant that leaves no byte is left, and nothing of others goes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import store
from sidecar.feed import Feed
from sidecar.ops.erasing import Erasing, Plan
from sidecar.redis.tenants import read_paused
from sidecar.wire.erasures import Erased, Erasures, erasures
from sidecar.wire.logbook import Log, register
from store import VersionedStore, checksum_of
from store.file import FileStore
from tests.cli.harness import DEAD, KEYS, NOTIFICATIONS, STREAM, Cli, Ran
from tests.store.harness import raw_files

TAKEN = b"all that is t1's"
BIG = TAKEN + bytes(100_000)
SCOPE = ("--tenant-scope", "stacks/{tenant}/*", "--tenant-scope", "shared/*")
WHY = ("--reason", "contract ended")


def _opened(sidecar: Cli, name: str) -> VersionedStore:
    found = store.versioned(
        store.open_url((sidecar.directory / "data-dir" / name).as_uri()), store.Capability.PURGE
    )
    assert found
    return found


def _left(sidecar: Cli, name: str = "fleet") -> list[str]:
    return sorted(ref for ref in _opened(sidecar, name).list() if not ref.startswith(".sidecar"))


def _raw(sidecar: Cli) -> bytes:
    """Return what all stores hold, on disk."""
    return raw_files(sidecar.directory / "data-dir")


def _erase(sidecar: Cli, *args: str | Path, tenant: str = "t1") -> Ran:
    return sidecar("tenant", "erase", tenant, *WHY, *args)


def _bring(sidecar: Cli, event_id: str, ref: str, data: bytes, tenant: str) -> None:
    sidecar.bring(event_id, ref, data, "--tenant", tenant)


@pytest.fixture
def two(sidecar: Cli) -> Cli:
    """Two tenants with artifacts in both stores, all relayed."""
    _bring(sidecar, "a", "stacks/t1/web/1", TAKEN, "t1")
    _bring(sidecar, "b", "stacks/t1/web/2", BIG, "t1")
    _bring(sidecar, "c", "stacks/t2/web/1", b"t2's", "t2")
    sidecar.work()
    return sidecar


def test_erase(two: Cli) -> None:
    """All versions go from both stores, with what is in quarantine; others have their own."""
    fleet = _opened(two, "fleet")
    fleet.put("stacks/t1/web/1", TAKEN + b", again", b"m")
    path = two.directory / "data-dir/fleet/refs/stacks/t1/web/2@"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert any(each.quarantined for each in fleet.verify(quarantine=True))
    ran = _erase(two)
    assert ran.code == 0, ran.err
    assert "t1: 2 refs with" in ran.out
    assert TAKEN not in _raw(two)
    assert _left(two) == _left(two, "source") == ["stacks/t2/web/1"]
    assert two("store", "get", "stacks/t2/web/1", "--data", "-").raw == b"t2's"
    assert [one.tenant for one in erasures(fleet)] == ["t1"]


def test_a_dry_run(two: Cli) -> None:
    """It tells what would go, changes nothing, and needs no ended events."""
    before = _raw(two)
    two.add("waits", "t1")
    dry = _erase(two, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert "now it would be refused" in dry.err
    assert _raw(two) == before
    *refs, summary = dry.objects()
    assert [one["ref"] for one in refs] == ["stacks/t1/web/1", "stacks/t1/web/2"]
    assert refs[0]["versions"] == [{"checksum": checksum_of(TAKEN), "size_bytes": len(TAKEN)}]
    two.work()
    done = _erase(two, "--json").objects()
    assert done == [*refs, {"summary": summary["summary"] | {"dry_run": False}}]


def test_an_event_that_waits(two: Cli) -> None:
    """Nothing goes while an event of the tenant has not ended; those of others do not count."""
    two.add("other", "t2")
    two.add("waits", "t1")
    ran = _erase(two)
    assert (ran.code, ran.out) == (2, "")
    assert "'waits'" in ran.err
    assert "sidecar wait" in ran.err
    assert len(_left(two)) == 3
    assert not read_paused(two.client, KEYS).tenants
    two.work()
    assert _erase(two).code == 0


def test_an_event_of_a_paused_tenant(two: Cli) -> None:
    """What waits since its tenant is paused has not ended, and the pause of a person stays."""
    assert two("pause", "--tenant", "t1", "--reason", "it leaves").code == 0
    two.add("waits", "t1")
    ran = _erase(two)
    assert ran.code == 2
    assert "paused" in ran.err
    two.client.xtrim(STREAM, maxlen=0)
    assert _erase(two).code == 0
    assert read_paused(two.client, KEYS).tenants["t1"].reason == "it leaves"


def test_what_was_never_announced(two: Cli) -> None:
    """With the scope, orphans of the tenant go, too; those of others stay, and those of nobody."""
    for name in ("fleet", "source"):
        for ref in ("stacks/t1/orphan", "stacks/t1-not/orphan", "stacks/t2/orphan", "free"):
            _opened(two, name).put(ref, TAKEN if "/t1/" in ref else b"other", b"m")
    assert _erase(two, *SCOPE).code == 0
    assert TAKEN not in _raw(two)
    for name in ("fleet", "source"):
        there = ["free", "stacks/t1-not/orphan", "stacks/t2/orphan", "stacks/t2/web/1"]
        assert _left(two, name) == there


def test_what_another_tenant_names_too(two: Cli) -> None:
    """It stays, and is told; where the scope forbids the claim, it counts for nothing."""
    _bring(two, "d", "stacks/t1/web/1", TAKEN, "t2")
    _bring(two, "e", "stacks/t2/web/1", b"t2's", "t1")
    two.work()
    dry = _erase(two, "--dry-run")
    assert "'stacks/t1/web/1' stays: 't2' has it, too" in dry.err
    assert "'stacks/t2/web/1' stays: 't2' has it, too" in dry.err
    assert "1 refs with" in dry.out
    assert _erase(two, *SCOPE).code == 0
    assert _left(two) == ["stacks/t2/web/1"]
    assert TAKEN not in _raw(two)


def test_dead_letters_claim_too(two: Cli) -> None:
    """What a dead letter names is the tenant's, but for what it was forbidden to name."""
    for name in ("fleet", "source"):
        for ref in ("old/1", "old/2"):
            _opened(two, name).put(ref, TAKEN, b"m")
    event = {"event_id": "x", "type": "key.changed", "tenant_id": "t1", "artifact_ref": "old/1"}
    two.letter(event, "1-1")
    two.letter(event | {"artifact_ref": "old/2"}, "1-2", reason="forbidden_ref")
    assert _erase(two).code == 0
    assert _left(two) == ["old/2", "stacks/t2/web/1"]


def test_what_only_the_archive_names(two: Cli) -> None:
    """What was trimmed from Redis is found in the archive."""
    assert two("archive").code == 0
    for stream in (STREAM, NOTIFICATIONS):
        two.client.xtrim(stream, maxlen=0)
    assert _erase(two).code == 0
    assert _left(two) == ["stacks/t2/web/1"]
    assert TAKEN not in _raw(two)


def test_reserved_refs_are_nobodys(two: Cli) -> None:
    """A tenant that names the sidecar's own records takes none of them along."""
    assert two("archive").code == 0
    fleet = _opened(two, "fleet")
    own = {ref for ref in fleet.list() if ref.startswith(".sidecar/")}
    assert own
    for ref in own:
        event = {"event_id": ref, "type": "x", "tenant_id": "t1", "artifact_ref": ref}
        two.client.xadd(NOTIFICATIONS, {"event": json.dumps(event), "origin": f"{STREAM}/1-1"})
    assert _erase(two).code == 0
    assert own <= set(fleet.list())


@pytest.mark.parametrize("tenant", ["nobody", "../t1", "t1/web", "{tenant}", "*", "\x1b[31m", "T1"])
def test_an_unknown_tenant(two: Cli, tenant: str) -> None:
    """A name that nothing has is told, whatever it looks like, and nothing goes."""
    ran = _erase(two, *SCOPE, tenant=tenant)
    assert ran.code == 1
    assert f"{tenant!r}" in ran.err
    assert "\x1b" not in ran.err
    assert len(_left(two)) == 3
    assert not erasures(_opened(two, "fleet"))


@pytest.mark.parametrize("args", [("",), ("x" * 257,), ("t1", "--reason", " ")])
def test_what_cannot_be_meant(two: Cli, args: tuple[str, ...]) -> None:
    """An empty name, one that is too long, and no reason are refused."""
    ran = two("tenant", "erase", *args, *(() if "--reason" in args else WHY))
    assert ran.code == 2
    assert len(_left(two)) == 3


def test_a_second_fleet_that_was_not_asked(two: Cli) -> None:
    """A store that another log names, too, is not emptied until its server was asked."""
    log = Log("1" * 32, "control:notifications", "redis://elsewhere", "2026-11-02T10:00:00Z")
    register(_opened(two, "source"), log)
    ran = _erase(two)
    assert ran.code == 2
    assert "--notify-redis" in ran.err
    assert len(_left(two)) == 3


def test_a_store_that_cannot_purge(two: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend without the capability is refused, with the option that names it."""
    monkeypatch.setattr(FileStore, "capabilities", frozenset(store.Capability) - {"purge"})
    ran = _erase(two)
    assert ran.code == 2
    assert "--fleet-store" in ran.err
    assert "'purge'" in ran.err


def test_again(two: Cli) -> None:
    """Erased again there is nothing to do; what a producer brings anew is relayed, and erasable."""
    assert _erase(two).code == 0
    again = _erase(two)
    assert (again.code, "0 refs" in again.out) == (0, True)
    _bring(two, "new", "stacks/t1/web/1", TAKEN, "t1")
    two.work()
    assert two("store", "get", "stacks/t1/web/1", "--data", "-").raw == TAKEN
    assert _erase(two).code == 0
    assert TAKEN not in _raw(two)
    assert len(erasures(_opened(two, "fleet"))) == 2


def test_what_was_deleted_before(two: Cli) -> None:
    """Where no version is left, the data goes that the deletion left, and that is on record."""
    for name in ("fleet", "source"):
        for ref in _left(two, name):
            _opened(two, name).delete(ref)
    assert TAKEN in _raw(two)
    ran = _erase(two)
    assert (ran.code, "2 objects" in ran.out, "on record" in ran.err) == (0, True, True)
    assert TAKEN not in _raw(two)
    again = _erase(two)
    assert (again.code, "erased: nothing" in again.out) == (0, True)
    assert "on record" not in again.err
    assert len(erasures(_opened(two, "fleet"))) == 1


def test_what_workers_forbade_the_tenant_to_name(two: Cli) -> None:
    """Its entry is in the control stream, and gives it nothing: not even where no scope is given
    and the owner's own events are trimmed.
    """
    _trim(two)
    _bring(two, "d", "stacks/t1/web/3", TAKEN, "t1")
    event = {"event_id": "evil", "type": "key.changed", "tenant_id": "t1",
             "artifact_ref": "stacks/t2/web/1", "checksum": checksum_of(b"t2's")}  # fmt: skip
    two.client.xadd(STREAM, {"event": json.dumps(event)})
    two("run", "--drain", "--tenant-scope", "stacks/{tenant}/*")
    assert two.client.xlen(DEAD) == 1
    ran = _erase(two)
    assert ran.code == 0, ran.err
    assert "'stacks/t2/web/1' stays: it may be another's" in ran.err
    assert "stacks/t2/web/1" in _left(two)
    assert "stacks/t1/web/3" not in _left(two)


def _trim(sidecar: Cli) -> None:
    for stream in (STREAM, NOTIFICATIONS):
        sidecar.client.xtrim(stream, maxlen=0, approximate=False)


def test_another_store_when_it_is_continued(
    two: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure ends only once the stores that it names are empty; till then history tells."""
    other = tmp_path / "other"
    node = store.open_url(other.as_uri())
    node.put("stacks/t1/web/1", TAKEN, b"m")

    def fail(*_: object, **__: object) -> None:
        raise store.Unavailable("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Erasing, "pieces", fail)
        assert _erase(two, "--source-store", other.as_uri()).code == 4
    assert _erase(two).code == 0
    fleet = _opened(two, "fleet")
    assert [one.complete for one in erasures(fleet)] == [False, True]
    assert "stopped early" in two("store", "history").out
    assert _erase(two, "--source-store", other.as_uri()).code == 0
    assert [one.complete for one in erasures(fleet)] == [True, True]
    assert not node.exists("stacks/t1/web/1")


def test_one_store_for_both(sidecar: Cli) -> None:
    """Where the producer's store is the fleet's, it is emptied once."""
    fleet = sidecar.directory / "data-dir/fleet"
    sidecar.lay_out("fleet")
    _opened(sidecar, "fleet").put("stacks/t1/1", TAKEN, b"m")
    event = {"event_id": "x", "type": "x", "tenant_id": "t1", "artifact_ref": "stacks/t1/1"}
    sidecar.notification(event, "1-1", f"{STREAM}/1-1")
    ran = _erase(sidecar, "--source-store", fleet.as_uri(), "--json")
    assert ran.code == 0, ran.err
    assert ran.objects()[-1]["summary"]["pieces"] == {"record": 2}


def test_a_go_fleets_directory_as_source(two: Cli) -> None:
    """A producer's `chassis-file` store is emptied as well; what may be another's there stays."""
    go = two.directory / "go"
    go.mkdir()
    for name, data in (("stacks/t1/web/1", TAKEN), ("stacks/t1/a_b", b"whose?")):
        (go / name).parent.mkdir(parents=True, exist_ok=True)
        (go / name).write_bytes(data)
        (go / f"{name}.manifest.json").write_bytes(b"{}")
    event = {"event_id": "x", "type": "x", "tenant_id": "t1", "artifact_ref": "stacks/t1/a b"}
    two.notification(event, "99999999999999-1", f"{STREAM}/1-1")
    source = _opened(two, "source")
    list(source.purge(list(source.list("stacks"))))
    ran = _erase(two, "--source-store", f"chassis-file://{go}")
    assert ran.code == 0, ran.err
    assert "'stacks/t1/a b' stays" in ran.err
    assert TAKEN not in raw_files(go)
    assert (go / "stacks/t1/a_b").read_bytes() == b"whose?"


def test_what_comes_meanwhile_is_not_published(two: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that comes amid it waits, and is tried once it is done: its artifact is gone."""
    plan = Erasing.plan

    def then(self: Erasing) -> Plan:
        found = plan(self)
        _bring(two, "late", "stacks/t1/web/1", TAKEN, "t1")
        assert two.process("run", "--drain", "--retry-budget", "0").code == 3
        return found

    monkeypatch.setattr(Erasing, "plan", then)
    count = len(two.notifications())
    assert _erase(two).code == 0
    assert len(two.notifications()) == count
    two.work()
    assert len(two.notifications()) == count
    assert [one["reason"] for one in two.entries(DEAD)] == ["artifact_missing"]
    assert TAKEN not in _raw(two)


def test_what_comes_at_the_last_moment_is_told(two: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a producer put while its store was emptied is found by the look afterwards: exit 3."""
    pieces = Erasing.pieces

    def then(self: Erasing, found: Plan, *, dry_run: bool) -> Iterator[store.Collected]:
        yield from pieces(self, found, dry_run=dry_run)
        if not dry_run:
            _opened(two, "source").put("stacks/t1/web/1", TAKEN, b"m")

    monkeypatch.setattr(Erasing, "pieces", then)
    ran = _erase(two)
    assert ran.code == 3
    assert "run it again" in ran.err
    monkeypatch.undo()
    assert _erase(two).code == 0
    assert TAKEN not in _raw(two)
    assert [one.complete for one in erasures(_opened(two, "fleet"))] == [True]


def test_a_record_that_cannot_be_kept(two: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fleet's store takes no record, nothing goes, and the tenant continues."""
    put = FileStore.put

    def refuse(self: FileStore, ref: str, *args: Any, **options: Any) -> None:
        if ref.startswith(".sidecar/erased/"):
            raise store.Unavailable("no room")
        put(self, ref, *args, **options)

    monkeypatch.setattr(FileStore, "put", refuse)
    ran = _erase(two)
    assert (ran.code, "no room" in ran.err) == (4, True)
    assert len(_left(two)) == len(_left(two, "source")) == 3
    assert not read_paused(two.client, KEYS).tenants


# Killed at any step.


def _killed(sidecar: Cli, at: int) -> bool:
    """Erase, and kill it at that step; tell whether it came to that."""
    with mock.patch.object(
        Cli, "argv", lambda _, *args: [sys.executable, "-m", "tests.cli.dying", str(at), *args]
    ):
        ran = sidecar.process("tenant", "erase", "t1", *WHY, *SCOPE, "--continue")
    assert ran.code in (0, -signal.SIGKILL), ran.err
    return ran.code != 0


def _check_whole(sidecar: Cli) -> None:
    """Nothing of others is gone, and what is gone of the tenant is on record."""
    fleet = _opened(sidecar, "fleet")
    assert fleet.get("stacks/t2/web/1").data == b"t2's"
    assert not [each for each in fleet.verify() if each.error]
    on_record = Erasures(fleet)
    for ref, data in (("stacks/t1/web/1", TAKEN), ("stacks/t1/web/2", BIG)):
        checksum = checksum_of(data)
        assert fleet.exists(ref, checksum=checksum) or on_record.find(ref, checksum)


def _check_finished(sidecar: Cli) -> None:
    assert _erase(sidecar, *SCOPE, "--continue").code == 0
    assert TAKEN not in _raw(sidecar)
    assert _left(sidecar) == _left(sidecar, "source") == ["stacks/t2/web/1"]
    assert [one.complete for one in erasures(_opened(sidecar, "fleet"))] == [True]
    assert not read_paused(sidecar.client, KEYS).tenants


@pytest.fixture
def with_orphan(two: Cli) -> Cli:
    """A ref of the tenant that nothing names, beside what its events name."""
    _opened(two, "fleet").put("stacks/t1/orphan", TAKEN, b"m")
    return two


def test_killed_again_and_again(with_orphan: Cli) -> None:
    """Wherever it is killed, the next run continues, and the last one finishes."""
    two = with_orphan
    for at in (1, 4, 7, 10):
        assert _killed(two, at)
        _check_whole(two)
    _check_finished(two)


@pytest.mark.proof
@pytest.mark.parametrize("at", range(1, 28))
def test_killed_at_each_step(with_orphan: Cli, at: int) -> None:
    """After a kill at any step, nothing of others is gone, and the next run finishes."""
    two = with_orphan
    if not _killed(two, at):
        assert at > 15, "the command has fewer steps than this test believes"
    _check_whole(two)
    _check_finished(two)


# What is told of it afterwards.


@pytest.fixture
def erased(two: Cli) -> Cli:
    """The first tenant was erased."""
    assert two("archive").code == 0
    assert _erase(two).code == 0
    return two


def test_resolving_says_erased(erased: Cli) -> None:
    """Who resolves is told that it was erased, by whom, when and why; what is lost is not so."""
    feed = Feed(erased.url, store=_opened(erased, "fleet"))
    with closing(feed):
        notifications = feed.poll()
        assert len(notifications) == 3
        for one in notifications[:2]:
            for resolve in (feed.resolve, feed.open):
                with pytest.raises(Erased, match=r"with all of the tenant 't1' .* .contract ended"):
                    resolve(one)
        assert feed.resolve(notifications[2]).data == b"t2's"
        _opened(erased, "fleet").delete("stacks/t2/web/1")
        with pytest.raises(store.NotFound) as lost:
            feed.resolve(notifications[2])
        assert not isinstance(lost.value, Erased)
    ran = erased("store", "get", "stacks/t1/web/1", "--data", "-")
    assert (ran.code, "contract ended" in ran.err) == (1, True)


def test_another_version_than_was_erased(erased: Cli) -> None:
    """A version of the same ref that came later, and was lost, counts as lost."""
    fleet = _opened(erased, "fleet")
    _bring(erased, "new", "stacks/t1/web/1", b"new", "t1")
    erased.work()
    fleet.delete("stacks/t1/web/1")
    assert Erasures(fleet).find("stacks/t1/web/1", checksum_of(TAKEN))
    assert not Erasures(fleet).find("stacks/t1/web/1", checksum_of(b"new"))
    ran = erased("audit", "--json")
    assert [one["event_id"] for one in ran.objects()[:-1]] == ["new"]


def test_audit_counts_what_was_erased(erased: Cli) -> None:
    """It is no loss, and a repair never brings it again, though a backup had the artifact."""
    ran = erased("audit", "--json")
    assert ran.code == 0, ran.out
    assert ran.objects()[-1]["summary"]["erased"] == 2
    _opened(erased, "source").put("stacks/t1/web/1", TAKEN, b"")
    assert erased("audit", "--repair", "--reason", "test").code == 0
    assert not _opened(erased, "fleet").exists("stacks/t1/web/1")
    assert "2 of them erased" in erased("audit").out


def test_reviews_say_erased(erased: Cli) -> None:
    """`trace`, `replay show`, `explain` and a bundle's say erased, and never gone or lost."""
    bundle = erased.directory / "bundle.zip"
    assert erased("replay", "export", bundle).code == 0
    for where in ((), ("--bundle", bundle)):
        env = {"SIDECAR_REDIS": ""} if where else {}
        trace = erased("trace", "a", *where, env=env)
        assert "is erased in the fleet's store" in trace.out, trace.err
        shown = erased("replay", "show", "--resolve", *where, env=env).out
        assert shown.count("artifact erased") == 2
        found = erased("explain", "--json", *where, env=env).objects()
        kinds = {one["kind"]: one["level"] for one in found if "kind" in one}
        assert "artifact_gone" not in kinds
        assert kinds["artifact_erased"] == "note"


def test_explain_says_of_what_died_that_it_was_erased(erased: Cli) -> None:
    """With which tenant, when, by whom and why, live and in a bundle; what died of another cause,
    or of another tenant, is said to be missing.
    """
    event = {"type": "key.changed", "tenant_id": "t1"}
    again = {"artifact_ref": "stacks/t1/web/1", "checksum": checksum_of(TAKEN)}
    never = {"artifact_ref": "rows/never", "checksum": checksum_of(b"never put")}
    erased.letter(event | again | {"event_id": "again"}, "1-1")
    erased.letter(event | never | {"event_id": "never"}, "1-2")
    erased.letter(event | never | {"event_id": "other", "tenant_id": "t2"}, "1-3")
    bundle = erased.directory / "bundle.zip"
    assert erased("replay", "export", bundle).code == 0
    for where in ((), ("--bundle", bundle)):
        env = {"SIDECAR_REDIS": ""} if where else {}
        _, found, *_ = erased("explain", "again", "--json", *where, env=env).objects()
        assert (found["kind"], found["level"]) == ("artifact_erased", "note")
        for said in ("with all of the tenant 't1' at 20", " by ", "contract ended"):
            assert said in found["what"], where
        for event_id in ("never", "other"):
            _, found, *_ = erased("explain", event_id, "--json", *where, env=env).objects()
            assert (found["kind"], found["level"]) == ("artifact_missing", "error")


def test_what_had_died_before_its_tenant_was_erased(two: Cli) -> None:
    """Nothing is left to fix of it: `explain` says since when, and no error remains."""
    two.letter({"event_id": "x", "type": "no.such", "tenant_id": "t1"}, "1-1", reason="malformed")
    assert two("explain", "x", "--json").objects()[1]["level"] == "error"
    assert _erase(two).code == 0
    found = two("explain", "x", "--json").objects()[1]
    assert (found["kind"], found["level"]) == ("malformed", "warning")
    assert "was erased with all of the tenant 't1'" in found["what"]


def test_dead_letters_and_lists_say_erased(erased: Cli) -> None:
    """`dead show`, `dead redrive`, `store versions` and `diff` tell it from what is missing."""
    _opened(erased, "fleet").put("stacks/t1/orphan", TAKEN, b"m")
    assert _erase(erased, *SCOPE).code == 0
    event = {"event_id": "x", "type": "key.changed", "tenant_id": "t1",
             "artifact_ref": "stacks/t1/orphan", "checksum": checksum_of(TAKEN)}  # fmt: skip
    letter = erased.letter(event, "99999999999999-1")
    why = "with all of the tenant 't1'"
    assert why in erased("dead", "show", letter).out
    dry = erased("dead", "redrive", letter, "--dry-run")
    assert why in dry.out + dry.err
    for command in (("store", "versions", "stacks/t1/web/1"), ("diff", "stacks/t1/web/1")):
        assert why in erased(*command).err
    lost = erased.letter(event | {"checksum": checksum_of(b"never put")}, "99999999999999-2")
    assert why not in erased("dead", "show", lost).out


def test_collection_where_all_were_erased(erased: Cli) -> None:
    """A store that has nothing of what events name, because it was erased, is collected."""
    assert _erase(erased, tenant="t2").code == 0
    gc = ("store", "gc", "--grace", "0", "--allow-short-grace")
    ran = erased(*gc)
    assert ran.code == 0, ran.err
    for name in _opened(erased, "fleet").list(".sidecar/erased"):
        _opened(erased, "fleet").delete(name)
    assert erased(*gc).code == 2


def test_collection_of_the_source_where_all_were_erased(erased: Cli) -> None:
    """The producer's store has no records of its own: the fleet's tells, where it can be had."""
    assert _erase(erased, tenant="t2").code == 0
    source = (erased.directory / "data-dir/source").as_uri()
    gc = ("store", "gc", "--grace", "0", "--allow-short-grace", "--store", source)
    _opened(erased, "source").put("late", b"old", b"m")
    _opened(erased, "source").put("late", b"new", b"m")
    elsewhere = ("--fleet-store", (erased.directory / "nowhere").as_uri())
    refused = erased(*gc, *elsewhere)
    assert (refused.code, "--fleet-store" in refused.err) == (2, True)
    ran = erased(*gc, "--json")
    assert ran.code == 0, ran.err
    assert ran.objects()[-1]["summary"]["versions"] == 1


def test_history_has_it(erased: Cli) -> None:
    """The record says who, why, how much, and with --json which refs and checksums."""
    shown = erased("store", "history").out
    assert "all of the tenant t1: contract ended" in shown
    (one,) = erased("store", "history", "--json").objects()
    assert (one["tenant"], one["reason"], one["complete"]) == ("t1", "contract ended", True)
    assert sorted(one["refs"]) == [
        ["stacks/t1/web/1", checksum_of(TAKEN)], ["stacks/t1/web/2", checksum_of(BIG)]
    ]  # fmt: skip
