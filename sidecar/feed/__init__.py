"""The feed, for fleet controllers: notifications in order, and the artifacts they pin.

    feed = Feed("redis://…", store=store.open_url("s3://…"))
    for n in feed.follow(since=cursor):
        data, manifest = feed.resolve(n)
        apply(n.event_id, n.type, n.tenant_id, n.version, data)
        cursor = n.control_version

`AsyncFeed` has the same names, to be awaited. A controller keeps its cursor with what it applied,
in one transaction (`Applied`), or beside it (`FileCursor`, `RedisCursor`); a notification that it
has applied already is known by its `event_id`. docs/feed.md has the whole of it.
"""

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.feed.blocking import Feed
from sidecar.feed.cache import Cache, CacheFigures
from sidecar.feed.coroutines import AsyncFeed
from sidecar.feed.cursors import Applied, FileCursor, RedisCursor
from sidecar.feed.reading import Batch, FeedGap, ForeignEntry
from sidecar.feed.state import State, StateBegins, StateEnds
from sidecar.wire.erasures import Erased
from sidecar.wire.incarnations import Cursor
from sidecar.wire.notification import Notification
from sidecar.wire.trust import Trust, Untrusted

__all__ = [
    "Applied", "AsyncFeed", "Batch", "Cache", "CacheFigures", "Cursor", "Erased", "Feed",
    "FeedGap", "FileCursor", "ForeignEntry", "Notification", "RedisCursor", "SidecarError", "State",
    "StateBegins", "StateEnds", "Trust", "Unreachable", "Untrusted", "UsageError",
]  # fmt: skip
