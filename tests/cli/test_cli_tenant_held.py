"""An erasure has its tenant's pause to itself, and says of nothing that it is erased that is not.

Each test does something at one moment of an erasure: once all was found, or while anything goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import store
from sidecar.ops.erasing import Erasing, Plan
from sidecar.redis.holding import Hold
from sidecar.redis.keys import Keys
from sidecar.redis.tenants import read_paused
from sidecar.wire.erasures import Erasures, erasures
from store import checksum_of
from tests.cli.harness import KEYS, NOTIFICATIONS, STREAM, Cli, Ran
from tests.store.harness import raw_files

TAKEN = b"all that is t1's"
LATER = b"what t1 brings later"
REF = "stacks/t1/web/1"
WHY = ("--reason", "contract ended", "--tenant-scope", "stacks/{tenant}/*")


@pytest.fixture
def one(sidecar: Cli) -> Cli:
    """A tenant with an artifact in both stores."""
    sidecar.bring("a", REF, TAKEN, "--tenant", "t1")
    sidecar.work()
    return sidecar


def _opened(sidecar: Cli, name: str) -> store.VersionedStore:
    found = store.versioned(
        store.open_url((sidecar.directory / "data-dir" / name).as_uri()), store.Capability.PURGE
    )
    assert found
    return found


def _erase(sidecar: Cli, *args: str) -> Ran:
    return sidecar("tenant", "erase", "t1", *WHY, *args)


@pytest.fixture
def once_planned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something done, once, when the first erasure has found what goes."""

    def arrange(deed: Callable[[], object]) -> None:
        plan = Erasing.plan

        def then(self: Erasing) -> Plan:
            monkeypatch.setattr(Erasing, "plan", plan)
            found = plan(self)
            deed()
            return found

        monkeypatch.setattr(Erasing, "plan", then)

    return arrange


Arrange = Callable[[Callable[[], object]], None]


def _complete(sidecar: Cli) -> list[bool]:
    return [each.complete for each in erasures(_opened(sidecar, "fleet"))]


def test_a_second_erasure(one: Cli, once_planned: Arrange) -> None:
    """It is refused, naming the first, which ends as if there had been no other."""
    second: list[Ran] = []
    once_planned(lambda: second.append(_erase(one)))
    first = _erase(one)
    assert (first.code, second[0].code) == (0, 2)
    assert "is being erased since" in second[0].err
    assert "--continue" in second[0].err
    assert _complete(one) == [True]
    assert not read_paused(one.client, KEYS).tenants


def test_a_resume_amid_it(one: Cli, once_planned: Arrange) -> None:
    """It is refused with what to do, and nothing of the tenant is published."""
    ran: list[Ran] = []

    def resume() -> None:
        ran.append(one("resume", "--tenant", "t1"))
        one.add("late")
        assert one.process("run", "--drain", "--retry-budget", "0").code == 3

    count = len(one.notifications())
    once_planned(resume)
    assert _erase(one).code == 0
    assert ran[0].code == 2
    assert "is being erased since" in ran[0].err
    assert len(one.notifications()) == count
    one.work()
    assert len(one.notifications()) == count + 1


@pytest.mark.parametrize("reason", ["it leaves", "erase: it leaves"])
def test_a_pause_of_a_person(one: Cli, once_planned: Arrange, reason: str) -> None:
    """It is held as well, and is there afterwards as it was: a resume counts again."""
    assert one("pause", "--tenant", "t1", "--reason", reason).code == 0
    before = one.client.hgetall(KEYS.paused)
    ran: list[Ran] = []
    once_planned(lambda: ran.append(one("resume", "--tenant", "t1")))
    assert _erase(one).code == 0
    assert ran[0].code == 2
    assert one.client.hgetall(KEYS.paused) == before
    assert one("resume", "--tenant", "t1").code == 0
    assert not read_paused(one.client, KEYS).tenants


@pytest.mark.parametrize("noted", [b"{", b"{}", b'{"reason":"x","erasure":7}'])
def test_a_note_that_no_sidecar_wrote(one: Cli, noted: bytes) -> None:
    """The tenant is erased all the same, and stays paused."""
    one.client.hset(KEYS.paused, "t1", noted)
    ran = _erase(one, "--continue")
    assert ran.code == 0, ran.err
    assert list(read_paused(one.client, KEYS).tenants) == ["t1"]


