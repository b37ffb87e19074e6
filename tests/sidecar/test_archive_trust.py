"""A worker that has trusted keys: what it vouches for, through the replacement of a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import store
from sidecar.errors import SidecarError, UsageError
from sidecar.feed import Feed, Trust, Untrusted
from sidecar.history.archive import ArchiveHistory
from sidecar.history.chain import faults_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339
from sidecar.worker.settings import Settings, build
from store import Capability, VersionedStore, versioned
from tests.sidecar.harness import NOTIFICATIONS, at_work, eventually
from tests.sidecar.test_archive_sealed import Place, keys, place, some, verified
from tests.sidecar.test_feed_trust import ids

__all__ = ["keys", "place", "verified"]


def above(place: Place, name: str, line: str) -> None:
    """Write a line above a public key, for all who trust it."""
    file = place.keys.trust / f"{name}.pub"
    file.write_text(line + "\n" + file.read_text())


def replaced(place: Place) -> None:
    """Have the worker continue with a new key, and with all keys to trust."""
    place.signer = place.keys.new("second")
    place.keys.add("second")
    place.trust = Trust(place.keys.trust)


@pytest.mark.parametrize("state", [False, True])
def test_a_new_key_vouches_for_what_the_old_one_signed(
    place: Place, verified: list[Any], state: bool
) -> None:
    """Where the worker trusts both: a reader verifies no row by itself, and nothing is unproven."""
    for event_id in some(0, 4):  # each with a signature of its own
        place.publish(event_id)
    place.archive(state=state)
    old = place.signer
    place.publish("late")  # the old key signs it, and the new one's worker archives it
    replaced(place)
    place.publish("new")
    place.archive()
    verified.clear()
    found = place.state()
    assert ids(list(found)) == [*some(0, 4), "late", "new"]
    assert found.unproven_until == 0
    assert len(verified) == 1  # the newest state's
    assert place.says(place.names[-1].ref)["doubted"] == []
    assert old
    above(place, "first", "revoked: stolen")
    with pytest.raises(Untrusted, match="revoked"):
        list(place.state())


def test_the_old_key_may_end_and_its_rows_stay_good(place: Place) -> None:
    """With `not-after`, as the rotation ends; and a worker that is told only then vouches, too."""
    last = place.publish("a", "b")
    place.archive()
    above(place, "first", f"not-after: {rfc3339(last + 1000)}")
    replaced(place)
    place.publish("c")
    place.archive()
    found = place.state()
    assert (ids(list(found)), found.unproven_until) == (["a", "b", "c"], 0)


def test_a_stolen_key_seals_nothing_into_another_keys_vouching(place: Place) -> None:
    """A row under the new key's name that only the old key's seal is over: a worker verifies it, so
    that it does not outlive the old key's revocation.
    """
    place.publish("a")
    place.archive()
    thief = place.signer
    replaced(place)
    place.publish("b")
    place.archive(state=False)
    name = place.names[-1]
    place.rewrite(name, lambda rows: [_forged(rows[0])])
    data, manifest = place.fleet.get(name.ref)[:2]
    assert thief
    said = manifest[:-1] + b',"doubted":[]}'
    place.fleet.put(name.ref, data, thief.sealed(NOTIFICATIONS, name.ref, said))
    place.publish("c")
    place.archive()
    with pytest.raises(Untrusted, match="did not sign"):
        list(place.state())
    above(place, "first", "revoked: stolen")
    with pytest.raises(Untrusted) as refusal:
        list(place.state())
    assert refusal.value.kind in {"altered", "revoked"}


def _forged(row: Any) -> Any:
    """Return a row that says something else, with the signature that it has."""
    event = row.fields[b"event"].replace(b'"tenant_id":"t"', b'"tenant_id":"u"')
    assert event != row.fields[b"event"]
    return row._replace(fields=row.fields | {b"event": event})


def test_what_a_revoked_key_signed_is_vouched_for_by_no_other(place: Place) -> None:
    """Whoever archives it: the worker knows better, or the reader does."""
    place.publish("a")
    above(place, "first", "revoked: stolen")
    replaced(place)
    place.publish("b")
    place.archive()
    assert place.says(place.names[0].ref)["doubted"] == [0]
    with pytest.raises(Untrusted, match="revoked"):
        list(place.state())


def test_what_is_not_proven_ends_with_a_control_version(place: Place) -> None:
    """Also where what comes behind it is the first of a millisecond: no ID is right before that."""
    for event_id in "ab":
        place.publish(event_id)
        place.archive(state=False)
    ms = place.names[-1].last.ms + 60_000
    place.rig.client.execute_command("XSETID", NOTIFICATIONS, f"{ms - 1}-999")  # type: ignore[no-untyped-call]
    assert place.publish("c") == ms * 1000
    place.archive(state=False)
    place.fleet.delete(place.names[1].ref)
    assert place.state().unproven_until == ms * 1000 - 1


# --- a seal that is refused -----------------------------------------------------------------------


class Counting:
    """Counts what is opened of a store."""

    def __init__(self, opened: VersionedStore) -> None:
        self._opened = opened
        self.refs: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def open(self, ref: str, **more: Any) -> Any:
        """Open an artifact."""
        self.refs.append(ref)
        return self._opened.open(ref, **more)


def test_a_seal_that_was_refused_is_looked_at_again_and_nothing_else(place: Place) -> None:
    """Each pass says so, and reads one manifest; once it is gone there is a state."""
    for event_id in "abc":
        place.publish(event_id)
        place.archive(state=False)
    bad = place.names[-1].ref
    data, manifest = place.fleet.get(bad)[:2]
    place.fleet.put(bad, data, manifest.replace(b'"doubted":[', b'"doubted":[ '))
    counting: Any = Counting(place.fleet)
    place.fleet = counting
    writer = place.archiver()
    for times in range(3):
        counting.refs.clear()
        with pytest.raises(SidecarError, match=f"did not seal.*archive --drop {bad}"):
            writer.keep_state()
        opened = [ref for ref in counting.refs if "@state" not in ref]
        assert (opened == [bad]) is bool(times)
    place.fleet.delete(bad)
    writer.keep_state()
    assert len(place.checkpoints) == 1


# --- the chain of a window ------------------------------------------------------------------------


@pytest.fixture
def long(place: Place) -> Place:
    """An archive of ten segments, a state after each third, all sealed."""
    for number, event_id in enumerate(some(0, 10)):
        place.publish(event_id)
        place.archive(state=number % 3 == 2)
    return place


def read_of(place: Place, monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> list[Any]:
    """Return which manifests the span of some segments takes, by number or `state`; no faults."""
    read: list[str] = []
    real = ArchiveHistory.manifest

    def manifest(self: ArchiveHistory, ref: str) -> bytes:
        read.append(ref)
        return real(self, ref)

    with monkeypatch.context() as patched:
        patched.setattr(ArchiveHistory, "manifest", manifest)
        span = place.names[first].first, place.names[last].last
        trust = Trust(place.keys.trust)
        assert not list(faults_of(place.history, NOTIFICATIONS, trust, span))
    numbers = {name.ref: number for number, name in enumerate(place.names)}
    return sorted({numbers.get(ref, -1) for ref in read})


def test_a_window_takes_the_manifests_that_it_needs(
    long: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the newest state before it on, and one segment at either end, however many there are."""
    assert read_of(long, monkeypatch, 6, 6) == [-1, 4, 5, 6, 7]
    assert read_of(long, monkeypatch, 0, 0) == [0, 1]
    assert read_of(long, monkeypatch, 9, 9) == [-1, 7, 8, 9]


