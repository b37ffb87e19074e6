"""What can be wrong with the stores, and with the file systems that they lie on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import store
from sidecar.errors import SidecarError, UsageError
from sidecar.ops.doctor.finding import Check, Level, Told, parted
from sidecar.redis.client import Client
from sidecar.redis.errors import RedisError
from sidecar.redis.fleet import Noted
from sidecar.stores import caveats, explained, open_store
from sidecar.telemetry.added import added
from sidecar.wire.event import RESERVED
from sidecar.wire.urls import redact
from sidecar.worker.fleetstore import mismatch
from sidecar.worker.settings import Settings
from store import Capability, Store

MOUNTS: Final = Path("/proc/mounts")
_SHARED: Final = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "lustre")
_FLEETING: Final = {
    "overlay": "it is a container's own, and goes with the container",
    "aufs": "it is a container's own, and goes with the container",
    "tmpfs": "it is memory: a reboot empties it",
    "ramfs": "it is memory: a reboot empties it",
}
DAYS: Final = 90
"""So soon a disk is full that somebody should choose what is to be kept."""
_LEAST_PARTS: Final = 0.05
_LEAST_BYTES: Final = 1 << 30
_REF: Final = f"{RESERVED}doctor"


@dataclass(frozen=True, slots=True)
class Place:
    """One of the two stores, as it is told where it is."""

    option: str
    url: str
    is_first: bool
    """Whether a first worker may make it."""
    noted: Noted | None
    """For the fleet's: what its notifications say, as far as Redis could be asked."""
    settings: Settings
    notify: Client | None = None
    """Where notifications are, if that can be asked."""

    @property
    def name(self) -> str:
        """The option and its URL, without secrets."""
        return f"{self.option} {redact(self.url)}"

    @property
    def is_fleet(self) -> bool:
        """Whether it is the one to put into."""
        return self.option == "--fleet-store"

    @property
    def directory(self) -> Path | None:
        """Where its files lie; None for what has none."""
        parts = urlsplit(self.url)
        path = Path(unquote(parts.path))
        return path if parts.scheme.endswith("file") and path.is_dir() else None

    def open(self) -> Store | None:
        """Open it; None where that is not possible, which is `_opens` to say."""
        try:
            return open_store(self.url, create=False)
        except SidecarError:
            return None


def _opens(place: Place) -> Iterator[Told]:
    if not _is_absent(place):
        try:
            open_store(place.url, create=False)
        except SidecarError as error:
            yield Told(f"{place.option}: {parted(error).what}", parted(error).fix)
    elif not place.is_first:
        yield Told(
            f"{place.name}: there is no store, and events were read already",
            "correct the URL, or mount what is to be there",
        )


def _is_absent(place: Place) -> bool:
    parts = urlsplit(place.url)
    path = Path(unquote(parts.path))
    if not parts.scheme.endswith("file"):
        return False
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _other(place: Place) -> Iterator[Told]:
    opened = place.open()
    if opened is None or place.noted is None or place.settings.adopt_fleet_store:
        return
    try:
        identity = store.identity_of(opened)
    except store.StoreError:
        return  # what it cannot read or write, it cannot put
    if place.noted.is_other(identity):
        yield Told(
            f"{place.option}: {mismatch(place.noted, identity, place.url)}",
            "correct the option, or say --adopt-fleet-store if the fleet has moved",
        )


def _lacks(place: Place, capability: Capability) -> bool:
    opened = place.open()
    return opened is not None and capability not in store.capabilities(opened)


def _unpinned(place: Place) -> Iterator[Told]:
    accepted = place.settings.allow_unpinned
    if place.is_fleet and not accepted and _lacks(place, Capability.PINNED_GET):
        yield Told(
            f"{place.name} keeps no versions",
            "choose a backend that declares pinned-get, such as file, or accept it with"
            " --allow-unpinned",
        )


def _archive(place: Place) -> Iterator[Told]:
    wanted = (Capability.LIST, Capability.STREAM)
    is_wanted = place.is_fleet and place.settings.archive
    if is_wanted and any(_lacks(place, one) for one in wanted):
        yield Told(
            f"{place.name} cannot hold the archive",
            "choose a backend that declares list and stream, such as file, or leave out --archive",
        )


def _round_trip(place: Place) -> Iterator[Told]:
    opened = place.open()
    if opened is None or not place.is_fleet:
        return
    data = secrets.token_bytes(16)
    try:
        with explained(place.url):
            opened.put(_REF, data, b"sidecar doctor")
            found = opened.get(_REF)
    except (SidecarError, OSError) as error:
        yield Told(
            f"{place.option}: {error}", "let the worker's user write there, and see the disk"
        )
        return
    if found.data != data:
        yield Told(f"{place.name} returns other data than was put", "do not use it; see its disk")


def _weak(place: Place) -> Iterator[Told]:
    opened = place.open()
    if opened is None or not place.is_fleet:
        return
    with suppress(store.StoreError):  # which `_round_trip` tells
        yield from (parted(caveat) for caveat in caveats(opened))


# --- file systems ---------------------------------------------------------------------------------


