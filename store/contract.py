"""The contract between a store and its callers.

A store maps refs to artifacts. An artifact is a pair of opaque blobs, data and manifest,
written atomically together. A *version* of a ref is the pair (data checksum, manifest
checksum); a backend that declares `Capability.PINNED_GET` keeps earlier versions readable.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

from store.errors import Corrupt, TooLarge

if TYPE_CHECKING:
    from os import PathLike

    from store.streams import ArtifactReader, Readable

Position = tuple[int, int]
"""A place in the log that caused a Put: (milliseconds, sequence) of an entry, compared in turn."""


Blob = bytes | bytearray | memoryview
"""What the backends here take as data and manifest; what they return is always bytes."""

_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_POSITION_LIMIT = 1 << 64
AHEAD_MS: Final = 86_400_000
"""A day: so far may the clock of a server be ahead that gives entries their IDs."""


Only = Mapping[str, Collection[str]] | None
"""Checksums of data, by ref; see `VersionedStore.purge`."""


def checksum_of(blob: Blob) -> str:
    """Return `sha256:` and 64 lower-case hex digits for `blob`."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def as_bytes(blob: Blob) -> bytes:
    """Return `blob`, copied unless it cannot change meanwhile. Raises TypeError for text."""
    return blob if type(blob) is bytes else memoryview(blob).tobytes()


def check_pin(checksum: str | None, manifest_checksum: str | None) -> None:
    """Raise ValueError when the two cannot pin a version; both None pin nothing.

    It is no `NotFound`: a checksum of another form says that the caller is wrong, not that
    something is missing.
    """
    if checksum is None and manifest_checksum is not None:
        raise ValueError("manifest_checksum pins nothing alone: give checksum, too")
    for argument in (checksum, manifest_checksum):
        if argument is not None and not _CHECKSUM.fullmatch(argument):
            raise ValueError(f"{argument!r} is no checksum: sha256: and 64 lower-case hex digits")


def digests_of(only: Only) -> dict[str, set[str]]:
    """Return, by ref, the checksums without their `sha256:`. Raises ValueError for what is none."""
    found: dict[str, set[str]] = {}
    for ref, checksums in (only or {}).items():
        for checksum in checksums:
            check_pin(checksum, None)
        found[ref] = {checksum.removeprefix("sha256:") for checksum in checksums}
    return found


def check_position(position: Position | None) -> None:
    """Raise ValueError when `position` is not None and not two integers of 64 bits, unsigned."""
    if position is None:
        return
    milliseconds, sequence = position
    if not (0 <= milliseconds < _POSITION_LIMIT and 0 <= sequence < _POSITION_LIMIT):
        raise ValueError(f"{position!r} is no position: two integers from 0 to 2**64 - 1")


def rank(position: Position) -> tuple[bool, int, int]:
    """Return what positions compare by: as pairs, but one ahead of time comes before all others.

    A producer may give its entry any ID, and so the Put any position. The highest would hold the
    ref for ever; so one further ahead of this host's clock than `AHEAD_MS` moves no ref that has
    another, and loses to it.
    """
    milliseconds, sequence = position
    return milliseconds <= time.time() * 1000 + AHEAD_MS, milliseconds, sequence


class Artifact(NamedTuple):
    """The pair that lies at a ref. Unpacks as `data, manifest`."""

    data: bytes
    manifest: bytes


class Version(NamedTuple):
    """One stored version of a ref, as `versions` lists it."""

    checksum: str
    manifest_checksum: str
    size_bytes: int
    manifest_size_bytes: int
    stored_at: float
    """Seconds since the epoch, by the clock of the process that stored it.

    Where that stood before the time of the put before, a microsecond after it.
    """
    current: bool
    """Whether the ref points at this version now."""


class Listed(NamedTuple):
    """The versions of one ref, as `versions_of` lists them."""

    ref: str
    versions: tuple[Version, ...]
    """The newest first."""
    error: Corrupt | None = None
    """What `versions` raises of it; then there are none."""


class Checked(NamedTuple):
    """What `verify` found of one version, or of an object that several versions share."""

    where: str
    """The path, or the key, of what was read."""
    ref: str | None
    """Whose version it is; None for a shared object, or when a damaged record does not tell."""
    size_bytes: int
    """How much was read."""
    error: str | None
    """What is wrong with it, and the fix; None when it is intact."""
    quarantined: str | None = None
    """Where the damaged bytes lie now; None when they were left where they are."""
    is_foreign: bool = False
    """Whether it is none of the store's own, told by its name: neither read nor damaged."""


