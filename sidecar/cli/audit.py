"""`sidecar audit`: whether the guarantees hold, seen from outside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    FleetStore,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)
from sidecar.cli.store import needs, open_chosen
from sidecar.cli.store_care import summed_up
from sidecar.errors import SidecarError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.audit import Audit, Culprit, Order
    from sidecar.evidence import Window

_SHOW_EVERY_S: Final = 0.1
_ENDS: Final = ("notification", "duplicate", "dead_letter", "waiting", "expired")
_GUARANTEES: Final = ("G1", "G2", "G3", "G4")


class _NothingThere(SidecarError):
    """The window holds nothing."""

    exit_code = 5


def audit(
    since: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_SINCE",
            metavar="ENTRY|TIME",
            help="Control entries from there on: an entry's ID or milliseconds, an RFC 3339 time,"
            " or a duration before now. Default: all.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_UNTIL", metavar="ENTRY|TIME", help="Control entries up to there."
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            envvar="SIDECAR_SAMPLE",
            metavar="N",
            min=0,
            help="Read only so many artifacts, at random. Default: all.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            envvar="SIDECAR_SEED", metavar="N", help="Choose the same sample as another time."
        ),
    ] = None,
    dedup_window: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_DEDUP_WINDOW", metavar="TIME", help="The one that the worker has."
        ),
    ] = "7d",
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    fleet_store: FleetStore = None,
    *,
    json: Json = False,
) -> None:
    """Check the guarantees from outside: resolvable, once, conserved, ordered.

    G1: every artifact that a notification pins is in the fleet's store, intact. G2: no event_id
    is published twice. G3: every control entry ends as exactly one of notification, duplicate,
    dead letter, or is waiting. G4: a tenant's notifications are in entry order.

    Changes nothing, and may run while workers do. What was trimmed is no culprit: the summary
    tells what was covered, and how many entries' ends have expired. With --json a line for each
    culprit, then a summary.

    Exit codes: 1 a guarantee is broken, 3 stopped before the end, 4 Redis or the store is out of
    reach, 5 the window holds nothing.

    Examples:
      sidecar audit

      sidecar audit --redis redis://localhost --since 24h --sample 1000

      sidecar audit --json | jq -r 'select(.guarantee == "G3") | .entry'

    """
    import random

    from sidecar.audit import Audit, Order
    from sidecar.cli.progress import progress
    from sidecar.cli.servers import Servers, keys_of
    from sidecar.redis.census import Side
    from sidecar.redis.client import connect, translated
    from sidecar.redis.scan import server_time_us
    from sidecar.settings import seconds
    from store import Capability

    keys = keys_of(stream, notify_stream, dead_stream)
    servers = Servers(data_dir, redis, notify_redis)
    control = Side(connect(servers.control), servers.control)
    notify = Side(connect(servers.notify), servers.notify)
    with translated(control.url):
        now_us = server_time_us(control.client)
    try:
        window_s = seconds(dedup_window)
    except ValueError as error:
        raise UsageError(f"--dedup-window: {error}") from error
    order = Order(
        keys, _window(since, until, now_us), sample,
        random.SystemRandom().getrandbits(32) if seed is None else seed, window_s,
    )  # fmt: skip
    fleet = needs(
        open_chosen(None, fleet_store, data_dir), Capability.PINNED_GET, "cannot be audited"
    )
    with progress(json=json) as show:
        auditing = Audit(control, notify, fleet, order, _seldom(show))
        with summed_up(lambda *, complete: _summarise(auditing, order, json, complete=complete)):
            for culprit in auditing.run():
                _print(culprit, json=json)
            if not (auditing.found.entries or auditing.found.notifications):
                raise _NothingThere("the window holds nothing: neither entry nor notification")
    if auditing.found.culprits:
        raise typer.Exit(1)


def _window(since: str | None, until: str | None, now_us: int) -> Window:
    from sidecar.evidence import Window
    from sidecar.moments import parse_entry
    from sidecar.redis.source import FIRST, id_pair

    first = parse_entry(since, now_us, option="--since") if since else FIRST
    last = parse_entry(until, now_us, option="--until", last=True) if until else None
    if last and id_pair(last) < id_pair(first):
        raise UsageError(f"--until {until} is before --since {since}; swap them")
    return Window(first, last)


def _seldom(show: Callable[[str], None]) -> Callable[[str], None]:
    due = 0.0

    def seldom(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            show(text)
            due = time.monotonic() + _SHOW_EVERY_S

    return seldom


def _print(culprit: Culprit, *, json: bool) -> None:
    from sidecar.cli import output

    if json:
        output.json_line(culprit._asdict())
        return
    where = culprit.stream + (f"/{culprit.entry}" if culprit.entry else "")
    problem = culprit.problem.replace("_", " ")
    parts = [
        (culprit.guarantee, "bold red"), (problem, "red"), (where, "bold"),
        (culprit.event_id or "", ""), (culprit.notification or "", "cyan"), (culprit.detail, ""),
    ]  # fmt: skip
    output.styled([part for part in parts if part[0]])


def _summarise(auditing: Audit, order: Order, json: bool, *, complete: bool) -> None:  # noqa: FBT001 -- a lambda's
    from sidecar.cli import output

    found = auditing.found
    if not (found.entries or found.notifications or found.culprits):
        return
    seed = None if order.sample is None else order.seed
    if json:
        output.json_line({"summary": {
            "entries": found.entries, **{f"{end}s": found.ends[end] for end in _ENDS[:3]},
            **{end: found.ends[end] for end in _ENDS[3:]}, "artifacts": found.artifacts,
            "size_bytes": found.size_bytes, "sample_seed": seed, "covered": found.covered,
            "culprits": {name: found.culprits[name] for name in _GUARANTEES},
            "complete": complete,
        }})  # fmt: skip
        return
    rows = [("entries", f"{found.entries:,}")]
    rows += [(f"  {end.replace('_', ' ')}", f"{found.ends[end]:,}") for end in _ENDS]
    rows.append(("artifacts", f"{found.artifacts:,} read, {found.size_bytes:,} bytes"))
    if seed is not None:
        rows.append(("", f"a sample; --sample {order.sample} --seed {seed} chooses it again"))
    for one in found.covered:
        span = f"{one['first']} to {one['last']}" if one["first"] else "nothing"
        rows.append(("covered", f"{one['stream']}: {span}"))
        if one["trimmed"]:
            rows.append(("", "what was before it has been trimmed or deleted"))
    broken = [f"{name} {found.culprits[name]:,}" for name in _GUARANTEES if found.culprits[name]]
    verdict = "G1 to G4 hold" if complete else "G1 to G4 hold so far"
    rows.append(("verdict", f"broken: {', '.join(broken)}" if broken else verdict))
    output.pairs(rows)
