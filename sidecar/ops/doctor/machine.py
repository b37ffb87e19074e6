"""What can be wrong with the process's own surroundings: its secrets, its directories."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from sidecar.ops.doctor.finding import Check, Level, Told
from sidecar.worker.exposed import exposed, secret_files
from sidecar.worker.settings import Settings

_MOUNTED: Final = Path("/run/secrets")
"""Where Compose mounts secrets as they are, in a container that has no other users."""


class Surroundings(NamedTuple):
    """What a process is told, and by what."""

    settings: Settings
    environment: Mapping[str, str]


def _secret_files(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the files with secrets, and what names each."""
    yield from secret_files(environment)
    for name, value in environment.items():
        if name in ("SIDECAR_REDIS", "SIDECAR_NOTIFY_REDIS"):
            for path in parse_qs(urlsplit(value).query).get("ssl_keyfile", ()):
                yield f"ssl_keyfile of {name}", Path(path)


def _is_open(path: Path) -> bool:
    """Tell whether others may read the file, and go through each directory that leads to it."""
    above = path.absolute().parents
    return bool(path.stat().st_mode & stat.S_IROTH) and all(
        directory.stat().st_mode & stat.S_IXOTH for directory in above
    )


def _readable(about: Surroundings) -> Iterator[Told]:
    for name, path in sorted(_secret_files(about.environment)):
        with suppress(OSError):
            if _MOUNTED not in path.parents and _is_open(path):
                yield Told(
                    f"{path} ({name}) can be read by every user of this host",
                    f"chmod o-rwx {path}, or its directory",
                )


def _writable(about: Surroundings) -> Iterator[Told]:
    for one in exposed(about.settings, about.environment):
        yield Told(one.what, one.fix)


CHECKS: Final[tuple[Check[Surroundings], ...]] = (
    Check("readable-secret", Level.WARNING, "others may do with the password what its user may",
          _readable),
    Check("writable-by-all", Level.WARNING, "others may put theirs in its place, or fill it",
          _writable),
)  # fmt: skip
