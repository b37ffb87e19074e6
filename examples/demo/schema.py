"""The control plane's tables, and the two ways they travel: whole as a dump, or rows by tenant."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

STATE: Final = """
    PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON;
    CREATE TABLE tenants (tenant_id TEXT PRIMARY KEY, name, plan, region, created_at) WITHOUT ROWID;
    CREATE TABLE revisions (tenant_id TEXT REFERENCES tenants, topic TEXT, revision INTEGER,
      PRIMARY KEY (tenant_id, topic)) WITHOUT ROWID;
"""
COLUMNS: Final = {
    "stacks": ("stack_id", "version", "definition", "activated_at"),
    "hostnames": ("hostname", "stack_id", "state", "bound_at"),
    "members": ("member_id", "email", "role", "joined_at"),
    "actors": ("actor_id", "kind", "label", "last_seen"),
    "keys": ("key_id", "algorithm", "public_key", "state", "created_at"),
    "entitlements": ("feature", "allowed", "used"),
    "dns_zones": ("zone", "serial", "records"),
    "cron_settings": ("job", "schedule", "enabled"),
    "runs": ("run_id", "stack_id", "state"),
}
"""The tables with a tenant's rows; their first column tells the rows of one tenant apart."""
CONTROL: Final = STATE + "".join(
    f"CREATE TABLE {table} (tenant_id TEXT REFERENCES tenants, {', '.join(columns)},"
    f" PRIMARY KEY (tenant_id, {columns[0]})) WITHOUT ROWID;"
    for table, columns in COLUMNS.items()
)
"""Every table has its rows in key order, so that equal content gives equal dumps."""

FLEET: Final = """
    PRAGMA journal_mode=WAL;
    CREATE TABLE IF NOT EXISTS fleet_state (
      one INTEGER PRIMARY KEY, base INTEGER, misfits INTEGER, resolved_bytes INTEGER);
    INSERT OR IGNORE INTO fleet_state VALUES (1, -1, 0, 0);
"""
OWN_TABLES: Final = (
    "fleet_state", "sidecar_applied", "sidecar_cursor", "sidecar_incarnation", "sidecar_outbox",
    "sidecar_outbox_format",
)  # fmt: skip
"""What a node keeps for itself: no snapshot has it, and no comparison."""


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a database: explicit transactions, patience with other writers."""
    db = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def rows_of(db: sqlite3.Connection, table: str, tenant_id: str) -> bytes:
    """Return the artifact of one tenant's rows in `table`, as they are now."""
    query = f"SELECT * FROM {table} WHERE tenant_id = ? ORDER BY 2"
    rows = db.execute(query, (tenant_id,)).fetchall()
    return json.dumps({"table": table, "tenant_id": tenant_id, "rows": rows}).encode()


def apply_rows(db: sqlite3.Connection, data: bytes) -> None:
    """Make one tenant's rows what the artifact says. Doing it again changes nothing."""
    body: dict[str, Any] = json.loads(data)
    table, rows = body["table"], body["rows"]
    if table not in COLUMNS:
        raise ValueError(f"{table!r} is no table whose rows travel")
    db.execute(f"DELETE FROM {table} WHERE tenant_id = ?", (body["tenant_id"],))
    marks = ",".join("?" * len(rows[0])) if rows else ""
    db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def dump(db: sqlite3.Connection) -> bytes:
    """Return what `.dump` prints of a database, without what a node keeps for itself."""
    with closing(connect(":memory:")) as copy:
        db.backup(copy)
        for table in OWN_TABLES:
            copy.execute(f"DROP TABLE IF EXISTS {table}")
        left = 'DELETE FROM "sqlite_sequence";'  # of the outbox
        return "\n".join(line for line in copy.iterdump() if line != left).encode() + b"\n"


def digest(path: Path) -> str:
    """Return the SHA-256 of a database's dump."""
    with closing(connect(path)) as db:
        return hashlib.sha256(dump(db)).hexdigest()


def row_counts(path: Path) -> dict[str, int]:
    """Count the rows of every table that a snapshot has."""
    with closing(connect(path)) as db:
        names = ("tenants", "revisions", *COLUMNS)
        return {n: db.execute(f"SELECT count(*) FROM {n}").fetchone()[0] for n in names}


def control_version(db: sqlite3.Connection) -> int:
    """Return how many changes this database has seen."""
    return int(db.execute("SELECT coalesce(sum(revision), 0) FROM revisions").fetchone()[0])


def revision(db: sqlite3.Connection, tenant_id: str, topic: str) -> int:
    """Return the revision of one tenant's topic; 0 when it was never changed."""
    query = "SELECT coalesce(max(revision), 0) FROM revisions WHERE tenant_id = ? AND topic = ?"
    return int(db.execute(query, (tenant_id, topic)).fetchone()[0])


def set_revision(db: sqlite3.Connection, tenant_id: str, topic: str, value: int) -> None:
    """Note the revision of one tenant's topic."""
    db.execute("INSERT OR REPLACE INTO revisions VALUES (?, ?, ?)", (tenant_id, topic, value))
