"""A window as one HTML file: it needs no network, and nothing of an event can act in it.

The page is static; what comes from events lies compressed in it as data, and its scripts and styles
are allowed by their digests alone.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

from sidecar.history import History
from sidecar.history.halts import halts_of
from sidecar.replay.artifacts import Put, State, put_of
from sidecar.replay.compare import Comparison, compare
from sidecar.replay.explain.explaining import Explanation, explain_facts
from sidecar.replay.explain.facts import Facts, Kept
from sidecar.replay.explain.subjects import WENT_BACK
from sidecar.replay.overtaking import LEAVE_IT, Overtaking
from sidecar.replay.stalls import Stalls
from sidecar.replay.timeline import End, Life
from sidecar.replay.window import Covered, LifeSelection, Window
from sidecar.wire.bounds import MAX_MANIFEST_BYTES, bounded
from sidecar.wire.moments import rfc3339
from sidecar.wire.reasons import EXPLANATIONS, explain
from store import Limit, StoreError, VersionedStore

ENDS: Final = tuple(end.value for end in End)
_REPEAT: Final = ENDS.index(End.DUPLICATE)
MAX_HALTS: Final = 100
MAX_CAUSES: Final = 100
MAX_DIFFS: Final = 200
MAX_DIFF_LINES: Final = 400
_COMPARED: Final = Limit(64 << 20, MAX_MANIFEST_BYTES)
"""Of larger artifacts the page shows sizes and checksums, and compares none."""
_COLUMNS: Final = (
    "tenant", "stack", "type", "ref", "event_id", "origin", "end_id", "reason", "detail", "fix",
    "checksum", "created_at", "put", "begun", "took", "end", "version", "ahead", "there",
)  # fmt: skip


@dataclass(slots=True)
class Report:
    """What goes into the page: a column a field, and each text once."""

    history: History
    window: Window
    asked: LifeSelection
    covered: list[Covered]
    strings: dict[str, int] = field(default_factory=dict)
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    diffs: list[dict[str, Any]] = field(default_factory=list)
    _newest: dict[str, Life] = field(default_factory=dict)
    _stalls: Stalls = field(default_factory=Stalls)
    _overtaking: Overtaking = field(default_factory=Overtaking)
    _kept: Kept = field(default_factory=Kept)

    def add(self, life: Life) -> None:
        """Take in one event. Raises `Unreachable` when the store is away.

        What is not asked for gets no row, but may be what waited, or what overtook.
        """
        wanted = self.asked.wants(life.event, life.tenant_id)
        self._kept.add(life)
        self._stalls.add(life)
        self._overtaking.see(life, len(self) if wanted else None)
        if wanted:
            self._add_row(life)

    def _add_row(self, life: Life) -> None:
        if life.end is End.DEAD:
            self._overtaking.watch(len(self), life)
        put = put_of(life.event, self.history.store) if life.event and self.history.store else None
        for name, text in _texts(life, put).items():
            self.columns[name].append(self.strings.setdefault(text or "", len(self.strings)))
        for name, number in _numbers(life).items():
            self.columns[name].append(number)
        if life.end is End.PUBLISHED and put and put.state is State.THERE:
            self._compare(life)

    def __len__(self) -> int:
        return len(self.columns["end"])

    def _compare(self, life: Life) -> None:
        """Say how this version of its ref differs from the one before."""
        assert life.event  # noqa: S101 -- it names an artifact
        ref = life.event.artifact_ref
        before, self._newest[ref] = self._newest.get(ref), life
        if before is None or before.event is None or len(self.diffs) >= MAX_DIFFS:
            return
        blobs = [_data(one, self.history.store) for one in (before, life)]
        if blobs[0] is None or blobs[1] is None or blobs[0] == blobs[1]:
            return
        found = compare(blobs[0], blobs[1])
        # The page knows an event by when it ended, as its columns show that.
        new = self.columns["begun"][-1] + self.columns["took"][-1]
        self.diffs.append(
            {"ref": ref, "new": new, "kind": found.kind.value, "lines": _shortened(found, ref)}
        )

    def _overtaken(self) -> dict[int, dict[str, Any]]:
        """Return, by row, what made a dead letter old news."""
        found = {}
        for row, (life, its_row) in self._overtaking.of.items():
            assert life.event  # noqa: S101 -- a notification that cannot be read overtakes nothing
            found[row] = {
                "event_id": life.event_id, "tenant": life.tenant_id, "stack": life.event.stack_id,
                "version": life.event.version, "at_us": life.ended_us, "row": its_row,
            }  # fmt: skip
        return found

    def _halts(self) -> list[dict[str, Any]]:
        """Return the newest halts in the window, the oldest of them first."""
        until_us = min(self.window.until_us, self.history.now_us())
        found = halts_of(self.history, self.window.since_us, until_us)
        return [
            {
                "stream": halt.stream, "tenant": halt.tenant, "from_us": halt.since_us,
                "to_us": until_us if halt.until_us is None else halt.until_us, "said": str(halt),
            }
            for halt in found[-MAX_HALTS:]
        ]  # fmt: skip

    def _causes(self, found: Explanation) -> list[dict[str, Any]]:
        """Return what `explain` says of what was asked for, each with its row where it has one."""
        findings = found.findings[:MAX_CAUSES]
        rows = self._rows({one.place for one in findings})
        return [
            one.to_json(found.numbers) | {
                "from_us": one.at_us, "to_us": one.until_us or one.at_us,
                "row": rows.get(one.place), "back": one.kind == WENT_BACK.name,
            }
            for one in findings
        ]  # fmt: skip

    def _what(self) -> str:
        """Return what `explain` is asked about, which knows no ref by what it lies under.

        Empty for everything: better too much is told than nothing of what went wrong.
        """
        asked, texts = self.asked, list(self.strings)
        if asked.tenant and asked.stack:
            return f"{asked.tenant}/{asked.stack}"
        is_one = {texts[at] for at in self.columns["ref"]} <= {asked.ref}
        return asked.ref if asked.ref and is_one else asked.tenant

    def _rows(self, places: set[str]) -> dict[str, int]:
        """Return the rows of these entries and notifications: not those of a repeat, which has the
        notification of the first.
        """
        wanted = {self.strings[one]: one for one in places if one and one in self.strings}
        return {
            wanted[text]: row
            for name in ("origin", "end_id") for row, text in enumerate(self.columns[name])
            if text in wanted and (name == "origin" or self.columns["end"][row] != _REPEAT)
        }  # fmt: skip

    def data(self) -> bytes:
        """Return what the page reads. Raises as `explain` does."""
        found = explain_facts(Facts.of(self.history, self.window, self._kept), self._what())
        asked = [f"{name} {value}" for name, value in _given(self.asked)]
        return json.dumps({
            "head": {
                "window": str(self.window), "history": self.history.describe(),
                "taken_at": rfc3339(self.history.now_us()), "filters": ", ".join(asked),
                "covered": [one.to_json() for one in self.covered],
            },
            "strings": list(self.strings), "columns": self.columns, "ends": ENDS,
            "summary": found.summary.lines, "causes": self._causes(found),
            "diffs": self.diffs, "quiet": [stall._asdict() for stall in self._stalls.found()],
            "halts": self._halts(), "overtaken": self._overtaken(), "leave_it": LEAVE_IT,
            "prevent": {reason: told.prevent for reason, told in EXPLANATIONS.items()},
            "tallest": [max(self.columns["took"], default=0)],
        }).encode()  # fmt: skip

    def html(self) -> Iterator[bytes]:
        """Return the page, in pieces."""
        page = {name: _file(name) for name in ("page.css", "page.js", "uPlot.min.css")}
        page["uPlot.iife.min.js"] = _file("uPlot.iife.min.js")
        values = {
            "chart_css": page["uPlot.min.css"], "page_css": page["page.css"],
            "chart_js": page["uPlot.iife.min.js"], "page_js": page["page.js"],
            "style_hashes": _hashes(page["uPlot.min.css"], page["page.css"]),
            "script_hashes": _hashes(page["uPlot.iife.min.js"], page["page.js"]),
            "data": base64.b64encode(gzip.compress(self.data(), mtime=0)),
        }  # fmt: skip
        return _filled(_file("page.html"), values)


def _filled(left: bytes, values: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield a page in pieces, with a value in place of each name in braces."""
    while b"{" in left:
        before, _, rest = left.partition(b"{")
        name, _, left = rest.partition(b"}")
        yield before
        yield values[name.decode()]
    yield left


