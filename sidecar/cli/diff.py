"""`sidecar diff`: two versions of a ref, two refs, or the fleet at two positions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    FleetStore,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)
from sidecar.cli.review import Bundle
from sidecar.errors import Incomplete, UsageError

if TYPE_CHECKING:
    from sidecar.history import History
    from sidecar.history.state import FleetState
    from sidecar.replay.changes import Change
    from sidecar.replay.compare import Comparison
    from store import Version, VersionedStore

_CHECKSUM: Final = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")
_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}
_SIGNS: Final = {"came": "+", "went": "-", "changed": "~"}


def diff(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REF|CHECKSUM",
            help="REF [REF] [OLD] [NEW]: one artifact_ref, or two; TENANT/STACK@VERSION stands for"
            " one, too. Then checksums of the data, or their first digits. Default: of one ref the"
            " newest version and the one before it, of two the newest of each.",
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="POSITION",
            help="Twice: compare the fleet at these, instead of versions. A control_version, an RFC"
            " 3339 time, or so long ago (2h).",
        ),
    ] = None,
    *,
    json: Json = False,
    bundle: Bundle = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    fleet_store: FleetStore = None,
) -> None:
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
    from sidecar.cli.histories import open_history

    if bool(what) == bool(at) or len(at or ()) not in (0, 2):
        raise UsageError("name a REF, or two; or two positions: --at 2h --at 1h")
    names, checksums = _parted(what or [])
    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    if names:
        differ = _diff_versions(history, names, checksums, json=json)
    else:
        differ = _diff_states(history, *(at or ()), json=json)
    raise typer.Exit(int(differ))


# --- versions ------------------------------------------------------------------------------------


class _Chosen(NamedTuple):
    """A version, and the ref that it is of."""

    ref: str
    version: Version


class _Named(NamedTuple):
    """What names a version of a ref: its checksums, or their beginning; empty is the newest."""

    ref: str
    checksum: str = ""
    manifest_checksum: str = ""


def _parted(what: list[str]) -> tuple[list[str], list[str]]:
    """Part one or two names of artifacts from the checksums. Raises `UsageError`."""
    names = what[:1] + [one for one in what[1:2] if "/" in one or "@" in one]
    checksums = what[len(names) :]
    if checksums[2:]:
        raise UsageError("name at most two checksums: OLD and NEW")
    return names, checksums


def _diff_versions(history: History, names: list[str], checksums: list[str], *, json: bool) -> bool:
    from sidecar.cli import output
    from sidecar.replay.compare import compare
    from sidecar.stores import explained
    from store import Capability

    store = history.store
    if store is None:
        raise UsageError("there is no store to look into; name one with --fleet-store")
    if Capability.LIST not in store.capabilities:
        raise UsageError(f"the store {store.name} lists no versions; choose one that declares list")
    with explained():
        pair = _chosen(store, [_named(history, store, name) for name in names], checksums)
        blobs = [
            store.get(ref, checksum=one.checksum, manifest_checksum=one.manifest_checksum)
            for ref, one in pair
        ]
    compared = {
        part: compare(before, after)
        for part, before, after in zip(("data", "manifest"), *blobs, strict=True)
    }
    if json:
        old, new = pair
        output.json_line({
            "ref": old.ref, "new_ref": new.ref, "old": old.version._asdict(),
            "new": new.version._asdict(),
            **{part: _comparison(one) for part, one in compared.items()},
        })  # fmt: skip
    else:
        _print_versions(pair, compared)
    return not all(one.same for one in compared.values())


def _named(history: History, store: VersionedStore, name: str) -> _Named:
    """Return what `name` names: a ref, if there is one, or else the artifact of a stack's version.

    Raises `Incomplete`.
    """
    from sidecar.replay.trace import artifact_of_stack

    if "@" not in name or store.exists(name):
        return _Named(name)
    event = artifact_of_stack(history, name)
    if event is None:
        raise Incomplete(
            f"there is no ref {name!r}, and no notification of such a stack and version in"
            f" {history.describe()}; `sidecar trace {name}` tells whether it died"
        )
    return _Named(event.artifact_ref, event.checksum, event.manifest_checksum)


def _chosen(
    store: VersionedStore, named: list[_Named], checksums: list[str]
) -> tuple[_Chosen, _Chosen]:
    """Return the two versions. Raises `Incomplete` and `UsageError`."""
    old, new = [*checksums, "", ""][:2]
    first, last = named[0], named[-1]
    last = _Named(last.ref, new) if new else last
    newest = _version(_versions(store, last.ref), last)
    if old or named[1:]:
        first = _Named(first.ref, old) if old else first
        return _version(_versions(store, first.ref), first), newest
    return _before(_versions(store, last.ref), newest), newest


def _before(versions: list[Version], newest: _Chosen) -> _Chosen:
    earlier = versions[versions.index(newest.version) + 1 :]
    if earlier:
        return _Chosen(newest.ref, earlier[0])
    words = (
        f"{newest.ref!r} has no version before {newest.version.checksum}: there never was one, or"
        " it has been collected"
    )
    if not versions[1:]:
        words += (
            ". It is the only one there; where each version has a ref of its own, name two:"
            f" `sidecar diff OTHER_REF {newest.ref}`"
        )
    raise Incomplete(words)


def _versions(store: VersionedStore, ref: str) -> list[Version]:
    from store import NotFound

    try:
        return list(store.versions(ref))
    except NotFound as error:
        raise Incomplete(f"there is nothing at {ref!r} in the store") from error


def _version(versions: list[Version], named: _Named) -> _Chosen:
    ref, prefix, manifest = named
    match = _CHECKSUM.fullmatch(prefix)
    if prefix and not match:
        raise UsageError(
            f"{prefix!r} is no checksum: sha256: and its first digits, four at least; nor is it a"
            " second ref, which has a /"
        )
    wanted = f"sha256:{match[1]}" if match else ""
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
    return _Chosen(ref, found[0])


def _comparison(one: Comparison) -> dict[str, Any]:
    came, went = one.counts()
    return {
        "kind": one.kind.value, "same": one.same, "identical": one.identical, "came": came,
        "went": went, "lines": one.lines,
    }  # fmt: skip


def _print_versions(pair: tuple[_Chosen, _Chosen], compared: dict[str, Comparison]) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339

    for sign, (ref, version) in zip("-+", pair, strict=True):
        at = rfc3339(version.stored_at * 1e6)
        output.styled([(f"{sign * 3} {ref}", _STYLES[sign]), (version.checksum, ""), (at, "dim")])
    for part, one in compared.items():
        said = "identical" if one.identical else "says the same" if one.same else "differs"
        output.styled([(f"{part} ({one.kind.value})", "bold"), (said, "dim")])
        for line in one.lines:
            output.styled([(line, _STYLES.get(line[:1], ""))])


# --- states --------------------------------------------------------------------------------------


def _diff_states(history: History, old: str, new: str, *, json: bool) -> bool:
    from sidecar.replay.changes import changes

    states = [_state(history, position) for position in (old, new)]
    differ = False
    for change in changes(*states):
        differ = True
        _print_change(change, json=json)
    gaps = [gap for state in states for gap in state.gaps]
    if gaps:
        from sidecar.cli.review import moment

        until = moment(gaps[-1].last)
        raise Incomplete(f"notifications up to {until} have expired: what only they told lacks")
    return differ


def _state(history: History, position: str) -> FleetState:
    from sidecar.history.state import state_at
    from sidecar.moments import parse_since

    begin = parse_since(position, history.now_us(), option="--at")
    return state_at(history, begin.control_version + begin.is_time)


def _print_change(change: Change, *, json: bool) -> None:
    from sidecar.cli import output

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
