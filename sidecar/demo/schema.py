"""The control plane's tables, and the three ways they travel: dump, row artifact, stack."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import orjson

CONTROL_MODEL_VERSION: Final = 1
CACHE_SCHEMA_VERSION: Final = 1

MIGRATIONS: Final = (
    """
    CREATE TABLE control_state (
      one INTEGER PRIMARY KEY CHECK (one = 1), control_version INTEGER NOT NULL);
    INSERT INTO control_state VALUES (1, 0);
    CREATE TABLE tenants (
      tenant_id TEXT PRIMARY KEY, name TEXT NOT NULL, plan TEXT NOT NULL, region TEXT NOT NULL,
      created_at TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE revisions (
      tenant_id TEXT NOT NULL REFERENCES tenants, topic TEXT NOT NULL, revision INTEGER NOT NULL,
      PRIMARY KEY (tenant_id, topic)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE stacks (
      tenant_id TEXT NOT NULL REFERENCES tenants, stack_id TEXT NOT NULL,
      active_version INTEGER NOT NULL, activated_at TEXT NOT NULL,
      PRIMARY KEY (tenant_id, stack_id)) WITHOUT ROWID;
    CREATE TABLE stack_versions (
      tenant_id TEXT NOT NULL REFERENCES tenants, stack_id TEXT NOT NULL,
      version INTEGER NOT NULL, definition TEXT NOT NULL,
      PRIMARY KEY (tenant_id, stack_id, version)) WITHOUT ROWID;
    CREATE TABLE runs (
      tenant_id TEXT NOT NULL REFERENCES tenants, run_id TEXT NOT NULL, stack_id TEXT NOT NULL,
      state TEXT NOT NULL, PRIMARY KEY (tenant_id, run_id)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE hostnames (
      tenant_id TEXT NOT NULL REFERENCES tenants, hostname TEXT NOT NULL, stack_id TEXT NOT NULL,
      state TEXT NOT NULL, bound_at TEXT NOT NULL,
      PRIMARY KEY (tenant_id, hostname)) WITHOUT ROWID;
    CREATE TABLE dns_zones (
      tenant_id TEXT NOT NULL REFERENCES tenants, zone TEXT NOT NULL, serial INTEGER NOT NULL,
      records TEXT NOT NULL, PRIMARY KEY (tenant_id, zone)) WITHOUT ROWID;
    CREATE TABLE cron_settings (
      tenant_id TEXT NOT NULL REFERENCES tenants, job TEXT NOT NULL, schedule TEXT NOT NULL,
      enabled INTEGER NOT NULL, PRIMARY KEY (tenant_id, job)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE members (
      tenant_id TEXT NOT NULL REFERENCES tenants, member_id TEXT NOT NULL, email TEXT NOT NULL,
      role TEXT NOT NULL, joined_at TEXT NOT NULL,
      PRIMARY KEY (tenant_id, member_id)) WITHOUT ROWID;
    CREATE TABLE actors (
      tenant_id TEXT NOT NULL REFERENCES tenants, actor_id TEXT NOT NULL, kind TEXT NOT NULL,
      label TEXT NOT NULL, last_seen TEXT NOT NULL,
      PRIMARY KEY (tenant_id, actor_id)) WITHOUT ROWID;
    CREATE TABLE keys (
      tenant_id TEXT NOT NULL REFERENCES tenants, key_id TEXT NOT NULL, algorithm TEXT NOT NULL,
      public_key TEXT NOT NULL, state TEXT NOT NULL, created_at TEXT NOT NULL,
      PRIMARY KEY (tenant_id, key_id)) WITHOUT ROWID;
    CREATE TABLE entitlements (
      tenant_id TEXT NOT NULL REFERENCES tenants, feature TEXT NOT NULL,
      allowed INTEGER NOT NULL, used INTEGER NOT NULL,
      PRIMARY KEY (tenant_id, feature)) WITHOUT ROWID;
    """,
)
"""Every table has its rows in key order, so that equal content gives equal dumps."""

OUTBOX: Final = """
    CREATE TABLE outbox (
      control_version INTEGER PRIMARY KEY, event BLOB NOT NULL, ref TEXT NOT NULL, data BLOB,
      manifest BLOB);
"""
FLEET: Final = """
    CREATE TABLE IF NOT EXISTS fleet_state (
      one INTEGER PRIMARY KEY CHECK (one = 1), cursor INTEGER NOT NULL, base INTEGER NOT NULL,
      out_of_order INTEGER NOT NULL, resolved_bytes INTEGER NOT NULL);
    INSERT OR IGNORE INTO fleet_state VALUES (1, 0, -1, 0, 0);
    CREATE TABLE IF NOT EXISTS fleet_applied (
      event_id TEXT PRIMARY KEY, control_version INTEGER NOT NULL, times INTEGER NOT NULL);
"""
OWN_TABLES: Final = ("outbox", "fleet_state", "fleet_applied")
"""What a node keeps for itself: no snapshot has it, and no comparison."""

ROW_TABLES: Final = frozenset({
    "tenants", "hostnames", "members", "actors", "keys", "entitlements", "dns_zones",
    "cron_settings",
})  # fmt: skip
"""Tables whose rows travel tenant by tenant, at the mutable ref `rows/<table>/<tenant>`."""


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a database: explicit transactions, patience with other writers."""
    db = sqlite3.connect(path, timeout=20.0, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def rows_of(db: sqlite3.Connection, table: str, tenant_id: str) -> bytes:
    """Return the row artifact of one tenant's rows in `table`, as they are now."""
    cursor = db.execute(
        f"SELECT * FROM {_checked(table)} WHERE tenant_id = ? ORDER BY 2",  # noqa: S608 -- checked
        (tenant_id,),
    )
    columns = [column[0] for column in cursor.description]
    return orjson.dumps(
        {"table": table, "tenant_id": tenant_id, "columns": columns, "rows": cursor.fetchall()}
    )


def apply_rows(db: sqlite3.Connection, data: bytes) -> None:
    """Make one tenant's rows what the row artifact says. Doing it again changes nothing."""
    body: dict[str, Any] = orjson.loads(data)
    table, width = _checked(body["table"]), len(body["columns"])
    db.execute(f"DELETE FROM {table} WHERE tenant_id = ?", (body["tenant_id"],))  # noqa: S608
    marks = ",".join("?" * width)
    db.executemany(f"INSERT INTO {table} VALUES ({marks})", body["rows"])  # noqa: S608


def apply_stack(db: sqlite3.Connection, tenant_id: str, definition: bytes) -> None:
    """Write a stack's version and make it the active one. Doing it again changes nothing."""
    body: dict[str, Any] = orjson.loads(definition)
    db.execute(
        "INSERT OR REPLACE INTO stack_versions VALUES (?, ?, ?, ?)",
        (tenant_id, body["stack_id"], body["version"], definition.decode()),
    )
    db.execute(
        "INSERT OR REPLACE INTO stacks VALUES (?, ?, ?, ?)",
        (tenant_id, body["stack_id"], body["version"], body["activated_at"]),
    )


def dump(db: sqlite3.Connection) -> bytes:
    """Return what `.dump` prints: the SQL that makes this database."""
    return "\n".join(db.iterdump()).encode() + b"\n"


def restore(data: bytes, path: Path | str) -> sqlite3.Connection:
    """Make a new database of a dump, and return it open."""
    db = connect(path)
    db.executescript(data.decode())
    return db


def shared_content(path: Path) -> bytes:
    """Return the dump of a database without the tables that a node keeps for itself."""
    with closing(connect(path)) as db, closing(connect(":memory:")) as copy:
        db.backup(copy)
        drop_own(copy)
        return dump(copy)


def drop_own(db: sqlite3.Connection) -> None:
    """Remove the tables that a node keeps for itself."""
    for table in OWN_TABLES:
        db.execute(f"DROP TABLE IF EXISTS {table}")


def row_counts(db: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of every table that a snapshot has."""
    names = [
        name
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        if name not in OWN_TABLES
    ]
    return {
        name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608 -- from SQLite
        for name in names
    }


def control_version(db: sqlite3.Connection) -> int:
    """Return how many changes this database has seen."""
    return int(db.execute("SELECT control_version FROM control_state").fetchone()[0])


def revision(db: sqlite3.Connection, tenant_id: str, topic: str) -> int:
    """Return the revision of one tenant's topic; 0 when it was never changed."""
    found = db.execute(
        "SELECT revision FROM revisions WHERE tenant_id = ? AND topic = ?", (tenant_id, topic)
    ).fetchone()
    return int(found[0]) if found else 0


def set_revision(db: sqlite3.Connection, tenant_id: str, topic: str, value: int) -> None:
    """Note the revision of one tenant's topic."""
    db.execute("INSERT OR REPLACE INTO revisions VALUES (?, ?, ?)", (tenant_id, topic, value))


def _checked(table: str) -> str:
    """Let no artifact name a table that is none of its business."""
    if table not in ROW_TABLES:
        raise ValueError(f"{table!r} is no table whose rows travel")
    return table
