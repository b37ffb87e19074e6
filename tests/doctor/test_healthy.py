"""Nothing is found where nothing is wrong."""

from __future__ import annotations

import pytest

from sidecar.redis import rights
from tests.deploy.harness import WAY, granted
from tests.doctor.harness import STREAM, Place
from tests.doctor_page import PAGE, page


@pytest.mark.parametrize("kind", ["", "redis-6.2", "path"])
@pytest.mark.parametrize("is_fresh", [True, False])
def test_nothing_is_wrong(place: Place, kind: str, is_fresh: bool) -> None:
    """Of a healthy deployment doctor says nothing, before its first start and after."""
    with place.stack:
        if kind:
            place.server(kind)
        if not is_fresh:
            place.live()
        ran, found = place.doctor()
        assert (ran.code, found) == (0, []), ran.err
        ran = place.check()
        assert (ran.code, ran.out) == (0, "nothing is wrong\n"), ran.err


def test_nothing_is_wrong_for_the_user_of_a_worker(place: Place) -> None:
    """The least rights are enough to ask, and to be found complete."""
    place.live()
    place.as_user()
    ran, found = place.doctor()
    assert (ran.code, found) == (0, []), ran.err


def test_every_right_of_a_worker_is_asked_for() -> None:
    """What deploy/redis/users.acl grants a worker, and nothing else."""
    assert rights.commands() == granted("sidecar") - WAY


def test_a_first_start_with_the_embedded_server_is_healthy(place: Place) -> None:
    """Before a first start there is no server to ask; `doctor` cannot, `run --check` need not."""
    place.cli.url = ""
    assert place.check().code == 0
    ran, found = place.doctor()
    assert (ran.code, found) == (4, [])
    assert "no embedded server runs" in ran.err
    assert not place.root.exists()


def test_doctor_leaves_nothing_behind(place: Place) -> None:
    """It changes no key, and of the fleet's store the ref .sidecar/doctor alone."""
    place.live()
    dump = {key: place.client.dump(key) for key in place.client.keys("*")}
    files = {path for path in place.root.rglob("*") if path.is_file()}
    place.doctor()
    assert {key: place.client.dump(key) for key in place.client.keys("*")} == dump
    made = {path for path in place.root.rglob("*") if path.is_file()} - files
    assert made
    assert all("doctor@" in path.name for path in made), made


def test_who_cannot_be_reached_is_said(place: Place) -> None:
    """Without an answer nothing is known to be wrong: exit 4."""
    place.cli.url = "redis://127.0.0.1:1/0"
    ran, found = place.doctor()
    assert (ran.code, found) == (4, [])
    assert "cannot be reached" in ran.err


def test_an_unknown_variable_is_named(place: Place) -> None:
    """As by every command, with the nearest that there is."""
    ran = place.cli("doctor", env={"SIDECAR_FLEETSTORE": "file:///x"})
    assert ran.code == 2
    assert "is SIDECAR_FLEET_STORE meant?" in ran.err


def test_the_page_of_findings_is_true() -> None:
    """docs/doctor.md lists what the checks look for; `make pages` writes it."""
    assert PAGE.read_text() == page(), "run make pages"


def test_a_secret_in_a_closed_directory_is_safe(place: Place) -> None:
    """A file that all may read, as deploy/secrets.sh makes it, where others cannot get to it."""
    place.live()
    closed = place.root.parent / "secrets"
    closed.mkdir(mode=0o700)
    secret = closed / "redis-url"
    secret.write_text(place.cli.url)
    secret.chmod(0o444)
    place.cli.env = {"SIDECAR_REDIS_FILE": str(secret), **place.cli.stores(wanted=True)}
    place.cli.url = ""
    ran, found = place.doctor()
    assert (ran.code, found) == (0, []), ran.err


def test_who_paused_is_to_be_asked(place: Place) -> None:
    """A stream that a person halted has no dead letters that would explain it."""
    place.live()
    place.cli("pause", "--reason", "we move")
    _, (found,) = place.doctor()
    assert found["fix"].startswith("ask them")


def test_what_was_trimmed_unread_is_forgotten_by_its_fix(place: Place) -> None:
    """The command that the finding names ends it, and nothing is read twice."""
    place.live()
    place.append()
    place.client.xtrim(STREAM, maxlen=0, approximate=False)
    _, (found,) = place.doctor()
    place.send(*found["fix"].partition("`")[2].partition("`")[0].split())
    place.append()
    assert place.doctor()[1] == []
