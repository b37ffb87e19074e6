"""URLs: how one may be shown, and what the backends that keep directories read from it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from store.errors import ConfigError

if TYPE_CHECKING:
    from store.contract import StoreConfig


HIDDEN = "…"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*|")
_PATH = re.compile(r"[^\s:@=&;\x00-\x1f\x7f]*")
_NO_PATH = re.compile("/?")
_WITH_PATHS = frozenset({"file", "chassis-file", "unix", "s3", "gs", "az"})


def shown(url: str, path: re.Pattern[str] | None = None) -> str:
    """Return so much of `url` as a message may have: scheme, hosts and a plain `path`.

    Anybody may have written a password into it, anywhere, and mistyped the rest. So what is not
    surely something else is hidden: the login, the query, and all where an `@` is out of place.
    """
    scheme, is_url, rest = url.partition("://")
    if not _SCHEME.fullmatch(scheme.removesuffix(":")):
        return HIDDEN
    if not is_url:
        return url if url.endswith(":") else HIDDEN
    _, hosts, after = parts_of(rest)
    if "@" in after or not _HOSTS.fullmatch(hosts):
        return f"{scheme}://{HIDDEN}"
    way = re.split(r"[?#]", after, maxsplit=1)[0]
    path = path or (_PATH if scheme in _WITH_PATHS else _NO_PATH)
    return f"{scheme}://{hosts}{way if path.fullmatch(way) else f'/{HIDDEN}'}"


def without(url: str, text: str) -> str:
    """Return what a library says of `url`, without the parts of it that may not be shown."""
    hidden = {*re.split(r"[:/@?#&=,;\s]+", url), *re.split(r"[:/@?#&=,;\s]+", unquote(url))}
    hidden -= {*re.split(r"[:/@?#&=,;\s]+", shown(url)), ""}
    for part in (url, *sorted(hidden, key=len, reverse=True)):
        text = text.replace(part, HIDDEN) if part else text
    return text


def parts_of(rest: str) -> tuple[str, str, str]:
    """Return of what follows `://` the authority, the hosts in it, and what comes after it."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return authority, authority.rpartition("@")[2], rest[len(authority) :]


def are_hosts(text: str) -> bool:
    """Tell whether these are hosts, each with its port or without, and nothing else."""
    return _HOSTS.fullmatch(text) is not None


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
    scheme, _, rest = url.partition(":")
    authority, _, path = parts_of(rest[2:]) if rest.startswith("//") else ("", "", rest)
    if authority:
        raise ConfigError(f"{shown(url)} names a host: write {scheme}:///absolute/directory")
    if "?" in path or "#" in path:
        raise ConfigError(
            f"{shown(url)} has a '?' or a '#': in a directory's name write %3F or %23"
        )
    raw = unquote_to_bytes(path)
    if not raw.startswith(b"/"):
        raise ConfigError(
            f"{shown(url)} names no absolute directory: write {scheme}:///absolute/directory"
        )
    if b"\0" in raw:
        raise ConfigError(f"{shown(url)} has a NUL character: no directory can be called so")
    return os.fsdecode(raw)
