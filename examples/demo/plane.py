"""The SQLite control plane: what happens in it, its outbox, its snapshots.

Every change is one transaction that writes the rows, the revision they have now, and the event
with its artifact into the outbox. So an event is there exactly when its change is, and it carries
the rows as that transaction left them.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from examples.demo import schema
from sidecar.producer import outbox
from store import checksum_of

SNAPSHOT_TYPE: Final = "system.opstack.updated"
SNAPSHOT: Final = {
    "kind": "bootstrap.sqlite.dump", "format": "sqlite3dump.sql",
    "control_model_version": 1, "cache_schema_version": 1,
}  # fmt: skip
"""What the manifest of a snapshot says, beside what is its own."""
ROWS: Final = SNAPSHOT | {"kind": "control.rows", "format": "json"}

_WORDS: Final = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "iris")
_NEW: Final = "a new row"
_GONE: Final = "a row less"
_CHANGES: Final = (
    (10, "hostname.bound", "hostnames", _NEW),
    (8, "hostname.verified", "hostnames", "state = 'verified'"),
    (9, "membership.changed", "members", _NEW),
    (3, "membership.changed", "members", _GONE),
    (6, "membership.changed", "members", "role = :word"),
    (12, "key.changed", "keys", _NEW),
    (10, "dns.zone.upserted", "dns_zones", "serial = serial + 1, records = records || :word"),
    (10, "entitlement.updated", "entitlements", "used = used + 1"),
    (8, "actor.changed", "actors", "last_seen = :at"),
    (6, "cron.settings.upserted", "cron_settings", "enabled = 1 - enabled"),
    (14, "stack.activated", "stacks", "version = version + 1, definition = definition || :word"),
    (4, "run.abort", "runs", "state = 'aborted'"),
)
"""How often, the event's type, the table, and what becomes of one of a tenant's rows there."""

_SIZES: Final = {
    "members": 140, "hostnames": 70, "actors": 60, "keys": 48, "runs": 20, "stacks": 9,
    "entitlements": 6, "dns_zones": 4, "cron_settings": 4,
}  # fmt: skip

Outgoing = tuple[dict[str, Any], bytes, bytes]
"""One event, with its ref; then data and manifest of the artifact."""


class Snapshot(NamedTuple):
    """The whole database at one moment."""

    ref: str
    """Of its own, never rewritten."""
    data: bytes
    manifest: bytes
    copy: Path
    """The database as it was then, to compare with."""


class ControlPlane:
    """A control-plane database. One thread at a time may change it; anyone may snapshot it.

    The same `seed` and the same calls give the same content.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.sent = path, 0
        self._seed, self._rng = seed, random.Random(seed)
        self._now = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
        self._db = schema.connect(path)
        self._db.executescript(schema.CONTROL)
        outbox.prepare(self._db)
        self._tenants = [f"t_{number:02d}" for number in range(1, 13)]
        with self._transaction():
            for tenant_id in self._tenants:
                row = (tenant_id, self._word().title(), "team", self._rng.choice(("eu", "us")))
                self._insert("tenants", *row, self._now.isoformat())
                for table, size in _SIZES.items():
                    for _ in range(self._rng.randint(size * 2 // 3, size * 4 // 3)):
                        self._add(tenant_id, table)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def change(self) -> None:
        """Make one change, as they come, and put its event into the outbox."""
        tenant_id = self._rng.choice(self._tenants)
        often = [often for often, *_ in _CHANGES]
        _, type_, table, what = self._rng.choices(_CHANGES, often)[0]
        with self._transaction():
            event, data, manifest = self._make(type_, tenant_id, table, what)
            outbox.stage(self._db, **event, data=data, manifest=manifest)

    def change_by_hand(self, tenant_id: str) -> Outgoing:
        """Bind a hostname, and return the event instead of putting it into the outbox."""
        with self._transaction():
            return self._make("hostname.bound", tenant_id, "hostnames", _NEW)

    def work(
        self, pump: Callable[[], int], changes: int, per_s: float, stop: threading.Event
    ) -> None:
        """Make changes at that pace, each in its transaction, and send what is in the outbox."""
        due = time.monotonic()
        for _ in range(changes):
            self.change()
            self.sent += pump()
            due = max(due + 1 / per_s, time.monotonic() - 1.0)
            if stop.wait(max(0.0, due - time.monotonic())):
                return

    def _make(self, type_: str, tenant_id: str, table: str, what: str) -> Outgoing:
        """Change a row, note the revision, and make the event and its artifact."""
        key = self._change_row(tenant_id, table, what)
        base = schema.revision(self._db, tenant_id, table)
        schema.set_revision(self._db, tenant_id, table, base + 1)
        number = schema.control_version(self._db)
        event = {
            "id": number, "event_id": f"{tenant_id}/evt_{self._seed}_{number:06d}", "type": type_,
            "tenant_id": tenant_id, "version": base + 1, "base_version": base,
            "ref": f"rows/{table}/{tenant_id}",
        }  # fmt: skip
        if table == "stacks":
            event |= {"stack_id": key, "ref": f"stacks/{tenant_id}/{key}/{base + 1}"}
        data = schema.rows_of(self._db, table, tenant_id)
        return event, data, _manifest(ROWS, data, number)

    def _change_row(self, tenant_id: str, table: str, what: str) -> str:
        """Do `what` to one of a tenant's rows, chosen by the seed; return its key."""
        key, mine = schema.COLUMNS[table][0], {"tenant_id": tenant_id}
        query = f"SELECT {key} FROM {table} WHERE tenant_id = :tenant_id"
        found = [str(found) for (found,) in self._db.execute(query, mine)]
        if what == _NEW or not found:
            return self._add(tenant_id, table)
        values = {
            **mine,
            "key": self._rng.choice(found),
            "word": self._word(),
            "at": self._now.isoformat(),
        }
        change = f"DELETE FROM {table}" if what == _GONE else f"UPDATE {table} SET {what}"
        self._db.execute(f"{change} WHERE tenant_id = :tenant_id AND {key} = :key", values)
        return values["key"]

    def _add(self, tenant_id: str, table: str) -> str:
        """Add a row of the table's kind; return its key."""
        word, at = self._word(), self._now.isoformat()
        number = f"{self._rng.getrandbits(160):040x}"
        name = f"{word}-{number[:8]}"
        definition = "\n".join(f"{name}-{n}: registry.example/{number}:{n}" for n in range(9))
        values: dict[str, tuple[Any, ...]] = {
            "stacks": (1, definition, at),
            "hostnames": ("web", "bound", at),
            "members": (f"{name}@{tenant_id}.example", "developer", at),
            "actors": ("service", word, at),
            "keys": ("ed25519", number, "active", at),
            "entitlements": (1000, 0),
            "dns_zones": (1, "\n".join(f"{word} 300 IN A 192.0.2.{n}" for n in range(12))),
            "cron_settings": ("5 4 * * *", 1),
            "runs": ("web", "running"),
        }
        self._insert(table, tenant_id, name, *values[table])
        return name

    def _insert(self, table: str, *row: object) -> None:
        self._db.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)

    def _word(self) -> str:
        return self._rng.choice(_WORDS)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._now += timedelta(seconds=self._rng.randint(1, 90))
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield


def take_snapshot(path: Path, copy: Path) -> Snapshot:
    """Take a snapshot of a database that is being changed meanwhile, consistent all the same."""
    with closing(schema.connect(path)) as source, closing(schema.connect(copy)) as target:
        source.backup(target)  # in one step, so it is one moment
        version, data = schema.control_version(target), schema.dump(target)
    manifest = _manifest(SNAPSHOT, data, version)
    return Snapshot(f"bootstrap/sqlite/{version}", data, manifest, copy)


def _manifest(kind: Mapping[str, Any], data: bytes, control_version: int) -> bytes:
    own = {
        "checksum": checksum_of(data), "control_version": control_version,
        "created_at": datetime.now(UTC).isoformat(), "source_chassis_version": "examples/demo",
    }  # fmt: skip
    return json.dumps({**kind, **own}).encode()
