"""The commands of docs/backup.md, as somebody pastes them: save under load, destroy, restore."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import redis

import store
from sidecar.feed import Feed, FeedGap
from tests import servers
from tests.deploy.harness import DEPLOY
from tests.faults.fleet import worker
from tests.faults.load import Load
from tests.faults.outside import CONTROL, NOTIFICATIONS, violations
from tests.topology.harness import until

pytestmark = [pytest.mark.server, pytest.mark.slow]

PAGE: Final = DEPLOY.parent / "docs" / "backup.md"
BLOCKS: Final = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
YOURS: Final = ("export REDIS=", "export CONF=")
PASSWORD: Final = "only-in-the-environment"
"""In the blocks that a reader fills in. Here the environment has these values."""
SAVE, CHECK, STORES, SERVER, LOOK, REPAIR = (
    one for one in BLOCKS if not any(name in one for name in YOURS)
)


class Host:
    """A server, two stores and a shell in which a page's commands work."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = servers.free_port()
        self.url = f"redis://default:{quote(PASSWORD)}@127.0.0.1:{self.port}/0"
        self._url_file = root / "redis-url"
        self._url_file.write_text(self.url)
        self.data, self.lost = root / "server", root / "lost"
        self.source, self.fleet = root / "source", root / "fleet"
        self.client: Any = redis.Redis.from_url(self.url, protocol=2)
        self.load = Load(self.url, self.source, seed=6, per_second=400)
        self._conf = root / "valkey.conf"
        self._conf.write_text(
            f'bind 127.0.0.1\nport {self.port}\ndir {self.data}\nappendonly yes\nsave ""\n'
            f'requirepass "{PASSWORD}"\n'
        )
        self._commands = root / "bin"
        self._install()

    def _install(self) -> None:
        self._commands.mkdir()
        tools = {"valkey-server": servers.path_of(servers.usual()), "redis-cli": _redis_cli()}
        for name, path in tools.items():
            (self._commands / name).symlink_to(path)
        sidecar = self._commands / "sidecar"
        sidecar.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidecar "$@"\n')
        sidecar.chmod(0o755)

    def paste(self, commands: str) -> str:
        """Run commands in a shell that ends at the first that fails; return what they printed."""
        commands = commands.replace("/etc/sidecar/redis-url", str(self._url_file))
        ran = subprocess.run(
            ["bash", "-e", "-c", commands], check=False, capture_output=True, text=True,
            env=self._environment(), timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def start(self) -> None:
        """Start the server with its own configuration."""
        self.data.mkdir(exist_ok=True)
        self.paste('valkey-server "$CONF" --daemonize yes')
        until(self.client.ping, "the server answers")

    def stop(self) -> None:
        """End the server, if it runs."""
        self.paste('redis-cli -u "$REDIS" SHUTDOWN NOSAVE || true')
        until(lambda: not _answers(self.client), "the server is gone")

    def destroy(self) -> None:
        """Lose the server, its disk and both stores; a producer keeps what it made, elsewhere."""
        self.stop()
        self.source.rename(self.lost)
        for directory in (self.data, self.fleet):
            shutil.rmtree(directory)
        self.data.mkdir()

    def send_again(self, events: list[bytes]) -> None:
        """Put what each of these events names, and append it, as its producer would."""
        made, source = (store.open_url(one.as_uri()) for one in (self.lost, self.source))
        assert isinstance(made, store.VersionedStore)
        for raw in events:
            event = json.loads(raw) if raw.endswith(b"}") else {}
            if ref := event.get("artifact_ref"):
                source.put(ref, *made.get(ref, checksum=event["checksum"]))
            self.client.xadd(CONTROL, {"event": raw})

    @contextmanager
    def working(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Let a worker run meanwhile."""
        process = worker(self.url, self.root, *options)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def published(self) -> int:
        """Return how many notifications there are."""
        return int(self.client.xlen(NOTIFICATIONS))

    def published_ids(self) -> set[str]:
        """Return the event_ids that have a notification."""
        return {
            json.loads(fields[b"event"])["event_id"]
            for _, fields in self.client.xrange(NOTIFICATIONS)
        }

    def grows(self, more: int = 100) -> None:
        """Wait until so many more notifications are there."""
        enough = self.published() + more
        until(lambda: self.published() >= enough, "more is published")

    def follow(self, cursor: int = 0) -> int:
        """Read and resolve all from a cursor on, as a controller; return its cursor then."""
        with Feed(self.url, store=store.open_url(self.fleet.as_uri())) as feed:
            while batch := feed.poll(cursor):
                for notification in batch:
                    if notification.artifact_ref:
                        feed.resolve(notification)
                cursor = batch.cursor
            return cursor

    def finish(self) -> None:
        """Let a worker finish what is there."""
        with self.working("--drain") as process:
            assert process.wait(120) == 0

    def _environment(self) -> dict[str, str]:
        own = {
            "REDIS": f"redis://127.0.0.1:{self.port}/0", "REDIS_USER": "default",
            "REDISCLI_AUTH": PASSWORD, "SIDECAR_REDIS_FILE": self._url_file,
            "SOURCE": self.source, "FLEET": self.fleet,
            "BACKUP": self.root / "backup", "CONF": self._conf, "DATA": self.data,
            "SIDECAR_SOURCE_STORE": self.source.as_uri(),
            "SIDECAR_FLEET_STORE": self.fleet.as_uri(),
            "PATH": f"{self._commands}:{os.environ['PATH']}", "PYTHONPATH": DEPLOY.parent,
        }  # fmt: skip
        return {**os.environ, **{name: str(value) for name, value in own.items()}}


def _redis_cli() -> str:
    return shutil.which("redis-cli") or servers.missing("redis-cli")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose server runs."""
    one = Host(tmp_path)
    one.start()
    try:
        yield one
    finally:
        one.stop()
        one.client.close()


def test_all_is_restored_from_a_backup_that_was_made_under_load(host: Host) -> None:
    """What was saved is there and resolves; controllers continue, or are told of the gap; what
    came later is published once it is sent again, and nothing twice.
    """
    with host.load.running(), host.working():
        host.grows()
        early = host.follow()
        host.grows()
        host.paste(SAVE)
        host.grows()
    late = host.follow()
    sent = [fields[b"event"] for _, fields in host.client.xrange(CONTROL)]
    host.destroy()

    host.paste(CHECK + STORES + SERVER)
    assert "G1 to G4 hold" in host.paste(LOOK)
    kept = host.follow(early)
    assert early < kept < late
    with pytest.raises(FeedGap):
        host.follow(late)

    host.send_again(sent)
    host.finish()
    with pytest.raises(FeedGap):
        host.follow(late)
    assert host.follow(kept) > late
    assert violations(host.client, host.fleet) == []
    assert host.load.event_ids <= host.published_ids()
    assert "G1 to G4 hold" in host.paste(LOOK)


def test_a_fleet_store_that_is_an_older_copy_is_filled_again(host: Host) -> None:
    """`audit` names what the copy lacks, and `--repair` puts it again from the source store."""
    with host.load.running(), host.working():
        host.grows()
        host.paste(SAVE)
        host.grows()
    host.finish()
    shutil.rmtree(host.fleet)

    host.paste(STORES.splitlines()[1])
    with pytest.raises(AssertionError, match="G1"):
        host.paste(LOOK)
    host.paste(REPAIR)

    assert "G1 to G4 hold" in host.paste(LOOK)
    host.follow()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_no_command_of_the_page_has_the_password_as_an_argument() -> None:
    """Any user of the host reads arguments with `ps`."""
    arguments = [word for one in BLOCKS for word in re.sub("#.*", "", one).split()]
    assert not [word for word in arguments if "PASSWORD" in word or "REDIS_URL" in word]
