"""What of a worker every user of its host may write to, and so replace or fill.

A warning, no refusal: a volume of a container is often open to all, and nobody else is there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from structlog.typing import FilteringBoundLogger

from sidecar.worker.settings import Settings

_PREFIX: Final = "SIDECAR_"
_FILE: Final = "_FILE"
_POD: Final = "KUBERNETES_SERVICE_HOST"
"""Where this is set, a volume is a container's: it has no other users."""


class Exposed(NamedTuple):
    """A path that others may write to, and what names it."""

    path: Path
    named: str

    @property
    def what(self) -> str:
        """Say what is wrong."""
        return f"every user of this host may write to {self.path} ({self.named})"

    @property
    def fix(self) -> str:
        """Say what to do."""
        return f"chmod o-w {self.path}"


def exposed(settings: Settings, environment: Mapping[str, str]) -> list[Exposed]:
    """Return what others may write to: data directory, stores, files with secrets, or above."""
    found: dict[Path, Exposed] = {}
    own = [(named, path) for named, path in _directories(settings) if path.is_dir()]
    for named, path in [*own, *sorted(secret_files(environment))]:
        with suppress(OSError):  # it is not there yet, and will be made for its owner to write
            for one in _open_to_writers(path.absolute()):
                if not (_POD in environment and os.path.ismount(one)):
                    found.setdefault(one, Exposed(one, named))
    return list(found.values())


def warn_of_writers(
    settings: Settings, environment: Mapping[str, str], log: FilteringBoundLogger
) -> None:
    """Log a line for each."""
    for one in exposed(settings, environment):
        log.warning("others may write", detail=f"{one.what}; {one.fix}")


def secret_files(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the variables that name a file with a secret, and the file."""
    for name, value in environment.items():
        if name.startswith(_PREFIX) and name.endswith(_FILE):
            yield name, Path(value)


def _directories(settings: Settings) -> Iterator[tuple[str, Path]]:
    if not (settings.redis and settings.source_store and settings.fleet_store):
        yield "--data-dir", settings.data_dir
    stores = {"--source-store": settings.source_url, "--fleet-store": settings.fleet_url}
    for option, url in stores.items():
        parts = urlsplit(url)
        if parts.scheme.endswith("file"):
            yield option, Path(unquote(parts.path))


def _open_to_writers(path: Path) -> Iterator[Path]:
    """Yield the path, or what is above it, where others may write to it and get there.

    In a sticky directory, as /tmp is, nobody can replace what is another's.
    """
    above = [*path.parents]
    if not all(directory.stat().st_mode & stat.S_IXOTH for directory in above):
        return
    if path.stat().st_mode & stat.S_IWOTH:
        yield path
    for directory in above:
        mode = directory.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield directory
