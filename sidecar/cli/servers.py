"""Groups of options that lead to servers, streams and stores, with what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sidecar.cli import options
from sidecar.errors import UsageError
from sidecar.redis import embedded
from sidecar.redis.client import Side, check_stream
from sidecar.redis.keys import Keys
from sidecar.stores import has_store, open_existing
from sidecar.wire.defaults import STREAM
from store import Capability, Store, VersionedStore, versioned


@dataclass(frozen=True)
class Control:
    """The server with the control streams, found when it is first asked for."""

    data_dir: Path = options.data_dir()
    redis: str | None = options.redis_url()

    @cached_property
    def control_url(self) -> str:
        """Its URL; without --redis that of the embedded server. Raises `Unreachable`."""
        return self.redis or embedded.find(self.data_dir)


@dataclass(frozen=True)
class Servers(Control):
    """Both servers; without --notify-redis they are one."""

    notify_redis: str | None = options.redis_at(
        "Redis with the notification stream. Default: the same."
    )

    @property
    def notify_url(self) -> str:
        """URL of the server with the notifications, dead letters and leases."""
        return self.notify_redis or self.control_url

    @property
    def named(self) -> str | None:
        """The server with the notifications, if the user named one."""
        return self.notify_redis or self.redis


@dataclass(frozen=True)
class Notifications(Servers):
    """A notification stream."""

    notify_stream: str = options.notify_stream()


@dataclass(frozen=True)
class Letters(Servers):
    """A dead-letter stream, and all that lies beside it."""

    notify_stream: str = options.notify_stream()
    dead_stream: str | None = options.dead_stream()

    @cached_property
    def keys(self) -> Keys:
        """Its keys, with a control stream's that may be any. Raises `UsageError`."""
        return keys_of([STREAM], self.notify_stream, self.dead_stream)[0]

    @cached_property
    def notify(self) -> Side:
        """The server with the letters, which are there to be read."""
        side = Side.open(self.notify_url, self.keys.notifications)
        check_stream(side.client, side.url, self.keys.dead)
        return side


@dataclass(frozen=True)
class ControlStreams(Servers):
    """Control streams, and the notification stream that they lead to."""

    streams: list[str] = options.stream([STREAM], "Control stream. Repeatable.", "--stream")
    notify_stream: str = options.notify_stream()

    @cached_property
    def keys(self) -> list[Keys]:
        """The keys of each control stream, once each. Raises `UsageError`."""
        return keys_of(self.streams, self.notify_stream, None)

    @cached_property
    def control(self) -> Side:
        """The server with the control streams."""
        return Side.open(self.control_url, self.keys[0].control)

    @cached_property
    def notify(self) -> Side:
        """The server with the notifications."""
        return Side.open(self.notify_url, self.keys[0].notifications)


@dataclass(frozen=True)
class Live(ControlStreams):
    """All streams of a system."""

    dead_stream: str | None = options.dead_stream()

    @cached_property
    def keys(self) -> list[Keys]:
        """The keys of each control stream, once each. Raises `UsageError`."""
        return keys_of(self.streams, self.notify_stream, self.dead_stream)

    def check_streams(self) -> None:
        """Raise `UsageError` where a name is that of something else, `Unreachable`."""
        control, notify, first = self.control, self.notify, self.keys[0]
        for one in self.keys:
            check_stream(control.at(one.control), control.url, one.control)
        for stream in (first.notifications, first.dead):
            check_stream(notify.client, notify.url, stream)


def keys_of(streams: Sequence[str], notify_stream: str, dead_stream: str | None) -> list[Keys]:
    """Return the key names of each control stream, once each. Raises `UsageError`."""
    names = list(dict.fromkeys(streams))
    if not all((*names, notify_stream)):
        raise UsageError("--stream and --notify-stream need a name")
    return [Keys.of(stream, notify_stream, dead_stream or None) for stream in names]


# --- stores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source(Control):
    """The producer's store."""

    source_store: str | None = options.store_at("The producer's store. Default: DATA_DIR/source.")

    @property
    def source_default(self) -> Path:
        """Where it lies beside the embedded server."""
        return self.data_dir / "source"

    def source(self) -> Store | None:
        """Open it; None when none is named, nor lies where one would."""
        if not has_store(self.source_store, self.source_default, self.redis):
            return None
        return open_existing("--source-store", self.source_store, self.source_default, self.redis)


@dataclass(frozen=True)
class Fleet(Servers):
    """The fleet's store."""

    fleet_store: str | None = options.fleet_store()

    @property
    def fleet_url(self) -> str:
        """Its URL."""
        return self.fleet_store or self._fleet_default.absolute().as_uri()

    @property
    def _fleet_default(self) -> Path:
        return self.data_dir / "fleet"

    def fleet(self) -> Store:
        """Open it. Raises as `open_existing`."""
        return open_existing("--fleet-store", self.fleet_store, self._fleet_default, self.named)

    def fleet_if_any(self) -> VersionedStore | None:
        """Open it; None when none is named, nor lies where one would, or keeps no versions."""
        if not has_store(self.fleet_store, self._fleet_default, self.named):
            return None
        return versioned(self.fleet(), Capability.PINNED_GET)


@dataclass(frozen=True)
class LettersOf(Fleet, Source, Letters):
    """Dead letters, and the stores that tell what became of their artifacts."""
