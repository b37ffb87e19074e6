"""How a Go fleet's file backend names its files, and the mark that we leave on ours.

    ROOT/stacks/t_1/web/42                  the data
    ROOT/stacks/t_1/web/42.manifest.json    the manifest
    ROOT/@sidecar/tmp, ROOT/@sidecar/locks  ours: no ref's path begins with '@'

Every character outside `[A-Za-z0-9._-]` is `_` in a name, so a name does not tell its ref. What
we write carries the ref in an extended attribute, with the checksums of both blobs: so both files
of one Put can be told from a mixture. The Go side leaves no mark, and no mark is a fault.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from store.errors import InvalidRef
from store.refs import check_ref

SUFFIX = ".manifest.json"
OWN = "@sidecar"
"""Our directory under the root. The encoding never emits '@'."""
NO_ATTRIBUTES = {errno.ENOTSUP, errno.EOPNOTSUPP}
ATTRIBUTE = "user.artifact"
NAME_MAX_BYTES = 255

_REPLACED = re.compile(r"[^A-Za-z0-9._/-]")
_MARK = re.compile(
    rb"artifact 1\n(data|manifest)\n(\d{1,19}) (-?\d{1,20})\n([0-9a-f]{64})\n([0-9a-f]{64})\n(.+)"
)


class Place(NamedTuple):
    """Where a ref lies: data in the file `data`, under ROOT/`directories`, its manifest beside it.

    `spelled`: the encoding changed nothing, so the path spells the ref.
    """

    ref: str
    directories: tuple[str, ...]
    data: str
    spelled: bool

    @property
    def manifest(self) -> str:
        """The manifest's name."""
        return self.data + SUFFIX

    @property
    def is_named_like_a_manifest(self) -> bool:
        """Whether the data lies where another ref's manifest would."""
        return self.data.endswith(SUFFIX) and self.data != SUFFIX

    @property
    def path(self) -> str:
        """The data's path under the root."""
        return "/".join((*self.directories, self.data))


def _check_length(name: str, limit: int) -> None:
    if len(name) > limit:
        raise InvalidRef(
            f"the ref with the segment {name[:60]!r}… cannot be held in this layout: the file's"
            f" name would have {len(name)} bytes, {limit} fit there; shorten it"
        )


def place_of(ref: str) -> Place:
    """Return where `ref` lies. Raises `InvalidRef` for an illegal ref or too long a name."""
    check_ref(ref)
    # Over the whole ref at once: a producer may write hundreds of segments. Names as the Go side
    # makes them; they are ASCII: a character is a byte.
    replaced = _REPLACED.sub("_", ref).split("/")
    *directories, leaf = [name if name.strip(".") else f"_{name}" for name in replaced]
    _check_length(max(directories, key=len, default=""), NAME_MAX_BYTES)
    _check_length(leaf, NAME_MAX_BYTES - len(SUFFIX))
    return Place(ref, tuple(directories), leaf, "/".join((*directories, leaf)) == ref)


class Mark(NamedTuple):
    """What we say about a file of ours. Digests are hex, `role` is `data` or `manifest`."""

    ref: str
    role: str
    data_digest: str
    manifest_digest: str

    @property
    def pair(self) -> tuple[str, str]:
        """What both files of one Put have in common."""
        return self.data_digest, self.manifest_digest

    def written(self, found: os.stat_result) -> bytes:
        """Return it as the attribute of the file that `found` describes."""
        text = (
            f"artifact 1\n{self.role}\n{found.st_size} {found.st_mtime_ns}\n"
            f"{self.data_digest}\n{self.manifest_digest}\n{self.ref}"
        )
        return text.encode()


def read_mark(attribute: bytes, found: os.stat_result) -> Mark | None:
    """Return the mark, None when it is none of ours or the file was rewritten in place since."""
    match = _MARK.fullmatch(attribute)
    if match is None or (int(match[2]), int(match[3])) != (found.st_size, found.st_mtime_ns):
        return None
    try:
        ref = match[6].decode()
    except UnicodeDecodeError:
        return None
    return Mark(ref, match[1].decode(), match[4].decode(), match[5].decode())
