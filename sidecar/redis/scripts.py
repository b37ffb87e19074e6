"""The Lua scripts beside this file, as redis-py sends them.

Workers load what they send. People's commands send scripts, too, by their hash alone: their users
may load none, for one that never ends keeps Redis from everybody. Workers load these for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from redis.commands.core import Script
from redis.exceptions import NoPermissionError, NoScriptError

from sidecar.errors import SidecarError
from sidecar.redis.client import Client

# Read at the start: later there may be no descriptor left to open a file with.
_TEXTS: Final = {
    file.name: file.read_text() for file in files("sidecar.redis").joinpath("lua").iterdir()
}
_SOURCES: Final = {
    name.removesuffix(".lua"): re.sub(
        r"-- include (\w+)\n", lambda included: _TEXTS[f"{included[1]}.inc"], text
    )
    for name, text in _TEXTS.items()
    if name.endswith(".lua")
}
OF_PEOPLE: Final = (
    "append_again", "send_again", "pause", "resume", "pause_tenant", "resume_tenant",
)  # fmt: skip
"""What commands send, as users of `deploy/redis/users.acl` that may load no script."""


def script_of(client: Client, name: str) -> Script:
    """Return the script `name`, to be run on `client`."""
    return client.register_script(_SOURCES[name])


def noting(client: Client) -> Script:
    """Return the script that notes a field of a hash, also where no memory is left."""
    return script_of(client, "note")


def run_for_people(client: Client, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:  # noqa: ANN401 -- Lua
    """Run a script of `OF_PEOPLE`.

    Raises `SidecarError` when the server does not have it and this user may not load it.
    """
    try:
        return script_of(client, name)(keys=keys, args=args)
    except NoPermissionError as error:
        if not isinstance(error.__context__, NoScriptError):
            raise
        raise SidecarError(
            f"the server does not have the script {name!r}, and this Redis user may not load it;"
            " start a worker of this release, which loads it at once, then try again"
        ) from error


class Shelf:
    """Keeps the scripts of people's commands loaded on one server."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._scripts = [script_of(client, name) for name in OF_PEOPLE]

    def fill(self) -> None:
        """Load what the server lacks: it restarted, another took over, or somebody flushed them.

        Raises `RedisError`.
        """
        there: Any = self._client.script_exists(*(script.sha for script in self._scripts))
        for script, is_there in zip(self._scripts, there, strict=True):
            if not is_there:
                self._client.script_load(script.script)
