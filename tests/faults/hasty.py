"""Workers that follow keep rules all the time: what is hours and minutes in the product is none."""

from __future__ import annotations

from typing import Any

from sidecar.wire import keeping


def hurry() -> None:
    """Let passes be due at once, and ages be as short as they are given.

    To be called before the settings are imported, which have their bounds from there.
    """
    rules: Any = keeping
    rules.SHORTEST_GRACE_S = rules.KEEPS_LITTLE_S = 0.0
    from sidecar.worker import retaining

    worker: Any = retaining
    worker.FIRST_S, worker.LOOK_EVERY_S, worker.EVERY_S = 0.0, 0.02, 0.0
    worker.COLLECT_EVERY_S, worker.REST = 1.0, 2
