"""Redis over TLS, and what is told when it does not come about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.errors import Unreachable, UsageError
from sidecar.redis.client import connect
from sidecar.redis.errors import translated
from tests import servers
from tests.topology.commands import do_all
from tests.topology.harness import MASTER, Node, server, until
from tests.topology.tls import Authority, Signed


@dataclass
class Secure:
    """A server with a TLS port beside its plain one."""

    node: Node
    port: int
    authority: Authority
    trusting: str
    """The query that names the authority."""

    def url(self, query: str = "", scheme: str = "rediss", host: str = "127.0.0.1") -> str:
        """Return a URL of the TLS port."""
        return f"{scheme}://{host}:{self.port}/0?{query}"


def tls_options(authority: Authority, signed: Signed, port: int) -> tuple[str, ...]:
    """Return how a server is told of its TLS port."""
    return (
        "--tls-port", str(port), "--tls-cert-file", str(signed.certificate), "--tls-key-file",
        str(signed.key), "--tls-ca-cert-file", str(authority.certificate),
    )  # fmt: skip


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """The distribution's server: those in wheels are built without TLS."""
    directory = tmp_path_factory.mktemp("tls")
    binary = servers.path_of("path")
    authority, port = Authority(directory), servers.free_port()
    signed = authority.server("server", "127.0.0.1")
    options = (*tls_options(authority, signed, port), "--tls-auth-clients", "optional")
    node = server(directory, *options, binary=binary)
    node.start()
    yield Secure(node, port, authority, f"ssl_ca_certs={authority.certificate}")
    node.kill()


def test_all_commands_work_over_tls(secure: Secure, tmp_path: Path) -> None:
    """With the authority named in the URL everything works as it does without TLS."""
    do_all(secure.url(secure.trusting), tmp_path)


@pytest.mark.parametrize(
    ("query", "host", "fix"),
    [
        ("", "127.0.0.1", r"ssl_ca_certs=/path/ca\.pem"),
        ("{ca}", "localhost", "the host as the certificate has it"),
    ],
)
def test_a_certificate_that_does_not_verify_is_told_with_its_fix(
    secure: Secure, query: str, host: str, fix: str
) -> None:
    """Unknown authority, wrong host: to wait would be no fix, so exit code 2."""
    url = secure.url(query.format(ca=secure.trusting), host=host)
    with closing(connect(url)) as client, pytest.raises(UsageError, match=fix), translated(url):
        client.ping()


def test_plain_text_to_a_tls_port_and_the_reverse_are_hinted_at(secure: Secure) -> None:
    """Neither side says what is wrong, so it may be an outage; the message thinks of TLS."""
    plain_to_tls = secure.url(scheme="redis")
    tls_to_plain = f"rediss://127.0.0.1:{secure.node.port}?{secure.trusting}&socket_timeout=0.2"
    for url, hint in ((plain_to_tls, "wants TLS"), (tls_to_plain, "speaks no TLS")):
        with (
            closing(connect(url)) as client,
            pytest.raises(Unreachable, match=rf"127\.0\.0\.1:\d+.*{hint}"),
            translated(url),
        ):
            client.ping()


def test_a_client_certificate_that_is_wanted_is_told_of_and_given(
    secure: Secure, tmp_path: Path
) -> None:
    """A server that wants certificates of its clients: without one the message says so."""
    signed = secure.authority.server("strict", "127.0.0.1")
    port = servers.free_port()
    node = server(tmp_path, *tls_options(secure.authority, signed, port), binary=secure.node.binary)
    node.start()
    try:
        url = f"rediss://127.0.0.1:{port}?{secure.trusting}"
        with (
            closing(connect(url)) as client,
            pytest.raises((UsageError, Unreachable), match="certificate"),
            translated(url),
        ):
            client.ping()
        ours = secure.authority.client("ours")
        url += f"&ssl_certfile={ours.certificate}&ssl_keyfile={ours.key}"
        with closing(connect(url)) as client:
            assert client.ping()
    finally:
        node.kill()


def test_sentinels_are_asked_over_tls(secure: Secure, tmp_path: Path) -> None:
    """rediss+sentinel:// asks over TLS, and connects to the master over TLS."""
    signed = secure.authority.server("sentinel", "127.0.0.1")
    port = servers.free_port()
    home = tmp_path / "sentinel"
    home.mkdir()
    sentinel = Node(secure.node.binary, servers.free_port(), home)
    options = tls_options(secure.authority, signed, port)
    pairs = zip(options[::2], options[1::2], strict=True)
    (home / "conf").write_text(
        "".join(f"{name.removeprefix('--')} {value}\n" for name, value in pairs)
        + f"port {sentinel.port}\ndir {home}\ntls-replication yes\ntls-auth-clients optional\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {secure.port} 1\n"
    )
    sentinel.start(str(home / "conf"), "--sentinel")
    try:
        url = f"rediss+sentinel://127.0.0.1:{port}/{MASTER}?{secure.trusting}"
        with closing(connect(url)) as client:
            until(lambda: client.info("server")["tcp_port"] == secure.node.port, "it is found")
        with (
            closing(connect(url.replace(str(port), str(servers.free_port())))) as client,
            pytest.raises(Unreachable),
            translated(url),
        ):
            client.ping()
    finally:
        sentinel.kill()
