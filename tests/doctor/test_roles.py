"""`sidecar doctor --role`: what a login that is no worker's may do."""

from __future__ import annotations

import pytest

from sidecar.redis import rights
from tests.deploy.harness import WAY, granted
from tests.doctor.harness import STREAM, Place

NOT_ASKED = {"getset", "hsetnx", "multi", "exec", "ping"}
"""Each but the last changes something, whatever its arguments."""


@pytest.mark.parametrize("role", rights.ROLES)
def test_every_right_of_a_role_is_asked_for(role: str) -> None:
    """What deploy/redis/users.acl grants, but for what has no form that changes nothing."""
    assert rights.commands(role) == granted(role) - WAY - NOT_ASKED


def test_a_login_lacks_nothing_for_its_own_role(place: Place) -> None:
    """Of each user of the file; and to ask changes nothing."""
    place.live()
    before = {key: place.client.dump(key) for key in place.client.keys("*")}
    for role in rights.ROLES:
        place.as_user(user=role)
        ran = place.cli("doctor", "--role", role)
        assert (ran.code, ran.out.split()) == (0, ["ROLE", "LACKS", role, "nothing"]), ran.err
    assert {key: place.client.dump(key) for key in place.client.keys("*")} == before


def test_what_a_login_lacks_is_named(place: Place) -> None:
    """By role: exit 1 for the one that was asked for; `any` shows of each what it lacks."""
    place.live()
    place.as_user("-xadd", user="producer")
    ran = place.cli("doctor", "--role", "producer", "--json")
    assert (ran.code, ran.object()) == (1, {"role": "producer", "lacks": [f"xadd on {STREAM}"]})
    ran = place.cli("doctor", "--role", "any", "--json")
    assert ran.code == 0
    lacks = {one["role"]: one["lacks"] for one in ran.objects()}
    assert lacks.keys() == rights.ROLES.keys()
    assert "time" in lacks["controller"]


def test_an_unknown_role_is_refused(place: Place) -> None:
    """With those that there are."""
    ran = place.cli("doctor", "--role", "root")
    assert (ran.code, "producer" in ran.err) == (2, True)
