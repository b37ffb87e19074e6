"""All that can be said of one dead letter: its reason, its fix, and what became of its event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sidecar.history.archive import ArchiveHistory
from sidecar.ops.predictions import Predictions
from sidecar.ops.redrive import Standing, standing
from sidecar.redis.client import Client, Side
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetter
from sidecar.wire.event import Rejected
from sidecar.wire.reasons import explain, fix_of


@dataclass(frozen=True, slots=True)
class Explained:
    """What is known of a letter besides what it says itself. Empty is nothing."""

    meaning: str
    fix: str
    again: str
    """As what it would end again now."""
    unseen: str
    """What could not be looked at."""
    published: int
    """As which control_version its event is published meanwhile."""
    overtaken: str

    def to_json(self) -> dict[str, Any]:
        """Return it for machines; absent is null."""
        return {
            "meaning": self.meaning, "fix": self.fix, "again": self.again or None,
            "unseen": self.unseen or None, "published": self.published or None,
            "overtaken": self.overtaken or None,
        }  # fmt: skip


def explained(
    letter: DeadLetter, predictions: Predictions, notify: Client, keys: Keys,
    control_url: Callable[[], str], archive: Callable[[], ArchiveHistory | None],
) -> Explained:  # fmt: skip
    """Look at all that bears on a dead letter; `control_url` is asked for when its entry is known.

    Raises `SidecarError` for the control side and the archive, `RedisError` for the other.
    """
    prediction = predictions.of(letter)
    stands = Standing(0, "", "")
    stream = letter.origin.stream
    if letter.origin.entry is not None:
        control = Side.open(control_url(), stream)
        stands = standing(control, notify, replace(keys, control=stream), letter, archive)
    unseen = "; ".join(filter(None, (prediction.unseen, stands.unknown)))
    return Explained(
        explain(letter.reason).meaning, _fix(letter), prediction.ends, unseen, stands.published,
        stands.overtaken,
    )  # fmt: skip


def _fix(letter: DeadLetter) -> str:
    """Return how to fix it, with what its event names where that can be read."""
    try:
        return fix_of(letter.reason, letter.event())
    except Rejected:
        return explain(letter.reason).fix
