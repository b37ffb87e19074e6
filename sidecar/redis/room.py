"""Whether a stream can take more entries: above the highest ID that there is, none can follow.

Anybody who may append can give such an ID, and so can `XSETID`. It stops producers, publishing or
dead letters, until somebody sets the stream right.
"""

from __future__ import annotations

from typing import Final

from sidecar.errors import SidecarError
from sidecar.redis.client import Client
from sidecar.redis.scan import stream_info
from sidecar.wire.ids import HIGHEST, HIGHEST_VERSION

_VERSIONS: Final = "nothing can be published"
_ENTRIES: Final = "no entry, or hardly any, can be appended"


class NoRoom(SidecarError):
    """A stream takes no more entries until somebody sets it right."""


def no_room(client: Client, stream: str, *, versions: bool) -> list[NoRoom]:
    """Return why a stream takes no more entries, if it does not. Raises `RedisError`.

    `versions`: its IDs are control_versions.
    """
    info = stream_info(client, stream)
    if info is None:
        return []
    is_last_version = versions and info.last_id.control_version >= HIGHEST_VERSION
    if not is_last_version and info.last_id.ms < HIGHEST:
        return []
    what = _VERSIONS if versions else _ENTRIES
    return [NoRoom(
        f"the stream {stream} was given the ID {info.last_id}, after which {what}, until its other"
        " entries are copied into a stream that takes its name (docs/operating.md)"
    )]  # fmt: skip


def check_room(client: Client, stream: str, *, versions: bool) -> None:
    """Raise `NoRoom` where a stream takes no more entries. Raises `RedisError`."""
    for found in no_room(client, stream, versions=versions):
        raise found
