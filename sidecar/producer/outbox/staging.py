"""Staging: the event and its artifact become a row, in the caller's own transaction."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import UsageError
from sidecar.producer.checking import BLOBS, body_of, entry_of, wrong
from sidecar.producer.outbox import sqlite
from sidecar.producer.outbox.table import FIND_FORMAT, INSERT, NOTE_FORMAT, check_format
from sidecar.wire.defaults import STREAM
from sidecar.wire.event import Event, Reason, Rejected
from sidecar.wire.scope import refuse_reserved
from store import check_ref

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    Connection = sqlite3.Connection | psycopg.Connection[Any]
    """A connection of a producer's own."""

MAX_ARTIFACT_BYTES: Final = 8 << 20
"""So large may data and manifest together be. What is larger is put first, and staged by its ref
and checksums.
"""
_FIND_TABLES: Final = "SELECT to_regclass('sidecar_outbox_format')"


def ddl(kind: str) -> str:
    """Return the SQL that makes the outbox's tables, for a tool that runs migrations.

    `kind` is `postgresql` or `sqlite`. It changes nothing where there is an outbox.
    """
    if kind == "postgresql":
        return files("sidecar.producer.outbox").joinpath("postgres.sql").read_text()
    if kind == "sqlite":
        return "".join(f"{statement};\n" for statement in (*sqlite.SCHEMA, NOTE_FORMAT))
    raise UsageError("an outbox is in postgresql or sqlite; there is no other")


def prepare(connection: Connection) -> None:
    """Make the outbox's tables, unless they are there. The caller commits.

    Raises `UsageError` for tables that a newer release made, and what the database raises.
    """
    if not _is_postgres(connection):
        for statement in (*sqlite.SCHEMA, NOTE_FORMAT):
            connection.execute(statement)
    elif _value(connection, _FIND_TABLES) is None:
        connection.execute(ddl("postgresql"))  # it would wait for others that prepare
    check_format(_value(connection, FIND_FORMAT))


def stage(
    connection: Connection,
    *,
    type: str,  # noqa: A002 -- the contract's name
    ref: str = "",
    data: bytes | None = None,
    manifest: bytes = b"",
    event_id: str | None = None,
    traceparent: str | None = None,
    **fields: Any,  # noqa: ANN401 -- any JSON value may ride along
) -> Event:
    """Stage an event in the open transaction of `connection`, and return it. The caller commits.

    `fields` are as those of `Producer.publish`. `data` and `manifest` have at most
    `MAX_ARTIFACT_BYTES`; they wait in the row until they are put. What is larger the caller puts
    into the source store, and stages its `artifact_ref`, `checksum` and `manifest_checksum`.

    Raises `event.Rejected`, with the field's name, and `store.InvalidRef` before anything is
    written when a rule is broken; `UsageError` where no transaction is open, and none would be; and
    what the database raises.
    """
    event, row = _row(connection, type, event_id, fields, ref, data, manifest, traceparent)
    if isawaitable(made := connection.execute(_insert(connection), row)):
        made.close()
        raise UsageError("`execute` of that connection is awaited: await stage_async(…)")
    return event


async def stage_async(
    connection: Any,  # noqa: ANN401 -- psycopg's, aiosqlite's, and the like
    *,
    type: str,  # noqa: A002 -- the contract's name
    ref: str = "",
    data: bytes | None = None,
    manifest: bytes = b"",
    event_id: str | None = None,
    traceparent: str | None = None,
    **fields: Any,  # noqa: ANN401 -- as stage
) -> Event:
    """Stage as `stage` does, by a connection whose `execute` is awaited."""
    event, row = _row(connection, type, event_id, fields, ref, data, manifest, traceparent)
    await connection.execute(_insert(connection), row)
    return event


def check_event(event: Event) -> None:
    """Raise `Rejected` or `store.InvalidRef` for a ref that the worker would refuse."""
    if event.artifact_ref:
        check_ref(event.artifact_ref)
        refuse_reserved(event.artifact_ref)


def check_size(size_bytes: int) -> None:
    """Raise `Rejected` for an artifact that is too large for an outbox."""
    if size_bytes > MAX_ARTIFACT_BYTES:
        raise Rejected(
            Reason.ARTIFACT_TOO_LARGE,
            f"data and manifest have {size_bytes} bytes, and at most {MAX_ARTIFACT_BYTES} fit into"
            " the outbox; put them into the store, and stage artifact_ref and checksum",
        )


def _row(
    connection: Any, type_: str, event_id: str | None, fields: Mapping[str, Any],  # noqa: ANN401 -- sqlite3's, or the like
    ref: str, data: Any, manifest: bytes, traceparent: str | None,  # noqa: ANN401 -- whatever is given
) -> tuple[Event, tuple[bytes, bytes, bytes, bytes | None, bytes]]:  # fmt: skip
    """Return the event, and what `INSERT` takes."""
    _check_transaction(connection)
    if data is not None and not isinstance(data, BLOBS):
        raise wrong("data", f"bytes are wanted, and not {type(data).__name__}: read it")
    body = body_of(type_, event_id, fields, ref, data, manifest)
    blob = None if data is None else bytes(data)
    check_size(len(blob or b"") + len(manifest))
    event, entry, _ = entry_of(body, traceparent, STREAM)
    check_event(event)
    traced = entry.get(b"traceparent", b"")
    return event, (event.tenant_id.encode(), entry[b"event"], traced, blob, bytes(manifest))


def _value(connection: Any, sql: str) -> object:  # noqa: ANN401 -- sqlite3's, or psycopg's
    """Return the one value that a query finds, whatever the connection makes of rows."""
    cursor = connection.cursor()
    cursor.row_factory = None
    if _is_postgres(connection):
        from psycopg.rows import tuple_row  # it is an extra

        cursor.row_factory = tuple_row
    ((found,),) = cursor.execute(sql)
    return found


def _is_postgres(connection: object) -> bool:
    """Tell a connection of psycopg, also one that is awaited.

    Raises `UsageError` for what is neither that nor one to SQLite.
    """
    if hasattr(connection, "pgconn"):
        return True
    if isinstance(getattr(connection, "in_transaction", None), bool):
        return False
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    raise UsageError(
        f"{kind} is no connection that has an outbox: give the driver's own, of sqlite3, aiosqlite"
        " or psycopg 3"
    )


def _insert(connection: object) -> str:
    return INSERT.replace("?", "%s") if _is_postgres(connection) else INSERT


def _check_transaction(connection: Any) -> None:  # noqa: ANN401 -- psycopg's, sqlite3's, or aiosqlite's
    """Refuse to stage where the row would be committed by itself, whatever the change ends as."""
    if _is_postgres(connection):
        commits_itself = connection.autocommit
        is_open = connection.info.transaction_status.name != "IDLE"
    else:
        commits_itself = (
            getattr(connection, "autocommit", None) is True or connection.isolation_level is None
        )
        is_open = connection.in_transaction
    if commits_itself and not is_open:
        raise UsageError("no transaction is open: BEGIN one, change your rows and stage, COMMIT")
