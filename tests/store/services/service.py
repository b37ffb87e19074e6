"""An object store that runs for the tests, and the way to its keys behind the store's back."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import obstore
import pytest

from tests.servers import START_TIMEOUT_S

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

INSTALLED: Final = Path(__file__).resolve().parents[3] / ".stores"
"""Where `make stores` puts what is not the system's."""
OPTIONS: Final[Any] = {"client_options": {"allow_http": True}}


class Service(ABC):
    """An object store that runs. Buckets are called containers by some."""

    scheme: ClassVar[str]

    def __init__(self, endpoint: str, environment: Mapping[str, str], variable: str) -> None:
        self.endpoint = endpoint
        self.environment = {**environment, variable: endpoint}
        """What leads the backend here."""
        self.variable = variable
        """Which of them names the endpoint."""

    @abstractmethod
    def client(self, bucket: str) -> S3Store | AzureStore | GCSStore:
        """Return a client of the tests' own."""

    @abstractmethod
    def make(self, bucket: str) -> None:
        """Make a bucket."""

    @abstractmethod
    def remove(self, bucket: str) -> None:
        """Remove a bucket, which is empty."""

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"b{uuid.uuid4().hex}"
        self.make(name)
        return name

    def keys(self, bucket: str) -> list[str]:
        """Return every key of a bucket."""
        return [meta["path"] for page in obstore.list(self.client(bucket)) for meta in page]

    def read(self, bucket: str, key: str) -> bytes:
        """Return what lies at a key."""
        return obstore.get(self.client(bucket), key).bytes().to_bytes()

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write a key."""
        obstore.put(self.client(bucket), key, content)

    def delete(self, bucket: str, key: str) -> None:
        """Remove a key."""
        obstore.delete(self.client(bucket), key)


def program(name: str, *places: str) -> str:
    """Return the path of a program; without it skip the test, or fail it where it must be."""
    found = shutil.which(name) or next(
        (str(path) for place in places for path in sorted(INSTALLED.glob(place))), None
    )
    if found is None:
        told = os.environ.get("_SIDECAR_TEST_STORES", "").split()
        (pytest.fail if name in told else pytest.skip)(f"{name} is not installed: make stores")
    return found


def wait_for(looks: Callable[[], Any], process: subprocess.Popen[bytes], what: str) -> None:
    """Wait until `looks` raises nothing."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            looks()
            return
        time.sleep(0.05)
    raise RuntimeError(f"{what} does not start")
