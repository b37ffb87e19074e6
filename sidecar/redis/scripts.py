"""The Lua scripts beside this file, as redis-py sends them."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from redis.commands.core import Script

from sidecar.redis.client import Client

# Read at the start: later there may be no descriptor left to open a file with.
_SOURCES: Final = {
    file.name.removesuffix(".lua"): file.read_text()
    for file in files("sidecar.redis").joinpath("lua").iterdir()
}


def script_of(client: Client, name: str) -> Script:
    """Return the script `name`, to be run on `client`."""
    return client.register_script(_SOURCES[name])


def noting(client: Client) -> Script:
    """Return the script that notes a field of a hash, also where no memory is left."""
    return script_of(client, "note")
