"""The fleet store's identity, as commands tell it; and servers without named stores."""

from __future__ import annotations

import pytest

import store
from sidecar.stores import open_store
from store import checksum_of
from tests.cli.harness import Cli

NO_STORES = {"SIDECAR_SOURCE_STORE": "", "SIDECAR_FLEET_STORE": ""}


def _identity(sidecar: Cli) -> str:
    return (sidecar.directory / "data-dir" / "fleet" / "IDENTITY").read_text().strip()


def _other(sidecar: Cli) -> dict[str, str]:
    url = (sidecar.directory / "other").as_uri()
    store.open_url(url)  # who only reads makes none
    return {"SIDECAR_FLEET_STORE": url}


@pytest.fixture
def published(sidecar: Cli) -> Cli:
    """Return a deployment with one event published."""
    sidecar.bring("e1", "keys/1", b"k")
    sidecar.work()
    return sidecar


def test_status_tells_the_fleet_store(published: Cli) -> None:
    """The identity that the notifications name, and where that store was."""
    told = published("status", "--json").object()["fleet"]
    assert told["store"] == _identity(published)
    assert told["store"] in published("status").out


def test_audit_refuses_another_store(published: Cli) -> None:
    """It says both stores, in place of calling everything lost."""
    ran = published("audit", env=_other(published))
    assert (ran.code, ran.out) == (2, "")
    assert _identity(published) in ran.err
    assert published("audit").code == 0


def test_trace_tells_another_store(published: Cli) -> None:
    """What it shows of the wrong store comes with a warning that says so."""
    assert "another store" in published("trace", "e1", env=_other(published)).err
    assert "another store" not in published("trace", "e1").err


def test_a_worker_with_another_store_is_refused(published: Cli) -> None:
    """Exit 2 with both identities; --adopt-fleet-store is for a move."""
    other = _other(published)
    ran = published("run", "--drain", env=other)
    assert ran.code == 2
    assert _identity(published) in ran.err
    assert "--adopt-fleet-store" in ran.err
    assert published("run", "--drain", "--adopt-fleet-store", env=other).code == 0
    assert published("run", "--drain").code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--drain"),
        ("emit", "--type", "key.changed", "--tenant", "t", "--ref", "r", "--data", "/dev/null"),
        ("audit",),
        ("store", "gc"),
        ("tail", "--resolve"),
    ],
)
def test_a_server_without_stores_is_refused(sidecar: Cli, command: tuple[str, ...]) -> None:
    """No command makes a store under the data directory beside a server that was named."""
    ran = sidecar(*command, env=NO_STORES)
    assert (ran.code, ran.out) == (2, "")
    assert "-store" in ran.err
    assert not (sidecar.directory / "data-dir").exists()


def _letter(sidecar: Cli) -> str:
    event = {"event_id": "e0", "type": "key.changed", "artifact_ref": "keys/1"}
    return sidecar.letter(event | {"checksum": checksum_of(b"k")}, "1790000000000-0")


READERS = (
    ("tail", "--resolve", "--fleet-store"),
    ("audit", "--fleet-store"),
    ("audit", "--repair", "--reason", "why", "--source-store"),
    ("trace", "e1", "--fleet-store"),
    ("diff", "keys/1", "keys/1", "--fleet-store"),
    ("archive", "--fleet-store"),
    ("dead", "show", "LETTER", "--source-store"),
    ("dead", "redrive", "--all", "--reason", "why", "--source-store"),
    ("replay", "show", "--fleet-store"),
    ("replay", "at", "now", "--fleet-store"),
    ("replay", "export", "FILE", "--fleet-store"),
    ("replay", "report", "FILE", "--fleet-store"),
    ("replay", "run", "--to-redis", "REDIS", "--fleet-store"),
    ("replay", "check", "--fleet-store"),
    ("store", "get", "keys/1", "--store"),
    ("store", "exists", "keys/1", "--store"),
    ("store", "ls", "--store"),
    ("store", "versions", "keys/1", "--store"),
    ("store", "verify", "--store"),
    ("store", "gc", "--store"),
    ("store", "gc", "--without-stream", "--store"),
)


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_reader_makes_no_store(published: Cli, command: tuple[str, ...]) -> None:
    """A store that is named and is not there is refused, with its path, and still not there."""
    words = {
        "LETTER": _letter(published),
        "FILE": str(published.directory / "written"),
        "REDIS": published.url,
    }
    typo = published.directory / "typo"
    ran = published(*(words.get(word, word) for word in command), typo.as_uri())
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert f"there is no store at {typo}" in ran.err
    assert not typo.exists()


@pytest.mark.parametrize("command", ["show", "redrive"])
def test_a_store_that_was_not_needed_is_not_made(published: Cli, command: str) -> None:
    """The archive is opened only to look at what was trimmed; else nothing is, nor made."""
    typo = published.directory / "typo"
    more = ("--reason", "why") if command == "redrive" else ()
    published("dead", command, _letter(published), "--fleet-store", typo.as_uri(), *more)
    assert not typo.exists()


def test_a_store_that_is_not_there_is_not_made_once_one_is_noted(published: Cli) -> None:
    """A mistyped --fleet-store, or one that is not mounted, leaves nothing behind."""
    missing = published.directory / "flet"
    ran = published("run", "--drain", "--fleet-store", missing.as_uri())
    assert (ran.code, "is it mounted?" in ran.err) == (2, True)
    assert _identity(published) in ran.err
    assert not missing.exists()


@pytest.mark.parametrize("which", ["source", "fleet"])
def test_a_store_that_another_worker_made_since_the_first_look_is_taken(
    sidecar: Cli, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Two workers begin at once: one finds no store, and then what the other noted of its own."""
    others = iter([("run", "--drain")])

    def look_before_another(url: str, *, create: bool = True) -> store.Store:
        try:
            return open_store(url, create=create)
        finally:
            for other in others if url.endswith(which) else ():
                assert sidecar.process(*other).code == 0

    monkeypatch.setattr("sidecar.worker.wiring.open_store", look_before_another)
    ran = sidecar("run", "--drain")
    assert (ran.code, list(others)) == (0, []), ran.err
