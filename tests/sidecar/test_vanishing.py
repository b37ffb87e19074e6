"""A stream that somebody deletes while it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

from sidecar.redis.beside import led_to
from sidecar.redis.client import Client
from sidecar.redis.damage import trimmed_of
from sidecar.redis.groups import group_of
from sidecar.redis.keepers import keepers
from sidecar.redis.keys import Keys
from sidecar.redis.scan import stream_info
from tests.sidecar.harness import Rig

KEYS = Keys.of("control", "notes")


class Vanishing(redis.Redis):
    """A connection beside which a stream is deleted as soon as it was found."""

    def exists(self, *names: Any) -> Any:
        """Tell whether they are there, and delete them."""
        found = super().exists(*names)
        self.delete(*names)
        return found


ASKED: list[tuple[Callable[[Client], object], object]] = [
    (partial(stream_info, stream="notes"), None),
    (partial(group_of, stream="notes", group="g"), None),
    (partial(led_to, stream="notes"), []),
    (partial(keepers, stream="notes"), []),
    (partial(trimmed_of, keys=KEYS, stream="notes"), "1-0"),
]


@pytest.mark.server
@pytest.mark.parametrize(("asked", "answer"), ASKED, ids=lambda one: getattr(one, "func", one))
def test_a_stream_that_goes_in_between_is_one_that_is_not_there(
    rig: Rig, asked: Callable[[Client], object], answer: object
) -> None:
    """What is asked about it is answered, and no error of the server's comes through."""
    rig.client.xadd("notes", {"event": "{}"}, id="5-0")
    rig.client.hset(KEYS.trimmed, "notes", "1-0")
    with Vanishing.from_url(rig.url) as client:
        asked(client)
        client.delete("notes")
        assert asked(client) == answer
