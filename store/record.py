"""How a record looks that the file and the object backend keep of each version.

A record is a header of text, a blank line, the manifest and, `at inline`, the data:

    artifact-record 1
    ref stacks/t_1/web/42
    data sha256:… SIZE
    manifest sha256:… SIZE
    position MILLISECONDS-SEQUENCE      only when the Put carried one
    stored 2026-11-22T15:18:22.123456+00:00
    at inline                           or: at object
    header sha256:…                     of the lines above

Data lies last, so `tail -c SIZE record | sha256sum` checks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from store.contract import Position, Version
from store.errors import Corrupt, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

INLINE_MAX_BYTES = 64 * 1024
"""Data up to this size lies in its record: one file and one flush an artifact."""
HEADER_MAX_BYTES = 2048
"""No header is longer: the ref has at most 1024 bytes."""
FIRST_BYTES = 128 * 1024
"""What is read of a record before its header has told its size: most records are read whole."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
_ANY_HEADER = re.compile(
    rb"(artifact-record \d+\n(?:[^\n]+\n){1,99}?)header sha256:([0-9a-f]{64})\n\n"
)
_DAMAGED = b"artifact-record damaged"
_HEADER = re.compile(
    rb"(artifact-record 1\n"
    rb"ref ([^\n]+)\n"
    rb"data sha256:([0-9a-f]{64}) (\d{1,19})\n"
    rb"manifest sha256:([0-9a-f]{64}) (\d{1,19})\n"
    rb"(?:position (\d{1,20})-(\d{1,20})\n)?"
    rb"stored ([0-9T:.+-]{32})\n"
    rb"at (inline|object)\n)"
    rb"header sha256:([0-9a-f]{64})\n\n"
)


class Quarantined(Corrupt):
    """A record was damaged and moved aside, to `kept`; `record` is what its header said."""

    def __init__(self, path: str, kept: str, record: Record | None) -> None:
        super().__init__(f"{path} was damaged, what was left lies at {kept}: put it again")
        self.kept = kept
        self.record = record


class Newer(Unavailable):
    """A whole record says what this release does not know: it is neither read nor damaged."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was written by a newer release of this software: read and write this store"
            " with that"
        )


class Record(NamedTuple):
    """A record's header, taken apart. Digests are hex."""

    ref: str
    data_digest: str
    data_size: int
    manifest_digest: str
    manifest_size: int
    position: Position | None
    stored: str
    inline: bool

    @property
    def order(self) -> tuple[int, Position]:
        """What the versions of a ref compare by: that of a later Put is greater.

        Microseconds since the epoch. Two Puts that moved nothing may have one number; then their
        positions tell.
        """
        since = datetime.fromisoformat(self.stored) - _EPOCH
        return since // _MICROSECOND, self.position or (0, 0)

    def after(self, before: int, *, moves: bool) -> Record:
        """Return it as the Put that comes after the one with the number `before`, 0 for none.

        Where the clock went back, it is stored a microsecond later than that: older releases read
        this, too. What does not move the ref comes before the next Put that does.
        """
        if before and self.order[0] <= before:
            with contextlib.suppress(OverflowError):  # somebody planted the end of time
                later = _EPOCH + _MICROSECOND * (before + 1 + moves)
                return self._replace(stored=_text(later))
        return self

    def is_version(self, data_digest: str | None, manifest_digest: str | None) -> bool:
        """Tell whether this is the version asked for; None asks for any."""
        return data_digest in (None, self.data_digest) and (
            manifest_digest in (None, self.manifest_digest)
        )


def describe(
    ref: str, data_digest: str, data_size: int, manifest: bytes, position: Position | None
) -> Record:
    """Return the record for this pair, stored now."""
    return Record(
        ref,
        data_digest,
        data_size,
        hashlib.sha256(manifest).hexdigest(),
        len(manifest),
        position,
        _text(datetime.now(UTC)),
        data_size <= INLINE_MAX_BYTES,
    )


def _text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def body_bytes(record: Record) -> int:
    """Return how many bytes follow the header."""
    return record.manifest_size + (record.data_size if record.inline else 0)


