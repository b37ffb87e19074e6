"""The log outlives Redis: closed segments of its streams, in the fleet's store.

A segment is an artifact. Its data is gzip of rows (`history.rows`), its manifest says what is in
it, and its ref between which IDs it lies:

    .sidecar/archive/<notification stream>/<stream>/<first ID>..<last ID>

What lay right before a segment, and was gone when that was written, its ref tells as a gap:
`…~<first ID>..<last ID>`. So the names alone tell the order, and what is missing. A stream that was
made anew may have other rows between the same IDs: their ref ends in `+` and digits of a checksum.
What is older than the archive's horizon (`history.horizon`) is gone up to the ID that a ref beside
them tells: `expired~<last ID>`.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Annotated, Any, Final, NamedTuple

import orjson
from pydantic import AfterValidator, Field

from sidecar.errors import Incomplete, SidecarError
from sidecar.history.checkpoints import newest_checkpoint
from sidecar.history.contract import ALWAYS, ANY, About, Checkpoint, Gap, Reach, Streams
from sidecar.history.packed import rows_of
from sidecar.history.places import ROOT, archive_of_another, escaped
from sidecar.history.rows import id_of_line, to_line
from sidecar.history.sealing import Seals
from sidecar.history.segments import (
    BaseHeader,
    Damaged,
    Id,
    Run,
    Segment,
    entries_back_of,
    entries_of,
    lines_of,
    runs_of,
)
from sidecar.redis.client import Side
from sidecar.redis.errors import translated
from sidecar.redis.keys import Keys
from sidecar.redis.members import Held
from sidecar.redis.readers import Reader
from sidecar.redis.source import Entry
from sidecar.redis.takeovers import Takeover
from sidecar.stores import explained
from sidecar.wire.bounds import MAX_MANIFEST_BYTES, bounded
from sidecar.wire.ids import FIRST, LAST, EntryId, IdText
from store import (
    ArtifactReader,
    Capability,
    Corrupt,
    Limit,
    NotFound,
    TooLarge,
    VersionedStore,
)

FORMAT: Final = 1
_ID: Final = r"([0-9]{1,20}-[0-9]{1,20})"
_NAME: Final = re.compile(rf"{_ID}\.\.{_ID}(?:~{_ID}\.\.{_ID})?(?:\+[0-9a-f]{{12}})?")
_EXPIRED: Final = re.compile(rf"expired~{_ID}")
MAX_TENANTS: Final = 1000
MAX_ROWS: Final = 1_000_000
MAX_UNPACKED_BYTES: Final = 1 << 30
"""Of a segment: 8 MiB, unless an entry by itself is larger."""
_GZIP: Final = 31
_FILTER_BITS: Final = 10
"""Of a Bloom filter, for each thing in it: one in a hundred is taken for there and is not."""
_FILTER_HASHES: Final = 7


def _base64(text: str) -> str:
    b64decode(text, validate=True)
    return text


class Header(BaseHeader):
    """The manifest of a segment."""

    stream: str
    first: IdText
    last: IdText
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)]
    sha256: str
    """Of the rows, not compressed."""
    tenants: list[str] | None = None
    """Whose events are in it; None when there are too many to say."""
    about: Annotated[str, AfterValidator(_base64)] = ""
    """A Bloom filter of event_ids and artifact_refs, in base64."""
    previous: str = ""
    """The segment before it, as `history.chain` writes it; empty for a first one, and in segments
    of older releases."""
    doubted: Annotated[list[int], Field(max_length=100_000)] | None = None
    """Rows, by their numbers from 0, that who sealed it does not vouch for; None: for none."""


EXPIRED: Final = "expired"
"""Why the oldest of an archive that is kept for so long is gone."""
DROPPED: Final = "dropped"
LOST: Final = "lost"
_WHY: Final = {
    DROPPED: "dropped from the archive by hand",
    LOST: "archived, and gone from the archive since",
    "": "trimmed before it was archived",
}
"""Why a stretch is gone, by the word of the mark that tells it; without one, by a name."""
Ends = tuple[EntryId, EntryId]
"""The first and the last ID of a stretch."""


class Name(NamedTuple):
    """A segment, as its ref tells of it."""

    ref: str
    first: EntryId
    last: EntryId
    gap: Ends | None
    """What was gone already when this was written, right before it."""

    @property
    def where(self) -> str:
        """For words about it."""
        return f"the archive's segment {self.ref}"


def place_of(notifications: str, stream: str) -> str:
    """Return under which ref the segments of a stream lie."""
    return f"{ROOT}/{escaped(notifications)}/{escaped(stream)}"


class Contents(NamedTuple):
    """What the archive has of a stream."""

    names: list[Name]
    """Its segments, by their first IDs."""
    marks: dict[EntryId, str]
    """Refs that tell up to where it has expired, by that; only the highest counts."""
    gone: list[tuple[str, Name]]
    """What else is gone: `DROPPED` or `LOST`, and what the mark of that tells."""

    @property
    def expired(self) -> EntryId:
        """Up to where it has expired: what no segment has of that is gone. FIRST for nothing."""
        return max(self.marks, default=FIRST)


def contents_of(store: VersionedStore, notifications: str, stream: str) -> Contents:
    """Return what the archive has of a stream. Raises as the store does."""
    prefix = place_of(notifications, stream)
    found, marks, gone = list[Name](), dict[EntryId, str](), list[tuple[str, Name]]()
    for ref in store.list(prefix):
        word = ref.removeprefix(prefix + "/")
        why, _, rest = word.partition("~")
        if name := _named(ref, word):
            found.append(name)
        elif match := _EXPIRED.fullmatch(word):
            marks[EntryId(match[1])] = ref
        elif why in (DROPPED, LOST) and (name := _named(ref, rest)):
            gone.append((why, name))
    return Contents(sorted(found, key=lambda name: (name.first, name.last)), marks, gone)


def _named(ref: str, word: str) -> Name | None:
    """Return what a segment's name tells; None for what is none."""
    match = _NAME.fullmatch(word)
    if not match:
        return None
    gap = (EntryId(match[3]), EntryId(match[4])) if match[3] else None
    return Name(ref, EntryId(match[1]), EntryId(match[2]), gap)


