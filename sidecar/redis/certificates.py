"""Until when certificates are valid: a server's, and those in files."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sidecar.redis.client import Client

_PEM: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_TIME: Final = rb"(?:\x17\x0d([0-9]{12})Z|\x18\x0f([0-9]{14})Z)"
_VALIDITY: Final = re.compile(rb"\x30[\x1e\x20\x22]" + _TIME + _TIME)
"""In DER: two times, as UTCTime (13 bytes) or GeneralizedTime (15 bytes)."""


def of_server(client: Client) -> datetime | None:
    """Return until when the certificate of the server is valid; None without TLS.

    Raises `RedisError`.
    """
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.connect()
        sock = connection._sock  # noqa: SLF001 -- redis-py has no other way to it
        der = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
        return _until(der) if der else None
    finally:
        pool.release(connection)


def in_file(path: str) -> datetime | None:
    """Return until when all certificates in a file are valid; None where it has none.

    Raises OSError.
    """
    texts = _PEM.findall(Path(path).read_text(errors="replace"))
    found = [until for text in texts if (until := _until(ssl.PEM_cert_to_DER_cert(text)))]
    return min(found, default=None)


def _until(der: bytes) -> datetime | None:
    match = _VALIDITY.search(der)
    if match is None:
        return None
    short, long = match[3], match[4]
    text = (long or (b"20" if short < b"50" else b"19") + short).decode()
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
