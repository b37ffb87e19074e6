"""How the object backend's keys and records look, and nothing of how they are written.

    PREFIX/STORE                           format and hash, two lines of text
    PREFIX/IDENTITY                        the store's random id, a line of text
    PREFIX/refs/stacks/t_1/web/42@         the ref's current record
    PREFIX/versions/stacks/t_1/web/42@/…   everything that was ever put at the ref:
        DATA/MANIFEST/NONCE                one version's record, by the SHA-256 of both blobs
        objects/NONCE                      its data, when that is over 64 KiB
    PREFIX/quarantine/…                    copies of what was found damaged
    PREFIX/clock/now                       rewritten to ask the service what time it is

A record is a line `nonce NONCE` and then what `store.record` describes. Every Put has a nonce of
its own, 14 digits of microseconds and 18 at random: no two Puts ever write the same key below
versions/, and nonces sort by age.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import NamedTuple

from store.errors import Corrupt
from store.record import Record, fault_of, header_left, header_of, parse
from store.refs import decode_name, encode_segment

FORMAT = b"artifact-store 1\nhash sha256\nlayout object\n"
FORMAT_KEY = "STORE"
IDENTITY_KEY = "IDENTITY"
CLOCK, CLOCK_KEY = "clock", "clock/now"
CURRENTS, VERSIONS, OBJECTS, QUARANTINE = "refs", "versions", "objects", "quarantine"
PREFIX_MAX_BYTES = 200

# The longest key is 1024 bytes, and a path may have at most 63 levels where a container has
# real directories: what is beyond these limits of a ref becomes its hash.
_PATH_MAX_BYTES = 400
_PATH_MAX_NAMES = 40
_HASHED_REF = "==="  # no encoded segment begins so
_HASHED_NAME = re.compile(r"===[0-9a-f]{64}")
_NONCE_LINE = re.compile(rb"nonce ([0-9a-f]{32})\n")
_NONCE_LINE_BYTES = 39
_TIME_DIGITS = 14
_VERSION_KEY = re.compile(
    rf"{VERSIONS}/(?P<path>.*@)/(?:(?P<data>[0-9a-f]{{64}})/(?P<manifest>[0-9a-f]{{64}})|{OBJECTS})"
    r"/(?P<nonce>[0-9a-f]{32})"
)


class Stored(NamedTuple):
    """A record as it was read. `body` is the beginning of the manifest and, inline, the data."""

    record: Record
    nonce: str
    body: bytes
    key: str
    body_at: int
    """Where the body begins."""
    body_size: int
    """What the key has of it, whatever was read."""

    @property
    def manifest(self) -> bytes:
        """The manifest, unverified."""
        return self.body[: self.record.manifest_size]

    @property
    def data(self) -> bytes:
        """The inline data, unverified."""
        return self.body[self.record.manifest_size :]

    def fault(self) -> str | None:
        """Return which of manifest and inline data fails its checksum; None when neither does."""
        return fault_of(self.record, (self.body,))


class Place(NamedTuple):
    """Where a ref's keys lie: `path` ends in `@`, which no encoded segment has."""

    path: str

    @property
    def current(self) -> str:
        """The key of the current record."""
        return f"{CURRENTS}/{self.path}"

    def versions(self, data_digest: str, manifest_digest: str | None) -> str:
        """Return the folder of the versions with that data, or with exactly that pair."""
        folder = f"{VERSIONS}/{self.path}/{data_digest}"
        return f"{folder}/{manifest_digest}" if manifest_digest else folder

    def version(self, record: Record, nonce: str) -> str:
        """Return the key of one version's record."""
        return f"{self.versions(record.data_digest, record.manifest_digest)}/{nonce}"

    def object(self, nonce: str) -> str:
        """Return the key of the data that a record with that nonce names."""
        return f"{VERSIONS}/{self.path}/{OBJECTS}/{nonce}"


class VersionKey(NamedTuple):
    """A key below versions/, taken apart. Without digests it is the data of one."""

    path: str
    data_digest: str | None
    manifest_digest: str | None
    nonce: str
    text: str
    """The whole key."""


def place_of(ref: str) -> Place:
    """Return where the keys of a legal ref lie."""
    names = _names(ref)
    kept = _kept(names)
    if kept < len(names):
        names = [*names[:kept], _HASHED_REF + hashlib.sha256(ref.encode()).hexdigest()]
    return Place("/".join(names) + "@")


def folder_of(prefix: str) -> str:
    """Return the folder in which every ref under `prefix` has its keys, others perhaps too."""
    names = _names(prefix)
    return "/".join(names[: _kept(names)])


