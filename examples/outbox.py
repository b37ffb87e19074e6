"""Usage: python examples/outbox.py DATABASE NAME=VALUE [NAME=VALUE]...

A producer with a database: each setting and its event are committed together, or not at all. What
sends them: `sidecar outbox run --database DATABASE`.
"""

import json
import sqlite3
import sys

from sidecar.producer import outbox


def change(db: sqlite3.Connection, tenant: str, name: str, value: str) -> None:
    """Set one setting: the row, and the event that tells the fleet of it with the whole of it."""
    with db:  # one transaction
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (tenant, name, value))
        outbox.stage(
            db, type="cron.settings.upserted", tenant_id=tenant,
            ref=f"rows/settings/{tenant}/{name}", data=json.dumps({name: value}).encode(),
        )  # fmt: skip


def main(path: str, *changes: str) -> None:
    """Make each change of tenant t_1."""
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS settings (tenant, name PRIMARY KEY, value)")
        outbox.prepare(db)
    for name, _, value in (one.partition("=") for one in changes):
        change(db, "t_1", name, value)
    db.close()


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)
