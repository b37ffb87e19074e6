"""Breaks of feed, redrive, repair, collection, archive, trimming and spreading, one at a time.

Each replaces words in one function, or in one script, for the time of a run. Its seed catches it
on the code that brought it; other code has other seeds (`--hunt`, see `whole.hunt`).
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from types import FunctionType
from typing import Any, Final

from sidecar.redis import scripts
from tests.simulation.whole.kinds import Deed
from tests.simulation.whole.plan import DRAWN, ERASING, KEEPING, Scene


class Area(StrEnum):
    """What is broken."""

    FEED = "feed"
    TRIMMING = "trimming"
    ARCHIVE = "archive"
    REDRIVE = "redrive"
    REPAIR = "repair"
    COLLECTION = "collection"
    KEEPING = "keeping"
    SPREADING = "spreading"
    PAUSING = "pausing"
    ERASING = "erasing"


@dataclass(frozen=True)
class Mutant:
    """One break."""

    name: str
    where: str
    """`module:function` of the product, `module:Class.method`, or the name of a script."""
    old: str
    new: str
    area: Area
    seed: int
    """It catches the break, or one of the next few."""
    scene: Scene = DRAWN
    """What a run has, for its seeds to come to what is broken."""


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Let the product be broken."""
    made = _function(mutant) if ":" in mutant.where else _script(mutant)
    with made:
        yield


@contextmanager
def _function(mutant: Mutant) -> Iterator[None]:
    function = _found(mutant.where)
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("def ") :]  # without decorators: only its code is taken
    there: dict[str, Any] = {}
    text = "from __future__ import annotations\n" + _replaced(mutant, source)
    exec(compile(text, mutant.name, "exec"), function.__globals__, there)
    before, function.__code__ = function.__code__, there[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = before


def _found(where: str) -> FunctionType:
    name, _, path = where.partition(":")
    owner: Any = import_module(name)
    *outer, last = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    found = inspect.getattr_static(owner, last)
    function = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    function = function.fget if isinstance(function, property) else function
    assert isinstance(function, FunctionType), where
    return function


@contextmanager
def _script(mutant: Mutant) -> Iterator[None]:
    before = scripts._SOURCES[mutant.where]
    scripts._SOURCES[mutant.where] = _replaced(mutant, before)
    try:
        yield
    finally:
        scripts._SOURCES[mutant.where] = before


def _replaced(mutant: Mutant, source: str) -> str:
    assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.where} has changed; fix the list"
    return source.replace(mutant.old, mutant.new)


_HISTORY: Final = "sidecar.history.archive:ArchiveHistory"
_HORIZON: Final = "sidecar.wire.expiring:Horizon"
_EVIDENCE: Final = "sidecar.ops.evidence:Evidence"
NEVER: Final = -1

_READERS_LATE: Final = Scene(
    plan={"trim_notifications": "length=4", "dedup_window_s": 1.0, "archive": False},
    fleet={"feeds": ("poll", "poll"), "events": 20},
)
_READERS_HOLD: Final = Scene(
    plan={"trim_notifications": "length=4", "dedup_window_s": 1.0, "archive": False},
    fleet={"feeds": ("register", "register"), "events": 20},
)
_HAND_TRIMS: Final = Scene(
    (Deed.TRIM_NOTES,),
    plan={"trim_notifications": "length=0", "dedup_window_s": 0.5, "archive": False,
          "chaos_s": 8.0},
    fleet={"feeds": ("poll", "poll"), "events": 40},
)  # fmt: skip
_FULL: Final = Scene(
    (Deed.FULL,),
    plan={"trim_control": "length=3", "archive": False, "crashes_till_careful": 1},
    fleet={"events": 60},
)
_WINDOW_HOLDS: Final = Scene(plan={"trim_notifications": "length=4", "archive": False})
_ARCHIVED_FIRST: Final = Scene(plan={"trim_control": "length=3", "archive": True})
_OTHERS_READ: Final = Scene((Deed.OTHER_GROUP,), plan={"trim_control": "age=1s", "archive": False})
_TAIL_LOST: Final = Scene(
    (Deed.PROMOTED,), plan={"chaos_s": 5.0}, fleet={"feeds": ("poll", "poll"), "events": 20}
)
_TRIMS: Final = Scene(plan={"trim_control": "age=1s", "archive": False})
_STACKS_WAIT: Final = Scene(
    (Deed.REDRIVE,),
    plan={"stacks": 0.7, "max_consecutive_dead": 0, "retry_budget_s": 2.0, "chaos_s": 8.0},
    fleet={"events": 20},
)
_SENT_AGAIN: Final = Scene(
    (Deed.REDRIVE,),
    plan={"stacks": 0.7, "max_consecutive_dead": 0, "retry_budget_s": 0.0, "chaos_s": 3.0}
    | {"dedup_window_s": 1.0, "trim_dead": "never", "archive": False, "sends_again": True},
    fleet={"events": 8},
)
_SOMETHING_LOST: Final = Scene(
    (Deed.REPAIR, Deed.DELETE_NOTE), plan={"stacks": 0.7, "max_consecutive_dead": 0}
)
_AUDITED: Final = Scene((Deed.REPAIR,))
_TRIMMED_AND_DELETED: Final = Scene(
    (Deed.DELETE_NOTES, Deed.REDRIVE),
    plan={"stacks": 0.7, "max_consecutive_dead": 0, "retry_budget_s": 0.0, "chaos_s": 6.0}
    | {"dedup_window_s": 1.0, "trim_notifications": "length=2", "trim_dead": "never"}
    | {"archive": False},
    fleet={"events": 30},
)

