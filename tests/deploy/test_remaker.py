"""The login that README.md makes for `sidecar stream remake` does that, and is enough."""

from __future__ import annotations

import re
from contextlib import closing

import pytest
import redis

from sidecar.ops.remake import Remake
from sidecar.redis.client import Side
from tests.deploy.harness import ALSO_ON_A_CLUSTER, DEPLOY, KEYS, NOTIFY_STREAM, STREAM, Server

pytestmark = pytest.mark.server


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_the_remaker_remakes(server: Server) -> None:
    """With these rights, and no more, a stream without room for IDs is made anew."""
    (line,) = re.findall(r"^ +ACL SETUSER (remaker .*)$", (DEPLOY / "README.md").read_text(), re.M)
    server.call("admin", "ACL", "SETUSER", *line.split())
    highest = f"{2**64 - 1}-{2**64 - 1}"
    server.call("admin", "XGROUP", "CREATE", STREAM, KEYS.group, "0-0", "MKSTREAM")
    server.call("producer", "XADD", STREAM, highest, "event", "{}")
    with pytest.raises(redis.ResponseError):
        server.call("producer", "XADD", STREAM, "*", "event", "{}")
    scheme = "redis+cluster" if server.is_cluster else "redis"
    url = f"{scheme}://remaker:PASSWORD@127.0.0.1:{server.port}"
    control, notify = Side.open(url, STREAM), Side.open(url, NOTIFY_STREAM)
    with closing(control.client), closing(notify.client):
        assert Remake(control, notify, KEYS, reason="r", by="me").run().copied == 1
    assert server.call("producer", "XADD", STREAM, "*", "event", "{}")
    assert server.call("admin", "XLEN", STREAM) == 2
    assert server.denials() == set()
