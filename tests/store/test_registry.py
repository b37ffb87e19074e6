"""Opening stores by name and by URL."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

import store
from store import registry

if TYPE_CHECKING:
    from pathlib import Path

    from store import StoreConfig


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registered", {})


def install(monkeypatch: pytest.MonkeyPatch, site: Path, package: str, entry: str) -> None:
    """Install a third party's package with one entry point, as pip would."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[artifact_sidecar.stores]\n{entry}\n")
    (site / f"{package}.py").write_text(
        textwrap.dedent(
            """
            class Mine:
                name = "mine"
                def __init__(self, config): self.config, self.pairs = config, {}
                def put(self, ref, data, manifest): self.pairs[ref] = (data, manifest)
                def get(self, ref): return self.pairs[ref]
                def exists(self, ref): return ref in self.pairs
            """
        )
    )
    monkeypatch.syspath_prepend(site)


def test_opens_by_name(tmp_path: Path) -> None:
    """The built-in backends open by name, with nothing installed."""
    assert store.open("memory").name == "memory"
    assert store.open("file", store.StoreConfig(file_dir=tmp_path)).name == "file"


def test_memory_url() -> None:
    """Each `memory:` is a store of its own."""
    one, other = store.open_url("memory:"), store.open_url("memory:")
    one.put("a", b"", b"")
    assert not other.exists("a")
    assert getattr(one, "identity", None) != getattr(other, "identity", None)


def test_file_url_is_decoded(tmp_path: Path) -> None:
    """A file URL names an absolute directory, percent-decoded."""
    store.open_url(f"{tmp_path.as_uri()}/a%20b%C3%A9").put("a", b"1", b"")
    again = store.open("file", store.StoreConfig(file_dir=tmp_path / "a bé"))
    assert again.get("a").data == b"1"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("file://var/lib", "file:///absolute"),
        ("file://localhost/var", "file:///"),
        ("file:relative/dir", "file:///absolute"),
        ("file:", "file:///absolute"),
        ("file:///a?b", "%3F"),
        ("file:///a#b", "%23"),
        ("file:///a%00b", "NUL"),
        ("/var/lib/fleet", "file:///"),
        ("", "file:///"),
        ("FILE:///a", "file:///"),
        ("memory:x", "memory:"),
        ("nothing://there", "known are .*file.*memory"),
    ],
)
def test_wrong_urls_say_the_fix(url: str, fix: str) -> None:
    """A URL that names no store is a `ConfigError` that says what to write."""
    with pytest.raises(store.ConfigError, match=fix):
        store.open_url(url)


def test_unknown_name_lists_the_known() -> None:
    """An unknown backend's error names those that there are, registered ones too."""
    store.register("mine", lambda _config: store.open("memory"))
    with pytest.raises(store.ConfigError, match=r"'other'.*file.*memory.*mine"):
        store.open("other")


def test_file_needs_a_directory() -> None:
    """The file backend without a directory says which option is missing."""
    with pytest.raises(store.ConfigError, match="file_dir"):
        store.open("file")


def test_register_gets_the_config() -> None:
    """A registered backend opens by name and by its URL, which it gets as it is."""
    seen: list[StoreConfig] = []

    def construct(config: StoreConfig) -> store.Store:
        seen.append(config)
        return store.open("memory")

    store.register("mine", construct)
    store.open("mine", store.StoreConfig(timeout_s=1))
    store.open_url("mine://host/path?x=1")
    assert [config.timeout_s for config in seen] == [1, 30]
    assert seen[1].url == "mine://host/path?x=1"


@pytest.mark.parametrize("name", ["file", "memory", "mine"])
def test_duplicate_names(name: str) -> None:
    """A name that is taken cannot be registered again."""
    store.register("mine", lambda _config: store.open("memory"))
    with pytest.raises(store.ConfigError, match="already"):
        store.register(name, lambda _config: store.open("memory"))


@pytest.mark.parametrize("name", ["", "Mine", "1", "a_b", "a/b", "a:b", "mine\n"])
def test_invalid_names(name: str) -> None:
    """A name must be able to stand as the scheme of a URL."""
    with pytest.raises(store.ConfigError, match="lower-case"):
        store.register(name, lambda _config: store.open("memory"))


def test_failing_constructor() -> None:
    """A constructor that breaks is a `ConfigError` that names the backend and the cause."""

    def broken(_config: StoreConfig) -> store.Store:
        raise KeyError("token")

    store.register("mine", broken)
    with pytest.raises(store.ConfigError, match=r"'mine'.*KeyError: 'token'"):
        store.open("mine")


def test_outage_while_opening() -> None:
    """What a constructor raises of the contract's errors passes as it is."""

    def away(_config: StoreConfig) -> store.Store:
        raise store.Unavailable("later")

    store.register("mine", away)
    with pytest.raises(store.Unavailable):
        store.open("mine")


def test_a_constructor_must_return_a_store() -> None:
    """What has no put, get, exists and name is told at once, not at the first Put."""
    store.register("mine", lambda _config: object())  # type: ignore[arg-type,return-value]
    with pytest.raises(store.ConfigError, match="no store"):
        store.open("mine")


def test_third_party_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package adds a backend, without the keywords, and nothing changes here."""
    install(monkeypatch, tmp_path, "thirdparty_one", "mine = thirdparty_one:Mine")
    mine = store.open_url("mine://host")
    mine.put("a", b"1", b"2")
    assert mine.get("a") == (b"1", b"2")
    assert store.capabilities(mine) == frozenset()
    assert mine.config.url == "mine://host"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["file", "mine"])
def test_entry_points_that_clash(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name in two places is an error that names both, not a matter of import order."""
    install(monkeypatch, tmp_path / "1", "thirdparty_two", f"{name} = thirdparty_two:Mine")
    install(monkeypatch, tmp_path / "2", "thirdparty_three", f"{name} = thirdparty_three:Mine")
    with pytest.raises(store.ConfigError, match=rf"'{name}'.*thirdparty_(two|three)"):
        store.open(name)


def test_broken_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that cannot be imported is named, and leaves the other backends alone."""
    install(monkeypatch, tmp_path, "thirdparty_four", "mine = nowhere_to_be_found:Mine")
    with pytest.raises(store.ConfigError, match=r"'mine'.*nowhere_to_be_found"):
        store.open("mine")
    assert store.open("memory").name == "memory"


def test_importing_is_light() -> None:
    """`import store` imports no backend and reads no package metadata."""
    code = (
        "import sys, store\n"
        "heavy = {'store.file', 'store.memory', 'importlib.metadata', 'pytest', 'hypothesis'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    path = ":".join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})
