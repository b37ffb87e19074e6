"""Workers in thousands: a process that has imported the sidecar once, and forks them.

Starting Python and importing the sidecar costs more than the rest of a worker's short life. So a
zygote imports it, and every worker is a fork of it that runs the real command line,
`sidecar.cli.main` with the arguments of `sidecar run`: a process of its own, with its own
connections, threads and lease, that can be killed, stopped and continued like any other. The tests
start some by the plain command as well.

`python -m tests.faults.zygote` is the zygote. It reads one request a line, in JSON, and answers
each with one line; when its input ends it kills what it has started.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults import hasty

REPOSITORY = Path(__file__).parents[2]


class Zygote:
    """Starts workers. `product` is the directory that `sidecar` and `store` are imported from.

    With `hasty`, they follow keep rules all the time.
    """

    def __init__(self, product: Path = REPOSITORY, *, hasty: bool = False) -> None:
        # In isolation from the current directory: only so does `product` come first.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.faults.zygote", *(["hasty"] if hasty else [])],
            env={**os.environ, "PYTHONPATH": f"{product}{os.pathsep}{REPOSITORY}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        imported = self._answer()["imported"]
        assert Path(imported).is_relative_to(product), f"{imported} is not under {product}"

    def start(self, arguments: list[str], log: Path) -> int:
        """Start `sidecar` with these arguments, its standard error in `log`; return its PID."""
        return int(self._ask({"arguments": arguments, "log": str(log)})["pid"])

    def poll(self, pid: int) -> int | None:
        """Return a worker's exit code, minus the signal that killed it, None while it lives."""
        code = self._ask({"poll": pid})["code"]
        return None if code is None else int(code)

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return a worker's exit code, None when it lives on after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (code := self.poll(pid)) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return code

    def close(self) -> None:
        """Kill every worker that is left, and end."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the zygote has died"
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Serve requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.argv[1:]:
        hasty.hurry()
    imported = _import()
    # What the parent has is never collected in a child: to look at it would copy its pages.
    gc.disable()
    gc.freeze()
    _say({"imported": imported})
    living: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            _say({"code": _poll(request["poll"], living)})
        else:
            pid = _fork(request["arguments"], request["log"])
            living.add(pid)
            _say({"pid": pid})
    for pid in living:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _import() -> str | None:
    """Import what `sidecar run` imports."""
    import sidecar.cli.run
    import sidecar.ops.sweeping
    import sidecar.worker.app
    import sidecar.worker.logs
    import sidecar.worker.settings
    import store.file  # noqa: F401 -- the backend that the workers open

    return sidecar.worker.app.__file__


def _poll(pid: int, living: set[int]) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        return None
    living.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _fork(arguments: list[str], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code: Any = 1
    try:
        _redirect(log)
        code = _command(arguments)
    except BaseException:  # noqa: BLE001 -- a child must never come back into the parent's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    """Let the child be on its own: no input, no output, its standard error in a file."""
    null = os.open(os.devnull, os.O_RDWR)
    error = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, target in ((null, 0), (null, 1), (error, 2)):
        os.dup2(descriptor, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.enable()


def _command(arguments: list[str]) -> int:
    from sidecar.cli import main as sidecar

    sys.argv = ["sidecar", *arguments]
    try:
        sidecar()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