def names_of(store: VersionedStore, notifications: str, stream: str) -> list[Name]:
    """Return the segments of a stream, by their first IDs. Raises as the store does."""
    return contents_of(store, notifications, stream).names


def mark_of(notifications: str, stream: str, last: EntryId) -> str:
    """Return the ref that tells that a stream has expired up to an ID."""
    return f"{place_of(notifications, stream)}/expired~{last}"


def loss_of(notifications: str, stream: str, ends: Ends) -> str:
    """Return the ref that tells that the archive had a stretch of a stream, and has it no more."""
    return f"{place_of(notifications, stream)}/{LOST}~{ends[0]}..{ends[1]}"


def pack(
    notifications: str, stream: str, entries: Sequence[Entry], gap: Ends | None, previous: str = "",
    doubted: list[int] | None = None,
) -> tuple[str, bytes, bytes]:  # fmt: skip
    """Return ref, data and manifest of a segment: the same for the same entries, after the same."""
    raw = b"".join(map(to_line, entries))
    tenants, words = _mentioned(entries)
    header = Header(
        format=FORMAT, stream=stream, first=entries[0].id, last=entries[-1].id, rows=len(entries),
        sha256=hashlib.sha256(raw).hexdigest(),
        tenants=sorted(tenants) if len(tenants) <= MAX_TENANTS else None,
        about=b64encode(_filter(words)).decode(), previous=previous,
        doubted=doubted,
    )  # fmt: skip
    ref = f"{place_of(notifications, stream)}/{header.first}..{header.last}"
    ref += f"~{gap[0]}..{gap[1]}" if gap else ""
    return ref, gzip.compress(raw, 6, mtime=0), _json_of(header)


def _json_of(header: Header) -> bytes:
    leave_out = {"doubted"} if header.doubted is None else None
    return orjson.dumps(header.model_dump(mode="json", exclude=leave_out))


def apart(store: VersionedStore, ref: str, manifest: bytes) -> str:
    """Return the ref for a segment: another than `ref` where that has other rows already.

    Raises as the store does, and `Damaged`.
    """
    ours = Header.read(manifest, ref, FORMAT).sha256
    try:
        with store.open(ref, **_bounded(store)) as reader:
            is_other = Header.read(reader.manifest, ref, FORMAT).sha256 != ours
    except (NotFound, Corrupt, TooLarge, Damaged):
        return ref  # what is damaged is healed by what is put there
    return f"{ref}+{ours[:12]}" if is_other else ref


