"""What became of dead letters that were redriven, as far as what lies beside them shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.errors import NotPermitted
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetters, LetterSelection
from sidecar.redis.publisher import remembered
from sidecar.redis.scan import text
from sidecar.redis.source import Entry
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import EntryId, Origin


class RedriveOutcome(NamedTuple):
    """What became of an event that was redriven."""

    what: str
    """`published`, `dead`, `redriven`; empty when nothing tells: it may wait."""
    as_: str = ""
    """The control_version, the letter, or the control entry."""


class RedriveOutcomes:
    """Looks at the letters and records since the first record, and at the index.

    May raise `RedisError`.
    """

    def __init__(self, client: Client, keys: Keys, first: Entry) -> None:
        self._client, self._keys = client, keys
        letters = DeadLetters(client, keys)
        since = LetterSelection(first=first.id)
        self._letters = {letter.origin: letter.id for letter in letters.all(since)}
        self._again = {origin: entry for entry, origin in letters.originals().items()}

    def of(self, records: Sequence[Entry]) -> list[RedriveOutcome]:
        """Return what became of each."""
        published = self._published([text(record.fields, "event_id") for record in records])
        return [self._one(record, published) for record in records]

    def _one(self, record: Entry, published: dict[str, int]) -> RedriveOutcome:
        entry = Origin(text(record.fields, "entry"))
        letter = EntryId.parse(text(record.fields, "letter"))
        if not entry:
            return RedriveOutcome("")  # `audit --repair` put an artifact, not an event
        if entry in self._again:
            return RedriveOutcome("redriven", self._again[entry])
        if entry in self._letters:
            return RedriveOutcome("dead", self._letters[entry])
        control_version = published.get(text(record.fields, "event_id"), 0)
        died = letter.control_version if letter else 0
        if control_version > died:
            return RedriveOutcome("published", str(control_version))
        return RedriveOutcome("")  # one from before it died is another event's, or what it repeats

    def _published(self, event_ids: Sequence[str]) -> dict[str, int]:
        try:
            known = remembered(self._client, self._keys, [identity_digest(e) for e in event_ids])
        except NotPermitted:
            return {}
        return {
            event_id: seen.control_version
            for event_id, seen in zip(event_ids, known, strict=True)
            if seen
        }
