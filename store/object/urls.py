"""Where an object store lies: what its URL says, and what the environment adds to it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from store.errors import ConfigError
from store.object.layout import PREFIX_MAX_BYTES
from store.urls import shown

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_NAME = r"[A-Za-z0-9._-]*[A-Za-z0-9_-]"
_PREFIX = re.compile(rf"(?:{_NAME}(?:/{_NAME})*)?")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


class Location(NamedTuple):
    """Where a store lies. `scheme` is s3, gs or az."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def endpoint(self) -> str:
        """What the operator set as endpoint in the environment; empty for the service's own."""
        found = (os.environ.get(name, "") for name in _ENDPOINTS[self.scheme])
        return next(filter(None, found), "").rstrip("/")

    @property
    def storage(self) -> str:
        """Equal for two locations exactly when they are the same storage."""
        if self.scheme == "az":
            account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
            emulator = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "")
            service = f"{self.endpoint.lower()}|{account}|{emulator.lower()}"
        elif self.scheme == "s3" and not self.endpoint:
            # A bucket's name is unique in a partition of regions, and shown in its own region only.
            service = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
        else:
            service = self.endpoint.lower()
        return f"object:{service}:{self}"


def location_of(url: str) -> Location:
    """Take `SCHEME://bucket/prefix` apart. Raises `ConfigError`, which never repeats the URL.

    Somebody may have written credentials into it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in _ENDPOINTS:
        raise ConfigError(
            "the object backend needs a URL: s3://bucket/prefix, gs://bucket/prefix or"
            " az://container/prefix"
        )
    if "@" in parts.netloc or ":" in parts.netloc:
        raise ConfigError(
            f"a {parts.scheme}:// URL names a bucket and nothing else: credentials and endpoint"
            " come from the environment (AWS_…, GOOGLE_…, AZURE_…)"
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise ConfigError(f"{shown(url)} names no bucket: write {parts.scheme}://bucket/prefix")
    return Location(parts.scheme, parts.netloc, _prefix_of(parts))


def _prefix_of(parts: SplitResult) -> str:
    prefix = parts.path.strip("/")
    if parts.query or parts.fragment or not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"the prefix of {parts.scheme}://{parts.netloc} is not plain: names of letters,"
            " digits, '.', '_' and '-', no dot at the end, joined by '/'"
        )
    if len(prefix) > PREFIX_MAX_BYTES:
        raise ConfigError(f"the prefix has {len(prefix)} bytes: the limit is {PREFIX_MAX_BYTES}")
    return prefix
