"""Checkpoints: the fleet's state every so often, so that a state long ago is soon found.

    .sidecar/archive/<notification stream>@state/<ID of the last notification in it>

The data is gzip of lines, the newest notification of each subject: the subject in JSON, as [tenant,
stack, ref], a tab, and its row. So a row need not be decoded where a newer one is known. In a
sealed one (`history.sealing`) a tab follows a row that nobody vouches for. A checkpoint only saves
reading: one of another format is as good as none.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import IO, Annotated, Final

import orjson
from pydantic import Field

from sidecar.history.contract import Checkpoint, Gap, Keyed
from sidecar.history.packed import rows_of
from sidecar.history.places import ROOT, escaped
from sidecar.history.rows import order_of_line
from sidecar.history.scratch import Spool
from sidecar.history.sealing import Sealing, Seals
from sidecar.history.segments import BaseHeader, Damaged, ahead
from sidecar.stores import explained
from sidecar.wire.bounds import bounded
from sidecar.wire.ids import FIRST, EntryId, IdText
from sidecar.wire.subject import Subject
from store import NotFound, VersionedStore

FORMAT: Final = 3
IN_MEMORY_BYTES: Final = 1 << 20
"""So much of a state that is written is kept in memory."""
DOUBTED: Final = b"\t"


class _Header(BaseHeader):
    rows: Annotated[int, Field(ge=0)]
    sha256: str
    """Of the rows, not compressed."""
    gaps: list[tuple[IdText, IdText, str]]
    head: str = ""
    unproven: IdText = FIRST
    """As `Sealing` has them."""


def _place_of(notifications: str) -> str:
    return f"{ROOT}/{escaped(notifications)}@state"


def newest_checkpoint(
    store: VersionedStore, notifications: str, last: EntryId, seals: Seals | None = None
) -> Checkpoint | None:
    """Return the newest one at or before the notification `last`. Raises `SidecarError`, and as
    `seals`, which look at who sealed it.
    """
    refs = checkpoints_of(store, notifications)
    for newest in sorted((one for one in refs if one <= last), reverse=True):
        found = _header(store, refs[newest])
        if found is None:
            continue
        header, manifest = found
        if header.format != FORMAT:
            return None
        told = newest, header.head, EntryId(header.unproven)
        sealer = seals.checkpoint(refs[newest], manifest, *told) if seals else ""
        rows = partial(_keyed, store, refs[newest], header, sealer)
        gaps = tuple(Gap(EntryId(one), EntryId(two), why) for one, two, why in header.gaps)
        return Checkpoint(newest, header.rows, gaps, rows)
    return None


def _header(store: VersionedStore, ref: str) -> tuple[_Header, bytes] | None:
    """Return what a checkpoint says of itself, and its manifest; None if it expired meanwhile."""
    with explained():
        try:
            reader = store.open(ref, **bounded(store))
        except NotFound:
            return None
        with reader:
            where = f"the archive's checkpoint {ref}"
            return _Header.read(reader.manifest, where, FORMAT), reader.manifest


def checkpoints_of(store: VersionedStore, notifications: str) -> dict[EntryId, str]:
    """Return the refs of all, by the last notification in each. Raises `SidecarError`."""
    place = _place_of(notifications)
    with explained():
        refs = {EntryId.parse(ref.removeprefix(place + "/")): ref for ref in store.list(place)}
    return {last: ref for last, ref in refs.items() if last is not None}


def write_checkpoint(
    store: VersionedStore, notifications: str, last: EntryId,
    keyed: Iterable[Keyed], gaps: Sequence[Gap], sealing: Sealing | None = None,
) -> None:  # fmt: skip
    """Write the state as of the notification `last`, in constant memory. Raises `SidecarError`."""
    ref = f"{_place_of(notifications)}/{last}"
    with Spool(max_size=IN_MEMORY_BYTES) as file:
        rows, sha256 = _pack(file, keyed, marks=sealing is not None)
        header = _Header(
            format=FORMAT, rows=rows, sha256=sha256,
            gaps=[(gap.first, gap.last, gap.why) for gap in gaps],
            head=sealing.head if sealing else "", unproven=sealing.unproven if sealing else FIRST,
        )  # fmt: skip
        leave_out = None if sealing else {"head", "unproven"}
        manifest = orjson.dumps(header.model_dump(mode="json", exclude=leave_out))
        file.seek(0)
        with explained():
            store.put_from(ref, file, sealing.seal(ref, manifest) if sealing else manifest)


def _pack(file: IO[bytes], keyed: Iterable[Keyed], *, marks: bool) -> tuple[int, str]:
    """Write keys and rows, compressed; return how many there are, and the SHA-256 of the lines.

    `marks` marks rows that nobody vouches for.
    """
    digest, rows = hashlib.sha256(), 0
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
        for key, row, sealer in keyed:
            mark = DOUBTED if marks and not sealer else b""
            line = b"%s\t%s%s\n" % (orjson.dumps(tuple(key)), row, mark)
            digest.update(line)
            packed.write(line)
            rows += 1
    return rows, digest.hexdigest()


def _keyed(store: VersionedStore, ref: str, header: _Header, sealer: str) -> Iterator[Keyed]:
    """Yield what is in it; at the end raise `Damaged` unless they are what was written."""
    try:
        for lines in ahead(_lines(store, ref, header)):
            for line in lines:
                key, _, value = line.partition(b"\t")
                row, mark, _ = value.partition(DOUBTED)
                subject = Subject(*orjson.loads(key))
                "".join(subject)  # else it is no text, and cannot be compared with any
                order_of_line(row)  # nor can what is no row
                yield Keyed(subject, row, "" if mark else sealer)
    except (ValueError, TypeError) as error:
        raise Damaged(f"the archive's checkpoint {ref} is damaged: {error}") from error


def _lines(store: VersionedStore, ref: str, header: _Header) -> Iterator[list[bytes]]:
    with explained(), store.open(ref, **bounded(store)) as reader:
        where = f"the archive's checkpoint {ref}"
        yield from rows_of(reader, where, header.rows, header.sha256)
