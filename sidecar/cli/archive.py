"""`sidecar archive`: the streams into the fleet's store, by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import typer

from sidecar.cli.histories import Archived
from sidecar.cli.options import Json, signing, verify_by
from sidecar.errors import UsageError
from sidecar.history.archive import ArchiveHistory, own_archive
from sidecar.history.archiver import Archiver
from sidecar.history.chain import Fault, faults_of
from sidecar.history.dropping import drop, target_of
from sidecar.history.linking import previous_of
from sidecar.history.live import LiveHistory
from sidecar.history.marks import MOST_REASON_CHARS
from sidecar.history.sealing import Sealer
from sidecar.redis.archived import CLAIM_S
from sidecar.stores import needs
from sidecar.terminal import output
from sidecar.terminal.groups import flag, option
from sidecar.terminal.person import whoami
from sidecar.terminal.progress import progress, size
from sidecar.wire.ids import LAST
from sidecar.wire.moments import rfc3339
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust
from store import Capability


def _reason(text: str) -> str:
    """Return why. Raises `UsageError` for what is too long for a record."""
    if len(text) > MOST_REASON_CHARS:
        raise UsageError(f"it is {len(text)} characters long; {MOST_REASON_CHARS} at most")
    return text


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
    trust: Trust | None = verify_by(
        "With --sign-key: vouch for what any public key in this directory signed, as a worker with"
        " --trust does."
    )
    verify: Trust | None = verify_by(
        "With --check: by a key in this directory all must be sealed, from the first segment on"
        " that is."
    )

    def sealer(self, notifications: str) -> Sealer | None:
        """Return what seals with that key; None without one. Raises `UsageError`."""
        if self.sign_key and self.trust:
            self.trust.check_own(self.sign_key.key_id)
        return Sealer(self.sign_key, notifications, self.trust) if self.sign_key else None


@dataclass(frozen=True)
class Dropping:
    """The options that take something out of the archive."""

    drop: str | None = option(
        None, "Take this segment or state out: it is damaged for good, or forged.", "REF"
    )
    reason: str | None = option(
        None, "Why; it is kept on record. Needed with --drop.", "TEXT", unit=_reason
    )
    dry_run: bool = flag("With --drop: only show what would be missing.")

    @property
    def is_meant(self) -> bool:
        """Whether anything is to go. Raises `UsageError` where that is said by half."""
        if self.drop is None:
            if self.reason or self.dry_run:
                raise UsageError("--reason and --dry-run: they belong to --drop REF")
            return False
        if not ((self.reason or "").strip() or self.dry_run):
            raise UsageError("--drop: say why, with --reason TEXT; or look first, with --dry-run")
        return True


def archive(
    where: Archived, vouched: Vouched, dropping: Dropping, *,
    check: _Check = False, json: Json = False,
) -> None:  # fmt: skip
    """Write what is in the streams, and not in the archive yet, into the fleet's store.

    Control entries, notifications, dead letters and the records of redrives, halts and of what
    Redis forgot, in compressed segments with checksums, under the refs .sidecar/archive/. `replay`,
    `trace` and `diff` then read across archive and Redis. `sidecar run --archive` does it all the
    time, and trims nothing that is not archived.

    Each segment names the one before it and its hash. With --check that chain is read (not the
    rows: who reads these checks them). What is missing or changed is printed, and of each stream
    the newest segment with its hash, for which nothing vouches yet: kept elsewhere, it tells later
    whether the chain is the same. With --verify seals are verified, too (docs/trust.md).

    With --drop a segment that nobody can read any more, or that somebody forged, is taken out, and
    a mark is left of who did it, when and why: every command tells the gap from then on. With
    --sign-key the mark is sealed, and --check --verify knows it.

    Exit codes: 1 with --check, something is missing or changed.

    Examples:
      sidecar archive

      sidecar archive --redis redis://localhost --fleet-store s3://fleet

      sidecar archive --check --verify trust

      sidecar archive --drop .sidecar/archive/N/N/5-0..9-0 --reason "disk failed" --dry-run

    """
    keys, control, notify, opened = where.keys, where.control, where.notify, where.fleet()
    needs(opened, Capability.LIST, "cannot hold an archive")
    fleet = needs(opened, Capability.STREAM, "cannot hold an archive")
    live = LiveHistory(control, notify, keys, fleet)
    live.check()
    archived = ArchiveHistory(fleet, live.streams)
    if dropping.is_meant:
        own = own_archive(fleet, notify, keys, output.hint)
        _drop(own, dropping, vouched.sealer(where.notify_stream), json=json)
        return
    if check:
        _check(archived, vouched.verify, json=json)
        return
    sealer = vouched.sealer(where.notify_stream)
    archiver = Archiver(live, fleet, notify.client, keys[0], sealer=sealer)
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


def _drop(
    archived: ArchiveHistory | None, how: Dropping, sealer: Sealer | None, *, json: bool
) -> None:
    """Take a segment or a state out, unless that is only to be shown; say what is missing then."""
    if archived is None:
        raise UsageError("--drop: there is no archive of these streams in the fleet's store")
    target = target_of(archived, how.drop or "")
    if not how.dry_run:
        at = rfc3339(time.time_ns() // 1000)
        seal = sealer.sealed if sealer else None
        drop(archived, target, at=at, by=whoami(), reason=how.reason or "", seal=seal)
    if json:
        told = {"ref": target.ref, "stream": target.stream, "missing": target.lacking}
        output.json_line(told | {"dropped": not how.dry_run})
        return
    output.line(f"{'would be dropped' if how.dry_run else 'dropped'}: {target.ref}")
    for first, last in target.lacking:
        output.line(f"  missing of {target.stream}: {first} to {last}")


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
