"""Files with a URL or a password: bounded, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.errors import UsageError
from sidecar.redis.client import connect, url_of
from sidecar.terminal import environment
from sidecar.wire.secretfile import LARGEST_BYTES, TooLarge, read_secret


def unfit(directory: Path) -> list[Path]:
    """Return what is no file to read a secret from."""
    fifo, large, text = directory / "fifo", directory / "large", directory / "binary"
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(1 << 40)
    text.write_bytes(b"\xff")
    return [fifo, large, text, directory, Path("/dev/zero"), directory / "none"]


def test_what_stands_in_a_file_is_read_without_space(tmp_path: Path) -> None:
    """Through a link, too, as mounted secrets are."""
    (tmp_path / "secret").write_text("  value\n")
    (tmp_path / "link").symlink_to("secret")
    assert read_secret(tmp_path / "link") == "value"


def test_the_largest_is_read_and_no_more(tmp_path: Path) -> None:
    """A byte more is refused."""
    (tmp_path / "secret").write_bytes(b"x" * LARGEST_BYTES)
    assert len(read_secret(tmp_path / "secret")) == LARGEST_BYTES
    (tmp_path / "secret").write_bytes(b"x" * LARGEST_BYTES + b"x")
    with pytest.raises(TooLarge):
        read_secret(tmp_path / "secret")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO, a device, a terabyte of holes: as the start reads it, and as code is given it."""
    for path in unfit(tmp_path):
        with pytest.raises((OSError, ValueError)):
            read_secret(path)
        with pytest.raises(UsageError):
            url_of(path)
        with pytest.raises(UsageError, match="SIDECAR_REDIS_FILE names"):
            environment.read_secret_files({"SIDECAR_REDIS_FILE": str(path)})


def test_what_takes_a_files_place_keeps_the_last_login(tmp_path: Path) -> None:
    """A new connection neither waits nor reads without end; it sends the login that it knows."""
    file = tmp_path / "url"
    file.write_text("redis://:secret@127.0.0.1:1/0")
    with connect(url_of(file)) as client:
        login = client.connection_pool.connection_kwargs["credential_provider"]
        for path in unfit(tmp_path):
            file.unlink()
            file.symlink_to(path)
            assert login.get_credentials() == ("secret",)
