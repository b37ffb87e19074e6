"""`sidecar emit`, the producer's side by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import store
from sidecar.wire.ids import LAST
from tests.cli.harness import HOSTILE, STREAM, TRACEPARENT, Cli


def test_emit_puts_and_then_appends_what_it_prints(sidecar: Cli, tmp_path: Path) -> None:
    """The artifact is at the source, and the printed event is the one in the stream."""
    data, manifest = tmp_path / "d", tmp_path / "m"
    data.write_bytes(b"\x00dump\xff")
    manifest.write_bytes(b'{"m": 1}')
    event = sidecar(
        "emit", "--type", "stack.activated", "--tenant", "t_1", "--stack", "web", "--version", "7",
        "--base-version", "6", "--ref", "stacks/t_1/web/7", "--data", data, "--manifest", manifest,
        "--event-id", "e1", "--traceparent", TRACEPARENT,
    ).object()  # fmt: skip
    (entry,) = sidecar.entries(STREAM)
    appended = json.loads(entry["event"])
    assert {k: v for k, v in appended.items() if v or k == "id"} == event
    assert entry["traceparent"] == TRACEPARENT
    assert event["base_version"] == 6
    source = store.open_url((sidecar.directory / "data-dir" / "source").as_uri())
    assert source.get("stacks/t_1/web/7") == (b"\x00dump\xff", b'{"m": 1}')


def test_emit_reads_data_from_standard_input(sidecar: Cli, tmp_path: Path) -> None:
    """`--data -` carries any bytes."""
    where = (tmp_path / "elsewhere").as_uri()
    args = ("--type", "actor.changed", "--ref", "r", "--data", "-", "--source-store", where)
    ran = sidecar("emit", *args, stdin=bytes(range(256)))
    assert ran.object()["checksum"] == store.checksum_of(bytes(range(256)))
    assert store.open_url(where).get("r").data == bytes(range(256))


def test_emit_without_data_touches_no_store(sidecar: Cli) -> None:
    """An event may bring no artifact; then no directory is made."""
    event = sidecar("emit", "--type", "tenant.created", "--tenant", "t").object()
    assert "artifact_ref" not in event
    assert not (sidecar.directory / "data-dir").exists()


def test_every_option_is_an_environment_variable(sidecar: Cli) -> None:
    """SIDECAR_TYPE and its like stand in for the options."""
    env = {"SIDECAR_TYPE": "tenant.created", "SIDECAR_TENANT": "t_9", "SIDECAR_STREAM": "other"}
    assert sidecar("emit", env=env).object()["tenant_id"] == "t_9"
    assert len(sidecar.entries("other")) == 1


def test_a_file_may_hold_the_secret(sidecar: Cli, tmp_path: Path) -> None:
    """SIDECAR_REDIS_FILE names a file with the URL."""
    secret = tmp_path / "url"
    secret.write_text(sidecar.url + "\n")
    env = {"SIDECAR_REDIS": "", "SIDECAR_REDIS_FILE": str(secret)}
    assert sidecar("emit", "--type", "tenant.created", env=env).code == 0
    both = sidecar("emit", "--type", "x", env={"SIDECAR_REDIS_FILE": str(secret)})
    assert both.code == 2
    assert "both set" in both.err


def test_an_unknown_type_passes_with_a_warning(sidecar: Cli) -> None:
    """A worker may allow it, so it is appended, and standard error says what may happen."""
    ran = sidecar("emit", "--type", "moon.phase")
    assert ran.code == 0
    assert "--allow-type moon.phase" in ran.err
    assert len(sidecar.entries(STREAM)) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--type", "stack.activated", "--tenant", "t"), "--stack: "),
        (("--type", "key.changed", "--event-id", HOSTILE), "--event-id: "),
        (("--type", "key.changed", "--ref", "a//b", "--data", "-"), "empty segment"),
        (("--type", "key.changed", "--data", "-"), "--data needs --ref"),
        (("--type", "key.changed", "--ref", "a"), "need --data"),
        (("--type", "key.changed", "--ref", "a", "--data", "-", "--manifest", "-"), "both"),
        (("--type", "key.changed", "--ref", "a", "--data", "/nowhere/x"), "/nowhere/x"),
        (("--type", "key.changed", "--version", "9223372036854775808"), "--version"),
        (("--type", "key.changed", "--version", "-1"), "--version"),
        (("--type", "key.changed", "--tenant", "x" * 17000), "too_large"),
        (("--type", "key.changed", "--tenant", "\udcff"), "--tenant"),
        (("--type", "key.changed", "--redis", "gopher://x"), "is no Redis URL"),
    ],
)
def test_what_cannot_be_emitted_is_refused_before_anything_is_written(
    sidecar: Cli, args: tuple[str, ...], says: str
) -> None:
    """Exit 2, one line that names the option, no entry and no traceback."""
    ran = sidecar("emit", *args)
    assert (ran.code, ran.raw) == (2, b"")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    assert ran.err.rstrip("\n").isprintable()
    assert sidecar.entries(STREAM) == []


def test_a_key_that_is_no_stream_is_refused_before_the_put(sidecar: Cli) -> None:
    """Exit 2 when the control stream's name belongs to something else."""
    sidecar.client.set(STREAM, "x")
    ran = sidecar("emit", "--type", "key.changed", "--ref", "r", "--data", "-", stdin=b"x")
    assert ran.code == 2
    assert "is a string, not a stream" in ran.err
    assert not (sidecar.directory / "data-dir").exists()


def test_an_unreachable_server_is_exit_4(sidecar: Cli) -> None:
    """Nothing listens there: the line says so and shows no password."""
    ran = sidecar("emit", "--type", "x", "--redis", "redis://:geheim@127.0.0.1:1/0")
    assert ran.code == 4
    assert "cannot be reached" in ran.err
    assert "geheim" not in ran.err


def test_without_a_server_the_embedded_one_is_looked_for(sidecar: Cli) -> None:
    """No --redis and none running under the data directory: exit 4 with the fix."""
    for command in (("emit", "--type", "x"), ("status",), ("tail",), ("resume",), ("dead", "ls")):
        ran = sidecar(*command, env={"SIDECAR_REDIS": ""})
        assert ran.code == 4
        assert "start `sidecar run`, or name a server with --redis" in ran.err


def test_emit_into_a_stream_without_room_leads_to_the_fix(sidecar: Cli) -> None:
    """Where somebody gave the highest ID, `status` is named, which names the fix."""
    sidecar.client.xadd(STREAM, {"event": "x"}, id=LAST)
    ran = sidecar("emit", "--type", "tenant.created", "--tenant", "t")
    assert (ran.code, "`sidecar status` names the fix" in ran.err) == (1, True)
    assert f"sidecar stream remake {STREAM}" in sidecar("status").out
