"""Where the archive lies in the fleet's store."""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

from sidecar.wire.event import RESERVED

ROOT: Final = RESERVED + "archive"
_MAX_NAME: Final = 200


def escaped(name: str) -> str:
    """Return a stream's name as a segment of a ref, without `@`: what is long, by its digest."""
    text = quote(name, safe="")
    return text if len(text) <= _MAX_NAME else hashlib.sha256(name.encode()).hexdigest()
