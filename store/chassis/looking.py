"""What lies at a ref's two names, and whether it may be believed: they are from two renames.

What carries no mark of ours is believed once both files have lain still for a moment.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from store.chassis.layout import ATTRIBUTE, NO_ATTRIBUTES, SUFFIX, Mark, Place, read_mark
from store.errors import Corrupt, NotFound
from store.posix import identity_of, read_all

if TYPE_CHECKING:
    from store.contract import Limit
    from store.errors import StoreError

_SETTLED_S = 0.05
"""How long a foreign pair lies still before it is believed; more than a tick of file times."""
_UNSETTLED_MAX = 4096
_PATIENCE_S = 1.0
"""The same, of what looks like a Put under way or cut short; and the age that needs no watching."""


def where(root: str, place: Place, name: str | None = None) -> str:
    """Return the path of one of a ref's files, the data's unless named."""
    return "/".join((root, *place.directories, name or place.data))


class File(NamedTuple):
    """An open file as it was found."""

    fd: int
    found: os.stat_result
    path: str
    mark: Mark | None

    def content(self) -> bytes:
        """Read all of it, once."""
        return read_all(self.fd, self.found.st_size)

    def is_unchanged(self) -> bool:
        """Tell whether nobody wrote to it since it was found; being replaced is no change."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) == (self.found.st_size, self.found.st_mtime_ns)

    def is_being_cut(self) -> bool:
        """Tell whether it looks empty only because its rewriting has begun."""
        return not self.found.st_size and bool(self.found.st_blocks)

    def kept(self) -> File:
        """Return it with a descriptor that outlives the look."""
        return self._replace(fd=os.dup(self.fd))


class Look(NamedTuple):
    """What lies at both names; when one changed hands during the look, it is too young to rest."""

    data: File | None
    manifest: File | None
    is_shared: bool

    def both(self) -> tuple[File, ...]:
        """Return the files that are there, data first."""
        return tuple(file for file in (self.data, self.manifest) if file is not None)

    def age_s(self) -> float:
        """Return how long ago the younger file last changed, by this machine's clock."""
        if not all(file.found.st_size for file in self.both()):
            return 0.0  # ext4 shows a file as empty some time before its change of time
        return time.time() - max((file.found.st_ctime for file in self.both()), default=0.0)


class Pair(NamedTuple):
    """Both files of an artifact."""

    data: File
    manifest: File

    def check(self, limit: Limit | None) -> None:
        """Raise `TooLarge` when they are larger than `limit` allows."""
        if limit:
            limit.check(self.data.path, self.data.found.st_size, self.manifest.found.st_size)


class Verdict(NamedTuple):
    """What is wrong with a look, if anything, and how long it must lie still to be believed."""

    error: StoreError | None
    patience_s: float


class Watch:
    """Tells whether successive looks show the same files, at rest."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._seen: object = None
        self._since = 0.0

    def rests(self, look: Look, patience_s: float) -> bool:
        """Tell whether it has lain still for `patience_s`, as far as that can be told."""
        seen = tuple(
            (*identity_of(f.found), f.found.st_size, f.found.st_mtime_ns, f.found.st_ctime_ns)
            for f in look.both()
        )
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        patience_s = min(patience_s, self._timeout_s)
        return now - self._since >= patience_s or look.age_s() >= _PATIENCE_S


class Unsettled:
    """What was looked at lately and did not rest, so that who asks again need not wait anew.

    Of so many refs only: of one that is forgotten the wait begins again.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()

    def watch(self, ref: str) -> Watch:
        """Return the watch of a ref. Two threads may have the same one, and see the same files."""
        with self._lock:
            watch = self._watches.pop(ref, None) or Watch(self._timeout_s)
            self._watches[ref] = watch
            if len(self._watches) > _UNSETTLED_MAX:
                del self._watches[next(iter(self._watches))]
            return watch

    def forget(self, ref: str) -> None:
        """Let a ref go that rests."""
        with self._lock:
            self._watches.pop(ref, None)


def judge(root: str, place: Place, look: Look) -> Verdict:
    """Say what the two files are to this ref, and how long to doubt it."""
    data = owned(look.data, place, "data")
    manifest = owned(look.manifest, place, "manifest")
    path = where(root, place)
    if data is None and manifest is None:
        return Verdict(NotFound(f"{root} has nothing at ref {place.ref!r}"), 0.0)
    if data is None:
        # Our first Put ends with the data, as the Go side's does: there is no artifact yet.
        return Verdict(
            NotFound(
                f"{root} has nothing at ref {place.ref!r} but a manifest: a first Put was"
                " cut short, or the data was removed; put it again"
            ),
            _PATIENCE_S,
        )
    if manifest is None and place.is_named_like_a_manifest:
        return Verdict(NotFound(f"{path} is a manifest, no data of ref {place.ref!r}"), 0.0)
    if manifest is None:
        return Verdict(
            Corrupt(f"{path} is half a pair: it has no manifest; put it again"), _PATIENCE_S
        )
    if look.is_shared:
        return Verdict(
            Corrupt(
                f"{path} is mixed up with another ref: one file is the manifest of one and the"
                f" data of the other, as names that end in {SUFFIX} make it; rename one"
            ),
            0.0,
        )
    return _judge_pair(path, data, manifest)


def _judge_pair(path: str, data: File, manifest: File) -> Verdict:
    if (data.mark and data.mark.pair) != (manifest.mark and manifest.mark.pair):
        return Verdict(
            Corrupt(
                f"{path} and its manifest are of two Puts: one was cut short, or changed one"
                " file alone; put it again"
            ),
            _PATIENCE_S,
        )
    if data.mark:
        return Verdict(None, 0.0)
    # The Go side writes the manifest, then the data: else one may be about to be replaced.
    gap_s = data.found.st_mtime - manifest.found.st_mtime
    is_even = 0.0 <= gap_s <= _SETTLED_S and not (data.is_being_cut() or manifest.is_being_cut())
    return Verdict(None, _SETTLED_S if is_even else _PATIENCE_S)


def verify(file: File, content: bytes) -> None:
    """Hold what was read against the file's mark, if it has one. Raises `Corrupt`."""
    mark = file.mark
    if mark is None:
        return
    kept = mark.data_digest if mark.role == "data" else mark.manifest_digest
    if hashlib.sha256(content).hexdigest() != kept:
        raise Corrupt(
            f"{file.path} is damaged: it fails the checksum kept in its attribute {ATTRIBUTE};"
            " put it again"
        )


def is_data(file: File, checksum: str) -> bool:
    """Tell whether a file has this checksum."""
    with open(file.fd, "rb", closefd=False) as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}" == checksum


def owned(file: File | None, place: Place, role: str) -> File | None:
    """Return the file unless its mark says that it is another's."""
    if file is None or file.mark is None or (file.mark.ref, file.mark.role) == (place.ref, role):
        return file
    return None


def mark_of(fd: int, found: os.stat_result) -> Mark | None:
    """Return the mark that a file carries; None where attributes are not kept."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        return read_mark(os.getxattr(fd, ATTRIBUTE), found)
    except OSError as error:
        if error.errno in {errno.ENODATA, *NO_ATTRIBUTES}:
            return None
        raise
