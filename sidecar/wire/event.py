"""The inbound contract: one entry of the control stream, decoded and checked.

`decode` turns an entry's fields into an `Event` or raises `Rejected` with the dead-letter
reason. The rules are those of docs/contract.md, "Control entry and event"; the order of the checks
is that of docs/contract.md, "Dead letters".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final, NoReturn

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator, core_schema

from sidecar.lines import visible

RESERVED: Final = ".sidecar/"
"""Refs under it are the sidecar's own: its archive lies there, and no event may write into that."""
MAX_ENTRY_BYTES: Final = 16 * 1024
MAX_NESTING: Final = 64
MAX_NAME_CHARS: Final = 256
"""So long may an event_id, a type, a tenant and a stack be."""
MAX_SHOWN_CHARS: Final = 60
"""So much of a wrong value is told."""

KNOWN_TYPES: Final = frozenset({
    "stack.activated",
    "tenant.created",
    "hostname.bound",
    "hostname.verified",
    "hostname.revoked",
    "actor.changed",
    "key.changed",
    "membership.changed",
    "entitlement.updated",
    "system.opstack.updated",
    "dns.zone.upserted",
    "cron.settings.upserted",
    "run.abort",
})  # fmt: skip


class Reason(StrEnum):
    """Why an entry ended as a dead letter. Public: docs/contract.md, "Dead letters"."""

    ENTRY_LOST = "entry_lost"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    INVALID_EVENT = "invalid_event"
    UNKNOWN_TYPE = "unknown_type"
    FORBIDDEN_ID = "forbidden_id"
    BAD_REF = "bad_ref"
    FORBIDDEN_REF = "forbidden_ref"
    ID_CONFLICT = "id_conflict"
    ARTIFACT_MISSING = "artifact_missing"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    ARTIFACT_TOO_LARGE = "artifact_too_large"
    POISON = "poison"


class Rejected(Exception):
    """An entry that can never become a notification, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


_RFC3339: Final = (
    r"^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))?$"
)
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
UInt64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
Checksum = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]


class Event(BaseModel):
    """A control event. Zero values stand for absent fields; unknown fields are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: Int64 = 0
    event_id: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    type: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    tenant_id: Annotated[str, Field(max_length=MAX_NAME_CHARS)] = ""
    stack_id: Annotated[str, Field(max_length=MAX_NAME_CHARS)] = ""
    version: Int64 = 0
    base_version: Int64 = 0
    artifact_ref: str = ""
    checksum: Checksum = ""
    manifest_checksum: Checksum = ""
    control_version: UInt64 = 0
    created_at: Annotated[str, Field(max_length=64, pattern=_RFC3339)] = ""

    @property
    def whose(self) -> str:
        """Tenant, stack and version, for a person."""
        owner = "/".join(part for part in (self.tenant_id, self.stack_id) if part) or "-"
        return f"{owner}@{self.version}" if self.version else owner


FIELDS: Final = tuple(Event.model_fields)
_FIELD_SET: Final = frozenset(FIELDS)
_EVER_CHECKED: Final = frozenset({
    "id", "event_id", "type", "tenant_id", "stack_id", "version", "base_version", "artifact_ref",
    "checksum", "manifest_checksum", "control_version", "created_at",
})  # fmt: skip
"""The fields of the first release. Each later one was unknown once, and passed with any value."""
_LATER: Final = _FIELD_SET - _EVER_CHECKED
"""Their zero values stay as they came: a digest is the same before and after they are known."""
_MAKE: Final[Callable[[Any], Event]] = Event.__pydantic_validator__.validate_python
_PLAIN: Final = core_schema.typed_dict_schema(
    {
        name: core_schema.typed_dict_field(
            TypeAdapter(field.rebuild_annotation()).core_schema, required=field.is_required()
        )
        for name, field in Event.model_fields.items()
        if name in _EVER_CHECKED
    },
    extra_behavior="forbid", config=core_schema.CoreConfig(strict=True),
)  # fmt: skip
"""The rules of `Event` for a dict of what is there: to make a model as well takes twice as long."""
_VALIDATE_PLAIN: Final = SchemaValidator(_PLAIN).validate_json
_NOT_CONTENT: Final = frozenset({"id", "created_at", "control_version", "manifest_checksum"})


def entry_size_bytes(fields: Mapping[bytes, bytes]) -> int:
    """Return the size of an entry: all field names and values added up."""
    return sum(map(len, fields)) + sum(map(len, fields.values()))


