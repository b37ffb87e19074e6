"""`sidecar store`: a store by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sidecar.cli import options
from sidecar.cli.options import Json
from sidecar.errors import SidecarError
from sidecar.stores import (
    check_pin,
    distrusted,
    explained,
    named,
    needs,
    open_existing,
    open_reader,
    open_store,
    put_file,
    verified_chunks,
)
from sidecar.terminal import files, output
from sidecar.terminal.groups import REQUIRED, option, read
from sidecar.terminal.stopping import cleaned_up
from sidecar.wire.erasures import Erasures
from sidecar.wire.moments import rfc3339
from store import Capability, Store, checksum_of

Ref = Annotated[str, typer.Argument(metavar="REF", help="Such as stacks/t_1/web/7.")]
Prefix = Annotated[
    str, typer.Argument(metavar="PREFIX", help="A ref, or what refs lie under. Default: all.")
]


@dataclass(frozen=True)
class Place:
    """The options that say which store is meant."""

    store: str | None = options.store_at("Default: the fleet's store.")
    fleet_store: str | None = options.fleet_store()
    data_dir: Path = options.data_dir()

    @property
    def url(self) -> str:
        """URL of the store."""
        return self.store or self.fleet_store or self._default.absolute().as_uri()

    @property
    def _default(self) -> Path:
        return self.data_dir / "fleet"

    def opened(self, server: str | None = None) -> Store:
        """Open the store; `server` is the one that the user named, if any.

        Raises as `open_existing`.
        """
        option = "--store" if self.store else "--fleet-store"
        return open_existing(option, self.store or self.fleet_store, self._default, server)

    def made(self) -> Store:
        """Open the store, or make it. Raises `UsageError` and `Unreachable`."""
        given = {"--store": self.store, "--fleet-store": self.fleet_store}
        with named(next((option for option, url in given.items() if url), "--data-dir")):
            return open_store(self.url)


@dataclass(frozen=True)
class Version:
    """The options that say which version of a ref is meant."""

    checksum: str | None = option(None, "The version with this data: sha256:…", "C")
    manifest_checksum: str | None = option(
        None, "And with this manifest. Default: the newest with that data.", "C"
    )

    def pin(self, opened: Store) -> dict[str, Any]:
        """Return what pins it, as `get` and `exists` take it. Raises `UsageError`."""
        given = {"checksum": self.checksum, "manifest_checksum": self.manifest_checksum}
        pin = {name: value for name, value in given.items() if value is not None}
        check_pin(opened, pin)
        return pin


@dataclass(frozen=True)
class From:
    """The options that say what is put."""

    data: str = option(REQUIRED, "- is standard input.", "FILE")
    manifest: str | None = option(None, "- is standard input. Default: an empty manifest.", "FILE")


def put(ref: Ref, given: From, where: Place) -> None:
    """Put an artifact, durably; print its checksums as JSON.

    Examples:
      sidecar store put stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      tar c site | sidecar store put stacks/t_1/web/8 --data - --store file:///var/lib/node

    """
    files.check_one_standard(given.data, given.manifest, "input")
    manifest_blob = files.read("--manifest", given.manifest) if given.manifest else b""
    opened = where.made()
    with cleaned_up(), explained(), files.opened("--data", given.data) as file:
        checksum, size_bytes = put_file(opened, ref, file, manifest_blob)
    output.json_line({
        "ref": ref,
        "checksum": checksum,
        "manifest_checksum": checksum_of(manifest_blob),
        "size_bytes": size_bytes,
        "manifest_size_bytes": len(manifest_blob),
    })  # fmt: skip


@dataclass(frozen=True)
class Into:
    """The options that say where it goes."""

    data: str | None = option(
        None,
        "Write the data there; - is standard output, which is the default unless --manifest is"
        " given.",
        "FILE",
    )
    manifest: str | None = option(None, "Write the manifest there; - is standard output.", "FILE")


def get(ref: Ref, version: Version, where: Place, into: Into) -> None:
    """Get an artifact, verified: what is there now, or the version with a checksum.

    A file is written whole or not at all. Standard output gets what is larger than 1 MiB as it is
    read: only exit code 0 says that all of it was intact. Exit code 1: there is no such artifact,
    or it is corrupt.

    Examples:
      sidecar store get stacks/t_1/web/7 > dump.tar

      sidecar store get stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      sidecar store get stacks/t_1/web/7 --manifest - | jq .

    """
    files.check_one_standard(into.data, into.manifest, "output")
    opened = where.opened()
    pin = version.pin(opened)
    with cleaned_up(), explained(), open_reader(opened, ref, pin) as artifact:
        chunks, data = verified_chunks(artifact), into.data
        if data is None and into.manifest is None:
            chunks = files.no_binary(chunks, artifact.size_bytes)
            data = "-"
        if data:
            files.write("--data", data, distrusted(chunks) if data == "-" else chunks)
        if into.manifest:
            files.write("--manifest", into.manifest, (artifact.manifest,))


def exists(ref: Ref, version: Version, where: Place, *, json: Json = False) -> None:
    """Report by exit code whether an artifact is there: 0 it is, 1 it is not.

    Prints nothing but with --json.

    Examples:
      sidecar store exists stacks/t_1/web/7 && echo there

    """
    opened = where.opened()
    pin = version.pin(opened)
    with explained():
        there = opened.exists(ref, **pin)
    if json:
        output.json_line({"ref": ref, **pin, "exists": there})
    if not there:
        raise typer.Exit(1)


def ls(where: Place, prefix: Prefix = "", *, json: Json = False) -> None:
    """List refs, one a line, in no order: those that are PREFIX or lie under it.

    Exit code 1: nothing lies there.

    Examples:
      sidecar store ls stacks/t_1 | sort

      sidecar store ls --store file:///var/lib/node --json

    """
    under = read(options.checked_ref, "PREFIX", prefix.removesuffix("/"))
    opened = needs(where.opened(), Capability.LIST, "lists no refs")
    show = output.visible if output.on_terminal() else str
    found = False
    with explained():
        for ref in opened.list(under):
            found = True
            if json:
                output.json_line({"ref": ref})
            else:
                output.line(show(ref))
    if prefix and not found:
        raise SidecarError(f"nothing lies at or under {prefix!r}")


def versions(ref: Ref, where: Place, *, json: Json = False) -> None:
    """List the stored versions of a ref, the newest first.

    Exit code 1: there is no such ref.

    Examples:
      sidecar store versions stacks/t_1/web/7

      sidecar store versions rows/tenants/t_1 --json | jq -r .checksum

    """
    opened = needs(where.opened(), Capability.LIST, "lists no versions")
    with explained(), Erasures(opened).told(ref):
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
