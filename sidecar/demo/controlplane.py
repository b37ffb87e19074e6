"""The SQLite control plane: what happens in it, its outbox, and its snapshots.

Every change is one transaction that writes the rows, the revision they have now, and the event
with its artifact into an outbox. So an event is there exactly when its change is, and it carries
the rows as that transaction left them.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from sidecar import __version__
from sidecar.demo import schema
from store import checksum_of

TENANTS: Final = 12
SNAPSHOT_KIND: Final = "bootstrap.sqlite.dump"
SNAPSHOT_FORMAT: Final = "sqlite3dump.sql"
SNAPSHOT_TYPE: Final = "system.opstack.updated"

_EPOCH: Final = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
_WORDS: Final = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "iris", "juniper",
    "kestrel", "larch", "maple", "nectar", "orchid", "pebble", "quartz", "raven", "sierra",
    "tundra", "umber", "violet", "willow", "xenon", "yarrow", "zephyr",
)  # fmt: skip
_FEATURES: Final = ("seats", "stacks", "hostnames", "runs_per_day", "log_days", "regions")
_ROLES: Final = ("owner", "admin", "developer", "viewer")
_STACKS: Final = ("web", "api", "worker", "docs")


class Outgoing(NamedTuple):
    """One event as the outbox holds it, ready for `Producer.publish`."""

    control_version: int
    event: dict[str, Any]
    ref: str
    data: bytes | None
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Touched:
    """What a change touched, and so which event tells of it."""

    type: str
    tenant_id: str
    topic: str
    """A table of rows, `stacks/<stack>`, or `runs`."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    stack: bytes | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent snapshot, and what the source said of itself in the same transaction."""

    number: int
    control_version: int
    data: bytes
    manifest: bytes
    rows: dict[str, int]
    copy: Path
    """The database as it was then, to compare with."""

    @property
    def ref(self) -> str:
        """Where it is put: a ref of its own, never rewritten."""
        return f"bootstrap/sqlite/{self.control_version}"


