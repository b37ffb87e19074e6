"""Ceph's radosgw: an S3 server that people run."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from obstore.store import S3Store

from tests.servers import free_port
from tests.store.object_server import CREDENTIALS
from tests.store.services.service import OPTIONS, Service, program

_SCRIPT: Final = Path(__file__).with_name("radosgw")


class Ceph(Service):
    """A radosgw that runs, over a monitor and an OSD in memory."""

    scheme = "s3"

    def __init__(self, directory: str, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}", CREDENTIALS, "AWS_ENDPOINT_URL")
        self._directory = directory
        self.s3: Any = boto3.client("s3", endpoint_url=self.endpoint, **_keys("aws_"))
        """A client of another make."""

    def client(self, bucket: str) -> S3Store:
        """See `Service`."""
        return S3Store(bucket, endpoint=self.endpoint, **_keys(""), **OPTIONS)

    def make(self, bucket: str) -> None:
        """See `Service`."""
        self.s3.create_bucket(Bucket=bucket)

    def new_versioned_bucket(self, *, is_locked: bool) -> str:
        """Make a bucket that keeps what is replaced, for a day at least if it is locked."""
        name = f"v{uuid.uuid4().hex}"
        self.s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=is_locked)
        self.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        if is_locked:
            rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
            self.s3.put_object_lock_configuration(
                Bucket=name,
                ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
            )
        return name

    def remove(self, bucket: str) -> None:
        """See `Service`."""
        self.s3.delete_bucket(Bucket=bucket)

    def kill(self) -> None:
        """Stop the gateway at once; what it has acknowledged lies in the OSD."""
        os.kill(int(Path(self._directory, "rgw.pid").read_text()), signal.SIGKILL)

    def serve(self) -> None:
        """Start the gateway again."""
        _run("serve", self._directory)


@contextmanager
def running() -> Iterator[Ceph]:
    """Run one in a directory of its own, on a free loopback port."""
    for name in ("radosgw", "ceph-mon", "ceph-osd"):
        program(name)
    with tempfile.TemporaryDirectory(prefix="sidecar-ceph-") as directory:
        port = free_port()
        try:
            _run("start", directory, str(port))
            ceph = Ceph(directory, port)
            # The first object of the first bucket makes pools, which takes seconds.
            ceph.write(ceph.new_bucket(), "first", b"")
            yield ceph
        finally:
            _run("stop", directory)


def _run(*arguments: str) -> None:
    subprocess.run(
        [_SCRIPT, *arguments],
        env={**os.environ, **CREDENTIALS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _keys(prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        f"{prefix}secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        "region_name" if prefix else "region": CREDENTIALS["AWS_REGION"],
    }