def test_a_pause_that_redis_lost(one: Cli, once_planned: Arrange) -> None:
    """Nothing goes, nothing is said to be erased, and the next run does all of it."""
    once_planned(lambda: one.client.delete(KEYS.paused))
    ran = _erase(one)
    assert (ran.code, "run it again" in ran.err) == (3, True)
    assert _opened(one, "fleet").get(REF).data == TAKEN
    assert _complete(one) == []
    assert _erase(one).code == 0
    assert _complete(one) == [True]


def test_a_pause_that_is_lost_while_all_goes(one: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is not put on record: an event may name what went since."""
    pieces = Erasing.pieces

    def then(self: Erasing, plan: Plan, *, dry_run: bool) -> Iterator[store.Collected]:
        yield from pieces(self, plan, dry_run=dry_run)
        one.client.delete(KEYS.paused)

    monkeypatch.setattr(Erasing, "pieces", then)
    assert _erase(one).code == 3
    monkeypatch.undo()
    assert _complete(one) == [False]
    assert _erase(one).code == 0
    assert _complete(one) == [True]


def test_one_that_was_not_killed_is_continued(one: Cli, once_planned: Arrange) -> None:
    """The run that was taken over from ends as incomplete, touches no pause, and the other ends."""
    second: list[Ran] = []
    once_planned(lambda: second.append(_erase(one, "--continue")))
    first = _erase(one)
    assert (first.code, second[0].code) == (3, 0)
    assert "another run has continued it" in first.err
    assert _complete(one) == [True]
    assert not read_paused(one.client, KEYS).tenants
    assert TAKEN not in raw_files(one.directory / "data-dir")


def _is_on_record(sidecar: Cli, ref: str, data: bytes) -> bool:
    return Erasures(_opened(sidecar, "fleet")).find(ref, checksum_of(data)) is not None


@pytest.mark.parametrize("name", ["source", "fleet"])
@pytest.mark.parametrize("ref", [REF, "stacks/t1/new"])
def test_a_version_that_comes_after_the_plan(
    one: Cli, once_planned: Arrange, monkeypatch: pytest.MonkeyPatch, name: str, ref: str
) -> None:
    """It goes as well, and not before it is on record."""
    once_planned(lambda: _opened(one, name).put(ref, LATER, b"m"))
    kind: Any = type(_opened(one, name))
    purge = kind.purge

    def watched(self: Any, refs: Any, **how: Any) -> Iterator[store.Collected]:
        was = _opened(one, name).exists(ref, checksum=checksum_of(LATER))
        yield from purge(self, refs, **how)
        gone = was and not _opened(one, name).exists(ref, checksum=checksum_of(LATER))
        assert not gone or _is_on_record(one, ref, LATER)

    monkeypatch.setattr(kind, "purge", watched)
    ran = _erase(one)
    assert ran.code == 0, ran.err
    monkeypatch.undo()
    assert _is_on_record(one, ref, LATER)
    assert LATER not in raw_files(one.directory / "data-dir")
    assert _complete(one) == [True]


@pytest.mark.parametrize("killed_on", [STREAM, "control:more"])
def test_a_run_that_was_killed_on_one_of_two_control_streams(one: Cli, killed_on: str) -> None:
    """The next one is refused and leaves the other as it was; continued, it lets both continue."""
    more = Keys.of("control:more", NOTIFICATIONS)
    one.bring("b", "stacks/t1/b", b"b", "--tenant", "t1", "--stream", more.control)
    one.work(stream=(more.control,))
    killed, other = (KEYS, more) if killed_on == STREAM else (more, KEYS)
    Hold(one.client, killed, "t1", reason="it left", by="me").take(over=False)
    ran = _erase(one)
    assert (ran.code, "--continue" in ran.err) == (2, True)
    assert not read_paused(one.client, other).tenants
    assert _erase(one, "--continue").code == 0
    assert not read_paused(one.client, KEYS).tenants
    assert not read_paused(one.client, more).tenants
    assert _complete(one) == [True]