def ref_of(path: str) -> str | None:
    """Return the ref whose `Place.path` this is, None when only the record can tell.

    Raises ValueError when it is no ref's.
    """
    if not path.endswith("@"):
        raise ValueError(f"{path!r} is no ref's path")
    names = path[:-1].split("/")
    if _HASHED_NAME.fullmatch(names[-1]):
        return None
    segments = [decode_name(_dotted(name).replace("=", "%")) for name in names]
    plain = [segment for segment in segments if segment is not None]
    if len(plain) < len(segments):
        return None
    ref = "/".join(plain)
    if place_of(ref).path != path:
        raise ValueError(f"{path!r} is no ref's path")
    return ref


@functools.lru_cache(maxsize=64)  # keys of one ref are listed one after the other
def is_path(path: str) -> bool:
    """Tell whether a ref may have its keys there."""
    try:
        ref_of(path)
    except ValueError:
        return False
    return True


def is_under(ref: str, prefix: str) -> bool:
    """Tell whether `ref` is `prefix` or lies under it; all do with an empty one."""
    return not prefix or ref == prefix or ref.startswith(f"{prefix}/")


def version_key(key: str) -> VersionKey | None:
    """Take a key below versions/ apart; None when it is none of this layout."""
    found = _VERSION_KEY.fullmatch(key)
    if found is None or not is_path(found["path"]):
        return None
    return VersionKey(found["path"], found["data"], found["manifest"], found["nonce"], key)


def new_nonce(stored: str, after: str = "", step: int = 1) -> str:
    """Return a nonce for what is stored at that time, as a record says it.

    It is higher than `after`, a nonce of what was stored before, by `step` if the clock went back.
    Only the highest is not exceeded: a longer one would be no nonce.
    """
    number = round(datetime.fromisoformat(stored).timestamp() * 1e6)
    number = max(number, int(after[:_TIME_DIGITS] or "0", 16) + step)
    number = min(number, 16**_TIME_DIGITS - 1)
    return f"{number:0{_TIME_DIGITS}x}{secrets.token_hex(9)}"


def now_text() -> str:
    """Return the time, as a record says it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def content_of(record: Record, nonce: str, manifest: bytes, data: bytes) -> bytes:
    """Return a record's whole content; `data` counts when it lies inline."""
    line = b"nonce %b\n" % nonce.encode()
    return b"".join((line, header_of(record), manifest, data if record.inline else b""))


def stored_of(content: bytes, key: str, where: str, size: int) -> Stored:
    """Take the beginning of a record apart, `size` bytes in all.

    Raises `Corrupt`, also for the record of another ref.
    """
    line = _NONCE_LINE.match(content)
    text = content[_NONCE_LINE_BYTES:] if line else content
    record, body_at = parse(text, where)
    if line is None:
        raise Corrupt(f"{where} is damaged: it does not begin with a nonce: put it again")
    begin = len(line[0]) + body_at
    stored = Stored(record, line[1].decode(), text[body_at:], key, begin, size - begin)
    place = place_of(record.ref)
    if key not in {place.current, place.version(record, stored.nonce)}:
        raise Corrupt(f"{where} holds the record of another ref, {record.ref!r}: put both again")
    return stored


def record_left(content: bytes, key: str) -> Record | None:
    """Return what a record's header says, whatever the rest is; None when it cannot be read."""
    line = _NONCE_LINE.match(content)
    record = header_left(content[_NONCE_LINE_BYTES:] if line else content)
    if record is None:
        return None
    place = place_of(record.ref)
    folder = f"{place.versions(*pair_of(record))}/"
    return record if key == place.current or key.startswith(folder) else None


def pair_of(record: Record) -> tuple[str, str]:
    """Return the digests that make a version."""
    return record.data_digest, record.manifest_digest


def _names(ref: str) -> list[str]:
    return [_encode(segment) for segment in ref.split("/")]


def _encode(segment: str) -> str:
    # '%' is a character to avoid in keys, and a name that ends in a dot is illegal on Azure.
    name = encode_segment(segment).replace("%", "=")
    return f"{name[:-1]}=2e" if name.endswith(".") else name


def _dotted(name: str) -> str:
    return f"{name[:-3]}." if name.endswith("=2e") else name


def _kept(names: list[str]) -> int:
    """Return how many of a path's names fit. It depends on these alone, not on what follows."""
    length = 0
    for count, name in enumerate(names[:_PATH_MAX_NAMES]):
        length += len(name) + 1
        if length > _PATH_MAX_BYTES:
            return count
    return min(len(names), _PATH_MAX_NAMES)
