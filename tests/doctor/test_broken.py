"""Deployments broken on purpose, one fault each: doctor names each, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import redis

import store
from sidecar.ops.doctor import servers as about_servers
from sidecar.ops.doctor import stores as about_stores
from sidecar.ops.doctor.examine import KINDS
from sidecar.ops.doctor.finding import Level
from sidecar.redis import keepers, scan
from sidecar.redis.holding import Hold
from sidecar.redis.keys import records_of
from sidecar.redis.memory import memories
from sidecar.redis.tenants import pause_tenant
from sidecar.wire.keyfiles import new_pair
from store.file.backend import FileStore
from tests import servers
from tests.doctor.harness import KEYS, NOTIFICATIONS, STREAM, Place
from tests.proofs import sampled
from tests.sidecar.harness import eventually
from tests.topology.test_tls import tls_options
from tests.topology.tls import Authority

DAY_S: Final = 86400.0
HIGHEST: Final = f"{2**64 - 1}-{2**64 - 1}"


@dataclass(frozen=True)
class Broken:
    """One fault: what breaks a healthy deployment, and what doctor says of it."""

    name: str
    kind: str
    says: str
    break_it: Callable[[Place], object]
    also: frozenset[str] = field(default_factory=frozenset)
    """What follows from it, and is named, too."""
    is_live: bool = True
    """Whether it has relayed an event before."""


def config(name: str, value: str) -> Callable[[Place], object]:
    """Set an option of the server."""
    return lambda place: place.client.config_set(name, value)


def told(*args: str) -> Callable[[Place], object]:
    """Tell doctor, as a worker would be told."""
    return lambda place: place.args.extend(args)


def sent(*words: str) -> Callable[[Place], object]:
    """Send a command."""
    return lambda place: place.send(*words)


def replaced(key: str, *words: str) -> Callable[[Place], object]:
    """Put something else in the place of a key."""

    def replace(place: Place) -> None:
        place.client.delete(key)
        place.send(*words)

    return replace


def as_user(*more: str) -> Callable[[Place], object]:
    """Ask as a worker's user with other rights."""
    return lambda place: place.as_user(*more)


# --- the server -----------------------------------------------------------------------------------


def _saving_fails(place: Place) -> None:
    place.server(servers.usual(), "--save", "900 1")
    place.live()
    shutil.rmtree(str(place.client.config_get("dir")["dir"]))
    with suppress(redis.RedisError):
        place.client.bgsave()
    eventually(lambda: place.client.info("persistence")["rdb_last_bgsave_status"] == "err")


def _replica(place: Place) -> str:
    """Attach a replica to the server; return its URL."""
    port = place.cli.url.rpartition(":")[2].partition("/")[0]
    arguments = ("--appendonly", "yes", "--replicaof", "127.0.0.1", port)
    running = servers.running(servers.usual(), arguments=arguments)
    url = place.stack.enter_context(running).url
    client = place.stack.enter_context(redis.Redis.from_url(url, protocol=2))
    eventually(lambda: client.info("replication")["master_link_status"] == "up")
    eventually(lambda: place.client.info("replication")["connected_slaves"] == 1)
    return url


def _on_replica(place: Place) -> None:
    place.cli.url = _replica(place)


def _nearly_full(place: Place) -> None:
    place.client.setrange("bulk", 64 << 20, "x")
    (now,) = memories([("", place.client)])
    place.client.config_set("maxmemory", int(now.used_bytes / 0.95))


def _crowded(place: Place) -> None:
    for _ in range(60):
        one = place.stack.enter_context(redis.Redis.from_url(place.cli.url, protocol=2))
        one.ping()
    place.client.config_set("maxclients", "67")


def _skewed(place: Place) -> None:
    theirs = scan.server_time_us
    place.monkeypatch.setattr(about_servers, "server_time_us", lambda c: theirs(c) + 3600 * 10**6)


def _slow(place: Place) -> None:
    ticks = iter(range(0, 1000, 2))
    fake = SimpleNamespace(time=time.time, monotonic=lambda: float(next(ticks)))
    place.monkeypatch.setattr(about_servers, "time", fake)


