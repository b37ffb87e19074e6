"""How the object backend puts: data, version, current record, in this order.

Storage has no locks and no conditional delete, and a collector may stall between looking and
deleting. So every Put writes keys that are its own, and relies on nothing that was there before,
except on a current record that is its very version and was written a short while ago.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from typing import TYPE_CHECKING, NamedTuple

from store.errors import ChecksumMismatch, Corrupt, Unavailable
from store.healing import Left, aim, aim_blind, heir_of, later
from store.object.client import Bucket
from store.object.errors import Conflict
from store.object.layout import (
    VERSIONS,
    Place,
    Stored,
    VersionKey,
    content_of,
    new_nonce,
    pair_of,
    place_of,
    record_left,
    stored_of,
    version_key,
)
from store.object.reading import begun, fault, whole
from store.object.stream import digest_of, open_stream
from store.record import INLINE_MAX_BYTES, Record, describe
from store.streams import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore import ObjectMeta, PutMode

    from store.contract import Position
    from store.object.client import Got
    from store.streams import Readable

_CLOCK_AGE_S = 600.0
_NEW_IN_A_ROW = 8
"""After so many refs that had no record the next one is put without a look."""


class _Pending(NamedTuple):
    """A Put on its way. `data` is empty when it is written already, not inline."""

    place: Place
    record: Record
    nonce: str
    manifest: bytes
    data: bytes

    def content(self, position: Position | None) -> bytes:
        """Return the record as it is written, at the position that holds the ref there."""
        record = self.record._replace(position=position)
        return content_of(record, self.nonce, self.manifest, self.data)


class _Current(NamedTuple):
    """A ref's current record; `stored` is None when its header cannot be read.

    `record` is what that says, or, of a damaged one that was moved aside, said.
    """

    meta: ObjectMeta
    stored: Stored | None
    record: Record | None


def _nonce_for(put: Record, current: _Current | None) -> str:
    """Return a nonce that is above the current record's; what moves the ref is higher still."""
    if current is None or current.stored is None or current.record is None:
        return new_nonce(put.stored)
    return new_nonce(put.stored, current.stored.nonce, 1 + aim(put, current.record).moves)


