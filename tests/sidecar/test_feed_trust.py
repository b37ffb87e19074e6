"""A feed that verifies: only what a trusted worker signed for its place is yielded, or passed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import store
from sidecar.feed import Notification, Trust, Untrusted, UsageError
from sidecar.history.archive import names_of
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.live import LiveHistory
from sidecar.redis.client import Side
from sidecar.wire.keyfiles import new_pair, verifies
from sidecar.wire.keyring import LOOK_EVERY_S
from sidecar.wire.signing import Signer
from store import VersionedStore, versioned
from tests.sidecar.faces import FACES
from tests.sidecar.harness import NOTIFICATIONS, Rig


class Keys:
    """A directory of public keys, and the private ones beside it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.trust = directory / "trust"
        self.trust.mkdir()

    def new(self, name: str) -> Signer:
        """Make a key that nobody trusts yet."""
        new_pair(self._directory / name)
        return Signer(self._directory / name)

    def private(self, name: str) -> Path:
        """Return where the private half is."""
        return self._directory / name

    def add(self, name: str) -> None:
        """Trust a key."""
        (self.trust / f"{name}.pub").write_text((self._directory / f"{name}.pub").read_text())

    def remove(self, name: str) -> None:
        """Trust it no more."""
        (self.trust / f"{name}.pub").unlink()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """One key that is trusted: `first`."""
    found = Keys(tmp_path)
    found.new("first")
    found.add("first")
    return found


Open = Callable[..., Any]


@pytest.fixture(params=FACES)
def feed_of(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Open]:
    """Open a feed on the rig's server, of either face."""
    opened: list[Any] = []

    def opening(**options: Any) -> Any:
        opened.append(FACES[request.param](rig.url, **options))
        return opened[-1]

    yield opening
    for feed in opened:
        feed.close()


def signs(rig: Rig, signer: Signer | None, *event_ids: str) -> int:
    """Have a worker publish events, with a key or without; return the last control_version."""
    rig.signer = signer
    for event_id in event_ids:
        rig.emit(event_id, stack_id=event_id)
    rig.drain()
    return int(rig.notifications()[-1]["control_version"])


def forge(client: redis.Redis, fields: dict[Any, Any]) -> None:
    """Append to the notifications, as a thief of a worker's login may."""
    client.xadd(NOTIFICATIONS, fields)


def ids(found: list[Notification]) -> list[str]:
    """Return their event_ids."""
    return [one.event_id for one in found]


def refused(feed: Any, since: int) -> Untrusted:
    """Return why what comes next is not trusted."""
    with pytest.raises(Untrusted) as refusal:
        feed.poll(since)
    assert isinstance(refusal.value, Untrusted)
    return refusal.value


def test_what_was_signed_comes_and_what_was_not_is_raised(
    rig: Rig, keys: Keys, feed_of: Open
) -> None:
    """First what is before it; then it, each time, until the caller passes it by its cursor."""
    signer = Signer(keys.trust.parent / "first")
    last = signs(rig, signer, "a", "b")
    forge(rig.client, {"event": '{"event_id":"x","type":"t"}', "origin": "control:events/1-1"})
    signs(rig, signer, "c")
    feed = feed_of(trust=keys.trust)
    found = feed.poll(0)
    assert ids(found) == ["a", "b"]
    assert found.cursor == last
    for _ in range(2):
        assert refused(feed, last).kind == "unsigned"
    assert feed.position == last
    assert ids(feed.poll(refused(feed, last).cursor)) == ["c"]
    following = feed.follow(last)
    with pytest.raises(Untrusted):
        next(following)


def test_what_a_filter_leaves_out_is_verified_too(rig: Rig, keys: Keys, feed_of: Open) -> None:
    """Else a changed tenant would hide a notification from the feed that it is for."""
    signs(rig, Signer(keys.trust.parent / "first"), "a")
    there: Any = rig.client.xrange(NOTIFICATIONS)
    ((_, fields),) = there
    rig.client.delete(NOTIFICATIONS)
    at = json.loads(fields[b"event"])["control_version"]
    hidden = {**fields, b"event": fields[b"event"].replace(b'"t"', b'"u"')}
    rig.client.xadd(NOTIFICATIONS, hidden, id=f"{at // 1000}-{at % 1000}")
    assert refused(feed_of(trust=keys.trust, tenant="t"), 0).kind == "altered"
    assert feed_of(tenant="t").poll(0) == []


def test_what_no_sidecar_wrote_is_raised_as_that(rig: Rig, keys: Keys, feed_of: Open) -> None:
    """Not as a foreign entry, which a controller may have learned to pass."""
    forge(rig.client, {"hello": "world"})
    assert refused(feed_of(trust=keys.trust), 0).kind == "foreign"


