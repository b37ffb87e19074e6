"""From a backend's name, or a URL, to an open store.

A name comes from one of three places: built in, `register`ed by the program, or an entry point
of the group `artifact_sidecar.stores` of any installed package. Nothing is imported, and no
package metadata is read, before a store is opened.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

from store.contract import Constructor, Store, StoreConfig
from store.errors import ConfigError, StoreError
from store.urls import shown, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "artifact_sidecar.stores"

# Not entry points: the backends must open from a bare source tree, too, which has no metadata.
_BUILT_IN = {
    "memory": "store.memory:open_memory",
    "file": "store.file:open_file",
    "object": "store.object:open_object",
    "s3": "store.object:open_object",
    "gs": "store.object:open_object",
    "az": "store.object:open_object",
    "chassis-file": "store.chassis:open_chassis",
}
_NAME = re.compile(r"[a-z][a-z0-9+.-]*")  # what a URL scheme may be
_registered: dict[str, Constructor] = {}


def register(name: str, constructor: Constructor) -> None:
    """Make `constructor` known as `name` in this process.

    Raises `ConfigError` when the name is no lower-case URL scheme, or is taken.
    """
    _check_name(name, "register")
    if name in _BUILT_IN or name in _registered:
        raise ConfigError(f"a backend {name!r} is registered already: choose another name")
    _registered[name] = constructor


def open(name: str, config: StoreConfig | None = None) -> Store:  # noqa: A001 - store.open reads well
    """Open the backend called `name`.

    Raises `ConfigError` when it is unknown, doubly registered or cannot be opened as asked, and
    what the backend raises of `StoreError` when its storage is out of reach.
    """
    opened = _constructed(name, _loader(name), config or StoreConfig())
    if not isinstance(opened, Store):
        raise ConfigError(
            f"backend {name!r} returned {type(opened).__name__}, which is no store:"
            " it needs put, get, exists and name"
        )
    return opened


def _constructed(name: str, load: Callable[[], Constructor], config: StoreConfig) -> Store:
    try:
        return load()(config)
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - a traceback would repeat the URL
        what = without(config.url or "", f"{type(error).__name__}: {error}")
        raise ConfigError(f"backend {name!r} cannot be opened: {what}") from None


def open_url(url: str, *, create: bool = True) -> Store:
    """Open the store that `url` names: its scheme is the backend, which reads the rest itself.

    Where there is none it is made, unless not `create`: who only reads says so. Raises as `open`,
    and `ConfigError` for text that is no URL.
    """
    return open(_scheme_of(url), StoreConfig(url=url, create=create))


def check_url(url: str) -> None:
    """Raise `ConfigError` for text that is no URL of a store, or of a backend that is unknown.

    Nothing is opened: only its backend knows whether the rest of a URL fits.
    """
    _loader(_scheme_of(url))


def _scheme_of(url: str) -> str:
    scheme, colon, _rest = url.partition(":")
    if not colon or not _NAME.fullmatch(scheme):
        raise ConfigError(
            f"{shown(url)} is no store URL: write file:///absolute/directory, memory:,"
            f" or NAME://… for another backend; {_known_names()}"
        )
    return scheme


def _loader(name: str) -> Callable[[], Constructor]:
    load = _sources().get(name)
    if load is None:
        raise ConfigError(f"no backend is called {name!r}: {_known_names()}")
    return load


def _check_name(name: str, source: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{source}: {name!r} cannot name a backend: names are lower-case letters, digits,"
            " '+', '.' and '-', a letter first, so that NAME:// is a URL"
        )


def _known_names() -> str:
    return f"known are {', '.join(sorted(_sources()))}"


def _sources() -> dict[str, Callable[[], Constructor]]:
    """Return what loads each backend's constructor. Raises `ConfigError` for a name in two places.

    Read anew at each open: packages may be installed, or refused, while the process runs.
    """
    sources: dict[str, Callable[[], Constructor]] = {}
    origins: dict[str, str] = {}
    for name, load, origin in _registrations():
        if name in sources:
            raise ConfigError(
                f"backend {name!r} is registered by {origins[name]} and by {origin}:"
                " rename or uninstall one of them"
            )
        sources[name], origins[name] = load, origin
    return sources


def _registrations() -> Iterator[tuple[str, Callable[[], Constructor], str]]:
    """Yield each backend's name, what loads its constructor, and by whom it is registered."""
    from importlib.metadata import entry_points  # heavy, and a service opens stores only once

    for name, target in _BUILT_IN.items():
        yield name, _built_in_loader(target), "this package itself"
    for name, constructor in _registered.items():
        yield name, _constant(constructor), "store.register"
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        origin = _origin(entry_point)
        _check_name(entry_point.name, origin)
        yield entry_point.name, entry_point.load, origin


def _built_in_loader(target: str) -> Callable[[], Constructor]:
    module, _, attribute = target.partition(":")

    def load() -> Constructor:
        constructor: Constructor = getattr(importlib.import_module(module), attribute)
        return constructor

    return load


def _constant(constructor: Constructor) -> Callable[[], Constructor]:
    return lambda: constructor


def _origin(entry_point: EntryPoint) -> str:
    package = entry_point.dist.name if entry_point.dist else "an unnamed package"
    return f"the package {package} ({entry_point.value})"
