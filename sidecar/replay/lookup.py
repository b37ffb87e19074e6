"""What a person means by a name: an event, else a ref, else a stack."""

from __future__ import annotations

import shlex
from typing import Final, NamedTuple

from sidecar.errors import Incomplete, SidecarError
from sidecar.history import History
from sidecar.replay.timeline import Life
from sidecar.replay.trace import by_ref, by_stack, find
from sidecar.replay.window import Window, covered, moment
from sidecar.stores import explained
from store import Capability, InvalidRef, NotFound, Version, VersionedStore

KINDS: Final = ("event", "ref", "stack")


class Asked(NamedTuple):
    """What is looked for."""

    what: str
    kind: str | None
    """One of `KINDS`; None is whichever there is."""
    most: int
    """Of a ref or stack, only the newest so many events."""
    around_us: int
    """How far from an event its repeats are looked for."""


def look_up(history: History, window: Window, asked: Asked) -> tuple[list[Life], list[Version]]:
    """Return the events that are meant, and the versions of the ref, the newest first."""
    what, kind, most, around_us = asked
    found: list[Life] = []
    versions: list[Version] = []
    if kind in (None, "event"):
        found = find(history, what, window, around_us)
    if kind == "ref" or (kind is None and not found):
        found, versions = by_ref(history, what, window, most), _versions(history, what)
    if kind == "stack" or (kind is None and not (found or versions)):
        found = by_stack(history, what, window, most)
    return found, versions


def _versions(history: History, ref: str) -> list[Version]:
    store = _listing(history)
    if store is None:
        return []
    with explained():
        try:
            return list(store.versions(ref))[::-1]
        except (NotFound, InvalidRef):
            return []


def _lies_under(history: History, ref: str) -> bool:
    """Tell whether the store has refs at this one, or under it."""
    store = _listing(history)
    if store is None:
        return False
    with explained():
        try:
            return next(store.list(ref.rstrip("/")), None) is not None
        except InvalidRef:
            return False


def _listing(history: History) -> VersionedStore | None:
    """Return the store, if it can say what is in it."""
    store = history.store
    return store if store and Capability.LIST in store.capabilities else None


def _expired(history: History, window: Window) -> str:
    """Say what of the window is gone; empty when nothing is."""
    return "; ".join(
        f"{one.stream} before {moment(gap.last)} ({gap.why})"
        for one in covered(history, window)
        for gap in one.missing
    )


def absent(history: History, window: Window, asked: Asked) -> SidecarError:
    """Return what says that nothing has that name; `Incomplete` where it may have expired."""
    what, expired = asked.what, _expired(history, window)
    if expired:
        return Incomplete(
            f"nothing is left of {what!r}: it may have been in what has expired: {expired}"
        )
    never = ", and there never was" if window == Window() else ""
    under = _lies_under(history, what)
    show = f"`sidecar replay show --ref {shlex.quote(what)}`"
    fix = f"; refs lie under it: {show} shows them" if under else ""
    return SidecarError(
        f"there is no {asked.kind or 'event, ref or stack'} {what!r} in {history.describe()},"
        f" {window}{never}{fix}"
    )
