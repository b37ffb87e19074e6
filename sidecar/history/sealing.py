"""What a worker with a key vouches for in the archive, and what a reader with keys makes of that.

A worker seals what it writes (`wire.seal`): with its key it signs the manifest, which has the hash
of the rows and names the segment before. Of notifications it first verifies the signature of each,
and names those that it cannot: a seal makes no forged notification a good one.

A reader believes a seal in two things. Rows that are vouched for need not be verified each by
itself; and between what is sealed, and leads to one another, nothing was left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from sidecar.history.contract import Keyed
from sidecar.history.rows import of_line
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.signature import FIELD, signer_of
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust, Untrusted

MOST_DOUBTED: Final = 1000
"""Rows of a segment that nobody vouches for, by their numbers; with more, it vouches for none."""
MOST_TOLD: Final = 3
_SIGNATURE: Final = FIELD.encode()
_log: Final = logging.getLogger("sidecar.trust")


def link_to(ref: str, manifest: bytes) -> str:
    """Return what the next segment says of the one at `ref`."""
    return f"{ref.rpartition('/')[2]} {sha256(manifest).hexdigest()}"


def last_of(word: str) -> EntryId:
    """Return the last ID in a segment's name; of what is no name, an ID that never expires."""
    ends = word.partition("~")[0].partition("+")[0].partition("..")
    return EntryId.parse(ends[2]) or EntryId.of(2**64 - 1)


class Proof(NamedTuple):
    """Up to where what was read proves that nothing was left out: the rest of it does."""

    unproven: EntryId = FIRST
    """Up to here nobody vouches for that. FIRST: all is proven."""
    why: tuple[str, ...] = ()


class _Link(NamedTuple):
    """A segment of the notifications, as a reader came by it."""

    last: EntryId
    first: EntryId
    ref: str
    sealer: str
    previous: str


class Seals:
    """Who sealed what is read of an archive's notifications, and whether that is one chain.

    Methods raise `Untrusted` for a seal that is not over what it lies with.
    """

    def __init__(self, trust: Trust, notifications: str) -> None:
        self._trust, self._notifications = trust, notifications
        self._begin, self._head = Proof(), ""
        self._links: list[_Link] = []
        self._there: set[str] = set()

    def checkpoint(
        self, ref: str, manifest: bytes, last: EntryId, head: str, unproven: EntryId
    ) -> str:
        """Return who sealed a checkpoint, from which what is read begins; empty for nobody."""
        sealer = self._trust.sealer(self._notifications, ref, manifest, last)
        why = () if sealer else (f"{ref} has no seal of a trusted key",)
        self._begin = Proof(unproven if sealer else last, why)
        self._head = head
        return sealer

    def segment(
        self, ref: str, manifest: bytes, ends: tuple[EntryId, EntryId], previous: str
    ) -> str:
        """Return who sealed a segment of the notifications; empty for nobody."""
        sealer = self._trust.sealer(self._notifications, ref, manifest, ends[1])
        self._links.append(_Link(ends[1], ends[0], ref, sealer, previous))
        self._there.add(link_to(ref, manifest))
        return sealer

    def proof(self) -> Proof:
        """Return what all that was read proves."""
        unproven, why = self._begin.unproven, [*self._begin.why]
        is_first = not self._head
        for one in sorted(self._links):
            if not one.sealer:
                unproven = max(unproven, one.last)
                why.append(f"{one.ref} has no seal of a trusted key")
            elif not self._leads_on(one, unproven, is_first=is_first):
                unproven = max(unproven, one.first.before)
                why.append(f"what {one.ref} names before it is gone, or is another")
            is_first = False
        return Proof(unproven, tuple(why))

    def _leads_on(self, one: _Link, unproven: EntryId, *, is_first: bool) -> bool:
        if not one.previous:
            return is_first or one.first.before <= unproven
        is_there = one.previous in self._there or one.previous == self._head
        return is_there or last_of(one.previous.partition(" ")[0]) <= unproven


def tell(proof: Proof, trust: Trust) -> None:
    """Log what is not proven of an archive, unless it is older than the reader's first key."""
    if trust.may_lack(proof.unproven):
        return
    why = [*proof.why[:MOST_TOLD], *(["…"] if len(proof.why) > MOST_TOLD else [])]
    _log.warning(
        "notifications up to %s may have been left out of the archive: %s",
        proof.unproven, "; ".join(why),
    )  # fmt: skip


class Sealer:
    """Seals with a worker's key what that writes, once it has verified what it vouches for."""

    def __init__(self, signer: Signer, notifications: str, trust: Trust | None = None) -> None:
        """It vouches for what a key signed that `trust` has; without, for what its own signed."""
        self._signer, self._notifications = signer, notifications
        self.trust = trust or Trust(signer.own())

    def doubted(self, entries: Sequence[Entry]) -> list[int] | None:
        """Return the numbers of the notifications that it cannot vouch for; None for all."""
        found = [number for number, one in enumerate(entries) if not self._verifies(one)]
        return found if len(found) <= MOST_DOUBTED else None

    def vouched(self, keyed: Iterable[Keyed]) -> Iterator[Keyed]:
        """Yield all, each with this key where it is vouched for: by itself, or by a seal of its."""
        own = self._signer.key_id
        for one in keyed:
            is_good = one.sealer == own or self._is_good(one.line, one.sealer)
            yield one._replace(sealer=own if is_good else "")

    def sealed(self, ref: str, manifest: bytes) -> bytes:
        """Return the manifest of what will lie at `ref`, with a seal."""
        return self._signer.sealed(self._notifications, ref, manifest)

    def _is_good(self, line: bytes, sealer: str) -> bool:
        """Tell whether a row may be vouched for that another key's seal is over.

        That key is believed about what it signed itself, and about nothing else: if it turns out to
        be stolen, this one has not vouched for what a thief could seal, and not sign.
        """
        try:
            entry = of_line(line)
        except ValueError:
            return False  # who writes to the store can put anything into a state
        is_its_own = bool(sealer) and signer_of(entry.fields.get(_SIGNATURE, b"")) == sealer
        return is_its_own or self._verifies(entry)

    def _verifies(self, entry: Entry) -> bool:
        try:
            self.trust.check(self._notifications, entry.id, entry.fields)
        except Untrusted:
            return False
        return True


class Sealing(NamedTuple):
    """How a checkpoint is sealed."""

    seal: Callable[[str, bytes], bytes]
    head: str
    """The newest segment in it, as `link_to` writes it."""
    unproven: EntryId
    """As `Proof` has it, of all that went into it."""