def _acl_and_aof(place: Place) -> None:
    place.server("path")
    place.live()
    place.send("ACL", "SETUSER", "admin", "on", "nopass", "~*", "&*", "+@all")
    place.cli.url = place.cli.url.replace("://", "://admin:x@")
    place.send("ACL", "SETUSER", "default", "off", "-@all")


def _secure(days: float, of_authority: float = 90, query: str = "") -> Callable[[Place], None]:
    def start(place: Place) -> None:
        authority = Authority(place.cli.directory, days=of_authority)
        port, signed = servers.free_port(), authority.server("server", "127.0.0.1", days=days)
        place.server("path", *tls_options(authority, signed, port), "--tls-auth-clients", "no")
        place.live()
        trusted = query or f"ssl_ca_certs={authority.certificate}"
        place.cli.url = f"rediss://127.0.0.1:{port}/0?{trusted}"

    return start


def _client_certificate(place: Place) -> None:
    _secure(90)(place)
    other = place.cli.directory / "other"
    other.mkdir()
    signed = Authority(other, days=90).server("client", "127.0.0.1", days=-0.5)
    place.cli.url += f"&ssl_certfile={signed.certificate}&ssl_keyfile={signed.key}"
    signed.key.chmod(0o600)


def _renamed(place: Place) -> None:
    place.server(servers.usual(), "--rename-command", "XCLAIM", "''")
    place.live()


def _others_letters(place: Place) -> None:
    place.client.set("{grave}:stream", "theirs")
    place.args += ["--dead-stream", "grave"]


def _wrong_password(place: Place) -> None:
    place.as_user()
    place.cli.url = place.cli.url.replace("pass@", "wrong@")


SERVERS: Final = (
    Broken("eviction", "eviction", "allkeys-lru", config("maxmemory-policy", "allkeys-lru")),
    Broken("no append-only file", "no-aof", "no append-only file", config("appendonly", "no")),
    Broken("no fsync", "no-fsync", "appendfsync no", config("appendfsync", "no")),
    Broken("saving fails", "saving-fails", "rdb_last_bgsave_status", _saving_fails, is_live=False),
    Broken("a replica", "replica", "is a replica", _on_replica),
    Broken("an unused replica", "replicas-not-waited-for", "1 replicas", _replica),
    Broken("too few replicas", "too-few-replicas", "has 0 replicas", told("--wait-replicas", "2")),
    Broken("min-replicas", "min-replicas", "write 1, and 0", config("min-replicas-to-write", "1")),
    Broken("full", "memory-full", "refuses what is new", config("maxmemory", "1000")),
    Broken("nearly full", "memory-near-full", "of its maxmemory", _nearly_full),
    Broken("crowded", "clients-near-limit", "of 67 that it allows", _crowded),
    Broken("skew", "clock-skew", "3600 s ahead", _skewed),
    Broken("slow", "slow-for-lease", "answers after 2.00 s", _slow),
    Broken("impatient", "short-timeout", "socket_timeout=0.9", lambda place: setattr(
        place.cli, "url", place.cli.url + "?socket_timeout=0.9")),
    Broken("ACL and AOF", "acl-and-aof", "`default` lacks rights", _acl_and_aof, is_live=False),
    Broken("expired", "connection-refused", "expired", _secure(-0.5), is_live=False),
    Broken("expires", "certificate-expires", "the certificate of", _secure(5), is_live=False),
    Broken("authority expires", "certificate-expires", "ca.pem", _secure(90, 5), is_live=False),
    Broken("client's expired", "certificate-expired", "client.pem", _client_certificate,
           is_live=False),
    Broken("unknown authority", "connection-refused", "CERTIFICATE_VERIFY_FAILED",
           _secure(90, query="socket_timeout=9"), is_live=False),
    Broken("a wrong password", "connection-refused", "refuses the login", _wrong_password),
    Broken("a Cluster's node", "server-unfit", "a node of a Cluster", lambda place: place.server(
        servers.usual(), "--cluster-enabled", "yes"), is_live=False),
    Broken("a renamed command", "command-lacks", "xclaim on control:events", _renamed,
           is_live=False),
)  # fmt: skip

