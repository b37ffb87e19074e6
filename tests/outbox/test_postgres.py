"""The outbox in PostgreSQL: what a server with many writers brings with it."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from unittest import mock

import psycopg
import pytest

from sidecar.errors import Unreachable, UsageError
from sidecar.producer import outbox
from sidecar.producer.outbox.pump import BATCH, AnotherPump
from sidecar.producer.outbox.table import NotNow
from tests import postgres
from tests.outbox.places import PostgresPlace
from tests.servers import PATIENCE_S

PAGE: Final = Path(__file__).parents[2] / "docs/outbox.md"
NUMBER_NOW: Final = "SET CONSTRAINTS ALL IMMEDIATE"
"""What a COMMIT does at its beginning: from then on the locks are held."""
Connect = Callable[[], Any]


@pytest.fixture
def connect(pg: PostgresPlace) -> Iterator[Connect]:
    """Give connections that are closed in the end."""
    made: list[Any] = []

    def connected() -> Any:
        made.append(pg.connect())
        return made[-1]

    yield connected
    for one in made:
        one.close()


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Give threads for what waits."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


def stage(db: Any, *event_ids: str) -> None:
    """Stage an event for the tenant that its event_id begins with."""
    for one in event_ids:
        outbox.stage(db, type="key.changed", tenant_id=one[0], event_id=one)


def waiting_for_locks(pg: PostgresPlace) -> int:
    """Return how many sessions wait for an advisory lock of this outbox."""
    ((found,),) = pg.run(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND classid = 'sidecar_outbox'::regclass::oid"
    )
    return int(found)


# --- order ----------------------------------------------------------------------------------------


def test_the_order_is_that_of_commits_and_not_of_inserts(
    pg: PostgresPlace, connect: Connect
) -> None:
    """A sequence commits out of order: what was staged first and committed last comes last."""
    first, second, later = connect(), connect(), [f"a{number}" for number in range(2, BATCH + 9)]
    stage(first, "a1")
    stage(second, *later)
    second.commit()
    first.commit()
    pg.pumped()
    assert pg.appended() == [*later, "a1"]


def test_nothing_is_sent_before_what_its_tenant_commits_first(
    pg: PostgresPlace, connect: Connect, beside: ThreadPoolExecutor
) -> None:
    """While a commit is under way, a later one of its tenant waits, and one of another does not."""
    first, second, other = connect(), connect(), connect()
    stage(first, "a1")
    first.execute(NUMBER_NOW)
    stage(second, "a2")  # only the commit waits
    done = beside.submit(second.commit)
    pg.until(lambda: waiting_for_locks(pg) == 1)
    stage(other, "b1")
    other.commit()
    pg.pumped()
    assert pg.appended() == ["b1"]
    first.commit()
    done.result(PATIENCE_S)
    pg.pumped()
    assert pg.appended() == ["b1", "a1", "a2"]


def test_transactions_with_several_tenants_never_wait_for_each_other(
    pg: PostgresPlace, connect: Connect, beside: ThreadPoolExecutor
) -> None:
    """Whatever the order in which they staged: each takes its locks in the same one."""
    holder, there, back = connect(), connect(), connect()
    stage(holder, "a0")
    holder.execute(NUMBER_NOW)
    stage(there, "a1", "b1")
    stage(back, "b2", "a2")
    done: list[Future[None]] = []
    for number, one in enumerate((there, back), 1):
        done.append(beside.submit(one.commit))
        pg.until(lambda number=number: waiting_for_locks(pg) == number)  # type: ignore[misc]
    holder.commit()
    for each in done:
        each.result(PATIENCE_S)
    pg.pumped()
    assert pg.appended() == ["a0", "a1", "b1", "b2", "a2"]


def test_a_transaction_that_resets_its_settings_is_in_order_all_the_same(
    pg: PostgresPlace, connect: Connect, beside: ThreadPoolExecutor
) -> None:
    """What it noted of its locks is gone; each row takes its own."""
    first, second = connect(), connect()
    schema = pg.run("SHOW search_path")[0][0]
    for one, event_id in ((first, "a1"), (second, "a2")):
        stage(one, event_id)
        one.execute(f"RESET ALL; SET search_path = {schema}")
    first.execute(NUMBER_NOW)
    done = beside.submit(second.commit)
    pg.until(lambda: waiting_for_locks(pg) == 1)
    first.commit()
    done.result(PATIENCE_S)
    pg.pumped()
    assert pg.appended() == ["a1", "a2"]


def commit_at_once(pg: PostgresPlace, writers: int, each: int) -> list[str]:
    """Let writers raise counters and stage what they raised them to, and a pump send meanwhile."""
    pg.run(
        "CREATE TABLE counters AS SELECT chr(97 + i) AS name, 0 AS n FROM generate_series(0, 2) i"
    )
    pg.run("ALTER TABLE counters ADD PRIMARY KEY (name)")
    stop, pump = threading.Event(), pg.pump()
    pumping = threading.Thread(target=pump.run, args=(stop,), kwargs={"poll_s": 0.001})

    def write(writer: int) -> None:
        with closing(pg.connect()) as db:
            for number in range(each):
                name = "abc"[(writer + number) % 3]
                raise_it = "UPDATE counters SET n = n + 1 WHERE name = %s RETURNING n"
                ((n,),) = db.execute(raise_it, [name])
                stage(db, f"{name}{n}")
                db.commit()

    pumping.start()
    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(writers)))
    pg.until(lambda: len(pg.appended()) >= writers * each)
    stop.set()
    pumping.join(PATIENCE_S)
    pump.close()
    return pg.appended()


@pytest.mark.parametrize(
    ("writers", "each"), [(4, 9), pytest.param(16, 120, marks=pytest.mark.proof)]
)
def test_many_writers_at_once_are_sent_in_the_order_of_their_commits(
    pg: PostgresPlace, writers: int, each: int
) -> None:
    """Each tenant's events come as its rows changed, once, while the pump runs beside them."""
    appended = commit_at_once(pg, writers, each)
    for name in "abc":
        found = [int(one[1:]) for one in appended if one[0] == name]
        assert found == list(range(1, writers * each // 3 + 1))


# --- transactions of every kind -------------------------------------------------------------------


def test_a_savepoint_takes_its_events_with_it(pg: PostgresPlace, connect: Connect) -> None:
    """What is rolled back to a savepoint is not sent; what is around it is, numbered or not."""
    db = connect()
    stage(db, "a1")
    for early in ("SELECT", NUMBER_NOW):
        db.execute("SAVEPOINT s")
        stage(db, "b1")
        db.execute(early)
        db.execute("ROLLBACK TO s")
    db.execute("SET CONSTRAINTS ALL DEFERRED")
    stage(db, "c1")
    db.commit()
    pg.pumped()
    assert pg.appended() == ["a1", "c1"]


def test_serializable_writers_do_not_conflict_over_the_outbox(
    pg: PostgresPlace, connect: Connect
) -> None:
    """They share nothing but the outbox: none is told to try again, in whatever order they end."""
    writers = [connect() for _ in range(4)]
    for number, one in enumerate(writers):
        one.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        stage(one, f"{'abcd'[number]}1")
    for one in writers:
        one.execute(NUMBER_NOW)
        stage(one, f"{'abcd'[writers.index(one)]}2")
    for one in reversed(writers):
        one.commit()
    assert pg.pumped() == 8


def test_a_prepared_transaction_holds_its_tenants_place(
    pg: PostgresPlace, connect: Connect, beside: ThreadPoolExecutor
) -> None:
    """It is sent when it is committed, before what its tenant commits after it."""
    first, gone, second = connect(), connect(), connect()
    for one, event_id in ((first, "a1"), (gone, "b1")):
        stage(one, event_id)
        one.execute(f"PREPARE TRANSACTION '{pg.schema}{event_id}'")
        one.commit()
    stage(second, "a2")
    done = beside.submit(second.commit)
    pg.until(lambda: waiting_for_locks(pg) == 1)
    pg.pumped()
    assert pg.appended() == []
    first.autocommit = True
    first.execute(f"COMMIT PREPARED '{pg.schema}a1'")
    first.execute(f"ROLLBACK PREPARED '{pg.schema}b1'")
    done.result(PATIENCE_S)
    pg.pumped()
    assert pg.appended() == ["a1", "a2"]


def test_a_row_that_waits_again_comes_at_its_commit(pg: PostgresPlace) -> None:
    """It was dead; a person corrected it, and it comes behind what was committed before that."""
    pg.plant(b'{"event_id": "a", "type": ""}')
    pg.pumped()
    pg.stage("b")
    good = b'{"event_id": "a", "type": "key.changed"}'
    pg.run("UPDATE sidecar_outbox SET state = 'waiting', event = ? WHERE state = 'dead'", good)
    pg.pumped()
    assert pg.appended() == ["b", "a"]


def test_rows_that_a_person_removed_leave_nothing(pg: PostgresPlace) -> None:
    """Also more than a pump reads at once."""
    pg.stage(*(f"a{number}" for number in range(250)))
    pg.run("DELETE FROM sidecar_outbox")
    pg.stage("b")
    pg.pumped()
    assert pg.appended() == ["b"]
    assert pg.run("SELECT count(*) FROM sidecar_outbox_order") == [(0,)]


# --- staging --------------------------------------------------------------------------------------


def test_staging_needs_a_transaction(pg: PostgresPlace, connect: Connect) -> None:
    """With autocommit the row would be there without its change; `transaction()` opens one."""
    db = connect()
    db.autocommit = True
    with pytest.raises(UsageError, match="no transaction is open"):
        stage(db, "a1")
    with db.transaction():
        stage(db, "a2")
    pg.pumped()
    assert pg.appended() == ["a2"]


def test_staging_by_an_awaited_connection(pg: PostgresPlace) -> None:
    """`stage_async` takes psycopg's; `stage` refuses it, instead of staging nothing."""

    async def staged() -> None:
        db = await psycopg.AsyncConnection.connect(pg.database)
        async with db:
            await outbox.stage_async(db, type="key.changed", event_id="a", ref="r", data=b"x")
            with pytest.raises(UsageError, match="stage_async"):
                outbox.stage(db, type="key.changed", event_id="b")  # type: ignore[arg-type]

    asyncio.run(staged())
    pg.pumped()
    assert pg.appended() == ["a"]
    assert pg.store.get("r").data == b"x"


def test_the_tables_can_be_made_by_a_migration(pg: PostgresPlace, connect: Connect) -> None:
    """The SQL of `ddl` makes what `prepare` makes, once."""
    db = connect()
    db.execute(f"CREATE SCHEMA {pg.schema}_2; SET search_path = {pg.schema}_2")
    for _ in range(2):
        db.execute(outbox.ddl("postgresql"))
    outbox.prepare(db)
    stage(db, "a1")
    db.execute(NUMBER_NOW)
    assert db.execute("SELECT number FROM sidecar_outbox_order").fetchall() == [(1,)]
    db.rollback()
    with pytest.raises(UsageError, match="postgresql or sqlite"):
        outbox.ddl("mysql")


def test_options_of_the_environment_count_as_for_every_program(
    pg: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that finds its schema by PGOPTIONS is not pumped from another schema."""
    monkeypatch.setenv("PGOPTIONS", f"-csearch_path={pg.schema}")
    with psycopg.connect(pg.server) as db:
        stage(db, "a1")
    assert outbox.figures(pg.server).waiting == 1


def test_programs_that_begin_at_once_make_one_outbox(pg: PostgresPlace) -> None:
    """None of them fails over what another makes."""
    pg.run(f"CREATE SCHEMA {pg.schema}_3")

    def begin(_: int) -> None:
        with psycopg.connect(f"{pg.server}&options=-csearch_path%3D{pg.schema}_3") as db:
            outbox.prepare(db)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(begin, range(6)))
    pg.run(f"DROP SCHEMA {pg.schema}_3 CASCADE")


def test_preparing_what_is_there_waits_for_no_writer(connect: Connect) -> None:
    """A program may do it at each start, while others write, and prepare."""
    stage(connect(), "a1")
    for db in (connect(), connect()):
        db.execute("SET lock_timeout = '1s'")
        outbox.prepare(db)


# --- rights ---------------------------------------------------------------------------------------


@pytest.fixture
def roles(pg: PostgresPlace) -> Iterator[tuple[str, str]]:
    """Make a writer and a pump with the rights of docs/outbox.md; give their URLs."""
    (grants,) = re.findall(r"```sql\n(GRANT.*?)```", PAGE.read_text(), re.DOTALL)
    owner, names = pg.database, {"writer": f"{pg.schema}_w", "pump": f"{pg.schema}_p"}
    for role, name in names.items():
        grants = re.sub(rf"\b{role}\b", name, grants)
        pg.run(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA {pg.schema} TO {name}")
    pg.run(grants)
    yield (
        owner.replace("owner@", f"{names['writer']}@"),
        owner.replace("owner@", f"{names['pump']}@"),
    )
    pg.database = owner
    for name in names.values():
        pg.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_rights_in_the_page_are_enough(pg: PostgresPlace, roles: tuple[str, str]) -> None:
    """A writer may insert and read nothing; a pump does all that it does, and counts."""
    writer, pump = roles
    with psycopg.connect(writer) as db:
        stage(db, "a1")
        db.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("SELECT event FROM sidecar_outbox")
        db.rollback()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("INSERT INTO sidecar_outbox_order (number) VALUES (1)")
    pg.plant(b"{")
    pg.database = pump
    assert pg.pumped(keep_s=-10.0) == 1
    assert (pg.figures().done, pg.figures().dead) == (0, 1)


def test_a_pump_that_lacks_a_right_sends_nothing(pg: PostgresPlace, roles: tuple[str, str]) -> None:
    """It would send again and again what it cannot mark."""
    name = f"{pg.schema}_p"
    granted = pg.run(
        "SELECT privilege_type, table_name FROM information_schema.role_table_grants"
        f" WHERE grantee = '{name}' UNION SELECT"
        " privilege_type || ' (' || string_agg(column_name, ',') || ')', table_name"
        f" FROM information_schema.column_privileges WHERE grantee = '{name}'"
        " AND privilege_type = 'UPDATE' GROUP BY privilege_type, table_name"
    )
    pg.stage("a")
    owner, pg.database = pg.database, roles[1]
    assert len(granted) >= 6
    for right, table in granted:
        with psycopg.connect(owner) as db:
            db.execute(f"REVOKE {right} ON {table} FROM {name}")
        with pytest.raises(UsageError, match=r"permission denied.*docs/outbox\.md"):
            pg.pumped()
        with psycopg.connect(owner) as db:
            db.execute(f"GRANT {right} ON {table} TO {name}")
    assert pg.appended() == []
    assert pg.pumped() == 1


def test_a_read_only_server_is_told_before_anything_is_sent(pg: PostgresPlace) -> None:
    """A standby answers all that a pump reads, and refuses its marks."""
    pg.stage("a")
    pg.database += "%20-cdefault_transaction_read_only%3Don"
    with pytest.raises(NotNow, match="is a standby, or read-only"):
        pg.pumped()
    assert pg.appended() == []


# --- what is not as it should be ------------------------------------------------------------------


def test_rows_that_came_past_the_triggers_are_sent(pg: PostgresPlace, connect: Connect) -> None:
    """A restore or a replication writes so; the next pump finds them, and they come last."""
    db = connect()
    db.execute("SET session_replication_role = replica")
    stage(db, "a1", "a2")
    db.commit()
    pg.stage("b")
    assert pg.figures().waiting == 3
    pg.pumped()
    assert pg.appended() == ["b", "a1", "a2"]


@pytest.mark.parametrize(
    "done",
    ["DISABLE TRIGGER sidecar_outbox_place", "DISABLE TRIGGER ALL", "ENABLE REPLICA TRIGGER USER"],
)
def test_an_outbox_without_its_triggers_is_told(pg: PostgresPlace, done: str) -> None:
    """Its rows would wait for ever."""
    with suppress(psycopg.errors.SyntaxError):
        pg.run(f"ALTER TABLE sidecar_outbox {done}")
        with pytest.raises(UsageError, match="missing or disabled"):
            pg.figures()


def test_tables_that_somebody_changed_are_told(pg: PostgresPlace) -> None:
    """An outbox of other columns is no outbox."""
    pg.run("ALTER TABLE sidecar_outbox RENAME COLUMN traceparent TO trace")
    with pytest.raises(UsageError, match='"traceparent" does not exist; are these the tables'):
        pg.pumped()


@contextmanager
def terminating(pg: PostgresPlace, at: int) -> Iterator[list[int]]:
    """End the pump's session, for real, before its statement of that number; note which ran."""
    ran: list[int] = []
    run = pg.database_class._run

    def cut(self: Any, sql: str, *values: object) -> Any:
        if threading.current_thread() is threading.main_thread():
            return run(self, sql, *values)  # that is the test, which counts
        ran.append(len(ran) + 1)
        if len(ran) == at:
            pg.run("SELECT pg_terminate_backend(?)", self._db.info.backend_pid)
        return run(self, sql, *values)

    with mock.patch.object(pg.database_class, "_run", cut):
        yield ran


STATEMENTS: Final = 22
"""So many does a pump run that sends what is staged below, about."""


@pytest.mark.parametrize(
    "at",
    [pytest.param(number, marks=[] if number % 7 == 3 else pytest.mark.proof)
     for number in range(1, STATEMENTS + 1)],
)  # fmt: skip
def test_a_session_that_ends_in_any_statement_loses_nothing(pg: PostgresPlace, at: int) -> None:
    """The pump says so, connects again, and sends the rest in order."""
    wanted = ["a1", "b1", "a2"]
    for one in wanted:
        pg.stage(one, tenant=one[0], ref=one, data=one.encode())
    pg.plant(b"{")
    stop, pump = threading.Event(), pg.pump()
    with terminating(pg, at) as ran:
        running = threading.Thread(target=pump.run, args=(stop,), kwargs={"poll_s": 0.001})
        running.start()
        pg.until(lambda: len(ran) > STATEMENTS and pg.figures().waiting == 0)
        stop.set()
        running.join(PATIENCE_S)
    pump.close()
    assert list(dict.fromkeys(pg.appended())) == wanted
    assert (pg.figures().done, pg.figures().dead) == (3, 1)
    assert sum("; waiting" in one for one in pg.told) == 1
    assert re.search("terminating connection|connection is lost", "".join(pg.told))


def test_a_pump_that_lost_its_session_while_it_puts_changes_no_order(pg: PostgresPlace) -> None:
    """Another takes over at once; the first marks nothing, and what it appends is known."""
    pg.stage("a", ref="r", data=b"x")
    pg.stage("b")
    late = pg.pump()

    class Cut:
        name = "cut"

        def put(self, *artifact: Any) -> None:
            database: Any = late._database
            pg.run("SELECT pg_terminate_backend(?)", database._db.info.backend_pid)
            pg.pumped()
            pg.stage("c")
            pg.store.put(*artifact)

    late._store = Cut()  # type: ignore[assignment]
    with pytest.raises(Unreachable):
        late.once()
    late.close()
    assert pg.appended() == ["a", "b", "a", "b"]
    pg.pumped()
    assert pg.appended() == ["a", "b", "a", "b", "c"]


@pytest.mark.proof
def test_a_table_that_somebody_locks_is_told(pg: PostgresPlace, connect: Connect) -> None:
    """A migration holds it: the pump waits, but not without a word."""
    pg.stage("a")
    db = connect()
    db.execute("LOCK TABLE sidecar_outbox")
    with pytest.raises(Unreachable, match="lock timeout; is it up, and not locked"):
        pg.pumped()
    db.rollback()
    assert pg.pumped() == 1


def test_a_pump_that_waits_for_another_keeps_its_connection(pg: PostgresPlace) -> None:
    """A server starts a process for each; to ask for the lock costs little."""
    first, second = pg.pump(), pg.pump()
    first.once()
    pids = set()
    for _ in range(3):
        with pytest.raises(AnotherPump):
            second.once()
        database: Any = second._database
        pids.add(database._db.info.backend_pid)
    first.close()
    pg.stage("a")
    assert second.once() == 1
    second.close()
    assert len(pids) == 1


@pytest.mark.proof
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_running_pump_outlives_its_server(
    tmp_path: Path, redis_url: str, how: signal.Signals
) -> None:
    """It was shut down, or died at once: what was committed is sent when it is back."""
    with postgres.served() as server:
        pg = PostgresPlace(tmp_path, redis_url, server.url)
        stop, pump = threading.Event(), pg.pump()
        running = threading.Thread(target=pump.run, args=(stop,), kwargs={"poll_s": 0.01})
        running.start()
        pg.stage("a")
        pg.until(lambda: pg.appended() == ["a"])
        server.stop(how)
        pg.until(lambda: any("; waiting" in one for one in pg.told))
        server.start()
        pg.stage("b")
        pg.until(lambda: list(dict.fromkeys(pg.appended())) == ["a", "b"])
        stop.set()
        running.join(PATIENCE_S)
        pump.close()


def test_a_pump_waits_for_a_server_that_is_away(pg: PostgresPlace) -> None:
    """It is told where, and not with what password."""
    pump = outbox.Pump("postgresql://u:hunter2@127.0.0.1:1/db", pg.redis_url, "s", pg.store)
    with pytest.raises(Unreachable, match=r"^postgresql://127\.0\.0\.1:1/…: .*refused") as told:
        pump.once()
    pump.close()
    assert "hunter2" not in str(told.value)


def test_a_login_that_is_refused_ends_a_pump_that_never_sent(pg: PostgresPlace) -> None:
    """The name that was refused may be a password that was mistyped: it is not repeated."""
    pg.database = pg.database.replace("owner@", "hunter2@")
    with pytest.raises(NotNow, match='role "…" does not exist') as told:
        pg.pump().run(threading.Event())
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hu%zznter2@h/db", "postgresql://u:p@hunter2@h/db",
        "postgresql://u:hun/ter2@h/db", "postgresql://h/db?hunter2=1", "postgresql://h/db#hunter2",
        "postgresql://u:hunter2", "mysql://u:hunter2@h/db", "Postgresql://u:hunter2@h",
        "host=h password=hunter2",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    """Whatever it was that was mistyped."""
    with pytest.raises(UsageError) as told:
        outbox.figures(url)
    assert "hunter" not in str(told.value)
    assert "ter2" not in str(told.value)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite needs none."""
    monkeypatch.delattr("sidecar.producer.outbox.postgres")
    monkeypatch.delitem(sys.modules, "sidecar.producer.outbox.postgres")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match="the extra postgres"):
        outbox.figures("postgresql://h/db")
