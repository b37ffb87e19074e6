"""Background work: whatever fails, the rest continues, and it is told."""

from __future__ import annotations

import errno
import http.client
import threading
from collections.abc import Iterator, MutableMapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import structlog

from sidecar.errors import SidecarError
from sidecar.redis.damage import Damaged
from sidecar.redis.members import Members
from sidecar.redis.pruning import Pruning
from sidecar.redis.retention import Policy, Retention, Trimmed
from sidecar.redis.scripts import script_of
from sidecar.worker import housekeeping, threads
from sidecar.worker.archiving import Archiving
from sidecar.worker.housekeeping import Chores, Housekeeper
from sidecar.worker.share import Share
from sidecar.worker.supervision import FIRST_PAUSE_S, IDLE, LONGEST_PAUSE_S, Supervisor
from tests import servers
from tests.sidecar.harness import Rig, eventually, silent_log
from tests.sidecar.test_app import worker
from tests.sidecar.test_heartbeat import Clock


class Told:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.failing: dict[str, int] = {}

    def background_failed(self, work: str, error: Exception) -> None:
        """Keep it."""
        del error
        self.failed.append(work)

    def background_failing(self, work: str, count: int) -> None:
        """Keep it."""
        self.failing[work] = count


class Step:
    """A step that fails while it has an error."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.done = 0

    def __call__(self) -> bool:
        """Do it."""
        if self.error:
            raise self.error
        self.done += 1
        return True


@pytest.fixture
def lines() -> list[tuple[str, str]]:
    """What was logged: level and detail."""
    return []


@pytest.fixture
def clock() -> Clock:
    """A clock that is set by hand."""
    return Clock()


@pytest.fixture
def told() -> Told:
    """What metrics hear."""
    return Told()


@pytest.fixture
def supervisor(lines: list[tuple[str, str]], clock: Clock, told: Told) -> Supervisor:
    """A supervisor with all of these."""

    def keep(_: Any, level: str, line: MutableMapping[str, Any]) -> str:
        lines.append((level, line.get("detail", line["event"])))
        return ""

    log = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(20),
    )  # fmt: skip
    return Supervisor(told, log, clock=clock)


@pytest.mark.unit
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), SidecarError("no"), ZeroDivisionError("a bug")],
)
def test_a_step_that_fails_is_told_once_and_tried_again(
    supervisor: Supervisor, clock: Clock, told: Told, lines: list[tuple[str, str]], error: Exception
) -> None:
    """With longer pauses, whatever it raises, until it is through: that is told, too."""
    step, other = Step(), Step()
    step.error = error
    pause_s, tries = FIRST_PAUSE_S, 0
    while tries < 8:
        assert not supervisor.attempt("archiving", "a", step)
        tries += 1
        assert supervisor.attempt("archiving", "b", other)
        assert len(told.failed) == tries
        assert not supervisor.attempt("archiving", "a", step)
        assert len(told.failed) == tries, "it was tried before its pause was over"
        clock.now += pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    (failing,) = supervisor.failing()
    assert failing.startswith("archiving a: ")
    assert str(error) in failing
    assert told.failing == {"archiving": 1}
    step.error = None
    assert supervisor.attempt("archiving", "a", step)
    assert supervisor.failing() == []
    assert told.failing == {"archiving": 0}
    assert [level for level, _ in lines] == ["warning", "info"]


@pytest.mark.unit
def test_another_error_is_told_again(
    supervisor: Supervisor, clock: Clock, lines: list[tuple[str, str]]
) -> None:
    """What fails in another way than before is news."""
    step = Step()
    for text in ("a", "a", "b"):
        step.error = SidecarError(text)
        supervisor.attempt("archiving", "s", step)
        clock.now += LONGEST_PAUSE_S
    assert [detail for _, detail in lines] == ["a", "b"]


@pytest.mark.unit
def test_a_step_with_nothing_to_do_does_not_work_again(
    supervisor: Supervisor, clock: Clock, lines: list[tuple[str, str]]
) -> None:
    """What failed is still said to fail, until it was done."""
    step = Step()
    step.error = SidecarError("no")
    supervisor.attempt("pruning", "", step)
    clock.now += LONGEST_PAUSE_S
    assert not supervisor.attempt("pruning", "", lambda: IDLE)
    assert supervisor.failing() == ["pruning: no"]
    step.error = None
    assert supervisor.attempt("pruning", "", step)
    assert [level for level, _ in lines] == ["warning", "info"]


class MayRunNoScript(redis.Redis):
    """A login that lacks EVALSHA."""

    def evalsha(self, *_: Any) -> Any:
        """Refuse it."""
        raise redis.exceptions.NoPermissionError("no EVALSHA here")

    def pipeline(self, *_: Any, **__: Any) -> Any:
        """Refuse what the register's script is a part of."""
        return self.evalsha()


