"""`sidecar store`: a store by hand."""

from __future__ import annotations

import codecs
import io
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from sidecar.cli.options import CONNECTION, DATA_DIR, DataDir, FleetStore, Json
from sidecar.errors import SidecarError, UsageError

if TYPE_CHECKING:
    from store import ArtifactReader, Capability, Store, VersionedStore

CHUNK_BYTES: Final = 1 << 20

app = typer.Typer(
    help="A store by hand: put, get, look, verify, collect garbage.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Ref = Annotated[str, typer.Argument(metavar="REF", help="Such as stacks/t_1/web/7.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_STORE",
        metavar="URL",
        rich_help_panel=CONNECTION,
        help="Default: the fleet's store.",
    ),
]
Checksum = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_CHECKSUM", metavar="C", help="The version with this data: sha256:…"
    ),
]
ManifestChecksum = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_MANIFEST_CHECKSUM",
        metavar="C",
        help="And with this manifest. Default: the newest with that data.",
    ),
]


@app.command()
def put(
    ref: Ref,
    data: Annotated[
        str,
        typer.Option(envvar="SIDECAR_DATA", metavar="FILE", help="- is standard input."),
    ],
    manifest: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_MANIFEST",
            metavar="FILE",
            help="- is standard input. Default: an empty manifest.",
        ),
    ] = None,
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Put an artifact, durably; print its checksums as JSON.

    Examples:
      sidecar store put stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      tar c site | sidecar store put stacks/t_1/web/8 --data - --store file:///var/lib/node

    """
    from sidecar.cli import files, output
    from sidecar.stores import explained, open_store
    from store import checksum_of

    if data == manifest == "-":
        raise UsageError("--data and --manifest cannot both be standard input; name a file")
    manifest_blob = files.read("--manifest", manifest) if manifest else b""
    opened = open_store(url_of(store, fleet_store, data_dir))
    with explained(), files.opened("--data", data) as file:
        checksum, size_bytes = _put(opened, ref, file, manifest_blob)
    output.json_line({
        "ref": ref,
        "checksum": checksum,
        "manifest_checksum": checksum_of(manifest_blob),
        "size_bytes": size_bytes,
        "manifest_size_bytes": len(manifest_blob),
    })  # fmt: skip


@app.command()
def get(
    ref: Ref,
    checksum: Checksum = None,
    manifest_checksum: ManifestChecksum = None,
    data: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_DATA",
            metavar="FILE",
            help="Write the data there; - is standard output, which is the default unless"
            " --manifest is given.",
        ),
    ] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_MANIFEST",
            metavar="FILE",
            help="Write the manifest there; - is standard output.",
        ),
    ] = None,
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Get an artifact, verified: what is there now, or the version with a checksum.

    A file is written whole or not at all. Standard output gets what is larger than 1 MiB as it is
    read: only exit code 0 says that all of it was intact. Exit code 1: there is no such artifact,
    or it is corrupt.

    Examples:
      sidecar store get stacks/t_1/web/7 > dump.tar

      sidecar store get stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      sidecar store get stacks/t_1/web/7 --manifest - | jq .

    """
    from sidecar.cli import files
    from sidecar.stores import explained

    if data == manifest == "-":
        raise UsageError("--data and --manifest cannot both be standard output; name a file")
    opened = open_chosen(store, fleet_store, data_dir)
    pin = _pin(opened, checksum, manifest_checksum)
    with explained(), _reader(opened, ref, pin) as artifact:
        chunks = _verified(artifact)
        if data is None and manifest is None:
            chunks = _no_binary(chunks, artifact.size_bytes)
            data = "-"
        if data:
            files.write("--data", data, _distrusted(chunks) if data == "-" else chunks)
        if manifest:
            files.write("--manifest", manifest, (artifact.manifest,))


@app.command()
def exists(
    ref: Ref,
    checksum: Checksum = None,
    manifest_checksum: ManifestChecksum = None,
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    data_dir: DataDir = DATA_DIR,
    *,
    json: Json = False,
) -> None:
    """Tell by exit code whether an artifact is there: 0 it is, 1 it is not.

    Prints nothing but with --json.

    Examples:
      sidecar store exists stacks/t_1/web/7 && echo there

    """
    from sidecar.cli import output
    from sidecar.stores import explained

    opened = open_chosen(store, fleet_store, data_dir)
    pin = _pin(opened, checksum, manifest_checksum)
    with explained():
        there = opened.exists(ref, **pin)
    if json:
        output.json_line({"ref": ref, **pin, "exists": there})
    if not there:
        raise typer.Exit(1)


@app.command()
def ls(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="A ref, or what refs lie under. Default: all.")
    ] = "",
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    data_dir: DataDir = DATA_DIR,
    *,
    json: Json = False,
) -> None:
    """List refs, one a line, in no order: those that are PREFIX or lie under it.

    Exit code 1: nothing lies there.

    Examples:
      sidecar store ls stacks/t_1 | sort

      sidecar store ls --store file:///var/lib/node --json

    """
    from sidecar.cli import output
    from sidecar.stores import explained
    from store import Capability

    opened = needs(open_chosen(store, fleet_store, data_dir), Capability.LIST, "lists no refs")
    show = output.visible if output.on_terminal() else str
    found = False
    with explained():
        for ref in opened.list(prefix.removesuffix("/")):
            found = True
            if json:
                output.json_line({"ref": ref})
            else:
                output.line(show(ref))
    if prefix and not found:
        raise SidecarError(f"nothing lies at or under {prefix!r}")


