"""`sidecar store gc`: what nobody needs goes, and what any event names stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

import store
from sidecar.wire.logbook import registered
from store import checksum_of
from tests import servers
from tests.cli.harness import DEAD, NOTIFICATIONS, STREAM, Cli, on_terminal

NOW = ("--grace", "0", "--allow-short-grace")
FENCE = "{control:notifications}:fence:control:events"


def _fleet(sidecar: Cli) -> store.VersionedStore:
    found = store.versioned(
        store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri()),
        store.Capability.PINNED_GET,
    )
    assert found
    return found


def _put(sidecar: Cli, ref: str, *datas: bytes, manifest: bytes = b"") -> None:
    fleet = _fleet(sidecar)
    for data in datas:
        fleet.put(ref, data, manifest)


def _event(ref: str, data: bytes, **more: Any) -> dict[str, Any]:
    body = {
        "id": 0, "event_id": f"{ref}/{data.decode()}", "type": "key.changed", "artifact_ref": ref,
        "checksum": checksum_of(data), **more,
    }  # fmt: skip
    return {name: value for name, value in body.items() if value is not None}


def _append(sidecar: Cli, stream: str, event: dict[str, Any] | bytes, **fields: str) -> None:
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    entry: dict[Any, Any] = {"event": raw, **fields}
    sidecar.client.xadd(stream, entry)


def _notify(sidecar: Cli, ref: str, data: bytes, stream: str = NOTIFICATIONS) -> None:
    _append(sidecar, stream, _event(ref, data), origin=f"{STREAM}/1-1")


def _left(sidecar: Cli, ref: str = "r") -> set[bytes]:
    fleet = _fleet(sidecar)
    return {fleet.get(ref, checksum=one.checksum).data for one in fleet.versions(ref)}


@pytest.fixture
def known(sidecar: Cli) -> Cli:
    """A deployment whose one notification names an artifact of its fleet's store."""
    _put(sidecar, "known", b"k")
    _notify(sidecar, "known", b"k")
    return sidecar


def test_versions_that_nothing_names_go(known: Cli) -> None:
    """Old ones that no event names; the current one and the one of a notification stay."""
    _put(known, "r", b"one", b"two", b"three")
    _notify(known, "r", b"two")
    ran = known("store", "gc", *NOW)
    assert ran.code == 0, ran.err
    assert _left(known) == {b"two", b"three"}
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        ["REMOVED", "PIECES"], ["versions", "1"], ["objects", "0"], ["leftovers", "0"],
        ["in", "all"],
    ]  # fmt: skip


def test_json_is_a_line_for_each_piece_and_a_summary(known: Cli) -> None:
    """Large data goes as an object of its own; a dry run tells the same, and removes nothing."""
    large = b"x" * 200_000
    _put(known, "r", large, b"small")
    dry = known("store", "gc", *NOW, "--dry-run", "--json").objects()
    assert _left(known) == {large, b"small"}
    *pieces, summary = known("store", "gc", *NOW, "--json").objects()
    assert dry[:-1] == pieces
    assert [(piece["kind"], piece["ref"]) for piece in pieces] == [
        ("version", "r"),
        ("object", None),
    ]
    assert pieces[1]["size_bytes"] == len(large)
    assert summary == {"summary": {
        "versions": 1, "objects": 1, "leftovers": 0, "dry_run": False, "complete": True,
        "size_bytes": sum(piece["size_bytes"] for piece in pieces),
    }}  # fmt: skip
    assert dry[-1] == {"summary": {**summary["summary"], "dry_run": True}}
    assert _left(known) == {b"small"}


@pytest.mark.parametrize(
    ("args", "left"),
    [
        ((), {b"3"}),
        (("--keep-last", "2"), {b"2", b"3"}),
        (("--keep-newer", "1h"), {b"1", b"2", b"3"}),
        (("--grace", "1h"), {b"1", b"2", b"3"}),
    ],
)
def test_retention_is_what_the_options_say(
    known: Cli, args: tuple[str, ...], left: set[bytes]
) -> None:
    """Kept are so many newest, those of so long ago, and those in use within the grace."""
    _put(known, "r", b"1", b"2", b"3")
    assert known("store", "gc", *NOW, *args).code == 0
    assert _left(known) == left


