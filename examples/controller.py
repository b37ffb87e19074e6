"""Usage: python examples/controller.py REDIS_URL STORE_URL DATABASE TENANT.

A fleet controller: keeps a SQLite database equal to what one tenant's producer has.
"""

import json
import sqlite3
import sys

import store
from sidecar.feed import Applied, Feed, FeedGap, Notification

SNAPSHOT = "stack.activated"


def apply(db: sqlite3.Connection, feed: Feed, n: Notification) -> None:
    """Bring one change into the database; end at one that cannot be read, lest it is missed."""
    data = feed.resolve(n).data  # verified, and pinned: whatever was put at the ref since
    try:
        rows = json.loads(data) if n.type == SNAPSHOT else {n.artifact_ref: data.decode()}
        if n.type == SNAPSHOT:
            db.execute("DELETE FROM rows")
        db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", rows.items())
    except (AttributeError, ValueError, sqlite3.ProgrammingError) as error:
        sys.exit(f"{n.event_id}: {n.artifact_ref} is no {n.type} of rows ({error}); not applied")


def bootstrap(db: sqlite3.Connection, feed: Feed, applied: Applied) -> int:
    """Begin with the state: the newest snapshot, and the newest of each row."""
    state = feed.state()
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS rows (ref TEXT PRIMARY KEY, value TEXT)")
        applied.move_to(0)
        for n in (n for n in state if applied.is_news(n) and n.artifact_ref):
            apply(db, feed, n)
        applied.advance(state.cursor)
    return applied.cursor


def main(redis_url: str, store_url: str, path: str, tenant: str) -> None:
    """Follow for ever; killed at any moment, for rows and cursor move in one transaction."""
    applied = Applied(db := sqlite3.connect(path))
    while True:
        feed = Feed(redis_url, store=store.open_url(store_url), tenant=tenant, reader=tenant)
        try:
            for batch in feed.batches(since=applied.cursor or bootstrap(db, feed, applied)):
                with db:
                    for n in (n for n in batch if applied.is_news(n) and n.artifact_ref):
                        apply(db, feed, n)
                    applied.advance(batch.cursor)  # over what is of other tenants, too
                feed.passed(batch.cursor)  # it may be trimmed now
        except FeedGap:
            with db:
                applied.move_to(0)  # what came in between is gone: begin again


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 5 else sys.exit(__doc__)