@app.command()
def versions(
    ref: Ref,
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    data_dir: DataDir = DATA_DIR,
    *,
    json: Json = False,
) -> None:
    """List the stored versions of a ref, the newest first.

    Exit code 1: there is no such ref.

    Examples:
      sidecar store versions stacks/t_1/web/7

      sidecar store versions rows/tenants/t_1 --json | jq -r .checksum

    """
    from sidecar.cli import output
    from sidecar.moments import rfc3339
    from sidecar.stores import explained
    from store import Capability

    opened = needs(open_chosen(store, fleet_store, data_dir), Capability.LIST, "lists no versions")
    with explained():
        found = opened.versions(ref)
        if json:
            for one in found:
                output.json_line({
                    "ref": ref, **one._asdict(), "stored_at": rfc3339(one.stored_at * 1e6)
                })  # fmt: skip
            return
        rows = [
            (
                rfc3339(one.stored_at * 1e6), f"{one.size_bytes:,}",
                f"{one.manifest_size_bytes:,}", "current" if one.current else "",
                one.checksum, one.manifest_checksum,
            )
            for one in found
        ]  # fmt: skip
    output.table(
        ("stored_at", "bytes", "manifest", "", "checksum", "manifest_checksum"),
        rows,
        right=("bytes", "manifest"),
        styles={"current": "bold green"},
    )


def url_of(store: str | None, fleet_store: str | None, data_dir: Path) -> str:
    """Return the URL of the store that the options mean."""
    return store or fleet_store or (data_dir / "fleet").absolute().as_uri()


def open_chosen(store: str | None, fleet_store: str | None, data_dir: Path) -> Store:
    """Open the store that the options mean, to read from. Raises as `open_existing`."""
    from sidecar.stores import open_existing

    return open_existing(store or fleet_store or None, data_dir / "fleet")


def needs(opened: Store, capability: Capability, lack: str) -> VersionedStore:
    """Return the store as one that can do more. Raises `UsageError` with what it lacks."""
    from store import versioned

    found = versioned(opened, capability)
    if found is None:
        raise UsageError(
            f"the backend {opened.name!r} {lack}: it does not declare {capability.value!r}; choose"
            " another --store"
        )
    return found


def _put(opened: Store, ref: str, file: BinaryIO, manifest: bytes) -> tuple[str, int]:
    """Put what `file` holds, in constant memory where the backend can; return checksum and size."""
    from store import Capability, checksum_of, versioned

    streaming = versioned(opened, Capability.STREAM, Capability.PINNED_GET)
    if streaming is None:
        blob = file.read()
        opened.put(ref, blob, manifest)
        return checksum_of(blob), len(blob)
    checksum = streaming.put_from(ref, file, manifest)
    with streaming.open(ref, checksum=checksum) as stored:
        return checksum, stored.size_bytes


def _reader(opened: Store, ref: str, pin: dict[str, Any]) -> ArtifactReader:
    """Open an artifact for reading: in constant memory where the backend can."""
    from store import ArtifactReader, Capability, versioned

    streaming = versioned(opened, Capability.STREAM)
    if streaming is not None:
        return streaming.open(ref, **pin)
    found = opened.get(ref, **pin)
    return ArtifactReader(
        io.BytesIO(found.data), checksum=None, size_bytes=len(found.data),
        manifest=found.manifest, where=ref,
    )  # fmt: skip


def _verified(artifact: ArtifactReader) -> Iterator[bytes]:
    """Yield an artifact's data, the last of it once all was found intact.

    Each chunk waits for the next: so a small artifact that is damaged is not yielded at all.
    """
    held = artifact.read(CHUNK_BYTES)
    while held:
        following = artifact.read(CHUNK_BYTES)
        yield held
        held = following


def _pin(opened: Store, checksum: str | None, manifest_checksum: str | None) -> dict[str, Any]:
    """Return what pins a version, as `get` and `exists` take it."""
    from store import Capability

    if checksum is None and manifest_checksum is None:
        return {}
    needs(opened, Capability.PINNED_GET, "keeps no versions to choose by --checksum")
    for option, value in (("--checksum", checksum), ("--manifest-checksum", manifest_checksum)):
        if value is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
            raise UsageError(f"{option}: {value!r} is no checksum; write sha256: and 64 hex digits")
    if checksum is None:
        raise UsageError("--manifest-checksum pins nothing alone; give --checksum, too")
    given = {"checksum": checksum, "manifest_checksum": manifest_checksum}
    return {name: value for name, value in given.items() if value is not None}


def _distrusted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass chunks on to where nothing can be taken back; say so if they end in damage."""
    from store import Corrupt

    passed = 0
    try:
        for chunk in chunks:
            yield chunk
            passed += len(chunk)
    except Corrupt as error:
        if not passed:
            raise
        raise SidecarError(
            f"{error}; do not use the {passed:,} bytes that went to standard output"
        ) from error


def _no_binary(chunks: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """Pass chunks on, unless a terminal would get what is no text."""
    if not sys.stdout.isatty():
        return chunks
    first = next(chunks, b"")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(first, final=len(first) == size_bytes)
        harmless = all(c.isprintable() or c in "\n\t" for c in text)
    except UnicodeDecodeError:
        harmless = False
    if not harmless:
        raise UsageError(
            f"{size_bytes:,} bytes that are no text, and standard output is a terminal; redirect"
            " it, or --data FILE (--data - prints them all the same)"
        )
    return itertools.chain((first,), chunks)
