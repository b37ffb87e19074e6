"""The archive's horizon: what is older goes, and everybody who asks for it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

import store
from sidecar.errors import Incomplete, UsageError
from sidecar.history.archive import ArchiveHistory, Name, contents_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.horizon import _going, expire
from sidecar.history.joined import JoinedHistory
from sidecar.history.live import LiveHistory
from sidecar.history.segments import Damaged
from sidecar.history.state import state_at
from sidecar.redis import readers
from sidecar.redis.client import Side
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.worker import wiring
from sidecar.worker.settings import build
from store import VersionedStore
from store.memory import MemoryStore
from store.testing.wrappers import Wrapper
from tests.sidecar.test_feed_state import KEYS, N, World
from tests.store import object_server

COUNT = 60


def version(number: int) -> EntryId:
    """Return the ID of a control_version."""
    return EntryId.of_version(number)


class Old:
    """A world whose notifications are all archived, and trimmed from Redis."""

    def __init__(self, fleet: VersionedStore, count: int = COUNT) -> None:
        self.fleet = fleet
        self.client: Any = fakeredis.FakeRedis(protocol=2)
        self.world = World(self.client, fleet, seed=3)
        for _ in range(count // 5):
            self.world.publish(5)
            self.world.archive()
        self.ids = list(map(version, self.world.all))
        self.states = {at: self._state(at)[0] for at in [*self.world.all[::9], self.world.all[-1]]}
        self.trim()

    def trim(self) -> None:
        """Trim all that is archived."""
        self.world.trim(self.world.all[-1])

    @property
    def live(self) -> LiveHistory:
        """What Redis has."""
        side = Side(self.client, "redis://old")
        return LiveHistory(side, side, [KEYS], self.fleet)

    @property
    def history(self) -> JoinedHistory:
        """What can be read."""
        live = self.live
        return JoinedHistory(ArchiveHistory(self.fleet, live.streams), live)

    def expire(self, at: int, fleet: VersionedStore | None = None) -> list[str]:
        """Expire what is older than a control_version; return what went."""
        return list(expire(fleet or self.fleet, self.live, N, version(at)))

    def _state(self, at: int) -> tuple[list[bytes], bool]:
        state = state_at(self.history, at)
        return list(state.rows()), bool(state.gaps)

    def judge(self) -> None:
        """Whatever was removed: each notification is read, or known to be gone, and so each
        state.
        """
        history = self.history
        reach = history.reach(N)
        assert reach
        read = [EntryId(line.split(b'"')[1].decode()) for line in history.lines(N, FIRST, LAST)]
        for one in self.ids:
            assert (one in read) != bool(reach.missing(one, one)), one
        for at, rows in self.states.items():
            found, has_gaps = self._state(at)
            assert has_gaps or found == rows


@pytest.fixture
def old() -> Old:
    """A world in this process."""
    return Old(MemoryStore())


@pytest.fixture(params=["memory", "file", "object"])
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VersionedStore]:
    """A store of each backend that can hold an archive."""
    if request.param != "object":
        url = tmp_path.as_uri() if request.param == "file" else "memory:"
        yield store.open_url(url)  # type: ignore[misc]
        return
    with object_server.running() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield store.open_url(f"s3://{server.new_bucket()}/fleet")  # type: ignore[misc]


# --- what goes, and what stays -----------------------------------------------------------------


def test_what_is_older_than_the_horizon_has_expired(each_store: VersionedStore) -> None:
    """On each store: what is older is gone and told, and the state at the horizon is known."""
    old = Old(each_store, 25)
    horizon = old.world.all[18]
    states = checkpoints_of(each_store, N)
    newest = max(one for one in states if one <= version(horizon))
    went = old.expire(horizon)
    contents = contents_of(each_store, N, N)
    assert went
    assert not set(went) & set(each_store.list(".sidecar"))
    assert version(old.world.all[0]) < contents.expired <= newest
    assert all(name.last > newest for name in contents.names)
    assert min(checkpoints_of(each_store, N)) == newest
    old.judge()
    reach = old.history.reach(N)
    assert reach
    assert [(gap.first, gap.last, gap.why) for gap in reach.gaps] == [
        (FIRST.after, contents.expired, "expired")
    ]
    for at in old.states:
        assert bool(state_at(old.history, at).gaps) == (version(at) < newest)
    assert old.expire(horizon) == []
    assert old.expire(old.world.all[-1])
    old.judge()
    assert len(contents_of(each_store, N, N).marks) == 1


def test_an_archive_that_has_expired_wholly_is_still_one(old: Old) -> None:
    """Of a stream that has been silent for so long the state is known, and what comes is read."""
    assert old.expire(old.world.all[-1])
    rows = old.states[old.world.all[-1]]
    assert list(state_at(old.history, 2**52).rows()) == rows
    old.world.publish(3)
    old.world.archive()
    found = state_at(old.history, 2**52)
    assert not found.gaps
    assert len(list(found.rows())) >= len(rows)


class Killed(BaseException):
    """The process ends here."""


class Fragile(Wrapper):
    """A store whose user is killed before its operation `at`, or right after it."""

    def __init__(self, inner: VersionedStore, at: int, *, after: bool) -> None:
        super().__init__(inner)
        self._left, self._after = at, after

    def around(self, operation: Callable[[], Any]) -> Any:
        """Do it, unless killed before."""
        self._left -= 1
        if self._left:
            return operation()
        if self._after:
            operation()
        raise Killed


def copied(fleet: VersionedStore) -> MemoryStore:
    """Return a store with the same artifacts."""
    other = MemoryStore()
    for ref in fleet.list(""):
        other.put(ref, *fleet.get(ref))
    return other


@pytest.mark.parametrize("after", [False, True])
def test_it_may_be_killed_at_any_moment(old: Old, *, after: bool) -> None:
    """Before and after each operation of the store: nothing is made up, and the next one that
    comes removes the same.
    """
    untouched, horizon = old.fleet, old.world.all[45]
    old.fleet = copied(untouched)
    old.expire(horizon)
    left = sorted(old.fleet.list(""))
    kills = 0
    while True:
        old.fleet = copied(untouched)
        kills += 1
        try:
            old.expire(horizon, Fragile(old.fleet, kills, after=after))
        except Killed:
            old.judge()
            old.expire(horizon)
            assert sorted(old.fleet.list("")) == left
        else:
            break
    assert kills > 12


def test_who_reads_meanwhile_is_told(old: Old) -> None:
    """A segment that expires between a reader's look at the names and its turn is no damage."""
    archive = ArchiveHistory(old.fleet, old.live.streams)
    lines = archive.lines(N, FIRST, LAST)
    archive.names(N)
    old.expire(old.world.all[-1])
    with pytest.raises(Incomplete, match="expired while it was read") as told:
        list(lines)
    assert told.value.exit_code == 3


