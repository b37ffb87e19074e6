"""`sidecar store gc --keep`: refs go by rule, and none that anybody needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

import store
from sidecar.wire.logbook import Log, register
from store import checksum_of
from store.testing.samples import wait_out
from tests.cli.harness import DEAD, NOTIFICATIONS, STREAM, Cli

NOW = ("--grace", "0", "--allow-short-grace", "--yes")
WEB = "stacks/t/web"
TICKS_S = 0.2
"""What was put so long ago is older than a run, though file systems tell times by ticks."""


def _fleet(sidecar: Cli) -> store.VersionedStore:
    url = (sidecar.directory / "data-dir" / "fleet").as_uri()
    found = store.versioned(store.open_url(url), store.Capability.DELETE)
    assert found
    return found


def _put(sidecar: Cli, *versions: int, family: str = WEB) -> None:
    fleet = _fleet(sidecar)
    for version in versions:
        fleet.put(f"{family}/{version}", b"%d" % version, b"m")
    wait_out(TICKS_S)


def _put_again(sidecar: Cli, version: int, data: bytes) -> None:
    _fleet(sidecar).put(f"{WEB}/{version}", data, b"m")
    wait_out(TICKS_S)


def _append(sidecar: Cli, stream: str, version: int, family: str = WEB, **fields: str) -> None:
    ref = f"{family}/{version}"
    event: dict[str, Any] = {
        "event_id": ref, "type": "stack.activated", "tenant_id": "t", "stack_id": "web",
        "version": version, "artifact_ref": ref, "checksum": checksum_of(b"%d" % version),
    }  # fmt: skip
    entry: dict[Any, Any] = {"event": json.dumps(event), **fields}
    sidecar.client.xadd(stream, entry)


def _notify(sidecar: Cli, version: int, family: str = WEB) -> None:
    _append(sidecar, NOTIFICATIONS, version, family, origin=f"{STREAM}/1-1")


def _left(sidecar: Cli, family: str = WEB) -> list[int]:
    prefix = f"{family}/"
    return sorted(int(ref.removeprefix(prefix)) for ref in _fleet(sidecar).list(family))


@pytest.fixture
def web(sidecar: Cli) -> Cli:
    """A stack with six versions, of which the last is announced, and one that nobody announces."""
    _put(sidecar, *range(1, 7))
    _put(sidecar, 1, 2, family="stacks/t/idle")
    _notify(sidecar, 6)
    return sidecar


def test_refs_go_by_rule(web: Cli) -> None:
    """The last stay, and what a control entry, a dead letter or a notification names."""
    _append(web, STREAM, 1)
    _append(web, DEAD, 2, origin=f"{STREAM}/1-1", reason="artifact_missing")
    _notify(web, 3)
    ran = web("store", "gc", "--keep", "last=2", *NOW)
    assert ran.code == 0, ran.err
    assert _left(web) == [1, 2, 3, 5, 6]
    assert _left(web, "stacks/t/idle") == [1, 2]
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[1][:2] == ["refs", "1"]
    assert lines[-1][:4] == ["t/web", "1", "2", "5"]


def test_rules_of_the_variable_are_said(web: Cli) -> None:
    """A worker's variable holds for each `gc` in its environment: nobody is to be surprised."""
    by_variable = web("store", "gc", "--dry-run", *NOW, env={"SIDECAR_KEEP": "last=2"})
    assert by_variable.code == 0
    assert "by the rules of SIDECAR_KEEP" in by_variable.err
    by_flag = web("store", "gc", "--dry-run", "--keep", "last=2", *NOW)
    assert "SIDECAR_KEEP" not in by_flag.err


def test_without_a_rule_refs_stay(web: Cli) -> None:
    """Retention is off until somebody chooses it."""
    assert web("store", "gc", *NOW).code == 0
    assert _left(web) == [1, 2, 3, 4, 5, 6]


