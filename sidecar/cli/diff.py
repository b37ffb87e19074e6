"""`sidecar diff`: two versions of a ref, or the fleet at two positions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

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
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="The artifact_ref whose versions it is.")
    ] = None,
    old: Annotated[
        str | None,
        typer.Argument(
            metavar="OLD",
            help="Checksum of the data, or its first digits. Default: the version before NEW.",
        ),
    ] = None,
    new: Annotated[
        str | None, typer.Argument(metavar="NEW", help="The same. Default: the newest version.")
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
    """Show how two versions of a ref differ, or the fleet at two positions.

    Data and manifest are compared as what they are: JSON whatever the order of keys, SQL dumps
    whatever the order of the rows that are inserted into one table in turn, other text by lines,
    and all else, or what is large, by size and digest.

    Exit codes: 0 the same, 1 different, 3 a version is not there, or what was before a position
    has expired.

    Examples:
      sidecar diff stacks/t_1/web

      sidecar diff rows/tenants/t_1 3da8e08a 8c7e6c89

      sidecar diff --at 2h --at 1h

    """
    from sidecar.cli.histories import open_history

    if bool(ref) == bool(at) or len(at or ()) not in (0, 2):
        raise UsageError("name a REF, or two positions: --at 2h --at 1h")
    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    if ref:
        differ = _diff_versions(history, ref, old, new, json=json)
    else:
        differ = _diff_states(history, *(at or ()), json=json)
    raise typer.Exit(int(differ))


# --- versions ------------------------------------------------------------------------------------


def _diff_versions(
    history: History, ref: str, old: str | None, new: str | None, *, json: bool
) -> bool:
    from sidecar.cli import output
    from sidecar.replay.compare import compare
    from sidecar.stores import explained

    store = history.store
    if store is None:
        raise UsageError("there is no store to look into; name one with --fleet-store")
    with explained():
        pair = _chosen(store, ref, old, new)
        blobs = [
            store.get(ref, checksum=one.checksum, manifest_checksum=one.manifest_checksum)
            for one in pair
        ]
    compared = {
        part: compare(before, after)
        for part, before, after in zip(("data", "manifest"), *blobs, strict=True)
    }
    if json:
        output.json_line({
            "ref": ref, "old": pair[0]._asdict(), "new": pair[1]._asdict(),
            **{part: _comparison(one) for part, one in compared.items()},
        })  # fmt: skip
    else:
        _print_versions(ref, pair, compared)
    return not all(one.same for one in compared.values())


def _chosen(
    store: VersionedStore, ref: str, old: str | None, new: str | None
) -> tuple[Version, Version]:
    """Return the two versions. Raises `Incomplete` and `UsageError`."""
    from store import Capability, NotFound

    if Capability.LIST not in store.capabilities:
        raise UsageError(f"the store {store.name} lists no versions; choose one that declares list")
    try:
        versions = list(store.versions(ref))
    except NotFound as error:
        raise Incomplete(f"there is nothing at {ref!r} in the store") from error
    newest = _version(versions, ref, new) if new else versions[0]
    if old:
        return _version(versions, ref, old), newest
    earlier = versions[versions.index(newest) + 1 :]
    if not earlier:
        raise Incomplete(
            f"{ref!r} has no version before {newest.checksum}: there never was one, or it has been"
            " collected"
        )
    return earlier[0], newest


def _version(versions: list[Version], ref: str, prefix: str) -> Version:
    match = _CHECKSUM.fullmatch(prefix)
    if not match:
        raise UsageError(f"{prefix!r} is no checksum: sha256: and its first digits, four at least")
    found = [one for one in versions if one.checksum.startswith("sha256:" + match[1])]
    if not found:
        raise Incomplete(
            f"{ref!r} has no version {prefix}: it was never put, or has been collected;"
            " `sidecar store versions` lists those that are there"
        )
    if len({one.checksum for one in found}) > 1:
        raise UsageError(f"{prefix!r} is the beginning of several versions; write more digits")
    return found[0]


def _comparison(one: Comparison) -> dict[str, Any]:
    came, went = one.counts()
    return {
        "kind": one.kind.value, "same": one.same, "identical": one.identical, "came": came,
        "went": went, "lines": one.lines,
    }  # fmt: skip


def _print_versions(
    ref: str, pair: tuple[Version, Version], compared: dict[str, Comparison]
) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339

    for sign, version in zip("-+", pair, strict=True):
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
