"""Which names a tenant may use: patterns of the operator, matched in linear time.

Names and tenants come from producers. So no regular expression is made of them, and nothing is
kept of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.wire.event import RESERVED, Reason, Rejected

TENANT: Final = "{tenant}"


def refuse_reserved(ref: str) -> None:
    """Raise `Rejected` for a ref that no tenant may use."""
    if ref.startswith(RESERVED):
        raise Rejected(
            Reason.FORBIDDEN_REF,
            f"artifact_ref: refs under {RESERVED} are the sidecar's own; choose another",
        )


def check_id_pattern(pattern: str) -> str:
    """Return the pattern of event_ids. Raises `ValueError` where it cannot keep tenants apart."""
    before, named, after = pattern.partition(TENANT)
    if not named:
        return pattern
    if TENANT in after or ("*" in before and "*" in after):
        raise ValueError(f"{pattern!r}: write {TENANT} once, with a '*' on one side of it only")
    if before.endswith("*") or after.startswith("*"):
        raise ValueError(
            f"{pattern!r}: put a character that no tenant has in its name between {TENANT} and '*':"
            " '{tenant}/*'"
        )
    return pattern


def _neighbours(pattern: str) -> str:
    """Return the characters beside the tenant's name: they say where it begins and ends."""
    before, named, after = pattern.partition(TENANT)
    return (before[-1:] + after[:1]).replace("*", "") if named else ""


class Scope:
    """Patterns such as `stacks/{tenant}/*`: `{tenant}` is the tenant, `*` any text."""

    def __init__(self, patterns: Iterable[str], *, neighbours_part: bool = False) -> None:
        """With `neighbours_part`, no character beside `{tenant}` may be in the tenant's name, as no
        slash may: else `{tenant}-*` would give `a` what is `a-b`'s.
        """
        patterns = tuple(patterns)
        self._corners = tuple(one for one in patterns if _is_corner(one))
        self._patterns = tuple(
            (pattern.split("*"), "/" + (_neighbours(pattern) if neighbours_part else ""))
            for pattern in patterns
        )

    def __bool__(self) -> bool:
        """Tell whether there is any pattern: without one, every name is allowed."""
        return bool(self._patterns)

    def allows(self, tenant: str, name: str) -> bool:
        """Tell whether a pattern lets `tenant` use `name`.

        A tenant without a name, or with a slash in it, fits no `{tenant}`: it could stand for
        another tenant's corner.
        """
        return any(
            matches([part.replace(TENANT, tenant) for part in parts], name)
            for parts, parting in self._patterns
            if not any(TENANT in part for part in parts)
            or (tenant and not any(one in tenant for one in parting))
        )

    def owners(self, name: str) -> set[str]:
        """Return the tenants whose corner the name is in: where a pattern has the tenant's name as
        a whole segment, before any `*`.
        """
        found = set()
        for pattern in self._corners:
            before = pattern.partition(TENANT)[0]
            tenant = name.removeprefix(before).partition("/")[0]
            parts = pattern.replace(TENANT, tenant).split("*")
            if tenant and name.startswith(before) and matches(parts, name):
                found.add(tenant)
        return found

    def corners(self, tenant: str) -> set[str]:
        """Return prefixes, of whole segments, under which all lies whose owner `tenant` may be."""
        if not tenant or "/" in tenant:
            return set()
        return {pattern.partition(TENANT)[0] + tenant for pattern in self._corners}


def _is_corner(pattern: str) -> bool:
    before, named, after = pattern.partition(TENANT)
    return bool(named) and "*" not in before and before[-1:] in ("", "/") and after[:1] in ("", "/")


def matches(parts: list[str], name: str) -> bool:
    """Tell whether `name` is these parts in a row, with any text between them.

    Each part is taken where it comes first: a later place leaves less room for the rest.
    """
    first, *middle = parts
    if not middle:
        return name == first
    last = middle.pop()
    if not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end) + len(part)
        if at < len(part):
            return False
    return at <= end
