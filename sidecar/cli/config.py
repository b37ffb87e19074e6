"""`sidecar config show`: the settings, and where each came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, NamedTuple

import typer

from sidecar.cli.histories import Everything
from sidecar.cli.options import Json
from sidecar.cli.told import Told
from sidecar.errors import UsageError
from sidecar.redis.keys import Keys
from sidecar.terminal import output
from sidecar.terminal.environment import FILE
from sidecar.worker import settings

_NOT_SETTINGS: Final = ("json", "help")
_BY_FLAG, _BY_VARIABLE = "COMMANDLINE", "ENVIRONMENT"


class Setting(NamedTuple):
    """One setting of `sidecar run`, as it is now."""

    option: str
    variable: str
    value: object
    """Without secrets; what is meant where nothing was given, None where that is nothing."""
    source: str
    """flag, variable, file or default."""
    where: str
    """The flag, the variable, or the file that it came from."""


def show(
    context: typer.Context, where: Everything, told: Annotated[object, Told], *, json: Json = False
) -> None:
    """Show each setting of `sidecar run`, its value, and where that came from.

    A flag counts before a variable or the file that SIDECAR_…_FILE names (both: exit 2), and these
    before the default. There is no configuration file. Secrets are masked.

    Examples:
      sidecar config show

      sidecar config show --lease 10s --json | jq 'select(.source != "default")'

    """
    try:
        chosen, refusal = settings.build(**vars(where), **vars(told)), None
    except UsageError as error:
        chosen, refusal = None, error
    found = list(_settings(context, _meant(chosen) if chosen else {}))
    if json:
        for one in found:
            output.json_line(one._asdict())
    else:
        rows = [(one.option, _text(one.value), f"{one.source} {one.where}") for one in found]
        output.table(("setting", "value", "from"), rows)
    if refusal:
        raise refusal


def _settings(context: Any, meant: Mapping[str, object]) -> Iterator[Setting]:  # noqa: ANN401 -- click's, or typer's
    for one in context.command.params:
        if one.name not in _NOT_SETTINGS:
            option = max(one.opts, key=len)
            value = settings.shown(one.name, context.params[one.name])
            value = meant.get(one.name) if value is None else value
            how = context.get_parameter_source(one.name).name
            yield Setting(option, one.envvar, value, *_origin(how, option, one.envvar))


def _origin(how: str, option: str, variable: str) -> tuple[str, str]:
    if how == _BY_FLAG:
        return "flag", option
    if how != _BY_VARIABLE:
        return "default", ""
    file = os.environ.get(variable + FILE)
    return ("file", f"{file} ({variable}{FILE})") if file else ("variable", variable)


def _meant(chosen: settings.Settings) -> dict[str, object]:
    """Return what is meant by what was not given."""
    keys = Keys.of(chosen.streams[0], chosen.notify_stream, chosen.dead_stream)
    urls = {"source_store": chosen.source_url, "fleet_store": chosen.fleet_url}
    redis = settings.shown("redis", chosen.redis) or f"the embedded server under {chosen.data_dir}"
    notify_redis = settings.shown("notify_redis", chosen.notify_redis) or redis
    return {
        "redis": redis, "notify_redis": notify_redis, "dead_stream": keys.dead,
        **{name: settings.shown(name, url) for name, url in urls.items()},
    }  # fmt: skip


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)
