"""Azurite: Microsoft's own stand-in for Azure Blob Storage, in memory."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Final

from obstore.store import AzureStore

from tests.servers import START_TIMEOUT_S, free_port, started
from tests.store.services.service import OPTIONS, Service, program, wait_for

_ACCOUNT: Final = "devstoreaccount1"
# Not a secret: each emulator of Azure storage has it, and its documentation.
_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class Azurite(Service):
    """An Azurite that runs."""

    scheme = "az"

    def __init__(self, port: int) -> None:
        keys = {"AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _KEY}
        super().__init__(f"http://127.0.0.1:{port}/{_ACCOUNT}", keys, "AZURE_STORAGE_ENDPOINT")

    def client(self, bucket: str) -> AzureStore:
        """See `Service`."""
        return AzureStore(
            bucket, account_name=_ACCOUNT, account_key=_KEY, endpoint=self.endpoint, **OPTIONS
        )

    def make(self, bucket: str) -> None:
        """See `Service`."""
        self._ask("PUT", bucket)

    def remove(self, bucket: str) -> None:
        """See `Service`."""
        self._ask("DELETE", bucket)

    def _ask(self, method: str, container: str) -> None:
        """Make or remove a container, which obstore cannot."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        path = f"/{_ACCOUNT}/{_ACCOUNT}/{container}\nrestype:container"
        signed = hmac.digest(
            base64.b64decode(_KEY), (method + "\n" * 12 + lines + path).encode(), hashlib.sha256
        )
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(signed).decode()}"
        url = f"{self.endpoint}/{container}?restype=container"
        with urllib.request.urlopen(
            urllib.request.Request(url, method=method, headers=headers), timeout=START_TIMEOUT_S
        ):
            pass


@contextmanager
def running() -> Iterator[Azurite]:
    """Run one in a process of its own, on a free loopback port."""
    path = program("azurite-blob", "node_modules/.bin/azurite-blob")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sidecar-azurite-") as directory:
        process = started(
                path, "--inMemoryPersistence", "--disableTelemetry", "--silent",
                "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port),
            cwd=directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close(), process, path)
            yield Azurite(port)
        finally:
            process.kill()
            process.wait()
