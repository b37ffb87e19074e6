"""What the deduplication index knows to be finished: by its event, or by where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sidecar.redis.publisher import Seen, is_dead, origin_digest
from sidecar.redis.source import Entry
from sidecar.wire.identity import identity_digest, identity_of
from sidecar.wire.ids import Origin

NO_EVENT = bytes(16)
"""Stands for the digest of an event_id where there is none."""


def former_mark(event_digest: bytes) -> bytes:
    """Return the digest under which a repair of an older release marked an event as sent again."""
    return identity_digest("sent again " + event_digest.hex())


def is_finished(
    entry: Entry, content: bytes, event: Seen | None, origin: Seen | None,
    mark: Seen | None = None, again: bytes | None = None,
) -> bool:  # fmt: skip
    """Tell by what the index knows whether an entry, with this content, has its end.

    `again` is the content with which a repair sent its event again: earlier entries of it are
    finished all the same.
    """
    if is_dead(origin, entry):
        return True
    known = (one.content_digest for one in (event, mark) if one is not None)
    return again == content or content in known


def unfinished(
    stream: str,
    entries: Sequence[Entry],
    seen: Callable[[Sequence[bytes]], list[Seen | None]],
    sent_again: Callable[[Sequence[bytes]], list[bytes | None]],
) -> Iterator[Entry]:
    """Yield those entries of a control stream that the index does not know to be finished.

    `seen` looks digests up, `sent_again` those of event_ids; what they raise, this raises.
    """
    digests: list[bytes] = []
    events, contents = [], []
    for entry in entries:
        origin = origin_digest(Origin.of(stream, entry.id))
        event, content = identity_of(entry.fields)
        digests += (event or origin, origin, former_mark(event) if event else origin)
        events.append(event or NO_EVENT)
        contents.append(content)
    found = iter(seen(digests))
    again = sent_again(events)
    for entry, content, *known in zip(entries, contents, found, found, found, again, strict=True):
        if not is_finished(entry, content, *known):
            yield entry
