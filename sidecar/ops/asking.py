"""Which logs garbage collection asks: all that publish into the store, or it removes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sidecar.errors import UsageError
from sidecar.ops.pins import CheckedPins, Pins
from sidecar.redis.census import Named, Registrar
from sidecar.redis.client import Side
from sidecar.wire.defaults import NOTIFY_STREAM, STREAM
from sidecar.wire.logbook import Forgotten, Log, forget, keeper_of, registered
from store import Store, VersionedStore


@dataclass(frozen=True, slots=True)
class Asked:
    """A pair of servers whose events are read."""

    control: Side
    notify: Side
    registrar: Registrar
    pins: Pins
    logs: frozenset[str]
    """The ids of the logs there."""


def ask(
    control_url: str, notify_url: str, named: Named, pins: type[Pins] = Pins
) -> Asked:  # fmt: skip
    """Find the streams on these servers. Raises `UsageError` for a wrong one, `Unreachable`."""
    control, notify = Side.open(control_url, STREAM), Side.open(notify_url, NOTIFY_STREAM)
    return ask_there(control, notify, named, pins)


def ask_there(control: Side, notify: Side, named: Named, pins: type[Pins] = Pins) -> Asked:
    """Find the streams on servers that are connected. Raises as `ask`."""
    registrar = Registrar(control, notify, named)
    found = pins(control, notify, registrar)
    return Asked(control, notify, registrar, found, registrar.logs(registrar.take()))


def ask_another(control_url: str, notify_url: str) -> list[Asked]:
    """Find the streams on a further server; its control streams are there, or on the first one.

    Where they may be on both, both are read. Raises as `ask`.
    """
    found: list[Asked] = []
    troubles: list[UsageError] = []
    for url in (control_url, notify_url):
        try:
            found.append(ask(url, notify_url, Named()))
        except UsageError as error:
            troubles.append(error)
    if not found:
        raise troubles[-1]
    return found


def to_ask(store: VersionedStore, gone: Iterable[str]) -> list[Log]:
    """Return the logs that are registered in the store, without those that are `gone`.

    Raises `UsageError` when one of those is not registered, and `store.StoreError`.
    """
    keeper, without = keeper_of(store), set(gone)
    logs = registered(keeper) if keeper else []
    unknown = without - {log.id for log in logs}
    if unknown:
        raise UsageError(f"--forget {min(unknown)}: no such log is registered in this store")
    return [log for log in logs if not log.forgotten and log.id not in without]


def forget_all(store: VersionedStore, gone: Iterable[str], forgotten: Forgotten) -> None:
    """Keep that these logs are gone. Raises `store.StoreError`."""
    keeper, without = keeper_of(store), set(gone)
    for log in registered(keeper) if keeper and without else ():
        if log.id in without:
            forget(store, log, forgotten)


def check_all_asked(logs: Iterable[Log], asked: Iterable[Asked]) -> None:
    """Raise `UsageError` unless every log was asked: what its events name would be removed."""
    there = {one for found in asked for one in found.logs}
    missing = [str(log) for log in logs if log.id not in there]
    if missing:
        raise UsageError(
            f"this store is also named by the log {', '.join(missing)}, which was not asked: give"
            " its server, too (--notify-redis, repeatable), or, if it is gone for good, `sidecar"
            " store gc` with --forget its id; nothing was removed"
        )


def ask_all(urls: tuple[str, str], others: Iterable[str], named: Named) -> list[Asked]:
    """Find the streams on all servers: the first pair, and further ones with notifications.

    Raises `UsageError` for a wrong one, `Unreachable`.
    """
    control_url, notify_url = urls
    asked = [ask(control_url, notify_url, named)]
    for url in others:
        asked += ask_another(control_url, url)
    return asked


def all_pins(
    store: VersionedStore, urls: tuple[str, str], others: Iterable[str], named: Named,
    logs: Iterable[Log], fleet: Callable[[], Store | None],
) -> CheckedPins:  # fmt: skip
    """Return the pins of all events, once the servers look like the right ones, and are all.

    `urls` are those of the first pair, `others` of further servers with notifications: a wrong one
    is told before the store is walked; `fleet` is as `CheckedPins` has it. Raises `UsageError`,
    `Unreachable`.
    """
    asked = ask_all(urls, others, named)
    check_all_asked(logs, asked)
    return CheckedPins(store, [one.pins for one in asked], urls[1], fleet)