def _mentioned(entries: Sequence[Entry]) -> tuple[set[str], set[str]]:
    tenants, words = set(), set()
    for entry in entries:
        try:
            body = orjson.loads(entry.fields.get(b"event", b""))
            tenants.add(str(body.get("tenant_id") or ""))
            words |= {str(body.get(name) or "") for name in ("event_id", "artifact_ref")}
        except (ValueError, AttributeError):
            continue
        words.add(entry.fields.get(b"event_id", b"").decode(errors="replace"))  # of a record
    return tenants, words - {""}


def _filter(words: Collection[str]) -> bytes:
    bits = bytearray(max(8, -(-len(words) * _FILTER_BITS // 8)))
    for word in words:
        for bit in _bits(word, len(bits) * 8):
            bits[bit >> 3] |= 1 << (bit & 7)
    return bytes(bits)


def _bits(word: str, size: int) -> Iterator[int]:
    digest = hashlib.sha256(word.encode(errors="replace")).digest()
    one, two = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
    return ((one + n * two) % size for n in range(_FILTER_HASHES))


def may_mention(header: Header, about: About) -> bool:
    """Tell whether a segment may have entries about that."""
    if about.tenant_id and header.tenants is not None and about.tenant_id not in header.tenants:
        return False
    bits = b64decode(header.about)
    return all(
        bits[bit >> 3] >> (bit & 7) & 1
        for word in (about.event_id, about.artifact_ref)
        if word and bits
        for bit in _bits(word, len(bits) * 8)
    )


class ArchiveHistory:
    """What the archive holds, as `History` describes it."""

    def __init__(self, store: VersionedStore, streams: Streams, seals: Seals | None = None) -> None:
        """`streams` are those of a notification stream, as Redis knows them. `seals` looks at who
        sealed what is read of the notifications.
        """
        self._seals = seals
        self.store = store
        self.streams = streams
        self.span_us = ALWAYS
        self._contents: dict[str, Contents] = {}

    def describe(self) -> str:
        """Name the store."""
        return f"the archive in the store {self.store.name}"

    def now_us(self) -> int:
        """Return the time of the newest notification in it."""
        return self.last(self.streams.notifications).control_version

    def names(self, stream: str, *, anew: bool = False) -> list[Name]:
        """Return the segments of a stream; looked for once, or `anew`."""
        return self.contents(stream, anew=anew).names

    def contents(self, stream: str, *, anew: bool = False) -> Contents:
        """Return what there is of a stream; looked for once, or `anew`."""
        if anew or stream not in self._contents:
            with explained():
                self._contents[stream] = contents_of(self.store, self.streams.notifications, stream)
        return self._contents[stream]

    def reach(self, stream: str) -> Reach | None:
        """Return from where to where the segments go, what has expired before, and what lies
        between them no more.
        """
        contents = self.contents(stream)
        names = contents.names
        if not (names or contents.marks or contents.gone):
            return None
        return Reach(names[0].first if names else None, self.last(stream), _gaps(contents))

    def last(self, stream: str, *, anew: bool = False) -> EntryId:
        """Return the highest ID that its segments have, or had; FIRST for none."""
        contents = self.contents(stream, anew=anew)
        ends = [
            *(name.last for name in contents.names),
            *(one.last for _, one in contents.gone),
        ]
        return max(ends, default=contents.expired)

    def entries(
        self, stream: str, first: EntryId = FIRST, last: EntryId = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the segments that may mention `about`."""
        pieces = self._pieces(stream, about)
        # A caller that looks for something stops at what was found: the next is not read for it.
        yield from entries_of(pieces, first, last, eager=about == ANY)

    def lines(self, stream: str, first: EntryId, last: EntryId) -> Iterator[bytes]:
        """Yield what is in the segments, as it lies there."""
        yield from lines_of(self._pieces(stream, ANY), first, last, eager=True)

    def runs(self, stream: str, first: EntryId, last: EntryId) -> Iterator[Run]:
        """Yield what `lines` does as it is read, with who vouches for it; see `runs_of`."""
        return runs_of(self._pieces(stream, ANY), first, last)

    def entries_back(
        self, stream: str, last: EntryId = LAST, first: EntryId = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in them, the newest first."""
        yield from entries_back_of(self._pieces(stream, about), last, first)

    def waiting(self, stream: str, entry_ids: Collection[EntryId]) -> set[EntryId]:
        """Return nothing: the archive does not know who is at work."""
        del stream, entry_ids
        return set()

    def readers(self) -> Sequence[Reader]:
        """Return nothing: the archive does not know who reads."""
        return ()

    def takeovers(self) -> Sequence[Takeover]:
        """Return nothing: the archive does not know who is at work."""
        return ()

    def held(self) -> Sequence[Held]:
        """Return nothing: the archive has no workers."""
        return ()

    def published(self, event_ids: Collection[str]) -> dict[str, int]:
        """Return those that have a notification in it, found by the segments' filters."""
        found = {}
        for event_id in event_ids:
            for entry in self.entries(self.streams.notifications, about=About(event_id=event_id)):
                if _event_id_of(entry) == event_id:
                    found[event_id] = entry.id.control_version
                    break
        return found

    def checkpoint(self, last: EntryId) -> Checkpoint | None:
        """Return the newest one at or before the notification `last`."""
        return newest_checkpoint(self.store, self.streams.notifications, last, self._seals)

    def rows(self, name: Name) -> int:
        """Return how many entries a segment has."""
        return Header.read(self.manifest(name.ref), name.where, FORMAT).rows

    def manifest(self, ref: str) -> bytes:
        """Return the manifest of the segment at `ref`. Raises `SidecarError`."""
        with explained(), self.store.open(ref, **_bounded(self.store)) as reader:
            return reader.manifest

    def _pieces(self, stream: str, about: About) -> list[_Piece]:
        return [
            _Piece(
                name.first,
                name.last,
                partial(self._segment, stream, name, about),
                partial(self._runs, stream, name),
            )
            for name in self.names(stream)
        ]

    def _segment(self, stream: str, name: Name, about: About) -> Segment | None:
        """Return a segment, unless it cannot mention `about`. Raises `Damaged`, `UsageError`."""
        with self._opened(stream, name) as (reader, header):
            if not may_mention(header, about):
                return None
            self._sealer(stream, name, reader.manifest, header)
            data = reader.readall()
        return Segment(
            name.where, name.first, name.last, header.rows, header.sha256,
            partial(_unpacked, name.where, data),
        )  # fmt: skip

    def _runs(self, stream: str, name: Name, low: Id, high: Id) -> Iterator[Run]:
        """Yield a segment's rows as they are read; see `Streamed`."""
        with self._opened(stream, name) as (reader, header):
            sealer = self._sealer(stream, name, reader.manifest, header)
            found = rows_of(reader, name.where, header.rows, header.sha256)
            parted = _parted(_between_ends(name, found), sealer, frozenset(header.doubted or ()))
            if low <= name.first.pair and name.last.pair <= high:
                yield from parted
                return
            for who, lines in parted:
                yield who, [line for line in lines if low <= id_of_line(line) <= high]

    @contextmanager
    def _opened(self, stream: str, name: Name) -> Iterator[tuple[ArtifactReader, Header]]:
        """Open a segment that is what its name says. Raises `Damaged`, `Incomplete`."""
        try:
            with explained(), self.store.open(name.ref, **_bounded(self.store)) as reader:
                header = Header.read(reader.manifest, name.where, FORMAT)
                if (header.stream, header.first, header.last) != (stream, name.first, name.last):
                    raise Damaged(f"{name.where} is damaged: its header is that of another")
                yield reader, header
        except SidecarError as error:
            if isinstance(error.__cause__, NotFound) and self._has_expired(stream, name):
                said = f"{name.where} expired while it was read: try again"
                raise Incomplete(said) from error
            if isinstance(error.__cause__, Corrupt | NotFound | TooLarge):
                raise Damaged(f"{name.where} is damaged: {error}") from error
            raise

    def _sealer(self, stream: str, name: Name, manifest: bytes, header: Header) -> str:
        """Return who vouches for the rows of a segment, but for those that it doubts."""
        if self._seals is None or stream != self.streams.notifications:
            return ""
        ends = name.first, name.last
        sealer = self._seals.segment(name.ref, manifest, ends, header.previous)
        return sealer if header.doubted is not None else ""

    def _has_expired(self, stream: str, name: Name) -> bool:
        return name.last <= self.contents(stream, anew=True).expired


class _Piece(NamedTuple):
    """A segment that was not opened yet."""

    first: EntryId
    last: EntryId
    open: Callable[[], Segment | None]
    runs: Callable[[Id, Id], Iterator[Run]]


def _bounded(store: VersionedStore) -> dict[str, Any]:
    """Packed, a segment is no larger than unpacked, but for a few bytes."""
    return bounded(store, Limit(MAX_UNPACKED_BYTES, MAX_MANIFEST_BYTES))


def _unpacked(where: str, data: bytes) -> bytes:
    unpacking = zlib.decompressobj(wbits=_GZIP)
    try:
        raw = unpacking.decompress(data, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise Damaged(f"{where} is damaged: {error}") from error
    if not unpacking.eof or unpacking.unused_data:
        raise Damaged(
            f"{where} is damaged: it is cut short, or has over {MAX_UNPACKED_BYTES:,} bytes"
        )
    return raw


def _between_ends(name: Name, found: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """Pass a segment's rows on. Raises `Damaged` unless they begin and end as its name says."""
    last = b""
    try:
        for lines in filter(None, found):
            if not last and id_of_line(lines[0]) != name.first.pair:
                break
            last = lines[-1]
            yield lines
        ends_there = bool(last) and id_of_line(last) == name.last.pair
    except ValueError as error:
        raise Damaged(f"{name.where} is damaged: {error}") from error
    if not ends_there:
        raise Damaged(f"{name.where} is damaged: it begins or ends elsewhere")


def _parted(found: Iterator[list[bytes]], sealer: str, doubted: frozenset[int]) -> Iterator[Run]:
    """Yield rows by who vouches for them: nobody for those with the numbers `doubted`."""
    number = 0
    for lines in found:
        numbers = range(number, number + len(lines))
        number = numbers.stop
        if doubted.isdisjoint(numbers):
            yield sealer, lines
            continue
        for at, line in zip(numbers, lines, strict=True):
            yield "" if at in doubted else sealer, [line]


def _gaps(contents: Contents) -> tuple[Gap, ...]:
    """Return what no segment has, in order, each stretch with the first cause that tells it."""
    told = {EXPIRED: [(FIRST.after, contents.expired)] if contents.expired > FIRST else []}
    for word, why in _WHY.items():
        told[why] = [(one.first, one.last) for found, one in contents.gone if found == word]
    names = [*contents.names, *(one for _, one in contents.gone)]
    told[_WHY[""]] = [name.gap for name in names if name.gap]
    covered = _united((name.first, name.last) for name in contents.names)
    found = list[Gap]()
    for why, stretches in told.items():
        left = list(_uncovered(_united(stretches), covered))
        found += (Gap(*ends, why) for ends in left)
        covered = _united([*covered, *left])
    return tuple(sorted(found))


def only_in(contents: Contents, name: Name) -> list[Ends]:
    """Return what no other segment has of one."""
    others = _united((one.first, one.last) for one in contents.names if one.ref != name.ref)
    return list(_uncovered([(name.first, name.last)], others))


def _united(stretches: Iterable[Ends]) -> list[Ends]:
    """Return what the stretches cover, in order; those that overlap as one."""
    found: list[Ends] = []
    for first, last in sorted(stretches):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _uncovered(gone: Iterable[Ends], there: Sequence[Ends]) -> Iterator[Ends]:
    """Yield what no segment has of what was gone: another archiver may have been in time.

    Both are in order, and apart: a store may have any number of names.
    """
    at = 0
    for first, last in gone:
        while at < len(there) and there[at][1] < first:
            at += 1
        for begin, end in islice(there, at, None):
            if begin > last:
                break
            if first < begin:
                yield first, begin.before
            first = end.after  # noqa: PLW2901 -- what is left of it
        if first <= last:
            yield first, last


def _event_id_of(entry: Entry) -> str:
    try:
        return str(orjson.loads(entry.fields[b"event"])["event_id"])
    except (KeyError, ValueError, TypeError):
        return ""


def archive_in(fleet: VersionedStore, streams: Streams) -> ArchiveHistory | None:
    """Return the archive of these streams; None when the store has none."""
    if not fleet.capabilities.issuperset({Capability.LIST, Capability.STREAM}):
        return None
    archive = ArchiveHistory(fleet, streams)
    there = any(archive.reach(stream) for stream in (*streams.control, *streams[1:]))
    return archive if there else None


def own_archive(
    fleet: VersionedStore, notify: Side, keys: Sequence[Keys], tell: Callable[[str], None]
) -> ArchiveHistory | None:
    """Return the archive of these streams, unless it is another log's, which is told; None without.

    Raises `Unreachable`, `SidecarError`.
    """
    archive = archive_in(fleet, Streams.of(keys))
    if archive is None:
        return None
    with explained(), translated(notify.url):
        other = archive_of_another(fleet, notify.client, keys[0])
    if other:
        tell(f"the archive in the fleet's store is that of the log {other}: it is not read")
    return None if other else archive
