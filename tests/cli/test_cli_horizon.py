"""Commands across the archive's horizon: what has expired is said, and nothing is made up."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

import store
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.horizon import expire
from sidecar.history.live import LiveHistory
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.wire.ids import FIRST, LAST, EntryId
from store import Capability, versioned
from tests.cli.harness import DEAD, NOTIFICATIONS, STREAM, Cli

KEYS = Keys.of(STREAM, NOTIFICATIONS, DEAD)


@pytest.fixture
def horizon(sidecar: Cli) -> str:
    """Seven events of which four lie before the horizon; return a time between them."""
    last = FIRST
    for n in range(3):
        sidecar.bring(f"old{n}", f"rows/{n}", b"data %d" % n, "--tenant", "t")
    sidecar.client.xadd(STREAM, {"event": "not JSON"})
    sidecar.work()
    fleet = versioned(
        store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri()), Capability.STREAM
    )
    assert fleet
    with closing(Side.open(sidecar.url, NOTIFICATIONS).client) as client:
        side = Side(client, sidecar.url)
        live = LiveHistory(side, side, [KEYS], fleet)
        archiver = Archiver(live, fleet, client, KEYS, sizes=Sizes(checkpoint_rows=1))
        for stream in (STREAM, NOTIFICATIONS, DEAD):
            for _ in archiver.archive(stream, rest=True):
                if stream == NOTIFICATIONS:
                    archiver.keep_state()
            found: Any = client.xrevrange(stream, count=1)
            client.hset(KEYS.trimmed, stream, found[0][0])
            last = max(last, EntryId(found[0][0].decode()))
            client.xtrim(stream, maxlen=0, approximate=False)
            assert list(expire(fleet, live, stream, LAST))
    sidecar.bring("new0", "rows/0", b"newer", "--tenant", "t")
    sidecar.bring("new1", "rows/9", b"other", "--tenant", "t")
    sidecar.client.xadd(STREAM, {"event": "not JSON either"})
    sidecar.work()
    return str(last.after.control_version)


def test_replays_across_the_horizon_say_so(sidecar: Cli, horizon: str) -> None:
    """Exit code 3, and why; after the horizon all is there, and so is the state."""
    across = sidecar("replay", "show", "--since", "1", "--json")
    assert across.code == 3
    assert "expired" in across.err
    assert {one.get("event_id") for one in across.objects()} >= {"new0", "new1"}
    assert sidecar("replay", "show", "--since", horizon).code == 0
    now = sidecar("replay", "at", "0s", "--json")
    assert now.code == 0, now.err
    assert "dead letters up to" in now.err
    refs = {one["artifact_ref"]: one["event_id"] for one in now.objects() if one["what"] == "ref"}
    assert refs == {"rows/0": "new0", "rows/1": "old1", "rows/2": "old2", "rows/9": "new1"}
    before = sidecar("replay", "at", str(int(horizon) - 10**10))
    assert (before.code, "expired" in before.err) == (3, True)


def test_an_audit_across_the_horizon_is_incomplete(sidecar: Cli, horizon: str) -> None:
    """It names nobody; what came since is judged as ever, and repaired if need be."""
    for more in ((), ("--repair", "--reason", "ticket 1")):
        across = sidecar("audit", "--since", "1", *more)
        assert across.code == 3, across.out + across.err
        assert "expired" in across.err
    assert sidecar("audit", "--since", horizon).code == 0


def test_a_trace_of_what_has_expired_says_so(sidecar: Cli, horizon: str) -> None:
    """An event that may have been in what is gone is not called unknown."""
    assert horizon
    gone = sidecar("trace", "nobody")
    assert (gone.code, "expired" in gone.err) == (3, True), gone.err
    assert sidecar("trace", "new0").code == 0
    assert sidecar("diff", "--at", horizon, "--at", "0s").code == 1