@pytest.mark.parametrize("number", [5, 6])
def test_a_window_without_a_segment_is_told(long: Place, number: int) -> None:
    """By the next one, also where that lies behind the window."""
    span = long.names[5].first, long.names[6].last
    after = long.names[number + 1].ref
    long.fleet.delete(long.names[number].ref)
    faults = list(faults_of(long.history, NOTIFICATIONS, Trust(long.keys.trust), span))
    assert [(one.kind, one.segment) for one in faults] == [("missing", after)]


def test_a_window_whose_seals_were_taken_off_is_told(long: Place) -> None:
    """With those of all segments beside it: what is older is looked through until one is sealed."""
    span = long.names[6].first, long.names[6].last
    for name in long.names[4:]:
        long.rewrite(name, lambda rows: rows)
    for ref in long.checkpoints[1:]:
        long.fleet.delete(ref)
    faults = list(faults_of(long.history, NOTIFICATIONS, Trust(long.keys.trust), span))
    assert long.names[6].ref in {one.segment for one in faults if one.kind == "unsealed"}
    for name in long.names[:4]:
        long.rewrite(name, lambda rows: rows)
    for ref in long.checkpoints:
        long.fleet.delete(ref)
    faults = list(faults_of(long.history, NOTIFICATIONS, Trust(long.keys.trust), span))
    assert "unsealed" not in {one.kind for one in faults}  # none ever was, as far as it tells


