"""A worker that stands by finds out that it cannot write the fleet store before it has to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sidecar.errors import SidecarError
from sidecar.worker import probing
from sidecar.worker.metrics import Metrics
from sidecar.worker.probing import PROBE, Probing
from sidecar.worker.share import Share
from sidecar.worker.supervision import Supervisor
from store import Unavailable
from tests import servers
from tests.sidecar.harness import Rig, SpyStore, eventually, silent_log
from tests.sidecar.test_answers import rig_at
from tests.sidecar.test_app import drained, worker
from tests.sidecar.test_health import answered, get


def refuse(ref: str) -> None:
    """Be a store that takes nothing."""
    raise Unavailable(f"cannot put {ref!r}: Read-only file system")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe as often as can be."""
    monkeypatch.setattr(probing, "TICK_S", 0.01)


@contextmanager
def looking(fleet: SpyStore, share: Share) -> Iterator[Supervisor]:
    """Probe meanwhile."""
    supervisor = Supervisor(Metrics(), silent_log())
    one = Probing(fleet, share, supervisor)
    one.start()
    try:
        yield supervisor
    finally:
        one.close()


def test_one_that_stands_by_says_what_is_wrong_until_it_is_set_right() -> None:
    """It puts one small artifact; while it cannot, that is background work that fails."""
    fleet = SpyStore()
    fleet.on_put = refuse
    with looking(fleet, Share(["s"])) as supervisor:
        eventually(supervisor.failing)
        assert "Read-only file system" in supervisor.failing()[0]
        fleet.on_put = lambda _: None
        eventually(lambda: not supervisor.failing())
    assert fleet.exists(PROBE)


def test_an_owner_is_not_probed() -> None:
    """Its relays put, and tell what is wrong: what the probe said before is over."""
    fleet, share = SpyStore(), Share(["s"])
    fleet.on_put = refuse
    with looking(fleet, share) as supervisor:
        eventually(supervisor.failing)
        share.took("s")
        eventually(lambda: not supervisor.failing())
        count = len(fleet.puts)
    assert len(fleet.puts) == count


def test_a_standby_is_not_ready_while_it_could_not_serve(rig: Rig, stores: dict[str, str]) -> None:
    """Beside a worker that owns the stream: `/readyz?strict` of the other says why."""
    port = servers.free_port()
    with worker(rig, stores):
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        rig.fleet.on_put = refuse
        with worker(rig, stores, http=f"127.0.0.1:{port}"):
            eventually(lambda: answered(port))
            eventually(lambda: b"probe: cannot put" in get(port, "/readyz?strict")[1])
            assert get(port, "/readyz?strict")[0] == 503


def test_the_redis_that_fails_is_the_one_that_is_named(rig: Rig, stores: dict[str, str]) -> None:
    """Of two servers, that with the notifications, when it refuses a look at the start."""
    rig.emit("a")
    rig.client.acl_setuser(
        "meek", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-exists"]
    )
    url = rig.url.replace("://", "://meek:x@")
    try:
        with pytest.raises(SidecarError, match="exists") as refused:
            drained(
                rig_at(rig.url.replace("127.0.0.1", "localhost"), rig), stores, notify_redis=url
            )
        assert "127.0.0.1" in str(refused.value)
        assert "localhost" not in str(refused.value)
    finally:
        rig.client.acl_deluser("meek")
