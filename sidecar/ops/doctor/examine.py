"""All checks of one deployment, in the order in which one rests on the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.errors import SidecarError, Unreachable
from sidecar.ops.doctor import machine, servers, stores, streams
from sidecar.ops.doctor.finding import Check, Finding, Level, all_of, parted
from sidecar.ops.doctor.servers import Server
from sidecar.ops.doctor.stores import Place
from sidecar.ops.doctor.streams import Seen, Streams
from sidecar.ops.status import collect
from sidecar.redis.beside import was_read
from sidecar.redis.client import Client, Side
from sidecar.redis.damage import or_else
from sidecar.redis.errors import NotPermitted, RedisError, translated
from sidecar.redis.fleet import Noted, noted
from sidecar.redis.keys import Keys
from sidecar.worker.settings import Settings

_NOT_TO_BE_ASKED: Final = ("server-unfit", "replica")
_REFUSED: Final = "connection-refused"
_WHY_REFUSED: Final = "nothing can be asked of it; a worker refuses to start, or waits"
KINDS: Final[Mapping[str, tuple[Level, str]]] = {
    _REFUSED: (Level.ERROR, _WHY_REFUSED),
    **{
        one.kind: (one.level, one.why)
        for checks in (
            servers.CHECKS, streams.FIRST, streams.CHECKS, stores.CHECKS, machine.CHECKS,
        )
        for one in checks
    },
}  # fmt: skip
"""All kinds of findings: how bad each is, and why it matters."""


@dataclass
class Report:
    """What was found, and what could not be asked."""

    findings: list[Finding] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    """Who could not be reached."""

    @property
    def exit_code(self) -> int:
        """1 when something is wrong, 4 when something could not be asked, else 0."""
        if any(one.level == Level.ERROR for one in self.findings):
            return 1
        return Unreachable.exit_code if self.unasked else 0


def examine(
    settings: Settings, control: Side | None, notify: Side | None, environment: Mapping[str, str]
) -> Report:
    """Return what is wrong with a deployment. Without servers, of what there is without them.

    Changes nothing but one ref of the fleet's store, `.sidecar/doctor`.
    """
    report = Report(all_of(machine.CHECKS, machine.Surroundings(settings, environment)))
    keys = [Keys.of(s, settings.notify_stream, settings.dead_stream) for s in settings.streams]
    if control and notify:
        about = Streams(control, notify, keys, settings)
        if _servers(about, report):
            _streams(about, report)
    for place in _places(settings, control, notify, keys):
        refused = stores.is_refused(place)
        checks = stores.CHECKS[:1] if refused else stores.CHECKS
        report.findings += all_of(checks, place)
    return report


def _found(report: Report, checks: Iterable[Check[Any]], about: object) -> bool:
    """Add what the checks find; tell whether that is anything."""
    found = all_of(list(checks), about)
    report.findings += found
    return bool(found)


def _servers(about: Streams, report: Report) -> bool:
    """Look at both servers; tell whether the streams can be asked for."""
    sides = {about.control.url: about.control, about.notify.url: about.notify}
    answered = [_server(about, side, report) for side in sides.values()]
    return all(answered)


def _server(about: Streams, side: Side, report: Report) -> bool:
    try:
        with translated(side.url):
            for node, client in side.nodes().items():
                server = Server(
                    client, side.url, _info(client), about.settings,
                    side.url == about.notify.url, node.partition(" ")[0],
                )  # fmt: skip
                _found(report, servers.CHECKS, server)
    except Unreachable as error:
        report.unasked.append(str(error))
        return False
    except SidecarError as error:
        what, fix = parted(error)
        report.findings.append(Finding(_REFUSED, Level.ERROR, what, _WHY_REFUSED, fix))
        return False
    return not any(one.kind in _NOT_TO_BE_ASKED for one in report.findings)


def _info(client: Client) -> Mapping[str, Any]:
    """Return what INFO says; where it is denied, that is a right that lacks."""
    unknown: dict[str, Any] = {"redis_version": "999.0"}
    try:
        found: dict[str, Any] = client.info()
    except NotPermitted:
        return unknown
    return found


def _streams(about: Streams, report: Report) -> None:
    try:
        with translated(about.notify.url):
            if any(_found(report, [check], about) for check in streams.FIRST):
                return  # the next would stumble over it
            status = collect(about.control, about.notify, about.keys)
            _found(report, streams.CHECKS, Seen(about, status))
    except Unreachable as error:
        report.unasked.append(str(error))


def _places(
    settings: Settings, control: Side | None, notify: Side | None, keys: list[Keys]
) -> Iterator[Place]:
    known, read = Noted(None, None, None), False
    if control and notify:
        try:
            known = or_else(known, lambda: noted(notify.client, keys[0]))
            read = any(was_read(control.at(one.control), one) for one in keys)
        except RedisError:
            known = Noted(None, None, None)
    there = notify.client if notify else None
    yield Place("--source-store", settings.source_url, not read, None, settings, there)
    yield Place("--fleet-store", settings.fleet_url, known.store is None, known, settings, there)
