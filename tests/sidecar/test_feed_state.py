"""The feed's state: the newest notification of each subject, whatever was trimmed meanwhile."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import fakeredis
import pytest

import store
from sidecar.feed import (
    Feed,
    FeedGap,
    Notification,
    SidecarError,
    StateBegins,
    StateEnds,
    UsageError,
    face,
)
from sidecar.feed import state as state_module
from sidecar.history.archive import names_of
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.live import LiveHistory
from sidecar.redis.client import Side
from sidecar.redis.fleet import LOG, STORE
from sidecar.redis.keys import Keys
from sidecar.wire import logbook
from sidecar.wire.ids import EntryId
from sidecar.wire.incarnations import Cursor
from store import Capability, VersionedStore, versioned
from store.memory import MemoryStore
from tests.sidecar.faces import FACES

KEYS = Keys.of("control:events", "control:notifications")
N = KEYS.notifications
BASE = 1_790_000_000_000_000
SUBJECTS = [("t1", "web", ""), ("t1", "db", ""), ("t2", "web", ""), ("", "", "rows/1"),
            ("t1", "", "rows/2"), ("t2", "", "rows/3"), ("t2", "", "")]  # fmt: skip


class World:
    """A notification stream, its archive, and what a controller ought to know of it."""

    def __init__(self, client: Any, fleet: VersionedStore, seed: int) -> None:
        self.client, self.fleet = client, fleet
        self.chance = random.Random(seed)
        self.newest: dict[tuple[str, str, str], int] = {}
        """By subject: what was published last of it."""
        self.published: list[tuple[tuple[str, str, str], int]] = []
        self.all: list[int] = []
        self.end = BASE
        self.trimmed = 0
        side = Side(client, "redis://world")
        live = LiveHistory(side, side, [KEYS], fleet)
        self.archiver = Archiver(live, fleet, client, KEYS, sizes=Sizes(5, checkpoint_rows=8))

    def publish(self, count: int = 1, step: int = 0) -> None:
        """Publish something of some subjects; of what has none, too."""
        for _ in range(count):
            self.end += step or self.chance.choice([1, 7, 1000])
            tenant, stack, ref = self.chance.choice(SUBJECTS)
            body = {"id": 0, "event_id": f"e{self.end}", "type": "key.changed",
                    "control_version": self.end, "tenant_id": tenant}  # fmt: skip
            if stack:
                body |= {"stack_id": stack, "artifact_ref": f"stacks/{stack}/{self.end}"}
            elif ref:
                body["artifact_ref"] = ref
            fields: Any = {"event": json.dumps(body), "origin": "control:events/1-0"}
            self.client.xadd(N, fields, id=EntryId.of_version(self.end))
            self.all.append(self.end)
            if stack or ref:
                subject = (tenant if stack else "", stack, ref)
                self.published.append((subject, self.end))
                self.newest[subject] = self.end

    def archive(self) -> None:
        """Archive all there is, with checkpoints."""
        for _ in self.archiver.archive(N, rest=True):
            self.archiver.keep_state()

    def trim(self, up_to: int) -> None:
        """Trim as a worker does: note first how far."""
        self.trimmed = max(self.trimmed, up_to)
        last = EntryId.of_version(self.trimmed)
        self.client.hset(KEYS.trimmed, N, last)
        self.client.xtrim(N, minid=last.after, approximate=False)

    def trim_archived(self) -> None:
        """Trim some of what is archived."""
        names = names_of(self.fleet, N, N)
        last = max((name.last.control_version for name in names), default=0)
        some = [one for one in self.all if self.trimmed < one <= last]
        if some:
            self.trim(self.chance.choice(some))

    def newest_above(self, floor: int) -> list[int]:
        """Return the newest of each subject where that lies above `floor`, ascending."""
        return sorted(one for one in self.newest.values() if one > floor)


@pytest.fixture
def fleet(tmp_path: Path) -> VersionedStore:
    """A fleet's store, on real files."""
    opened = versioned(store.open_url((tmp_path / "fleet").as_uri()), Capability.STREAM)
    assert opened
    return opened


Make = Callable[..., Any]


@pytest.fixture(params=FACES)
def make(request: pytest.FixtureRequest, redis_url: str, fleet: VersionedStore) -> Iterator[Make]:
    """Makes a feed, of either face, with the fleet's store."""
    with ExitStack() as stack:

        def make(**options: Any) -> Any:
            feed = FACES[request.param](redis_url, **({"store": fleet} | options))
            stack.callback(feed.close)
            return feed

        yield make