def test_what_others_do_is_no_success_of_this_worker(
    rig: Rig, supervisor: Supervisor, clock: Clock, lines: list[tuple[str, str]]
) -> None:
    """Who may run no script says so until its end, though others prune, and it may leave."""
    client = MayRunNoScript.from_url(rig.url)
    members = Members(client, rig.keys, name="n", serves=[], lease_s=60)
    chores = Chores(members, {}, Pruning(client, rig.keys, dedup_window_s=366 * 86400))
    keeper = Housekeeper(chores, Share([]), 60.0, supervisor, silent_log(), clock=clock)
    keeper.work()
    while Pruning(rig.client, rig.keys, dedup_window_s=366 * 86400).prune():
        pass
    clock.now += LONGEST_PAUSE_S
    keeper.work()
    keeper.leave()
    client.close()
    assert [one.partition(":")[0] for one in supervisor.failing()] == ["membership", "pruning"]
    assert not [said for level, said in lines if level == "info"]


@pytest.mark.unit
def test_what_is_done_elsewhere_fails_here_no_more(supervisor: Supervisor, told: Told) -> None:
    """A stream that another worker has now is not told as failing."""
    step = Step()
    step.error = SidecarError("no")
    for stream in ("a", "b"):
        supervisor.attempt("trimming", stream, step)
    supervisor.only("trimming", {"b"})
    assert supervisor.failing() == ["trimming b: no"]
    assert told.failing == {"trimming": 1}


class DeniesTrimming(redis.Redis):
    """A login that may not trim one stream."""

    denied = "control:a"

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Refuse the script that trims."""
        if keys_and_args[0] == self.denied and sha == script_of(self, "trim").sha:
            raise redis.exceptions.NoPermissionError("no XTRIM here")
        return super().evalsha(sha, numkeys, *keys_and_args)


def test_a_stream_that_cannot_be_trimmed_stops_no_other(rig: Rig, supervisor: Supervisor) -> None:
    """One is denied: the other control stream, notifications and letters are trimmed."""
    rigs = [Rig(rig.url, rig.client, control=name) for name in ("control:a", "control:b")]
    client = DeniesTrimming.from_url(rig.url)
    for one in rigs:
        one.emit(one.control)
        one.add("{")
        one.drain()
    share = Share([one.control for one in rigs])
    for one in rigs:
        share.took(one.control)
    policies = dict.fromkeys(("control", "notifications", "dead"), Policy(length=0))
    retentions = {
        one.control: Retention(client, client, one.keys, policies, dedup_window_s=0) for one in rigs
    }
    members = Members(client, rigs[0].keys, name="n", serves=[], lease_s=60)
    pruning = Pruning(client, rigs[0].keys, dedup_window_s=3600)
    log = silent_log()
    Housekeeper(Chores(members, retentions, pruning), share, 60.0, supervisor, log).work()
    client.close()
    left = {key: rig.client.xlen(key) for key in ("control:a", "control:b", rig.notify)}
    assert left == {"control:a": 2, "control:b": 0, rig.notify: 0}
    assert rig.client.xlen(rig.keys.dead) == 0
    assert supervisor.failing() == ["trimming control:a: Redis: no XTRIM here"]


class FakeArchiver:
    """Writes one segment a look; its disk is full for checkpoints until told otherwise."""

    def __init__(self) -> None:
        self.full = True
        self.segments: list[str] = []
        self.states = 0
        self.hangs: threading.Event | None = None
        self.expired: list[str] = []
        self.refuses = ""
        """The stream of which nothing can be written."""

    def is_due(self, _stream: str, _every_s: float) -> bool:
        """Always."""
        return True

    def archive(self, stream: str, *, rest: bool) -> Iterator[Any]:
        """Write one."""
        assert rest
        if self.hangs:
            self.hangs.wait(60)
        if stream == self.refuses:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.segments.append(stream)
        yield SimpleNamespace(rows=1, size_bytes=1)

    def expire(self, stream: str, keep_s: float) -> Iterator[str]:
        """Remove two things of each stream; note which."""
        assert keep_s == 100
        self.expired.append(stream)
        yield from ("one", "two")

    def keep_state(self) -> None:
        """Write a checkpoint."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.states += 1