RIGHTS: Final = (
    Broken("no XACK", "right-lacks", "may not send: xack on control:events", as_user("-xack")),
    Broken("no scripts", "right-lacks", "evalsha on {control:notifications}:doctor",
           as_user("-evalsha")),
    Broken("no HSETNX", "right-lacks", "hsetnx on", as_user("-hsetnx")),
    Broken("no INFO", "right-lacks", "may not send: info", as_user("-info")),
    Broken("no TIME", "right-lacks", "may not send: time", as_user("-time")),
    Broken("no XGROUP CREATE", "right-lacks", "xgroup|create", as_user("-xgroup")),
    Broken("no control stream", "right-lacks", "xclaim on control:events", as_user(
        "resetkeys", f"~{NOTIFICATIONS}", "~{control:notifications}:*")),
    Broken("nothing beside", "right-lacks", "on {control:notifications}:doctor", as_user(
        "resetkeys", f"~{NOTIFICATIONS}", f"~{STREAM}")),
    Broken("no notifications", "right-lacks", "xadd on control:notifications", as_user(
        "resetkeys", f"~{STREAM}", "~{control:notifications}:*")),
)  # fmt: skip

# --- streams, keys, groups, readers ---------------------------------------------------------------


def _foreign_group(stream: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        place.monkeypatch.setattr(keepers, "LATE_MS", -3_600_000)
        place.client.xgroup_create(stream, "theirs", 0)

    return make


def _foreign_consumer(place: Place) -> None:
    place.append()
    place.client.xreadgroup(KEYS.group, "debugger", {STREAM: ">"})


def _trimmed_unread(place: Place) -> None:
    if "lag" not in place.client.xinfo_groups(STREAM)[0]:
        pytest.skip("before Redis 7 no server counts what was never read")
    for _ in range(3):
        place.append()
    place.client.xtrim(STREAM, maxlen=0, approximate=False)


def _row_numbers(place: Place) -> None:
    for number in range(1, 4):
        place.append(f"{number}-0")
    place.cli.work()


def _no_more_ids(stream: str) -> Callable[[Place], object]:
    return lambda place: place.client.xadd(stream, {"event": "x", "origin": "s/1-0"}, id=HIGHEST)


def _forgot(place: Place) -> None:
    record: dict[Any, Any] = {
        "what": "forgot", "lost": "control stream", "stream": STREAM, "known": "9-0",
        "found": "1-0", "whole_until": "", "by": "sidecar",
    }  # fmt: skip
    place.client.xadd(KEYS.tenures, record)


def _trimmed_before(place: Place) -> None:
    place.reader("stack-controller", age_s=3600, silent_s=1)
    place.cli.emit("e-2")
    place.cli.work()
    place.cli.trim(NOTIFICATIONS, keep=1)


def _other_keys(place: Place) -> None:
    place.worker(signs="")
    place.worker("new:1", signs="0123456789abcdef")


def _unknown_key(place: Place) -> None:
    directory = place.root.parent
    new_pair(directory / "key")
    (directory / "trust").mkdir()
    (directory / "key.pub").rename(directory / "trust" / "key.pub")
    place.args += ["--sign-key", str(directory / "key"), "--trust", str(directory / "trust")]
    place.worker(signs="0123456789abcdef")


def _in_an_hour(place: Place) -> None:
    place.notification(time.time_ns() // 10**6 + 3_600_000)


def _paused_for_long(place: Place) -> None:
    since = "2020-01-01T00:00:00Z"
    pause_tenant(place.client, KEYS, tenant="t 1", reason="by hand", by="me", now=since)


def _erasing(place: Place) -> None:
    Hold(place.client, KEYS, "t 1", reason="it left", by="me").take(over=False)


def _holds_archive(place: Place) -> None:
    place.reader("idle", age_s=500 * DAY_S, silent_s=1)
    told("--archive", "--archive-keep", "400d")(place)


STREAMS: Final = (
    Broken("S is a string", "no-stream", f"'{STREAM}'", replaced(STREAM, "SET", STREAM, "x")),
    Broken("N is a hash", "no-stream", f"'{NOTIFICATIONS}'",
           replaced(NOTIFICATIONS, "HSET", NOTIFICATIONS, "f", "v")),
    Broken("dead letters are a list", "no-stream", KEYS.dead,
           replaced(KEYS.dead, "LPUSH", KEYS.dead, "x")),
    Broken("the halt is a list", "damaged-key", KEYS.halt,
           replaced(KEYS.halt, "LPUSH", KEYS.halt, "x")),
    Broken("garbage in low", "damaged-key", KEYS.low, sent("SET", KEYS.low, "soon")),
    Broken("an endless lease", "damaged-key", KEYS.lease, sent("SET", KEYS.lease, "a" * 32)),
    Broken("garbage of a reader", "damaged-key", KEYS.reader("r"), lambda place: (
        place.client.set(KEYS.reader("r"), "far"), place.client.sadd(KEYS.registered, "r"))),
    Broken("garbage of a worker", "damaged-key", KEYS.workers,
           sent("HSET", KEYS.workers, "x", "no JSON")),
    Broken("no room for notifications", "no-room", NOTIFICATIONS, _no_more_ids(NOTIFICATIONS)),
    Broken("no room for dead letters", "no-room", KEYS.dead, _no_more_ids(KEYS.dead)),
    *(Broken(f"no room for records in {one}", "no-room", one, _no_more_ids(one))
      for one in records_of(KEYS)),
    Broken("no room for entries", "no-room", f"sidecar stream remake {STREAM}",
           _no_more_ids(STREAM)),
    Broken("keys of a newer release", "newer-format", "use the release that made them",
           sent("HSET", KEYS.fleet, "format", "2")),
    Broken("another's keys", "other-owner", "belong to the notification stream",
           sent("SET", KEYS.stream, "{control:notifications}"), also=frozenset({"damaged-key"})),
    Broken("another's dead letters", "other-owner", "--dead-stream 'grave'", _others_letters),
    Broken("a slip", "mistyped-stream", "control:notificatons",
           told("--notify-stream", "control:notificatons"), also=frozenset({"wrong-name"})),
    Broken("a second deployment", "second-deployment", "leads to control:notifications",
           told("--notify-stream", "elsewhere"), also=frozenset({"wrong-name"})),
    Broken("a stream that nobody serves", "wrong-name", "no worker serves",
           lambda place: place.worker(serves=["control:event"])),
    Broken("no group", "group-gone", "the group of the workers",
           sent("XGROUP", "DESTROY", STREAM, KEYS.group)),
    Broken("a position beyond the end", "position-beyond-end", STREAM,
           sent("XGROUP", "SETID", STREAM, KEYS.group, "9999999999999-0")),
    Broken("a foreign consumer", "foreign-consumer", "'debugger'", _foreign_consumer),
    Broken("trimmed before it was read", "lost-unread", "3 entries of control:events",
           _trimmed_unread),
    Broken("a foreign group on S", "foreign-group", "'theirs'", _foreign_group(STREAM)),
    Broken("a foreign group on N", "foreign-group", "'theirs'", _foreign_group(NOTIFICATIONS)),
    Broken("row numbers as IDs", "ids-no-times", STREAM, _row_numbers, is_live=False),
    Broken("tenant paused", "tenant-paused", "by hand", lambda place: place.cli(
        "pause", "--tenant", "t 1", "--reason", "by hand")),
    Broken("a tenant's erasure was killed", "tenant-paused", "`sidecar tenant erase 't 1'",
           _erasing),
    Broken("tenant paused for long", "tenant-paused-long", "since 2020-01-01T00:00:00Z by me",
           _paused_for_long),
    Broken("halted", "halted", "by hand", lambda place: place.cli(
        "pause", "--reason", "by hand")),
    Broken("Redis forgot", "redis-forgot", "control stream", _forgot),
    Broken("the clock went back", "clock-went-back", "ahead of Redis's clock", _in_an_hour),
    Broken("a reader expired", "reader-expired", "'gone'",
           lambda place: place.reader("gone", age_s=1, silent_s=7200)),
    Broken("a reader lost entries", "reader-lost-entries", "'stack-controller'", _trimmed_before),
    Broken("a reader that stands still", "reader-holds", "'idle'",
           lambda place: place.reader("idle", age_s=40 * DAY_S, silent_s=1)),
    Broken("a reader that holds the archive", "reader-holds-archive", "'idle'", _holds_archive,
           also=frozenset({"reader-holds"})),
    Broken("retention below the window", "retention-below-window", "--dedup-window",
           told("--trim-notifications", "age=1d")),
    Broken("one signs, another does not", "keys-differ", "no key: other:1; 0123456789abcdef: new:1",
           _other_keys),
    Broken("one signs with a key that nobody trusts", "keys-differ",
           "other:1 signs with the key 0123456789abcdef, which is not trusted", _unknown_key),
    Broken("an older worker", "versions-differ", "0.0.9: other:1",
           lambda place: place.worker(version="0.0.9")),
)  # fmt: skip

# --- stores and file systems ----------------------------------------------------------------------


def _fails(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refuse)


def refusing(name: str, number: int) -> Callable[[Place], None]:
    """Have the file system refuse an operation."""
    return lambda place: _fails(place.monkeypatch, name, number)


def _other_store(place: Place) -> None:
    url = (place.root / "other").as_uri()
    store.open_url(url)
    place.args += ["--fleet-store", url]


def _moved(name: str) -> Callable[[Place], object]:
    return lambda place: shutil.move(place.root / name, place.root / f"{name}-gone")


def _unconditional(place: Place) -> None:
    told = ("it takes no conditions; use another",)
    place.monkeypatch.setattr(FileStore, "caveats", lambda _: told, raising=False)


def _misplaced_file(place: Place) -> None:
    place.doctor()
    (made,) = {path.parent for path in place.root.rglob("doctor@*")}
    shutil.rmtree(made)
    made.write_text("x")


def _newer(place: Place) -> None:
    (place.root / "fleet" / "STORE").chmod(0o600)
    (place.root / "fleet" / "STORE").write_text("artifact-store 9\n")


def _chassis(*more: str) -> Callable[[Place], object]:
    def choose(place: Place) -> None:
        (place.root / "chassis").mkdir(parents=True)
        place.args += ["--fleet-store", f"chassis-file://{place.root}/chassis", *more]

    return choose


def mounted(kind: str) -> Callable[[Place], object]:
    """Have the stores lie on a file system of this type."""
    return lambda place: place.mounts.write_text(
        f"disk / ext4 rw 0 0\nx {place.cli.directory} {kind} rw 0 0\n"
    )


def _in_memory(place: Place) -> None:
    if "tmpfs /dev/shm tmpfs" not in Path("/proc/mounts").read_text():
        pytest.skip("this machine has no tmpfs at /dev/shm")
    place.monkeypatch.setattr(about_stores, "MOUNTS", Path("/proc/mounts"))
    directory = Path("/dev/shm") / f"sidecar-doctor-{os.getpid()}"
    place.stack.callback(shutil.rmtree, directory)
    store.open_url(f"file://{directory}")
    place.args += ["--fleet-store", f"file://{directory}", "--source-store", f"file://{directory}"]


def _no_longer(name: str, left: int) -> Callable[[Place], object]:
    return lambda place: setattr(place.disk, name, left)


def _small_disk(place: Place) -> None:
    """Leave room for what some weeks add."""
    place.disk.f_blocks, place.disk.f_bavail = 1000, 100
    place.disk.f_frsize = 4096


def _open_to_all(mode: int) -> Callable[[Place], object]:
    return lambda place: _secret(place, mode)


def _secret(place: Place, mode: int) -> None:
    outside = tempfile.TemporaryDirectory()  # all directories above it are open to others
    secret = Path(place.stack.enter_context(outside)) / "redis-url"
    secret.write_text(place.cli.url)
    secret.parent.chmod(0o755)
    secret.chmod(mode)
    place.cli.env = {"SIDECAR_REDIS_FILE": str(secret), **place.cli.stores(wanted=True)}
    place.cli.url = ""


STORES: Final = (
    Broken("another store", "other-store", "name the store", _other_store),
    Broken("no fleet store", "store-refused", "--fleet-store", _moved("fleet")),
    Broken("no source store", "store-refused", "--source-store", _moved("source")),
    Broken("a newer store", "store-refused", "artifact-store 9", _newer),
    Broken("no versions", "no-versions", "keeps no versions", _chassis(), is_live=False),
    Broken("no archive", "no-archive", "cannot hold the archive",
           _chassis("--allow-unpinned", "--archive"), is_live=False),
    Broken("a file in the way", "store-round-trip", "--fleet-store", _misplaced_file),
    Broken("no conditional writes", "weak-storage", "takes no conditions", _unconditional),
    Broken("fsync fails", "file-operations", "fsync of a file", refusing("fsync", errno.EIO),
           also=frozenset({"store-round-trip"})),
    Broken("no hard links", "file-operations", "a hard link", refusing("link", errno.EPERM),
           also=frozenset({"store-round-trip"})),
    Broken("no rename", "file-operations", "renaming", refusing("rename", errno.EXDEV),
           also=frozenset({"store-round-trip"})),
    Broken("NFS", "shared-file-system", "nfs4", mounted("nfs4")),
    Broken("FUSE", "shared-file-system", "fuse.sshfs", mounted("fuse.sshfs")),
    Broken("a container's layer", "fleeting-file-system", "overlay", mounted("overlay")),
    Broken("memory", "fleeting-file-system", "tmpfs", _in_memory, is_live=False),
    Broken("no space", "space", "bytes are free", _no_longer("f_bavail", 1000)),
    Broken("no inodes", "inodes", "inodes are free", _no_longer("f_favail", 1)),
    Broken("no rules", "growing", "and it is full in", _small_disk),
    Broken("a readable secret", "readable-secret", "redis-url", _open_to_all(0o644)),
    Broken("a writable secret", "writable-by-all", "chmod o-w", _open_to_all(0o602)),
)  # fmt: skip

ALL: Final = (*SERVERS, *RIGHTS, *STREAMS, *STORES)
SAMPLE: Final = (
    "eviction", "full", "ACL and AOF", "a wrong password", "no XACK", "S is a string",
    "garbage in low", "no group", "trimmed before it was read", "halted", "Redis forgot",
    "another store", "fsync fails", "no versions", "no space", "no rules",
)  # fmt: skip


@pytest.mark.parametrize("broken", sampled(ALL, SAMPLE, attrgetter("name")))
def test_the_cause_is_named(place: Place, broken: Broken) -> None:
    """Doctor names the one fault, why it matters and the fix; an error is exit 1."""
    with place.stack:
        if broken.is_live:
            place.live()
        broken.break_it(place)
        ran, found = place.doctor()
        kinds = {one["kind"] for one in found}
        assert broken.kind in kinds, (found, ran.err)
        assert kinds <= {broken.kind} | broken.also, found
        said = [f"{one['what']}; {one['fix']}" for one in found if one["kind"] == broken.kind]
        assert any(broken.says in one for one in said), found
        assert all(one["why"] and one["fix"] for one in found)
        is_wrong = any(one["level"] == "error" for one in found)
        assert ran.code == int(is_wrong), ran.err
        ran = place.check()
        assert (ran.code, broken.kind in ran.out) == (int(is_wrong), True), ran.err
        assert "Traceback" not in ran.err


def test_every_kind_is_brought_about() -> None:
    """No kind of finding is without a deployment that has it, and there are forty at least."""
    assert {one.kind for one in ALL} == set(KINDS)
    assert len(ALL) >= 40
    assert {level for level, _ in KINDS.values()} == set(Level)