def decode(
    fields: Mapping[bytes, bytes], size_bytes: int | None = None, *, recorded: bool = False
) -> tuple[Event, dict[str, Any]]:
    """Decode one entry of the control stream.

    `size_bytes` is the entry's size where `fields` does not show it: a name may be repeated.
    With `recorded` it is history, which another release may have judged: see `before_its_rule`.
    Returns the checked event and its JSON object as it came, without the fields of the first
    release that are null or zero. Raises `Rejected` (too_large, malformed, invalid_event).
    """
    raw = _raw_event(fields, size_bytes)
    body = _plainly_valid(raw)
    return (_MAKE(body), body) if body else _check(_parse(raw), recorded=recorded)


def decode_body(fields: Mapping[bytes, bytes], size_bytes: int | None = None) -> dict[str, Any]:
    """Return the JSON object alone that `decode` returns; `event_of` makes the event of it.

    Raises `Rejected` as `decode` does.
    """
    raw = _raw_event(fields, size_bytes)
    return _plainly_valid(raw) or _check(_parse(raw), recorded=False)[1]


def event_of(body: Mapping[str, Any]) -> Event:
    """Return the event of what `decode_body` returned."""
    return _MAKE({k: v for k, v in body.items() if v is not None or k not in _LATER})


def _raw_event(fields: Mapping[bytes, bytes], size_bytes: int | None) -> bytes:
    """Return the field `event` of an entry that is not too large. Raises `Rejected`."""
    size_bytes = entry_size_bytes(fields) if size_bytes is None else size_bytes
    if size_bytes > MAX_ENTRY_BYTES:
        raise Rejected(
            Reason.TOO_LARGE, f"the entry has {size_bytes} bytes; at most {MAX_ENTRY_BYTES} fit"
        )
    raw = fields.get(b"event")
    if raw is None:
        raise Rejected(Reason.MALFORMED, "the entry has no field named event")
    return raw


def before_its_rule(error: ValidationError) -> frozenset[str]:
    """Return the fields that are wrong, where a worker may have published them so; else none.

    A release that did not know a field passed it on unchecked. Readers leave such a value with the
    unknown fields, and the field is absent.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    wrong = frozenset(str(one["loc"][0]) if one["loc"] else "event_id" for one in problems)
    return wrong if wrong.isdisjoint(_EVER_CHECKED) else frozenset()


def content_digest(body: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that tell two events with one event_id apart by what they say.

    The SHA-256 of the canonical JSON without `id`, `created_at`, `control_version` and
    `manifest_checksum`, which a producer that retries may change.
    """
    content = {key: value for key, value in body.items() if key not in _NOT_CONTENT}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()[:16]


