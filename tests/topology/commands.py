"""All commands that take --redis, one after the other, on whatever the URL leads to."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from tests.cli.harness import Cli

STREAMS = ("control:events", "eu:events")
BOTH = ("--stream", STREAMS[0], "--stream", STREAMS[1])


def do_all(url: str, directory: Path) -> None:
    """Emit to two streams, relay, and look at what came of it with every command."""
    sidecar = Cli(url, directory, mock.Mock())
    for stream in STREAMS:
        sidecar.bring(f"old in {stream}", stream, b"old", "--stream", stream)
        sidecar.bring(f"new in {stream}", stream, b"new", "--stream", stream)
    strange = sidecar("emit", "--type", "strange", "--event-id", "strange", "--stream", STREAMS[1])
    assert strange.code == 0, strange.err
    assert sidecar("pause", *BOTH, "--reason", "look").code == 0
    assert sidecar("resume", *BOTH).code == 0
    sidecar.drain(*BOTH)

    told = sidecar("tail", "--json", "--resolve")
    assert {one["event_id"] for one in told.objects()} == {
        f"{age} in {stream}" for age in ("old", "new") for stream in STREAMS
    }
    status = sidecar("status", *BOTH, "--json").object()
    assert [stream["length"] for stream in status["streams"]] == [2, 3]
    assert status["dead"]["by_reason"] == {"unknown_type": 1}
    audited = sidecar("audit", *BOTH, "--json")
    assert (audited.code, audited.object()["summary"]["notifications"]) == (0, 4), audited.err

    assert sidecar("audit", *BOTH, "--repair", "--dry-run").code == 0

    letter = sidecar("dead", "ls", "--each", "--json").object()
    assert sidecar("dead", "show", letter["id"]).code == 0
    again = ("dead", "redrive", *BOTH, "--all", "--force", "--reason", "known by now")
    assert sidecar(*again).code == 0
    sidecar.drain(*BOTH, "--allow-type", "strange")
    assert len(sidecar("tail", "--json").objects()) == 5
    for version in (b"pinned by nobody else", b"newest"):
        sidecar.bring(f"waiting {version!r}", "waiting", version, "--stream", STREAMS[1])
    source = (directory / "data-dir" / "source").as_uri()
    for store in ((), ("--store", source)):
        collected = sidecar("store", "gc", *store, "--grace", "0", "--allow-short-grace")
        assert collected.code == 0, collected.err
    sidecar.drain(*BOTH)
    assert len(sidecar("tail", "--json").objects()) == 7, "what an event pins is kept"
    assert sidecar("tail", "--resolve").code == 0, "what a notification pins is kept"