def _texts(life: Life, put: Put | None) -> dict[str, Any]:
    """Return a row's texts, by column; empty or None where there is none."""
    event = life.event
    return {
        "tenant": life.tenant_id, "stack": event and event.stack_id,
        "type": event and event.type, "ref": event and event.artifact_ref,
        "event_id": life.event_id, "origin": life.origin, "end_id": life.end_id,
        "reason": life.reason, "detail": life.detail,
        "fix": explain(life.reason).fix if life.reason else "",
        "checksum": event and event.checksum, "created_at": event and event.created_at,
        "put": put and put.state.value,
    }  # fmt: skip


def _numbers(life: Life) -> dict[str, int]:
    """Return a row's numbers, by column; times in microseconds, `ahead` in seconds."""
    return {
        "begun": life.begun_us or life.ended_us or life.seen_us,
        "took": -1 if life.delay_s is None else round(life.delay_s * 1e6),
        "end": ENDS.index(life.end.value),
        "version": life.event.version if life.event else 0,
        "ahead": round(life.clock_ahead_s),
        "there": int(life.entry is not None),
    }


def _shortened(found: Comparison, ref: str) -> list[str]:
    lines = found.lines or ["the same, in another order"]
    left = len(lines) - MAX_DIFF_LINES
    more = [f"… {left:,} lines more: sidecar diff {shlex.quote(ref)}"] if left > 0 else []
    return [*lines[:MAX_DIFF_LINES], *more]


def _given(asked: LifeSelection) -> Iterator[tuple[str, str]]:
    for name in ("tenant", "stack", "type", "ref"):
        if value := getattr(asked, name):
            yield name, value


def _data(life: Life, store: VersionedStore | None) -> bytes | None:
    if life.event is None or store is None:
        return None
    try:
        return store.get(
            life.event.artifact_ref, checksum=life.event.checksum,
            manifest_checksum=life.event.manifest_checksum or None, **bounded(store, _COMPARED),
        ).data  # fmt: skip
    except StoreError:
        return None  # the event's own line tells what is wrong with it


def _file(name: str) -> bytes:
    return files("sidecar.replay").joinpath("page", name).read_bytes()


def _hashes(*sources: bytes) -> bytes:
    """Return the digests by which a page allows its own scripts or styles, and no others."""
    digests = (base64.b64encode(hashlib.sha256(source).digest()) for source in sources)
    return b" ".join(b"'sha256-%s'" % digest for digest in digests)