@pytest.mark.parametrize("stream", [STREAM, "eu:events", DEAD, "letters", "{n}:dead", "n", "{x}y"])
def test_every_stream_pins(known: Cli, stream: str) -> None:
    """Control, dead-letter and notification streams, found by themselves."""
    _put(known, "r", b"named", b"garbage", b"now")
    fields: dict[str, str] = {} if stream.endswith("events") else {"origin": f"{STREAM}/1-1"}
    if stream in (DEAD, "letters", "{n}:dead"):
        fields["reason"] = "artifact_missing"
    _append(known, stream, _event("r", b"named"), **fields)
    if stream == "eu:events":
        known.client.xgroup_create(stream, f"sidecar:{NOTIFICATIONS}", "$")
    assert known("store", "gc", *NOW).code == 0
    assert _left(known) == {b"named", b"now"}


@pytest.mark.parametrize("way", ["group", "fence", "dead"])
def test_a_notification_stream_is_found_by_what_a_worker_left(known: Cli, way: str) -> None:
    """By the group on a control stream or the fence, though its oldest entry tells nothing."""
    _put(known, "r", b"named", b"garbage", b"now")
    named = "{eu}:n"
    known.client.xadd(f"{named}:dead" if way == "dead" else named, {"odd": "entry"})
    known.client.xadd(named, {"odd": "entry"})
    _notify(known, "r", b"named", f"{named}:dead" if way == "dead" else named)
    if way == "fence":
        known.client.xadd("eu", {"event": "not JSON"})
        known.client.set(f"{named}:fence:eu", "token")
    else:
        known.client.xgroup_create("eu", f"sidecar:{named}", "$", mkstream=True)
    assert known("store", "gc", *NOW).code == 0
    assert _left(known) == {b"named", b"now"}


def test_named_streams_are_read_too(known: Cli) -> None:
    """A control and a dead-letter stream that nothing gives away, by --stream and --dead-stream."""
    _put(known, "r", b"control", b"dead", b"notified", b"garbage", b"now")
    for stream, data in (("c", b"control"), ("d", b"dead"), ("n", b"notified")):
        known.client.xadd(stream, {"odd": "entry"})
        _append(known, stream, _event("r", data))
    options = ("--stream", "c", "--dead-stream", "d", "--keep-from-stream", "n")
    assert known("store", "gc", *NOW, *options).code == 0
    assert _left(known) == {b"control", b"dead", b"notified", b"now"}


