"""Names of streams and stores that were mistyped."""

from __future__ import annotations

import pytest

import store
from sidecar.redis.keys import Keys
from tests.cli.harness import KEYS, NOTIFICATIONS, STREAM, Cli

pytestmark = pytest.mark.server

SLIP = "control:notifcations"


@pytest.fixture
def served(sidecar: Cli) -> Cli:
    """Return a deployment with an artifact published."""
    sidecar.bring("e1", "ref/1", b"data")
    sidecar.work()
    return sidecar


def test_a_slip_in_the_notification_stream_is_refused(served: Cli) -> None:
    """It is no second deployment: exit 2 names the one there is, and nothing is written."""
    ran = served("run", "--drain", "--notify-stream", SLIP)
    assert (ran.code, f"{NOTIFICATIONS!r}; is that one meant?" in ran.err) == (2, True), ran.err
    assert [one["name"].decode() for one in served.client.xinfo_groups(STREAM)] == [KEYS.group]
    assert not served.client.exists(SLIP, Keys.of(STREAM, SLIP).stream)


def test_a_second_deployment_that_is_wanted_is_begun(served: Cli) -> None:
    """With the flag at first, then without it."""
    for more in (["--second-deployment"], []):
        ran = served("run", "--drain", "--notify-stream", SLIP, *more)
        assert ran.code == 0, ran.err
        assert ("second deployment" in ran.err) == bool(more)
    assert served.client.xlen(SLIP) == 1


def test_a_second_deployment_of_another_name_is_logged(served: Cli) -> None:
    """A name that is like none is no slip: it is served, and what that means is in the log."""
    ran = served("run", "--drain", "--notify-stream", "lab:n")
    assert ran.code == 0
    assert f"{STREAM} leads to {NOTIFICATIONS} already" in ran.err
    assert served.client.xlen("lab:n") == 1


def test_what_a_mistyped_run_left_is_named(sidecar: Cli) -> None:
    """A group of another deployment that holds back trimming is no stranger's."""
    sidecar.client.xadd(STREAM, {"event": "{}"}, id="1700000000000-0")
    for group in (KEYS.group, f"sidecar:{SLIP}"):
        sidecar.client.xgroup_create(STREAM, group, "0")
    assert f"for another notification stream, '{SLIP}'" in sidecar("status").out


def test_a_mistyped_source_store_is_refused(served: Cli) -> None:
    """Once events were read it is not made: exit 2 names the option and the place."""
    sauce = served.directory / "sauce"
    ran = served("run", "--drain", "--source-store", sauce.as_uri())
    assert (ran.code, "--source-store" in ran.err, str(sauce) in ran.err) == (2, True, True)
    assert not sauce.exists()


def test_a_first_worker_may_start_before_its_producer(sidecar: Cli) -> None:
    """It makes the source store, and says that there was none."""
    early = sidecar.directory / "early"
    ran = sidecar("run", "--drain", "--source-store", early.as_uri())
    assert ran.code == 0
    assert "source store made" in ran.err
    store.open_url(early.as_uri(), create=False)
    again = sidecar("run", "--drain", "--source-store", early.as_uri())
    assert (again.code, "source store made" in again.err) == (0, False)
