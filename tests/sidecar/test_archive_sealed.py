"""Seals of the archive: what they let a reader skip, and what shows to be changed or left out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import store
from sidecar.errors import SidecarError
from sidecar.feed import Feed, State, StateEnds, Trust, Untrusted
from sidecar.history.archive import ArchiveHistory, Name, names_of, pack
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.chain import faults_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.contract import Streams
from sidecar.history.live import LiveHistory
from sidecar.history.sealing import Sealer
from sidecar.redis.client import Side
from sidecar.redis.members import registered_workers
from sidecar.redis.source import Entry
from sidecar.wire.ids import LAST
from sidecar.wire.keyfiles import new_pair, verifies
from sidecar.wire.seal import seal_of
from sidecar.wire.signing import Signer
from sidecar.worker.settings import build
from store import Capability, VersionedStore, versioned
from store.memory import MemoryStore
from tests.sidecar.harness import NOTIFICATIONS, Rig, at_work, eventually
from tests.sidecar.test_feed_trust import Keys, ids, signs

ROWS = 5
"""Of a segment here."""


class Place:
    """A log whose worker signs, its archive, and a reader that has the key."""

    def __init__(self, rig: Rig, keys: Keys) -> None:
        self.rig, self.keys = rig, keys
        self.fleet: VersionedStore = MemoryStore()
        self.signer: Signer | None = keys.new("first")
        self.trust: Trust | None = None
        """Whom the worker believes, beside itself."""
        keys.add("first")

    def publish(self, *event_ids: str) -> int:
        """Have the worker publish; return the last control_version."""
        return signs(self.rig, self.signer, *event_ids)

    def archive(self, *, state: bool = True, signer: Signer | None = None) -> None:
        """Archive what there is, with a state, as the worker does it; trim it."""
        archiver = self.archiver(signer)
        assert list(archiver.archive(NOTIFICATIONS, rest=True))
        if state:
            archiver.keep_state()
        reach = self._live.reach(NOTIFICATIONS)
        assert reach
        self.rig.client.hset(self.rig.keys.trimmed, NOTIFICATIONS, reach.last)
        self.rig.client.xtrim(NOTIFICATIONS, maxlen=0, approximate=False)

    def archiver(self, signer: Signer | None = None) -> Archiver:
        """Return what a worker archives with."""
        signer = signer or self.signer
        return Archiver(
            self._live, self.fleet, self.rig.client, self.rig.keys,
            sizes=Sizes(ROWS, checkpoint_rows=1),
            sealer=Sealer(signer, NOTIFICATIONS, self.trust) if signer else None,
        )  # fmt: skip

    @property
    def _live(self) -> LiveHistory:
        side = Side(self.rig.client, self.rig.url)
        return LiveHistory(side, side, [self.rig.keys], self.fleet)

    def state(self, **more: Any) -> State:
        """Return the state as a new reader gets it."""
        with Feed(self.rig.url, store=self.fleet, trust=Trust(self.keys.trust, **more)) as feed:
            return feed.state()

    @property
    def history(self) -> ArchiveHistory:
        """The archive, for one who does not verify."""
        return ArchiveHistory(self.fleet, Streams.of([self.rig.keys]))

    @property
    def names(self) -> list[Name]:
        """The segments."""
        return names_of(self.fleet, NOTIFICATIONS, NOTIFICATIONS)

    @property
    def checkpoints(self) -> list[str]:
        """The refs of the checkpoints, the oldest first."""
        found = checkpoints_of(self.fleet, NOTIFICATIONS)
        return [found[one] for one in sorted(found)]

    def says(self, ref: str) -> dict[str, Any]:
        """Return what a manifest says."""
        found: dict[str, Any] = orjson.loads(self.fleet.get(ref)[1])
        return found

    def rewrite(self, name: Name, change: Callable[[list[Entry]], list[Entry]]) -> None:
        """Put other rows in a segment's place, as a thief may who writes to the store."""
        entries = list(self.history.entries(NOTIFICATIONS, name.first, name.last))
        previous = self.says(name.ref)["previous"]
        _, data, manifest = pack(NOTIFICATIONS, NOTIFICATIONS, change(entries), None, previous)
        self.fleet.put(name.ref, data, manifest)


