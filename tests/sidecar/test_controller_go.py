"""`examples/controller-go`, a controller that knows the sidecar by docs/wire.md alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

import store
from sidecar.producer import Producer
from sidecar.wire.ids import EntryId
from tests.sidecar.harness import eventually
from tests.sidecar.test_feed import relay

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "controller-go"
NOTIFICATIONS: Final = "control:notifications"
LARGE: Final = b"x" * 70_000
"""More than lies in a record."""
pytestmark = pytest.mark.xdist_group("go")


def go(*words: str) -> None:
    """Run Go's tool in the example, without a network."""
    tool = shutil.which("go") or pytest.skip("needs go (Debian: golang-go)")
    env = os.environ | {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    ran = subprocess.run([tool, *words], cwd=EXAMPLE, env=env, capture_output=True, text=True)  # noqa: PLW1510
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled."""
    path = tmp_path_factory.mktemp("go") / "controller"
    go("build", "-o", str(path), ".")
    return path


@contextmanager
def following(program: Path, redis_url: str, directory: Path) -> Iterator[Path]:
    """Run it until it is killed; yield what it prints to."""
    out = directory / "out"
    with out.open("ab") as file, subprocess.Popen(
        [program, "-cursor", directory / "cursor", redis_url, directory / "fleet"],
        stdout=file, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield out
            assert process.poll() is None
        finally:
            process.kill()


def told(out: Path) -> list[list[str]]:
    """Return the words of the lines that are whole."""
    lines = out.read_text().splitlines(keepends=True)
    return [line[:-1].split(" ") for line in lines if line[-1] == "\n"]


def test_it_passes_the_golden_vectors() -> None:
    """Events, positions, gaps, refs and records are to a Go program what they are here."""
    go("test", "-count=1", "./...")


def test_it_follows_a_real_stream(program: Path, redis_url: str, tmp_path: Path) -> None:
    """Each notification at least once, in order over a kill, its artifact resolved and verified."""
    blobs = {f"Rows/ž {n}@": LARGE + b"%d" % n if n % 5 == 0 else b"%d" % n for n in range(20)}
    source = store.open_url((tmp_path / "source").as_uri())
    with closing(Producer(redis_url, "control:events", source)) as producer:
        for number, (ref, data) in enumerate(blobs.items()):
            producer.publish(
                type="key.changed", tenant_id="t", event_id=f"e{number}", ref=ref, data=data,
                manifest=b"m", labels={"a": [1.5, None]},
            )  # fmt: skip
            if number == 9:
                relay(redis_url, tmp_path)
                with following(program, redis_url, tmp_path) as out:
                    eventually(lambda: len(told(out)) == 10)
        producer.publish(type="run.abort", event_id="last")
    with following(program, redis_url, tmp_path) as out:
        relay(redis_url, tmp_path)
        eventually(lambda: {"e19", "last"} <= {line[1] for line in told(out)})
    seen = {line[1]: line for line in told(out)}
    assert [name for name in seen if name != "last"] == [f"e{n}" for n in range(20)]
    assert len(told(out)) <= 22  # the last before the kill again, if it was not noted
    for number, data in enumerate(blobs.values()):
        digest = hashlib.sha256(data).hexdigest()
        assert seen[f"e{number}"][-3:] == [str(len(data)), "1", f"sha256:{digest}"]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_gap_and_damage_are_never_skipped(
    program: Path, redis_url: str, client: redis.Redis, tmp_path: Path, by_hand: bool
) -> None:
    """It ends at a gap, and stays before an artifact that is damaged."""
    cursor = tmp_path / "cursor"
    source = store.open_url((tmp_path / "source").as_uri())
    with closing(Producer(redis_url, "control:events", source)) as producer:
        for number in range(3):
            producer.publish(type="key.changed", event_id=f"e{number}", ref=f"r{number}", data=b"d")
    relay(redis_url, tmp_path)
    for path in (tmp_path / "fleet/refs").glob("r1@*"):
        path.unlink()
    with following(program, redis_url, tmp_path) as out:
        eventually(cursor.exists)
    entries: Any = client.xrange(NOTIFICATIONS)
    noted = {NOTIFICATIONS: entries[1][0]}
    about: Any = client.xinfo_stream(NOTIFICATIONS)
    if by_hand and "entries-added" in about:  # Redis before 7.0 does not count
        noted = {NOTIFICATIONS: entries[0][0], f"gone {NOTIFICATIONS}": entries[0][0] + b" 1"}
    client.hset("{control:notifications}:trimmed", mapping=noted)  # type: ignore[arg-type]
    client.xtrim(NOTIFICATIONS, maxlen=1, approximate=False)
    assert int(cursor.read_text().split()[0]) == EntryId(entries[0][0].decode()).control_version
    assert "gap: trimmed" in ended(program, redis_url, tmp_path)
    assert len(told(out)) == 1


def test_a_stream_made_anew_is_a_gap(
    program: Path, redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    """Its cursor carries the incarnation of the stream: what a new one has is no continuation."""
    cursor = tmp_path / "cursor"
    source = store.open_url((tmp_path / "source").as_uri())
    with closing(Producer(redis_url, "control:events", source)) as producer:
        producer.publish(type="run.abort", event_id="before")
        relay(redis_url, tmp_path)
        with following(program, redis_url, tmp_path):
            eventually(lambda: " " in cursor.read_text().strip() if cursor.exists() else False)
        client.delete(NOTIFICATIONS)
        for number in range(2):
            producer.publish(type="run.abort", event_id=f"after{number}")
        relay(redis_url, tmp_path)
    assert "gap: made_anew" in ended(program, redis_url, tmp_path)


def ended(program: Path, redis_url: str, directory: Path) -> str:
    """Run it until it ends by itself with exit 1; return what it says."""
    ran = subprocess.run(
        [program, "-cursor", directory / "cursor", redis_url, directory / "fleet"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    return ran.stderr
