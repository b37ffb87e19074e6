"""Options in groups: dataclasses whose fields are options, flattened into a command's signature.

An option is declared once: `dry_run: bool = flag("Tell what would be done.")` is `--dry-run`
and the variable `SIDECAR_DRY_RUN`, with its default, its help and its unit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo, ParameterInfo

from sidecar.errors import UsageError

PREFIX: Final = "SIDECAR_"
NO_VARIABLE: Final = ""
"""The `envvar` of an option that no variable sets."""
REQUIRED: Final = MISSING
"""The default of an option that has none."""
_ABOUT: Final = "about"
_UNIT: Final = "unit"


def option(
    default: Any,  # noqa: ANN401 -- of the field's type, or a text that means one
    help_: str,
    metavar: str | None = None,
    *flags: str,
    unit: Callable[[str], Any] | None = None,
    **more: Any,  # noqa: ANN401 -- as typer.Option
) -> Any:  # noqa: ANN401 -- as dataclasses.field
    """Declare an option as a field of a group.

    `flags` are its own where they do not follow from its name. `unit` reads its text, or each of
    several, and raises `ValueError` for one that means nothing.
    """
    return _field(default, typer.Option(*flags, metavar=metavar, help=help_, **more), unit)


def flag(help_: str, *flags: str) -> Any:  # noqa: ANN401 -- as dataclasses.field
    """Declare an option that is off unless it is given."""
    return option(False, help_, None, *flags)  # noqa: FBT003 -- the default


def argument(default: Any, metavar: str, help_: str) -> Any:  # noqa: ANN401 -- as dataclasses.field
    """Declare an argument as a field of a group."""
    return _field(default, typer.Argument(metavar=metavar, help=help_), None)


def _field(default: Any, about: ParameterInfo, unit: Callable[[str], Any] | None) -> Any:  # noqa: ANN401
    metadata = {_ABOUT: about, _UNIT: unit}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def flattened(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with the fields of its groups in their place, as typer wants it."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    flat = []
    for name, one in inspect.signature(function).parameters.items():
        group = _group_of(hints[name])
        if group is None:
            flat.append(_parameter(name, one.default, *_parted(hints[name])))
        else:
            groups[name] = group
            flat += _fields_of(group)

    def command(**given: Any) -> None:  # noqa: ANN401 -- of as many types as there are options
        made = {name: _made(group, given) for name, group in groups.items()}
        function(**given, **made)

    command.__doc__ = function.__doc__
    command.__annotations__ = {one.name: one.annotation for one in flat}
    vars(command)["__signature__"] = inspect.Signature(flat)
    return command


def _made(group: Any, given: dict[str, Any]) -> Any:  # noqa: ANN401 -- a dataclass, and one of it
    """Take what the group has out of what is given. Raises `UsageError`."""
    return group(**{one.name: _read(one, given.pop(one.name)) for one in fields(group)})


def _read(one: Field[Any], value: Any) -> Any:  # noqa: ANN401 -- of the field's type
    unit = one.metadata[_UNIT]
    if unit is None or value is None:
        return value
    flag_ = _flag_of(one.name, one.metadata[_ABOUT])
    if isinstance(value, list):
        return [read(unit, flag_, text) for text in value]
    return read(unit, flag_, value)


def read(unit: Callable[[str], Any], name: str, text: str) -> Any:  # noqa: ANN401 -- of the unit
    """Return what the text of an option means in its unit. Raises `UsageError`."""
    try:
        return unit(text)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{name}: {error}") from None


def _group_of(hint: Any) -> Any:  # noqa: ANN401 -- a type, or None
    candidates = (hint, *get_args(hint))
    return next((one for one in candidates if isinstance(one, type) and is_dataclass(one)), None)


def _fields_of(group: Any) -> Iterator[inspect.Parameter]:  # noqa: ANN401 -- a dataclass
    hints = get_type_hints(group)
    for one in fields(group):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        shape = hints[one.name]
        if one.metadata[_UNIT] and not _is_repeatable(shape):
            shape = str | None if default is None else str
        default = inspect.Parameter.empty if default is REQUIRED else default
        yield _parameter(one.name, default, shape, one.metadata[_ABOUT])


def _is_repeatable(hint: Any) -> bool:  # noqa: ANN401 -- a type
    return any(get_origin(one) is list for one in (hint, *get_args(hint)))


def _parted(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 -- a type
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def _parameter(name: str, default: Any, shape: Any, *about: Any) -> inspect.Parameter:  # noqa: ANN401
    named = [_named(name, one) if isinstance(one, OptionInfo) else one for one in about]
    shape = Annotated[shape, *named] if named else shape
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=shape
    )


def _named(name: str, about: OptionInfo) -> OptionInfo:
    """Return an option with its flag, and the variable that goes with that."""
    long, named = _flag_of(name, about), copy(about)
    if not _declared(about):
        named.param_decls = [long]
    named.envvar = None
    if about.envvar != NO_VARIABLE and not about.hidden:
        word = long.partition("/")[0].removeprefix("--")
        named.envvar = PREFIX + word.replace("-", "_").upper()
    return named


def _flag_of(name: str, about: ParameterInfo) -> str:
    return max(_declared(about), key=len, default="--" + name.strip("_").replace("_", "-"))


def _declared(about: ParameterInfo) -> list[str]:
    first = () if about.default is ... else (about.default,)
    return [*first, *(about.param_decls or ())]