class Pin(NamedTuple):
    """A version that someone still names: garbage collection keeps it."""

    ref: str
    checksum: str
    manifest_checksum: str | None = None
    """None keeps every version with that data."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which versions garbage collection keeps besides the current ones and those pinned.

    A version is kept when any of these says so.

    Attributes:
        grace_s: seconds that a version, or an object without one, must have been out of use.
            No shorter than the longest Put, and the longest way from a Put to its event.
        keep_last: that many newest versions of every ref, the current one counted.
        keep_newer_s: versions that were stored within so many seconds.
        breathe: is called between two small pieces of work; what it raises ends the collection.

    """

    grace_s: float
    keep_last: int = 1
    keep_newer_s: float = 0.0
    breathe: Callable[[], object] = field(default=lambda: None, repr=False, compare=False)


class Collected(NamedTuple):
    """One thing that garbage collection or a purge removed, or would have."""

    kind: str
    """`version`, `object` (data that no version names), or `leftover` (of a crashed Put).

    Of a purge also `record` (of a version, or of what is current) and `damaged` (moved aside).
    """
    where: str
    ref: str | None
    size_bytes: int


class Limit(NamedTuple):
    """How much a reader takes. A size is looked at before anything of that size is read."""

    size_bytes: int
    """Of data and manifest together."""
    manifest_size_bytes: int
    """Of the manifest, which is held in memory."""

    def check(self, where: str, data_bytes: int, manifest_bytes: int) -> None:
        """Raise `TooLarge` for a version of these sizes."""
        if data_bytes + manifest_bytes > self.size_bytes:
            raise TooLarge(
                f"{where} has {data_bytes + manifest_bytes} bytes, and at most {self.size_bytes}"
                " are taken"
            )
        if manifest_bytes > self.manifest_size_bytes:
            raise TooLarge(
                f"{where} has a manifest of {manifest_bytes} bytes, and of at most"
                f" {self.manifest_size_bytes} is one taken"
            )


