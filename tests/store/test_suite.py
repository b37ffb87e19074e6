"""The suite bites: each backend here breaks one promise, and one test of the suite finds it."""

# ruff: noqa: D102, ARG002 - each class says what it breaks

from __future__ import annotations

import contextlib
import dataclasses
import io
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from store import (
    ArtifactReader,
    ChecksumMismatch,
    Collected,
    Corrupt,
    InvalidRef,
    NotFound,
    Pin,
    Unavailable,
    checksum_of,
)
from store.memory import MemoryStore
from store.testing import (
    CollectConformance,
    CorruptionConformance,
    DeleteConformance,
    ListConformance,
    ManyConformance,
    OutageConformance,
    PinnedGetConformance,
    PositionConformance,
    PurgeConformance,
    StoreConformance,
    StreamConformance,
    VerifyConformance,
)
from store.testing.samples import REF
from tests.store.harness import flip, raw_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from store import VersionedStore


class Suite(
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    StreamConformance,
    VerifyConformance,
    CollectConformance,
    DeleteConformance,
    ManyConformance,
    PurgeConformance,
    CorruptionConformance,
    OutageConformance,
):
    """All of it, with hooks into a memory store."""

    def damage(self, store: VersionedStore, ref: str) -> None:
        """Flip a bit."""
        flip(store, ref)

    def raw(self, store: VersionedStore) -> bytes:
        """Return all blobs."""
        return raw_memory(store)

    @contextlib.contextmanager
    def outage(self, store: VersionedStore) -> Iterator[None]:
        """Take the storage away."""
        assert isinstance(store, Reachable)
        store.away = True
        yield
        store.away = False


class RefusingSuite(Suite):
    """As for a backend that cannot hold every ref beside others."""

    refuses_collisions = True


class Reachable(MemoryStore):
    """A sound store, whose storage can be away."""

    away = False

    def _versions(self, ref: str) -> Any:
        self._reach()
        return super()._versions(ref)

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> Any:
        self._reach()
        return super()._find(ref, checksum, manifest_checksum)

    def put(self, ref: str, data: Any, manifest: Any, **position: Any) -> None:
        """Put, if the storage is there."""
        self._reach()
        super().put(ref, data, manifest, **position)

    def _refs(self, *wanted: Any) -> tuple[str, ...]:
        self._reach()
        return super()._refs(*wanted)

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("away")


# What every store keeps.


class TearsPairs(Reachable):
    """Writes data and manifest one after the other, and lets somebody read in between."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._was_read = threading.Event()

    def get(self, ref: str, **pin: Any) -> Any:
        found = super().get(ref, **pin)
        self._was_read.set()
        return found

    def put(self, ref: str, data: Any, manifest: Any, **position: Any) -> None:
        if self.exists(ref):
            super().put(ref, data, super().get(ref).manifest)
            self._was_read.clear()
            self._was_read.wait(0.1)
        super().put(ref, data, manifest, **position)


class MergesRefs(Reachable):
    """Cares for no difference between upper and lower case."""

    def put(self, ref: str, data: Any, manifest: Any, **position: Any) -> None:
        super().put(ref.lower(), data, manifest, **position)

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> Any:
        return super()._find(ref.lower(), checksum, manifest_checksum)


class RefusesRefs(Reachable):
    """Takes no upper case: honest, if it is told."""

    def put(self, ref: str, data: Any, manifest: Any, **position: Any) -> None:
        if ref != ref.lower():
            raise InvalidRef("lower case only")
        super().put(ref, data, manifest, **position)


class KeepsTheFirst(Reachable):
    """Takes what is there for what is put."""

    def put(self, ref: str, data: Any, manifest: Any, **position: Any) -> None:
        if not self.exists(ref):
            super().put(ref, data, manifest, **position)


class HidesOutages(Reachable):
    """Takes an outage for absence."""

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> Any:
        with contextlib.suppress(Unavailable):
            return super()._find(ref, checksum, manifest_checksum)
        return None


class ListsNothingInAnOutage(Reachable):
    """Takes an outage for an empty store."""

    def _refs(self, *wanted: Any) -> tuple[str, ...]:
        with contextlib.suppress(Unavailable):
            return super()._refs(*wanted)
        return ()


# Streams.


class PublishesEarly(Reachable):
    """Publishes what it has read so far."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        data = b""
        while chunk := reader.read(1 << 20):
            data += chunk
            self.put(ref, data, manifest)
        return super().put_from(ref, io.BytesIO(data), manifest, **options)


