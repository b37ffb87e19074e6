"""What came, went and changed between two states of the fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from sidecar.history.state import FleetState
from sidecar.wire.notification import Notification


class Change(NamedTuple):
    """One subject that is not the same in both: a stack, or a ref that is no stack's."""

    what: Literal["stack", "ref"]
    name: str
    old: Notification | None
    """None when it was not there before."""
    new: Notification | None

    @property
    def how(self) -> Literal["came", "went", "changed"]:
        """Return what happened to it."""
        return "came" if self.old is None else "went" if self.new is None else "changed"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines; absent is null."""

        def short(note: Notification | None) -> dict[str, Any] | None:
            names = ("event_id", "version", "checksum", "manifest_checksum", "control_version")
            return {name: getattr(note, name) or None for name in names} if note else None

        return {
            "what": self.what, "name": self.name, "how": self.how, "old": short(self.old),
            "new": short(self.new),
        }  # fmt: skip


def changes(old: FleetState, new: FleetState) -> Iterator[Change]:
    """Yield what differs, stacks first, each in its order."""
    for pair in _paired(old.stacks(), new.stacks(), lambda n: (n.tenant_id, n.stack_id)):
        yield from _change("stack", *pair)
    for pair in _paired(old.refs(), new.refs(), lambda n: (n.artifact_ref,)):
        yield from _change("ref", *pair)


def _change(
    what: Literal["stack", "ref"], old: Notification | None, new: Notification | None
) -> Iterator[Change]:
    one = new or old
    if one is None or (old and new and old.control_version == new.control_version):
        return
    stack = "/".join((one.tenant_id, one.stack_id))
    yield Change(what, stack if what == "stack" else one.artifact_ref, old, new)


def _paired(
    old: Iterator[Notification],
    new: Iterator[Notification],
    key: Callable[[Notification], tuple[str, ...]],
) -> Iterator[tuple[Notification | None, Notification | None]]:
    """Yield what has the same key beside each other; both come sorted by it."""
    before, after = next(old, None), next(new, None)
    while before or after:
        if after is None or (before and key(before) < key(after)):
            yield before, None
            before = next(old, None)
        elif before is None or key(after) < key(before):
            yield None, after
            after = next(new, None)
        else:
            yield before, after
            before, after = next(old, None), next(new, None)