def test_a_dry_run_tells_what_and_why(web: Cli) -> None:
    """It removes nothing, and counts what stays since nobody knows which is the newest."""
    web_rule = ("--keep", f"{WEB}/*:last=2", "--keep", "stacks/t/idle/*:last=1")
    ran = web("store", "gc", *web_rule, *NOW, "--dry-run")
    assert ran.code == 0, ran.err
    assert _left(web) == [1, 2, 3, 4, 5, 6]
    assert "2 refs stay because the notifications in Redis do not tell" in ran.err
    assert "WOULD GO" in ran.out
    dry = web("store", "gc", *web_rule, *NOW, "--dry-run", "--json").objects()
    real = web("store", "gc", *web_rule, *NOW, "--json").objects()
    assert dry[:-1] == real[:-1]
    assert [line["ref"] for line in real if line.get("kind") == "ref"] == [
        f"{WEB}/{version}" for version in (4, 3, 2, 1)
    ]
    assert real[-2] == {
        "subject": "t/web", "refs": f"{WEB}/*", "gone": 4, "gone_bytes": 8,
        "kept": {"newest": 1, "last": 1}, "agrees": True,
    }  # fmt: skip
    assert (dry[-1]["summary"]["newest_not_known"], dry[-1]["summary"]["by_no_rule"]) == (2, 0)
    assert real[-1]["summary"]["refs"] == 4
    assert _left(web) == [5, 6]


def test_old_versions_of_a_ref_that_would_go_count_once(web: Cli) -> None:
    """A dry run does not count them with their ref and by themselves."""
    _put_again(web, 1, b"again")
    dry = web("store", "gc", "--keep", "last=2", *NOW, "--dry-run", "--json").objects()
    assert [line["kind"] for line in dry if "kind" in line] == ["ref"] * 4
    assert dry[-1]["summary"]["size_bytes"] == 3 * 2 + 8


def test_large_data_of_a_ref_that_went_goes_in_the_same_run(web: Cli) -> None:
    """Collection comes after, and finds what no record names any more."""
    _put_again(web, 1, b"x" * 200_000)
    summary = web("store", "gc", "--keep", "last=1", *NOW, "--json").objects()[-1]["summary"]
    assert (summary["refs"], summary["objects"]) == (5, 1)
    assert _left(web) == [6]


def test_the_grace_keeps(web: Cli) -> None:
    """What was stored within the grace stays, a day if nobody says otherwise."""
    assert web("store", "gc", "--keep", "last=2").code == 0
    assert _left(web) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--keep", "last=1"), "next to nothing"),
        (("--keep", "last=3", "--keep", "age=1h"), "next to nothing"),
        (("--keep", "last=0"), "the newest of a subject always stays"),
        (("--keep", "rows/x:last=2"), "does not end in /*"),
        (("--keep", "last=3", "--without-stream"), "choose"),
        (("--keep", "last=3", "--store", "memory:"), None),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(
    web: Cli, args: tuple[str, ...], said: str | None
) -> None:
    """It exits 2 with the fix, and removes nothing."""
    ran = web("store", "gc", *args)
    assert ran.code == 2
    assert said is None or said in ran.err
    assert _left(web) == [1, 2, 3, 4, 5, 6]


def test_a_log_that_was_not_asked_keeps_all(web: Cli) -> None:
    """Where another log publishes into the store, nothing goes until that is asked."""
    log = Log("a" * 32, "n", "redis://elsewhere", "2026-01-01T00:00:00Z", None)
    register(_fleet(web), log)
    ran = web("store", "gc", "--keep", "last=2", *NOW)
    assert ran.code == 2
    assert "not asked" in ran.err
    assert _left(web) == [1, 2, 3, 4, 5, 6]


