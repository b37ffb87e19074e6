"""What `sidecar run` is told, as a group for every command that is told the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import make_dataclass
from typing import Any

from sidecar.terminal.groups import option
from sidecar.worker import settings


def _options() -> Iterator[tuple[str, Any, Any]]:
    """Yield the options that the settings declare, as the fields of a group."""
    for name, default, help_, metavar in settings.options():
        shape: Any = {None: str | None, (): list[str] | None}.get(default, type(default))
        told = option(None if default == () else default, help_, metavar)
        yield name, shape, told


Told = make_dataclass("Told", _options(), frozen=True)
