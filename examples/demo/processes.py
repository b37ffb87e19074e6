"""The worker and the controller as child processes, and the `sidecar` command as a call."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from sidecar.feed import SidecarError

ROOT: Final = Path(__file__).parents[2]
STOP_TIMEOUT_S: Final = 60.0


def ask(directory: Path, *args: str, may: int = 0) -> list[Any]:
    """Return what `sidecar … --json` prints.

    Raises `SidecarError` unless it exits with 0, or as it `may`.
    """
    command = ["sidecar", *args, "--json", "--data-dir", str(directory)]
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, env=_clean(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode not in (0, may):
        raise SidecarError(f"`{' '.join(command)}` exits with {ran.returncode}: {ran.stderr}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


class Child:
    """A child process: in a session of its own, so that Ctrl-C reaches the demo alone."""

    def __init__(self, log: Path, *args: str, **env: str) -> None:
        self.name, self._log = " ".join(args[:2]), log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *args],
                cwd=ROOT, env=_clean() | env, stdin=subprocess.PIPE, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise `SidecarError` when it ended by itself."""
        if (code := self._process.poll()) is not None:
            raise SidecarError(f"`{self.name}` ended with {code}; its log:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").strip().splitlines()[-5:])

    def signal(self, number: signal.Signals) -> None:
        """Freeze it, let it continue, or kill it."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.communicate()

    def stop(self) -> int:
        """Ask it to end, and return its exit code; negative when it had to be killed."""
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
        return self._process.returncode


def _clean() -> dict[str, str]:
    """Return the environment without what the person set for a worker of theirs."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
