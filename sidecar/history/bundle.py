"""A history in a bundle, which `replay export` writes: a zip file, or a directory of that layout.

    BUNDLE.json               what is in it: streams, how far they reach, segments with checksums
    streams/0/000000.jsonl    the rows of a stream, in segments (`history.rows`)
    waiting.jsonl             control entries that nobody had finished: [stream, entry ID]
    pins.jsonl                the artifacts that the events name, and what became of each
    artifacts/…               data and manifests, each named by its SHA-256

Nothing is read by a name from within, but for those of this layout; nothing is ever unpacked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from sidecar.errors import UsageError
from sidecar.history.contract import ANY, About, Gap, Reach, Streams
from sidecar.history.members import INDEX, MAX_INDEX_BYTES, TEXT, Members, artifact_name
from sidecar.history.scratch import Scratch, scratch
from sidecar.history.segments import Damaged, Segment, entries_back_of, entries_of, lines_of
from sidecar.redis.members import Held
from sidecar.redis.readers import Reader
from sidecar.redis.source import Entry
from sidecar.redis.takeovers import Takeover
from sidecar.wire.erasures import Erased
from sidecar.wire.ids import FIRST, LAST, EntryId, IdText
from sidecar.wire.moments import rfc3339
from store import (
    Artifact,
    Capability,
    Corrupt,
    NotFound,
    StoreError,
    Version,
    VersionedStore,
    versioned,
)

FORMAT: Final = 1
T = TypeVar("T")
LATEST_US: Final = 253_402_300_799_999_999
"""The last moment that a time can show."""
MAX_ROWS: Final = 100_000
"""Of a segment: more than any release writes."""
_HEX: Final = re.compile("[0-9a-f]{64}")


Position = Annotated[int, Field(ge=0, lt=10**17)]
Time = Annotated[int, Field(ge=0, le=LATEST_US)]


class _Part(BaseModel):
    """A part of what the index says. Fields of a later format are none of ours."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Member(_Part):
    """A file of the bundle."""

    name: Annotated[str, Field(pattern=f"^({TEXT.pattern})$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    first: IdText = FIRST
    last: IdText = LAST
    count: Annotated[int, Field(ge=0, le=MAX_ROWS)] = 0


class StreamIndex(_Part):
    """One stream."""

    name: str
    known: bool
    """Whether there was such a stream."""
    oldest: IdText | None
    newest: IdText
    gaps: list[tuple[IdText, IdText, str, bool]]
    segments: list[Member]


class Index(_Part):
    """What `BUNDLE.json` says."""

    taken_from: str
    taken_at_us: Time
    span_us: tuple[Time, Time]
    control: list[str]
    notifications: str
    dead: str
    redriven: str
    halts: str = ""
    """Empty in a bundle of a release that kept no record of halts."""
    tenures: str = ""
    """Empty in a bundle that was taken without."""
    streams: list[StreamIndex]
    waiting: Member
    pins: Member | None
    """None for a bundle without artifacts."""
    readers: list[tuple[str, Position, Position, Position, bool]] = []
    """As `Reader` has them; this and what follows is not in a bundle of an older release."""
    takeovers: list[tuple[str, str, str, str]] = []
    held: list[tuple[str, str, str, str, int, str, str, bool]] = []


_WAITS: Final = TypeAdapter(tuple[str, IdText])


def seal(index: Index) -> bytes:
    """Return the content of `BUNDLE.json`."""
    body = orjson.dumps(index.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    sha256 = hashlib.sha256(body).hexdigest()
    return b'{"format":%d,"sha256":"%s","index":%s}\n' % (FORMAT, sha256.encode(), body)


def unseal(raw: bytes, path: Path) -> Index:
    """Read the content of `BUNDLE.json`. Raises `Damaged`, and `UsageError` for a newer format."""
    try:
        sealed = orjson.loads(raw)
        newer = sealed["format"] > FORMAT
        body, sha256 = orjson.dumps(sealed["index"], option=orjson.OPT_SORT_KEYS), sealed["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}: {INDEX} is damaged: {error}") from error
    if newer:
        raise UsageError(
            f"{path} has bundle format {sealed['format']}, and this release reads up to {FORMAT};"
            " read it with the release that wrote it, or a newer one"
        )
    return _index(body, sha256, path)


def _index(body: bytes, sha256: object, path: Path) -> Index:
    if hashlib.sha256(body).hexdigest() != sha256:
        raise Damaged(f"{path}: {INDEX} is damaged: it does not have its own checksum")
    try:
        return Index.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Damaged(f"{path}: {INDEX}: {first['loc']}: {first['msg']}") from error


class BundleHistory:
    """What a bundle holds, as `History` describes it.

    Raises `UsageError` and `Damaged` when it cannot be opened; each part is checked when it is
    read.
    """

    def __init__(self, path: Path) -> None:
        self._files = Members(path)
        self._index = index = unseal(self._files.read(INDEX, MAX_INDEX_BYTES), path)
        self.streams = Streams(
            tuple(index.control), index.notifications, index.dead, index.redriven, index.halts,
            index.tenures,
        )  # fmt: skip
        self.span_us = index.span_us
        self._streams = {one.name: one for one in index.streams}
        self._segments = {
            one.name: [self._segment(member) for member in one.segments] for one in index.streams
        }

    @cached_property
    def store(self) -> VersionedStore | None:
        """The artifacts, to be read only; None when they were left out."""
        if self._index.pins is None:
            return None
        return versioned(BundleStore(self._files, self._lines(self._index.pins, _PINNED)))

    def describe(self) -> str:
        """Name the bundle, and what it was taken from."""
        taken_at = rfc3339(self._index.taken_at_us)
        return f"{self._files.path} (taken from {self._index.taken_from} at {taken_at})"

    def now_us(self) -> int:
        """Return when the bundle was taken."""
        return self._index.taken_at_us

    def reach(self, stream: str) -> Reach | None:
        """Return how far the stream went when it was exported, and what was not exported."""
        found = self._streams.get(stream)
        if found is None or not found.known:
            return None
        gaps = (
            Gap(EntryId(one), EntryId(two), why, folded) for one, two, why, folded in found.gaps
        )
        return Reach(
            EntryId(found.oldest) if found.oldest else None, EntryId(found.newest), tuple(gaps)
        )

    def entries(
        self, stream: str, first: EntryId = FIRST, last: EntryId = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the bundle; `about` leaves nothing out."""
        del about
        yield from entries_of(self._segments.get(stream, ()), first, last)

    def lines(self, stream: str, first: EntryId, last: EntryId) -> Iterator[bytes]:
        """Yield what is in the bundle, as it lies there."""
        yield from lines_of(self._segments.get(stream, ()), first, last)

    def entries_back(
        self, stream: str, last: EntryId = LAST, first: EntryId = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the bundle, the newest first; `about` leaves nothing out."""
        del about
        yield from entries_back_of(self._segments.get(stream, ()), last, first)

    def checkpoint(self, last: EntryId) -> None:
        """Return nothing: there is none."""
        del last

    def waiting(self, stream: str, entry_ids: Collection[EntryId]) -> set[EntryId]:
        """Return those that nobody had finished when it was taken."""
        return self._waiting.get(stream, set()).intersection(entry_ids)

    def readers(self) -> Sequence[Reader]:
        """Return those that were registered when it was taken."""
        return [Reader(*one) for one in self._index.readers]

    def takeovers(self) -> Sequence[Takeover]:
        """Return those that were on record when it was taken."""
        return [Takeover(*one) for one in self._index.takeovers]

    def held(self) -> Sequence[Held]:
        """Return what workers told that they hold back when it was taken."""
        return [Held(*one) for one in self._index.held]

    def published(self, event_ids: Collection[str]) -> dict[str, int]:
        """Return those that have a notification in the bundle."""
        known = (
            (one, self._published.execute(
                "SELECT min(cv) FROM published WHERE event_id = ?", (one,)
            ).fetchone()[0])
            for one in event_ids
        )  # fmt: skip
        return {event_id: cv for event_id, cv in known if cv is not None}

    @cached_property
    def _waiting(self) -> dict[str, set[EntryId]]:
        found: dict[str, set[EntryId]] = {}
        for stream, entry_id in self._lines(self._index.waiting, _WAITS):
            found.setdefault(stream, set()).add(EntryId(entry_id))
        return found

    @cached_property
    def _published(self) -> Scratch:
        """Which event_ids were published as what: in a temporary file, as there may be many."""
        db = scratch("CREATE TABLE published (event_id TEXT, cv INTEGER)")
        db.executemany("INSERT INTO published VALUES (?, ?)", self._event_ids())
        db.execute("CREATE INDEX by_event_id ON published (event_id)")
        return db

    def _event_ids(self) -> Iterator[tuple[str, int]]:
        for entry in self.entries(self.streams.notifications):
            try:
                event_id = str(orjson.loads(entry.fields[b"event"])["event_id"])
            except (ValueError, KeyError, TypeError):
                continue  # no sidecar wrote it
            if entry.id.control_version <= LATEST_US:
                yield event_id, entry.id.control_version

    def _segment(self, member: Member) -> Segment:
        return Segment(
            f"{self._files.path}: {member.name}", EntryId(member.first), EntryId(member.last),
            member.count, member.sha256, partial(self._files.read, member.name),
        )  # fmt: skip

    def _lines(self, member: Member, line_of: TypeAdapter[T]) -> list[T]:
        raw = self._files.read(member.name)
        if hashlib.sha256(raw).hexdigest() != member.sha256:
            raise Damaged(f"{self._files.path}: {member.name} is damaged; copy the bundle again")
        try:
            return [line_of.validate_json(line) for line in raw.splitlines()]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Damaged(f"{self._files.path}: {member.name}: {first['msg']}") from error


class Pinned(_Part):
    """One artifact that an event names, as `pins.jsonl` has it: its values in this order."""

    ref: str
    checksum: str
    manifest_checksum: str
    state: str
    """`there`, or what else `replay.artifacts` says of it."""
    size_bytes: Annotated[int, Field(ge=0, le=1 << 62)] = 0
    manifest_size_bytes: Annotated[int, Field(ge=0, le=1 << 62)] = 0
    stored_at: Annotated[float, Field(ge=0, le=LATEST_US / 1e6, strict=False)] = 0.0
    why: str = ""
    """Of what was erased: with which tenant, when, by whom and why."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:  # noqa: ANN401 -- any JSON value
        if isinstance(values, list):
            return dict(zip(cls.model_fields, values, strict=False))
        return values


_PINNED: Final = TypeAdapter(Pinned)


class BundleStore:
    """The artifacts of a bundle, to be read only."""

    name = "bundle"
    capabilities = frozenset({Capability.PINNED_GET, Capability.LIST})

    def __init__(self, files: Members, pins: list[Pinned]) -> None:
        self._files = files
        self._by_ref: dict[str, list[Pinned]] = {}
        for pinned in pins:
            self._by_ref.setdefault(pinned.ref, []).append(pinned)

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Refuse: raises `StoreError`."""
        del data, manifest
        raise StoreError(f"{ref} cannot be put: a bundle is read only")

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> Artifact:
        """Return an artifact that is in the bundle, verified. Raises `NotFound` and `Corrupt`."""
        found = self._find(ref, checksum, manifest_checksum)
        return Artifact(self._blob(ref, found.checksum), self._blob(ref, found.manifest_checksum))

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """Tell whether `get` would return something."""
        try:
            self._find(ref, checksum, manifest_checksum)
        except (NotFound, Corrupt):
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the refs at and under `prefix` that have an artifact here."""
        for ref in self._by_ref:
            under = not prefix or ref == prefix or ref.startswith(prefix.rstrip("/") + "/")
            if under and self.exists(ref):
                yield ref

    def versions(self, ref: str) -> Iterator[Version]:
        """Yield the versions of `ref` that are here, the newest first. Raises `NotFound`."""
        self._find(ref, None, None)
        there = [one for one in self._by_ref[ref] if one.state == "there"]
        for n, one in enumerate(sorted(there, key=lambda one: -one.stored_at)):
            yield Version(
                one.checksum, one.manifest_checksum, one.size_bytes, one.manifest_size_bytes,
                one.stored_at, current=n == 0,
            )  # fmt: skip

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> Pinned:
        fits = [
            one
            for one in self._by_ref.get(ref, ())
            if one.state == "there"
            and checksum in (None, one.checksum)
            and manifest_checksum in (None, one.manifest_checksum)
        ]
        if not fits:
            why = {one.state: one for one in self._by_ref.get(ref, ())}
            if "erased" in why:
                how = "erased with all of its tenant before this was exported"
                raise Erased(ref, why["erased"].why or how)
            if "corrupt" in why and checksum in (None, why["corrupt"].checksum):
                raise Corrupt(f"{ref} was damaged in the store when this was exported")
            raise NotFound(f"{ref} is not in the bundle{' as ' + checksum if checksum else ''}")
        return max(fits, key=lambda one: one.stored_at)

    def _blob(self, ref: str, checksum: str) -> bytes:
        digest = checksum.removeprefix("sha256:")
        if not _HEX.fullmatch(digest):
            raise Corrupt(f"the bundle names {checksum!r} for {ref}, which is no checksum")
        try:
            raw = self._files.read(artifact_name(digest))
        except Damaged as error:
            raise Corrupt(str(error)) from error
        if hashlib.sha256(raw).hexdigest() != digest:
            raise Corrupt(f"{self._files.path}: {artifact_name(digest)} is damaged")
        return raw
