"""The outbox, for producers with a database: an event exactly when its change was committed.

    outbox.prepare(db)                       # once: makes the tables; the caller commits
    with db:                                 # the caller's own transaction
        db.execute("UPDATE stacks SET version = 7 …")
        outbox.stage(db, type="stack.activated", tenant_id="t_1", stack_id="web", version=7,
                     ref="stacks/t_1/web/7", data=dump)

`Pump`, or `sidecar outbox run`, then puts what is staged into the source store, and appends it to
the control stream. docs/outbox.md has the whole of it.
"""

from sidecar.producer.outbox.pump import Pump
from sidecar.producer.outbox.staging import MAX_ARTIFACT_BYTES, ddl, prepare, stage, stage_async
from sidecar.producer.outbox.table import DeadRow, Figures
from sidecar.producer.outbox.wiring import figures

__all__ = [
    "MAX_ARTIFACT_BYTES", "DeadRow", "Figures", "Pump", "ddl", "figures", "prepare",
    "stage", "stage_async",
]  # fmt: skip
