"""The deployments that share a control stream: each has a group on it, and all of its events.

A mistyped name of a notification stream makes another deployment: everything is published again,
where nobody reads, and what its group has not finished is never trimmed.
"""

from __future__ import annotations

from sidecar.errors import UsageError
from sidecar.redis.client import Client
from sidecar.redis.groups import group_of, groups_at
from sidecar.redis.keys import GROUP, Keys
from sidecar.wire.names import is_slip, nearest


def led_to(client: Client, stream: str) -> list[str]:
    """Return the notification streams that a control stream leads to, or once did.

    Raises `RedisError`.
    """
    names = [one["name"].decode(errors="backslashreplace") for one in groups_at(client, stream)]
    return sorted(name.removeprefix(GROUP) for name in names if name.startswith(GROUP))


def was_read(control: Client, keys: Keys) -> bool:
    """Tell whether a worker has read the control stream for this notification stream before.

    Raises `RedisError`.
    """
    return group_of(control, keys.control, keys.group) is not None


def second(control: Client, notify: Client, keys: Keys, *, wanted: bool) -> str:
    """Say that a worker begins a second deployment of a control stream; empty when it does not.

    Raises `UsageError` where the name looks like a slip, unless that is `wanted`; `RedisError`.
    """
    if was_read(control, keys) or notify.exists(keys.notifications, keys.stream):
        return ""
    others = led_to(control, keys.control)
    if not others or keys.notifications in others:  # another worker of this one began just now
        return ""
    like = nearest(keys.notifications, [one for one in others if is_slip(keys.notifications, one)])
    if like and not wanted:
        raise UsageError(
            f"--notify-stream {keys.notifications!r}: nobody has used this name, and"
            f" {keys.control} leads to {like!r}; is that one meant? For a second deployment, which"
            " publishes everything again, give --second-deployment"
        )
    return (
        f"{keys.control} leads to {', '.join(others)} already; this worker publishes all of it"
        f" again, to {keys.notifications}, and what it has not finished is not trimmed"
    )