def test_a_segment_that_is_gone_without_having_expired_is_damage(old: Old) -> None:
    """Somebody removed it by hand while it was read."""
    archive = ArchiveHistory(old.fleet, old.live.streams)
    old.fleet.delete(archive.names(N)[0].ref)
    with pytest.raises(Damaged):
        list(archive.lines(N, FIRST, LAST))


def test_what_redis_has_stays(old: Old) -> None:
    """What is live does not expire, whatever its age."""
    old.world.publish(20)
    old.world.archive()
    old.world.trim(old.world.all[COUNT + 2])
    old.ids += map(version, old.world.all[COUNT:])
    old.expire(old.world.end)
    assert contents_of(old.fleet, N, N).expired < version(old.world.all[COUNT + 3])
    old.judge()


def test_what_a_registered_reader_has_yet_to_pass_stays(old: Old) -> None:
    """Also where somebody trimmed it from Redis by hand."""
    readers.passed(old.client, KEYS, "slow", old.world.all[20], 3600)
    old.expire(old.world.end)
    assert FIRST < contents_of(old.fleet, N, N).expired <= version(old.world.all[20])


def test_without_a_state_before_the_horizon_nothing_goes(old: Old) -> None:
    """Neither one that is damaged nor one of an older format is one: what it says is needed."""
    first = min(checkpoints_of(old.fleet, N))
    assert old.expire(first.before.control_version) == []
    newest = checkpoints_of(old.fleet, N)[max(checkpoints_of(old.fleet, N))]
    data, manifest = old.fleet.get(newest)
    old.fleet.put(newest, data[:-9], manifest)
    with pytest.raises(Damaged):
        old.expire(old.world.end)
    old.fleet.put(newest, data, manifest.replace(b'"format":3', b'"format":2'))
    assert old.expire(old.world.end) == []