@pytest.fixture
def world(client: Any, fleet: VersionedStore) -> World:
    """A stream on the real server."""
    return World(client, fleet, seed=1)


def versions(found: Any) -> list[int]:
    """Return the control_versions."""
    return [n.control_version for n in found]


# --- what a state is -------------------------------------------------------------------------


def all_of(world: World) -> int:
    """Return since when a state of a stream that never lost anything says to be complete.

    Before Redis 7 no server counts entries, and nobody can tell what people trimmed.
    """
    info: Any = world.client.xinfo_stream(KEYS.notifications)
    return 0 if "entries-added" in info else world.all[0] - 1


def test_a_state_without_an_archive_is_what_is_live(make: Make, world: World) -> None:
    """It is complete where nothing was trimmed, also without any store or stream."""
    feed = make(store=None)
    none = feed.state()
    assert (list(none), none.cursor, none.complete_since) == ([], 0, 0)
    world.publish(30)
    found = feed.state()
    assert versions(found) == versions(found) == world.newest_above(0)
    assert (found.cursor, found.complete_since) == (world.end, all_of(world))
    assert feed.position == world.end


def test_what_was_trimmed_is_not_made_up(make: Make, world: World) -> None:
    """Without an archive a state says since when it is complete; all that is newer is there."""
    world.publish(30)
    world.trim(world.all[20])
    found = make().state()
    assert found.complete_since == world.all[21] - 1
    assert versions(found) == world.newest_above(world.all[20])
    world.client.xtrim(N, maxlen=0)
    found = make().state()
    assert (list(found), found.complete_since, found.cursor) == ([], world.end, world.end)


def test_what_somebody_trimmed_by_hand_is_not_made_up(make: Make, world: World) -> None:
    """Nobody noted how far; so it is complete from the oldest that is there on."""
    world.publish(30)
    world.client.xtrim(N, maxlen=10, approximate=False)
    assert make().state().complete_since == world.all[20] - 1


def test_a_state_is_whole_from_the_archive(make: Make, world: World) -> None:
    """Of what Redis forgot the archive has the newest; a filter leaves out as that of poll does."""
    world.publish(40)
    world.archive()
    world.trim(world.all[-1])
    world.publish(3)
    found = make().state()
    assert versions(found) == world.newest_above(0)
    assert (found.cursor, found.complete_since) == (world.end, 0)
    mine = make(tenant="t1").state()
    assert {n.tenant_id for n in mine} == {"t1"}
    assert versions(mine) == versions(n for n in found if n.tenant_id == "t1")


def test_what_was_trimmed_before_it_was_archived_is_missing(make: Make, world: World) -> None:
    """A gap in the archive, or behind it, is told by what the state is complete since."""
    world.publish(10)
    world.archive()
    world.publish(5)
    world.trim(world.all[12])
    found = make().state()
    assert found.complete_since == world.all[13] - 1
    assert set(versions(found)) >= set(world.newest_above(world.all[12]))
    world.archive()
    assert make().state().complete_since == world.all[13] - 1


def test_a_stream_made_anew_is_read_whole(make: Make, world: World) -> None:
    """Entries below the archive's end, of a later history, are in the state; none above its end
    is, and what comes after is followed.
    """
    world.publish(30)
    world.archive()
    world.client.delete(N)
    world.end = world.all[9]
    world.all, world.newest = [], {}
    world.publish(4)
    found = make().state()
    assert found.cursor == world.end
    assert set(world.newest.values()) <= set(versions(found))
    assert all(one <= world.end for one in versions(found))
    world.publish(2)
    assert versions(make().poll(found.cursor)) == world.all[-2:]


def test_without_the_stream_the_archive_is_the_state(make: Make, world: World) -> None:
    """A Redis that lost it: what the archive knows comes, and whatever is published from now on."""
    world.publish(20)
    world.archive()
    known = world.newest_above(0)
    world.client.delete(N)
    found = make().state()
    assert (versions(found), found.cursor) == (known, 0)
    assert found.complete_since == world.all[-1]
    following = make().follow(state=True, again=True)
    while not isinstance(next(following), StateEnds):
        pass
    world.end -= 5000
    world.publish(1)
    assert next(following).control_version == world.end


def test_another_entry_at_the_archives_end_is_no_continuation(make: Make, world: World) -> None:
    """Where Redis has other content at the ID with which the archive ends, all of it is read."""
    world.publish(12)
    world.archive()
    world.client.delete(N)
    world.end = world.all[-1] - 10
    other = world.end
    world.newest = {}
    body = {"id": 0, "event_id": "other", "type": "key.changed", "artifact_ref": "other/ref"}
    for cv in (other, world.all[-1]):
        text = json.dumps(body | {"control_version": cv, "artifact_ref": f"other/{cv}"})
        world.client.xadd(N, {"event": text, "origin": "o/1-0"}, id=EntryId.of_version(cv))
    assert {other, world.all[-1]} <= set(versions(make().state()))


