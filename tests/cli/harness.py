"""The command line as a person or a script uses it, in this process or in one of its own."""

from __future__ import annotations

import io
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Signal
from typing import Any, Final
from unittest import mock

import redis
import structlog

import store
from sidecar import cli
from sidecar.redis.keys import Keys
from sidecar.worker import app, settings
from sidecar.worker.settings import file_url
from tests import leaks
from tests.servers import started
from tests.sidecar.harness import note_nothing_to_prune

TIMEOUT_S: Final = 120.0
STREAM: Final = "control:events"
NOTIFICATIONS: Final = "control:notifications"
KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEAD: Final = "{control:notifications}:dead"
HALT: Final = "{control:notifications}:halt:control:events"
TRIMMED: Final = "{control:notifications}:trimmed"
REDRIVEN: Final = "{control:notifications}:redriven"
_MAKERS: Final = {"run", "emit"}
"""Commands that make a store which is not there."""
_COLOURS: Final = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
LARGE: Final = random.Random(1).randbytes(1 << 20)
"""More than lies in a record: a store keeps it as an object."""
HOSTILE: Final = "\x1b[31mred\x07 [bold]x[/bold] \u202egnp.exe"


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        """What it printed on standard output, as text."""
        return self.raw.decode()

    def objects(self) -> list[dict[str, Any]]:
        """Return what it printed as JSON, one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def object(self) -> dict[str, Any]:
        """Return the one JSON object that it printed."""
        (found,) = self.objects()
        return found


@dataclass
class Cli:
    """Runs commands against one server and one data directory."""

    url: str
    directory: Path
    client: redis.Redis
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *args: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> Ran:
        """Run a command in this process."""
        self._settle(*args)
        raw = io.BytesIO()
        out, err = io.TextIOWrapper(raw, "utf-8"), io.StringIO()
        with (
            mock.patch.dict(os.environ, self._environment(env, *args), clear=True),
            mock.patch.object(sys, "argv", ["sidecar", *map(str, args)]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
            mock.patch.object(sys, "stdout", out),
            mock.patch.object(sys, "stderr", err),
            _signals_kept(),
            leaks.closed(),  # as the end of a process does
        ):
            code = _exit_code()
            out.flush()
        return Ran(code, raw.getvalue(), err.getvalue())

    def process(
        self, *args: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> Ran:
        """Run a command in a process of its own, to its end."""
        self._settle(*args)
        done = subprocess.run(
            self.argv(*args), input=stdin, capture_output=True,
            env=self._environment(env, *args),
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    @contextmanager
    def running(self, *args: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in a process of its own meanwhile."""
        self._settle(*args)
        with started(
            *self.argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self._environment(None, *args),
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def _settle(self, *args: str | Path) -> None:
        """Spare a worker its first look for what to prune, if `args` run one."""
        if args[:1] == ("run",) and isinstance(self.client, redis.Redis):
            with suppress(redis.RedisError):
                note_nothing_to_prune(self.client, KEYS)

    def stores(self, *, wanted: bool) -> dict[str, str]:
        """Return what names the stores under the data directory: a real server wants that.

        One that is not there is named only to be made, if it is `wanted`.
        """
        directories = {name: self.directory / "data-dir" / name for name in ("source", "fleet")}
        return {
            f"SIDECAR_{name.upper()}_STORE": file_url(directory)
            for name, directory in directories.items()
            if wanted or directory.is_dir()
        }

    def lay_out(self, *names: str) -> None:
        """Make stores under the data directory, with nothing in them; without names the fleet's."""
        for name in names or ("fleet",):
            store.open_url(file_url(self.directory / "data-dir" / name))

    def argv(self, *args: str | Path) -> list[str]:
        """Return the command line of a real process."""
        return [sys.executable, "-m", "sidecar", *map(str, args)]

    def shell(self, script: str) -> Ran:
        """Run a line of bash, in which `sidecar` is the command."""
        script = f'set -o pipefail; sidecar() {{ "{sys.executable}" -m sidecar "$@"; }}; {script}'
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True,
            env=self._environment(None, *script.split()),
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    def drain(self, *args: str) -> None:
        """Let `sidecar run` finish what is in the stream."""
        ran = self("run", "--drain", "--retry-budget", "0", *args)
        assert ran.code == 0, ran.err

    def work(self, **other: Any) -> None:
        """Let a worker finish what is in the stream, without the command line."""
        self._settle("run")
        usual: dict[str, Any] = {
            "redis": self.url, "retry_budget_s": "0", "drain": True,
            "source_store": file_url(self.directory / "data-dir" / "source"),
            "fleet_store": file_url(self.directory / "data-dir" / "fleet"),
        }  # fmt: skip
        chosen = settings.build(**(usual | other))
        log: Any = structlog.wrap_logger(
            structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50)
        )
        assert app.run(chosen, log, Signal()) == 0

    def emit(self, event_id: str, *args: str | Path) -> dict[str, Any]:
        """Emit an event of a known type; return it."""
        ran = self("emit", "--type", "key.changed", "--event-id", event_id, *args)
        assert ran.code == 0, ran.err
        return ran.object()

    def bring(self, event_id: str, ref: str, data: bytes, *args: str) -> dict[str, Any]:
        """Emit an event with an artifact; return it."""
        path = self.directory / "data"
        path.write_bytes(data)
        return self.emit(event_id, "--ref", ref, "--data", path, *args)

    def letter(self, event: dict[str, Any] | bytes, at: str, **fields: str) -> str:
        """Plant a dead letter that came from the entry `at` of the control stream."""
        raw = event if isinstance(event, bytes) else json.dumps(event).encode()
        values: dict[Any, Any] = {
            "event": raw, "reason": "artifact_missing", "detail": "nothing there",
            "origin": f"{STREAM}/{at}", "attempts": "3", "first_seen": "2026-11-02T10:00:00.000Z",
            "dead_at": "2026-11-02T10:01:00.000Z", **fields,
        }  # fmt: skip
        added: Any = self.client.xadd(DEAD, values)
        return str(added.decode())

    def notification(self, event: dict[str, Any], at: str, origin: str) -> None:
        """Plant a notification under the ID `at`, caused by the entry `origin`."""
        fields: dict[Any, Any] = {"event": json.dumps(event), "origin": origin}
        self.client.xadd(NOTIFICATIONS, fields, id=at)

    def add(self, event_id: str, tenant: str = "t1", **more: Any) -> str:
        """Append an event without an artifact, behind the commands' back; return the entry's ID."""
        event = {"event_id": event_id, "type": "key.changed", "tenant_id": tenant, **more}
        fields: dict[Any, Any] = {"event": json.dumps(event), "traceparent": "00-x"}
        added: Any = self.client.xadd(STREAM, fields)
        return str(added.decode())

    def end_in_every_way(self) -> None:
        """Have events end: with and without artifact, as a duplicate, as dead letters."""
        self.bring("a", "ref/a", b"data a", "--tenant", "t1")
        self.bring("large", "ref/large", LARGE, "--tenant", "t1")
        for event_id in ("b", "c"):
            self.add(event_id)
        self.add("b", id=7)
        self.add("b", stack_id="other content")
        self.client.xadd(STREAM, {"event": "not JSON"})
        self.work()

    def notifications(self) -> list[tuple[str, dict[Any, Any]]]:
        """Return the notifications, each with its ID."""
        found: Any = self.client.xrange(NOTIFICATIONS)
        return [(entry_id.decode(), fields) for entry_id, fields in found]

    def trim(self, stream: str, keep: int) -> None:
        """Trim a stream as a worker does: how far is noted first."""
        found: Any = self.client.xrange(stream)
        self.client.hset(TRIMMED, stream, found[-keep - 1][0])
        self.client.xtrim(stream, maxlen=keep, approximate=False)

    def entries(self, stream: str) -> list[dict[str, str]]:
        """Return the entries of a stream, as text."""
        found: Any = self.client.xrange(stream)
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in found
        ]  # fmt: skip

    def _environment(self, more: dict[str, str] | None, *words: str | Path) -> dict[str, str]:
        """Return the environment of a command of these words."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
        own = {"SIDECAR_REDIS": self.url, "SIDECAR_DATA_DIR": str(self.directory / "data-dir")}
        given = {**kept, "COLUMNS": "200", **own, **self.env, **(more or {})}
        if given["SIDECAR_REDIS"]:
            given = {**self.stores(wanted=not _MAKERS.isdisjoint(words)), **given}
        return {name: value for name, value in given.items() if value}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what `sidecar run` does to the signals that end it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code() -> int:
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def install(site: Path, name: str, source: str) -> dict[str, str]:
    """Make a third party's backend, its class `Store`; return what makes it known to a process."""
    about = site / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[artifact_sidecar.stores]\n{name} = {name}:Store\n")
    (site / f"{name}.py").write_text(source)
    return {"PYTHONPATH": str(site)}