def test_what_overlaps_what_stays_stays_and_so_do_ids_that_are_no_times() -> None:
    """Each row of a stretch comes or is told to be gone; a row number tells no age."""

    def name(first: int, last: int) -> Name:
        return Name(f"{first}..{last}", EntryId.of(first), EntryId.of(last), None)

    base = 10**12
    names = [name(1, 5), name(base, base + 9), name(base + 5, base + 20),
             name(base + 21, base + 30), name(base + 40, base + 50)]  # fmt: skip
    assert _going(names, EntryId.of(base + 35)) == names[1:4]
    assert _going(names, EntryId.of(base + 29)) == names[1:3]
    assert _going(names, EntryId.of(base + 15)) == []


# --- the option ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "more", "words"),
    [
        ("400d", {"archive": False}, "needs --archive"),
        ("7d", {}, "--trim-dead keeps 90d in Redis.* keep 91d at least"),
        ("91d", {"trim_notifications": "age=91d"}, "--trim-notifications keeps"),
        ("91d", {"trim_control": "age=92d"}, "--trim-control keeps"),
        (
            "7d",
            {"trim_dead": "never", "trim_control": "never", "trim_notifications": "never"},
            "--dedup-window keeps 7d",
        ),
        ("long", {}, "--archive-keep"),
    ],
)
def test_a_horizon_that_is_too_near_is_refused(keep: str, more: Any, words: str) -> None:
    """The message names the option that needs more, and how much is enough."""
    with pytest.raises(UsageError, match=words):
        build(**({"archive": True, "archive_keep": keep} | more))


def test_a_horizon_that_is_far_enough_is_taken() -> None:
    """So is none."""
    assert build(archive=True, archive_keep="400d").archive_keep_s == 400 * 86400
    assert build(archive=True).archive_keep_s is None


def test_a_store_that_cannot_delete_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive in it could not be kept to a horizon."""
    fleet = MemoryStore()
    fleet.capabilities -= {store.Capability.DELETE}
    settings = build(archive=True, archive_keep="400d")
    monkeypatch.setattr(wiring.Wiring, "fleet", fleet, raising=False)
    wired: Any = object.__new__(wiring.Wiring)
    wired.settings = settings
    with pytest.raises(UsageError, match="--archive-keep: the backend 'memory' cannot delete"):
        wired.archiving()


@pytest.mark.parametrize("ahead_us", [0, 400 * 86_400_000_000])
def test_a_clock_that_runs_ahead_removes_nothing(
    old: Old, monkeypatch: pytest.MonkeyPatch, ahead_us: int
) -> None:
    """Of Redis's clock and the worker's the one that is behind counts."""
    now_us = old.world.end + 86_400_000_000
    for ours, theirs in ((now_us, now_us + ahead_us), (now_us + ahead_us, now_us)):
        monkeypatch.setattr("sidecar.history.archiver.time.time_ns", lambda us=ours: us * 1000)
        monkeypatch.setattr(LiveHistory, "now_us", lambda _, us=theirs: us)
        assert list(old.world.archiver.expire(N, 30 * 86400)) == []
