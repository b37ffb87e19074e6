"""What can be wrong with a Redis server, as it is set up and as it is now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from sidecar.ops.doctor.finding import Check, Level, Told, parted
from sidecar.redis import certificates
from sidecar.redis.client import Client, faults
from sidecar.redis.errors import Refused
from sidecar.redis.memory import memories
from sidecar.redis.scan import server_time_us
from sidecar.wire.urls import redact
from sidecar.worker.settings import Settings

NEARLY: Final = 0.9
SKEW_S: Final = 5.0
SHORTEST_TIMEOUT_S: Final = 1.0
EXPIRES_SOON: Final = timedelta(days=21)
_DROPS_SCRIPTS: Final = ((7, 0), (7, 3))


@dataclass(frozen=True, slots=True)
class Server:
    """One server, and what it says of itself."""

    client: Client
    url: str
    info: Mapping[str, Any]
    settings: Settings
    is_for_notifications: bool
    node: str = ""
    """Where it is, of the nodes of a Cluster."""

    @property
    def name(self) -> str:
        """Its URL, without secrets, and which of the nodes there it is."""
        return redact(self.url) + (f" (its node {self.node})" if self.node else "")

    def config(self, name: str) -> str | None:
        """Return a setting of the server; None where this user may not ask."""
        try:
            found: Any = self.client.config_get(name)
        except Refused:
            return None
        return next((_text(value) for value in found.values()), None)


def _text(value: Any) -> str:  # noqa: ANN401 -- redis-py's
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _fault(kind: str, server: Server) -> Iterator[Told]:
    """Yield what a worker refuses at its start."""
    found = faults(server.client, server.url, server.info, writes=True)
    said = (one.replace(redact(server.url), server.name, 1) for name, one in found if name == kind)
    yield from map(parted, said)


def _unfit(server: Server) -> Iterator[Told]:
    yield from _fault("unfit", server)


def _eviction(server: Server) -> Iterator[Told]:
    yield from _fault("eviction", server)


def _replica(server: Server) -> Iterator[Told]:
    yield from _fault("replica", server)


def _acl_and_aof(server: Server) -> Iterator[Told]:
    version = str(server.info.get("valkey_version") or server.info["redis_version"])
    oldest, newest = _DROPS_SCRIPTS
    known = tuple(int(part) for part in version.split(".")[:2])
    if not (oldest <= known < newest and server.info.get("aof_enabled")):
        return
    try:
        about: Any = server.client.acl_getuser("default")
    except Refused:
        return
    if "+@all" not in about["categories"] or "~*" not in about["keys"]:
        yield Told(
            f"{server.name} is {version} with an append-only file, and its user `default` lacks"
            " rights",
            "give it every right and no password, as deploy/redis/users.acl does: `user default off"
            " resetpass ~* &* +@all`",
        )


def _persistence(server: Server) -> Iterator[Told]:
    if not server.info.get("aof_enabled", True):
        yield Told(
            f"{server.name} writes no append-only file",
            "set `appendonly yes` and `appendfsync always` (or everysec, and accept a second)",
        )


def _fsync(server: Server) -> Iterator[Told]:
    if server.info.get("aof_enabled") and server.config("appendfsync") == "no":
        yield Told(
            f"{server.name} has `appendfsync no`: its operating system decides when to write",
            "set `appendfsync always` or `everysec`",
        )


def _saving_fails(server: Server) -> Iterator[Told]:
    names = ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
    failed = [name for name in names if server.info.get(name, "ok") != "ok"]
    if failed:
        yield Told(
            f"{server.name} cannot write to its disk: {', '.join(failed)}",
            "look into the server's log, at the space and the owner of its directory (CONFIG GET"
            " dir)",
        )


def _replicas(server: Server) -> Iterator[Told]:
    wanted, there = server.settings.wait_replicas, int(server.info.get("connected_slaves", 0))
    if server.is_for_notifications and wanted > there:
        yield Told(
            f"--wait-replicas {wanted}, and {server.name} has {there} replicas",
            "start the replicas that lack, or lower --wait-replicas",
        )


def _unprotected(server: Server) -> Iterator[Told]:
    wanted, there = server.settings.wait_replicas, int(server.info.get("connected_slaves", 0))
    if server.is_for_notifications and wanted < there:
        yield Told(
            f"{server.name} has {there} replicas, and --wait-replicas is {wanted}",
            f"give --wait-replicas {there}, if a failover may not lose what was published",
        )


def _refuses_writes(server: Server) -> Iterator[Told]:
    good = server.info.get("min_slaves_good_slaves")
    wanted = server.config("min-replicas-to-write")
    if good is not None and wanted is not None and int(good) < int(wanted):
        yield Told(
            f"{server.name} has min-replicas-to-write {wanted}, and {good} good replicas",
            "start the replicas that lack, or set min-replicas-to-write lower",
        )


def _memory_full(server: Server) -> Iterator[Told]:
    for one in memories([(server.name, server.client)]):
        if one.is_full:
            yield parted(one)


def _memory_near(server: Server) -> Iterator[Told]:
    for one in memories([(server.name, server.client)]):
        if one.is_nearly_full and not one.is_full:
            yield Told(
                f"{one.url} uses {one.used_bytes:,} of its maxmemory of {one.max_bytes:,} bytes",
                "raise maxmemory, or shorten --trim-control, --trim-notifications or --trim-dead",
            )


def _clients(server: Server) -> Iterator[Told]:
    used, most = (int(server.info.get(name, 0)) for name in ("connected_clients", "maxclients"))
    if most and used >= NEARLY * most:
        yield Told(
            f"{server.name} has {used} clients connected, of {most} that it allows",
            "raise maxclients, or find out who keeps connections open (CLIENT LIST)",
        )


def _skew(server: Server) -> Iterator[Told]:
    sent_at = time.time()
    theirs = server_time_us(server.client) / 1e6
    back_at = time.time()
    skew_s = theirs - min(max(theirs, sent_at), back_at)
    if abs(skew_s) > SKEW_S:
        side = "ahead of" if skew_s > 0 else "behind"
        yield Told(
            f"the clock of {server.name} is {abs(skew_s):.0f} s {side} this host's",
            "have NTP (chrony, systemd-timesyncd) set both clocks",
        )


def _lease(server: Server) -> Iterator[Told]:
    began = time.monotonic()
    server_time_us(server.client)  # PING is refused by a server that cannot save
    took_s = time.monotonic() - began
    if server.is_for_notifications and took_s > server.settings.lease_s / 6:
        yield Told(
            f"{server.name} answers after {took_s:.2f} s, and --lease is"
            f" {server.settings.lease_s:g} s",
            "raise --lease above ten times that, or run the worker nearer to Redis",
        )


def _timeout(server: Server) -> Iterator[Told]:
    timeout_s = server.client.connection_pool.connection_kwargs.get("socket_timeout")
    if timeout_s is not None and timeout_s < SHORTEST_TIMEOUT_S:
        yield Told(
            f"{server.name}: socket_timeout={timeout_s:g} in its URL: a server that is busy for so"
            " long counts as down",
            "leave it out (5 s), or give a second at least",
        )


def _certificates(server: Server) -> Iterator[tuple[str, datetime]]:
    """Yield what each certificate is, and until when it is valid."""
    query = parse_qs(urlsplit(server.url).query)
    for option in ("ssl_certfile", "ssl_ca_certs"):
        for path in query.get(option, ()):
            until = certificates.in_file(path)
            if until:
                yield f"{path} ({option} of {server.name})", until
    until = certificates.of_server(server.client)
    if until:
        yield f"the certificate of {server.name}", until


def _expired(server: Server) -> Iterator[Told]:
    for what, until in _certificates(server):
        if until <= datetime.now(UTC):
            yield Told(f"{what} expired at {until:%Y-%m-%d %H:%M} UTC", "renew it")


def _expires(server: Server) -> Iterator[Told]:
    now = datetime.now(UTC)
    for what, until in _certificates(server):
        if now < until <= now + EXPIRES_SOON:
            yield Told(f"{what} expires at {until:%Y-%m-%d %H:%M} UTC", "renew it before")


_ERROR, _WARNING = Level.ERROR, Level.WARNING
CHECKS: Final[tuple[Check[Server], ...]] = (
    Check("server-unfit", _ERROR, "a worker refuses to start with it", _unfit),
    Check(
        "eviction", _ERROR, "Redis drops index, fence and streams without a word when it is full;"
        " a worker refuses to start", _eviction,
    ),
    Check("replica", _ERROR, "nothing can be written to it", _replica),
    Check(
        "acl-and-aof", _ERROR, "a restart of Redis 7.0 to 7.2 drops all that scripts wrote:"
        " notifications, index, fences", _acl_and_aof,
    ),
    Check(
        "no-aof", _WARNING, "a restart loses events and notifications since the last save, or all",
        _persistence,
    ),
    Check("no-fsync", _WARNING, "a power cut loses half a minute of events", _fsync),
    Check("saving-fails", _ERROR, "Redis refuses writes, or loses them with a restart",
          _saving_fails),
    Check("too-few-replicas", _ERROR, "the worker waits for replicas, and acknowledges nothing",
          _replicas),
    Check(
        "replicas-not-waited-for", _WARNING,
        "a failover may lose notifications that a controller has read", _unprotected,
    ),
    Check("min-replicas", _ERROR, "Redis refuses every write (NOREPLICAS)", _refuses_writes),
    Check("memory-full", _ERROR, "Redis refuses what is new", _memory_full),
    Check("memory-near-full", _WARNING, "once it is full, Redis refuses what is new", _memory_near),
    Check("clients-near-limit", _WARNING, "at the limit Redis refuses connections", _clients),
    Check(
        "clock-skew", _WARNING, "trimming by age, ages in `status` and times of notifications go by"
        " Redis's clock (leases do not: Redis alone counts them)", _skew,
    ),
    Check("slow-for-lease", _WARNING, "a lease that is not renewed in time passes to another",
          _lease),
    Check("short-timeout", _WARNING, "the worker gives its streams back again and again", _timeout),
    Check("certificate-expired", _ERROR, "connections are refused", _expired),
    Check("certificate-expires", _WARNING, "connections are refused from then on", _expires),
)  # fmt: skip
