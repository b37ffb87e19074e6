"""The contract between a store and its callers.

A store maps refs to artifacts. An artifact is a pair of opaque blobs, data and manifest,
written atomically together. A *version* of a ref is the pair (data checksum, manifest
checksum); a backend that declares `Capability.PINNED_GET` keeps earlier versions readable.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from os import PathLike

Position = tuple[int, int]
"""A place in the log that caused a Put: (milliseconds, sequence) of an entry, compared in turn."""


Blob = bytes | bytearray | memoryview
"""What the backends here take as data and manifest; what they return is always bytes."""

_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_POSITION_LIMIT = 1 << 64


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


def check_position(position: Position | None) -> None:
    """Raise ValueError when `position` is not None and not two integers of 64 bits, unsigned."""
    if position is None:
        return
    milliseconds, sequence = position
    if not (0 <= milliseconds < _POSITION_LIMIT and 0 <= sequence < _POSITION_LIMIT):
        raise ValueError(f"{position!r} is no position: two integers from 0 to 2**64 - 1")


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
    """Seconds since the epoch, by the clock of whoever stored it."""
    current: bool
    """Whether the ref points at this version now."""


class Capability(StrEnum):
    """What a backend can do beyond put, get, exists and name."""

    PINNED_GET = "pinned-get"
    POSITION = "position"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Options resolved by the caller; each backend reads the fields it knows.

    Attributes:
        file_dir: root directory, for backends that keep files.
        timeout_s: seconds without progress after which an operation is `Unavailable`.
        url: the URL that the store was opened by, for backends that take their options there.

    """

    file_dir: str | PathLike[str] | None = None
    timeout_s: float = 30.0
    url: str = ""


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
    def identity(self) -> str:
        """Equal for two handles exactly when both show the same storage."""
        ...

    def put(
        self, ref: str, data: bytes, manifest: bytes, *, position: Position | None = None
    ) -> None:
        """As `Store.put`. With a position, a ref that a later position wrote does not move back:
        the version is stored and readable by checksum, the ref stays where it is.
        """
        ...

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> Artifact:
        """As `Store.get`; with `checksum` the version with that data (its newest manifest, or
        exactly the one named by `manifest_checksum`). `NotFound` when there is no such version.
        """
        ...

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """As `Store.exists`, of the same version that `get` would return."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield every ref that is `prefix` or lies under it (all with an empty prefix), in no
        promised order.
        """
        ...

    def versions(self, ref: str) -> Iterator[Version]:
        """Yield the stored versions of `ref`, the newest first. Raises `NotFound`."""
        ...


Constructor = Callable[[StoreConfig], Store]