@pytest.fixture
def place(rig: Rig, keys: Keys) -> Place:
    """A log that has published nothing yet."""
    return Place(rig, keys)


@pytest.fixture
def keys(tmp_path: Any) -> Keys:
    """A directory for keys."""
    return Keys(tmp_path)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was verified with a public key."""
    found: list[Any] = []

    def counting(*args: Any) -> bool:
        found.append(args)
        return verifies(*args)

    monkeypatch.setattr("sidecar.wire.trust.verifies", counting)
    return found


def some(first: int, count: int) -> list[str]:
    """Return event_ids, which are stacks here."""
    return [f"e{number:03}" for number in range(first, first + count)]


def test_a_state_takes_one_signature_for_each_seal(place: Place, verified: list[Any]) -> None:
    """Not one for each subject: the worker that sealed it has verified them."""
    for event_id in some(0, 12):  # each alone, with a signature of its own
        place.publish(event_id)
    place.archive()
    for event_id in some(12, 3):
        place.publish(event_id)
    place.archive(state=False)
    verified.clear()
    state = place.state()
    assert ids(list(state)) == some(0, 15)
    assert state.unproven_until == 0
    assert len(verified) == 2  # the checkpoint's, and the segment's after it


def test_each_stream_is_sealed(place: Place) -> None:
    """The manifest of whatever the worker archives ends in a seal."""
    place.publish(*some(0, 7))
    place.archive()
    for ref in [*(name.ref for name in place.names), *place.checkpoints]:
        seal = seal_of(place.fleet.get(ref)[1])
        assert seal
        assert seal.key_id == getattr(place.signer, "key_id", "")


def _unsigned(place: Place) -> None:
    signs(place.rig, None, "forged")


def _altered(place: Place) -> None:
    place.publish("forged")
    there: Any = place.rig.client.xrevrange(NOTIFICATIONS, count=1)
    ((entry_id, fields),) = there
    place.rig.client.delete(NOTIFICATIONS)
    fields[b"event"] = fields[b"event"].replace(b'"tenant_id":"t"', b'"tenant_id":"u"')
    place.rig.client.xadd(NOTIFICATIONS, fields, id=entry_id)


def _foreign(place: Place) -> None:
    other = place.keys.new("thief")
    signs(place.rig, other, "forged")


@pytest.mark.parametrize("forge", [_unsigned, _altered, _foreign])
@pytest.mark.parametrize("state", [False, True])
def test_a_forged_notification_is_not_laundered(
    place: Place, forge: Callable[[Place], None], state: bool
) -> None:
    """What was in Redis when the worker archived it keeps its fault, through segment and states."""
    place.publish("a")
    place.archive()
    forge(place)
    place.archive(state=state)
    place.publish("b")
    place.archive(state=state)
    assert place.says(place.names[1].ref)["doubted"] == [0]
    found = place.state()
    assert found.unproven_until == 0
    with pytest.raises(Untrusted):
        list(found)
    with Feed(place.rig.url, store=place.fleet) as feed:
        assert len(list(feed.state())) == 3


def test_many_that_nobody_vouches_for_are_told_as_all(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment from when signing began: each of its rows is verified by itself, once more."""
    monkeypatch.setattr("sidecar.history.sealing.MOST_DOUBTED", 1)
    last = signs(place.rig, None, "old", "older")
    place.publish("a")
    place.archive()
    assert "doubted" not in place.says(place.names[0].ref)
    assert ids(list(place.state(unsigned_until=last))) == ["old", "older", "a"]
    with pytest.raises(Untrusted):
        list(place.state(unsigned_until=last - 1))


# --- what was left out ----------------------------------------------------------------------------


def _gone(place: Place) -> None:
    place.fleet.delete(place.names[-2].ref)


def _without_one(place: Place) -> None:
    place.rewrite(place.names[-2], lambda rows: [rows[0], *rows[2:]])


def _unsealed(place: Place) -> None:
    place.rewrite(place.names[-1], lambda rows: rows)


def _older_state(place: Place) -> None:
    """The newest state is gone, and a segment that was in it."""
    place.fleet.delete(place.checkpoints[-1])
    place.fleet.delete(place.names[1].ref)


