"""The outbound contract: the reference-only notification, as written and as read.

Its fields are public: docs/contract.md, "Notification".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self, cast

import orjson
from pydantic import ConfigDict, ValidationError
from pydantic_core import from_json

from sidecar.wire import signature
from sidecar.wire.event import FIELDS, Event, Reason, Rejected, before_its_rule

MAX_NOTIFICATION_BYTES: Final = 8 * 1024

ALWAYS: Final = frozenset({"id", "event_id", "type", "control_version"})
"""The fields of the event that a notification has also where they are zero."""
_OPTIONAL: Final = frozenset({*FIELDS, "traceparent"}) - ALWAYS
_STAMP: Final = b'"control_version":'
_STAMP_DIGITS: Final = 16
"""Digits of a control_version: microseconds since the epoch have sixteen until the year 2286."""
_FITS_ALWAYS_BYTES: Final = 4 * 1024
"""So much of JSON and traceparent leaves room for the longest origin, a signature and the rest."""
_MANIFEST_CHECKSUM_BYTES: Final = len(',"manifest_checksum":"sha256:"') + 64


def unstamped(body: Mapping[str, Any], manifest_checksum: str) -> bytes:
    """Return the notification's JSON up to where the value of `control_version` goes.

    The publish script appends the number and a brace: scripts splice, they never re-encode.
    `body` is that of `event.decode`: without zero values, as the Go side leaves them out.
    """
    out = {"id": 0, **body}
    out.pop("control_version", None)
    if manifest_checksum:
        out["manifest_checksum"] = manifest_checksum
    return orjson.dumps(out)[:-1] + b"," + _STAMP


def size_bytes(
    unstamped_json: bytes, origin: str, traceparent: bytes, *, stamps_manifest: bool,
    signs: bool = False,
) -> int:  # fmt: skip
    """Return the size of the notification that will come of it: names and values added up.

    `stamps_manifest` tells that a manifest checksum will be added to `unstamped_json` later, and
    `signs` that it will be signed: room is left for the largest signature.
    """
    size = len(b"event") + len(unstamped_json) + _STAMP_DIGITS + 1
    size += len(b"origin") + len(origin.encode())
    size += len(b"traceparent") + len(traceparent) if traceparent else 0
    size += signature.MOST_BYTES if signs else 0
    return size + (_MANIFEST_CHECKSUM_BYTES if stamps_manifest else 0)


def check_size(
    unstamped_json: bytes, origin: str, traceparent: bytes, *, stamps_manifest: bool,
    signs: bool = False,
) -> None:  # fmt: skip
    """Raise `Rejected` where the notification would be too large; see `size_bytes`."""
    if len(unstamped_json) + len(traceparent) <= _FITS_ALWAYS_BYTES:
        return
    size = size_bytes(
        unstamped_json, origin, traceparent, stamps_manifest=stamps_manifest, signs=signs
    )
    if size > MAX_NOTIFICATION_BYTES:
        raise Rejected(
            Reason.TOO_LARGE,
            f"its notification would have {size} bytes; at most {MAX_NOTIFICATION_BYTES} fit",
        )


class Notification(Event):
    """What a fleet controller reads: the event, its position, and where it came from."""

    # Strings seldom repeat: a cache of them costs more than it saves.
    model_config = ConfigDict(extra="allow", frozen=True, cache_strings="keys")

    # `origin` and `traceparent` are no fields: an event may have unknown fields of these names,
    # and they are its own. The entry lies where pydantic keeps private attributes, put there by
    # hand: declared ones would cost a third of the validation.

    @property
    def origin(self) -> str:
        """`<control stream>/<entry id>` of the entry that caused it."""
        return self._entry.get(b"origin", b"").decode(errors="backslashreplace")

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that came with that entry."""
        found = self._entry.get(b"traceparent")
        return None if found is None else found.decode(errors="replace")

    @property
    def signature(self) -> str | None:
        """Who vouches for it, as `Feed(trust=…)` verifies; None where nobody does."""
        found = self._entry.get(b"signature")
        return None if found is None else found.decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        """Return it for machines, without what it says nothing of."""
        told = {"origin": self.origin, "traceparent": self.traceparent}
        body = self.model_dump(mode="json") | told
        return {name: value for name, value in body.items() if value or name not in _OPTIONAL}

    def to_fields(self) -> Mapping[bytes, bytes]:
        """Return the fields of its entry, as they came; nothing for one that came from none."""
        return self._entry

    @property
    def _entry(self) -> Mapping[bytes, bytes]:
        entry: Any = self.__pydantic_private__ or {}
        return cast(Mapping[bytes, bytes], entry)

    @classmethod
    def of_entry(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Return the notification that an entry of the notification stream holds.

        It keeps `fields`, which must not change afterwards. Raises `KeyError` or `ValueError` when
        no sidecar wrote the entry, of this release or another.
        """
        raw = fields[b"event"]
        try:
            this: Self = cls.__pydantic_validator__.validate_json(raw)
        except ValidationError as error:
            this = cls._of_another_release(raw, error)
        if b"origin" not in fields:
            raise KeyError("origin")
        object.__setattr__(this, "__pydantic_private__", fields)
        return this

    @classmethod
    def _of_another_release(cls, raw: bytes, error: ValidationError) -> Self:
        """Return it with the values that no release checked then among its unknown fields.

        Raises `error` where something else is wrong.
        """
        unchecked = before_its_rule(error)
        if not unchecked:
            raise error
        body: dict[str, Any] = from_json(raw)
        aside = {name: body.pop(name) for name in unchecked}
        this: Self = cls.__pydantic_validator__.validate_python(body)
        cast(dict[str, Any], this.model_extra).update(
            {name: value for name, value in aside.items() if value is not None}
        )
        return this
