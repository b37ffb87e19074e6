"""Which names a tenant may use: patterns of the operator, matched in linear time.

Names and tenants come from producers. So no regular expression is made of them, and nothing is
kept of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TENANT: Final = "{tenant}"


class Scope:
    """Patterns such as `stacks/{tenant}/*`: `{tenant}` is the tenant, `*` any text."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(pattern.split("*") for pattern in patterns)

    def __bool__(self) -> bool:
        """Tell whether there is any pattern: without one, every name is allowed."""
        return bool(self._patterns)

    def allows(self, tenant: str, name: str) -> bool:
        """Tell whether a pattern lets `tenant` use `name`.

        A tenant without a name, or with a slash in it, fits no `{tenant}`: it could stand for
        another tenant's corner.
        """
        is_plain = bool(tenant) and "/" not in tenant
        return any(
            _matches([part.replace(TENANT, tenant) for part in parts], name)
            for parts in self._patterns
            if is_plain or not any(TENANT in part for part in parts)
        )


def _matches(parts: list[str], name: str) -> bool:
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