def _state_without_one(place: Place) -> None:
    ref = place.checkpoints[-1]
    data, manifest = place.fleet.get(ref)[:2]
    found = seal_of(manifest)
    assert found
    place.fleet.put(ref, data, found.of)


@pytest.mark.parametrize("cut", [_gone, _without_one, _unsealed, _older_state, _state_without_one])
def test_what_may_have_been_left_out_is_told(
    place: Place, caplog: pytest.LogCaptureFixture, cut: Callable[[Place], None]
) -> None:
    """Each row that is there is signed, and so only the seals can tell."""
    place.publish(*some(0, 3))
    place.archive()
    place.publish(*some(3, 2 * ROWS))
    place.archive()
    last = place.publish(*some(3 + 2 * ROWS, 3 * ROWS))
    place.archive(state=False)
    assert place.state().unproven_until == 0
    assert not caplog.records
    cut(place)
    with caplog.at_level(logging.WARNING, "sidecar.trust"):
        state = place.state()
    assert len(list(state)) >= 2 * ROWS
    assert 0 < state.unproven_until <= last
    assert "may have been left out" in caplog.text


def test_a_state_tells_what_was_left_out_before_it(place: Place) -> None:
    """A worker that makes a state of a cut chain does not vouch for what was cut."""
    place.publish(*some(0, 3 * ROWS))
    place.archive(state=False)
    place.fleet.delete(place.names[1].ref)
    last = place.names[1].last.control_version
    place.publish("a")
    place.archive()
    assert place.names[0].last.control_version < place.state().unproven_until < last
    place.publish("b")
    place.archive()
    found = place.state().unproven_until
    assert place.names[0].last.control_version < found < last
    with Feed(place.rig.url, store=place.fleet, trust=place.keys.trust) as feed:
        ends = next(one for one in feed.follow(state=True) if isinstance(one, StateEnds))
    assert ends.unproven_until == found


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_an_end_that_was_cut_off_is_told_by_what_comes_after_it(
    place: Place, count: int, state: bool
) -> None:
    """Some or all segments; a worker that begins then seals no chain that leaves them out."""
    cut = 0
    for event_id in "abc":
        cut = place.publish(event_id)
        place.archive(state=False)
    for name in place.names[-count:]:
        place.fleet.delete(name.ref)
    after = place.publish("d")
    place.archive(state=state)
    assert cut <= place.state().unproven_until < after
    with Feed(place.rig.url, store=place.fleet) as feed:
        assert feed.state().complete_since == cut
    assert [fault.kind for fault in faults_of(place.history, NOTIFICATIONS)] == ["missing"]


# --- seals that are not of this -------------------------------------------------------------------


def _swapped(place: Place) -> None:
    """A state in the place of a newer one: nothing of it is forged."""
    old, new = place.checkpoints
    place.fleet.put(new, *place.fleet.get(old)[:2])


def _of_another_log(place: Place) -> None:
    """The same, by the same key, for another notification stream of the same fleet."""
    ref = place.checkpoints[-1]
    data, manifest = place.fleet.get(ref)[:2]
    found = seal_of(manifest)
    assert found
    assert place.signer
    place.fleet.put(ref, data, place.signer.sealed("control:other", ref, found.of))


def _changed(place: Place) -> None:
    name = place.names[-1]
    data, manifest = place.fleet.get(name.ref)[:2]
    place.fleet.put(name.ref, data, manifest.replace(b'"doubted":[', b'"doubted":[ '))


def _moved(place: Place) -> None:
    """A segment under a name that tells of no gap, or another: the manifest does not have that."""
    name = place.names[-1]
    data, manifest = place.fleet.get(name.ref)[:2]
    place.fleet.delete(name.ref)
    place.fleet.put(f"{name.ref}~1-1..2-2", data, manifest)


