"""`sidecar wait`: until an event has ended, and readers have passed it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Final

import typer

from sidecar.cli.histories import Archived
from sidecar.cli.options import Json
from sidecar.errors import UsageError
from sidecar.ops.readership import Readership
from sidecar.redis.awaiting import Awaiting, Outcome, Sought
from sidecar.redis.errors import translated
from sidecar.replay.timeline import End, Life
from sidecar.replay.trace import by_event_id
from sidecar.replay.window import Window
from sidecar.terminal import output
from sidecar.terminal.groups import REQUIRED, argument, option
from sidecar.wire.reasons import explain
from sidecar.wire.units import said, seconds

EXIT: Final = {"published": 0, "duplicate": 0, "dead": 1, "waiting": 3}
AROUND_US: Final = 300_000_000
_STYLES: Final = {"published": "green", "duplicate": "green", "dead": "bold red"}
_STACK: Final = re.compile(r"(?P<tenant>[^/]*)/(?P<stack>.+)@(?P<version>[1-9][0-9]{0,18})", re.S)


@dataclass(frozen=True)
class Awaited:
    """What is waited for, and for how long."""

    what: str = argument(
        REQUIRED,
        "EVENT_ID|TENANT/STACK@VERSION",
        "An event by its event_id, or a version of a stack. An event_id of that form: --as event.",
    )
    kind: str | None = option(None, "Take it for an event or a stack.", "KIND", "--as")
    readers: list[str] | None = option(
        None,
        "Also until these registered readers have passed it; all: those that there are then."
        " Repeatable.",
        "NAME",
    )
    timeout: float = option("60s", "After so long, say what it waits for.", "TIME", unit=seconds)

    def sought(self) -> Sought:
        """Return what is meant. Raises `UsageError`."""
        if self.kind not in (None, "event", "stack"):
            raise UsageError(f"--as: {said(self.kind)} is no kind; say event or stack")
        stack = None if self.kind == "event" else _STACK.fullmatch(self.what)
        if stack is None and self.kind == "stack":
            raise UsageError(
                f"{said(self.what)} is no version of a stack: write TENANT/STACK@VERSION"
            )
        if stack is None:
            return Sought(self.what)
        return Sought("", stack["tenant"], stack["stack"], int(stack["version"]))

    def names(self) -> list[str] | None:
        """Return the readers that are meant; None for all that there are."""
        return None if "all" in (self.readers or ()) else self.readers


def wait(awaited: Awaited, *, json: Json = False, where: Archived) -> None:
    """Wait until an event is published or dead, and say which; or what it still waits for.

    It wakes when the notification or the dead letter comes, and outlives a Redis that goes away
    and comes back. What was published long ago is found in the index, the streams and the archive.
    Exit codes: 1 it is a dead letter, 3 it still waits, or a reader has not passed it.

    Examples:
      sidecar wait evt_4711

      sidecar wait t_1/web@7 --readers all --timeout 5m

      sidecar wait evt_4711 --timeout 0 --json   (only look)

    """
    sought, deadline = awaited.sought(), time.monotonic() + awaited.timeout
    elsewhere = _Elsewhere(where, sought)
    awaiting = Awaiting(where.control, where.notify_url, where.keys, sought, elsewhere)
    found = awaiting.outcome(awaited.timeout)
    passed: dict[str, bool] = {}
    if awaited.readers and found.control_version:
        readers = Readership(where.notify.client, where.keys[0], awaited.names())
        with translated(where.notify_url):
            passed = readers.passed(found.control_version, deadline - time.monotonic())
    tell(found, passed, json=json, what=awaited.what)
    raise typer.Exit(3 if not all(passed.values()) else EXIT[found.state])


class _Elsewhere:
    """Looks for an event in what the index has forgotten, and in the archive."""

    def __init__(self, where: Archived, sought: Sought) -> None:
        self._where, self._sought = where, sought

    def __call__(self) -> Outcome | None:
        if not self._sought.event_id:
            return None
        try:
            history = self._where.history(None)
            found = by_event_id(history, self._sought.event_id, Window(), AROUND_US)
        except UsageError as error:
            output.hint(f"what ended long ago was not looked at: {error}")
            return None
        return next(filter(None, map(_of_life, found[::-1])), None)


def _of_life(life: Life) -> Outcome | None:
    if life.control_version:
        return Outcome("published", life.event_id, life.control_version)
    if life.end is not End.DEAD:
        return None
    fix = explain(life.reason).fix
    return Outcome("dead", life.event_id, 0, life.reason, life.detail, fix)


def tell(found: Outcome, passed: dict[str, bool], *, json: bool, what: str) -> None:
    """Print what became of an event."""
    if json:
        output.json_line(to_json(found) | ({"readers": passed} if passed else {}))
        return
    output.styled([
        (found.state, _STYLES.get(found.state, "yellow")), (found.event_id or what, "bold"),
        (str(found.control_version or ""), ""),
        (f"{found.reason}: {found.detail}" if found.reason else "", ""), (found.waits_for, ""),
    ])  # fmt: skip
    if found.fix:
        output.styled([(f"  fix: {found.fix}", "dim")])
    for name, has in passed.items():
        output.styled([("  passed" if has else "  not passed", ""), (name, "bold")])


def to_json(found: Outcome) -> dict[str, Any]:
    """Return an outcome for machines, without what it says nothing of."""
    return {name: value for name, value in found._asdict().items() if value}
