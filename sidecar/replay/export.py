"""A part of a history written into a bundle that opens anywhere, without Redis and the stores."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, Final

import orjson

from sidecar.errors import SidecarError, UsageError
from sidecar.history import Gap, History
from sidecar.history.bundle import (
    Index,
    Member,
    Pinned,
    StreamIndex,
    seal,
)
from sidecar.history.members import INDEX, PINS, RATIO, SLACK_BYTES, WAITING, artifact_name
from sidecar.history.rows import of_line, to_line
from sidecar.history.scratch import Spool, scratch
from sidecar.history.state import state_at
from sidecar.redis.source import Entry
from sidecar.replay.artifacts import State, put_of
from sidecar.replay.timeline import End, Life, lives
from sidecar.replay.window import Window
from sidecar.stores import explained, open_reader
from sidecar.wire.event import Event
from sidecar.wire.ids import FIRST
from sidecar.wire.notification import Notification
from store import (
    CHUNK_BYTES,
    Corrupt,
    NotFound,
    TooLarge,
    Version,
    VersionedStore,
    checksum_of,
)

SEGMENT_ROWS: Final = 5000
LINES_IN_MEMORY_BYTES: Final = 8 << 20
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE rows (stream, at, line, PRIMARY KEY (stream, at)) WITHOUT ROWID;
CREATE TABLE waiting (stream, at, entry, PRIMARY KEY (stream, at)) WITHOUT ROWID;
CREATE TABLE pins (ref, checksum, manifest_checksum,
                   PRIMARY KEY (ref, checksum, manifest_checksum)) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Exported:
    """What a bundle came to hold."""

    rows: int = 0
    artifacts: int = 0
    size_bytes: int = 0
    """Of the artifacts, not compressed."""
    unavailable: int = 0
    """Artifacts that the store has no more, or only damaged: the bundle names them."""


def export(
    history: History, window: Window, path: Path, *, artifacts: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Exported:  # fmt: skip
    """Write what the window holds, with all that explains it, into a bundle at `path`.

    Besides the window's own entries, those are taken that began or ended one of them, and the
    newest notification of each subject before it. Memory does not grow with the window: what
    must be sorted lies in a temporary SQLite file. The bundle appears whole, or not at all.

    Raises `UsageError` when there is something at `path`, and as the history and its store do.
    """
    exported = Exported()
    with _Target.at(path) as target:
        gathered = _Gathered(history, window)
        gathered.gather(tell)
        streams = [_write_stream(gathered, n, name, target, exported)
                   for n, name in enumerate(_names(history))]  # fmt: skip
        waiting = target.write(WAITING, gathered.waiting())
        pins = None
        if artifacts and history.store is not None:
            pins = _write_artifacts(gathered, history.store, target, exported, tell)
        names = history.streams
        index = Index(
            taken_from=history.describe(), taken_at_us=history.now_us(),
            span_us=(window.since_us, min(window.until_us, history.now_us())),
            control=list(names.control), notifications=names.notifications, dead=names.dead,
            redriven=names.redriven, halts=names.halts, tenures=names.tenures, streams=streams,
            waiting=waiting, pins=pins, readers=[one[:] for one in history.readers()],
            takeovers=[astuple(one) for one in history.takeovers()],
            held=[one[:] for one in history.held()],
        )  # fmt: skip
        target.write(INDEX, [seal(index)])
    return exported


def _names(history: History) -> tuple[str, ...]:
    return tuple(filter(None, (*history.streams.control, *history.streams[1:])))


class _Gathered:
    """What goes into the bundle, in a temporary file: rows in order, what waits, and pins."""

    def __init__(self, history: History, window: Window) -> None:
        self.history, self.window = history, window
        self._db = scratch(_SCHEMA)

    def gather(self, tell: Callable[[str], None]) -> None:
        """Find it all."""
        for entry in state_at(self.history, self.window.since_us - 1).entries():
            self._row(self.history.streams.notifications, entry)
            self._pin(Notification.of_entry(entry.fields))
        for stream in (self.history.streams.halts, self.history.streams.tenures):
            for entry in self.history.entries(stream):
                self._row(stream, entry)  # all: few, and each explains the next
        for n, life in enumerate(lives(self.history, self.window)):
            self._life(life)
            if n % 1000 == 0:
                tell(f"{n:,} events")

    def _life(self, life: Life) -> None:
        stream = life.origin.stream
        names = self.history.streams
        if life.entry:
            self._row(stream, life.entry)
        if life.end is End.WAITING and life.entry:
            self._db.execute(
                "INSERT OR IGNORE INTO waiting VALUES (?, ?, ?)",
                (stream, life.entry.id.key, life.entry.id),
            )
        if life.end_id and life.fields is not None:
            ended_in = {End.DEAD: names.dead, End.REDRIVEN: names.redriven}
            self._row(ended_in.get(life.end, names.notifications), Entry(life.end_id, life.fields))
        self._pin(life.event)

    def _row(self, stream: str, entry: Entry) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO rows VALUES (?, ?, ?)",
            (stream, entry.id.key, to_line(entry)),
        )

    def _pin(self, event: Event | None) -> None:
        if event and event.artifact_ref:
            self._db.execute(
                "INSERT OR IGNORE INTO pins VALUES (?, ?, ?)",
                (event.artifact_ref, event.checksum, event.manifest_checksum),
            )

    def rows(self, stream: str) -> Iterator[bytes]:
        """Yield the lines of a stream, in order."""
        query = "SELECT line FROM rows WHERE stream = ? ORDER BY at"
        return (line for (line,) in self._db.execute(query, (stream,)))

    def waiting(self) -> Iterator[bytes]:
        """Yield the lines of `waiting.jsonl`."""
        for row in self._db.execute("SELECT stream, entry FROM waiting ORDER BY stream, at"):
            yield _line(row)

    def pins(self) -> Iterator[Event]:
        """Yield an event for each artifact that is named."""
        query = "SELECT ref, checksum, manifest_checksum FROM pins ORDER BY ref"
        for ref, checksum, manifest_checksum in self._db.execute(query):
            yield Event(
                event_id="-", type="-", artifact_ref=ref, checksum=checksum,
                manifest_checksum=manifest_checksum,
            )  # fmt: skip


def _write_stream(
    gathered: _Gathered, number: int, name: str, target: _Target, exported: Exported
) -> StreamIndex:
    segments = list(_segments(gathered.rows(name), number, target))
    exported.rows += sum(one.count for one in segments)
    reach = gathered.history.reach(name)
    return StreamIndex(
        name=name, known=reach is not None, oldest=segments[0].first if segments else None,
        newest=reach.last if reach else FIRST, segments=segments,
        gaps=[(gap.first, gap.last, gap.why, gap.folded) for gap in _gaps(gathered, name)],
    )  # fmt: skip


def _segments(rows: Iterator[bytes], number: int, target: _Target) -> Iterator[Member]:
    """Write the rows of the stream with this number; yield each segment, once written."""
    for place in count():
        lines = list(islice(rows, SEGMENT_ROWS))
        if not lines:
            return
        member = target.write(f"streams/{number}/{place:06}.jsonl", lines)
        ends = {"first": of_line(lines[0]).id, "last": of_line(lines[-1]).id}
        yield member.model_copy(update=ends | {"count": len(lines)})


def _gaps(gathered: _Gathered, stream: str) -> Iterator[Gap]:
    """Yield what was missing before, and what lies outside the window."""
    history, window = gathered.history, gathered.window
    reach = history.reach(stream)
    if reach is None:
        return
    exact = stream == history.streams.notifications
    first, last = (window.first, window.last) if exact else (window.first_entry, window.last_entry)
    yield from reach.missing(first, last)
    if reach.first and reach.first < first:
        earlier = reach.missing(FIRST, first)
        folded = exact and all(gap.folded for gap in earlier)
        yield Gap(reach.first, first.before, "not exported", folded)
    if reach.last > last:
        yield Gap(last.after, reach.last, "not exported")


def _write_artifacts(
    gathered: _Gathered, store: VersionedStore, target: _Target, exported: Exported,
    tell: Callable[[str], None],
) -> Member:  # fmt: skip
    """Write each artifact once, however many events name it, and say what became of it."""
    with Spool(max_size=LINES_IN_MEMORY_BYTES) as lines:
        for event in gathered.pins():
            pinned = _write_artifact(event, store, target)
            exported.artifacts += pinned.state == State.THERE
            exported.unavailable += pinned.state != State.THERE
            exported.size_bytes += pinned.size_bytes + pinned.manifest_size_bytes
            lines.write(_line(list(pinned.model_dump().values())))
            tell(f"{exported.artifacts:,} artifacts")
        lines.seek(0)
        return target.write(PINS, lines)


def _write_artifact(event: Event, store: VersionedStore, target: _Target) -> Pinned:
    put = put_of(event, store)
    pinned = Pinned(
        ref=event.artifact_ref, checksum=event.checksum,
        manifest_checksum=event.manifest_checksum, state=put.state if put else State.ABSENT,
        why=put.why if put else "",
    )  # fmt: skip
    if put is None or put.state is not State.THERE:
        return pinned
    try:
        with explained():
            return _copy(event, put.version, store, target)
    except SidecarError as error:
        if isinstance(error.__cause__, NotFound | Corrupt | TooLarge):
            gone = isinstance(error.__cause__, NotFound)  # collected since we looked
            return pinned.model_copy(update={"state": State.GONE if gone else State.CORRUPT})
        raise


def _copy(event: Event, version: Version | None, store: VersionedStore, target: _Target) -> Pinned:
    manifest_checksum = version.manifest_checksum if version else event.manifest_checksum
    pin: dict[str, Any] = {
        "checksum": event.checksum,
        "manifest_checksum": manifest_checksum or None,
    }
    with open_reader(store, event.artifact_ref, pin) as reader:
        manifest = reader.manifest
        size_bytes = target.add(event.checksum, iter(partial(reader.read, CHUNK_BYTES), b""))
    target.add(checksum_of(manifest), [manifest])
    return Pinned(
        ref=event.artifact_ref, checksum=event.checksum, manifest_checksum=checksum_of(manifest),
        state=State.THERE, size_bytes=size_bytes, manifest_size_bytes=len(manifest),
        stored_at=version.stored_at if version else 0.0,
    )  # fmt: skip


def _line(row: object) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class _Target:
    """A bundle being written: beside its place, and there only once it is whole and durable."""

    def __init__(self, path: Path) -> None:
        self._zip: zipfile.ZipFile | None = None
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._sizes: dict[str, int] = {}
        if path.suffix == ".zip":
            file = os.fdopen(os.open(self._part, _NEW, 0o600), "wb")
            self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
            self._file: IO[bytes] | None = file
        else:
            self._part.mkdir(mode=0o700)
            self._file = None

    @classmethod
    @contextmanager
    def at(cls, path: Path) -> Iterator[_Target]:
        """Yield what writes the bundle; move it to `path` at the end. Raises `UsageError`."""
        if path.exists():
            raise UsageError(f"{path} is there already; remove it, or name another DIR or FILE.zip")
        try:
            target = cls(path)
            try:
                yield target
                target.finish(path)
            except BaseException:
                target.discard()
                raise
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    def write(self, name: str, lines: Iterable[bytes]) -> Member:
        """Write a file of lines; return what the index says of it."""
        sha256, packing, packed = hashlib.sha256(), zlib.compressobj(1), 0
        with Spool(max_size=LINES_IN_MEMORY_BYTES) as spooled:
            for line in lines:
                sha256.update(line)
                packed += len(packing.compress(line))
                spooled.write(line)
            # What its reader would take for a bomb is not compressed (`history.members`).
            tame = spooled.tell() <= RATIO // 2 * packed + SLACK_BYTES
            spooled.seek(0)
            with self._open(name, packed=tame) as file:
                shutil.copyfileobj(spooled, file)
        return Member(name=name, sha256=sha256.hexdigest())

    def add(self, checksum: str, chunks: Iterable[bytes]) -> int:
        """Write a blob once; return its size in bytes."""
        name = artifact_name(checksum.removeprefix("sha256:"))
        if name not in self._sizes:
            self._sizes[name] = 0
            with self._open(name) as file:
                for chunk in chunks:
                    self._sizes[name] += len(chunk)
                    file.write(chunk)
        return self._sizes[name]

    def _open(self, name: str, *, packed: bool = True) -> IO[bytes]:
        if self._zip:
            info = zipfile.ZipInfo(name, time.localtime()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            info.external_attr = 0o600 << 16
            return self._zip.open(info, "w", force_zip64=True)
        (self._part / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.fdopen(os.open(self._part / name, _NEW, 0o600), "wb")

    def finish(self, path: Path) -> None:
        if self._zip and self._file:
            self._zip.close()
            self._file.close()
            _flush(self._part)
        else:
            for directory, _, files in os.walk(self._part, topdown=False):
                for name in files:
                    _flush(Path(directory, name))
                _flush(Path(directory))
        self._part.rename(path)
        _flush(path.parent)

    def discard(self) -> None:
        if self._zip and self._file:
            with suppress(OSError, ValueError):  # what is thrown away need not be whole
                self._zip.close()
            self._file.close()
            self._part.unlink(missing_ok=True)
        else:
            shutil.rmtree(self._part, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
