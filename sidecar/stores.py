"""Stores as commands use them: opened by URL, their errors in words for a person."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import store
from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.wire.bounds import bounded
from sidecar.wire.erasures import Erasures
from sidecar.wire.units import said
from sidecar.wire.urls import redact
from store import (
    Artifact,
    ArtifactReader,
    Capability,
    Store,
    VersionedStore,
    checksum_of,
    versioned,
)
from store.registry import check_url

CHUNK_BYTES: Final = 1 << 20


@contextmanager
def named(option: str) -> Iterator[None]:
    """Let the message of a `UsageError` begin with the option that is wrong."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error


@contextmanager
def explained(url: str = "") -> Iterator[None]:
    """Turn a store's errors into ours, by the exit code that each deserves.

    `url` is named in the message when the store is being opened.
    """
    try:
        yield
    except store.Unavailable as error:
        raise Unreachable(_message(url, error)) from error
    except (store.InvalidRef, store.ConfigError) as error:
        raise UsageError(_message(url, error)) from error
    except store.StoreError as error:
        raise SidecarError(_message(url, error)) from error


def _message(url: str, error: store.StoreError) -> str:
    if not url:
        return str(error)

    return f"the store {redact(url)}: {error}"


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the store that `url` names; see `store.open_url`.

    Raises `UsageError` or `Unreachable`.
    """
    with explained(url):
        return store.open_url(url, create=create)


def check_store(url: str) -> None:
    """Raise `UsageError` for what is no URL of a store, or of a backend that there is not."""
    with explained(url):
        check_url(url)


def caveats(opened: Store) -> tuple[str, ...]:
    """Return what the storage behind a store cannot do, what that means, and the fix.

    A backend that has something to tell tries, which may write. Raises `Unavailable`.
    """
    tell = getattr(opened, "caveats", None)
    return tell() if tell else ()


def open_existing(option: str, url: str | None, default: Path, server: str | None = None) -> Store:
    """Open a store to read from: `url`, else the one in the directory `default`.

    One that is not there is not made, and none is taken for that of a server that the user named:
    reading from the wrong place would look like reading from an empty one. `option` names the
    store. Raises as `open_store`.
    """
    if not has_store(url, default, server):
        raise UsageError(no_store(option, default, server))
    with named(option):
        return open_store(url or default.absolute().as_uri(), create=False)


def has_store(url: str | None, default: Path, server: str | None) -> bool:
    """Tell whether there is a store to read from: named, or beside the embedded server."""
    return bool(url) or (not server and os.path.isdir(default))  # whatever its name, no error


def no_store(option: str, default: Path, server: str | None) -> str:
    """Say what lacks, and what to do."""
    if server:
        return (
            f"give {option}: only the embedded server has a store under --data-dir, and another"
            " one is named (--redis, --notify-redis, or their variables)"
        )
    return (
        f"there is no store at {default}; name one by its URL ({option}), or the right --data-dir"
    )


def needs(opened: Store, capability: Capability, lack: str) -> VersionedStore:
    """Return the store as one that can do more. Raises `UsageError` with what it lacks."""
    found = versioned(opened, capability)
    if found is None:
        raise UsageError(
            f"the backend {opened.name!r} {lack}: it does not declare {capability.value!r}; choose"
            " another --store"
        )
    return found


def put_file(opened: Store, ref: str, file: BinaryIO, manifest: bytes) -> tuple[str, int]:
    """Put what `file` holds, in constant memory where the backend can; return checksum and size."""
    streaming = versioned(opened, Capability.STREAM, Capability.PINNED_GET)
    if streaming is None:
        blob = file.read()
        opened.put(ref, blob, manifest)
        return checksum_of(blob), len(blob)
    checksum = streaming.put_from(ref, file, manifest)
    with streaming.open(ref, checksum=checksum, **bounded(streaming)) as stored:
        return checksum, stored.size_bytes


def open_reader(opened: Store, ref: str, pin: dict[str, Any]) -> ArtifactReader:
    """Open an artifact for reading: in constant memory where the backend can.

    Raises as the store does, and `Erased` for what went with its tenant.
    """
    with Erasures(opened).told(ref, pin.get("checksum")):
        streaming = versioned(opened, Capability.STREAM)
        if streaming is not None:
            return streaming.open(ref, **pin, **bounded(streaming))
        get: Any = opened.get
        found: Artifact = get(ref, **pin, **bounded(opened))
    return ArtifactReader(
        io.BytesIO(found.data), checksum=None, size_bytes=len(found.data),
        manifest=found.manifest, where=ref,
    )  # fmt: skip


def check_pin(opened: Store, pin: dict[str, str]) -> None:
    """Raise `UsageError` unless the checksums in `pin` are some, and the store can go by them."""
    if not pin:
        return
    needs(opened, Capability.PINNED_GET, "keeps no versions to choose by --checksum")
    for name, value in pin.items():
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option}: {said(value)} is no checksum; write sha256: and 64 hex digits"
            )
    if "checksum" not in pin:
        raise UsageError("--manifest-checksum pins nothing alone; give --checksum, too")


def verified_chunks(artifact: ArtifactReader) -> Iterator[bytes]:
    """Yield an artifact's data, the last of it once all was found intact.

    Each chunk waits for the next: so a small artifact that is damaged is not yielded at all.
    """
    held = artifact.read(CHUNK_BYTES)
    while held:
        following = artifact.read(CHUNK_BYTES)
        yield held
        held = following


def distrusted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass chunks on to where nothing can be taken back; say so if they end in damage."""
    passed = 0
    try:
        for chunk in chunks:
            yield chunk
            passed += len(chunk)
    except store.Corrupt as error:
        if not passed:
            raise
        raise SidecarError(
            f"{error}; do not use the {passed:,} bytes that went to standard output"
        ) from error
