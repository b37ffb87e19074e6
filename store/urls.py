"""What the backends that keep directories read from a URL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from store.errors import ConfigError

if TYPE_CHECKING:
    from store.contract import StoreConfig


def root_of(config: StoreConfig, backend: str) -> str:
    """Return the absolute directory of a store: `config.file_dir`, else that of `config.url`.

    Raises `ConfigError` when neither is given, and as `directory_of`.
    """
    root = config.file_dir
    if root is None and config.url:
        root = directory_of(config.url)
    if root is None:
        raise ConfigError(f"the {backend} backend needs a directory: StoreConfig(file_dir=…)")
    return os.path.abspath(root)


def directory_of(url: str) -> str:
    """Return the absolute directory that `SCHEME:///dir` names, percent-decoded.

    Raises `ConfigError` for a relative path, a host, a query or a fragment, with the fix.
    """
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigError(
            f"{url!r} names the host {parts.netloc!r}: write {parts.scheme}:/// and an absolute"
            f" directory, for example {parts.scheme}:///{parts.netloc}{parts.path}"
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ConfigError(f"{url!r} has a '?' or a '#': in a directory's name write %3F or %23")
    raw = unquote_to_bytes(parts.path)
    if not raw.startswith(b"/"):
        raise ConfigError(
            f"{url!r} names no absolute directory: write {parts.scheme}:///absolute/directory"
        )
    if b"\0" in raw:
        raise ConfigError(f"{url!r} has a NUL character: no directory can be called so")
    return os.fsdecode(raw)
