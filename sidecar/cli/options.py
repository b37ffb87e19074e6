"""The options that commands share, in groups, with what they mean.

A flag, its help and its check are declared once, here or beside the one command that has it; see
`sidecar.terminal.groups` for how a name becomes a flag and a variable. Those of `sidecar run` are
in `sidecar.worker.settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sidecar.errors import UsageError
from sidecar.redis.client import check_url
from sidecar.redis.keys import check_control, check_name
from sidecar.terminal.environment import filed
from sidecar.terminal.groups import option
from sidecar.wire.defaults import DATA_DIR, NOTIFY_STREAM, STREAM
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust

CONNECTION: Final = "Connection"
"""Where the help shows what leads to servers and stores: after a command's own options."""
connection: Final = partial(option, rich_help_panel=CONNECTION)
"""Declare an option that leads to servers or stores."""


def store_at(help_: str) -> Any:  # noqa: ANN401 -- as option
    """Declare the URL of a store that need not be given."""
    return connection(None, help_, "URL", unit=_checked_store)


def _checked_store(text: str) -> str:
    """Return the URL. Raises `UsageError` where no backend would open it."""
    from sidecar.stores import check_store  # with the backends: a help has no use for them

    check_store(text)
    return text


def verify_by(help_: str) -> Any:  # noqa: ANN401 -- as option
    """Declare the directory of the keys that are trusted."""
    return option(None, help_, "DIR", unit=trusted)


def trusted(directory: str) -> Trust:
    """Return the keys in a directory. Raises `UsageError`, which does not repeat its name."""
    try:
        return Trust(directory)
    except UsageError as error:
        raise UsageError(str(error).replace(str(Path(directory)), "the directory")) from None


def signing(path: str) -> Signer:
    """Return what signs with the key in a file. Raises `UsageError`, which does not repeat its
    name: it may be a secret that was typed in its place.
    """
    try:
        return Signer(Path(path))
    except UsageError as error:
        raise UsageError(str(error).replace(str(Path(path)), "the file")) from None


def redis_at(help_: str) -> Any:  # noqa: ANN401 -- as option
    """Declare the URL of a Redis: out of a file, its login is read there again."""
    return connection(None, help_, "URL", unit=checked_redis)


def checked_redis(text: str) -> str:
    """Return the URL. Raises `UsageError` for one that is none."""
    check_url(text)
    return filed(text)


def checked_ref(text: str) -> str:
    """Return a ref, or nothing. Raises `UsageError`."""
    from sidecar.stores import explained  # as above
    from store import check_ref

    if text:
        with explained():
            check_ref(text)
    return text


# What several groups have.


def data_dir() -> Any:  # noqa: ANN401 -- as option
    """Declare --data-dir."""
    return connection(DATA_DIR, "Where the embedded server and stores live.")


def redis_url() -> Any:  # noqa: ANN401 -- as option
    """Declare --redis."""
    return redis_at(
        "Redis with the control stream: redis://, rediss://, unix://, redis+sentinel:// or"
        " redis+cluster://. Default: the embedded server."
    )


def stream(
    default: str | list[str] | None,
    help_: str,
    *flags: str,
    unit: Callable[[str], str] = check_control,
) -> Any:  # noqa: ANN401 -- as option
    """Declare the name of a stream."""
    return connection(default, help_, "NAME", *flags, unit=unit)


def notify_stream() -> Any:  # noqa: ANN401 -- as option
    """Declare --notify-stream."""
    return stream(NOTIFY_STREAM, "Notification stream.", unit=check_name)


def dead_stream() -> Any:  # noqa: ANN401 -- as option
    """Declare --dead-stream."""
    return stream(None, "Dead-letter stream. Default: {NOTIFY_STREAM}:dead.", unit=check_name)


# What is asked of all logs whose events name a store: nothing of what one of them needs may go.


def notify_redis_of_all(stores: str) -> Any:  # noqa: ANN401 -- as option
    """Declare --notify-redis, repeatable."""
    return connection(
        None,
        "Redis with a notification stream. Repeatable: one for each log that publishes into"
        f" {stores}. Default: the same.",
        "URL", unit=checked_redis,
    )  # fmt: skip


def stream_besides() -> Any:  # noqa: ANN401 -- as option
    """Declare --stream, repeatable."""
    help_ = "Control stream besides those that are found. Repeatable. Default:"
    return stream(None, f"{help_} {STREAM}, if there is one.")


def dead_stream_besides() -> Any:  # noqa: ANN401 -- as option
    """Declare --dead-stream, repeatable."""
    return stream(None, "Dead-letter stream besides those that are found. Repeatable.")


def fleet_store() -> Any:  # noqa: ANN401 -- as option
    """Declare --fleet-store."""
    return store_at("The fleet's store. Default: DATA_DIR/fleet.")


Json = Annotated[bool, typer.Option(help="One JSON object a line, for machines.")]
DryRun = Annotated[bool, typer.Option(help="Show what would be removed.")]


Bundle = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        rich_help_panel=CONNECTION,
        help="Read what `replay export` wrote, in place of Redis and the stores.",
    ),
]


def _refuse_bundle(context: typer.Context, bundle: Path | None) -> None:
    if bundle is not None:
        raise UsageError(
            f"--bundle: `{context.command_path}` works on a live system only; of a bundle"
            " `sidecar replay` and `sidecar dead ls` show what happened, and `sidecar trace ID`"
            " shows one event or dead letter"
        )


LiveOnly = Annotated[
    Path | None,
    typer.Option("--bundle", hidden=True, callback=_refuse_bundle, expose_value=False),
]
"""For commands that cannot do with a bundle: the error names the commands that can."""
