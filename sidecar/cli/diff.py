"""`sidecar diff`: two versions of a ref, two refs, or the fleet at two positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import typer

from sidecar.cli.histories import Archived
from sidecar.cli.options import Bundle, Json
from sidecar.errors import Incomplete, UsageError
from sidecar.history import History
from sidecar.history.state import FleetState, state_at
from sidecar.replay.changes import Change, changes
from sidecar.replay.compare import Comparison, compare
from sidecar.replay.versions import Chosen, choose, parted
from sidecar.replay.window import moment
from sidecar.stores import explained
from sidecar.terminal import output
from sidecar.terminal.groups import NO_VARIABLE, argument, option
from sidecar.wire.bounds import bounded
from sidecar.wire.moments import parse_position, rfc3339

_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}
_SIGNS: Final = {"came": "+", "went": "-", "changed": "~"}


@dataclass(frozen=True)
class Compared:
    """What is compared."""

    what: list[str] | None = argument(
        None,
        "REF|CHECKSUM",
        "REF [REF] [OLD] [NEW]: one artifact_ref, or two; TENANT/STACK@VERSION stands for one,"
        " too. Then checksums of the data, or their first digits. Default: of one ref the newest"
        " version and the one before it, of two the newest of each.",
    )
    at: list[str] | None = option(
        None,
        "Twice: compare the fleet at these, instead of versions. A control_version, an entry ID,"
        " milliseconds, an RFC 3339 time, or so long ago (2h).",
        "POSITION",
        envvar=NO_VARIABLE,
    )


def diff(compared: Compared, *, json: Json = False, bundle: Bundle = None, where: Archived) -> None:
    """Show how two versions of a ref differ, or two refs, or the fleet at two positions.

    Data and manifest are compared as what they are: JSON whatever the order of keys, SQL dumps
    whatever the order of the rows that are inserted into one table in turn, other text by lines,
    and all else, or what is large, by size and digest.

    Exit codes: 0 the same, 1 different, 3 a version is not there, or what was before a position
    has expired.

    Examples:
      sidecar diff stacks/t_1/web

      sidecar diff rows/tenants/t_1 3da8e08a 8c7e6c89

      sidecar diff stacks/t_1/web/7 stacks/t_1/web/8

      sidecar diff t_1/web@7 t_1/web@8 --bundle incident.zip

      sidecar diff --at 2h --at 1h

    """
    if bool(compared.what) == bool(compared.at) or len(compared.at or ()) not in (0, 2):
        raise UsageError("name a REF, or two; or two positions: --at 2h --at 1h")
    names, checksums = parted(compared.what or [])
    history = where.history(bundle)
    if names:
        differ = _diff_versions(history, names, checksums, json=json)
    else:
        differ = _diff_states(history, *(compared.at or ()), json=json)
    raise typer.Exit(int(differ))


def _diff_versions(history: History, names: list[str], checksums: list[str], *, json: bool) -> bool:
    store, pair = choose(history, names, checksums)
    with explained():
        blobs = [
            store.get(
                ref,
                checksum=one.checksum,
                manifest_checksum=one.manifest_checksum,
                **bounded(store),
            )
            for ref, one in pair
        ]
    compared = {
        part: compare(before, after)
        for part, before, after in zip(("data", "manifest"), *blobs, strict=True)
    }
    (_print_json if json else _print_versions)(pair, compared)
    return not all(one.same for one in compared.values())


def _print_json(pair: tuple[Chosen, Chosen], compared: dict[str, Comparison]) -> None:
    old, new = pair
    output.json_line({
        "ref": old.ref, "new_ref": new.ref, "old": old.version._asdict(),
        "new": new.version._asdict(),
        **{part: one.to_json() for part, one in compared.items()},
    })  # fmt: skip


def _print_versions(pair: tuple[Chosen, Chosen], compared: dict[str, Comparison]) -> None:
    for sign, (ref, version) in zip("-+", pair, strict=True):
        at = rfc3339(version.stored_at * 1e6)
        output.styled([(f"{sign * 3} {ref}", _STYLES[sign]), (version.checksum, ""), (at, "dim")])
    for part, one in compared.items():
        said = "identical" if one.identical else "says the same" if one.same else "differs"
        output.styled([(f"{part} ({one.kind.value})", "bold"), (said, "dim")])
        for line in one.lines:
            output.styled([(line, _STYLES.get(line[:1], ""))])


def _diff_states(history: History, old: str, new: str, *, json: bool) -> bool:
    states = [_state(history, position) for position in (old, new)]
    differ = False
    for change in changes(*states):
        differ = True
        _print_change(change, json=json)
    gaps = [gap for state in states for gap in state.gaps]
    if gaps:
        until = moment(gaps[-1].last)
        raise Incomplete(f"notifications up to {until} have expired: what only they had is missing")
    return differ


def _state(history: History, position: str) -> FleetState:
    at = parse_position(position, history.now_us(), option="--at")
    return state_at(history, at.last_us)


def _print_change(change: Change, *, json: bool) -> None:
    if json:
        output.json_line(change.to_json())
        return
    style = {"came": "green", "went": "red", "changed": "yellow"}[change.how]
    output.styled([
        (_SIGNS[change.how], style), (f"{change.what:<5}", "dim"), (change.name, "bold"),
        *((word, "") for word in _words(change)),
    ])  # fmt: skip


def _words(change: Change) -> Iterator[str]:
    if change.what == "stack":
        yield " -> ".join(f"@{one.version}" for one in (change.old, change.new) if one)
    yield " -> ".join(str(one.control_version) for one in (change.old, change.new) if one)
    if change.new:
        yield change.new.event_id
