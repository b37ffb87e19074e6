"""The outbox in PostgreSQL behind PgBouncer in transaction mode, a real one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from sidecar.errors import UsageError
from sidecar.producer import outbox
from tests.outbox.places import PostgresPlace
from tests.postgres import as_nobody
from tests.servers import started

CONFIGURATION = """
[databases]
app = host={server} dbname=postgres user=owner connect_query='SET search_path = {schema}'
[pgbouncer]
unix_socket_dir = {directory}
auth_type = any
pool_mode = transaction
{more}
"""


@contextmanager
def pooler(pg: PostgresPlace, more: str) -> Iterator[str]:
    """Run a pooler before the server; yield the URL of the database behind it."""
    program = shutil.which("pgbouncer") or pytest.skip("needs pgbouncer (Debian: pgbouncer)")
    (server,) = parse_qs(urlsplit(pg.server).query)["host"]
    with tempfile.TemporaryDirectory(prefix="sidecar-pool-") as directory:
        someone, ini = as_nobody(directory), Path(directory) / "ini"
        ini.write_text(CONFIGURATION.format(
            server=server, schema=pg.schema, directory=directory, more=more
        ))  # fmt: skip
        with started(
            program, "-q", str(ini), cwd=directory, stderr=subprocess.DEVNULL, **someone
        ) as process:
            try:
                url = f"postgresql://owner@/app?host={quote(directory, safe='')}&port=6432"
                pg.until(lambda: _answers(url))
                yield url
            finally:
                process.kill()


def _answers(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(url).close()
        return True
    return False


def test_writers_may_stage_through_it(pg: PostgresPlace) -> None:
    """The order is that of commits, as it is without."""
    with (
        pooler(pg, "") as url,
        closing(psycopg.connect(url)) as first,
        closing(psycopg.connect(url)) as second,
    ):
        for db, event_id in ((first, "a"), (second, "b")):
            outbox.stage(db, type="key.changed", event_id=event_id)
        second.commit()
        first.commit()
    pg.pumped()
    assert pg.appended() == ["b", "a"]


def test_a_pump_is_refused(pg: PostgresPlace) -> None:
    """PgBouncer takes no settings for a session; the message names the way out."""
    pg.stage("a")
    with pooler(pg, "") as pg.database, pytest.raises(UsageError, match="name the server itself"):
        pg.pumped()


def test_a_pump_that_is_led_to_another_session_ends(pg: PostgresPlace) -> None:
    """Where the pooler takes its settings it gets in; it notices that its lock is elsewhere."""
    pg.stage("a")
    with pooler(pg, "ignore_startup_parameters = options") as url:
        direct, pg.database = pg.database, url
        pump = pg.pump()
        assert pump.once() == 1
        with closing(psycopg.connect(url)) as other:  # takes the session that the pump had
            other.execute("SELECT")
            with pytest.raises(UsageError, match="transaction mode"):
                pump.once()
        pump.close()
        pg.database = direct
