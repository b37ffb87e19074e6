"""Damage of every kind in a file store or a bucket, for the healing tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.store.buckets import Buckets


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _garbled(content: bytes) -> bytes:
    return content.replace(b"position 5-0", b"position 5-1")


HARMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "flipped": _flipped,
    "cut short": lambda content: content[:-1],
    "grown": lambda content: content + b"!",
    "empty": lambda _: b"",
    "garbled header": _garbled,
    "half a header": lambda content: content[:50],
    "of another ref": lambda content: content.replace(b"ref stacks", b"ref stucks"),
}
_READABLE: Final = {"flipped", "cut short", "grown"}

# "file": the one file with both names. "current", "version": that name only, as a copy.
# "both": each name its own damaged file. "object": the data, where it lies apart.
DAMAGES: Final = {
    **{
        f"{where}: {harm}": harm in _READABLE or where in {"current", "version"}
        for where in ("file", "current", "version", "both")
        for harm in HARMS
    },
    "version: removed": True,
    "object: flipped": True,
    "object: empty": True,
    "object: removed": True,
}


# In a bucket each name is an object by itself, and versions know the position that one has lost.
BUCKET_DAMAGES: Final = {
    "current: flipped": True,
    "current: empty": True,
    "current: garbled header": True,
    "version: flipped": True,
    "version: empty": True,
    "version: removed": True,
    "both: flipped": True,
    "both: empty": False,
    "object: flipped": True,
    "object: removed": True,
}
TELLING: Final = (
    "current: garbled header", "version: removed", "both: empty", "object: flipped",
)  # fmt: skip
"""Damage of each place, one kind of it: the other kinds take twenty seconds of processor."""


def plant_in_bucket(s3: Buckets, bucket: str, ref: str, kind: str) -> None:
    """Do that damage to what is current at `ref`."""
    where, _, harm = kind.partition(": ")
    keys = s3.keys(bucket)
    (current,) = (key for key in keys if key.endswith(f"refs/{ref}@"))
    nonce = s3.read(bucket, current)[6:38].decode()
    mine = [key for key in keys if key.endswith(f"/{nonce}")]
    objects = [key for key in mine if "/objects/" in key]
    versions = [key for key in mine if key not in objects]
    if where == "object" and not objects:
        objects, harm = [current], "flipped"
    harmed = {
        "current": [current],
        "version": versions,
        "both": [current, *versions],
        "object": objects,
    }[where]
    for key in harmed:
        if harm == "removed":
            s3.delete(bucket, key)
        else:
            s3.write(bucket, key, HARMS[harm](s3.read(bucket, key)))


def plant(root: Path, ref: str, kind: str) -> None:
    """Do that damage to what is current at `ref`."""
    where, _, harm = kind.partition(": ")
    current = root / "refs" / f"{ref}@"
    if where == "object":
        found = re.search(rb"^data sha256:(..)(\w+)", current.read_bytes(), re.MULTILINE)
        assert found
        shelf, rest = found[1].decode(), found[2].decode()
        path = root / "objects" / "sha256" / shelf / f"{shelf}{rest}"
        _harm([path] if path.exists() else _links(current), harm if path.exists() else "flipped")
        return
    links = _links(current)
    if where == "file":
        _harm(links, harm)
        return
    for path in links:
        if where == "both" or (path == current) is (where == "current"):
            _harm([path], harm)


def _links(current: Path) -> list[Path]:
    """Return the current record's names, its own first."""
    inode = current.stat().st_ino
    others = [p for p in current.parent.glob(f"{current.name}?*") if p.stat().st_ino == inode]
    return [current, *others]


def _harm(paths: list[Path], harm: str) -> None:
    """Replace a file, under all its names, by what the harm makes of it."""
    content = paths[0].read_bytes()
    for path in paths:
        path.unlink()
    if harm != "removed":
        paths[0].write_bytes(HARMS[harm](content))
        for path in paths[1:]:
            path.hardlink_to(paths[0])