def on_terminal(
    sidecar: Cli, *args: str, stream: str = "stdout", env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a command with a terminal as its standard output, or error; return what that showed."""
    return _on_terminal(sidecar, args, (stream,), "", env or {})


def dialogue(sidecar: Cli, *args: str, answer: str) -> tuple[int, str]:
    """Run a command at a terminal at which a person types the answer; return what that showed."""
    return _on_terminal(sidecar, args, ("stdin", "stdout", "stderr"), answer)


def _on_terminal(
    sidecar: Cli, args: tuple[str, ...], streams: tuple[str, ...], answer: str,
    more: dict[str, str] | None = None,
) -> tuple[int, str]:  # fmt: skip
    ours, theirs = pty.openpty()
    env = {k: v for k, v in sidecar._environment(None, *args).items() if k not in _COLOURS}
    away = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with subprocess.Popen(
        sidecar.argv(*args),
        env=env | {"TERM": "xterm"} | (more or {}),
        **(away | dict.fromkeys(streams, theirs)),  # type: ignore[call-overload]
    ) as process:
        os.close(theirs)
        if answer:
            os.write(ours, answer.encode() + b"\n")
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:
            pass  # how Linux says that the other end is closed
        process.communicate(timeout=TIMEOUT_S)
    os.close(ours)
    return process.returncode, seen.decode()