class ControlPlane:
    """A control-plane database. One thread at a time may change it; anyone may snapshot it.

    The same `seed` and the same calls give the same content.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self._rng = random.Random(seed)  # noqa: S311 -- data for a demo, the same for a seed
        self._seed = seed
        self._now = _EPOCH
        self._db = schema.connect(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        for migration in schema.MIGRATIONS:
            self._db.executescript(migration)
        self._db.execute(f"PRAGMA user_version={len(schema.MIGRATIONS)}")
        self._db.executescript(schema.OUTBOX)
        self._tenants: list[str] = []
        self._kinds: list[tuple[int, Callable[[str], list[Touched]]]] = [
            (22, self._hostname),
            (18, self._member),
            (14, self._activate),
            (12, self._key),
            (10, self._zone),
            (10, self._entitlement),
            (8, self._actor),
            (6, self._cron),
            (4, self._abort),
            (1, self._new_tenant),
        ]
        with self._transaction():
            for _ in range(TENANTS):
                self._make_tenant()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def rows(self) -> dict[str, int]:
        """Count the rows of every table."""
        return schema.row_counts(self._db)

    @property
    def control_version(self) -> int:
        """How many changes it has seen."""
        return schema.control_version(self._db)

    # --- changes -------------------------------------------------------------------------------

    def change(self) -> int:
        """Make one change, as they come, in one transaction; return how many events it made."""
        tenant_id = self._rng.choice(self._tenants)
        weights = [weight for weight, _ in self._kinds]
        kind = self._rng.choices([kind for _, kind in self._kinds], weights)[0]
        with self._transaction():
            touched = kind(tenant_id)
            for one in touched:
                self._to_outbox(self._outgoing(one))
        return len(touched)

    def change_by_hand(self, tenant_id: str) -> Outgoing:
        """Bind a hostname, and return the event instead of putting it into the outbox."""
        with self._transaction():
            self._bind(tenant_id)
            return self._outgoing(Touched("hostname.bound", tenant_id, "hostnames"))

    def _outgoing(self, touched: Touched) -> Outgoing:
        """Number the change, note the revision, and make the event and its artifact."""
        tenant_id, topic = touched.tenant_id, touched.topic
        base = schema.revision(self._db, tenant_id, topic)
        schema.set_revision(self._db, tenant_id, topic, base + 1)
        self._db.execute("UPDATE control_state SET control_version = control_version + 1")
        number = self.control_version
        event = {
            "id": number,
            "event_id": f"evt_{self._seed}_{number:06d}",
            "type": touched.type,
            "tenant_id": tenant_id,
            "version": base + 1,
            "base_version": base,
            "created_at": _rfc3339(datetime.now(UTC)),
            **touched.fields,
        }
        if touched.stack is not None:
            ref, data = f"{topic.replace('/', f'/{tenant_id}/', 1)}/{base + 1}", touched.stack
            return Outgoing(number, event, ref, data, _manifest("stack", "json", data, number))
        if topic not in schema.ROW_TABLES:
            return Outgoing(number, event, "", None, b"")
        data = schema.rows_of(self._db, topic, tenant_id)
        manifest = _manifest("control.rows", "json", data, number)
        return Outgoing(number, event, f"rows/{topic}/{tenant_id}", data, manifest)

    def _to_outbox(self, out: Outgoing) -> None:
        self._db.execute(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?)",
            (out.control_version, orjson.dumps(out.event), out.ref, out.data, out.manifest),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._now += timedelta(seconds=self._rng.randint(1, 90))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- what happens to a tenant --------------------------------------------------------------

    def _hostname(self, tenant_id: str) -> list[Touched]:
        states = {"bound": "verified", "verified": "revoked"}
        state = self._rng.choice(["", "bound", "bound", "verified"])
        found = self._pick("hostnames", "hostname", tenant_id, "state", state)
        if found is None:
            self._bind(tenant_id)
            return [Touched("hostname.bound", tenant_id, "hostnames")]
        self._db.execute(
            "UPDATE hostnames SET state = ? WHERE tenant_id = ? AND hostname = ?",
            (states[state], tenant_id, found),
        )
        return [Touched(f"hostname.{states[state]}", tenant_id, "hostnames")]

    def _bind(self, tenant_id: str) -> None:
        stack = self._pick("stacks", "stack_id", tenant_id) or _STACKS[0]
        name = (
            f"{self._word()}-{self._rng.getrandbits(20):05x}.{tenant_id.replace('_', '')}.example"
        )
        self._db.execute(
            "INSERT INTO hostnames VALUES (?, ?, ?, 'bound', ?)",
            (tenant_id, name, stack, self._at()),
        )

    def _member(self, tenant_id: str) -> list[Touched]:
        found = self._pick("members", "member_id", tenant_id)
        if found is None or self._one_in(2):
            self._add_member(tenant_id)
        elif self._one_in(3):
            self._db.execute(
                "DELETE FROM members WHERE tenant_id = ? AND member_id = ?", (tenant_id, found)
            )
        else:
            self._db.execute(
                "UPDATE members SET role = ? WHERE tenant_id = ? AND member_id = ?",
                (self._rng.choice(_ROLES), tenant_id, found),
            )
        return [Touched("membership.changed", tenant_id, "members")]

    def _activate(self, tenant_id: str) -> list[Touched]:
        stack_id = self._rng.choice(_STACKS)
        definition = self._deploy(tenant_id, stack_id)
        fields = {"stack_id": stack_id}
        topic = f"stacks/{stack_id}"
        return [Touched("stack.activated", tenant_id, topic, fields, definition)]

    def _key(self, tenant_id: str) -> list[Touched]:
        found = self._pick("keys", "key_id", tenant_id, "state", "active")
        if found is not None and self._one_in(2):
            self._db.execute(
                "UPDATE keys SET state = 'retired' WHERE tenant_id = ? AND key_id = ?",
                (tenant_id, found),
            )
        self._add_key(tenant_id)
        return [Touched("key.changed", tenant_id, "keys")]

    def _zone(self, tenant_id: str) -> list[Touched]:
        zone = self._pick("dns_zones", "zone", tenant_id)
        self._upsert_zone(tenant_id, zone or f"{self._word()}.{tenant_id}.example")
        return [Touched("dns.zone.upserted", tenant_id, "dns_zones")]

    def _entitlement(self, tenant_id: str) -> list[Touched]:
        self._db.execute(
            "UPDATE entitlements SET used = used + ?, allowed = allowed + ?"
            " WHERE tenant_id = ? AND feature = ?",
            (
                self._rng.randint(1, 9),
                self._rng.choice((0, 0, 100)),
                tenant_id,
                self._rng.choice(_FEATURES),
            ),
        )
        return [Touched("entitlement.updated", tenant_id, "entitlements")]

    def _actor(self, tenant_id: str) -> list[Touched]:
        self._db.execute(
            "UPDATE actors SET last_seen = ? WHERE tenant_id = ? AND actor_id = ?",
            (self._at(), tenant_id, self._pick("actors", "actor_id", tenant_id)),
        )
        return [Touched("actor.changed", tenant_id, "actors")]

    def _cron(self, tenant_id: str) -> list[Touched]:
        self._db.execute(
            "UPDATE cron_settings SET schedule = ?, enabled = ? WHERE tenant_id = ? AND job = ?",
            (
                self._schedule(),
                self._rng.randint(0, 1),
                tenant_id,
                self._pick("cron_settings", "job", tenant_id),
            ),
        )
        return [Touched("cron.settings.upserted", tenant_id, "cron_settings")]

    def _abort(self, tenant_id: str) -> list[Touched]:
        run_id = self._pick("runs", "run_id", tenant_id, "state", "running")
        if run_id is None:
            return self._member(tenant_id)
        self._db.execute(
            "UPDATE runs SET state = 'aborted' WHERE tenant_id = ? AND run_id = ?",
            (tenant_id, run_id),
        )
        return [Touched("run.abort", tenant_id, "runs", {"run_id": run_id})]

    def _new_tenant(self, _: str) -> list[Touched]:
        tenant_id = self._make_tenant(small=True)
        first = [Touched("tenant.created", tenant_id, "tenants")]
        return first + [
            Touched(type_, tenant_id, topic)
            for type_, topic in (
                ("membership.changed", "members"),
                ("entitlement.updated", "entitlements"),
                ("actor.changed", "actors"),
                ("cron.settings.upserted", "cron_settings"),
                ("key.changed", "keys"),
                ("hostname.bound", "hostnames"),
                ("dns.zone.upserted", "dns_zones"),
            )
        ]

    # --- data ----------------------------------------------------------------------------------

    def _make_tenant(self, *, small: bool = False) -> str:
        rng, tenant_id = self._rng, f"t_{len(self._tenants) + 1:02d}"
        self._tenants.append(tenant_id)
        name = f"{self._word().title()} {self._word().title()}"
        self._db.execute(
            "INSERT INTO tenants VALUES (?, ?, ?, ?, ?)",
            (
                tenant_id,
                name,
                rng.choice(("team", "business", "enterprise")),
                rng.choice(("eu", "us")),
                self._at(),
            ),
        )
        for feature in _FEATURES:
            self._db.execute(
                "INSERT INTO entitlements VALUES (?, ?, ?, ?)",
                (tenant_id, feature, rng.randrange(100, 1000, 100), rng.randint(0, 99)),
            )
        scale = 1 if small else rng.randint(8, 16)
        if not small:
            self._make_stacks(tenant_id)
        for maker, count in (
            (self._add_member, 12),
            (self._bind, 6),
            (self._add_key, 4),
            (self._add_actor, 5),
        ):
            for _ in range(count * scale):
                maker(tenant_id)
        for zone in range(4):
            self._upsert_zone(tenant_id, f"{self._word()}{zone}.{tenant_id}.example")
        for job in ("backup", "rotate-keys", "report", "scrub"):
            self._db.execute(
                "INSERT INTO cron_settings VALUES (?, ?, ?, 1)", (tenant_id, job, self._schedule())
            )
        return tenant_id

    def _make_stacks(self, tenant_id: str) -> None:
        for stack_id in _STACKS:
            for _ in range(self._rng.randint(1, 4)):
                self._deploy(tenant_id, stack_id)
                version = schema.revision(self._db, tenant_id, f"stacks/{stack_id}") + 1
                schema.set_revision(self._db, tenant_id, f"stacks/{stack_id}", version)
        for _ in range(20):
            self._db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?)",
                (
                    tenant_id,
                    f"run_{self._rng.getrandbits(40):010x}",
                    self._rng.choice(_STACKS),
                    self._rng.choice(("running", "done", "done")),
                ),
            )

    def _deploy(self, tenant_id: str, stack_id: str) -> bytes:
        """Write the next version of a stack and make it the active one."""
        version = schema.revision(self._db, tenant_id, f"stacks/{stack_id}") + 1
        services = {
            f"{self._word()}-{n}": {
                "image": f"registry.example/{tenant_id}/{stack_id}:{version}",
                "digest": f"sha256:{self._rng.getrandbits(256):064x}",
                "replicas": self._rng.randint(1, 9),
                "environment": {self._word().upper(): self._word() for _ in range(6)},
            }
            for n in range(self._rng.randint(2, 10))
        }
        definition = orjson.dumps(
            {
                "stack_id": stack_id,
                "version": version,
                "activated_at": self._at(),
                "services": services,
            }
        )
        schema.apply_stack(self._db, tenant_id, definition)
        return definition

    def _add_member(self, tenant_id: str) -> None:
        member_id = f"m_{self._rng.getrandbits(40):010x}"
        email = f"{self._word()}.{self._word()}@{tenant_id.replace('_', '')}.example"
        self._db.execute(
            "INSERT INTO members VALUES (?, ?, ?, ?, ?)",
            (tenant_id, member_id, email, self._rng.choice(_ROLES), self._at()),
        )

    def _add_actor(self, tenant_id: str) -> None:
        self._db.execute(
            "INSERT INTO actors VALUES (?, ?, ?, ?, ?)",
            (
                tenant_id,
                f"a_{self._rng.getrandbits(40):010x}",
                self._rng.choice(("user", "service", "agent")),
                self._word(),
                self._at(),
            ),
        )

    def _add_key(self, tenant_id: str) -> None:
        public_key = base64.b64encode(self._rng.randbytes(32)).decode()
        self._db.execute(
            "INSERT INTO keys VALUES (?, ?, 'ed25519', ?, 'active', ?)",
            (tenant_id, f"k_{self._rng.getrandbits(40):010x}", public_key, self._at()),
        )

    def _upsert_zone(self, tenant_id: str, zone: str) -> None:
        records = "\n".join(
            f"{self._word()} 300 IN A 192.0.2.{self._rng.randint(1, 254)}"
            for _ in range(self._rng.randint(4, 20))
        )
        self._db.execute(
            "INSERT INTO dns_zones VALUES (?, ?, 1, ?) ON CONFLICT (tenant_id, zone)"
            " DO UPDATE SET serial = serial + 1, records = excluded.records",
            (tenant_id, zone, records),
        )

    def _pick(
        self, table: str, column: str, tenant_id: str, where: str = "tenant_id", value: str = ""
    ) -> str | None:
        """Choose one of a tenant's rows by the seed: rows come in key order."""
        found = self._db.execute(
            f"SELECT {column} FROM {table} WHERE tenant_id = ? AND {where} = ?",  # noqa: S608 -- ours
            (tenant_id, tenant_id if where == "tenant_id" else value),
        ).fetchall()
        return str(self._rng.choice(found)[0]) if found else None

    def _one_in(self, count: int) -> bool:
        return not self._rng.randrange(count)

    def _word(self) -> str:
        return self._rng.choice(_WORDS)

    def _schedule(self) -> str:
        return f"{self._rng.randint(0, 59)} {self._rng.randint(0, 23)} * * *"

    def _at(self) -> str:
        return _rfc3339(self._now)