# --- settings -------------------------------------------------------------------------------------


def settings_of(place: Place, key: str, stores: dict[str, str]) -> Settings:
    """Return the settings of a worker with a key, and with the keys that all trust."""
    return build(
        redis=place.rig.url, **stores, archive=True, archive_every_s="1",
        sign_key=place.keys.private(key), trust=place.keys.trust,
    )  # fmt: skip


def test_a_worker_trusts_its_own_key(place: Place, stores: dict[str, str], tmp_path: Path) -> None:
    """One that is not among the trusted, or not good now, stops the worker before it begins."""
    place.keys.new("second")
    with pytest.raises(UsageError, match=r"--trust: the key that signs .* no key in .* has the id"):
        settings_of(place, "second", stores)
    settings_of(place, "first", stores)
    above(place, "first", "not-after: 2026-01-01T00:00:00Z")
    with pytest.raises(UsageError, match=r"--trust: .*is not one of .*docs/trust\.md"):
        settings_of(place, "first", stores)
    with pytest.raises(UsageError, match="--trust: it needs --sign-key"):
        build(redis=place.rig.url, **stores, trust=place.keys.trust)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--trust: the directory has 0 files"):
        build(redis=place.rig.url, **stores, trust=tmp_path / "empty")


# --- the whole rotation, with workers -------------------------------------------------------------


def test_a_key_is_replaced_as_the_page_says(
    place: Place, stores: dict[str, str], verified: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/trust.md, step by step: the old key, both, the new one; at last the old one is revoked.
    A controller that verifies never stops before that, and nothing becomes unproven.
    """
    monkeypatch.setattr("sidecar.history.archiver._Uncovered.is_worth_it", True)
    fleet = versioned(store.open_url(stores["fleet_store"]), Capability.STREAM)
    assert fleet
    rig, applied = place.rig, list[str]()
    with Feed(rig.url, store=fleet, trust=place.keys.trust) as feed:
        cursor = 0

        def published(*event_ids: str) -> None:
            nonlocal cursor
            for event_id in event_ids:
                rig.emit(event_id, stack_id=event_id)
            eventually(lambda: len(rig.notifications()) >= len(applied) + len(event_ids))
            batch = feed.poll(cursor)
            applied.extend(ids(batch))
            cursor = batch.cursor

        with at_work(settings_of(place, "first", stores)):
            published("a", "b")
            _archived(fleet, cursor)
        place.keys.new("second")
        place.keys.add("second")  # step 1: everywhere, before anybody signs with it
        with at_work(settings_of(place, "first", stores)):
            published("c")
            _archived(fleet, cursor)
        with at_work(settings_of(place, "second", stores)):  # step 2
            published("d")
            _archived(fleet, cursor)
        assert applied == ["a", "b", "c", "d"]
        rig.client.xtrim(NOTIFICATIONS, maxlen=0)
        verified.clear()
        state = feed.state()
        assert (ids(list(state)), state.unproven_until) == (applied, 0)
        assert len(verified) == 1
        above(place, "first", "revoked: stolen")
        with (
            Feed(rig.url, store=fleet, trust=place.keys.trust) as anew,
            pytest.raises(Untrusted, match="revoked"),
        ):
            list(anew.state())


def _archived(fleet: VersionedStore, cursor: int) -> None:
    """Wait until a state has all that was published."""
    last = EntryId.of_version(cursor)
    eventually(lambda: last in checkpoints_of(fleet, NOTIFICATIONS))
