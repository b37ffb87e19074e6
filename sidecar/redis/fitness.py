"""Whether the servers, as they are now, can keep the guarantees: asked before each tenure.

And asked in a tenure, when a connection was made anew: another server may answer by now.

A server that takes over may be set up otherwise than the one before. And keys that begin with
`{x}:` may be those of the stream `x` or of `{x}`: `{N}:stream` says whose they are.

What controllers may write to is there from the first tenure on, as what it is. On Redis 6.2 the
right to write a reader's key is one to make any key that they may read, while that is not there.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sidecar.errors import UsageError
from sidecar.redis.client import Client, Side, check_server, connects
from sidecar.redis.errors import Full, NotPermitted, RedisError, is_full, translated
from sidecar.redis.fleet import FORMAT, format_of
from sidecar.redis.keys import Keys
from sidecar.wire.urls import redact


@dataclass(frozen=True, slots=True)
class Fitness:
    """The two servers of one control stream. Not for use from several threads."""

    control: Side
    notify: Side
    keys: Keys

    def check(self) -> None:
        """Raise `SidecarError`, in words for a person, when a guarantee would not hold.

        A replica passes here: what it refuses has better words (`fix_of`).
        """
        check_format(self.notify.client, self.notify.url, self.keys)
        check_server(self.control.client, self.control.url, writes=False)
        if self.notify.url != self.control.url:
            check_server(self.notify.client, self.notify.url, writes=False)
        if check_owner(self.notify.client, self.notify.url, self.keys) is None:
            with translated(self.notify.url):
                self.notify.client.set(self.keys.stream, self.keys.notifications, nx=True)
            check_owner(self.notify.client, self.notify.url, self.keys)
        with translated(self.notify.url):
            with suppress(NotPermitted, Full):  # full: at the next tenure
                self.notify.client.set(letters_of(self.keys), self.keys.notifications, nx=True)
            _reserve(self.notify.client, self.keys)
        check_letters(self.notify.client, self.notify.url, self.keys)

    def connects(self) -> int:
        """Return how often the connections that are asked here were made."""
        return connects(self.control.client) + connects(self.notify.client)


def _reserve(client: Client, keys: Keys) -> None:
    """Make the keys that controllers read or add to, where they are not there. Raises `RedisError`.

    An empty name keeps each: no stream and no reader has it.
    """
    if client.exists(keys.trimmed, keys.incarnations, keys.registered) == 3:  # noqa: PLR2004
        return
    with client.pipeline(transaction=False) as pipeline:
        pipeline.hsetnx(keys.trimmed, "", "")
        pipeline.hsetnx(keys.incarnations, "", "")
        pipeline.sadd(keys.registered, "")
        answers = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, RedisError) and not is_full(answer):  # full: at the next tenure
            raise answer


def check_format(client: Client, url: str, keys: Keys) -> None:
    """Raise `UsageError` where a newer release made the keys: it may mean other things by them.

    Raises what `translated` raises.
    """
    with translated(url):
        found = format_of(client, keys)
    if found != FORMAT:
        raise UsageError(
            f"--notify-stream {keys.notifications!r}: on {redact(url)} the keys {keys.prefix}:…"
            f" have the format {found[:20]!r}, and this release reads {FORMAT!r}; use the release"
            " that made them, or a newer one"
        )


def check_owner(client: Client, url: str, keys: Keys) -> str | None:
    """Return for which notification stream the keys are noted to be, None while for none.

    Raises `UsageError` when it is another than that of `keys`, and what `translated` raises.
    """
    with translated(url):
        noted: Any = client.get(keys.stream)
    if noted is None:
        return None
    owner = str(noted.decode(errors="backslashreplace"))
    if owner != keys.notifications:
        raise UsageError(
            f"--notify-stream {keys.notifications!r}: on {redact(url)} the keys {keys.prefix}:…"
            f" belong to the notification stream {owner!r}; choose a name that differs in more"
            f" than braces or, if {owner!r} is no longer used, delete the key {keys.stream}"
        )
    return owner


def letters_of(keys: Keys) -> str:
    """Return the key that says whose the dead letters are: as for the keys of a stream, of the one
    beside which they lie by default, else of their own.
    """
    beside = keys.dead.removesuffix(":dead") if "{" in keys.dead else "{" + keys.dead + "}"
    return f"{beside}:stream"


def check_letters(client: Client, url: str, keys: Keys) -> None:
    """Raise `UsageError` where the dead-letter stream is another notification stream's, or is one.

    An origin does not say by which of two an entry is dead. Nothing is told where this user may
    not read the note. Raises what `translated` raises.
    """
    with translated(url):
        try:
            noted: Any = client.get(letters_of(keys))
        except NotPermitted:
            return
    if noted is not None and noted != keys.notifications.encode():
        raise UsageError(
            f"--dead-stream {keys.dead!r}: on {redact(url)} it belongs to the notification stream"
            f" {noted.decode(errors='backslashreplace')!r}; choose another name or, if that is no"
            f" longer used, delete the key {letters_of(keys)}"
        )