def test_manifests_are_pinned_only_when_named(known: Cli) -> None:
    """With manifest_checksum exactly that pair stays; without, every version with that data."""
    for ref in ("exact", "any"):
        for manifest in (b"m1", b"m2"):
            _put(known, ref, b"d", manifest=manifest)
        _put(known, ref, b"now")
    pair = _event("exact", b"d", manifest_checksum=checksum_of(b"m1"))
    for event in (pair, _event("any", b"d")):
        _append(known, STREAM, event)
    assert known("store", "gc", *NOW).code == 0
    fleet = _fleet(known)
    manifests = {
        ref: {one.manifest_checksum for one in fleet.versions(ref) if not one.current}
        for ref in ("exact", "any")
    }
    assert manifests == {
        "exact": {checksum_of(b"m1")}, "any": {checksum_of(b"m1"), checksum_of(b"m2")},
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(_event("r", b"named", version="not a number", Type="x")).encode(),
        json.dumps({"artifacts": [{"ours": _event("r", b"named")}]}).encode(),
        json.dumps(_event("r", b"named", event_id=None, type=None)).encode(),
        json.dumps(_event("r", b"named", why="\xff")).encode().replace(b"\\u00ff", b"\xff"),
        json.dumps(_event("r", b"named", manifest_checksum="md5:0")).encode(),
    ],
)
def test_what_a_newer_version_might_do_is_kept(known: Cli, raw: bytes) -> None:
    """An event that breaks a rule of today, or names artifacts elsewhere, still pins them."""
    _put(known, "r", b"named", b"garbage", b"now")
    _append(known, STREAM, raw)
    assert known("store", "gc", *NOW).code == 0
    assert _left(known) == {b"named", b"now"}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[" * 16000, b"\xff", b'"artifact_ref"', b"null", b'{"artifact_ref": "r"}',
        json.dumps(_event("r//r", b"named")).encode(),
        json.dumps(_event("r", b"named", checksum=[1])).encode(),
        json.dumps(_event("r", b"named", checksum="sha256:0")).encode(),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_names_nothing(known: Cli, raw: bytes) -> None:
    """Any bytes may stand in a control stream; they stop nothing."""
    _put(known, "r", b"named", b"now")
    _append(known, STREAM, raw)
    ran = known("store", "gc", *NOW)
    assert ran.code == 0, ran.err
    assert _left(known) == {b"now"}


def test_a_redis_without_notifications_is_refused(sidecar: Cli) -> None:
    """Exit 2 and nothing removed, unless --without-stream says that no log names the store."""
    _put(sidecar, "r", b"old", b"now")
    for _ in range(2):
        ran = sidecar("store", "gc", *NOW)
        assert (ran.code, ran.raw) == (2, b"")
        assert "--without-stream" in ran.err
        sidecar.client.xadd("foreign", {"a": "b"})
    assert _left(sidecar) == {b"old", b"now"}
    assert sidecar("store", "gc", *NOW, "--without-stream").code == 0
    assert _left(sidecar) == {b"now"}


def test_without_stream_asks_no_redis(sidecar: Cli) -> None:
    """It works while there is none."""
    _put(sidecar, "r", b"old", b"now")
    env = {"SIDECAR_REDIS": f"redis://127.0.0.1:{servers.free_port()}"}
    assert sidecar("store", "gc", *NOW, "--without-stream", env=env).code == 0
    assert _left(sidecar) == {b"now"}


def test_another_fleets_redis_is_refused(sidecar: Cli) -> None:
    """One whose events name nothing that this store has: exit 2, and nothing is removed."""
    _put(sidecar, "r", b"old", b"now")
    _notify(sidecar, "r", b"theirs")
    ran = sidecar("store", "gc", *NOW)
    assert ran.code == 2
    assert "is that its fleet's Redis" in ran.err
    assert _left(sidecar) == {b"old", b"now"}


@pytest.mark.parametrize("side", ["--redis", "--notify-redis"])
def test_the_wrong_one_of_two_servers_is_refused(known: Cli, side: str) -> None:
    """A worker's group or fence tells that the other half is elsewhere: exit 2, nothing removed."""
    _put(known, "r", b"old", b"now")
    if side == "--redis":  # only the notifications' half is there
        known.client.set(FENCE, "token")
    else:
        known.client.xgroup_create(STREAM, "sidecar:elsewhere", "$", mkstream=True)
    ran = known("store", "gc", *NOW)
    assert (ran.code, ran.raw) == (2, b"")
    assert f"is {side} right?" in ran.err
    assert _left(known) == {b"old", b"now"}


def test_a_worker_that_has_published_nothing_yet_is_no_wrong_server(known: Cli) -> None:
    """Its fence is there, its notification stream not yet."""
    known.client.xgroup_create("eu", "sidecar:eu:n", "$", mkstream=True)
    known.client.set("{eu:n}:fence:eu", "token")
    assert known("store", "gc", *NOW).code == 0


@pytest.mark.parametrize(
    "args",
    [
        ("--keep-from-stream", "nowhere"),
        ("--stream", "nowhere"),
        ("--keep-from-stream", "string"),
        ("--dead-stream", "string"),
        ("--keep-from-stream", NOTIFICATIONS, "--without-stream"),
        ("--grace", "59s"),
        ("--grace", "soon"),
        ("--keep-newer", "-1"),
        ("--redis", "nonsense"),
        ("--store", "nonsense"),
    ],
)
def test_wrong_use_is_exit_2(known: Cli, args: tuple[str, ...]) -> None:
    """One line that says how to fix it, and nothing is removed."""
    _put(known, "r", b"old", b"now")
    known.client.set("string", "x")
    short = () if "--grace" in args else NOW
    ran = known("store", "gc", *short, *args)
    assert (ran.code, ran.raw) == (2, b""), ran.err
    assert len(ran.err.splitlines()) == 1
    assert _left(known) == {b"old", b"now"}


def test_a_redis_that_is_away_is_exit_4(known: Cli) -> None:
    """Nothing is removed; an embedded server that does not run is away, too."""
    _put(known, "r", b"old", b"now")
    port = servers.free_port()
    for env in ({"SIDECAR_REDIS": f"redis://127.0.0.1:{port}"}, {"SIDECAR_REDIS": ""}):
        ran = known("store", "gc", *NOW, env=env)
        assert (ran.code, ran.raw) == (4, b"")
    assert _left(known) == {b"old", b"now"}


def test_progress_is_shown_on_a_terminal(known: Cli) -> None:
    """There it tells how much; a pipe sees none of it."""
    _put(known, "r", b"old", b"now")
    code, shown = on_terminal(known, "store", "gc", *NOW, stream="stderr")
    assert code == 0
    assert "removed 1 pieces" in shown
    assert known("store", "gc", *NOW).err == ""


def test_a_reader_that_leaves_ends_it(known: Cli) -> None:
    """`| head` is told that not all was done: exit 3."""
    long = "/".join(["r" * 200] * 4)  # 1.2 KB a line, so that 150 do not fit into the pipe
    _put(known, long, *(b"%d" % i for i in range(150)))
    ran = known.shell(f"sidecar store gc {' '.join(NOW)} --json | head -1")
    assert (ran.code, ran.err) == (3, "")


# --- several logs that name one store ------------------------------------------------------------


@pytest.fixture
def shared(known: Cli) -> Iterator[tuple[Cli, str]]:
    """Return a store into which a second log publishes as well, and that log's server."""
    with servers.running(servers.usual()) as server, redis.Redis.from_url(server.url) as client:
        other = replace(known, url=server.url, client=client)
        for one, event_id, data in ((known, "e1", b"one"), (other, "e2", b"two")):
            one.bring(event_id, event_id, data)
            one.work()
        _put(known, "e2", b"newer")
        yield known, server.url


def test_a_log_that_was_not_asked(shared: tuple[Cli, str]) -> None:
    """Nothing is removed until its server is named, too; then what it names stays."""
    sidecar, other = shared
    for more in ((), ("--without-stream",)):
        ran = sidecar("store", "gc", *NOW, *more)
        assert (ran.code, ran.raw) == (2, b"")
        assert "was not asked" in ran.err
    assert sidecar("store", "exists", "e2", "--checksum", checksum_of(b"two")).code == 0
    servers_ = ("--notify-redis", sidecar.url, "--notify-redis", other)
    assert sidecar("store", "gc", *NOW, *servers_).code == 0
    assert sidecar("store", "exists", "e2", "--checksum", checksum_of(b"two")).code == 0


def test_a_fleet_that_only_reads_from_the_store(known: Cli) -> None:
    """Of a source store of two fleets nothing is removed until both are asked what is unread."""
    source = ("--store", (known.directory / "data-dir" / "source").as_uri())
    with servers.running(servers.usual()) as server, redis.Redis.from_url(server.url) as client:
        other = replace(known, url=server.url, client=client)
        for one, fleet in ((known, "fleet"), (other, "their-fleet")):
            one.bring(f"done-{fleet}", "done", b"done")
            one.work(fleet_store=(known.directory / "data-dir" / fleet).as_uri())
        other.bring("unread", "row", b"old")
        known.bring("read", "row", b"new")
        known.work()
        ran = known("store", "gc", *NOW, *source)
        assert (ran.code, ran.raw) == (2, b"")
        assert "was not asked" in ran.err
        servers_ = ("--notify-redis", known.url, "--notify-redis", server.url)
        assert known("store", "gc", *NOW, *source, *servers_).code == 0
    pinned = ("row", "--checksum", checksum_of(b"old"))
    assert known("store", "exists", *pinned, *source).code == 0


def test_a_log_that_is_forgotten(shared: tuple[Cli, str]) -> None:
    """One that is gone for good is forgotten by its id, with a reason that is kept."""
    sidecar, other = shared
    with redis.Redis.from_url(other) as client:
        log = client.hget("{control:notifications}:fleet", "log")
    assert isinstance(log, bytes)
    forget = ("--forget", log.decode())
    assert sidecar("store", "gc", *NOW, *forget).code == 2
    assert sidecar("store", "gc", *NOW, "--forget", "x", "--reason", "gone").code == 2
    because = (*forget, "--reason", "that fleet is gone")
    assert sidecar("store", "gc", *NOW, *because, "--dry-run").code == 0
    assert sidecar("store", "gc", *NOW).code == 2
    assert sidecar("store", "gc", *NOW, *because).code == 0
    assert sidecar("store", "gc", *NOW).code == 0
    (record,) = [one.forgotten for one in registered(_fleet(sidecar)) if one.forgotten]
    assert record.reason == "that fleet is gone"
    assert sidecar("store", "exists", "e2", "--checksum", checksum_of(b"two")).code == 1


def test_a_copy_knows_the_logs_of_its_original(known: Cli) -> None:
    """Copied as a directory a store is the same one: its gc asks the same logs, or refuses."""
    known.bring("e1", "e1", b"one")
    known.work()
    _put(known, "e1", b"newer")
    fleet, copy = known.directory / "data-dir" / "fleet", known.directory / "copy"
    shutil.copytree(fleet, copy)
    assert (copy / "IDENTITY").read_bytes() == (fleet / "IDENTITY").read_bytes()
    there = ("--store", copy.as_uri())
    assert known("store", "gc", *NOW, *there, "--without-stream").code == 2
    assert known("store", "gc", *NOW, *there).code == 0
    pinned = ("e1", "--checksum", checksum_of(b"one"))
    assert known("store", "exists", *pinned, *there).code == 0
    log = registered(_fleet(known))[0].id
    forget = ("--forget", log, "--reason", "a copy for a lab")
    assert known("store", "gc", *NOW, *there, "--without-stream", *forget).code == 0
    assert known("store", "exists", *pinned, *there).code == 1
    assert known("store", "exists", *pinned).code == 0
