"""Names of streams and stores that were mistyped."""

from __future__ import annotations

import pytest
import redis

import store
from sidecar.redis import beside
from sidecar.redis.keys import Keys
from sidecar.redis.members import Members
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


def test_another_worker_that_begins_meanwhile_is_no_second_deployment(
    served: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of one deployment begin at once, beside another: one finds the other's group."""
    keys, look = Keys.of(STREAM, "lab:n"), beside.led_to

    def look_behind_another(client: redis.Redis, stream: str) -> list[str]:
        client.xgroup_create(stream, keys.group, "0")
        return look(client, stream)

    monkeypatch.setattr(beside, "led_to", look_behind_another)
    assert not beside.second(served.client, served.client, keys, wanted=False)
    assert look(served.client, STREAM) == ["control:notifications", "lab:n"]


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


@pytest.fixture
def registered(served: Cli) -> Cli:
    """Return it with a worker on the register."""
    Members(served.client, KEYS, name="host:1", serves=[STREAM], lease_s=600).beat([STREAM])
    return served


def test_emit_names_a_stream_that_nobody_serves(registered: Cli) -> None:
    """The event is appended, and the stream that was meant is named; of a right one nothing is."""
    ran = registered("emit", "--type", "key.changed", "--stream", "control:evnets")
    assert ran.code == 0
    assert f"no worker serves the stream control:evnets; is {STREAM} meant?" in ran.err
    assert "no worker" not in registered("emit", "--type", "key.changed").err


@pytest.mark.parametrize(
    "words", [["audit"], ["status"], ["trace", "e1"], ["replay", "show"]], ids=lambda it: it[0]
)
def test_a_wrong_name_is_named(registered: Cli, words: list[str]) -> None:
    """By every command that looks at streams; the right ones are not."""
    other = registered(*words, "--stream", "control:evnets")
    assert f"serves the stream control:evnets; is {STREAM} meant?" in other.out + other.err
    slip = registered(*words, "--notify-stream", SLIP)
    assert f"is {NOTIFICATIONS} meant?" in slip.out + slip.err
    right = registered(*words)
    assert "meant?" not in right.out + right.err


def test_tail_names_a_stream_that_is_not_there(served: Cli) -> None:
    """It says that there is none, and which one there is."""
    ran = served("tail", "--notify-stream", SLIP)
    assert (ran.code, ran.out) == (5, "")
    assert f"there is no stream {SLIP}" in ran.err
    assert f"is {NOTIFICATIONS} meant?" in ran.err