def _steps(directory: Path, token: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what a store does with files, by its name."""
    first, renamed, linked = (directory / f".doctor-{token}-{n}" for n in "abc")
    yield "writing a file", lambda: first.write_bytes(b"x" * 4096)
    yield "fsync of a file", lambda: _sync(first, os.O_RDWR)
    yield "renaming", lambda: os.rename(first, renamed)
    yield "a hard link", lambda: os.link(renamed, linked)
    yield "fsync of a directory", lambda: _sync(directory, os.O_RDONLY)
    yield "reading back", linked.read_bytes
    yield "removing", linked.unlink


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _files(place: Place) -> Iterator[Told]:
    if not place.is_fleet or place.directory is None or place.open() is None:
        return
    directory = place.directory / "tmp"
    token = secrets.token_hex(8)
    for step, act in _steps(directory if directory.is_dir() else place.directory, token):
        try:
            act()
        except OSError as error:
            yield Told(
                f"{place.name}: {step} fails there: {error.strerror or error}",
                "put the store on a local file system (ext4, xfs) that the worker's user may write",
            )
            break
    for left in (*place.directory.glob(f".doctor-{token}*"), *directory.glob(f".doctor-{token}*")):
        with suppress(OSError):
            left.unlink()


def _kind_of(directory: Path) -> str:
    """Return the type of the file system that a directory lies on; empty where that is unknown."""
    found = ("", "")
    with suppress(OSError):
        for line in MOUNTS.read_text(errors="replace").splitlines():
            _, point, kind, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if directory.resolve().is_relative_to(point) and len(point) >= len(found[0]):
                found = point, kind
    return found[1]


def _shared(place: Place) -> Iterator[Told]:
    kind = place.directory and _kind_of(place.directory)
    if kind and (kind in _SHARED or kind.startswith("fuse")):
        yield Told(
            f"{place.name} lies on a file system of the type {kind}",
            "put it on a local disk, or use an object store; else mount it with `hard` and `sync`,"
            " and run `sidecar store verify` now and then",
        )


def _fleeting(place: Place) -> Iterator[Told]:
    kind = place.directory and _kind_of(place.directory)
    if kind in _FLEETING:
        yield Told(
            f"{place.name} lies on a file system of the type {kind}: {_FLEETING[kind]}",
            "mount a volume there",
        )


def _space(place: Place) -> Iterator[Told]:
    if place.directory is None:
        return
    disk = os.statvfs(place.directory)
    free, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free < min(_LEAST_PARTS * whole, _LEAST_BYTES):
        yield Told(
            f"{place.name}: {free:,} bytes are free there, of {whole:,}",
            "make room: `sidecar store gc` removes what nobody needs",
        )


def _inodes(place: Place) -> Iterator[Told]:
    if place.directory is None:
        return
    disk = os.statvfs(place.directory)
    if disk.f_files and disk.f_favail < _LEAST_PARTS * disk.f_files:
        yield Told(
            f"{place.name}: {disk.f_favail:,} inodes are free there, of {disk.f_files:,}",
            "make room: `sidecar store gc` removes what nobody needs; or a file system with more",
        )


def _growing(place: Place) -> Iterator[Told]:
    option = "--keep" if place.is_fleet else "--source-keep"
    is_kept = place.settings.keep if place.is_fleet else place.settings.source_keep
    if is_kept or place.directory is None or place.notify is None:
        return
    try:
        found = added(place.notify, place.settings.notify_stream, place.open())
    except RedisError:
        return
    disk = os.statvfs(place.directory)
    if found and found.size_bytes and disk.f_bavail * disk.f_frsize < DAYS * found.size_bytes:
        days = disk.f_bavail * disk.f_frsize / found.size_bytes
        yield Told(
            f"{place.name}: a day adds about {found.refs:,} refs, {found.size_bytes:,} bytes; no"
            f" worker removes any, and it is full in {days:,.0f} days",
            f"choose what is to be kept ({option}), or let a timer run `sidecar store gc`",
        )


_ERROR, _WARNING = Level.ERROR, Level.WARNING
CHECKS: Final[tuple[Check[Place], ...]] = (
    Check("store-refused", _ERROR, "a worker refuses to start, or waits for the store", _opens),
    Check("other-store", _ERROR, "controllers read another store: they find nothing of what is put"
          " here", _other),
    Check("no-versions", _ERROR, "a notification cannot be resolved once its ref is rewritten",
          _unpinned),
    Check("no-archive", _ERROR, "a worker refuses to start", _archive),
    Check("store-round-trip", _ERROR, "nothing with an artifact is published", _round_trip),
    Check("weak-storage", _WARNING, "a ref may go back to an older artifact", _weak),
    Check("file-operations", _ERROR, "the store's promises rest on these", _files),
    Check("shared-file-system", _WARNING, "fsync, rename and locks may mean less there than on a"
          " local disk", _shared),
    Check("fleeting-file-system", _WARNING, "artifacts are lost that notifications name",
          _fleeting),
    Check("space", _WARNING, "the worker waits once nothing is free", _space),
    Check("inodes", _WARNING, "the worker waits once nothing is free", _inodes),
    Check("growing", _WARNING, "the worker waits once nothing is free", _growing),
)  # fmt: skip


def is_refused(place: Place) -> bool:
    """Tell whether the store cannot be opened as it is."""
    try:
        return any(_opens(place))
    except UsageError:
        return True
