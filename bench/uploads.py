"""`python -m bench.uploads`: large data into Ceph's radosgw (`make stores`), beside boto3.

In turns: boto3's transfer manager, the same after a SHA-256 of what is sent (which the store has to
compute, too), and the store's `put_from`. Server and data are in memory, and share the processors.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import boto3

import store
from bench.events import MANIFEST
from tests.store.services import ceph

MIB = 1 << 20


def contenders(service: ceph.Ceph, bucket: str, data: bytes) -> dict[str, Callable[[str], Any]]:
    """Return what sends the data to a key of its own, by name."""
    fleet = store.versioned(store.open_url(f"s3://{bucket}/fleet"), store.Capability.STREAM)
    assert fleet
    keys = {name.lower(): value for name, value in service.environment.items()}
    client: Any = boto3.client(
        "s3", endpoint_url=service.endpoint, aws_access_key_id=keys["aws_access_key_id"],
        aws_secret_access_key=keys["aws_secret_access_key"], region_name=keys["aws_region"],
    )  # fmt: skip

    def hashed(key: str) -> None:
        hashlib.sha256(data).hexdigest()
        client.upload_fileobj(io.BytesIO(data), bucket, key)

    return {
        "boto3": lambda key: client.upload_fileobj(io.BytesIO(data), bucket, key),
        "boto3 and SHA-256": hashed,
        "sidecar": lambda key: fleet.put_from(key, io.BytesIO(data), MANIFEST),
    }


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(prog="python -m bench.uploads", description=__doc__)
    options.add_argument("--mib", type=int, default=256)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    data = os.urandom(chosen.mib * MIB)
    took_s: dict[str, list[float]] = {}
    with ceph.running() as service:
        os.environ.update(service.environment, AWS_ALLOW_HTTP="true")
        bucket = service.new_bucket()
        in_turns = contenders(service, bucket, data)
        for round_ in range(chosen.rounds):
            for name, send in in_turns.items():
                began = time.perf_counter()
                send(f"round-{round_}")
                took_s.setdefault(name, []).append(time.perf_counter() - began)
            for key in service.keys(bucket):
                service.s3.delete_object(Bucket=bucket, Key=key)
    ours = took_s.pop("sidecar")
    print(f"load {os.getloadavg()[0]:.0f}, {chosen.mib} MiB: sidecar"
          f" {chosen.mib / statistics.median(ours):.0f} MiB/s")  # fmt: skip
    for name, theirs in took_s.items():
        ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
        print(f"  of {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
