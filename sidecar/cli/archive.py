"""`sidecar archive`: the streams into the fleet's store, by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from sidecar.cli.histories import Archived
from sidecar.cli.options import Json, signing, verify_by
from sidecar.history.archive import ArchiveHistory
from sidecar.history.archiver import Archiver
from sidecar.history.chain import Fault, faults_of, previous_of
from sidecar.history.live import LiveHistory
from sidecar.redis.archived import CLAIM_S
from sidecar.stores import needs
from sidecar.terminal import output
from sidecar.terminal.groups import option
from sidecar.terminal.progress import progress, size
from sidecar.wire.ids import LAST
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust
from store import Capability

_Check = Annotated[
    bool,
    typer.Option(help="Write nothing: look whether a segment is missing, or was changed since."),
]


@dataclass(frozen=True)
class Vouched:
    """The options that say who vouches for the archive."""

    sign_key: Signer | None = option(
        None, "Seal what is written with this Ed25519 key, as a worker with it does.", "FILE",
        unit=signing,
    )  # fmt: skip
    verify: Trust | None = verify_by(
        "With --check: by a key in this directory all must be sealed, from the first segment on"
        " that is."
    )


def archive(
    where: Archived, vouched: Vouched, *, check: _Check = False, json: Json = False
) -> None:
    """Write what is in the streams, and not in the archive yet, into the fleet's store.

    Control entries, notifications, dead letters and the records of redrives, halts and of what
    Redis forgot, in compressed segments with checksums, under the refs .sidecar/archive/. `replay`,
    `trace` and `diff` then read across archive and Redis. `sidecar run --archive` does it all the
    time, and trims nothing that is not archived.

    Each segment names the one before it and its hash. With --check that chain is read (not the
    rows: who reads these checks them). What is missing or changed is printed, and of each stream
    the newest segment with its hash, for which nothing vouches yet: kept elsewhere, it tells later
    whether the chain is the same. With --verify seals are verified, too (docs/trust.md). Exit
    codes: 1 with --check, something is missing or changed.

    Examples:
      sidecar archive

      sidecar archive --redis redis://localhost --fleet-store s3://fleet

      sidecar archive --check --verify trust

    """
    keys, control, notify, opened = where.keys, where.control, where.notify, where.fleet()
    needs(opened, Capability.LIST, "cannot hold an archive")
    fleet = needs(opened, Capability.STREAM, "cannot hold an archive")
    live = LiveHistory(control, notify, keys, fleet)
    live.check()
    if check:
        _check(ArchiveHistory(fleet, live.streams), vouched.verify, json=json)
        return
    archiver = Archiver(live, fleet, notify.client, keys[0], signer=vouched.sign_key)
    rows = size_bytes = 0
    with progress(json=json) as tell:
        for name in (*live.streams.control, *live.streams[1:]):
            for one in archiver.archive(name, rest=True, wait_s=2 * CLAIM_S):
                rows, size_bytes = rows + one.rows, size_bytes + one.size_bytes
                if name == where.notify_stream:
                    archiver.keep_state()
                tell(f"{name}: {rows:,} entries")
                if json:
                    output.json_line(one._asdict())
    if not json:
        output.line(f"{rows:,} entries archived, {size(size_bytes)}")


def _check(archived: ArchiveHistory, trust: Trust | None, *, json: bool) -> None:
    """Print what the chains show, and where each ends; exit 1 if anything is wrong."""
    found = 0
    for stream in (*archived.streams.control, *archived.streams[1:]):
        for fault in faults_of(archived, stream, trust):
            found += 1
            _print(fault, json=json)
        head = previous_of(archived, stream, LAST)
        if json and head:
            output.json_line({"stream": stream, "head": head})
        elif head:
            output.pairs([(stream, head)])
    if found:
        raise typer.Exit(1)


def _print(fault: Fault, *, json: bool) -> None:
    if json:
        output.json_line(fault._asdict())
    else:
        kind = fault.kind.replace("_", " ")
        output.styled([(kind, "bold red"), (fault.segment, ""), (fault.detail, "dim")])