def fault_of(record: Record, chunks: Iterable[bytes]) -> str | None:
    """Read a record's body in constant memory; return which part fails its checksum, if any."""
    manifest, data, left = hashlib.sha256(), hashlib.sha256(), record.manifest_size
    for chunk in chunks:
        manifest.update(chunk[:left])
        data.update(chunk[left:])
        left = max(left - len(chunk), 0)
    if left or manifest.hexdigest() != record.manifest_digest:
        return "its manifest fails its checksum"
    if record.inline and data.hexdigest() != record.data_digest:
        return "the data fails its checksum"
    return None


def note_of_damage(quarantined: str, record: Record | None = None) -> bytes:
    """Return what stands in a damaged record's place once its bytes lie in quarantine.

    It is no record, so that reading it stays `Corrupt` and the next Put replaces it. It repeats
    the header, if that could be read: its position bars earlier ones still.
    """
    header = header_of(record) if record else b""
    return b"%b\n%b\n%b" % (_DAMAGED, os.fsencode(quarantined), header)


def header_of(record: Record) -> bytes:
    """Return the text that `parse` reads, the blank line included."""
    position = "position {}-{}\n".format(*record.position) if record.position else ""
    text = (
        "artifact-record 1\n"
        f"ref {record.ref}\n"
        f"data sha256:{record.data_digest} {record.data_size}\n"
        f"manifest sha256:{record.manifest_digest} {record.manifest_size}\n"
        f"{position}"
        f"stored {record.stored}\n"
        f"at {'inline' if record.inline else 'object'}\n"
    ).encode()
    # The header has a checksum of its own: nothing else covers the position.
    return b"%bheader sha256:%b\n\n" % (text, hashlib.sha256(text).hexdigest().encode())


def parse(content: bytes, path: str) -> tuple[Record, int]:
    """Return a record and where its body starts. Raises `Corrupt`, `Newer`."""
    if content.startswith(_DAMAGED):
        _, kept, header = (content + b"\n\n").split(b"\n", 2)
        raise Quarantined(path, os.fsdecode(kept), _record_of(_HEADER.match(header)))
    found = _HEADER.match(content)
    record = _record_of(found)
    if found is None and _is_whole(content):
        raise Newer(path)
    if found is None or record is None:
        raise Corrupt(f"{path} is damaged: its header is cut short or fails its checksum")
    return record, found.end()


def _is_whole(content: bytes) -> bool:
    """Tell whether it begins with a header, of any release, that passes its own checksum."""
    found = _ANY_HEADER.match(content)
    return found is not None and hashlib.sha256(found[1]).hexdigest().encode() == found[2]


def header_left(content: bytes) -> Record | None:
    """Return what a record's header says, whatever the rest is; None when it cannot be read."""
    try:
        return parse(content, "")[0]
    except Quarantined as damage:
        return damage.record
    except Corrupt:
        return None


def _record_of(found: re.Match[bytes] | None) -> Record | None:
    if found is None or hashlib.sha256(found[1]).hexdigest().encode() != found[11]:
        return None
    if found[10] == b"inline" and int(found[4]) > INLINE_MAX_BYTES:
        return None  # nobody writes such a record
    if not _is_time(found[9]):
        return None
    return Record(
        found[2].decode(),
        found[3].decode(),
        int(found[4]),
        found[5].decode(),
        int(found[6]),
        (int(found[7]), int(found[8])) if found[7] else None,
        found[9].decode(),
        found[10] == b"inline",
    )


def _is_time(text: bytes) -> bool:
    try:
        return _TIME.fullmatch(text) is not None and bool(datetime.fromisoformat(text.decode()))
    except ValueError:
        return False


def version_of(record: Record, *, current: bool) -> Version:
    """Return the record as `versions` lists it."""
    return Version(
        f"sha256:{record.data_digest}",
        f"sha256:{record.manifest_digest}",
        record.data_size,
        record.manifest_size,
        datetime.fromisoformat(record.stored).timestamp(),
        current,
    )
