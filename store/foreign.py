"""What lies in a store and is not its own: the one rule of all walks of all backends.

Shape first: a name that no Put can have written is foreign, whatever it holds. It is no damage: a
console's folder marker, a desktop's `.DS_Store`, an NFS client's `.nfs…`, an editor's copy. It is
passed over by all walks, and reported once, by `verify`. It is neither read nor moved nor removed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from store.contract import Checked
from store.refs import decode_name

_RECORD = re.compile(r"([^@]+)@(?:([0-9a-f]{64})\.([0-9a-f]{64}))?")
_OF_TOOLS = {
    "lost+found", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information",
    "#snapshot", "#recycle", "@eaDir",
}  # fmt: skip


class RecordName(NamedTuple):
    """The name of a record's file, taken apart; without digests it is a ref's current one."""

    leaf: str
    data_digest: str | None
    manifest_digest: str | None


def record_name(name: str) -> RecordName | None:
    """Take a name apart; None when no record is called so."""
    found = _RECORD.fullmatch(name)
    return RecordName(*found.groups()) if found and is_segment(found[1]) else None


def is_segment(name: str) -> bool:
    """Tell whether `encode_segment` can have made this name."""
    try:
        decode_name(name)
    except ValueError:
        return False
    return True


def is_of_tools(name: str) -> bool:
    """Tell whether file systems, desktops and consoles leave this by themselves, unasked.

    Where there is nothing else, a place is empty: a store can be made there.
    """
    return name.startswith(".") or name in _OF_TOOLS


def foreign(where: str) -> Checked:
    """Return what `verify` says of it."""
    return Checked(where, None, 0, None, is_foreign=True)
