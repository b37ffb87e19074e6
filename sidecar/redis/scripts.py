"""The Lua scripts beside this file, as redis-py sends them."""

from __future__ import annotations

from importlib.resources import files

from redis.commands.core import Script

from sidecar.redis.client import Client


def script_of(client: Client, name: str) -> Script:
    """Return the script `name`, to be run on `client`."""
    source = files("sidecar.redis").joinpath("lua", f"{name}.lua").read_text()
    return client.register_script(source)


def noting(client: Client) -> Script:
    """Return the script that notes a field of a hash, also where no memory is left."""
    return script_of(client, "note")
