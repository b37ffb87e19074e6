"""A cache of artifacts beside the feed, for all controllers of one user on one host."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from sidecar.errors import UsageError
from sidecar.feed.cachedir import Coming, Directory, NotOurs, size_of
from sidecar.feed.kept import Damaged, Kept, Pinned
from store import Artifact, ArtifactReader

REST_S: Final = 10.0
"""For so long nothing more is kept after the directory took no more."""
_LATER: Final = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What a controller may begin with: it has a cache once this is over."""

T = TypeVar("T")
Fetch = Callable[[], ArtifactReader]
"""Opens an artifact in the store."""

_log: Final = logging.getLogger("sidecar.feed")


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """What a `Cache` has done so far in this process, in numbers of artifacts.

    Attributes:
        hits: asked for, and read from the cache.
        waits: how many of the hits another thread or process had fetched just then.
        misses: asked for, and read from the store.
        prefetched: read from the store before they were asked for.
        bypassed: how many of the misses were not kept: the directory could not be read or written,
            or the artifact is larger than half of the cache.
        damaged: files that were not what was kept; removed, and fetched again.
        evicted: files that were removed to make room.

    """

    hits: int = 0
    waits: int = 0
    misses: int = 0
    prefetched: int = 0
    bypassed: int = 0
    damaged: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        """Which share of what was asked for was a hit; 0.0 before anything was."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0


class Cache:
    """Artifacts in a directory, verified when they are kept and when they are read.

    For any number of feeds, threads and processes of one user. Each artifact is fetched once
    for all who want it at the same time. Whatever is wrong with the directory, the store is asked.
    """

    def __init__(self, directory: str | os.PathLike[str], max_bytes: int) -> None:
        """Use `directory`, which is made (0700), and at most about `max_bytes` bytes of its disk.

        Raises `UsageError` for a directory that is a link, another user's, or open to others'
        writing, and for one that cannot be made.
        """
        if not os.fspath(directory):
            raise UsageError("the cache's directory is an empty text: name one")
        if type(max_bytes) is not int or max_bytes < 1:
            raise UsageError(f"max_bytes is {max_bytes!r}: give a number of bytes above 0")
        self._directory = Directory(Path(directory).absolute(), max_bytes)
        self._figures = CacheFigures()
        self._lock = threading.Lock()
        self._rests_until = 0.0
        self._said: set[str] = set()
        """What has been logged, each once."""
        try:
            self._directory.make()
        except OSError as error:
            if error.errno not in _LATER:
                words = f"the cache {str(directory)!r}: {error.strerror or error}{_fix(error)}"
                raise UsageError(words) from error
            self._fails(error)

    def figures(self) -> CacheFigures:
        """Return what it has done so far, in this process."""
        return self._figures

    def find(self, pin: Pinned) -> Artifact | None:
        """Return what is kept of a pinned artifact, verified; None where that is nothing."""
        return self._found(pin, Kept.artifact)

    def find_reader(self, pin: Pinned) -> ArtifactReader | None:
        """Do as `find`, to be read in constant memory."""
        return self._found(pin, Kept.reader)

    def get(self, pin: Pinned, fetch: Fetch) -> Artifact:
        """Return a pinned artifact; fetch it, unless another does.

        Raises as `fetch` does, and `store.Corrupt` when that brings other bytes than are pinned.
        """
        found = self._kept(pin, fetch, Kept.artifact)
        return found or _whole(self._past(fetch))

    def open(self, pin: Pinned, fetch: Fetch) -> ArtifactReader:
        """Do as `get`, to be read in constant memory."""
        return self._kept(pin, fetch, Kept.reader) or self._past(fetch)

    def prefetch(self, pin: Pinned, fetch: Fetch) -> None:
        """Fetch an artifact that will be asked for, unless it is there, or another fetches it."""
        if not self._read(pin, Kept.close):
            self._kept(pin, fetch, Kept.close, is_asked_for=False)

    def _found(self, pin: Pinned, read: Callable[[Kept], T]) -> T | None:
        found = self._read(pin, read)
        if found is not None:
            self._count(hits=1)
        return found

    def _read(self, pin: Pinned, read: Callable[[Kept], T]) -> T | None:
        """Return what is kept; what is damaged goes."""
        try:
            kept = self._directory.find(pin)
            return None if kept is None else read(kept)
        except Damaged as damaged:
            self._count(damaged=1)
            self._warn("the cache %s had a damaged file, and fetches it again: %s", damaged)
            with suppress(OSError):
                self._directory.remove(pin)
        except OSError as error:
            self._fails(error)
        return None

    def _kept(
        self, pin: Pinned, fetch: Fetch, read: Callable[[Kept], T], *, is_asked_for: bool = True
    ) -> T | None:
        """Return what is kept, by now; None where nothing can be kept."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            return self._in_turn(pin, fetch, read, is_asked_for=is_asked_for)
        except FileNotFoundError:  # somebody removed a part of it
            with suppress(OSError):
                self._directory.make()
        except OSError as error:
            self._fails(error)
            if not isinstance(error, TimeoutError):
                self._rests_until = time.monotonic() + REST_S
        return None

    def _in_turn(
        self, pin: Pinned, fetch: Fetch, read: Callable[[Kept], T], *, is_asked_for: bool
    ) -> T | None:
        """Wait for who fetches it, or fetch it; what nobody asked for yet is not waited for."""
        while True:
            with self._directory.take(pin, waits=is_asked_for) as coming:
                found = self._read(pin, read)
                if found is not None:
                    self._count(hits=is_asked_for, waits=is_asked_for)
                    return found
                if coming:
                    is_there = self._write(coming, pin, fetch, is_asked_for=is_asked_for)
                    return self._read(pin, read) if is_there else None
            if not is_asked_for:
                return None

    def _write(self, coming: Coming, pin: Pinned, fetch: Fetch, *, is_asked_for: bool) -> bool:
        """Fetch an artifact and keep it; return whether it is small enough for that."""
        with fetch() as source:
            if not self._directory.takes(size := size_of(pin, source)):
                self._warn(
                    "the cache %s does not keep what is larger than half of its max_bytes, such as"
                    " %s", f"{size} bytes at {pin.ref}",
                )  # fmt: skip
                return False
            gone = coming.write(source)
        self._said.clear()
        self._count(misses=is_asked_for, prefetched=not is_asked_for, evicted=gone)
        return True

    def _past(self, fetch: Fetch) -> ArtifactReader:
        """Read from the store what is not kept."""
        self._count(misses=1, bypassed=1)
        return fetch()

    def _fails(self, error: OSError) -> None:
        self._warn(
            "the cache %s is not used, and artifacts are read from the store: %s",
            error.strerror or str(error),
        )

    def _warn(self, words: str, what: object) -> None:
        """Log what is wrong, each kind once until something is kept again."""
        if words not in self._said:
            _log.warning(words, self._directory.path, what)
        self._said.add(words)

    def _count(self, **more: int) -> None:
        with self._lock:
            now = self._figures
            self._figures = replace(
                now, **{name: getattr(now, name) + number for name, number in more.items()}
            )


def _whole(reader: ArtifactReader) -> Artifact:
    with reader:
        return Artifact(reader.readall(), reader.manifest)


def _fix(error: OSError) -> str:
    """Say what to do where the error does not say it."""
    return "" if isinstance(error, NotOurs) else "; name one that this user may make and write"
