"""URLs to connections: an error or a connection, and no password in anything that is shown.

What is drawn is a form without its password: each password that there is takes its place, as it is
and escaped.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import traceback
from collections.abc import Callable
from typing import Any, Final
from unittest import mock
from urllib.parse import quote

from hypothesis import assume
from hypothesis import strategies as st

import store
from sidecar.errors import SidecarError
from sidecar.feed import Feed
from sidecar.producer import outbox
from sidecar.producer.outbox.wiring import check_database
from sidecar.redis.client import Side, connect
from sidecar.redis.errors import translated
from sidecar.stores import open_store
from sidecar.wire.urls import redact
from store import StoreError
from tests.fuzz.running import Fuzzer

SECRET: Final = "Hunter2Zq"
DIRECTORY: Final = re.compile("(chassis-)?file:/(?!/[^/])")
"""A directory's name is no password."""
NOBODY: Final = "127.0.0.1:1"

schemes = st.sampled_from([
    "redis", "rediss", "redis+sentinel", "redis+cluster", "rediss+sentinel", "unix", "file", "s3",
    "gs", "az", "chassis-file", "memory", "object", "Redis", "reids", "http", "no-such", "", "mine",
    "postgresql", "postgres", "Postgresql", "postgresql", "mysql",
])  # fmt: skip
separators = st.sampled_from(
    ["://", "://", "://", ":/", ":", "//", ":///", "::/", "%3A//", "=", ""]
)
_AS_IS = (SECRET, f"a/{SECRET}", f"{SECRET}@b", f"x?{SECRET}", f"#{SECRET}", f"a b{SECRET}")
_WRITTEN = (*_AS_IS, f"12{SECRET}", f"[{SECRET}", f"{SECRET}℀")
PASSWORDS: Final = list(dict.fromkeys([*_WRITTEN, *(quote(one, safe="") for one in _WRITTEN)]))
logins = st.sampled_from([
    "{}@", ":{}@", "u:{}@", "u%3A{}@", ":{}%40", "u:{}", "u:{}@u:{}@", "u;{}@", "{}:@", "u:{}:@",
])  # fmt: skip
hosts = st.sampled_from([NOBODY, "127.0.0.1", "[::1]:1", "h[", "", "h:port", "a:1,b:2", "a b", "%"])
ways = st.sampled_from(["", "/0", "/m/0", "/x", "/{}", "//", "/b/p", "/0/{}"])
queries = st.sampled_from([
    "", "?password={}", "?Password={}", "?secret_key={}", "?db={}", "?{}=1", "?{}", "#{}", "&x={}",
    "?ssl_cert_reqs={}", "?ssl_ca_certs={}", "?protocol={}", "?a=%3A{}%40b", "?username={}@h",
    "?sentinel_password={}", "?ssl_min_version={}", "?access_key_id=x&secret_access_key={}",
    "?sslmode={}", "?port={}", "?options={}", "?host={}", "?user={}", "?sslpassword={}&host=a,b",
    "?dbname={}", "?connect_timeout={}", "?target_session_attrs={}",
])  # fmt: skip


@st.composite
def forms(draw: st.DrawFn) -> str:
    """Return text that was meant as a URL, with {} for the secret."""
    scheme, login, query = draw(schemes), draw(logins), draw(queries)
    # A path is shown where it is a directory or a prefix: there it is no password.
    way = draw(
        ways
        if "redis" in scheme and "sentinel" not in scheme
        else st.sampled_from(["", "/", "/b/p"])
    )
    if "{}" in way + query and draw(st.booleans()):
        login = ""
    form = scheme + draw(separators) + login + draw(hosts) + way + query
    assume(not re.search("://{}([/?#]|$)", form))  # that is a host, as far as anybody can tell
    return form


def urls() -> st.SearchStrategy[str]:
    """Return text that was meant as a URL, and has the secret in it."""
    return st.builds(lambda form, one: form.replace("{}", one), forms(), st.sampled_from(PASSWORDS))


def told(doing: Callable[[], Any]) -> str:
    """Return all that a program would show if it did this and did not catch what it raises.

    But for the lines of the program itself, which take longer than all the rest.
    """
    try:
        doing()
    except (SidecarError, StoreError) as error:
        return "".join(traceback.format_exception(error, limit=0))
    return ""


def reached(url: str) -> None:
    """Open a connection."""
    with translated(url), connect(url, key="k") as client:
        client.ping()


def check_url(url: str) -> None:
    """Hold what is said of a Redis's URL against it; connect where nobody listens."""
    assert SECRET not in redact(url)
    assert SECRET not in told(lambda: connect(url, key="k"))
    assert SECRET not in told(lambda: Side.open(url, "k"))
    assert SECRET not in told(lambda: Feed(url))
    if NOBODY in url or "::1]:1" in url:
        assert SECRET not in told(lambda: reached(url))


def check_store_url(url: str) -> None:
    """Hold what is said of a store's URL against it, a third party's too."""
    if not DIRECTORY.match(url):
        assert SECRET not in told(lambda: store.open_url(url, create=False))
        assert SECRET not in told(lambda: open_store(url, create=False))


def check_database_url(url: str) -> None:
    """Hold what is said of a database's URL against it, a PostgreSQL's where nobody listens."""
    assert SECRET not in told(lambda: check_database(url))
    if NOBODY in url:
        assert SECRET not in told(lambda: outbox.figures(url))


_entry_points: Final = functools.cache(importlib.metadata.entry_points)
"""To look for packages takes ten times as long as all the rest."""


def check(form: str) -> int:
    """Hold a form with each of the passwords against both."""
    urls = dict.fromkeys(form.replace("{}", password) for password in PASSWORDS)
    with mock.patch.object(importlib.metadata, "entry_points", _entry_points):
        for url in urls:
            check_url(url)
            check_store_url(url)
            check_database_url(url)
    return len(urls)


FUZZER: Final = Fuzzer("urls", forms(), check)
