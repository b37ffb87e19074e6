"""The worker and the fleet controller, as child processes that never outlive the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Final

from sidecar.errors import SidecarError

LEASE_S: Final = 1.0
"""Short, so that a killed worker's successor need not wait: the default is 5 s."""
STOP_TIMEOUT_S: Final = 10.0


class Child:
    """A child process: in a session of its own, so that Ctrl-C reaches the demo alone."""

    def __init__(
        self, name: str, module: str, args: list[str], env: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        # What the person has set for a worker of theirs is none of ours.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
        # -P: nothing is imported from wherever the person stands, but from where we are.
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log.open("ab") as out:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 -- ours
                [sys.executable, "-P", "-m", module, *args],
                env=clean | path | env,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise `SidecarError` when it ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise SidecarError(f"the {self.name} ended with {code}; its log:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-5:])

    def freeze(self) -> None:
        """Stop it where it stands."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash does: it cleans up nothing."""
        self._process.kill()
        self._reap()

    def stop(self) -> int:
        """Ask it to end, and return its exit code; negative when it had to be killed."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._reap()

    def _reap(self) -> int:
        stdin: IO[bytes] | None = self._process.stdin
        if stdin is not None:
            stdin.close()
        return self._process.wait()


def start_worker(redis_url: str, data_dir: Path) -> Child:
    """Start `sidecar run`. The URL has a password, so it goes by the environment."""
    env = {
        "SIDECAR_REDIS": redis_url,
        "SIDECAR_DATA_DIR": str(data_dir),
        "SIDECAR_LEASE": str(LEASE_S),
    }
    return Child("worker", "sidecar", ["run"], env, data_dir / "worker.log")


def start_controller(redis_url: str, store_url: str, data_dir: Path, database: Path) -> Child:
    """Start a fleet controller on a database of its own."""
    env = {"SIDECAR_REDIS": redis_url, "SIDECAR_FLEET_STORE": store_url}
    return Child(
        "fleet controller",
        "sidecar.demo.controller",
        [str(database)],
        env,
        data_dir / "controller.log",
    )