def test_what_no_sidecar_wrote_replaces_nothing(make: Make, world: World) -> None:
    """A foreign entry is passed over; the state has what is before and after it."""
    world.publish(5)
    world.end += 1000
    world.client.xadd(N, {"odd": "entry"}, id=EntryId.of_version(world.end))
    world.publish(5)
    found = make().state()
    assert (versions(found), found.cursor) == (world.newest_above(0), world.end)
    world.end += 1000
    world.client.xadd(N, {"odd": "entry"}, id=EntryId.of_version(world.end))
    assert make().state().cursor == world.end


def test_what_is_unknown_ends_with_a_control_version(make: Make, world: World) -> None:
    """Also where what comes behind it is the first of a millisecond: no ID is right before that."""
    world.publish(5)
    world.archive()
    world.publish(3)
    world.end = world.end // 1000 * 1000 + 1999
    world.publish(step=1)
    assert world.end % 1000 == 0
    world.trim(world.all[-2])
    world.archive()
    known = "entries-added" in world.client.xinfo_stream(N)  # else only what was noted is known
    assert make().state().complete_since == (world.end - 1 if known else world.all[-2])


def test_the_archive_of_another_log_is_not_read(make: Make, world: World) -> None:
    """Two logs of one name in one store: the state is only of the feed's own."""
    world.publish(10)
    world.archive()
    for number, log in enumerate(("other", "own")):
        at = f"2026-01-0{number + 1}T00:00:00Z"
        logbook.register(world.fleet, logbook.Log(log, N, f"redis://{log}", at))
    world.client.hset(KEYS.fleet, LOG, b"own")
    world.trim(world.all[5])
    assert make().state().complete_since == world.all[6] - 1


def test_a_state_is_not_read_from_another_store(make: Make, world: World) -> None:
    """A store that is not the one whose identity is noted is refused, as by resolve."""
    world.publish(1)
    world.client.hset(KEYS.fleet, STORE, b"another")
    with pytest.raises(UsageError, match="open that one"):
        make().state()
    with pytest.raises(UsageError, match="open that one"):
        next(make().follow(state=True))


def test_a_damaged_archive_is_told(make: Make, world: World) -> None:
    """It is no reason to leave out what only it has."""
    world.publish(40)
    world.archive()
    for ref in list(world.fleet.list(".sidecar/archive")):
        world.fleet.put(ref, b"broken", world.fleet.get(ref).manifest)
    with pytest.raises(SidecarError, match="damaged"):
        make().state()


# --- followed ----------------------------------------------------------------------------------


def test_follow_with_the_state(make: Make, world: World) -> None:
    """The state lies between two marks, and then comes what was published after it."""
    world.publish(30)
    feed = make(reader="r")
    following = feed.follow(0, state=True)
    assert next(following) == StateBegins(None)
    found = []
    while not isinstance(item := next(following), StateEnds):
        found.append(item)
    assert world.client.exists(KEYS.reader("r"))  # nothing after it is trimmed meanwhile
    assert versions(found) == world.newest_above(0)
    assert item == StateEnds(Cursor(world.end), all_of(world))
    world.publish(2)
    assert versions([next(following), next(following)]) == world.all[-2:]


def test_a_follower_that_has_a_cursor_continues_there(make: Make, world: World) -> None:
    """The state is for one that begins at 0; a gap is raised unless the caller allows more."""
    world.publish(10)
    following = make().follow(world.all[4], state=True)
    assert next(following).control_version == world.all[5]
    world.trim(world.all[8])
    with pytest.raises(FeedGap):
        next(make().follow(world.all[4], state=True))
    with pytest.raises(FeedGap):
        next(make().follow(world.all[4]))
    again = make().follow(world.all[4], state=True, again=True)
    begins = next(again)
    assert (begins.gap.kind, begins.gap.cursor) == ("trimmed", world.all[4])
    items = [next(again)]
    while not isinstance(items[-1], StateEnds):
        items.append(next(again))
    assert versions(items[:-1]) == world.newest_above(world.all[8])
    assert items[-1] == StateEnds(Cursor(world.end), world.all[9] - 1)


def test_half_of_a_wish_is_refused(make: Make) -> None:
    """To begin again there must be something to begin with."""
    with pytest.raises(UsageError, match="pass state=True, too"):
        next(make().follow(again=True))