@pytest.mark.parametrize("tamper", [_swapped, _of_another_log, _changed, _moved])
def test_a_seal_of_something_else_is_not_trusted(
    place: Place, tamper: Callable[[Place], None]
) -> None:
    """No worker writes that. Segments are archived all the same, states once it is removed."""
    place.publish("a")
    place.archive()
    place.publish("b")
    place.archive()
    place.publish("c")
    place.archive(state=False)
    assert ids(list(place.state())) == ["a", "b", "c"]
    tamper(place)
    with pytest.raises(Untrusted, match="did not seal") as refusal:
        place.state()
    assert refusal.value.kind == "altered"
    place.publish("d")
    with pytest.raises(SidecarError, match=r"no state is archived: .* did not seal"):
        place.archive()
    for fault in list(faults_of(place.history, NOTIFICATIONS, Trust(place.keys.trust))):
        if fault.kind == "untrusted":
            place.fleet.delete(fault.segment)
    place.publish("e")
    place.archive()
    assert {"a", "b", "d", "e"} <= set(ids(list(place.state())))


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_replaced_in_the_middle_of_an_archive(place: Place, verified: list[Any]) -> None:
    """What the old key signed the new one does not vouch for: each row of it counts for itself."""
    place.publish("a", "b")
    place.archive()
    place.signer = place.keys.new("second")
    place.keys.add("second")
    place.publish("c")
    place.archive()
    verified.clear()
    state = place.state()
    assert ids(list(state)) == ["a", "b", "c"]
    assert len(verified) == 2  # the checkpoint's, and that of the run that the old key signed
    public = (place.keys.trust / "first.pub").read_text()
    (place.keys.trust / "first.pub").write_text("revoked: stolen\n" + public)
    with pytest.raises(Untrusted) as refusal:
        list(place.state())
    assert refusal.value.kind == "revoked"


@pytest.mark.parametrize("above", ["revoked: stolen\n", "not-after: 2026-01-01T00:00:00Z\n"])
def test_a_seal_is_worth_what_its_key_is(place: Place, above: str) -> None:
    """A key that vouches for nothing itself vouches for no rows, neither its own nor others'."""
    place.publish("a")
    place.archive()
    other = place.keys.new("other")
    place.keys.add("other")
    place.signer = other
    place.publish("b")
    place.archive()
    assert ids(list(place.state())) == ["a", "b"]
    whole = (place.keys.trust / "other.pub").read_text()
    (place.keys.trust / "other.pub").write_text(above + whole)
    found = place.state()
    assert found.unproven_until > 0
    with pytest.raises(Untrusted):
        list(found)


def test_a_seal_vouches_for_no_place_that_its_key_may_not_sign(
    place: Place, verified: list[Any]
) -> None:
    """With not-before a new key cannot vouch for what is older: that is verified by itself."""
    place.publish("a")
    place.archive()
    public = (place.keys.trust / "first.pub").read_text()
    (place.keys.trust / "first.pub").write_text("not-before: 2020-01-01T00:00:00Z\n" + public)
    verified.clear()
    assert ids(list(place.state())) == ["a"]
    assert len(verified) == 1


def test_a_key_that_goes_while_its_seal_is_looked_at(place: Place) -> None:
    """It is no key from then on: nobody is said to have put another's seal there."""
    place.publish("a")
    place.archive(state=False)
    calls = 0

    def clock() -> float:
        nonlocal calls
        calls += 1
        if calls == 4:  # after the key was looked for once
            (place.keys.trust / "first.pub").unlink()
        return 10.0 * calls

    (name,) = place.names
    manifest = place.fleet.get(name.ref)[1]
    trust = Trust(place.keys.trust, clock=clock)
    assert trust.sealer(NOTIFICATIONS, name.ref, manifest, name.last) == ""
    assert calls >= 4


# --- other releases -------------------------------------------------------------------------------