class TakesAnErrorForTheEnd(Reachable):
    """Puts what it got before the reader broke."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        data = b""
        with contextlib.suppress(OSError):
            while chunk := reader.read(1 << 20):
                data += chunk
        return super().put_from(ref, io.BytesIO(data), manifest, **options)


class TakesTheReadersErrorForItsOwn(Reachable):
    """Says that the store is away when the reader is."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        try:
            return super().put_from(ref, reader, manifest, **options)
        except OSError as error:
            raise Unavailable("the disk is away") from error


class IgnoresTheChecksum(Reachable):
    """Puts whatever comes."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        options.pop("checksum", None)
        return super().put_from(ref, reader, manifest, **options)


class ChecksTooLate(Reachable):
    """Refuses what it has put."""

    def put_from(
        self, ref: str, reader: Any, manifest: Any, *, checksum: Any = None, **options: Any
    ) -> str:
        found = super().put_from(ref, reader, manifest, **options)
        if checksum not in (None, found):
            raise ChecksumMismatch("too late")
        return found


class ReadsOnce(Reachable):
    """Takes a short read for the end."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        return super().put_from(ref, io.BytesIO(reader.read(1 << 20)), manifest, **options)


class ReadsItAllAtOnce(Reachable):
    """Asks for all there is."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        return super().put_from(ref, io.BytesIO(reader.read(-1)), manifest, **options)


class ForgetsThePosition(Reachable):
    """Moves the ref, whoever was there."""

    def put_from(self, ref: str, reader: Any, manifest: Any, **options: Any) -> str:
        options.pop("position", None)
        return super().put_from(ref, reader, manifest, **options)


class OpensWhatIsCurrent(Reachable):
    """Opens without a look at the pin."""

    def open(self, ref: str, **pin: Any) -> ArtifactReader:
        return super().open(ref)


class OpensWithAStaleManifest(Reachable):
    """Has the manifest that was put first."""

    def open(self, ref: str, **pin: Any) -> ArtifactReader:
        reader = super().open(ref, **pin)
        *_, first = self.versions(ref)
        reader.manifest = self.get(
            ref, checksum=first.checksum, manifest_checksum=first.manifest_checksum
        ).manifest
        return reader


class FollowsTheRef(Reachable):
    """Reads each piece from what is current then."""

    def open(self, ref: str, **pin: Any) -> ArtifactReader:
        opened, store = super().open(ref, **pin), self

        class Follower(ArtifactReader):
            at = 0

            def read(self, size: int = -1, /) -> bytes:
                data = store.get(ref).data[self.at :]
                piece = data if size < 0 else data[:size]
                self.at += len(piece)
                return piece

        return Follower(
            io.BytesIO(),
            checksum=opened.checksum,
            size_bytes=opened.size_bytes,
            manifest=opened.manifest,
            where="",
        )


class OpensAnything(Reachable):
    """Finds out that there is nothing when it is read."""

    def open(self, ref: str, **pin: Any) -> ArtifactReader:
        with contextlib.suppress(NotFound):
            return super().open(ref, **pin)
        return ArtifactReader(io.BytesIO(), checksum=None, size_bytes=0, manifest=b"", where="")


class ReadsDamage(Reachable):
    """Verifies nothing of what is read in pieces."""

    def open(self, ref: str, **pin: Any) -> ArtifactReader:
        with contextlib.suppress(Corrupt):
            return super().open(ref, **pin)
        entry = self._entries[ref]
        assert entry.current
        data, manifest = entry.versions[entry.current].artifact
        return ArtifactReader(
            io.BytesIO(data), checksum=None, size_bytes=len(data), manifest=manifest, where=""
        )


# Verification.


class VerifiesTheCurrent(Reachable):
    """Does not look at earlier versions."""

    def verify(self, *args: Any, **options: Any) -> Any:
        current = {
            ref: ".".join(entry.current or ()) for ref, entry in sorted(self._entries.items())
        }
        return (
            each
            for each in super().verify(*args, **options)
            if each.where.endswith(current[each.ref or ""])
        )


class VerifiesItAllInEachPart(Reachable):
    """Gives every process the whole of the work."""

    def verify(self, prefix: str = "", *, quarantine: bool = False, part: Any = (0, 1)) -> Any:
        del part
        return super().verify(prefix, quarantine=quarantine)


class LeavesAPartOut(Reachable):
    """Gives the last process what the first has."""

    def verify(self, prefix: str = "", *, quarantine: bool = False, part: Any = (0, 1)) -> Any:
        index, count = part
        part = (index % max(count - 1, 1), count)
        return super().verify(prefix, quarantine=quarantine, part=part)


class VerifiesByLetters(Reachable):
    """Takes a prefix for the beginning of a name."""

    def verify(self, prefix: str = "", **options: Any) -> Any:
        return (each for each in super().verify(**options) if (each.ref or "").startswith(prefix))


class SeesNoDamage(Reachable):
    """Finds everything in order."""

    def verify(self, *args: Any, **options: Any) -> Any:
        return (each._replace(error=None) for each in super().verify(*args, **options))


class DeletesWhatIsDamaged(Reachable):
    """Lets damage look like absence."""

    def verify(self, *args: Any, quarantine: bool = False, **options: Any) -> Any:
        for each in list(super().verify(*args, quarantine=quarantine, **options)):
            if quarantine and each.error:
                del self._entries[each.ref or ""]
            yield each


class LeavesDamageWhereItIs(Reachable):
    """Moves nothing aside."""

    def verify(self, *args: Any, quarantine: bool = False, **options: Any) -> Any:
        del quarantine
        return super().verify(*args, **options)


class MovesAsideUnasked(Reachable):
    """Moves aside whatever is damaged."""

    def verify(self, *args: Any, quarantine: bool = False, **options: Any) -> Any:
        del quarantine
        return super().verify(*args, quarantine=True, **options)


class TellsOfDamageOnce(Reachable):
    """Takes what is in quarantine for healed."""

    def verify(self, *args: Any, **options: Any) -> Any:
        known = dict(self.quarantine)
        for each in list(super().verify(*args, **options)):
            yield each._replace(error=None) if each.where in known else each


# Garbage collection.


class CollectsTheCurrent(Reachable):
    """Lets go of what the ref points at."""

    def _idle(self, ref: str, retention: Any, now: float) -> Any:
        del retention, now
        return iter(self._versions(ref))


class ThinksTheNewestIsCurrent(Reachable):
    """Keeps what was stored last, not what the ref points at."""

    def _idle(self, ref: str, retention: Any, now: float) -> Any:
        del retention, now
        return iter(self._versions(ref)[1:])


class AsksForPinsFirst(Reachable):
    """Knows the pins before it knows the candidates."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        known = list(pins())
        yield from super().collect(retention, lambda: known, dry_run=dry_run)


