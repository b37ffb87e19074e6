"""What the commands for incident review share: the history, the window, and its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sidecar.cli.filters import Believed, Between, Of
from sidecar.cli.histories import Archived
from sidecar.errors import SidecarError
from sidecar.history import History
from sidecar.history.chain import faults_of
from sidecar.history.joined import JoinedHistory
from sidecar.replay.window import (
    Covered,
    LifeSelection,
    Window,
    covered,
    moment,
    parse_window,
    verdict,
)
from sidecar.terminal import output
from sidecar.wire.trust import Trust, Untrusted


@dataclass(frozen=True)
class Review:
    """A history, and which part of it is asked for."""

    history: History
    window: Window
    asked: LifeSelection

    @classmethod
    def of(
        cls, history: History, between: Between, of: Of | None = None, ends: Collection[str] = ()
    ) -> Review:
        """Read what the options say. Raises `UsageError`."""
        of = of or Of()
        window = parse_window(
            between.since or None, between.until or None, history.now_us(), history.span_us
        )
        if isinstance(between, Believed) and between.verify:
            _check_signed(history, window, between.verify)
        return cls(history, window, LifeSelection(**of.given(), ends=frozenset(ends)))

    @classmethod
    def opened(
        cls, where: Archived, bundle: Path | None, between: Between, of: Of | None = None,
        *, json: bool,
    ) -> Review:  # fmt: skip
        """Open what the options mean, and show which window it really is."""
        review = cls.of(where.history(bundle), between, of)
        review.tell_covered(json=json)
        return review

    @cached_property
    def seen(self) -> list[Covered]:
        """How much of the window can be seen."""
        return covered(self.history, self.window)

    def tell_covered(self, *, json: bool) -> None:
        """Show which window it really is: for a person beside the data, for a machine within it."""
        if json:
            output.json_line({
                "window": {"since_us": self.window.since_us, "until_us": self.window.until_us},
                "history": self.history.describe(),
                "covered": [one.to_json() for one in self.seen],
            })  # fmt: skip
            return
        output.hint(f"{self.history.describe()}, {self.window}")
        for one in self.seen:
            output.hint(f"  {one.stream}: {one.extent}")
            for gap in one.missing:
                output.hint(f"    {gap.why}: {moment(gap.first)} to {moment(gap.last)} is gone")

    def conclude(self, *, held: int, shown: int) -> None:
        """Raise what the contract's exit code says of the window, if anything."""
        failure = verdict(self.window, self.seen, held=held, shown=shown, asked=self.asked)
        if failure:
            raise failure


def _check_signed(history: History, window: Window, trust: Trust) -> None:
    """Raise `SidecarError` unless each notification in the window is trusted, and what the archive
    has of it, from the newest state before it on.
    """
    stream, count = history.streams.notifications, 0
    archive = history.archive if isinstance(history, JoinedHistory) else None
    span = window.first, window.last
    for fault in faults_of(archive, stream, trust, span) if archive else ():
        raise SidecarError(f"{fault.segment} in the archive is not trusted: {fault.detail}")
    try:
        for entry in history.entries(stream, window.first, window.last):
            trust.check(stream, entry.id, entry.fields)
            count += 1
    except Untrusted as error:
        raise SidecarError(f"{error}; {count:,} before it in the window are") from error
    output.hint(f"{count:,} notifications are signed by {', '.join(sorted(trust.names.values()))}")
