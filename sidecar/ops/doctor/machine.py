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


def _secret_files(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the files with secrets, and what names each."""
    for name, value in environment.items():
        if name.startswith(_PREFIX) and name.endswith(_FILE):
            yield name, Path(value)
        if name in ("SIDECAR_REDIS", "SIDECAR_NOTIFY_REDIS"):
            for path in parse_qs(urlsplit(value).query).get("ssl_keyfile", ()):
                yield f"ssl_keyfile of {name}", Path(path)


def _readable(environment: Mapping[str, str]) -> Iterator[Told]:
    for name, path in sorted(_secret_files(environment)):
        with suppress(OSError):
            if path.stat().st_mode & stat.S_IROTH:
                yield Told(
                    f"{path} ({name}) can be read by every user of this host",
                    f"chmod o-rwx {path}; in Kubernetes, defaultMode: 0440",
                )


CHECKS: Final[tuple[Check[Mapping[str, str]], ...]] = (
    Check("readable-secret", Level.WARNING, "every user of this host can read the password",
          _readable),
)  # fmt: skip