def test_what_went_is_on_record(web: Cli) -> None:
    """Who removed it, by which rule, and what; a dry run and one that removes nothing are not."""
    ran = web("store", "history")
    assert (ran.code, ran.out) == (0, "")
    assert "nothing went" in ran.err
    assert web("store", "gc", "--keep", "last=2", *NOW, "--dry-run").code == 0
    for _ in range(2):
        assert web("store", "gc", "--keep", "last=2", *NOW).code == 0
    [removal] = web("store", "history", "--json").objects()
    assert "@" in removal["by"]
    assert removal["rules"] == ["stacks/*/*/*:last=2,age=0s"]
    assert (removal["counts"], removal["size_bytes"], removal["complete"]) == ({"ref": 4}, 8, True)
    assert removal["refs"][0] == [f"{WEB}/4", checksum_of(b"4")]
    _put_again(web, 5, b"again")
    assert web("store", "gc", *NOW).code == 0
    lines = web("store", "history").out.splitlines()
    assert ["4 refs" in lines[0], "1 versions" in lines[1]] == [True, True]
    assert web("store", "history", "-n", "1").out.splitlines() == lines[1:]


# --- a producers' store ------------------------------------------------------------------------


@pytest.fixture
def source(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> store.VersionedStore:
    """A producers' store: two refs that the fleet has, and two more, one of them overtaken."""
    for name in ("SHORTEST_GRACE_S", "KEEPS_LITTLE_S"):
        monkeypatch.setattr(f"sidecar.wire.keeping.{name}", 0.0)
    found = store.versioned(store.open_url(_url(sidecar)), store.Capability.DELETE)
    assert found
    for version in (1, 2, 3, 4):
        found.put(f"{WEB}/{version}", b"%d" % version, b"m")
    _put(sidecar, 1, 3)
    _notify(sidecar, 3)
    return found


def _url(sidecar: Cli) -> str:
    return (sidecar.directory / "data-dir" / "source").as_uri()


def _published(sidecar: Cli, rule: str, *more: str) -> Any:
    return sidecar("store", "gc", "--store", _url(sidecar), *NOW, "--keep", rule, *more)


def test_what_the_fleet_has_and_orphans_go_from_a_producers_store(
    sidecar: Cli, source: store.VersionedStore
) -> None:
    """As a worker does it: a dry run tells how many are which, and removes none; on record."""
    rule = "published+0s,orphans=0s"
    ran = _published(sidecar, rule, "--dry-run", "--json")
    *pieces, last = ran.objects()
    assert {one["ref"] for one in pieces} == {f"{WEB}/{version}" for version in (1, 2, 3)}
    assert (last["summary"]["published"], last["summary"]["orphans"]) == (2, 1)
    assert len(list(source.list(WEB))) == 4
    assert "1 were never announced" in _published(sidecar, rule, "--dry-run").err
    assert _published(sidecar, "published+0s").code == 0
    assert sorted(source.list(WEB)) == [f"{WEB}/2", f"{WEB}/4"]
    assert _published(sidecar, rule).code == 0
    assert list(source.list(WEB)) == [f"{WEB}/4"]
    history = sidecar("store", "history", "--store", _url(sidecar), "--json").objects()
    assert [one["rules"] for one in history] == [["published+0s"], ["published+0s,orphans=0s"]]
    assert _left(sidecar) == [1, 3]


def test_what_the_fleets_store_has_cannot_be_asked_of_itself(
    sidecar: Cli, source: store.VersionedStore
) -> None:
    """Nor are rules mixed: one line, exit 2, and nothing goes."""
    for words, said in (
        (("--keep", "published+1h"), "it is for a producers' store; name it by --store"),
        (("--store", _url(sidecar), "--keep", "published+1h", "--keep", "last=2"), "alone"),
        (("--store", _url(sidecar), "--keep", "published+1h,orphans=x"), "no duration"),
    ):
        ran = sidecar("store", "gc", *NOW, *words)
        assert ran.code == 2
        assert said in ran.err
    assert len(list(source.list(WEB))) == 4