class OddShare(Share):
    """A share that has a bug until told otherwise."""

    odd = True

    @property
    def owned(self) -> frozenset[str]:
        """What this worker owns."""
        if self.odd:
            raise ZeroDivisionError("a bug")
        return super().owned


def archiving_of(
    rig: Rig, archiver: FakeArchiver, supervisor: Supervisor, share: Share | None = None,
    keep_s: float | None = None,
) -> Archiving:  # fmt: skip
    """Return what archives with this archiver, very often."""
    share, archivers = share or Share([rig.control]), {rig.control: archiver}
    share.took(rig.control)
    keys: Any = {rig.control: rig.keys}
    return Archiving(
        archivers, keys, share, 0.01, supervisor, silent_log(), keep_s=keep_s,  # type: ignore[arg-type]
    )  # fmt: skip


def _has_looked(archiver: FakeArchiver, stream: str) -> bool:
    return archiver.segments.count(stream) > 2


def test_an_archive_expires_where_that_is_chosen(rig: Rig, supervisor: Supervisor) -> None:
    """Events, notifications and dead letters do, once in a while; records of people stay."""
    for keep_s in (100, None):
        archiver = FakeArchiver()
        running = archiving_of(rig, archiver, supervisor, keep_s=keep_s)
        running.start()
        try:
            eventually(partial(_has_looked, archiver, rig.notify))
        finally:
            running.close()
        wanted = [rig.control, rig.notify, rig.keys.dead] if keep_s else []
        assert archiver.expired == wanted


def test_a_checkpoint_that_finds_no_room_stops_no_archive(
    rig: Rig, supervisor: Supervisor, clock: Clock
) -> None:
    """Segments are written all the same, it is told, and the checkpoint is tried again."""
    archiver = FakeArchiver()
    running = archiving_of(rig, archiver, supervisor)
    running.start()
    try:
        eventually(lambda: archiver.segments.count(rig.notify) > 2)
        (failing,) = supervisor.failing()
        assert failing.startswith(f"checkpoints {rig.notify}: OSError")
        archiver.full = False
        clock.now += LONGEST_PAUSE_S
        eventually(lambda: archiver.states)
        eventually(lambda: not supervisor.failing())
    finally:
        running.close()


def test_a_stream_that_cannot_be_archived_stops_no_other(rig: Rig, supervisor: Supervisor) -> None:
    """The first of them fails: those after it are archived."""
    archiver = FakeArchiver()
    archiver.full, archiver.refuses = False, rig.control
    running = archiving_of(rig, archiver, supervisor)
    running.start()
    try:
        eventually(lambda: {rig.notify, rig.keys.dead} <= set(archiver.segments))
        assert [one.partition(":")[0] for one in supervisor.failing()] == ["archiving control"]
    finally:
        running.close()


def test_a_bug_between_the_steps_of_archiving_ends_it_not(
    rig: Rig, supervisor: Supervisor, clock: Clock
) -> None:
    """It is told while it lasts, and archiving continues then: the thread lives."""
    archiver, share = FakeArchiver(), OddShare([rig.control])
    running = archiving_of(rig, archiver, supervisor, share)
    running.start()
    try:
        eventually(supervisor.failing)
        assert "a bug, please report it" in supervisor.failing()[0]
        share.odd = archiver.full = False
        clock.now += LONGEST_PAUSE_S
        eventually(lambda: rig.notify in archiver.segments)
        eventually(lambda: not supervisor.failing())
    finally:
        running.close()


def test_a_bug_between_the_steps_of_trimming_stops_no_other_work(
    rig: Rig, supervisor: Supervisor, clock: Clock
) -> None:
    """It is told, the index is pruned all the same, and the process continues."""
    share = OddShare([rig.control])
    members = Members(rig.client, rig.keys, name="n", serves=[], lease_s=60)
    pruning = Pruning(rig.client, rig.keys, dedup_window_s=3600)
    chores = Chores(members, {}, pruning)
    keeper = Housekeeper(chores, share, 60.0, supervisor, silent_log(), clock=clock)
    keeper.work()
    assert any(one.startswith("trimming: ZeroDivisionError") for one in supervisor.failing())
    assert rig.client.exists(rig.keys.pruned)
    share.odd = False
    clock.now += housekeeping.TRIM_EVERY_S
    keeper.work()
    assert supervisor.failing() == []