_READING: Final = "sidecar.feed.reading:Reading"
_RETENTION: Final = "sidecar.redis.retention"
_FLOORS: Final = f"{_RETENTION}:Retention._notification_floors"
_OVERTAKERS: Final = "sidecar.ops.overtakers:Overtakers"
_ARCHIVER: Final = "sidecar.history.archiver:Archiver"
_OWNERSHIP: Final = "sidecar.worker.ownership:Ownership"
_ANCHORING: Final = "sidecar.worker.anchoring:Anchoring"
_SHARE: Final = "sidecar.worker.share:Share"
_PINS: Final = "sidecar.ops.pins:Pins"
_AUDIT: Final = "sidecar.ops.audit:Audit"
_REDRIVE: Final = "sidecar.ops.redrive"
_STORE: Final = "store.memory:MemoryStore"
_ERASING: Final = "sidecar.ops.erasing:Erasing"

MUTANTS: Final = (
    # --- feed
    Mutant("feed_goes_on_where_entries_were_trimmed", f"{_READING}._check_gap",
           "if since < trimmed or",
           "if False and since < trimmed or", Area.FEED, 2006, _READERS_LATE),
    Mutant("feed_takes_a_lost_tail_for_the_end", f"{_READING}._check_gap",
           "if since > end:",
           "if False:", Area.FEED, 2023, _TAIL_LOST),
    Mutant("feed_moves_its_cursor_to_the_end", f"{_READING}.batch",
           "found[-1].control_version if found",
           "_end(info) if found", Area.FEED, 2004),
    Mutant("feed_passes_over_what_lies_beyond_a_page", f"{_READING}.batch",
           "return Batch(",
           "found = found[:1]\n    return Batch(", Area.FEED, 2003),
    Mutant("gap_begins_one_too_late", f"{_READING}._check_gap",
           "if since < trimmed or",
           "if since + 10**6 < trimmed or", Area.FEED, 2000, _READERS_LATE),
    Mutant("feed_believes_where_trimming_ended", f"{_READING}._check_gap",
           "trimmed == since and went_since",
           "False and went_since", Area.FEED, 2013, _HAND_TRIMS),
    Mutant("feed_takes_one_after_its_cursor_twice", f"{_READING}.ask",
           "self._stream, EntryId.of_version(since)\n",
           "self._stream, EntryId.of_version(max(since - 1, 0))\n", Area.FEED, 2003),
    # --- trimming
    Mutant("trims_what_the_relay_needs", f"{_RETENTION}:Retention._trim",
           "min([wanted, *floors.values()])",
           "wanted", Area.TRIMMING, 2000, _WINDOW_HOLDS),
    Mutant("anchor_notes_no_lowest", f"{_ANCHORING}.move_on",
           "low=low, ",
           "", Area.TRIMMING, 290),
    Mutant("trims_what_is_pending", "trim",
           "needs(redis.call('XPENDING', KEYS[1], name)[2])",
           "", Area.TRIMMING, 2000, _OTHERS_READ),
    Mutant("trims_without_asking_readers", _FLOORS,
           "passed = [r.control_version + 1 for r in self.readers().good if not r.expired]",
           "passed = []", Area.TRIMMING, 2000, _READERS_HOLD),
    Mutant("trims_within_the_window", _FLOORS,
           "remembered = max(0, now_us - int(self._dedup_window_s * 1e6))",
           "remembered = now_us", Area.TRIMMING, 2000, _WINDOW_HOLDS),
    Mutant("trims_before_it_is_archived", f"{_RETENTION}:Retention._trim",
           "if self._archived_first:",
           "if False:", Area.TRIMMING, 2000, _ARCHIVED_FIRST),
    Mutant("trims_nothing_by_length", f"{_RETENTION}:_wanted",
           "if policy.length is not None:",
           "if False:", Area.TRIMMING, 2002),
    Mutant("prunes_within_the_window", "sidecar.redis.pruning:Pruning.prune",
           "before_us = max(0, min(now_us - self._window_us, kept_us))",
           "before_us = max(0, min(now_us, kept_us))", Area.TRIMMING, 2013),
    Mutant("prunes_nothing", "sidecar.redis.pruning:Pruning.prune",
           "if not turns:",
           "if True:", Area.TRIMMING, 2113),
    Mutant("trims_one_too_many", "trim",
           "from, '(' .. keep,",
           "from, keep,", Area.TRIMMING, 2004, _TRIMS),
    Mutant("trims_up_to_what_the_fastest_reader_passed", _FLOORS,
           "EntryId.of_version(min(passed))",
           "EntryId.of_version(max(passed))", Area.TRIMMING, 2000, _READERS_HOLD),
    Mutant("expired_readers_and_others_are_confused", _FLOORS,
           "if not r.expired",
           "if r.expired", Area.TRIMMING, 2000, _READERS_HOLD),
    Mutant("trims_what_either_policy_lets_go_above_floors", f"{_RETENTION}:Retention._trim",
           "min([wanted, *floors.values()])",
           "max([wanted, *floors.values()])", Area.TRIMMING, 2000),
    Mutant("low_lies_beyond_the_end", "sidecar.worker.relay:Relay._low_without",
           "if low is not None)",
           "if low is not None)[:-1] + '9'", Area.TRIMMING, 2002),
    Mutant("low_forgets_what_is_held_back", "sidecar.worker.holds:Holds.lowest_without",
           "return min(held, default=None)",
           "return None", Area.TRIMMING, 2014),
    Mutant("prunes_all_that_it_finds", "prune",
           "if stamp and stamp < before then",
           "if stamp then", Area.TRIMMING, 2000),
    # --- archive
    Mutant("archive_is_noted_and_not_written", f"{_ARCHIVER}._archive",
           "done = self._write(stream, reached, entries, gap)",
           "done = Archived(stream, '', 0, 0)", Area.ARCHIVE, 2008),
    Mutant("archive_lacks_the_last_of_a_segment", f"{_ARCHIVER}._write",
           "stream, entries, gap)",
           "stream, entries[:-1] or entries, gap)", Area.ARCHIVE, 2013),
    Mutant("archive_read_backwards_lacks_one", f"{_HISTORY}.entries_back",
           "yield from entries_back_of(self._pieces(stream, about), last, first)",
           "yield from list(entries_back_of(self._pieces(stream, about), last, first))[1:]",
           Area.ARCHIVE, 2001),
    Mutant("archive_skips_the_first_of_each_segment", f"{_ARCHIVER}._archive",
           "self._batch(stream, reached.after)",
           "self._batch(stream, reached.after.after)", Area.ARCHIVE, 2093),
    # --- redrive
    Mutant("redrive_asks_nobody", f"{_OVERTAKERS}.against",
           "return twice or self.of(candidate_id) or self.unknown(candidate_id)",
           'return ""', Area.REDRIVE, 2204),
    Mutant("redrive_looks_at_nothing_that_waits", f"{_OVERTAKERS}.advance",
           "for stream in self._streams if self._moving else ():",
           "for stream in ():", Area.REDRIVE, 2002),
    Mutant("redrive_looks_at_nothing_published", f"{_OVERTAKERS}._look_at",
           "for entry in notifications:",
           "for entry in ():", Area.REDRIVE, 2135),
    Mutant("redrive_takes_trimmed_for_nothing", f"{_OVERTAKERS}._read_trimmed",
           "if end < begin or end == FIRST:",
           "if True:", Area.REDRIVE, 94),
    Mutant("a_note_of_trimming_goes_with_its_stream", "publish",
           "if gone == 0 or gone >= tonumber(first) then",
           "if true then", Area.REDRIVE, 2077, _TRIMMED_AND_DELETED),
    Mutant("redrive_removes_and_appends_nothing", f"{_REDRIVE}:Redriver._append",
           "entry = overtakers.append(candidate, letter.to_entry())",
           "entry = f'{candidate.stream}/1-1'", Area.REDRIVE, 2042),
    Mutant("later_is_earlier", "sidecar.wire.subject:comes_after",
           "return later.entry > earlier.entry",
           "return later.entry < earlier.entry", Area.REDRIVE, 2206),
    Mutant("a_ref_is_no_subject", "sidecar.wire.subject:overtakes",
           "return True",
           "return False", Area.REDRIVE, 2383),
    Mutant("redrive_looks_at_nothing_pending", f"{_OVERTAKERS}._read_waiting",
           "for entries in backlog.pending():",
           "backlog.passed_over = lambda: ()\n            for entries in ():",
           Area.REDRIVE, 2012, _STACKS_WAIT),
    Mutant("redrive_looks_at_nothing_unread", f"{_OVERTAKERS}._read_waiting",
           "for page in pages(client, stream, self._seen[stream].after, page=PAGE):",
           "for page in ():", Area.REDRIVE, 142),
    Mutant("redrive_newest_first", f"{_REDRIVE}:_in_entry_order",
           "ORDER BY entry, stream, letter",
           "ORDER BY entry DESC, stream, letter", Area.REDRIVE, 2206),
    Mutant("equal_versions_do_not_overtake", "sidecar.wire.subject:overtakes",
           "later.version >= earlier.version",
           "later.version > earlier.version + 1", Area.REDRIVE, 2),
    Mutant("redrive_keeps_the_letter", f"{_REDRIVE}:Redriver._append",
           "self._letters.settle(letter.id, record)",
           "pass", Area.REDRIVE, 2042),
    Mutant("redrive_publishes_twice_what_the_index_forgot", f"{_OVERTAKERS}._twice",
           "if not version or remembers:",
           "if True:", Area.REDRIVE, 2001, _SENT_AGAIN),
    # --- repair
    Mutant("repair_asks_nobody", "sidecar.ops.repair:Repair._try",
           "against = overtakers.against(candidate.id)",
           "against = ''", Area.REPAIR, 2083, _SOMETHING_LOST),
    Mutant("audit_takes_what_waits_for_lost", "sidecar.ops.waiting:Waiting.waits",
           "return self.consumer_of(stream, entry_id) is not None",
           "return False", Area.REPAIR, 2023, _AUDITED),
    Mutant("repair_takes_what_is_lost_for_finished", f"{_OVERTAKERS}._look_at_passed_over",
           "spared_by_lost if is_lost else before)",
           "before) if not is_lost else None", Area.REPAIR, 551286),
    Mutant("repair_makes_nothing_forget", "sidecar.ops.repair:Repair._note_again",
           "if not identity:",
           "if True:", Area.REPAIR, 2061),
    Mutant("audit_takes_what_was_trimmed_for_lost", f"{_HORIZON}._may_hide",
           "return not self._agrees(gone, entry_id, before)",
           "return False", Area.REPAIR, 2014),
    Mutant("audit_takes_duplicates_for_lost", f"{_AUDIT}._end_of",
           "if about.event and published.fetchone():",
           "if False:", Area.REPAIR, 2006),
    Mutant("audit_takes_no_trimmed_letter_for_an_end", f"{_HORIZON}.may_hide_letter",
           "return self.letters != FIRST and not self._agrees(self.letters, entry_id, before)",
           "return False", Area.REPAIR, 2049),
    # --- collection
    Mutant("gc_does_not_ask_notifications", f"{_PINS}._rounds",
           "yield self._notify, census.notifications",
           "return", Area.COLLECTION, 36),
    Mutant("gc_asks_control_streams_of_nothing", f"{_PINS}._entries",
           "first = self._next.get(place) or self._first(client, stream)",
           'first = "+"', Area.COLLECTION, 2003),
    Mutant("gc_takes_what_is_current", f"{_STORE}._idle",
           "if not found.current]",
           "]", Area.COLLECTION, 2672),
    Mutant("gc_asks_one_log_of_two", "sidecar.ops.asking:check_all_asked",
           "if missing:",
           "if False:", Area.COLLECTION, 2006),
    Mutant("gc_knows_no_logs", "sidecar.wire.logbook:registered",
           "sorted((_read(store, ref) for ref in refs), key=lambda one: one.id)",
           "[]", Area.COLLECTION, 2006),
    # --- keep rules
    Mutant("keep_deletes_the_newest", "sidecar.ops.keeping:Keeping._spare",
           "candidate = self._candidates.pop(pin.ref, None)",
           "candidate = None", Area.KEEPING, 35, KEEPING),
    Mutant("keep_deletes_before_the_record", "sidecar.ops.keeping:Keeping.run",
           "self._pace.begin()",
           "pass", Area.KEEPING, 31, KEEPING),
    Mutant("published_ignores_what_waits", "sidecar.ops.published:PublishedRefs.run",
           "found.pop(pin.ref, None)",
           "pass", Area.KEEPING, 78, KEEPING),
    # --- spreading
    Mutant("nothing_is_given_back", f"{_SHARE}.gives",
           "if self._may_give <= 0 or not any(fewer):",
           "if True:", Area.SPREADING, 2009),
    Mutant("nobodys_stream_is_left", f"{_OWNERSHIP}._is_our_turn",
           "return now - self._free_since >= self._options.lease_s / 2",
           "return False", Area.SPREADING, 20),
    Mutant("unable_for_ever", f"{_OWNERSHIP}._is_our_turn",
           "self._share.can_serve(self._stream)",
           "pass", Area.SPREADING, 2224),
    Mutant("who_owns_is_not_told", f"{_SHARE}.took",
           "self._owned.add(stream)",
           "pass", Area.SPREADING, 2008),
    Mutant("a_lease_that_runs_is_taken", "acquire",
           "if owner and owner ~= ARGV[1] then",
           "if false then", Area.SPREADING, 2008),
    Mutant("the_lost_stay_owned", f"{_SHARE}.lost",
           "self._owned.discard(stream)",
           "pass", Area.SPREADING, 2007),
    Mutant("a_lease_is_not_renewed", f"{_OWNERSHIP}.renew",
           "halted = self._publisher.renew()",
           "halted = ''", Area.SPREADING, 2371),
    Mutant("the_fence_is_not_taken", "acquire",
           "if yielded or redis.call('GET', KEYS[1]) ~= ARGV[1] then",
           "if yielded then", Area.SPREADING, 2007),
    Mutant("a_fence_is_not_asked_for_at_renewal", "renew",
           "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, '', 0} end",
           "", Area.SPREADING, 52),
    Mutant("a_lease_is_given_back_for_good", f"{_OWNERSHIP}._yield_lease",
           "self._stands_back_until = self._clock() + stand_back_s",
           "self._stands_back_until = math.inf", Area.SPREADING, 20),
    # A whole seed found this one, while it was written.
    Mutant("a_pause_drops_what_was_read", "sidecar.worker.relay:Relay._serve",
           "self._admit_fresh()  # what was read before that was noticed",
           "self._reading.take_fresh()", Area.PAUSING, 544),
    Mutant("publishes_of_the_paused", "publish",
           "if (halt[2] or '') ~= ARGV[5] then return {-2, 0, ''} end",
           "", Area.PAUSING, 130),
    Mutant("who_is_resumed_is_not_read_back", "sidecar.worker.pausing:Pausing.look",
           "reading.go_back_to(waits_from.before)",
           "pass", Area.PAUSING, 30),
    Mutant("what_a_pause_puts_off_is_forgotten", "sidecar.worker.pausing:Pausing.look",
           "[item.id for item in items]",
           "[]", Area.PAUSING, 30),
    # --- erasing
    Mutant("erases_what_is_not_paused", f"{_ERASING}.run",
           "with self._paused():",
           "with ExitStack():", Area.ERASING, 2019, ERASING),
    Mutant("erases_while_events_wait", f"{_ERASING}.run",
           "if found := self.waiting():",
           "if found := ():", Area.ERASING, 2057, ERASING),
    Mutant("erases_before_the_record", f"{_ERASING}._erase",
           "announce(fleet, erasure, (one for one in new if one not in known))",
           "pass", Area.ERASING, 2000, ERASING),
    Mutant("erasing_lets_nobody_continue", "sidecar.redis.holding:Hold.release",
           'if mine.get("paused"):',
           "if False:", Area.ERASING, 2000, ERASING),
    Mutant("what_was_erased_is_called_lost", "sidecar.ops.audit:is_erased",
           "return bool(keeper and not keeper.exists(pin.ref, checksum=pin.checksum))",
           "return False", Area.ERASING, 2000, ERASING),
    Mutant("erases_the_fleets_store_alone", "sidecar.ops.erasing:EraseOrder.stores",
           "{**self.others, ", "{", Area.ERASING, 2000, ERASING),
)  # fmt: skip
"""Each caught on its seed."""

