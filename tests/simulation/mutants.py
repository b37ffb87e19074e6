"""Breaks of the product, one at a time: the simulation is worth what it catches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from redis.commands.core import Script

from sidecar.redis import publisher as publisher_module
from sidecar.redis.client import Client
from sidecar.redis.source import ControlStream
from sidecar.worker.holds import Holds
from sidecar.worker.pipeline import Pipeline
from sidecar.worker.reading import Reading
from sidecar.worker.relay import Relay

_LATER: Final[list[Callable[[], None]]] = []


@contextmanager
def _replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _lua(name: str, old: str, new: str) -> Iterator[None]:
    """Change the text of a script."""

    def make(load: Callable[[Client, str], Script]) -> Callable[[Client, str], Script]:
        def changed(client: Client, wanted: str) -> Script:
            script = load(client, wanted)
            if wanted != name:
                return script
            source = str(script.script)
            assert old in source, f"{name}.lua has changed: {old!r} is not in it"
            return client.register_script(source.replace(old, new))

        return changed

    with _replaced(publisher_module, "script_of", make):
        yield


@contextmanager
def publish_before_put() -> Iterator[None]:
    """An artifact is put once its notification has been published."""

    def make(acknowledge: Any) -> Any:
        def acknowledged(self: Relay, done: Any) -> None:
            for put in _LATER:
                put()
            _LATER.clear()
            acknowledge(self, done)

        return acknowledged

    def later(put: Any) -> Any:
        return lambda *args: _LATER.append(lambda: put(*args))

    _LATER.clear()
    with _replaced(Relay, "_acknowledge", make), _replaced(Pipeline, "_put", later):
        yield


@contextmanager
def no_put() -> Iterator[None]:
    """The artifact is verified, and never put."""

    def make(_: Any) -> Any:
        return lambda _self, _event, _artifact, _position: None

    with _replaced(Pipeline, "_put", make):
        yield


@contextmanager
def acknowledge_before_publish() -> Iterator[None]:
    """Entries are acknowledged as their publishing begins."""

    def make(low: Any) -> Any:
        def lowest(self: Relay, run: Any) -> Any:
            found = low(self, run)
            self._control.acknowledge([item.id for item in run])
            return found

        return lowest

    with _replaced(Relay, "_low_without", make):
        yield


@contextmanager
def no_check_of_pending() -> Iterator[None]:
    """Nobody looks whether something is pending that the worker does not hold."""
    with _replaced(Reading, "check_pending", lambda _: lambda _self: None):
        yield


@contextmanager
def low_too_high() -> Iterator[None]:
    """What is held back does not count when the lowest unfinished entry is noted."""
    with _replaced(Holds, "lowest_without", lambda _: lambda _self, _ids: None):
        yield


@contextmanager
def group_at_the_end() -> Iterator[None]:
    """A lost group is made again at `$`."""

    def make(create: Any) -> Any:
        return lambda self, _after: create(self, "$")

    with _replaced(ControlStream, "create_group", make):
        yield


@contextmanager
def overtaken_when_held() -> Iterator[None]:
    """What follows an event that is held back does not wait for it."""
    with _replaced(Holds, "is_turn_of", lambda _: lambda _self, _tenant, **_: True):
        yield


@contextmanager
def no_position() -> Iterator[None]:
    """The Put does not say where in the stream its event stands."""

    def make(put: Any) -> Any:
        def without(self: Pipeline, event: Any, artifact: Any, position: Any) -> None:
            self._orders_fleet = False
            put(self, event, artifact, position)

        return without

    with _replaced(Pipeline, "_put", make):
        yield


def no_fence_of_publish() -> Any:
    """The publish script does not look at the fence."""
    return _lua("publish", "if redis.call('GET', KEYS[1]) ~= ARGV[1]", "if false")


def no_fence_of_bury() -> Any:
    """The script that writes dead letters does not look at the fence."""
    return _lua("bury", "if redis.call('GET', KEYS[1]) ~= ARGV[1]", "if false")


def no_deduplication() -> Any:
    """What the index knows is published again."""
    return _lua(
        "publish",
        "call('HSETNX', shard, id, content .. stamp) == 1",
        "call('HSET', shard, id, content .. stamp)",
    )


def index_keeps_what_failed() -> Any:
    """An event whose notification could not be written counts as published."""
    return _lua("publish", "call('HDEL', shard, id)  -- not published, so not remembered", "")


def letter_without_mark() -> Any:
    """A dead letter's origin is not remembered."""
    return _lua("bury", "('HSET', origin_shard, origin,", "('HSET', origin_shard, 'x',")


def halt_is_ignored() -> Any:
    """A halted stream is published."""
    return _lua("publish", "if redis.call('HEXISTS', KEYS[2], 'reason') == 1", "if false")


MUTANTS: Final[dict[str, Callable[[], Any]]] = {
    mutant.__name__: mutant
    for mutant in (
        publish_before_put,
        no_put,
        acknowledge_before_publish,
        no_check_of_pending,
        low_too_high,
        group_at_the_end,
        overtaken_when_held,
        no_position,
        no_fence_of_publish,
        no_fence_of_bury,
        no_deduplication,
        index_keeps_what_failed,
        letter_without_mark,
        halt_is_ignored,
    )
}