class AsksForNoPins(Reachable):
    """Keeps nothing that is pinned."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        return super().collect(retention, lambda: list(pins())[:0], dry_run=dry_run)


class PinsByDataAlone(Reachable):
    """Keeps every version with the data of a pin."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        def wide() -> list[Pin]:
            return [pin._replace(manifest_checksum=None) for pin in pins()]

        return super().collect(retention, wide, dry_run=dry_run)


class PinsByThePairAlone(Reachable):
    """Does not keep what a pin without a manifest's checksum names."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        def narrow() -> list[Pin]:
            return [pin for pin in pins() if pin.manifest_checksum]

        return super().collect(retention, narrow, dry_run=dry_run)


class TakesAnErrorForTheLastPin(Reachable):
    """Goes on with the pins it was told."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        def told() -> Iterator[Pin]:
            with contextlib.suppress(OSError):
                yield from pins()

        return super().collect(retention, told, dry_run=dry_run)


class CollectsWhatIsPutAgain(Reachable):
    """Does not look again before it removes."""

    def _let_go(self, found: Any, *, dry_run: bool) -> bool:
        if not dry_run:
            self._entries[found.ref].versions.pop(found.key, None)
        return True


class CollectsWhenTrying(Reachable):
    """Removes in a dry run."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        del dry_run
        return super().collect(retention, pins)


class TriesWhenCollecting(Reachable):
    """Removes nothing, ever."""

    def collect(self, retention: Any, pins: Any, *, dry_run: bool = False) -> Any:
        del dry_run
        return super().collect(retention, pins, dry_run=True)


class KnowsNoGrace(Reachable):
    """Removes what has just gone out of use."""

    def _idle(self, ref: str, retention: Any, now: float) -> Any:
        return super()._idle(ref, dataclasses.replace(retention, grace_s=0.0), now)


class CountsGraceFromThePut(Reachable):
    """Takes what was stored long ago for unused as long."""

    def _idle(self, ref: str, retention: Any, now: float) -> Any:
        for found in self._versions(ref):
            found.stored.used_at = found.stored.stored_at
        return super()._idle(ref, retention, now)


class KeepsOneMore(Reachable):
    """Does not count the current version."""

    def _idle(self, ref: str, retention: Any, now: float) -> Any:
        keep_last = retention.keep_last + 1
        return super()._idle(ref, dataclasses.replace(retention, keep_last=keep_last), now)


class KeepsNothingForBeingNew(Reachable):
    """Ignores `keep_newer_s`."""

    def _idle(self, ref: str, retention: Any, now: float) -> Any:
        return super()._idle(ref, dataclasses.replace(retention, keep_newer_s=0.0), now)


# Deletion.


class DeletesNothing(Reachable):
    """Says that it did."""

    def delete(self, ref: str, **how: Any) -> bool:
        return self.exists(ref)


class DeletesTheCurrentAlone(Reachable):
    """Leaves the earlier versions."""

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        if not self.exists(ref):
            return super().delete(ref, checksum=checksum, unused_s=unused_s)
        return super().delete(ref, checksum=checksum or checksum_of(self.get(ref).data))


class DeletesMoreThanAsked(Reachable):
    """Takes the whole ref for one of its versions."""

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        return super().exists(ref, checksum=checksum) and super().delete(ref, unused_s=unused_s)


class DeletesWhatIsInUse(Reachable):
    """Ignores `unused_s`."""

    def delete(self, ref: str, *, checksum: str | None = None, **unused: Any) -> bool:
        return super().delete(ref, checksum=checksum)


class TakesDots(Reachable):
    """Takes one illegal ref for a legal one."""

    def exists(self, ref: str, **pins: Any) -> bool:
        return ref != "a/../b" and super().exists(ref, **pins)


class TakesNoPutForUse(Reachable):
    """Writes nothing where the same lies already, and forgets that it is needed."""

    def put(self, ref: str, data: Any, manifest: Any, **position: Any) -> None:
        if not self.exists(ref) or super().get(ref) != (data, manifest):
            super().put(ref, data, manifest, **position)


class MovesBack(Reachable):
    """Points the ref at what is left."""

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        gone = super().delete(ref, checksum=checksum, unused_s=unused_s)
        if ref in self._entries:
            entry = self._entries[ref]
            entry.current = entry.current or next(iter(entry.versions))
        return gone


class DeletesOneHalfFirst(Reachable):
    """Lets a reader in between the two."""

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        if checksum is None and self.exists(ref):
            super().put(ref, b"", super().get(ref).manifest)
            time.sleep(0.01)
        return super().delete(ref, checksum=checksum, unused_s=unused_s)


# Purging.


class PurgesWhatReadersSee(Reachable):
    """Leaves what was moved aside."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        aside = dict(self.quarantine)
        yield from super().purge(refs, only=only, dry_run=dry_run)
        self.quarantine.update(aside)


