"""Whether a stream can take more entries: above the highest ID that there is, none can follow.

Anybody who may append can give such an ID, and so can `XSETID`. It stops producers, publishing or
dead letters, until somebody sets the stream right.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from sidecar.errors import SidecarError
from sidecar.redis.client import Client, Side
from sidecar.redis.errors import Refused, is_misplaced, translated
from sidecar.redis.keys import Keys, records_of
from sidecar.redis.scan import stream_info
from sidecar.wire.ids import HIGHEST, HIGHEST_VERSION

_ENTRIES: Final = "no entry, or hardly any, can be appended"
_WHATS: Final = {
    "notifications": "nothing can be published", "records": "nothing can be put on record",
}  # fmt: skip
_COPY: Final = (
    "copy its other entries into a stream that takes its name (docs/operating.md, `A stream that"
    " takes no more entries`)"
)


class NoRoom(SidecarError):
    """A stream takes no more entries until somebody sets it right."""


def no_room(client: Client, stream: str, kind: str) -> list[NoRoom]:
    """Return why a stream takes no more entries, if it does not. Raises `RedisError`.

    `kind` is one of `retention.KINDS`, or "records": the IDs of notifications are control_versions.
    """
    info = stream_info(client, stream)
    if info is None:
        return []
    is_last_version = kind == "notifications" and info.last_id.control_version >= HIGHEST_VERSION
    if not is_last_version and info.last_id.ms < HIGHEST:
        return []
    what = _WHATS.get(kind, _ENTRIES)
    remake = f'stop its workers, then `sidecar stream remake {shlex.quote(stream)} --reason "…"`'
    return [NoRoom(
        f"the stream {stream} was given the ID {info.last_id}, after which {what};"
        f" {remake if kind == 'control' else _COPY}"
    )]  # fmt: skip


def _no_room_for(records: str, client: Client) -> list[NoRoom]:
    try:
        return no_room(client, records, "records")
    except Refused as error:
        if not is_misplaced(error):  # what is no stream is told as damage
            raise
        return []


def without_room(control: Side, notify: Side, keys: Sequence[Keys]) -> list[NoRoom]:
    """Return why streams of a deployment take no more entries. Raises as `translated`."""
    with translated(notify.url):
        found = no_room(notify.client, keys[0].notifications, "notifications")
        found += no_room(notify.client, keys[0].dead, "dead")
        for records in records_of(keys[0]):
            found += _no_room_for(records, notify.client)
    with translated(control.url):
        for one in keys:
            found += no_room(control.at(one.control), one.control, "control")
    return found


def check_room(client: Client, stream: str, kind: str) -> None:
    """Raise `NoRoom` where a stream takes no more entries. Raises `RedisError`."""
    for found in no_room(client, stream, kind):
        raise found
