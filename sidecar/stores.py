"""Stores as commands use them: opened by URL, their errors in words for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import store
from sidecar.errors import SidecarError, Unreachable, UsageError
from store import Store


@contextmanager
def explained(url: str = "") -> Iterator[None]:
    """Turn a store's errors into ours, by the exit code that each deserves.

    `url` is named in the message when the store is being opened.
    """
    try:
        yield
    except store.Unavailable as error:
        raise Unreachable(_message(url, error)) from error
    except (store.InvalidRef, store.ConfigError) as error:
        raise UsageError(_message(url, error)) from error
    except store.StoreError as error:
        raise SidecarError(_message(url, error)) from error


def _message(url: str, error: store.StoreError) -> str:
    if not url:
        return str(error)
    from sidecar.redis.client import redact  # not before it is needed: it brings redis-py

    return f"the store {redact(url)}: {error}"


def open_store(url: str) -> Store:
    """Open the store that `url` names. Raises `UsageError` or `Unreachable`."""
    with explained(url):
        return store.open_url(url)


def open_existing(url: str | None, default: Path) -> Store:
    """Open a store to read from: `url`, else the one in the directory `default`.

    A directory that is not there is not made: reading from the wrong place would look like
    reading from an empty one. Raises as `open_store`.
    """
    if url is None and not default.is_dir():
        raise UsageError(
            f"there is no store at {default}; name one by its URL, or the right --data-dir"
        )
    return open_store(url or default.absolute().as_uri())
