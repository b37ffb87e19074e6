"""`sidecar store`: a store by hand."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.options import DATA_DIR, DataDir, FleetStore, Json
from sidecar.errors import SidecarError, UsageError

if TYPE_CHECKING:
    from store import Capability, Store, VersionedStore

app = typer.Typer(
    help="A store by hand: put, get, look.", no_args_is_help=True, rich_markup_mode="rich"
)

Ref = Annotated[str, typer.Argument(metavar="REF", help="Such as stacks/t_1/web/7.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(envvar="SIDECAR_STORE", metavar="URL", help="Default: the fleet's store."),
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
    from sidecar.cli import output
    from sidecar.cli.emit import read
    from sidecar.stores import explained, open_store
    from store import checksum_of

    if data == manifest == "-":
        raise UsageError("--data and --manifest cannot both be standard input; name a file")
    blob = read("--data", data)
    manifest_blob = read("--manifest", manifest) if manifest else b""
    url = store or fleet_store or (data_dir / "fleet").absolute().as_uri()
    with explained():
        open_store(url).put(ref, blob, manifest_blob)
    output.json_line({
        "ref": ref,
        "checksum": checksum_of(blob),
        "manifest_checksum": checksum_of(manifest_blob),
        "size_bytes": len(blob),
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

    A file is written whole or not at all. Exit code 1: there is no such artifact, or it is
    corrupt.

    Examples:
      sidecar store get stacks/t_1/web/7 > dump.tar

      sidecar store get stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      sidecar store get stacks/t_1/web/7 --manifest - | jq .

    """
    from sidecar.stores import explained

    if data == manifest == "-":
        raise UsageError("--data and --manifest cannot both be standard output; name a file")
    opened = _open(store, fleet_store, data_dir)
    pin = _pin(opened, checksum, manifest_checksum)
    with explained():
        artifact = opened.get(ref, **pin)
    if data is None and manifest is None:
        _refuse_binary(artifact.data)
        data = "-"
    if manifest:
        _write("--manifest", manifest, artifact.manifest)
    if data:
        _write("--data", data, artifact.data)


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

    opened = _open(store, fleet_store, data_dir)
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

    opened = _needs(_open(store, fleet_store, data_dir), Capability.LIST, "lists no refs")
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

    opened = _needs(_open(store, fleet_store, data_dir), Capability.LIST, "lists no versions")
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


def _open(store: str | None, fleet_store: str | None, data_dir: Path) -> Store:
    from sidecar.stores import open_existing

    return open_existing(store or fleet_store or None, data_dir / "fleet")


def _needs(opened: Store, capability: Capability, lack: str) -> VersionedStore:
    from store import VersionedStore, capabilities

    if capability not in capabilities(opened) or not isinstance(opened, VersionedStore):
        raise UsageError(
            f"the backend {opened.name!r} {lack}: it does not declare {capability.value!r}; choose"
            " another --store"
        )
    return opened


def _pin(opened: Store, checksum: str | None, manifest_checksum: str | None) -> dict[str, Any]:
    """Return what pins a version, as `get` and `exists` take it."""
    from store import Capability

    if checksum is None and manifest_checksum is None:
        return {}
    _needs(opened, Capability.PINNED_GET, "keeps no versions to choose by --checksum")
    for option, value in (("--checksum", checksum), ("--manifest-checksum", manifest_checksum)):
        if value is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
            raise UsageError(f"{option}: {value!r} is no checksum; write sha256: and 64 hex digits")
    if checksum is None:
        raise UsageError("--manifest-checksum pins nothing alone; give --checksum, too")
    given = {"checksum": checksum, "manifest_checksum": manifest_checksum}
    return {name: value for name, value in given.items() if value is not None}


def _refuse_binary(blob: bytes) -> None:
    if not sys.stdout.isatty():
        return
    try:
        harmless = all(c.isprintable() or c in "\n\t" for c in blob.decode())
    except UnicodeDecodeError:
        harmless = False
    if not harmless:
        raise UsageError(
            f"{len(blob):,} bytes that are no text, and standard output is a terminal; redirect it,"
            " or --data FILE (--data - prints them all the same)"
        )


def _write(option: str, name: str, blob: bytes) -> None:
    """Write to a file, whole or not at all, or to standard output."""
    from sidecar.cli import output

    if name == "-":
        output.raw(blob)
        return
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(blob)  # a pipe or a device: there is nothing to rename over
            return
        _replace(path.resolve(), blob)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{option} {name}: {said}; name a file that can be written") from error


def _replace(path: Path, blob: bytes) -> None:
    descriptor, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), path.stat().st_mode if path.exists() else 0o666 & ~umask)
        os.replace(temp, path)
    except BaseException:
        os.unlink(temp)
        raise