def test_signing_is_introduced_without_a_stop(rig: Rig, keys: Keys, feed_of: Open) -> None:
    """Sign first, then demand: from a cursor behind the last unsigned one, or by naming that."""
    signer = Signer(keys.trust.parent / "first")
    last = signs(rig, None, "a", "b")
    signs(rig, signer, "c")
    assert ids(feed_of().poll(0)) == ["a", "b", "c"]
    assert refused(feed_of(trust=keys.trust), 0).kind == "unsigned"
    assert ids(feed_of(trust=keys.trust).poll(last)) == ["c"]
    lenient = feed_of(trust=Trust(keys.trust, unsigned_until=last))
    assert ids(lenient.poll(0)) == ["a", "b", "c"]
    after = signs(rig, None, "d")  # a worker that was forgotten
    assert refused(lenient, after - 1).kind == "unsigned"


def test_a_key_is_replaced_without_a_stop(
    rig: Rig, keys: Keys, feed_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add the new public key, sign with it, remove the old one: no feed is opened anew."""
    monkeypatch.setattr("sidecar.wire.keyring.LOOK_EVERY_S", 0.0)
    assert LOOK_EVERY_S > 0
    first, feed = Signer(keys.trust.parent / "first"), feed_of(trust=keys.trust)
    last = signs(rig, first, "a")
    assert ids(feed.poll(0)) == ["a"]
    second = keys.new("second")
    keys.add("second")
    signs(rig, first, "b")
    last = signs(rig, second, "c")
    assert ids(feed.poll(feed.position)) == ["b", "c"]
    keys.remove("first")
    signs(rig, second, "d")
    assert ids(feed.poll(last)) == ["d"]
    assert refused(feed, 0).kind == "unknown_key"


def test_keys_that_cannot_be_read_are_refused_at_once(keys: Keys, feed_of: Open) -> None:
    """Before anything is read: a feed without keys would trust nobody, or everybody."""
    keys.remove("first")
    for directory in (keys.trust, keys.trust / "none"):
        with pytest.raises(UsageError, match="trust"):
            feed_of(trust=directory)


# --- the state ------------------------------------------------------------------------------------


def archived(rig: Rig, fleet: VersionedStore, *, trim: bool) -> None:
    """Archive the notifications, with a checkpoint; with `trim`, let Redis forget them."""
    side = Side(rig.client, rig.url)
    live = LiveHistory(side, side, [rig.keys], fleet)
    archiver = Archiver(live, fleet, rig.client, rig.keys, sizes=Sizes(checkpoint_rows=1))
    assert list(archiver.archive(NOTIFICATIONS, rest=True))
    archiver.keep_state()
    if trim:
        rig.client.xtrim(NOTIFICATIONS, maxlen=0)


@pytest.mark.parametrize("trim", [False, True])
def test_the_state_is_verified(rig: Rig, keys: Keys, feed_of: Open, trim: bool) -> None:
    """What comes from the archive, from a checkpoint and from Redis, all by the same keys."""
    signer, fleet = Signer(keys.trust.parent / "first"), versioned(store.open_url("memory:"))
    assert fleet
    signs(rig, signer, "a", "b")
    archived(rig, fleet, trim=trim)
    signs(rig, signer, "c")
    state = feed_of(trust=keys.trust, store=fleet).state()
    assert ids(list(state)) == ["a", "b", "c"]
    assert names_of(fleet, NOTIFICATIONS, NOTIFICATIONS)


def test_a_state_with_a_forged_notification_is_not_yielded(
    rig: Rig, keys: Keys, feed_of: Open
) -> None:
    """Planted in the archive, or in Redis: neither is passed over."""
    signer, fleet = Signer(keys.trust.parent / "first"), versioned(store.open_url("memory:"))
    assert fleet
    signs(rig, signer, "a")
    signs(rig, None, "forged")
    archived(rig, fleet, trim=True)
    signs(rig, signer, "c")
    with pytest.raises(Untrusted):
        list(feed_of(trust=keys.trust, store=fleet).state())
    with pytest.raises(Untrusted):
        list(feed_of(trust=keys.trust, store=fleet).follow(state=True))
    signs(rig, None, "forged, too")
    with pytest.raises(Untrusted):
        feed_of(trust=keys.trust).state()


def test_a_run_is_verified_with_one_signature(
    rig: Rig, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many notifications come of it: the dear part is done once for each tree."""
    verified = []

    def counting(*args: Any) -> bool:
        verified.append(args)
        return verifies(*args)

    monkeypatch.setattr("sidecar.wire.trust.verifies", counting)
    signs(rig, Signer(keys.trust.parent / "first"), *(f"e{number}" for number in range(200)))
    with FACES["Feed"](rig.url, trust=keys.trust) as feed:
        assert len(feed.poll(0)) == 200
    assert 0 < len(verified) <= 20