def take_snapshot(path: Path, number: int, copy: Path) -> Snapshot:
    """Take a snapshot of a database that goes on being changed, consistent all the same.

    One read transaction spans the row counts and the backup; the dump is made from the backup,
    so the control plane is not held up by it.
    """
    with closing(schema.connect(path)) as source, closing(schema.connect(copy)) as target:
        source.execute("BEGIN")
        version, rows = schema.control_version(source), schema.row_counts(source)
        source.backup(target)
        source.execute("COMMIT")
        target.execute("PRAGMA journal_mode=DELETE")
        schema.drop_own(target)
        data = schema.dump(target)
    manifest = _manifest(SNAPSHOT_KIND, SNAPSHOT_FORMAT, data, version)
    return Snapshot(number, version, data, manifest, rows, copy)


def _manifest(kind: str, format_: str, data: bytes, control_version: int) -> bytes:
    return orjson.dumps(
        {
            "kind": kind,
            "format": format_,
            "checksum": checksum_of(data),
            "control_model_version": schema.CONTROL_MODEL_VERSION,
            "cache_schema_version": schema.CACHE_SCHEMA_VERSION,
            "control_version": control_version,
            "created_at": _rfc3339(datetime.now(UTC)),
            "source_chassis_version": f"sidecar-demo/{__version__}",
            "db_migration_version": len(schema.MIGRATIONS),
        }
    )


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
