"""Whether anything went of a stream since the sidecar trimmed it: told by counting.

`{N}:trimmed` has, by stream, the highest ID that trimming took. What people trim nobody notes, so
who stands at that very ID could not tell whether what came next was trimmed by hand. So the hash
has beside it, in the field `gone STREAM`, that ID once more, and how many of all entries that the
stream ever had were gone with it. Where more are gone, somebody took them. Redis counts entries
since 7.0: before, nobody can tell, and nothing is noted.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.damage import or_else, trimmed_of
from sidecar.redis.keys import Keys
from sidecar.redis.scan import StreamInfo
from sidecar.redis.scripts import script_of
from sidecar.wire.ids import FIRST, EntryId

_GONE: Final = re.compile(rb"(\S{3,41}) ([0-9]{1,17})")


def gone_field(stream: str) -> str:
    """Return the field of `{N}:trimmed` that has how many entries of a stream were gone."""
    return f"gone {stream}"


def note_trimmed(
    notify: Client, keys: Keys, stream: str, last: EntryId, gone: int | None = None
) -> None:
    """Note that the entries up to `last` go, and how many are gone then, if that is known.

    Raises `RedisError`.
    """
    args: list[Any] = [stream, *last.pair, gone_field(stream), "" if gone is None else gone]
    script_of(notify, "note_trimmed")(keys=[keys.trimmed], args=args)


def went_since(noted: bytes | None, mark: EntryId, gone: int | None) -> bool:
    """Tell whether entries went since trimming took `mark`; False where nobody can tell.

    `noted` is what the field says, `gone` how many are gone now: of this moment, or of an earlier.
    """
    words = _GONE.fullmatch(noted or b"")
    if words is None or gone is None or words[1] != mark.encode():
        return False
    return gone > int(words[2])


def taken_by_hand(notify: Client, keys: Keys, stream: str, info: StreamInfo) -> bool:
    """Tell whether somebody took entries since the sidecar trimmed the stream; as `went_since`.

    `info` was read before this is called. Raises `RedisError`.
    """
    noted: Any = or_else(None, lambda: notify.hget(keys.trimmed, gone_field(stream)))
    mark = or_else(None, lambda: trimmed_of(notify, keys, stream)) or FIRST
    return went_since(noted, mark, info.gone)
