"""Streams that were named and are not there, or that nobody serves, and which one was meant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from sidecar.redis.beside import led_to
from sidecar.redis.client import Client, Side, connect
from sidecar.redis.errors import RedisError
from sidecar.redis.keys import Keys
from sidecar.redis.members import registered_workers
from sidecar.wire.defaults import STREAM
from sidecar.wire.names import nearest
from sidecar.wire.urls import redact


def unknown(control: Side, notify: Side, keys: Sequence[Keys]) -> list[str]:
    """Say which of the streams are not there or not served, though others of the fleet are.

    What may not be looked at, or cannot be reached, is left to others to say.
    """
    found = [said for one in keys for said in _unserved(notify.client, one)]
    with suppress(RedisError):
        known = {name for one in keys for name in led_to(control.at(one.control), one.control)}
        found += _absent(notify, keys[0], known)
    return found


def unserved(url: str, stream: str, notify_stream: str) -> list[str]:
    """Say that workers have registered at `url`, and none of them serves the control stream.

    Raises `UsageError` for a name or a URL that is none.
    """
    if _is_confined(url):
        return []
    return _unserved(connect(url, key=notify_stream), Keys.of(stream, notify_stream))


def _unserved(client: Client, keys: Keys) -> list[str]:
    with suppress(RedisError):
        served = {name for one in registered_workers(client, keys) for name in one.serves}
        if served and keys.control not in served:
            return [f"no worker serves the stream {keys.control}{_meant(keys.control, served)}"]
    return []


def nothing_in(client: Client, url: str, stream: str, since: str | None) -> str:
    """Say that a notification stream has nothing after `since`, or is not there.

    Raises `RedisError`.
    """
    window = f" since {since}" if since else ""
    place = f"in {stream}" if client.exists(stream) else f"for there is no stream {stream}"
    return f"there is no notification{window} {place} on {redact(url)}"


def meant(control_url: str, name: str) -> str:
    """Say which notification stream is like one that is not there; empty where that is unknown.

    Raises `UsageError` for a URL that is none.
    """
    if _is_confined(control_url):
        return ""
    with suppress(RedisError):
        known = set(led_to(connect(control_url, key=STREAM), STREAM)) - {name}
        return _meant(name, known) if known else ""
    return ""


def _is_confined(url: str) -> bool:
    """Tell whether a user of Redis has a name: a producer or a controller may not look around, and
    Redis logs what it denies.
    """
    return bool(urlsplit(url).username)


def _absent(notify: Side, keys: Keys, known: set[str]) -> list[str]:
    name = keys.notifications
    if not known - {name} or notify.client.exists(name, keys.stream):
        return []
    place = f"on {redact(notify.url)}, and no worker has served it"
    return [f"there is no stream {name} {place}{_meant(name, known)}"]


def _meant(name: str, known: set[str]) -> str:
    like = nearest(name, known)
    return f"; is {like} meant?" if like else f"; there is {', '.join(sorted(known))}"