class PurgesWhenTrying(Reachable):
    """Ignores `dry_run`."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        yield from super().purge(refs, only=only)


class PurgesByContent(Reachable):
    """Takes what others have of the same data."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        leaving = list(refs)
        data = {super(PurgesByContent, self).get(ref) for ref in leaving if self.exists(ref)}
        alike = [ref for ref in self._refs() if super(PurgesByContent, self).get(ref) in data]
        yield from super().purge([*leaving, *alike], only=only, dry_run=dry_run)


class PurgesTheCurrentAlone(Reachable):
    """Leaves the earlier versions."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        for ref in refs:
            if self.exists(ref) and not dry_run:
                super().delete(ref, checksum=checksum_of(self.get(ref).data))
                yield Collected("record", ref, ref, 0)


class PurgesUntilItMeetsTrouble(Reachable):
    """Looks at each ref when it comes to it."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        for ref in refs:
            yield from super().purge([ref], only=only, dry_run=dry_run)


class CountsAgain(Reachable):
    """Tells of a ref that is gone."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        leaving = list(refs)
        yield from super().purge(leaving, only=only, dry_run=dry_run)
        yield from (Collected("record", ref, ref, 0) for ref in leaving)


class PurgesWhateverIsThere(Reachable):
    """Takes versions that were not listed."""

    def purge(self, refs: Any, *, only: Any = None, dry_run: bool = False) -> Any:
        yield from super().purge(refs, dry_run=dry_run)


SUITE, REFUSING = Suite(), RefusingSuite()
ATTACKS: list[tuple[type[Reachable], Callable[..., None], tuple[Any, ...]]] = [
    (TearsPairs, SUITE.test_racing_writers_never_tear_a_pair, (100,)),
    (MergesRefs, SUITE.test_neighbours_never_meet, (("A", "a"),)),
    (MergesRefs, REFUSING.test_neighbours_never_meet, (("A", "a"),)),
    (RefusesRefs, SUITE.test_neighbours_never_meet, (("A", "a"),)),
    (TakesDots, SUITE.test_illegal_refs, ()),
    (KeepsTheFirst, REFUSING.test_put_moves_the_ref, ()),
    (HidesOutages, SUITE.test_an_outage_is_unavailable, ()),
    (HidesOutages, SUITE.test_an_outage_while_streaming, ()),
    (ListsNothingInAnOutage, SUITE.test_an_outage_while_listing, ()),
    (ListsNothingInAnOutage, SUITE.test_an_outage_while_verifying, ()),
    (ListsNothingInAnOutage, SUITE.test_an_outage_while_collecting, ()),
    (PublishesEarly, SUITE.test_a_reader_that_breaks, (OSError(5, "away"), 70_000)),
    (TakesAnErrorForTheEnd, SUITE.test_a_reader_that_breaks, (OSError(5, "away"), 70_000)),
    (TakesTheReadersErrorForItsOwn, SUITE.test_a_reader_that_breaks, (OSError(5, "away"), 0)),
    (IgnoresTheChecksum, SUITE.test_checksum_is_kept_to, (10,)),
    (ChecksTooLate, SUITE.test_checksum_is_kept_to, (10,)),
    (ReadsOnce, SUITE.test_short_reads, (66_000, 1)),
    (ReadsItAllAtOnce, SUITE.test_short_reads, (1, 1)),
    (ForgetsThePosition, SUITE.test_takes_a_position, ()),
    (OpensWhatIsCurrent, SUITE.test_opens_the_pinned_version, ()),
    (OpensWithAStaleManifest, SUITE.test_moves_the_ref, ()),
    (FollowsTheRef, SUITE.test_an_open_reader_keeps_its_version, (100_000,)),
    (OpensAnything, SUITE.test_opening_nothing, ()),
    (ReadsDamage, SUITE.test_damage_in_streams, (10,)),
    (ReadsDamage, SUITE.test_damage_is_not_copied, (10,)),
    (VerifiesTheCurrent, SUITE.test_intact, ()),
    (VerifiesItAllInEachPart, SUITE.test_parts_are_the_whole, (3,)),
    (LeavesAPartOut, SUITE.test_parts_are_the_whole, (2,)),
    (VerifiesByLetters, SUITE.test_under_a_prefix, ("a",)),
    (SeesNoDamage, SUITE.test_damage_is_told, (10,)),
    (SeesNoDamage, SUITE.test_one_part_tells_of_the_damage, (2,)),
    (DeletesWhatIsDamaged, SUITE.test_quarantine, (10,)),
    (LeavesDamageWhereItIs, SUITE.test_quarantine, (10,)),
    (MovesAsideUnasked, SUITE.test_damage_is_told, (10,)),
    (TellsOfDamageOnce, SUITE.test_quarantine, (10,)),
    (CollectsTheCurrent, SUITE.test_old_versions_go, ()),
    (CollectsTheCurrent, SUITE.test_shared_data, ()),
    (ThinksTheNewestIsCurrent, SUITE.test_current_is_not_always_newest, ()),
    (AsksForPinsFirst, SUITE.test_pins_are_asked_last, ()),
    (AsksForNoPins, SUITE.test_pins_keep, ()),
    (AsksForNoPins, SUITE.test_racing_writers_lose_nothing, ()),
    (PinsByDataAlone, SUITE.test_pins_keep, ()),
    (PinsByThePairAlone, SUITE.test_pins_keep, ()),
    (TakesAnErrorForTheLastPin, SUITE.test_pins_that_cannot_be_told, (OSError("away"),)),
    (CollectsWhatIsPutAgain, SUITE.test_put_again_meanwhile, (REF, (b"old", b"m"))),
    (CollectsWhatIsPutAgain, SUITE.test_stored_again_meanwhile, ((b"old", b"m"),)),
    (CollectsWhatIsPutAgain, SUITE.test_put_between_removals, ("version",)),
    (CollectsWhenTrying, SUITE.test_dry_run, ()),
    (TriesWhenCollecting, SUITE.test_old_versions_go, ()),
    (TriesWhenCollecting, SUITE.test_nothing_is_collected_twice, ()),
    (KnowsNoGrace, SUITE.test_grace, ()),
    (CountsGraceFromThePut, SUITE.test_grace_begins_when_the_ref_moves_on, ()),
    (KeepsOneMore, SUITE.test_keep_last, (2,)),
    (KeepsNothingForBeingNew, SUITE.test_keep_newer, ()),
    (DeletesNothing, SUITE.test_delete, (b"data",)),
    (DeletesNothing, SUITE.test_delete_again, ()),
    (DeletesTheCurrentAlone, SUITE.test_delete_takes_every_version, ()),
    (DeletesMoreThanAsked, SUITE.test_delete_an_old_version, ()),
    (DeletesMoreThanAsked, SUITE.test_delete_the_current_version, ()),
    (DeletesWhatIsInUse, SUITE.test_delete_what_is_out_of_use, ()),
    (TakesNoPutForUse, SUITE.test_the_same_put_is_use, (b"data",)),
    (MovesBack, SUITE.test_delete_the_current_version, ()),
    (PurgesWhatReadersSee, SUITE.test_purge_what_was_moved_aside, (10,)),
    (PurgesWhenTrying, SUITE.test_a_dry_purge, ()),
    (PurgesByContent, SUITE.test_purge_leaves_shared_data, ()),
    (PurgesTheCurrentAlone, SUITE.test_purge_takes_every_version, ()),
    (PurgesUntilItMeetsTrouble, SUITE.test_purge_illegal_refs, ()),
    (PurgesWhateverIsThere, SUITE.test_purge_only_what_was_listed, (b"data",)),
    (CountsAgain, SUITE.test_purge_again, ()),
    (DeletesOneHalfFirst, SUITE.test_racing_readers_see_whole_pairs, ()),
]


@pytest.mark.parametrize(
    ("broken", "attack", "arguments"),
    ATTACKS,
    ids=[f"{broken.__name__}-{attack.__name__}" for broken, attack, _ in ATTACKS],
)
def test_the_suite_finds_it(
    broken: type[Reachable], attack: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """A test of the suite passes on a sound store, and fails on the one that is broken."""
    attack(Reachable(), *arguments)
    with pytest.raises((Exception, pytest.fail.Exception)):
        attack(broken(), *arguments)
