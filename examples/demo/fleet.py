"""The fleet controller: follows the notifications, resolves each, and applies it to its database.

`python -m examples.demo.fleet DATABASE`, with `SIDECAR_REDIS` and `SIDECAR_FLEET_STORE` in its
environment. It ends when its standard input does, so that it never outlives the demo.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

import store
from examples.demo import schema
from examples.demo.plane import SNAPSHOT, SNAPSHOT_TYPE
from sidecar.feed import Applied, Feed, Notification
from store import Artifact

READER: Final = "fleet"
"""The name under which `sidecar status` shows how far it is."""


class Fleet:
    """A fleet database. What is applied and the cursor move in one transaction."""

    def __init__(self, path: Path) -> None:
        self._db = schema.connect(path)
        self._db.executescript(schema.FLEET)
        self.applied = Applied(self._db)

    @property
    def base(self) -> int:
        """The change that the snapshot it was made from ends at; -1 before there is one."""
        return int(self._db.execute("SELECT base FROM fleet_state").fetchone()[0])

    @property
    def counts(self) -> tuple[int, int, int]:
        """Events applied, changes that did not fit on what was there, and bytes resolved."""
        count = "(SELECT count(*) FROM sidecar_applied)"
        query = f"SELECT {count}, misfits, resolved_bytes FROM fleet_state"
        found: tuple[int, int, int] = self._db.execute(query).fetchone()
        return found

    def apply(
        self,
        batch: Iterable[Notification],
        cursor: int,
        resolve: Callable[[Notification], Artifact],
    ) -> None:
        """Apply some notifications; `cursor` is where to continue after them.

        Doing it again, or after later ones, changes nothing.
        """
        found = [(n, resolve(n) if n.artifact_ref else None) for n in batch]
        snapshots = (artifact for n, artifact in found if n.type == SNAPSHOT_TYPE)
        if self.base < 0 and (first := next(snapshots, None)):
            self.bootstrap(first)
        with self._db:
            for n, artifact in found:
                if self.applied.is_news(n) and artifact:
                    self._apply(n, artifact.data)
            self.applied.advance(cursor)

    def bootstrap(self, artifact: Artifact) -> None:
        """Start from a snapshot: its SQL, and the note that it is there, in one transaction.

        Raises `ValueError` for an artifact that is none, or of another model.
        """
        manifest = json.loads(artifact.manifest)
        if not manifest.items() >= SNAPSHOT.items():
            raise ValueError(
                f"{manifest} is no snapshot for this controller, which wants {SNAPSHOT}"
            )
        sql, commit, _ = artifact.data.decode().rpartition("COMMIT;")
        note = f"UPDATE fleet_state SET base = {int(manifest['control_version'])};"
        self._db.executescript(sql + note + commit)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _apply(self, n: Notification, data: bytes) -> None:
        self._db.execute("UPDATE fleet_state SET resolved_bytes = resolved_bytes + ?", (len(data),))
        if n.type == SNAPSHOT_TYPE or n.id <= self.base:
            return  # the snapshot has it
        table = json.loads(data)["table"]
        have = schema.revision(self._db, n.tenant_id, table)
        if n.version > have != n.base_version:
            self._db.execute("UPDATE fleet_state SET misfits = misfits + 1")
        if n.version > have:
            schema.apply_rows(self._db, data)
            schema.set_revision(self._db, n.tenant_id, table, n.version)


def follow(redis_url: str, store_url: str, path: Path) -> None:
    """Follow the notifications from where the database is, for ever."""
    fleet_store = store.open_url(store_url)
    with closing(Fleet(path)) as fleet, Feed(redis_url, store=fleet_store, reader=READER) as feed:
        for batch in feed.batches(since=fleet.applied.cursor):
            fleet.apply(batch, batch.cursor, feed.resolve)
            feed.passed(batch.cursor)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    follow(os.environ["SIDECAR_REDIS"], os.environ["SIDECAR_FLEET_STORE"], Path(sys.argv[1]))
