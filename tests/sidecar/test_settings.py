"""What the operator may set, and what is refused with which words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UsageError
from sidecar.wire.units import seconds, size_bytes
from sidecar.worker.settings import Settings, build, file_url


def test_defaults_are_the_contracts() -> None:
    """With no options the defaults are those of the contract."""
    settings = build()
    assert settings.streams == ("control:events",)
    assert settings.notify_stream == "control:notifications"
    assert (settings.lease_s, settings.retry_budget_s) == (5, 60)
    assert settings.dedup_window_s == 7 * 86400
    assert settings.max_consecutive_dead == 100
    assert (settings.redis, settings.notify_redis, settings.dead_stream) == (None, None, None)
    assert settings.tenant_scope == settings.allow_type == ()
    assert settings.log_level == "info"
    assert settings.data_dir == Path(".sidecar")
    assert not settings.drain


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 5), ("0.5", 0.5), ("500ms", 0.5), ("90s", 90), ("5m", 300), ("12h", 43200),
     ("7d", 604800), (" 1 d ", 86400), (3, 3), (0.25, 0.25)],
)  # fmt: skip
def test_seconds(text: str | float, expected: float) -> None:
    """A duration is a number of seconds or has a unit."""
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1w", "1e3", "nan", "inf", "1 2", "1S", "1.", "1_0"]
)
def test_no_seconds(text: str) -> None:
    """Anything else is no duration, and the message shows how to write one."""
    with pytest.raises(ValueError, match="7d"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("512", 512), ("1K", 1024), ("1KiB", 1024), ("64M", 64 << 20), ("1GiB", 1 << 30),
     ("10GB", 10**10), ("1 kb", 1000), ("2t", 2 << 40), (7, 7)],
)  # fmt: skip
def test_size(text: str | int, expected: int) -> None:
    """A size is a number of bytes or has a unit."""
    assert size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "1X", "G", "1e9"])
def test_no_size(text: str) -> None:
    """Anything else is no size, and the message shows how to write one."""
    with pytest.raises(ValueError, match="GiB"):
        size_bytes(text)


@given(st.text(max_size=10))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    """Any text is read or refused with a ValueError."""
    for read in (seconds, size_bytes):
        with suppress(ValueError):
            assert read(text) >= 0


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"lease_s": "0"}, "--lease"),
        ({"lease_s": "2h"}, "--lease"),
        ({"lease_s": "soon"}, "--lease"),
        ({"retry_budget_s": "-1"}, "--retry-budget"),
        ({"dedup_window_s": "1ms"}, "--dedup-window"),
        ({"max_artifact_bytes": "0"}, "--max-artifact-size"),
        ({"max_consecutive_dead": -1}, "--max-consecutive-dead"),
        ({"store_threads": 1}, "--store-threads: write auto, or a number from 2 to 256"),
        ({"log_level": "loud"}, "--log-level"),
        ({"notify_stream": ""}, "--notify-stream"),
        ({"streams": ("a", "")}, "--stream"),
        ({"streams": ("a", "a")}, "--stream"),
        ({"streams": ("a", "control:notifications")}, "--stream"),
        ({"streams": ("a", "b"), "dead_stream": "b"}, "--stream"),
        ({"notify_stream": "n", "dead_stream": "n"}, "--notify-stream"),
        ({"streams": ("{control:notifications}:dead",)}, "--stream"),
        ({"no_such": 1}, "--no-such"),
    ],
)
def test_what_is_refused_names_its_flag(options: dict[str, object], flag: str) -> None:
    """A wrong option is a usage error that names the flag as the operator knows it."""
    with pytest.raises(UsageError) as caught:
        build(**options)
    assert flag in str(caught.value)
    assert caught.value.exit_code == 2
    assert "Value error" not in str(caught.value)


def test_empty_options_keep_defaults() -> None:
    """None and nothing keep the default; zero and False are values."""
    settings = build(redis=None, streams=(), retry_budget_s=0, max_consecutive_dead=0, drain=False)
    assert settings.streams == ("control:events",)
    assert (settings.retry_budget_s, settings.max_consecutive_dead) == (0, 0)


def test_stores_lie_under_the_data_directory(tmp_path: Path) -> None:
    """Unless given, both stores are file stores under the data directory."""
    settings = build(data_dir=tmp_path)
    assert settings.source_url == f"file://{tmp_path}/source"
    assert settings.fleet_url == f"file://{tmp_path}/fleet"
    assert build(source_store="memory:").source_url == "memory:"


def test_a_directory_with_odd_characters(tmp_path: Path) -> None:
    """A data directory may have blanks and signs in its name that a URL has to escape."""
    import store

    odd = tmp_path / "a b#c?d%20"
    url = file_url(odd)
    opened = store.open_url(url)
    opened.put("r", b"", b"")
    assert odd.is_dir()


def test_settings_do_not_change() -> None:
    """Settings are frozen."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().drain = True  # type: ignore[misc]