def test_an_archive_without_seals_is_read_and_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a release before, or of a worker without a key: signatures count, one by one."""
    signer, place.signer = place.signer, None
    last = signs(place.rig, signer, *some(0, 2 * ROWS))
    place.archive()
    assert not any(seal_of(place.fleet.get(name.ref)[1]) for name in place.names)
    with caplog.at_level(logging.WARNING, "sidecar.trust"):
        state = place.state()
    assert ids(list(state)) == some(0, 2 * ROWS)
    assert state.unproven_until == last
    assert "no seal" in caplog.text
    caplog.clear()
    assert place.state(unsigned_until=last).unproven_until == last
    assert not caplog.records
    place.signer = signer
    after = place.publish("a")
    place.archive()
    assert last <= place.state().unproven_until < after
    assert ids(list(place.state())) == [*some(0, 2 * ROWS), "a"]


def test_a_segment_doubts_only_rows_that_it_has(place: Place) -> None:
    """Anyone who writes to the store may write any number there."""
    place.publish("a")
    place.archive(state=False)
    (name,) = place.names
    data, manifest = place.fleet.get(name.ref)[:2]
    found = seal_of(manifest)
    assert found
    place.fleet.put(name.ref, data, found.of.replace(b'"doubted":[', b'"doubted":[7,-7'))
    assert ids(list(place.state())) == ["a"]


def test_who_does_not_verify_notices_no_seal(place: Place) -> None:
    """Rows and states come as ever, marks of what is not vouched for among them."""
    signs(place.rig, None, "forged")
    place.publish("a")
    place.archive()
    place.publish("b")
    place.archive()
    with Feed(place.rig.url, store=place.fleet) as feed:
        assert ids(list(feed.state())) == ["forged", "a", "b"]
    found = place.history.checkpoint(LAST)
    assert found
    assert [one.line[-1:] for one in found.keyed()] == [b"]"] * 3


def test_a_segment_that_another_writes_again_stays_as_it_is(place: Place) -> None:
    """By a worker with another key, after the mark of how far is archived was lost."""
    place.publish("a", "b")
    place.archive(state=False)
    before = place.fleet.get(place.names[0].ref)[1]
    for entry in place.history.entries(NOTIFICATIONS):
        fields: Any = entry.fields
        place.rig.client.xadd("again", fields, id=entry.id)
    place.rig.client.rename("again", NOTIFICATIONS)
    place.rig.client.hdel(place.rig.keys.trimmed, NOTIFICATIONS)
    place.rig.client.hset(place.rig.keys.archived, NOTIFICATIONS, "0-0")
    place.archive(state=False, signer=place.keys.new("other"))
    assert [place.fleet.get(name.ref)[1] for name in place.names] == [before]


# --- the chain, as commands read it ---------------------------------------------------------------


def faults(place: Place) -> list[tuple[str, int]]:
    """Return what is wrong by the key of the log, and the number of the segment or state of it."""
    refs = [*(name.ref for name in place.names), *place.checkpoints]
    found = faults_of(place.history, NOTIFICATIONS, Trust(place.keys.trust))
    return [(one.kind, refs.index(one.segment)) for one in found]


def test_a_chain_is_verified_with_its_seals(place: Place) -> None:
    """Segments and states; what is older than the first seal is not asked for one."""
    signer, place.signer = place.signer, None
    signs(place.rig, signer, "a")
    place.archive()
    place.signer = signer
    for event_id in ("b", "c"):
        place.publish(event_id)
        place.archive()
    assert not faults(place)
    _swapped_state(place)
    assert faults(place) == [("untrusted", 5)]
    _changed(place)
    assert faults(place) == [("untrusted", 2), ("untrusted", 5)]
    data, manifest = place.fleet.get(place.names[2].ref)[:2]
    found = seal_of(manifest)
    assert found
    place.fleet.put(place.names[2].ref, data, found.of)
    assert faults(place) == [("unsealed", 2), ("untrusted", 5)]


def _swapped_state(place: Place) -> None:
    place.fleet.put(place.checkpoints[2], *place.fleet.get(place.checkpoints[1])[:2])


def test_a_worker_with_a_key_seals(rig: Rig, stores: dict[str, str], tmp_path: Path) -> None:
    """With --archive and --sign-key; it tells its key's id to those who look at the workers."""
    _, key_id = new_pair(tmp_path / "key")
    settings = build(
        redis=rig.url, **stores, archive=True, archive_every_s="1", sign_key=tmp_path / "key"
    )
    fleet = versioned(store.open_url(stores["fleet_store"]), Capability.STREAM)
    assert fleet
    with at_work(settings):
        rig.emit("a")
        eventually(lambda: bool(names_of(fleet, NOTIFICATIONS, NOTIFICATIONS)))
        assert [one.signs for one in registered_workers(rig.client, rig.keys)] == [key_id]
    (name,) = names_of(fleet, NOTIFICATIONS, NOTIFICATIONS)
    seal = seal_of(fleet.get(name.ref)[1])
    assert seal
    assert seal.key_id == key_id
