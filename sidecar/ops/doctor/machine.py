"""What can be wrong with the process's own surroundings: its secrets."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from sidecar.ops.doctor.finding import Check, Level, Told

_PREFIX: Final = "SIDECAR_"
_FILE: Final = "_FILE"
_MOUNTED: Final = Path("/run/secrets")
"""Where Compose mounts secrets as they are, in a container that has no other users."""


def _secret_files(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the files with secrets, and what names each."""
    for name, value in environment.items():
        if name.startswith(_PREFIX) and name.endswith(_FILE):
            yield name, Path(value)
        if name in ("SIDECAR_REDIS", "SIDECAR_NOTIFY_REDIS"):
            for path in parse_qs(urlsplit(value).query).get("ssl_keyfile", ()):
                yield f"ssl_keyfile of {name}", Path(path)


def _is_open(path: Path) -> bool:
    """Tell whether others may read the file, and go through each directory that leads to it."""
    above = path.absolute().parents
    return bool(path.stat().st_mode & stat.S_IROTH) and all(
        directory.stat().st_mode & stat.S_IXOTH for directory in above
    )


def _readable(environment: Mapping[str, str]) -> Iterator[Told]:
    for name, path in sorted(_secret_files(environment)):
        with suppress(OSError):
            if _MOUNTED not in path.parents and _is_open(path):
                yield Told(
                    f"{path} ({name}) can be read by every user of this host",
                    f"chmod o-rwx {path}, or its directory",
                )


CHECKS: Final[tuple[Check[Mapping[str, str]], ...]] = (
    Check("readable-secret", Level.WARNING, "others may do with the password what its user may",
          _readable),
)  # fmt: skip
