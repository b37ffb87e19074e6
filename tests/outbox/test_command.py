"""`sidecar outbox` for a PostgreSQL: as for a file, and without a password on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.cli.harness import HOSTILE, Cli
from tests.outbox.places import PostgresPlace


@pytest.fixture
def sidecar(
    pg: PostgresPlace, redis_url: str, client: redis.Redis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:  # fmt: skip
    """The command line, with a database that a variable names."""
    monkeypatch.chdir(tmp_path)
    pg.stage("a", ref="r/a", data=b"data")
    pg.plant(b'{"event_id": "%s"}' % HOSTILE.encode())
    made = Cli(redis_url, tmp_path, client)
    made.env["SIDECAR_DATABASE"] = pg.database
    made.env["SIDECAR_SOURCE_STORE"] = (tmp_path / "source").as_uri()
    return made


def test_a_drain_and_its_status(sidecar: Cli, pg: PostgresPlace) -> None:
    """What is staged is sent; what is dead is told, and steers no terminal."""
    assert "2, the first for " in sidecar("outbox", "status").out
    ran = sidecar("outbox", "run", "--drain")
    assert ran.code == 0, ran.err
    assert pg.appended() == ["a"]
    found = sidecar("outbox", "status", "--json").object()
    assert (found["waiting"], found["done"], found["dead_rows"][0]["reason"]) == (0, 1, "malformed")
    shown = sidecar("outbox", "status")
    assert "malformed" in shown.out
    assert "\x1b" not in shown.out + ran.err


def test_the_url_may_stand_in_a_file(sidecar: Cli, pg: PostgresPlace, tmp_path: Path) -> None:
    """It is read again at each connection, as that of a Redis is."""
    (tmp_path / "url").write_text(sidecar.env.pop("SIDECAR_DATABASE"))
    sidecar.env["SIDECAR_DATABASE_FILE"] = str(tmp_path / "url")
    ran = sidecar("outbox", "run", "--drain")
    assert ran.code == 0, ran.err
    assert pg.appended() == ["a"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/db", 4), ("postgresql://u:hunter2@h/db?x=y", 2),
        ("postgresql://u:hun/ter2@h/db", 2), ("postgresql:/u:hunter2@h/db", 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["status", "run"])
def test_what_cannot_be_reached_is_one_line(
    sidecar: Cli, url: str, code: int, command: str
) -> None:
    """Exit 4 for a server that is away, 2 for what is no URL of one; never with the password."""
    words = ["run", "--drain"] if command == "run" else [command]
    ran = sidecar("outbox", *words, env={"SIDECAR_DATABASE": url})
    assert ran.code == code, ran.err
    assert "hunter" not in ran.err
    assert "ter2" not in ran.err
    assert len(ran.err.splitlines()) == 1
