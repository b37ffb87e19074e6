"""Which two versions a person means by names of artifacts and the beginnings of checksums."""

from __future__ import annotations

import re
import shlex
from typing import Final, NamedTuple

from sidecar.errors import Incomplete, UsageError
from sidecar.history import History
from sidecar.replay.trace import artifact_of_stack
from sidecar.stores import explained
from sidecar.wire.erasures import erasures_of
from store import Capability, NotFound, Version, VersionedStore

_CHECKSUM: Final = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


class Chosen(NamedTuple):
    """A version, and the ref that it is of."""

    ref: str
    version: Version


class _Named(NamedTuple):
    """What names a version of a ref: its checksums, or their beginning; empty is the newest."""

    ref: str
    checksum: str = ""
    manifest_checksum: str = ""


def parted(what: list[str]) -> tuple[list[str], list[str]]:
    """Part one or two names of artifacts from the checksums. Raises `UsageError`."""
    names = what[:1] + [one for one in what[1:2] if "/" in one or "@" in one]
    checksums = what[len(names) :]
    if checksums[2:]:
        raise UsageError("name at most two checksums: OLD and NEW")
    return names, checksums


def choose(
    history: History, names: list[str], checksums: list[str]
) -> tuple[VersionedStore, tuple[Chosen, Chosen]]:
    """Return the history's store, and the two versions in it. Raises `Incomplete`, `UsageError`."""
    store = history.store
    if store is None:
        raise UsageError("there is no store to look into; name one with --fleet-store")
    if Capability.LIST not in store.capabilities:
        raise UsageError(f"the store {store.name} lists no versions; choose one that declares list")
    with explained():
        named = [_named(history, store, name) for name in names]
        return store, _chosen(store, named, checksums)


def _named(history: History, store: VersionedStore, name: str) -> _Named:
    """Return what `name` names: a ref, if there is one, or else the artifact of a stack's version.

    Raises `Incomplete`.
    """
    if "@" not in name or store.exists(name):
        return _Named(name)
    event = artifact_of_stack(history, name)
    if event is None:
        raise Incomplete(
            f"there is no ref {name!r}, and no notification of such a stack and version in"
            f" {history.describe()}; `sidecar trace {shlex.quote(name)}` shows whether it died"
        )
    return _Named(event.artifact_ref, event.checksum, event.manifest_checksum)


def _chosen(
    store: VersionedStore, named: list[_Named], checksums: list[str]
) -> tuple[Chosen, Chosen]:
    """Return the two versions. Raises `Incomplete` and `UsageError`."""
    old, new = [*checksums, "", ""][:2]
    first, last = named[0], named[-1]
    last = _Named(last.ref, new) if new else last
    newest = _version(_versions(store, last.ref), last)
    if old or named[1:]:
        first = _Named(first.ref, old) if old else first
        return _version(_versions(store, first.ref), first), newest
    return _before(_versions(store, last.ref), newest), newest


def _before(versions: list[Version], newest: Chosen) -> Chosen:
    earlier = versions[versions.index(newest.version) + 1 :]
    if earlier:
        return Chosen(newest.ref, earlier[0])
    words = (
        f"{newest.ref!r} has no version before {newest.version.checksum}: there never was one, or"
        " it has been collected"
    )
    if not versions[1:]:
        words += (
            ". It is the only one there; where each version has a ref of its own, name two:"
            f" `sidecar diff OTHER_REF {shlex.quote(newest.ref)}`"
        )
    raise Incomplete(words)


def _versions(store: VersionedStore, ref: str) -> list[Version]:
    try:
        return list(store.versions(ref))
    except NotFound as error:
        erasure = erasures_of(store).find(ref)
        why = f": it was {erasure}" if erasure else ""
        raise Incomplete(f"there is nothing at {ref!r} in the store{why}") from error


def _checksum_of(prefix: str) -> str:
    """Return how the checksum begins that a person means; empty for any. Raises `UsageError`."""
    match = _CHECKSUM.fullmatch(prefix)
    if prefix and not match:
        raise UsageError(
            f"{prefix!r} is no checksum: sha256: and its first digits, four at least; nor is it a"
            " second ref, which has a /"
        )
    return f"sha256:{match[1]}" if match else ""


def _version(versions: list[Version], named: _Named) -> Chosen:
    ref, prefix, manifest = named
    wanted = _checksum_of(prefix)
    found = [
        one
        for one in versions
        if one.checksum.startswith(wanted) and manifest in ("", one.manifest_checksum)
    ]
    if not found:
        raise Incomplete(
            f"{ref!r} has no version {prefix}: it was never put, or has been collected;"
            " `sidecar store versions` lists those that are there"
        )
    if wanted and len({one.checksum for one in found}) > 1:
        raise UsageError(f"{prefix!r} is the beginning of several versions; write more digits")
    return Chosen(ref, found[0])
