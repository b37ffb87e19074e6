"""Bundles to histories: an error in words or a history, however the bundle was made to harm.

Each is a whole bundle in which some things were changed: values of the index, rows, bytes of files,
the zip file itself. Most have the checksums that they then need, so that the reader continues.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import random
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import orjson
from hypothesis import strategies as st

from sidecar.errors import SidecarError
from sidecar.history.bundle import BundleHistory
from sidecar.history.halts import halts_of
from sidecar.history.members import INDEX, PINS, WAITING, Members, artifact_name
from sidecar.history.state import state_at
from sidecar.replay import moment
from sidecar.replay.letters import RecordedLetters
from sidecar.replay.report import Report
from sidecar.replay.timeline import lives
from sidecar.replay.trace import find, traces
from sidecar.replay.window import LifeSelection, Window
from sidecar.wire.ids import HIGHEST, LAST, EntryId
from store import StoreError
from tests.fuzz.running import Fuzzer

CONTROL, NOTIFICATIONS, DEAD, REDRIVEN, HALTS = (
    "control",
    "n",
    "{n}:dead",
    "{n}:redriven",
    "{n}:halts",
)
BEGAN_MS: Final = 1_700_000_000_000
DATA, MANIFEST = b'{"a": 1}', b"{}"
Json = Any
Where = tuple[str | int, ...]


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _event(n: int) -> str:
    return json.dumps({
        "id": n, "event_id": f"e{n}", "type": "stack.activated", "tenant_id": "t",
        "stack_id": "web", "version": n + 1, "artifact_ref": "stacks/t/web",
        "checksum": f"sha256:{_sha256(DATA)}", "manifest_checksum": f"sha256:{_sha256(MANIFEST)}",
        "control_version": BEGAN_MS * 1000 + n,
    })  # fmt: skip


ROWS: Final[dict[str, list[Json]]] = {
    CONTROL: [[f"{BEGAN_MS}-{n}", "event", _event(n)] for n in range(3)],
    NOTIFICATIONS: [
        [f"{BEGAN_MS}-{n}", "event", _event(n), "origin", f"{CONTROL}/{BEGAN_MS}-{n}"]
        for n in range(2)
    ],
    DEAD: [[f"{BEGAN_MS + 1}-0", "event", "{", "reason", "malformed", "detail", "?", "origin",
            f"{CONTROL}/{BEGAN_MS}-2", "attempts", "0", "first_seen", "2026-11-22T12:00:00Z",
            "dead_at", "2026-11-22T12:00:00Z"]],
    REDRIVEN: [[f"{BEGAN_MS + 2}-0", "letter", f"{BEGAN_MS + 1}-0", "event_id", "e2", "reason", "r",
                "by", "b", "at", "2026-11-22T12:00:00Z", "origin", f"{CONTROL}/{BEGAN_MS}-2",
                "entry", f"{BEGAN_MS + 2}-0"]],
    HALTS: [[f"{BEGAN_MS + 3}-0", "what", "halted", "stream", CONTROL, "reason", "r", "by", "b"]],
}  # fmt: skip


class Parts(NamedTuple):
    """What a bundle is made of, before it is written."""

    said: dict[str, Json]
    """The index."""
    rows: dict[str, list[Json]]
    """Rows of the files of streams, and lines of the others, by the name of the file."""
    blobs: dict[str, bytes]


def whole() -> Parts:
    """Return a bundle with which nothing is wrong."""
    rows: dict[str, list[Json]] = {}
    streams = []
    for n, (name, lines) in enumerate(ROWS.items()):
        file, first, last = f"streams/{n}/000000.jsonl", lines[0][0], lines[-1][0]
        rows[file] = lines
        segment = {"name": file, "sha256": "", "first": first, "last": last, "count": len(lines)}
        streams.append({
            "name": name, "known": True, "oldest": first, "newest": last,
            "gaps": [[f"{BEGAN_MS - 9}-0", f"{BEGAN_MS - 8}-0", "trimmed", False]],
            "segments": [segment],
        })  # fmt: skip
    rows[WAITING] = [[CONTROL, f"{BEGAN_MS}-2"]]
    pin = ["stacks/t/web", f"sha256:{_sha256(DATA)}", f"sha256:{_sha256(MANIFEST)}", "there",
           len(DATA), len(MANIFEST), 1.7e9]  # fmt: skip
    rows[PINS] = [pin, ["stacks/t/gone", "sha256:" + "0" * 64, "", "gone"]]
    index = {
        "taken_from": "redis://h", "taken_at_us": BEGAN_MS * 1000 + 10**7,
        "span_us": [0, BEGAN_MS * 1000 + 10**7], "control": [CONTROL],
        "notifications": NOTIFICATIONS, "dead": DEAD, "redriven": REDRIVEN, "halts": HALTS,
        "tenures": "", "streams": streams,
        "waiting": {"name": WAITING, "sha256": ""}, "pins": {"name": PINS, "sha256": ""},
    }  # fmt: skip
    blobs = {artifact_name(_sha256(blob)): blob for blob in (DATA, MANIFEST)}
    return Parts(index, rows, blobs)


WHOLE: Final = whole()


def _places(value: Json, at: Where = ()) -> Iterator[Where]:
    """Yield where there is something in a JSON value."""
    if at:
        yield at
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _places(inner, (*at, key))


def _set(value: Json, at: Where, new: Json) -> None:
    """Put something elsewhere in a JSON value; nowhere, where that place is gone."""
    *way, last = at
    try:
        for key in way:
            value = value[key]
        if isinstance(value, list) == isinstance(last, int):
            value[last] = copy.deepcopy(new)  # what is put into it later is for this bundle only
    except (LookupError, TypeError):
        return


class Change(NamedTuple):
    """Something put in the place of something else."""

    of_index: bool
    at: Where
    new: Json


class Case(NamedTuple):
    """What is done to a whole bundle."""

    changes: list[Change]
    raw: dict[str, bytes]
    """Files with other bytes."""
    is_sealed: bool
    """Whether checksums are set right."""
    as_directory: bool
    compression: int
    extra: list[tuple[str, bytes, int]]
    """More files of a zip file: name, content, external attributes."""
    spoilt: list[tuple[int, bytes]]
    """Bytes of the zip file in place of others."""
    cut: int
    """Bytes that it lacks."""


_ids = st.sampled_from([
    "", "1", "1-", "-1", "x-1", "0-0", f"{HIGHEST}-{HIGHEST}", f"{HIGHEST + 1}-0", f"{10**16}-0",
    f"{BEGAN_MS}-0", f"{BEGAN_MS}-1", f"{BEGAN_MS + 5}-0", f"{BEGAN_MS - 5}-0", "\uff11-1", "1_0-0",
])  # fmt: skip
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_events = st.sampled_from([
    "{", "[]", "null", '{"event_id":1}', '{"event_id":"e0","type":"run.abort"}', _event(0),
    _event(7),
    "[" * 500, '{"event_id":"e","type":"a","tenant_id":[]}', _event(1).replace("17", "1e9"),
])  # fmt: skip
_names = st.sampled_from([
    INDEX, WAITING, PINS, "streams/0/000000.jsonl", "../x", "/etc/passwd", "streams/9/9.jsonl",
    "artifacts/00/" + "0" * 64, "", CONTROL, NOTIFICATIONS, DEAD,
])  # fmt: skip
_scalars = st.one_of(
    _ids, _text, _events, _names, st.none(), st.booleans(), st.integers(-(2**70), 2**70),
    st.floats(), st.sampled_from([0, -1, 2**63, 2**62, 253_402_300_799_999_999, 10**18, "0" * 64]),
    st.sampled_from(["there", "gone"]),
)  # fmt: skip
_values = st.recursive(
    _scalars | st.just({"base64": "/w=="}) | st.just({"base64": "?"}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=4,
)
VALUES: Final[list[Json]] = [
    "", "0-0", f"{HIGHEST}-0", f"{10**16}-0", f"{BEGAN_MS}-1", "{", "[]", _event(0), _event(7),
    None, True, 0, -1, 2**63, 10**18, 0.5, [], {}, [[]], {"base64": "/w=="}, {"base64": "?"},
    NOTIFICATIONS, CONTROL, WAITING, "streams/1/000000.jsonl", "event", "origin", "there", "0" * 64,
    "\u202e",
]  # fmt: skip
VARIANTS: Final = 31
INDEX_SHARE: Final = 0.4
_index_places: Final = list(_places(WHOLE.said))
_row_places: Final = [(name, *at) for name, rows in WHOLE.rows.items() for at in _places(rows)]
_FILES: Final = [*WHOLE.rows, *WHOLE.blobs, INDEX]
_changes = st.builds(
    Change,
    st.just(True),
    st.sampled_from(_index_places),
    _values,
) | st.builds(Change, st.just(False), st.sampled_from(_row_places), _values)
_contents = st.binary(max_size=40) | st.sampled_from([
    b"", b"\n", b"\n" * 5000, b"[]\n", b"[[],[]]\n" * 100, b'["1-1"]\n', b'["1-1","a"]\n', b"{}\n",
    b"[" * 2000 + b"\n", b'["2-0"]\n["1-0"]\n', b'["1-0"]\n["1-0"]\n', b"\xff\n", b"null\n" * 3,
    b'{"format":1}', b'{"format":2,"sha256":"","index":{}}', b'{"format":"1"}', b"[]",
])  # fmt: skip
_attributes = st.sampled_from([0, 0o100644 << 16, 0o120777 << 16, 0o010644 << 16, 0xFFFFFFFF])
_extra_files = st.tuples(_names.filter(bool), st.binary(max_size=8), _attributes)
_spoilt = st.tuples(st.integers(0, 4000), st.binary(max_size=4))
CASES: Final = st.builds(
    Case,
    changes=st.lists(_changes, max_size=3),
    raw=st.dictionaries(st.sampled_from(_FILES), _contents, max_size=1),
    is_sealed=st.sampled_from([True, True, True, False]),
    as_directory=st.sampled_from([False, False, False, True]),
    compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2,
                                 zipfile.ZIP_LZMA]),
    extra=st.just([]) | st.lists(_extra_files, max_size=2),
    spoilt=st.just([]) | st.lists(_spoilt, max_size=3),
    cut=st.just(0) | st.integers(0, 3000),
)  # fmt: skip


def _lines(rows: Json) -> bytes:
    lines = rows if isinstance(rows, list) else [rows]
    return b"".join(orjson_line(line) for line in lines)


def orjson_line(line: Json) -> bytes:
    """Return a line of JSON, also of numbers that only the standard library writes."""
    return json.dumps(line).encode() + b"\n"


WHOLE_FILES: Final = {name: _lines(rows) for name, rows in WHOLE.rows.items()} | WHOLE.blobs
_WHOLE_INDEX: Final = orjson.dumps(WHOLE.said)
_WHOLE_ROWS: Final = {name: orjson.dumps(rows) for name, rows in WHOLE.rows.items()}


def files_of(case: Case) -> dict[str, bytes]:
    """Return the files of a bundle, changed as the case says."""
    index = orjson.loads(_WHOLE_INDEX)
    changed = {str(change.at[0]) for change in case.changes if not change.of_index}
    rows = {name: orjson.loads(_WHOLE_ROWS[name]) for name in changed}
    for change in case.changes:
        _set(index if change.of_index else rows, change.at, change.new)
    files = WHOLE_FILES | {name: _lines(lines) for name, lines in rows.items()}
    files |= {name: raw for name, raw in case.raw.items() if name != INDEX}
    if case.is_sealed:
        for member in _members(index):
            if isinstance(member, dict) and isinstance(member.get("name"), str):
                raw = files.get(member["name"], b"")
                member["sha256"] = _sha256(raw)
                if "count" in member and member["count"] in (1, 2, 3):
                    member["count"] = raw.count(b"\n")
    files[INDEX] = case.raw.get(INDEX) or _sealed(index)
    return files


def _members(index: Json) -> Iterator[Json]:
    """Yield what the index says of files, as far as it says so."""
    yield index.get("waiting")
    yield index.get("pins")
    streams = index.get("streams")
    for stream in streams if isinstance(streams, list) else []:
        segments = stream.get("segments") if isinstance(stream, dict) else None
        yield from segments if isinstance(segments, list) else []


def _sealed(index: Json) -> bytes:
    try:
        body = orjson.dumps(index, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):
        body = json.dumps(index, sort_keys=True).encode()
    return b'{"format":1,"sha256":"%s","index":%s}\n' % (_sha256(body).encode(), body)


class _Packed(NamedTuple):
    """A file of the whole bundle, as it lies in a zip file: to pack it costs more than to read."""

    info: zipfile.ZipInfo
    raw: bytes


def _packed(compression: int) -> dict[str, _Packed]:
    found, buffer = {}, io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, raw in WHOLE_FILES.items():
            begin = buffer.tell()
            file.writestr(name, raw)
            found[name] = _Packed(file.getinfo(name), buffer.getvalue()[begin:])
    return found


_PACKED: Final = {way: _packed(way) for way in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)}


def _append(file: zipfile.ZipFile, buffer: io.BytesIO, packed: _Packed) -> None:
    packed.info.header_offset = buffer.seek(file.start_dir)
    buffer.write(packed.raw)
    file.start_dir = buffer.tell()
    file.filelist.append(packed.info)


def _zipped(case: Case, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    packed = _PACKED.get(case.compression, _PACKED[zipfile.ZIP_STORED])
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", case.compression) as file:
        warnings.simplefilter("ignore")
        for name, raw in files.items():
            if name in packed and raw is WHOLE_FILES[name]:
                _append(file, buffer, packed[name])
            else:
                file.writestr(name, raw)
        for name, raw, attributes in case.extra:
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes
            file.writestr(info, raw)
    return _spoilt_in(case, buffer.getvalue())


def _spoilt_in(case: Case, whole: bytes) -> bytes:
    for at, new in case.spoilt:
        begin = at % (len(whole) + 1)
        whole = whole[:begin] + new + whole[begin + len(new) :]
    return whole[: len(whole) - case.cut] if case.cut else whole


def write(case: Case, directory: Path) -> Path:
    """Write a bundle below `directory`; return where it is."""
    files = files_of(case)
    if not case.as_directory:
        path = directory / "bundle.zip"
        path.write_bytes(_zipped(case, files))
        return path
    path = directory / "bundle"
    shutil.rmtree(path, ignore_errors=True)
    for name, raw in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(raw)
    return path


WINDOW: Final = Window()


def _entries(history: BundleHistory) -> None:
    for stream in (*ROWS, "none"):
        history.reach(stream)
        history.waiting(stream, [EntryId(f"{BEGAN_MS}-2")])
        found = list(history.entries(stream))
        back = list(history.entries_back(stream, LAST, EntryId(f"{BEGAN_MS}-1")))
        assert len(list(history.lines(stream, EntryId("0-1"), LAST))) <= len(found) + 1
        assert len(back) <= len(found) + 1


def _artifacts(history: BundleHistory) -> None:
    if history.store is not None:
        for ref in [*history.store.list(""), "stacks/t/web", "none"]:
            try:
                list(history.store.versions(ref))
                history.store.get(ref)
            except StoreError:
                continue


def _report(history: BundleHistory) -> None:
    report = Report(history, WINDOW, LifeSelection(), [])
    for life in lives(history, WINDOW):
        report.add(life)
        life.to_json()
    b"".join(report.html())


def _traces(history: BundleHistory) -> None:
    for what in ("e0", "t/web@1", "stacks/t/web", f"{CONTROL}/{BEGAN_MS}-2"):
        for trace in traces(history, find(history, what, WINDOW, history.now_us())):
            [hop.to_json() for hop in trace.hops]


def _state(history: BundleHistory) -> None:
    state = state_at(history, history.now_us())
    [one.to_json() for one in (*state.refs(), *state.stacks())]
    [row.to_json() for row in moment.at(history, history.now_us(), 10**9).rows()]
    halts_of(history, 0, 2**62)
    list(RecordedLetters(history).all())


def _overview(history: BundleHistory) -> None:
    history.describe()
    history.published(["e0", "none"])


LOOKS: Final[list[Callable[[BundleHistory], None]]] = [
    _overview, _entries, _artifacts, _state, _report, _traces,
]  # fmt: skip
_MEMORY: Final = Path("/dev/shm")
DIRECTORY: Final = tempfile.TemporaryDirectory(
    prefix="sidecar-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None
)


def check(drawn: tuple[int, Case]) -> int:
    """Open a bundle, and others in which as much is changed elsewhere."""
    dice, case = random.Random(drawn[0]), drawn[1]
    variants = [case, *(_varied(case, dice) for _ in range(VARIANTS))]
    for variant in variants:
        try:
            check_bundle(variant)
        except BaseException as error:
            error.add_note(f"the bundle: {variant}")
            raise
    return len(variants)


def _varied(case: Case, dice: random.Random) -> Case:
    values = [change.new for change in case.changes] or [None]
    changes = [
        Change(of_index, dice.choice(_index_places if of_index else _row_places), value)
        for value in (*values, dice.choice(VALUES))
        for of_index in (dice.random() < INDEX_SHARE,)
    ]
    return case._replace(
        changes=changes, cut=0, spoilt=case.spoilt if dice.random() < 0.1 else [],
        compression=dice.choice(list(_PACKED)),  # any other is refused at sight
    )  # fmt: skip


def check_bundle(case: Case) -> None:
    """Open it, and look at all that it has: what cannot be is refused in words."""
    path = write(case, Path(DIRECTORY.name))
    with mock.patch.object(Members, "read", functools.cache(Members.read)):  # once, what is there
        history = refused(partial(BundleHistory, path))
        for look in LOOKS if history else []:
            refused(partial(look, history))


def refused(looking: Callable[[], Any]) -> Any:
    """Return what comes of it; None when it is refused in words."""
    try:
        return looking()
    except (SidecarError, StoreError):
        return None


FUZZER: Final = Fuzzer("bundles", st.tuples(st.integers(0, 1 << 30), CASES), check)
