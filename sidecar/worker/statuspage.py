"""The status page: `/` of `--http`, where `--http-status-page` asks for it. It changes nothing.

What it shows is collected in a thread of its own, and only when somebody looks: a Redis may take
its time, and a probe must not wait for that. However many look, there is one collection in a few
seconds, and it rests for ten times as long as it took. What was collected last stays when Redis
does not answer, with its time. The page draws itself from JSON, and may load nothing from
elsewhere; what comes from events is bounded and escaped before it is sent.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final, NamedTuple

from structlog.typing import FilteringBoundLogger

from sidecar import __version__
from sidecar.lines import visible
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.wire.moments import rfc3339
from sidecar.worker.health import Answer
from sidecar.worker.metrics import State
from sidecar.worker.supervision import EXPECTED

EVERY_S: Final = 2.0
"""So long after a collection the next one begins at the earliest."""
REST: Final = 10
"""It rests at least so many times as long as the last one took."""
LEAVE_S: Final = 2.0
MAX_ROWS: Final = 200
"""Of each list the first so many are sent."""
MAX_TEXT: Final = 1000
"""Of each text so many characters."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    f"Content-Security-Policy: {_POLICY}", "Cache-Control: no-store",
    "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer",
)  # fmt: skip
_FILES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

Collect = Callable[[Side, Side, list[Keys]], dict[str, Any]]
"""Reads the state of a deployment from the servers with the control streams and notifications."""


class _Seen(NamedTuple):
    """What was collected last, and how the try after it failed."""

    status: bytes = b"null"
    """As JSON."""
    at: float | None = None
    error: str = "the worker starts"


class StatusPage:
    """Keeps the state of the deployment for those who look. Its methods raise nothing."""

    def __init__(
        self, name: str, states: Callable[[], Mapping[str, State]], log: FilteringBoundLogger, *,
        every_s: float = EVERY_S,
    ) -> None:  # fmt: skip
        """`name` is this worker's, `states` are those of its relays."""
        self._name = name
        self._states = states
        self._log = log
        self._every_s = every_s
        self._collect: Callable[[], dict[str, Any]] = dict
        self._seen = _Seen()
        self._asked, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="status page", daemon=True)

    def begin(self, collect: Callable[[], dict[str, Any]]) -> None:
        """Call `collect` from now on when somebody looks."""
        self._collect = collect
        self._thread.start()

    def close(self) -> None:
        """End, also while Redis does not answer."""
        self._closing.set()
        self._asked.set()
        self._thread.join(LEAVE_S)

    def answers(self) -> dict[str, Callable[[str], Answer]]:
        """Return what the page has at its addresses."""
        found = {address: _static(*one) for address, one in _FILES.items()}
        return {**found, "/status.json": self._status}

    def _status(self, _: str) -> Answer:
        self._asked.set()
        seen = self._seen
        age_s = None if seen.at is None else time.monotonic() - seen.at
        states = {name: {"state": one.state, "detail": one.detail}
                  for name, one in self._states().items()}  # fmt: skip
        head = {
            "as_of": None if age_s is None else rfc3339((time.time() - age_s) * 1e6),
            "age_s": age_s, "error": seen.error,
            "worker": {"name": self._name, "version": __version__, "states": states},
        }  # fmt: skip
        raw = json.dumps(_shown(head)).encode()[:-1] + b',"status":' + seen.status + b"}\n"
        return Answer(200, "application/json", raw, _HEADERS)

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            began = time.monotonic()
            if self._closing.is_set():
                return
            self._look()
            self._closing.wait(max(self._every_s, REST * (time.monotonic() - began)))

    def _look(self) -> None:
        """Collect; whatever goes wrong is shown, and what was collected before stays."""
        try:
            status = json.dumps(_shown(self._collect())).encode()
            self._seen = _Seen(status, time.monotonic(), "")
        except EXPECTED as error:
            self._seen = self._seen._replace(error=str(error))
        except Exception as error:  # noqa: BLE001 -- a bug: nobody would see the thread end
            self._log.error("the status page", exc_info=error)
            self._seen = self._seen._replace(error="a bug; the worker's log has it")


def _static(name: str, kind: str) -> Callable[[str], Answer]:
    answer = Answer(200, kind, (files(__package__) / "page" / name).read_bytes(), _HEADERS)
    return lambda _: answer


def _shown(value: Any) -> Any:  # noqa: ANN401 -- what JSON can say
    """Return a value whose texts steer nothing, and of which no part is long."""
    if isinstance(value, str):
        return visible(value[:MAX_TEXT])
    if isinstance(value, Mapping):
        return {_shown(name): _shown(one) for name, one in list(value.items())[:MAX_ROWS]}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value[:MAX_ROWS]]
    return value