class Capability(StrEnum):
    """What a backend can do beyond put, get, exists and name."""

    PINNED_GET = "pinned-get"
    POSITION = "position"
    LIST = "list"
    STREAM = "stream"
    VERIFY = "verify"
    COLLECT = "collect"
    IDENTITY = "identity"
    DELETE = "delete"
    PURGE = "purge"
    LIMIT = "limit"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Options resolved by the caller; each backend reads the fields it knows.

    Attributes:
        file_dir: root directory, for backends that keep files.
        timeout_s: seconds without progress after which an operation is `Unavailable`.
        url: the URL that the store was opened by, for backends that take their options there.
        create: whether a store that is not there is made; else opening it is a `ConfigError`.
            Who only reads wants that: at a typo an empty store would answer.

    """

    file_dir: str | PathLike[str] | None = None
    timeout_s: float = 30.0
    url: str = ""
    create: bool = True


@runtime_checkable
class Store(Protocol):
    """What every backend has, third-party ones too. Safe to use from several threads.

    Every method raises `InvalidRef` for an illegal ref and `Unavailable` when the storage
    cannot be reached; absence is never reported as an outage, nor an outage as absence.
    """

    @property
    def name(self) -> str:
        """The backend's registered name, for logs."""
        ...

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Store both blobs at `ref`, atomically and durably, and point the ref at them.

        When it returns, the pair survives a power cut. When it raises, the ref has its old
        pair or the new one, never a mixture. Re-putting identical content changes nothing.
        """
        ...

    def get(self, ref: str) -> Artifact:
        """Return the pair at `ref`, verified. Raises `NotFound` and `Corrupt`."""
        ...

    def exists(self, ref: str) -> bool:
        """Tell whether `ref` is present."""
        ...


@runtime_checkable
class VersionedStore(Store, Protocol):
    """A store with every capability: what a fleet store is expected to be.

    A backend says which of them it keeps in `capabilities`; ask with `store.capabilities(s)`.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do beyond the plain contract."""
        ...

    @property
    def location(self) -> str:
        """Equal for two handles exactly when both show the same storage."""
        ...

    @property
    def identity(self) -> str | None:
        """A random id of this store, 32 hex digits, the same by whatever path or URL it is opened.

        Made once, at the latest when it is first asked for; None where it is not there and may not
        be written. A copy of the store has that of its original. Raises `Unavailable`, and
        `Corrupt` when it was overwritten.
        """
        ...

    def put(
        self, ref: str, data: bytes, manifest: bytes, *, position: Position | None = None
    ) -> None:
        """As `Store.put`. With a position, a ref that a later position wrote does not move back:
        the version is stored and readable by checksum, the ref stays where it is.
        """
        ...

    def get(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> Artifact:
        """As `Store.get`; with `checksum` the version with that data (its newest manifest, or
        exactly the one named by `manifest_checksum`). `NotFound` when there is no such version.
        With `limit`, `TooLarge` rather than read what is larger.
        """
        ...

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """As `Store.exists`, of the same version that `get` would return."""
        ...

    def put_from(
        self,
        ref: str,
        reader: Readable,
        manifest: bytes,
        *,
        checksum: str | None = None,
        position: Position | None = None,
    ) -> str:
        """As `put`, with data read from `reader` to its end, in constant memory; return the
        data's checksum. With `checksum`, data that is other is refused: `ChecksumMismatch`, and
        nothing was put. What `reader` raises comes through as it is.
        """
        ...

    def open(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> ArtifactReader:
        """Open what `get` would return, for reading in constant memory. Raises as `get`; damage
        of the data is raised as `Corrupt` by the read that would have met the end.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield every ref that is `prefix` or lies under it (all with an empty prefix), in no
        promised order.
        """
        ...

    def versions(self, ref: str) -> Iterator[Version]:
        """Yield the stored versions of `ref`, the newest first. Raises `NotFound`."""
        ...

    def verify(
        self, prefix: str = "", *, quarantine: bool = False, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Checked]:
        """Read all that is stored at and under `prefix` and yield what was found of each piece,
        intact or not. With `quarantine`, what is damaged is moved aside: reading it stays
        `Corrupt`, and the next Put of the same content heals it. `part` (i, n) is the i-th of n
        shares of the work, for as many processes.
        """
        ...

    def collect(
        self,
        retention: Retention,
        pins: Callable[[], Iterable[Pin]],
        *,
        dry_run: bool = False,
    ) -> Iterator[Collected]:
        """Remove the versions that nobody needs, and data that no version names; yield each.

        Refs stay: only what a ref no longer points at is removed. Safe while others read and
        put. `pins` is called once the candidates are known, so that what is named before it is
        called is kept. It must raise rather than end early. Nothing is removed before it ended.
        """
        ...

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        """Remove `ref` with all its versions, or only those with the data `checksum`.

        When it returns, they are gone for good, also after a power cut: reading them is
        `NotFound`. A reader gets a whole pair until then, or `NotFound`. What is not there is no
        error; a ref whose current version went points nowhere until the next Put, which is as its
        first. A Put beside it comes before it, and went, or after it, and stays whole.

        With `unused_s` nothing goes unless all of it was stored, put again and pointed at so many
        seconds ago, by the storage's own clock. Return whether anything was removed. Data over 64
        KiB may stay on disk until the next collection.
        """
        ...

    def versions_of(self, refs: Iterable[str]) -> Iterator[Listed]:
        """As `versions` of each ref, in no promised order; what is absent is left out.

        With as few looks as the storage allows: `store.versions_of` divides what are many.
        """
        ...

    def delete_all(self, refs: Iterable[str], *, unused_s: float = 0.0) -> Iterator[str]:
        """As `delete` of each ref; yield those of which anything was removed, once they are gone.

        `unused_s` counts from the beginning. When it raises, a few more may have gone.
        """
        ...

    def purge(
        self, refs: Iterable[str], *, only: Only = None, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """Remove `refs` so that no byte of their data is left; yield each piece.

        As `delete`, and all that may lie elsewhere goes, too: data of any size that no other ref
        has, what was damaged and moved aside, what deletions and Puts that died left. With them
        goes what nobody's ref names any more, of whatever ref it was. When it ended, all is gone
        for good; if it was cut short, purging the same refs again does the rest. A Put beside it
        may be told `Unavailable`; put again, the artifact is whole.

        Of a ref in `only` no version goes but those with data of these checksums: what somebody put
        since they were listed stays whole.
        """
        ...


Constructor = Callable[[StoreConfig], Store]
