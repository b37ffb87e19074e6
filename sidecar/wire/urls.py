"""Redis URLs: how one may be shown, and which are refused because they cannot be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Self

from store.urls import are_hosts, parts_of, shown

_PATHS: Final = {
    "redis": re.compile("(/[0-9]{0,5})?"),
    "sentinel": re.compile(r"(/[A-Za-z0-9_.-]+(/[0-9]{1,5})?)?"),
}
_QUERY: Final = re.compile(r"(\?([A-Za-z_]+=[^&#]*(&[A-Za-z_]+=[^&#]*)*)?)?")

_ESCAPES: Final = (
    "in a user name or a password, write %40 for '@', %3A for ':', %2F for '/', %3F for '?', %23"
    " for '#' and %25 for '%', and put '@' between it and the host"
)


class FiledUrl(str):
    """A URL that stands in a file: each new connection reads its login there again."""

    file: Path

    def __new__(cls, url: str, file: Path) -> Self:
        """Return the URL as the file has it now."""
        made = super().__new__(cls, url)
        made.file = file
        return made


class Unclear(ValueError):
    """A URL that may be read in more than one way; its text repeats nothing of it."""


def redact(url: str) -> str:
    """Return a Redis URL, or a store's, without what may be a password: fit for a log."""
    scheme = url.partition("://")[0]
    if scheme.partition("+")[0] not in ("redis", "rediss"):
        return shown(url)
    return shown(url, _PATHS["sentinel" if scheme.endswith("+sentinel") else "redis"])


def check_form(url: str) -> None:
    """Refuse a URL in which a part of a password would be taken for a host. Raises `Unclear`.

    What connects would name the host in its errors.
    """
    scheme, _, rest = url.partition("://")
    authority, hosts, after = parts_of(rest)
    path, question, query = after.partition("?")
    if scheme == "unix" and not path:
        raise Unclear("it names no socket")
    if scheme == "unix":
        hosts = "" if authority.endswith("@") else hosts
        fits = not hosts and not re.search("[@&=]", path)
    else:
        fits = are_hosts(hosts) and "@" not in path
    if not fits or "#" in after or not _QUERY.fullmatch(question + query):
        raise Unclear(_ESCAPES)