def test_an_archive_that_hangs_does_not_keep_the_worker(
    rig: Rig, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is told to stop ends, though the archive's store never answers."""
    monkeypatch.setattr(threads, "LEAVE_S", 0.1)
    archiver = FakeArchiver()
    archiver.hangs = threading.Event()
    running = archiving_of(rig, archiver, supervisor)
    running.start()
    running.close()
    archiver.hangs.set()


def test_what_fails_beside_relaying_is_told(
    rig: Rig, stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged key: /readyz and metrics tell, and tell no more once it is right."""
    monkeypatch.setattr(housekeeping, "TRIM_EVERY_S", 0.1)
    port = servers.free_port()
    options: Any = {"trim_control": "length=0", "trim_notifications": "length=0"}
    with worker(rig, stores, http=f"127.0.0.1:{port}", dedup_window_s=1, **options):
        rig.emit("a")
        eventually(lambda: rig.client.xlen(rig.notify) == 0 and rig.client.xlen(rig.control) == 0)

        def told_of_damage() -> bool:
            rig.client.set(rig.keys.low, "garbage")  # the worker may note the right one once more
            (code, told), metrics = get(port, "/readyz"), get(port, "/metrics")[1]
            return (
                (code, get(port, "/readyz?strict")[0]) == (200, 503)
                and f"trimming {rig.control}: the key" in told
                and 'sidecar_background_failing{work="trimming"} 1.0' in metrics
                and 'sidecar_background_failures_total{work="trimming"}' in metrics
            )

        eventually(told_of_damage)
        rig.client.set(rig.keys.low, "0-1")
        eventually(lambda: get(port, "/readyz?strict")[0] == 200)


def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_damage_has_words() -> None:
    """What is damaged is named with its key, its value and its fix."""
    assert str(Damaged("k", b"x", "delete it")) == (
        "the key k holds b'x', which no sidecar wrote: delete it"
    )


def lines_of(
    rig: Rig, supervisor: Supervisor, retention: Retention, every_s: float
) -> list[MutableMapping[str, Any]]:
    """Return what the housekeeper of one stream logs in three rounds, so far apart."""
    share, clock = Share([rig.control]), Clock()
    share.took(rig.control)
    members = Members(rig.client, rig.keys, name="n", serves=[], lease_s=60)
    pruning = Pruning(rig.client, rig.keys, dedup_window_s=3600)
    with structlog.testing.capture_logs() as lines:
        keeper = Housekeeper(
            Chores(members, {rig.control: retention}, pruning), share, 60.0, supervisor,
            structlog.get_logger(), clock=clock,
        )  # fmt: skip
        for _ in range(3):
            keeper.work()
            clock.now += every_s
    return lines


def test_a_group_that_keeps_a_stream_is_named_once(rig: Rig, supervisor: Supervisor) -> None:
    """With what to do; the next look, ten minutes later, says nothing new."""
    rig.client.xadd(rig.control, {"event": "{}"}, id="1700000000000-0")
    rig.client.xgroup_create(rig.control, "audit-tool", "0")
    policies = dict.fromkeys(("control", "notifications", "dead"), Policy())
    retention = Retention(rig.client, rig.client, rig.keys, policies, dedup_window_s=60)
    lines = lines_of(rig, supervisor, retention, housekeeping.GROUPS_EVERY_S)
    (line,) = (line for line in lines if line["event"] == "not trimmed")
    assert "the group 'audit-tool'" in line["detail"]
    assert "XGROUP DESTROY" in line["detail"]


def test_that_a_stream_is_trimmed_early_is_told_once(rig: Rig, supervisor: Supervisor) -> None:
    """At the brink it comes and goes; the line says which of the limits holds."""

    class Early(Retention):
        def trim_one(self, kind: str) -> Trimmed:
            return Trimmed(self.streams[kind], 1, more=False, early=kind == "dead")

    retention = Early(rig.client, rig.client, rig.keys, {}, dedup_window_s=60)
    lines = lines_of(rig, supervisor, retention, housekeeping.TRIM_EVERY_S)
    (line,) = (line for line in lines if line["event"] == "trimmed early")
    assert line["stream"] == rig.keys.dead
    assert "`full=`" in line["detail"]
