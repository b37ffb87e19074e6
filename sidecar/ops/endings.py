"""Ends of entries, and which of them are of one entry.

An ID alone does not tell: in a control stream that was made anew it names another entry than
before. So an end belongs to an entry by its origin and by what both are about, where that is known.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from sidecar.wire.identity import identity_of

SCHEMA: Final = """
CREATE TABLE ends (stream, entry, kind, at, event_id, reason, event, content,
                   PRIMARY KEY (stream, entry, kind, at)) WITHOUT ROWID;
"""


class About(NamedTuple):
    """Which event it is."""

    event: bytes
    """The digest of its event_id; empty where that is not known."""
    content: bytes
    """The digest of its content, or of what is no event; empty where that is not known."""

    def may_be(self, other: About) -> bool:
        """Tell whether both may be about one event: nothing that is known of both differs."""
        pairs = zip(self, other, strict=True)
        return all(mine == its for mine, its in pairs if mine and its)


NOBODY: Final = About(b"", b"")


class End(NamedTuple):
    """One end of an entry."""

    kind: str
    at: str
    event_id: str
    about: About

    def __str__(self) -> str:
        """Return it for a person."""
        return f"{self.kind.replace('_', ' ')} {self.at}"

    def excludes_one_of(self, ends: Sequence[End]) -> bool:
        """Tell whether another one is of the same entry."""
        return any(one is not self and one.about.may_be(self.about) for one in ends)


def about_of(fields: Mapping[bytes, bytes]) -> About:
    """Return what an entry, a notification or a whole dead letter is about."""
    raw = fields.get(b"event", b"")
    event, content = identity_of({b"event": raw})
    return About(event, content or (hashlib.sha256(raw).digest()[:16] if raw else b""))


def end_of(db: sqlite3.Connection, stream: str, key: str, about: About) -> str | None:
    """Return how an entry ended; None where nothing tells. Duplicates come last."""
    found = db.execute(
        "SELECT kind, event, content FROM ends WHERE stream = ? AND entry = ?"
        " ORDER BY kind = 'duplicate'",
        (stream, key),
    )
    return next((str(kind) for kind, *of in found if about.may_be(About(*of))), None)


def excluding(db: sqlite3.Connection) -> Iterator[tuple[str, str, list[End]]]:
    """Yield stream and key of each entry with ends that exclude each other, and these.

    To have been redriven does not: a worker that starts may yet do a lost entry itself.
    """
    found = db.execute(
        "SELECT stream, entry, kind, at, event_id, event, content FROM ends"
        " WHERE kind != 'duplicate' ORDER BY stream, entry"
    )
    for (stream, key), rows in groupby(found, key=lambda row: (row[0], row[1])):
        ends = [End(kind, at, event_id, About(*of)) for _, _, kind, at, event_id, *of in rows]
        those = [one for one in ends if one.excludes_one_of(ends)]
        if those:
            yield stream, key, those
