"""Small histories from dice: a bundle, and what is true of it, event by event."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from sidecar.history.bundle import BundleHistory, Index, Member, StreamIndex, seal
from sidecar.history.members import INDEX, WAITING
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin
from sidecar.wire.subject import Change, followed, overtakes

BEGAN_MS: Final = 1_790_000_000_000
CONTROLS: Final = ("one", "two")
NOTIFICATIONS, DEAD, REDRIVEN, HALTS = "n", "n:dead", "n:redriven", "n:halts"
CHECKSUM: Final = f"sha256:{'0' * 64}"
TRIMMED: Final = "trimmed"
"""How an event ended whose notification has been trimmed."""
REASONS: Final = ("artifact_missing", "poison", "checksum_mismatch")


@dataclass
class Sent:
    """One entry of a control stream, and what became of it. Times are in microseconds."""

    origin: Origin
    said: dict[str, Any]
    begun_us: int
    end: str = "waiting"
    end_id: str = ""
    ended_us: int = 0
    died_us: int = 0
    """When it became a dead letter, whatever became of that."""
    reason: str = ""
    is_repair: bool = False

    @property
    def event_id(self) -> str:
        """Of what was sent."""
        return str(self.said["event_id"])


@dataclass
class Planted:
    """What a history is made of. The events of one tenant end in entry order, as the relay's do."""

    dice: random.Random
    rows: dict[str, list[list[str]]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    originals: dict[str, Origin] = field(default_factory=dict)
    records: list[tuple[int, str, str]] = field(default_factory=list)
    """When the letter of which entry was redriven, and as which."""
    halts: list[tuple[int, int | None]] = field(default_factory=list)
    newest: dict[str, EntryId] = field(default_factory=dict)
    """The ID that was given last on each control stream."""
    trimmed: EntryId = FIRST
    """Up to which ID the notifications are gone."""
    now_ms: int = BEGAN_MS

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.rows = {one: [] for one in (*CONTROLS, NOTIFICATIONS, DEAD, REDRIVEN, HALTS)}

    def play(self) -> Self:
        """Let this and that happen."""
        steps = [self._emit] * 5 + [self._end] * 7 + [self._redrive] * 4 + [
            self._repair, self._halt, self._trim, self._trim_notifications,
        ]  # fmt: skip
        for _ in range(self.dice.randrange(4, 40)):
            self.now_ms += self.dice.choice((1, 7, 900, 40_000))
            self.dice.choice(steps)()
        return self

    # --- what happens ---------------------------------------------------------------------------

    def _emit(self) -> None:
        n, stack = len(self.sent), self.dice.choice(("", "web", "web", "db"))
        said = {
            "event_id": f"e{n}", "type": "stack.activated" if stack else "artifact.published",
            "tenant_id": self.dice.choice("tu"), "stack_id": stack,
            "version": self.dice.choice((n + 1, n + 1, 2)) if stack else 0,
            "artifact_ref": f"r/{self.dice.choice('xy')}", "checksum": CHECKSUM,
            "manifest_checksum": CHECKSUM,
        }  # fmt: skip
        said = {name: value for name, value in said.items() if value}
        if self.sent and self.dice.random() < 0.1:
            known = [one.said for one in self.sent if one.end != "unknown"]
            said = self.dice.choice(known or [said])
        self.append(self.dice.choice((*CONTROLS, CONTROLS[0])), said)

    def append(self, stream: str, said: dict[str, Any]) -> Sent:
        """Append an event to a control stream."""
        entry_id = self.newest[stream] = EntryId.of(self.now_ms)
        self.rows[stream].append([entry_id, "event", json.dumps(said)])
        self.sent.append(Sent(Origin(f"{stream}/{entry_id}"), said, self.now_ms * 1000))
        return self.sent[-1]

    def _heads(self) -> list[Sent]:
        """Return what may end next: of each tenant of a stream the oldest that waits."""
        found: dict[tuple[str, str], Sent] = {}
        for one in self.sent:
            if one.end == "waiting":
                found.setdefault((one.origin.stream, one.said["tenant_id"]), one)
        return list(found.values())

    def _end(self) -> None:
        if not (heads := self._heads()):
            return
        one = self.dice.choice(heads)
        first = next((o for o in self._published() if o.event_id == one.event_id), None)
        if any(o.end == TRIMMED for o in self.sent if o.event_id == one.event_id):
            one.end = TRIMMED  # the deduplication index knows it, and nothing shows of what it is
        elif first:
            one.end, one.end_id, one.ended_us = "duplicate", first.end_id, first.ended_us
        elif self.dice.random() < 0.35:
            self.bury(one)
        elif self.dice.random() < 0.05 and sum(o.event_id == one.event_id for o in self.sent) < 2:
            one.end = "unknown"
        else:
            self.publish(one)

    def publish(self, one: Sent) -> None:
        """Write its notification."""
        one.end, one.ended_us = "published", self.now_ms * 1000 + self.dice.randrange(1000)
        one.end_id = str(EntryId.of_version(one.ended_us))
        body = json.dumps(one.said | {"control_version": one.ended_us})
        self.rows[NOTIFICATIONS].append([one.end_id, "event", body, "origin", one.origin])

    def bury(self, one: Sent) -> None:
        """Write its dead letter."""
        one.end, one.end_id = "dead", f"{self.now_ms}-{self.dice.randrange(3)}"
        one.ended_us = one.died_us = EntryId(one.end_id).control_version
        one.reason = self.dice.choice(REASONS)
        self.rows[DEAD].append([one.end_id, "event", json.dumps(one.said), "origin", one.origin,
                                "reason", one.reason, "detail", f"d{one.end_id}"])  # fmt: skip

    def _redrive(self) -> None:
        if dead := [one for one in self.sent if one.end == "dead"]:
            self.redrive(self.dice.choice(dead), self.dice.randrange(3))

    def redrive(self, one: Sent, release: int) -> Sent:
        """Redrive a dead letter, as the first, the second or the third release that could."""
        self.rows[DEAD] = [row for row in self.rows[DEAD] if row[0] != one.end_id]
        letter = {"letter": one.end_id}
        death = {"dead_reason": one.reason, "dead_detail": f"d{one.end_id}"}
        new = self.again(one, letter | (death if release > 1 else {}), release)
        one.end, one.reason = "redriven", ""
        return new

    def _repair(self) -> None:
        """An audit finds an entry that was lost, and appends it again."""
        if lost := [one for one in self.sent if one.end == "unknown"]:
            one = self.dice.choice(lost)
            self.again(one, {}, self.dice.randrange(3))
            one.end = "redriven"

    def again(self, one: Sent, letter: dict[str, str], release: int) -> Sent:
        """Append it again, with a record as that release wrote it."""
        own = self.change(one)
        against = [o for o in self.sent if o.end in ("published", "waiting")
                   and overtakes(self.change(o), own)]  # fmt: skip
        new = self.append(one.origin.stream, one.said)
        self.originals[new.origin] = one.origin
        record = letter | {"origin": one.origin, "event_id": one.event_id, "entry": new.origin,
                           "reason": "ticket", "by": "ann"}  # fmt: skip
        if against and release > 0:
            record["forced"] = "overtaken"
        if against and release > 1:
            was_published = against[-1].end == "published"
            record["overrode"] = against[-1].event_id
            record["overrode_version"] = str(against[-1].ended_us if was_published else 0)
        self.now_ms += 1
        one.end_id, one.ended_us = f"{self.now_ms}-0", self.now_ms * 1000
        self.records.append((one.ended_us, one.origin, new.origin))
        self.rows[REDRIVEN].append([one.end_id, *(w for pair in record.items() for w in pair)])
        return new

    def _halt(self) -> None:
        """Halt the first stream, or resume it."""
        begins = not self.halts or self.halts[-1][1] is not None
        self.halts += [(self.now_ms * 1000, None)] if begins else []
        if not begins:
            self.halts[-1] = self.halts[-1][0], self.now_ms * 1000
        self.rows[HALTS].append([f"{self.now_ms}-0", "what", "halted" if begins else "resumed",
                                 "stream", CONTROLS[0], "reason", "r", "by", "ann"])  # fmt: skip

    def _trim(self) -> None:
        """Trim what is done from the beginning of a control stream."""
        stream = self.dice.choice(CONTROLS)
        waiting = {one.origin for one in self.sent if one.end == "waiting"}
        rows = self.rows[stream]
        while rows and f"{stream}/{rows[0][0]}" not in waiting and self.dice.random() < 0.7:
            rows.pop(0)

    def _trim_notifications(self) -> None:
        """Trim the oldest notifications: what their events and the repeats of these became shows
        nowhere.
        """
        rows = self.rows[NOTIFICATIONS]
        while len(rows) > 1 and self.dice.random() < 0.6:
            gone = rows.pop(0)[0]
            self.trimmed = EntryId(gone)
            for one in self.sent:
                if one.end in ("published", "duplicate") and one.end_id == gone:
                    one.end, one.end_id, one.ended_us = TRIMMED, "", 0

    # --- what is true ---------------------------------------------------------------------------

    def change(self, one: Sent) -> Change:
        """Return where an event stands."""
        said = {"stack_id": "", "version": 0} | one.said
        subject: Any = type("Said", (), said)()
        return Change.of(subject, followed(self.originals, one.origin), one.ended_us // 1000)

    def _published(self) -> Iterator[Sent]:
        return (one for one in self.sent if one.end == "published")

    def went_back(self) -> set[Origin]:
        """Return what was published after a newer event of its subject and control stream.

        Two tenants may have one ref: their events have no order until one is redriven.
        """
        again = [one for one in self._published() if one.origin in self.originals]
        return {
            one.origin for one in again for other in self._published()
            if other.ended_us < one.ended_us and self.newer(other, one)
        }  # fmt: skip

    def newer(self, other: Sent, one: Sent) -> bool:
        """Tell whether an event of the same subject and control stream is the newer one."""
        later, own = self.change(other), self.change(one)
        same = later.subject == own.subject and later.stream == own.stream
        return same and overtakes(later, own)

    def there(self, stream: str) -> set[str]:
        """Return the entries of a control stream that were not trimmed."""
        return {f"{stream}/{row[0]}" for row in self.rows[stream]}

    def _gaps(self, stream: str) -> list[Any]:
        """Return what of a stream is known to be gone."""
        if stream != NOTIFICATIONS or self.trimmed == FIRST:
            return []
        return [(FIRST.after, self.trimmed, "trimmed", False)]

    def write(self, path: Path) -> BundleHistory:
        """Write it as a bundle, and open that."""
        streams = []
        for n, (name, rows) in enumerate(self.rows.items()):
            newest = EntryId(rows[-1][0] if rows else FIRST)
            first = EntryId(rows[0][0] if rows else FIRST)
            member = _file(path, f"streams/{n}/000000.jsonl", rows, first, newest)
            streams.append(StreamIndex(
                name=name, known=True, oldest=first if rows else None, gaps=self._gaps(name),
                newest=self.newest.get(name, newest), segments=[member] if rows else [],
            ))  # fmt: skip
        waits = [[*one.origin.split("/")] for one in self.sent if one.end == "waiting"]
        index = Index(
            taken_from="redis://h", taken_at_us=self.now_ms * 1000 + 60_000_000,
            span_us=(0, self.now_ms * 1000 + 60_000_000), control=list(CONTROLS),
            notifications=NOTIFICATIONS, dead=DEAD, redriven=REDRIVEN, halts=HALTS,
            streams=streams, waiting=_file(path, WAITING, waits), pins=None,
        )  # fmt: skip
        (path / INDEX).write_bytes(seal(index))
        return BundleHistory(path)


def _file(
    path: Path, name: str, rows: list[list[str]], first: EntryId = FIRST, last: EntryId = LAST
) -> Member:
    """Write the rows of a file of the bundle."""
    raw = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    return Member(name=name, sha256=sha256, first=first, last=last, count=len(rows))
