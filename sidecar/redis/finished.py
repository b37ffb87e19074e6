"""What the deduplication index knows to be finished: by its event, or by where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sidecar.redis.publisher import BURIED, Seen, origin_digest
from sidecar.redis.source import Entry
from sidecar.wire.identity import identity_digest, identity_of
from sidecar.wire.ids import Origin


def sent_again_digest(event_digest: bytes) -> bytes:
    """Return the digest under which the index remembers that a repair sent an event again.

    The index has to forget such an event. Its first entry, and its duplicates, are finished all
    the same.
    """
    return identity_digest("sent again " + event_digest.hex())


def is_finished(
    content: bytes, event: Seen | None, origin: Seen | None, sent_again: Seen | None = None
) -> bool:
    """Tell by what the index knows whether an entry with this content has its end."""
    if origin is not None and origin.content_digest == BURIED:
        return True
    return any(one is not None and one.content_digest == content for one in (event, sent_again))


def unfinished(
    stream: str,
    entries: Sequence[Entry],
    seen: Callable[[Sequence[bytes]], list[Seen | None]],
) -> Iterator[Entry]:
    """Yield those entries of a control stream that the index does not know to be finished.

    `seen` looks digests up; what it raises, this raises.
    """
    digests: list[bytes] = []
    contents = []
    for entry in entries:
        origin = origin_digest(Origin.of(stream, entry.id))
        event, content = identity_of(entry.fields)
        digests += (event or origin, origin, sent_again_digest(event) if event else origin)
        contents.append(content)
    found = iter(seen(digests))
    for entry, content, *known in zip(entries, contents, found, found, found, strict=True):
        if not is_finished(content, *known):
            yield entry