def named(event: Event | None, fields: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return tenant and event_id; of an entry whose event is broken, as far as they can be read."""
    if event:
        return event.tenant_id, event.event_id
    try:
        tenant, event_id = _texts(fields, "tenant_id", "event_id")
    except (ValueError, RecursionError):  # a record of redriving has no event
        return "", fields.get(b"event_id", b"").decode(errors="backslashreplace")
    return tenant, event_id


def type_and_ref(event: Event | None, fields: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return type and ref as `named` does."""
    if event:
        return event.type, event.artifact_ref
    try:
        type_, ref = _texts(fields, "type", "artifact_ref")
    except (ValueError, RecursionError):
        return "", ""
    return type_, ref


def _texts(fields: Mapping[bytes, bytes], *names: str) -> list[str]:
    """Return these texts of an entry's event; each empty where it is no text.

    Raises `ValueError` or `RecursionError` where the event is no JSON.
    """
    body = json.loads(fields.get(b"event", b""))
    found = [body.get(name) if isinstance(body, dict) else None for name in names]
    return [one if isinstance(one, str) else "" for one in found]


def _plainly_valid(raw: bytes) -> dict[str, Any] | None:
    """Parse and check in one go what nearly every producer sends: known fields, and no nesting.

    Returns None for anything else, unknown fields included: the careful way round then keeps
    what is to be kept, and says what is wrong.
    """
    if b"[" in raw or raw.count(b"{") != 1:
        return None
    try:
        body: dict[str, Any] = _VALIDATE_PLAIN(raw)
    except ValidationError:
        return None
    _agree(body)
    return body if all(body.values()) else {key: value for key, value in body.items() if value}


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
        if raw.count(b"[") + raw.count(b"{") > MAX_NESTING:
            _bound_nesting(text)
        body = (_ZERO_DECODER if _NEGATIVE_ZERO.search(raw) else _DECODER).decode(text)
        if isinstance(body, dict):
            return _encodable(body)
    except UnicodeDecodeError as error:
        raise Rejected(Reason.MALFORMED, f"event is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.MALFORMED, f"event is not one JSON object: {error}") from error
    raise Rejected(Reason.MALFORMED, f"event is a JSON {type(body).__name__}, not an object")


def _check(body: dict[str, Any], *, recorded: bool) -> tuple[Event, dict[str, Any]]:
    if not body.keys() <= _FIELD_SET:
        _refuse_other_case(body, _EVER_CHECKED if recorded else _FIELD_SET)
    has_zeros = not all(body.values())
    if has_zeros:
        body = {k: v for k, v in body.items() if v is not None or k not in _EVER_CHECKED}
    given = {k: v for k, v in body.items() if v is not None or k not in _LATER}
    try:
        event = Event.model_validate(given)
    except ValidationError as error:
        unchecked = before_its_rule(error) if recorded else None
        if not unchecked:
            raise Rejected(Reason.INVALID_EVENT, _first_problem(error)) from error
        event = Event.model_validate({k: v for k, v in given.items() if k not in unchecked})
    _agree(vars(event))
    if has_zeros:
        body = {k: v for k, v in body.items() if v or k not in _EVER_CHECKED}
    return event, body


def _agree(event: Mapping[str, Any]) -> None:
    """Check what the types of its fields do not say."""
    if not event["event_id"].isprintable():
        _invalid("event_id", "has a character that is not printable")
    if event.get("artifact_ref") and not event.get("checksum"):
        _invalid("checksum", "an event with artifact_ref needs the checksum of its data")
    if event["type"] == "stack.activated":
        for field in ("tenant_id", "stack_id"):
            if not event.get(field):
                _invalid(field, "stack.activated needs it")
        if event.get("version", 0) <= 0:
            _invalid("version", "stack.activated needs a version above 0")
    created_at = event.get("created_at", "")
    if created_at[8:10] > "28":
        _day_exists(created_at)


def _day_exists(created_at: str) -> None:
    """Refuse 30 February, which the pattern lets through and Go's time.Time does not."""
    try:
        date.fromisoformat(created_at[:10])
    except ValueError as error:
        _invalid("created_at", str(error))


def _invalid(field: str, problem: str) -> NoReturn:
    raise Rejected(Reason.INVALID_EVENT, f"{field}: {problem}")


def _refuse_other_case(body: Mapping[str, Any], names: frozenset[str]) -> None:
    for key in body:
        if key not in names and key.casefold() in names:
            raise Rejected(
                Reason.INVALID_EVENT,
                f"{key.casefold()}: spelt {key!r}; a Go reader would take that for the field",
            )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    said = f"{first['loc'][0]}: {first['msg']}"
    return said if first["type"] == "missing" else f"{said}, not {_shown(first['input'])}"


def _shown(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    """Return the beginning of a value, as JSON; what cannot be printed is escaped."""
    text = orjson.dumps(value).decode()
    cut = text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"
    return visible(cut)


# --- JSON as the contract wants it -------------------------------------------------------------
#
# The standard library's parser keeps integers exact, and shows each other number's text, so
# that what is not ours passes through digit by digit. orjson writes, and `Fragment` is how it
# is told to write a text as it stands.


def _number_as_written(literal: str) -> orjson.Fragment:
    if math.isinf(float(literal)):
        raise ValueError(f"no double holds the number {literal[:40]}")
    return orjson.Fragment(literal)


def _no_such_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not a JSON number")


_DECODER: Final = json.JSONDecoder(parse_float=_number_as_written, parse_constant=_no_such_constant)
# An integer's hook would cost every event; only -0 needs one, which no Python integer is.
_NEGATIVE_ZERO: Final = re.compile(rb"-0[\s,\]}]")
_ZERO_DECODER: Final = json.JSONDecoder(
    parse_float=_number_as_written,
    parse_constant=_no_such_constant,
    parse_int=lambda literal: orjson.Fragment(literal) if literal == "-0" else int(literal),
)
# Takes time in proportion to the text: a string that does not end goes to the end of the text, and
# nothing is tried twice (`*+`).
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[\[{\]}]', re.DOTALL)


def _bound_nesting(text: str) -> None:
    """Refuse deep nesting before the parser sees it: its own bound differs between Pythons."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group(), 0)
        if depth > MAX_NESTING:
            raise ValueError(f"nested deeper than {MAX_NESTING}")


def _encodable(body: dict[str, Any]) -> dict[str, Any]:
    """Return `body` such that orjson writes it: nearly always as it is."""
    try:
        orjson.dumps(body)
    except TypeError:
        return {_text(key): _value(value) for key, value in body.items()}
    return body


def _value(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(key): _value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return _wide_integer(value)
    return value


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate") from None
    return text


def _wide_integer(value: int) -> orjson.Fragment:
    try:
        float(value)
    except OverflowError:
        raise ValueError("no double holds one of its integers") from None
    return orjson.Fragment(str(value))