# --- whatever happens in between -----------------------------------------------------------------


class Controller:
    """Applies what a follower yields, and notices a step back."""

    def __init__(self) -> None:
        self.has: dict[tuple[str, str, str], int] = {}
        self.complete_since = 0
        self.states = 0
        self._fresh: dict[tuple[str, str, str], int] | None = None

    def apply(self, item: Any) -> None:
        """Take in one item."""
        if isinstance(item, StateBegins):
            self._fresh = {}
            self.states += 1
        elif isinstance(item, StateEnds):
            assert self._fresh is not None
            assert all(one <= item.cursor for one in self._fresh.values())
            self.has, self._fresh = self._fresh, None
            self.complete_since = item.complete_since
        else:
            self._change(item)

    def catch_up(self, following: Iterator[Any], feed: Any, world: World) -> None:
        """Apply what comes up to the end; then nothing that can be known is missing."""
        for item in following:
            self.apply(item)
            if self._fresh is None and feed.position == world.end:
                break
        floor = self.complete_since
        has = sorted(one for one in self.has.values() if one > floor)
        assert has == sorted(one for one in world.newest.values() if one > floor)

    def _change(self, one: Notification) -> None:
        into = self.has if self._fresh is None else self._fresh
        stack = one.stack_id
        subject = (one.tenant_id if stack else "", stack, "" if stack else one.artifact_ref)
        assert into.get(subject, 0) < one.control_version, "an older one after a newer"
        if any(subject):
            into[subject] = one.control_version


def one_fate(world: World, *, archives: bool) -> None:
    """Let something happen to the stream."""
    if not archives:
        steps: list[Callable[[], None]] = [
            lambda: world.publish(world.chance.randrange(1, 6)),
            lambda: world.publish(1),
            lambda: world.trim(world.chance.choice(world.all[-12:])),
        ]
    else:
        steps = [lambda: world.publish(world.chance.randrange(1, 9)), world.archive,
                 world.trim_archived]  # fmt: skip
    world.chance.choice(steps)()


def endured(world: World, feed: Any, monkeypatch: pytest.MonkeyPatch, *, archives: bool) -> None:
    """Follow with the state while all kinds of things happen, also while the state is read."""
    monkeypatch.setattr(state_module, "PAGE", 3)
    monkeypatch.setattr(state_module, "TRIES", 1000)
    monkeypatch.setattr(face, "BLOCK_S", 0.001)
    page = state_module._Live._page

    def eventful(self: Any, since: int) -> Any:
        for _ in range(world.chance.choice([0, 0, 1, 4])):
            one_fate(world, archives=archives)
        return page(self, since)

    monkeypatch.setattr(state_module._Live, "_page", eventful)
    world.publish(20)
    for _ in range(6):
        for _ in range(world.chance.randrange(1, 5)):
            one_fate(world, archives=archives)
        judge(world, feed.state(), archives=archives)
    controller = Controller()
    for _ in range(4):  # one that is started again and again
        following = feed.follow(0, state=True, again=True)
        for _ in range(3):
            controller.catch_up(following, feed, world)
            one_fate(world, archives=archives)
            world.publish(1)
    assert controller.states >= 4


def judge(world: World, found: Any, *, archives: bool) -> None:
    """Compare a state with what was published."""
    shown = versions(found)
    assert shown == sorted(shown)
    assert max(shown, default=0) <= found.cursor in world.all
    if archives:
        assert found.complete_since == 0
    newest = dict[Any, int]()
    for subject, one in world.published:
        if one <= found.cursor:
            newest[subject] = one
    assert set(shown) <= set(newest.values())
    assert {one for one in newest.values() if one > found.complete_since} <= set(shown)


@pytest.mark.parametrize("archives", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_change_is_missed_and_none_goes_back(
    make: Make, client: Any, fleet: VersionedStore, seed: int, *, archives: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever is published, archived and trimmed while a state is read and followed: a controller
    ends with the newest of each subject, and never sees an older one after a newer.
    """
    world = World(client, fleet, seed)
    endured(world, make(), monkeypatch, archives=archives)


@pytest.mark.parametrize("archives", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_the_same_holds_on_fakeredis(
    seed: int, *, archives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random histories by the dozen, on a server in this process."""
    client: Any = fakeredis.FakeRedis(protocol=2)
    fleet = MemoryStore()
    monkeypatch.setattr(Feed, "_connect", staticmethod(lambda *_, **__: client))
    with closing(Feed("redis://localhost", store=fleet)) as feed:
        endured(World(client, fleet, seed), feed, monkeypatch, archives=archives)
