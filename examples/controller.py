"""A fleet controller: keeps a SQLite database equal to what one tenant's producer has.

    python examples/controller.py REDIS_URL STORE_URL DATABASE TENANT

From nothing it begins with the newest snapshot, an artifact with all rows, and goes on from there;
later from its own cursor. It may be killed at any moment: rows and cursor move in one transaction.
"""

import json
import sqlite3
import sys

import store
from sidecar.feed import Applied, Feed, FeedGap, Notification

SNAPSHOT = "stack.activated"


def apply(db: sqlite3.Connection, feed: Feed, n: Notification) -> None:
    """Bring one change into the database."""
    data = feed.resolve(n).data  # verified, and pinned: whatever was put at the ref since
    rows = json.loads(data) if n.type == SNAPSHOT else {n.artifact_ref: data.decode()}
    if n.type == SNAPSHOT:
        db.execute("DELETE FROM rows")
    db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", rows.items())


def bootstrap(db: sqlite3.Connection, feed: Feed, applied: Applied) -> None:
    """Begin with the newest snapshot there is, or else with the oldest notification."""
    newest = None
    while page := feed.poll(feed.position):
        newest = next((n for n in reversed(page) if n.type == SNAPSHOT), newest)
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS rows (ref TEXT PRIMARY KEY, value TEXT)")
        applied.move_to(newest.control_version if newest else 0)
        if newest:
            apply(db, feed, newest)


def main(redis_url: str, store_url: str, path: str, tenant: str) -> None:
    """Follow for ever."""
    db = sqlite3.connect(path)
    applied = Applied(db)
    while True:
        feed = Feed(redis_url, store=store.open_url(store_url), tenant=tenant, reader=tenant)
        try:
            if not applied.cursor:
                bootstrap(db, feed, applied)
            for n in feed.follow(since=applied.cursor):
                with db:
                    if applied.is_news(n) and n.artifact_ref:
                        apply(db, feed, n)
                feed.passed(n.control_version)  # it may be trimmed now
        except FeedGap:
            applied.move_to(0)  # what came in between is gone: begin again


if __name__ == "__main__":
    main(*sys.argv[1:5])
