"""The dead letters of a history, as `DeadLetters` has those of a server."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sidecar.history import History
from sidecar.redis.letters import ALL, DeadLetter, LetterSelection
from sidecar.redis.scan import text
from sidecar.replay.timeline import End, by_origin
from sidecar.wire.ids import Origin


class RecordedLetters:
    """Dead letters to be read only. Its methods raise as the history does."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._stream = history.streams.dead

    def __len__(self) -> int:
        return sum(1 for _ in self.all())

    def now_us(self) -> int:
        """Return the time that relative times count from, in microseconds since the epoch."""
        return self._history.now_us()

    def all(self, asked: LetterSelection = ALL) -> Iterator[DeadLetter]:
        """Yield letters, the oldest first."""
        for entry in self._history.entries(self._stream, asked.first, asked.last):
            letter = DeadLetter(entry.id, entry.fields)
            if asked.wants(letter):
                yield letter

    def newest(self, count: int, asked: LetterSelection = ALL) -> list[DeadLetter]:
        """Return the newest `count` letters, the oldest of them first."""
        back = self._history.entries_back(self._stream, asked.last, asked.first)
        letters = (DeadLetter(entry.id, entry.fields) for entry in back)
        return list(islice(filter(asked.wants, letters), count))[::-1]


def became(history: History, entry: Origin) -> tuple[str, str]:
    """Return what became of what was appended as this entry: `published`, `dead` or `redriven`.

    And as which control_version, dead letter or entry; both empty where nothing shows it. Raises
    as the history does.
    """
    for life in by_origin(history, entry):
        if life.end in (End.PUBLISHED, End.DUPLICATE):
            return End.PUBLISHED.value, str(life.control_version)
        if life.end is End.REDRIVEN:
            return life.end.value, text(life.fields or {}, "entry")
        if life.end is End.DEAD:
            return life.end.value, str(life.end_id)
    return "", ""