SOUGHT: Final = (
    # Two guards: what an event of others names is spared.
    Mutant("erases_anothers", "sidecar.ops.claims:Claims.add_named",
           "if claim.tenant == self._tenant:",
           "if True:", Area.ERASING, NEVER, ERASING),
    # Rare: an artifact has to come between the purge and the last look. Seen once, on seed 2110.
    Mutant("erasing_takes_no_last_look", f"{_ERASING}._left",
           "return [one for one in pieces",
           "return [one for one in ()", Area.ERASING, NEVER, ERASING),
    # Rare: a version has to come between the plan and the purge of its ref.
    Mutant("erases_what_came_meanwhile_unrecorded", f"{_ERASING}.pieces",
           "store.purge(plan.refs, only=only, dry_run=dry_run)",
           "store.purge(plan.refs, dry_run=dry_run)", Area.ERASING, NEVER, ERASING),
    # Rare: it takes a server that lost its tail, a clock that is behind, and a reader in between.
    # Rare: it takes a tenure that reads back one by one, and a server that is full between two.
    # `tests/faults/test_full_server.py` shows it.
    Mutant("full_waits_before_the_lowest_is_noted", f"{_ANCHORING}.note_lowest",
           "self._publisher.stand(low=self._reading.lowest_pending())",
           "return", Area.TRIMMING, NEVER, _FULL),
    Mutant("feed_does_not_ask_for_incarnations", f"{_READING}._check_gap",
           "if lost:",
           "if False:", Area.FEED, NEVER),
    # Rare: it takes a server that lost its tail, a clock that is behind, and a reader in between.
    Mutant("incarnation_is_not_noted", "publish",
           "incarnate(found, stamp)",
           "local _ = stamp", Area.FEED, NEVER),
    # Rare: it takes a server that lost its tail, a clock that is behind, and a reader in between.
    Mutant("given_versions_are_forgotten", "publish",
           "clock = math.max(clock, given(found.known))",
           "clock = clock", Area.FEED, NEVER),
    # Rare: a second of notifications has to be trimmed while its reader is behind.
    Mutant("reader_passes_what_it_has_not", "sidecar.redis.readers:passed",
           "value(control_version, ",
           "value(control_version + 10**6, ", Area.FEED, NEVER),
    # Rare: it takes a server that lost its tail, a clock that is behind, and a reader in between.
    Mutant("cursor_is_of_any_incarnation", f"{_READING}.batch",
           "if after and before == after",
           "if after", Area.FEED, NEVER),
    # Rare: it takes a server that lost its tail, a clock that is behind, and a reader in between.
    Mutant("incarnation_keeps_nothing_of_the_one_before", "sidecar.wire.incarnations:is_lost",
           "any(cursor > one.kept for one in incarnations[ids.index(carried) + 1 :])",
           "False", Area.FEED, NEVER),
    # Rare: seen once, by a skip of the feed on seed 3351 of other code.
    Mutant("a_number_given_again_is_the_same", "sidecar.wire.incarnations:is_lost",
           "if carried and 0 < len(incarnations) < FULL:",
           "if False:", Area.FEED, NEVER),
    # Rare: a stream made anew has to be trimmed before its group is.
    Mutant("trims_what_other_groups_need_not_lowest", f"{_RETENTION}:Retention._control_floor",
           "if beyond > info.last_id else",
           "if False else", Area.TRIMMING, NEVER),
    # Rare: a stream made anew has to end at the very mark.
    Mutant("archive_goes_on_where_another_stream_was", "sidecar.redis.archived:archived_to",
           "return mark if info.last_id == mark else None",
           "return mark", Area.ARCHIVE, NEVER),
    # Rare: a stream made anew has to give the ID of the mark again.
    Mutant("archive_trusts_its_mark", "sidecar.redis.archived:archived_to",
           "return mark if checksum_of(Entry(mark, found[0][1])).encode() == words[2] "
           "else None",
           "return mark", Area.ARCHIVE, NEVER),
    # Rare: someone has to trim between two commands.
    Mutant("archive_goes_on_after_what_went_meanwhile", f"{_ARCHIVER}._archive",
           "if within:",
           "if False:", Area.ARCHIVE, NEVER),
    # Rare: a stream made anew has to give both ends of a segment again.
    Mutant("archive_overwrites_what_has_the_same_name", f"{_ARCHIVER}._write",
           "ref = apart(self._store, ref, manifest)",
           "pass", Area.ARCHIVE, NEVER),
    # Rare: Redis has to lose its mark, and the stream to give its ID again.
    Mutant("archive_trusts_the_last_name_of_another_life", f"{_ARCHIVER}._reached",
           "return last if has_all else FIRST",
           "return last", Area.ARCHIVE, NEVER),
    # Rare: the worker has to die between the two.
    Mutant("archive_is_noted_before_it_is_written", f"{_ARCHIVER}._archive",
           "reached = entries[-1].id\n",
           "reached = entries[-1].id\n"
           "        client = self._live.client(stream)\n"
           "        note_archived(client, self._notify, self._keys, stream, entries[-1])\n",
           Area.ARCHIVE, NEVER),
    # Harmless: what is archived twice is read once.
    Mutant("archive_marks_over_anothers_mark", f"{_ARCHIVER}._archive",
           "if not self._holds(claim):",
           "if False:", Area.ARCHIVE, NEVER),
    # Rare: two have to archive the same entries in other pieces.
    Mutant("overlapping_segments_are_not_merged", "sidecar.history.segments:overlapping",
           "if group and begin > reach:",
           "if group:", Area.ARCHIVE, NEVER),
    # Rare: two have to archive the same entries in other pieces.
    Mutant("merging_yields_twice", "sidecar.history.segments:merged",
           "if item not in seen:",
           "if True:", Area.ARCHIVE, NEVER),
    # No judgement: what is young has no time by which it has to be archived.
    Mutant("rest_is_never_archived", f"{_ARCHIVER}._archive",
           "if not (full or rest):",
           "if not full:", Area.ARCHIVE, NEVER),
    # Not generated: a subject is of one tenant here, whose events die in entry order.
    Mutant("redrive_in_order_of_death", f"{_REDRIVE}:_place_of",
           'first.entry.key if first.entry else ""',
           '""', Area.REDRIVE, NEVER),
    # Rare: one that was redriven has to die again, and its newer one to live.
    Mutant("redrive_forgets_where_an_event_stood", f"{_OVERTAKERS}._at_first",
           "if first == one.origin or one.change.entry is None:",
           "if True:", Area.REDRIVE, NEVER),
    # Rare: a newer event has to come between two commands.
    Mutant("redrive_appends_without_a_last_look", "append_again",
           "return {0, ''} end\n  end",
           "break end\n  end", Area.REDRIVE, NEVER),
    # Rare: a worker finds what is lost before an audit does.
    Mutant("audit_finds_nothing_lost", f"{_AUDIT}._lost",
           "for stream, key in suspects:",
           "for stream, key in ():", Area.REPAIR, NEVER),
    # Rare: as above, and something trimmed and forgotten.
    Mutant("audit_takes_what_is_lost_for_trimmed", f"{_HORIZON}._may_hide",
           "return not self._agrees(gone, entry_id, before)",
           "return True", Area.REPAIR, NEVER),
    # Two guards: what is published meanwhile is no suspect any more.
    Mutant("audit_forgets_what_is_pending_elsewhere", "sidecar.ops.waiting:Waiting.read_again",
           "self._read_pending(self._keys[stream], EntryId.of_key(first), EntryId.of_key(last))",
           "pass", Area.REPAIR, NEVER),
    # Rare: an entry has to end while the audit reads.
    Mutant("audit_reads_ends_only_once", f"{_AUDIT}._all",
           "self._judge_entries(stream)\n"
           "    evidence.waiting.read_again()\n"
           "    yield from self._read_ends()",
           "self._judge_entries(stream)\n    evidence.waiting.read_again()", Area.REPAIR, NEVER),
    # Rare: it takes a trimmed notification that the index remembers, beside the entry.
    Mutant("audit_expires_nothing", f"{_AUDIT}._remembered",
           'return _expired(trimmed), f"it was published as',
           'return None, f"it was published as', Area.REPAIR, NEVER),
    # Two guards: what was trimmed and forgotten is told by its neighbours.
    Mutant("audit_forgets_where_the_index_points", f"{_AUDIT}._remembered",
           "if known and known.content_digest == content:",
           "if False:", Area.REPAIR, NEVER),
    # Rare: a duplicate has to outlive what it repeats, between its neighbours.
    Mutant("audit_forgets_what_repeats", f"{_HORIZON}.may_hide_first",
           "return self._may_hide(self.repeats, entry_id, before)",
           "return False", Area.REPAIR, NEVER),
    # Two guards: publishing looks whether it is there, too.
    Mutant("repair_forgets_what_is_there", "send_again",
           "if #redis.call('XRANGE', KEYS[1], entry, entry) > 0 then return {-1, entry} end",
           "", Area.REPAIR, NEVER),
    # Two guards: what an event names is asked for, however young.
    Mutant("gc_takes_what_was_just_put", f"{_STORE}._idle",
           "now - found.stored.used_at >= retention.grace_s",
           "True", Area.COLLECTION, NEVER),
    # Rare: an event has to move twice while it is read.
    Mutant("gc_asks_control_streams_once", f"{_PINS}._rounds",
           "range(2)",
           "range(1)", Area.COLLECTION, NEVER),
    # Rare: an event has to move while it is read.
    Mutant("gc_asks_notifications_first", f"{_PINS}._rounds",
           "for _ in range(2):",
           "yield self._notify, census.notifications\n"
           "    for _ in range(1):", Area.COLLECTION, NEVER),
    # Rare: what waits has to name a version that is current no more.
    Mutant("gc_asks_nothing_that_waits", f"{_PINS}._rounds",
           "range(2)",
           "range(0)", Area.COLLECTION, NEVER),
    # Rare: a server has to lose its memory between two commands.
    Mutant("gc_does_not_confirm", f"{_PINS}.events",
           "self._registrar.confirm()",
           "pass", Area.COLLECTION, NEVER),
    # Not met: a Put and a collection in memory have no time between them.
    Mutant("gc_takes_what_was_put_meanwhile", f"{_STORE}._let_go",
           "entry.versions.get(found.key) is not found.stored:",
           "found.key not in entry.versions:", Area.COLLECTION, NEVER),
    # Two guards: what an event names is asked for, however young.
    Mutant("a_put_back_in_place_is_no_use_of_it", "store.memory:_remember",
           "used_at=now)",
           "used_at=0.0)", Area.COLLECTION, NEVER),
    # Two guards: a lease that is not renewed runs out.
    Mutant("who_cannot_serve_keeps_the_lease", f"{_OWNERSHIP}._yield_lease",
           "if not self._is_owner:",
           "if True:", Area.SPREADING, NEVER),
    # Two guards: what nobody takes is taken after half a lease.
    Mutant("the_dead_stay_members", "sidecar.redis.members:Members._alive",
           "ages[member.id.encode()] <= GONE_AFTER_LEASES",
           "True", Area.SPREADING, NEVER),
    # Two guards: what nobody takes is taken after half a lease.
    Mutant("a_share_is_rounded_down", f"{_SHARE}._most",
           "-(-len(self._serves) // (1 + len(self._others)))",
           "len(self._serves) // (1 + len(self._others))", Area.SPREADING, NEVER),
    # Two guards: what is too much is given back.
    Mutant("one_more_than_its_share", f"{_SHARE}.may_take",
           "len(self._owned) < self._most()",
           "len(self._owned) <= self._most()", Area.SPREADING, NEVER),
    # Two guards: a stream is given only above a fair share.
    Mutant("given_back_to_equals", f"{_SHARE}.gives",
           "len(member.owns) < len(self._owned) - 1",
           "len(member.owns) < len(self._owned) + 1", Area.SPREADING, NEVER),
)  # fmt: skip
"""Breaks that no run of some hundred seeds shows, with why, as far as is known."""
