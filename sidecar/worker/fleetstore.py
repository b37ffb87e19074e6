"""The fleet store that a worker was given, held against the one that its notifications name.

A worker that puts into another store than the fleet reads from looks healthy, and every controller
finds nothing. So Redis keeps the identity of the store beside the notifications, and no worker
with another one puts or publishes anything.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from structlog.typing import FilteringBoundLogger

from sidecar.errors import SidecarError, UsageError
from sidecar.redis import fleet
from sidecar.redis.client import Client
from sidecar.redis.errors import Failed, Full, NotPermitted, translated
from sidecar.redis.fleet import Noted
from sidecar.redis.keys import Keys
from sidecar.stores import caveats, explained
from sidecar.wire.logbook import Log, keeper_of, register
from sidecar.wire.moments import rfc3339
from sidecar.wire.urls import redact
from store import Capability, Store, VersionedStore, capabilities, identity_of


class FleetStore:
    """The fleet store of one worker, and the log that it publishes to."""

    def __init__(
        self, store: Store, url: str, client: Client, keys: Sequence[Keys], redis_url: str
    ) -> None:
        """`keys` of every control stream that the worker serves; they share the notifications."""
        self._store = store
        self._url = redact(url)
        self._client = client
        self._all = keys
        self._keys = keys[0]
        self._redis_url = redis_url
        self._log: str | None = None
        self._identity: str | None = None

    def join(self, log: FilteringBoundLogger, *, adopt: bool, by: str) -> None:
        """Note the store, if none is noted, and register the log in it. Put nothing before.

        With `adopt` another store than the one noted takes its place. Raises `UsageError` without
        that, or while a worker is at work; `Unreachable`.
        """
        with explained(self._url):
            self._identity = identity_of(self._store)
            for caveat in caveats(self._store):
                log.warning("the fleet store has a limit", detail=caveat)
        with translated(self._redis_url):
            there = self._note()
            if there.is_other(self._identity):
                if not adopt:
                    raise UsageError(self.trouble(there))
                self._adopt(there, log, by)
            self._register(there.log)

    def tell(self, source: Store, log: FilteringBoundLogger) -> None:
        """Register the log in the source store, too, so that its gc asks what is unread here.

        A store that collects no garbage need not know, and one that cannot be written keeps no
        worker from its work. Call it after `join`.
        """
        keeper = keeper_of(source)
        if keeper is None or Capability.COLLECT not in capabilities(source):
            return
        try:
            with translated(self._redis_url):
                self._write(keeper, self._log, reads=True)
        except (SidecarError, OSError) as error:
            detail = f"{error}; its gc does not miss this fleet: name its Redis there"
            log.warning("not registered in the source store", detail=detail)

    def watch(self) -> UsageError | None:
        """Return what is wrong when another store was noted meanwhile.

        A Redis that forgot, or was full, gets the note. While it or the store is away nothing is
        wrong: the relays tell.
        """
        try:
            there = self._note()
            if self._log is None:
                self._register(there.log)
        except (*Failed, SidecarError, OSError):
            return None
        return UsageError(self.trouble(there)) if there.is_other(self._identity) else None

    def trouble(self, there: Noted) -> str:
        """Say both stores, and what to do."""
        return (
            f"--fleet-store {mismatch(there, self._identity, self._url)}; correct the option, or"
            " say --adopt-fleet-store if the fleet has moved"
        )

    def _note(self) -> Noted:
        try:
            return fleet.note(self._client, self._keys, self._log, self._identity, self._url)
        except Full:  # `watch` notes it when there is room
            return fleet.noted(self._client, self._keys)

    def _register(self, log_id: str | None) -> None:
        """Register the log in a store that keeps such records, once it has an id."""
        if keeper := keeper_of(self._store):
            self._write(keeper, log_id, reads=False)
        self._log = log_id

    def _write(self, keeper: VersionedStore, log_id: str | None, *, reads: bool) -> None:
        if log_id is None:
            return
        seconds, micros = self._client.time()
        at = rfc3339(seconds * 10**6 + micros)
        address = _address(self._redis_url)
        log = Log(log_id, self._keys.notifications, address, at, reads=reads)
        with explained("" if reads else self._url):
            register(keeper, log)

    def _adopt(self, there: Noted, log: FilteringBoundLogger, by: str) -> None:
        leases = [keys.lease for keys in self._all]
        if self._client.exists(*leases):
            raise UsageError(
                "--adopt-fleet-store: a worker is publishing into the store that is noted; stop"
                " all workers first"
            )
        fleet.adopt(self._client, self._keys, there, self._identity, self._url, by=by)
        log.warning(
            "fleet store adopted", before=there.store, before_url=there.url,
            now=self._identity, now_url=self._url,
        )  # fmt: skip


def otherness(client: Client, keys: Keys, redis_url: str, store: Store, url: str) -> str:
    """Compare a store that is read from; return what is wrong, empty when nothing is known to be.

    A Redis that may not be asked says nothing. Raises `Unreachable`, and as a store does.
    """
    with explained(url):
        identity = identity_of(store)
    with translated(redis_url):
        try:
            there = fleet.noted(client, keys)
        except NotPermitted:
            return ""
    if identity is None or not there.is_other(identity):
        return ""
    return f"another store: {mismatch(there, identity, url)}"


def mismatch(there: Noted, identity: str | None, url: str) -> str:
    """Say which store is at hand, and which the notifications name."""
    return (
        f"{redact(url)} is the store {identity or 'without an identity'}, and the notifications"
        f" name the store {there.store} (noted as {there.url or 'unknown'})"
    )


def _address(url: str) -> str:
    """Return where a log is, without secrets: an address that each host has names its host, too."""
    host = urlsplit(url).hostname or "localhost"
    with suppress(ValueError):
        host = "localhost" if ip_address(host).is_loopback else host
    return redact(url) + (f" on {socket.gethostname()}" if host == "localhost" else "")