class Writer:
    """Puts into one bucket. `reliable_s` is how old what a Put relies on may be."""

    def __init__(self, bucket: Bucket, reliable_s: float) -> None:
        self._bucket = bucket
        self._reliable_s = reliable_s
        self._clock: tuple[float, float] | None = None  # ours when asked, how far theirs is ahead
        self._new_in_a_row = 0

    def put(self, ref: str, data: bytes, manifest: bytes, position: Position | None) -> str:
        """Put what is in memory, and return the data's digest."""
        place, digest = place_of(ref), hashlib.sha256(data).hexdigest()
        record = describe(ref, digest, len(data), manifest, position)
        put = _Pending(place, record, new_nonce(record.stored), manifest, data)
        if self._put_unseen(put):
            return digest
        current = self._current(place)
        self._new_in_a_row = self._new_in_a_row + 1 if current is None else 0
        if current and self._holds(current, record, manifest + data):
            return digest
        put = put._replace(nonce=_nonce_for(record, current))
        if not record.inline:
            self._write(place.object(put.nonce), data)
        self._finish(put, current)
        return digest

    def _put_unseen(self, put: _Pending) -> bool:
        """Put small data without a look at its ref, which is taken for new; tell whether it was.

        Only the service says so, by the condition of the write: where it has none, nothing is put.
        Of a ref that was not new a version's record is left, as of a Put that another overtook.
        """
        if not put.record.inline or self._new_in_a_row < _NEW_IN_A_ROW:
            return False
        only_if_new = self._bucket.unchanged(None)
        if only_if_new is None:
            return False
        content = put.content(put.record.position)
        self._write(put.place.version(put.record, put.nonce), content)
        with contextlib.suppress(Conflict):
            self._write(put.place.current, content, only_if_new)
            return True
        return False

    def put_from(
        self, ref: str, reader: Readable, manifest: bytes, checksum: str | None,
        position: Position | None,
    ) -> str:  # fmt: skip
        """Put what `reader` gives, and return its digest. Raises `ChecksumMismatch`."""
        head = _read_head(reader)
        if len(head) <= INLINE_MAX_BYTES:
            _check_digest(ref, hashlib.sha256(head).hexdigest(), checksum)
            return self.put(ref, head, manifest, position)
        place, digest, size = place_of(ref), hashlib.sha256(), 0
        draft = describe(ref, "", 0, manifest, position)

        def chunks() -> Iterator[bytes]:
            nonlocal size
            chunk = head
            while chunk:
                digest.update(chunk)
                size += len(chunk)
                yield chunk
                chunk = reader.read(CHUNK_BYTES)
            # Before the upload is completed: then nothing was written.
            _check_digest(ref, digest.hexdigest(), checksum)

        nonce = _nonce_for(draft, self._current(place))
        key = place.object(nonce)
        with self._or_arrived(key, lambda: (size, digest.hexdigest())):
            self._bucket.upload(key, chunks())
        record = describe(ref, digest.hexdigest(), size, manifest, position)
        put = _Pending(place, record._replace(stored=draft.stored), nonce, manifest, b"")
        self._finish(put, self._current(place))
        return record.data_digest

    def _finish(self, put: _Pending, current: _Current | None) -> None:
        """Write the version's record, then the current one, once the data is there."""
        record, place = put.record, put.place
        position = record.position
        if current and current.record and current.record.is_version(*pair_of(record)):
            position = aim(record, current.record).position
        self._write(place.version(record, put.nonce), put.content(position))
        if not record.inline and self._bucket.head(place.object(put.nonce)) is None:
            raise Unavailable(
                f"{self._bucket.where(place.object(put.nonce))} was collected before it had its"
                " record: put it again, and collect with a grace longer than a Put takes"
            )
        self._move(put, current)

    def _move(self, put: _Pending, current: _Current | None) -> None:
        """Point the ref at the version unless a later position did: compare, and swap.

        Also without a position: an attempt that was given up may still arrive, and must not then
        undo what others have put since.
        """
        deadline = time.monotonic() + self._bucket.timeout_s
        delay_s = 0.01
        while (content := self._next(put, current)) is not None:
            mode = self._bucket.unchanged(current and current.meta)
            with contextlib.suppress(Conflict):
                return self._write(put.place.current, content, mode)
            time.sleep(random.uniform(0, delay_s))  # noqa: S311 - to part the writers, no secret
            delay_s = min(2 * delay_s, 1.0)
            before, current = current, self._current(put.place)
            if current and current.stored and current.stored.nonce == put.nonce:
                return None  # it was written, and only the answer was lost
            if is_same := _is_same(before, current):
                self._bucket.conditions.doubt()
            if time.monotonic() > deadline:
                raise self._refused(put, by_service=is_same)
        return None

    def _refused(self, put: _Pending, *, by_service: bool) -> Unavailable:
        """Say who kept the ref from moving: others, or the service."""
        if by_service:
            return Unavailable(
                f"cannot write {self._bucket.where(put.place.current)}: the service says again and"
                " again that it changed, and it did not: try again later, or report it there"
            )
        return Unavailable(
            f"other writers kept moving {put.record.ref!r} for {self._bucket.timeout_s:g} s:"
            " try again"
        )

    def _write(self, key: str, content: bytes, mode: PutMode | None = None) -> None:
        """Write a key whose content is this Put's own, by its nonce. Raises `Conflict`."""
        with self._or_arrived(key, lambda: (len(content), hashlib.sha256(content).hexdigest())):
            self._bucket.put(key, content, mode)

    @contextlib.contextmanager
    def _or_arrived(self, key: str, sent: Callable[[], tuple[int, str]]) -> Iterator[None]:
        """Look at a key whose write failed: it may be there, and only the answer be lost.

        Size and digest tell. Nobody else writes this content.
        """
        try:
            yield
        except Unavailable:
            if not self._has(key, *sent()):
                raise

    def _has(self, key: str, size: int, digest: str) -> bool:
        """Tell whether exactly this lies at a key, as far as that can be told soon."""
        with contextlib.suppress(Unavailable, Corrupt, Conflict):
            stream = open_stream(self._bucket.hasty(), key)
            return stream is not None and stream.size_bytes == size and digest_of(stream) == digest
        return False

    def _next(self, put: _Pending, current: _Current | None) -> bytes | None:
        """Return what the current record is to be, None when it stays as it is."""
        record = current.record if current else None
        if current is None or record:
            found = aim(put.record, record)
        else:
            left = list(self._left(put))
            heir = heir_of(left)
            found, record = aim_blind(put.record, left, heir), heir and heir.record
        if found.moves:
            return put.content(found.position)
        if current is None or record is None:
            return None
        if current.stored and fault(self._bucket, current.stored) is None:
            return None
        own = self._intact(put.place, record)
        if own is None:
            return None
        restored = own.record._replace(position=record.position)
        return content_of(restored, own.nonce, own.manifest, own.data)

    def _left(self, put: _Pending) -> Iterator[Left]:
        """Yield what is left of the ref's versions, but for what is being put."""
        for key, got in self._records(f"{VERSIONS}/{put.place.path}"):
            if key.data_digest and key.manifest_digest and key.nonce != put.nonce:
                pair = (key.data_digest, key.manifest_digest)
                yield Left(pair, record_left(got.content, key.text))

    def _intact(self, place: Place, record: Record) -> Stored | None:
        """Return an intact record of that version, the newest one."""
        copies = self._records(place.versions(*pair_of(record)))
        for key, got in sorted(copies, key=lambda copy: copy[0].nonce, reverse=True):
            with contextlib.suppress(Corrupt):
                where, size = self._bucket.where(key.text), got.meta["size"]
                stored = whole(self._bucket, stored_of(got.content, key.text, where, size))
                if stored.fault() is None:
                    return stored
        return None

    def _records(self, folder: str) -> Iterator[tuple[VersionKey, Got]]:
        for meta in self._bucket.keys(folder):
            key = version_key(meta["path"])
            if key and key.data_digest and (got := self._bucket.get(key.text)):
                yield key, got

    def _current(self, place: Place) -> _Current | None:
        key = place.current
        got = self._bucket.get(key)
        if got is None:
            return None
        stored = None
        with contextlib.suppress(Corrupt):
            stored = stored_of(got.content, key, self._bucket.where(key), got.meta["size"])
        return _Current(got.meta, stored, record_left(got.content, key))

    def _holds(self, current: _Current, record: Record, body: bytes) -> bool:
        """Tell whether the ref is intact, already where this Put would move it, and was so lately.

        Only lately: what a collector may find old enough must be written anew. Large data always
        is: writing it takes no longer than making sure of it.
        """
        stored = current.stored
        return (
            record.inline
            and stored is not None
            and stored.record.is_version(*pair_of(record))
            and stored.body_size == len(body)
            and whole(self._bucket, stored).body == body
            and later(record.position, stored.record.position) == stored.record.position
            and self._service_time() - current.meta["last_modified"].timestamp() < self._reliable_s
            and self._has_version(stored, body)
        )

    def _has_version(self, current: Stored, body: bytes) -> bool:
        """Tell whether the version's own record is intact: it is read once the ref has moved on."""
        key = place_of(current.record.ref).version(current.record, current.nonce)
        with contextlib.suppress(Corrupt):
            own = begun(self._bucket, key)
            return (
                own is not None
                and own[1].body_size == len(body)
                and (whole(self._bucket, own[1]).body == body)
            )
        return False

    def _service_time(self) -> float:
        """Return the time by the service's clock, asked now and then."""
        ours = time.time()
        if self._clock is None or abs(ours - self._clock[0]) > _CLOCK_AGE_S:
            self._clock = ours, self._bucket.now() - ours
        return ours + self._clock[1]


def _is_same(one: _Current | None, other: _Current | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.meta["e_tag"] == other.meta["e_tag"]


def _read_head(reader: Readable) -> bytes:
    """Read until it is clear whether the data fits into the record."""
    head = bytearray()
    while len(head) <= INLINE_MAX_BYTES:
        chunk = reader.read(CHUNK_BYTES)
        if not chunk:
            break
        head += chunk
    return bytes(head)


def _check_digest(ref: str, digest: str, checksum: str | None) -> None:
    if checksum not in (None, f"sha256:{digest}"):
        raise ChecksumMismatch(
            f"the data for {ref!r} is sha256:{digest}, not {checksum}: nothing was put;"
            " send it again"
        )
