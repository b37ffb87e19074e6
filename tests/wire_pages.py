"""What is published of the wire: `python -m tests.wire_pages` writes it, a test compares it.

Schemas into the wheel and beside docs/wire.md; golden vectors beside it only.
"""

from __future__ import annotations

import json
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sidecar.feed import FeedGap
from sidecar.feed.reading import Reading
from sidecar.wire import incarnations as wire_incarnations
from sidecar.wire import notification
from sidecar.wire.event import Rejected
from sidecar.wire.ids import EntryId
from sidecar.wire.incarnations import Cursor
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust, Untrusted
from sidecar.worker.pipeline import Pipeline, Rules
from store import InvalidRef, Position, check_ref, checksum_of, open_url
from store.errors import Corrupt
from store.file.layout import place_of
from store.record import Newer, Record, describe, header_of, parse
from tests import wire_schemas

ROOT: Final = Path(__file__).parents[1]
SHIPPED: Final = ROOT / "sidecar/schemas"
PUBLISHED: Final = ROOT / "docs/wire"
CONTRACTS: Final = ROOT / "tests/vectors/control_events.json"
"""The contract's own vectors: the reasons are its."""
STAMP: Final = 1_791_234_567_890_123
ORIGIN: Final = "control:events/1791234567890-0"
NO_MANIFEST: Final = checksum_of(b"")


def files() -> dict[Path, str]:
    """Return what each file should hold."""
    schemas = {f"{name}.schema.json": one for name, one in wire_schemas.schemas().items()}
    schemas["asyncapi.json"] = wire_schemas.asyncapi()
    made = {
        room / name: _json(one) for room in (SHIPPED, PUBLISHED) for name, one in schemas.items()
    }
    vectors = {
        "events": events(), "positions": positions(), "gaps": gaps(),
        "incarnations": incarnations(), "refs": refs(),
        "records": records(), "signatures": signatures(),
    }  # fmt: skip
    return made | {PUBLISHED / f"vectors/{name}.json": _json(one) for name, one in vectors.items()}


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=True) + "\n"


def _file(about: str, vectors: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": wire_schemas.VERSION, "about": about, "vectors": vectors}


def _bytes(name: str, raw: bytes) -> dict[str, str]:
    """Return bytes as JSON holds them: as they are where they are a text, else in base64."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(raw).decode()}


# --- events: input bytes to notification or reason -----------------------------------------------


def events() -> dict[str, Any]:
    """Return the contract's vectors and some more, with what comes of each."""
    given = [
        (one["name"], one["raw"].encode()) for one in json.loads(CONTRACTS.read_text())["vectors"]
    ]
    return _file(
        f"The field event of a control entry. It ends as a dead letter with this reason; or, where"
        f" that is null, its notification has this event, where the stamp is {STAMP} and the"
        f" artifact's manifest, which a producer need not name, is empty.",
        [_event(name, raw) for name, raw in [*given, *_MORE]],
    )  # fmt: skip


_MORE: Final = (
    ("not UTF-8", b'{"event_id":"\xff","type":"run.abort"}'),
    ("UTF-16", '{"event_id":"e","type":"run.abort"}'.encode("utf-16")),
    ("a byte order mark", b'\xef\xbb\xbf{"event_id":"e","type":"run.abort"}'),
    ("white space around it", b' \r\n\t{"event_id":"e","type":"run.abort"}\n'),
    ("numbers of unknown fields, digit by digit",
     b'{"event_id":"e","type":"run.abort","a":1.10,"b":1e2,"c":18446744073709551616,"d":-0}'),
    ("unknown zero and null are kept", b'{"event_id":"e","type":"run.abort","x":0,"y":null}'),
    ("the sidecar's own corner", b'{"event_id":"e","type":"key.changed","artifact_ref":".sidecar/x"'
     b',"checksum":"sha256:' + b"0" * 64 + b'"}'),
    ("30 February", b'{"event_id":"e","type":"run.abort","created_at":"2026-02-30T00:00:00Z"}'),
)  # fmt: skip


def judged(raw: bytes) -> tuple[str | None, bytes]:
    """Return the reason that a worker without options gives, else the notification's event."""
    store = open_url("memory:")
    pipeline = Pipeline(store, store, Rules())
    try:
        admitted = pipeline.admit({b"event": raw}, ORIGIN)
    except Rejected as rejected:
        return rejected.reason.value, b""
    named = admitted.body.get("manifest_checksum") or (NO_MANIFEST if admitted.event else "")
    return None, notification.unstamped(admitted.body, named) + b"%d}" % STAMP


def _event(name: str, raw: bytes) -> dict[str, Any]:
    reason, written = judged(raw)
    said = _bytes("event", raw)
    return {"name": name, **said, "reason": reason} | (
        {} if reason else {"notification": written.decode()}
    )


# --- positions and gaps --------------------------------------------------------------------------


def positions() -> dict[str, Any]:
    """Return control_versions and the IDs that stand for them."""
    numbers = [1, 999, 1000, 1001, STAMP, 1_791_234_567_890_000, 2**53 - 1]
    return _file(
        "A notification's control_version, and the ID of its entry.",
        [{"control_version": n, "id": EntryId.of_version(n)} for n in numbers],
    )


def gaps() -> dict[str, Any]:
    """Return cursors, what Redis says of the stream, and which gap that is."""
    whole, cut = {"length": 3, "entries_added": 3}, {"length": 3, "entries_added": 9}
    cases: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
        "from the oldest": (0, 5000, 9000, 4000, cut),
        "nothing was trimmed": (5000, 5000, 9000, 0, whole),
        "at the end": (9000, 5000, 9000, 4000, cut),
        "at what was trimmed last": (4000, 5000, 9000, 4000, cut),
        "before what was trimmed": (3999, 5000, 9000, 4000, cut),
        "above the end": (9001, 5000, 9000, 0, whole),
        "no stream": (4000, 0, 0, 0, {"length": 0, "entries_added": 0}),
        "nothing is left, at the end": (9000, 0, 9000, 9000, {"length": 0, "entries_added": 9}),
        "nothing is left, before the end": (8999, 0, 9000, 9000, {"length": 0, "entries_added": 9}),
        "all was trimmed by hand": (8999, 0, 9000, 4000, {"length": 0, "entries_added": 9}),
        "trimmed by hand": (4500, 5000, 9000, 4000, cut),
        "Redis before 7.0 does not count": (
            4500,
            5000,
            9000,
            4000,
            {"length": 3, "entries_added": None},
        ),
        "Redis before 7.0, at what was trimmed last": (
            4000,
            5000,
            9000,
            4000,
            {"length": 3, "entries_added": None, "gone": "4-0 5"},
        ),
        "right behind what was trimmed, nothing since": (
            4000,
            5000,
            9000,
            4000,
            cut | {"gone": "4-0 6"},
        ),
        "right behind what was trimmed, by hand since": (
            4000,
            5000,
            9000,
            4000,
            cut | {"gone": "4-0 5"},
        ),
        "right behind, and it was counted of another end": (
            4000,
            5000,
            9000,
            4000,
            cut | {"gone": "3-0 5"},
        ),
        "right behind, and what was counted is no number": (
            4000,
            5000,
            9000,
            4000,
            cut | {"gone": "4-0 x"},
        ),
        "right behind, and less is gone than was counted": (
            4000,
            5000,
            9000,
            4000,
            cut | {"gone": "4-0 7"},
        ),
        "right behind, counted and nothing left": (
            4000,
            0,
            9000,
            4000,
            {"length": 0, "entries_added": 9, "gone": "4-0 5"},
        ),
        "between two entries": (6000, 5000, 9000, 4000, cut),
        "before the first, and nothing ever went": (4500, 5000, 9000, 0, whole),
    }
    return _file(
        "A cursor (a control_version), the control_versions of the first and the last entry of"
        " XINFO STREAM (end 0: there is no stream; first 0: it is empty), its length and"
        " entries-added (null: Redis does not say), the field N of {N}:trimmed as a control_version"
        " (0: none), and its field 'gone N' (null: none): which gap that is, or null.",
        [_gap(name, *case) for name, case in cases.items()],
    )


def _gap(
    name: str, cursor: int, first: int, end: int, trimmed: int, counted: dict[str, Any]
) -> dict[str, Any]:
    given: dict[str, Any] = {
        "cursor": cursor,
        "first": first,
        "end": end,
        "trimmed": trimmed,
        "gone": None,
    }
    given |= counted
    info: dict[str, Any] = {
        "first-entry": [EntryId.of_version(first).encode(), []] if first else None,
        "length": given["length"], "last-generated-id": EntryId.of_version(end).encode(),
    }  # fmt: skip
    if given["entries_added"] is not None:
        info["entries-added"] = given["entries_added"]
    noted = EntryId.of_version(trimmed).encode() if trimmed else None
    gone = given["gone"].encode() if given["gone"] else None
    kind = None
    try:
        Reading("N", None).batch([b"", [], info if end else None, gone, noted, [], b""], cursor)
    except FeedGap as gap:
        kind = gap.kind
    return {"name": name, **given, "gap": kind}


def incarnations() -> dict[str, Any]:
    """Return cursors, the incarnations of a stream, and whether the cursor's is lost."""
    three = "a1 0 1000\nb2 2000 5000\nc3 6000 7000\n"
    full = "".join(f"{n:x} 0 {n}000\n" for n in range(100, 164))
    cases = [
        ("of the newest", "7500 c3", three, False),
        ("of an older one, and all was kept", "2000 a1", three, False),
        ("of an older one, and not kept by the next", "2001 a1", three, False),
        ("of an older one, kept by the next and not by the one after", "6001 b2", three, False),
        ("of an older one, and a later one has its entry", "5000 a1", three, True),
        ("of one that is not known", "7500 d4", three, True),
        ("of one that is not known, and the list is full", "7500 d4", full, True),
        ("of one that is not known, the list is full, and the entry is gone", "7500 d4", full,
         False),
        ("of one, and the stream has none", "7500 d4", "", False),
        ("of one, the stream has none, and the entry is there", "7500 d4", "", True),
        ("a number, between what was kept and what began", "3000", three, False),
        ("a number between them, and the entry is there", "3000", three, True),
        ("a number, what was kept last", "2000", three, False),
        ("a number, what began", "5000", three, False),
        ("a number, before all", "900", three, False),
        ("a number, and the stream has none", "900", "", False),
        ("lines that are none are left out", "3000 a1", "x\na1 0 1000\nb2 2000\n", False),
    ]  # fmt: skip
    return _file(
        "A cursor as text, the field list of {N}:incarnations, and whether the stream has the"
        " cursor's entry: whether the cursor is of a history that was lost (made_anew). It is not"
        " above the stream's end.",
        [
            {"name": name, "cursor": cursor, "list": noted, "is_there": is_there,
             "lost": _is_lost(cursor, noted, is_there=is_there)}
            for name, cursor, noted, is_there in cases
        ],
    )  # fmt: skip


def _is_lost(text: str, noted: str, *, is_there: bool) -> bool:
    cursor = Cursor.parse(text)
    assert cursor is not None
    of_stream = wire_incarnations.parse(noted.encode())
    return wire_incarnations.is_lost(cursor, of_stream, is_there=is_there)


# --- refs and records ----------------------------------------------------------------------------

_LEGAL: Final = (
    "a", "stacks/t_123/web/42", "A/b", "ž/x", "a b", "a%b", "a@b", ".hidden", "a/...",
    "x.manifest.json", "e\u0301", "\u00e9", "a" * 120, "a" * 121, "Ž" * 60, "a" * 255,
    "/".join(["a" * 204] * 5),
)  # fmt: skip
_ILLEGAL: Final = (
    "", "/a", "a/", "a//b", "a/../b", ".", "a\x00b", "a\x85b", "a" * 256,
    "/".join(["a" * 205] * 5),
)  # fmt: skip


def refs() -> dict[str, Any]:
    """Return refs, and where a file store keeps the current record of each."""
    return _file(
        "A ref, and the path of its current record below the root of a file store; null for a ref"
        " that is not legal.",
        [{"ref": ref, "path": _path_of(ref)} for ref in (*_LEGAL, *_ILLEGAL)],
    )


def _path_of(ref: str) -> str | None:
    try:
        check_ref(ref)
    except InvalidRef:
        return None
    return place_of(ref).path


def records() -> dict[str, Any]:
    """Return records as they lie in a file store, and what a reader makes of each."""
    return _file(
        "The bytes of a record; what its header says, as manifest-envelope.schema.json has it; then"
        " manifest and, where they lie in it, data. Or the error: corrupt, or newer (a release that"
        " this format does not know wrote it; it is no damage).",
        [_record(name, raw) for name, raw in _records().items()],
    )


# --- signatures ----------------------------------------------------------------------------------

_KEY: Final = (
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "\n-----END PRIVATE KEY-----\n"
)
"""The seed of 32 ones: it signs vectors, and nothing else."""
_STREAM: Final = "control:notifications"
_RUN: Final = 5
"""Notifications that were signed together."""


def signatures() -> dict[str, Any]:
    """Return entries of a notification stream, and whether a reader with that key trusts them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "key"
        path.touch(0o600)
        path.write_text(_KEY)
        signer = Signer(path)
        key = signer.public_key
        trust = _trusting(Path(directory), key)
        return _file(
            "A notification stream's name, an entry's ID and its fields, and the 32 bytes of the"
            " one public key that is trusted: null, or the kind of Untrusted.",
            [_signed(trust, key, *one) for one in _signatures(signer)],
        )


def _trusting(directory: Path, key: bytes) -> Trust:
    der = bytes.fromhex("302a300506032b6570032100") + key
    pem = f"-----BEGIN PUBLIC KEY-----\n{b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
    (directory / "key.pub").write_text(pem)
    return Trust(directory)


def _signatures(signer: Signer) -> Iterator[tuple[str, str, int, dict[bytes, bytes]]]:
    """Yield name, stream, control_version and fields."""
    run = []
    for number in range(_RUN):
        event = b'{"event_id":"e%d","type":"run.abort","control_version":%d}'
        origin = f"control:events/{number + 1}-0".encode()
        run.append((origin, event % (number, STAMP + number)))
    signs = signer.signed(_STREAM, run)
    whole = [{b"event": event, b"origin": origin, b"signature": sign}
             for (origin, event), sign in zip(run, signs, strict=True)]  # fmt: skip
    for number, fields in enumerate(whole):
        yield f"number {number} of {_RUN}", _STREAM, STAMP + number, fields
    alone = signer.signed(_STREAM, run[:1])[0]
    yield "one alone", _STREAM, STAMP, whole[0] | {b"signature": alone}
    first = whole[0]
    yield "with a traceparent", _STREAM, STAMP, first | {b"traceparent": b"00-0-0-01"}
    yield "another stream", "lab:notifications", STAMP, first
    yield "another place", _STREAM, STAMP + 9, first
    yield "another event", _STREAM, STAMP, first | {b"event": run[0][1].replace(b"e0", b"e9")}
    yield "another origin", _STREAM, STAMP, first | {b"origin": b"control:events/9-0"}
    yield "another's signature", _STREAM, STAMP, first | {b"signature": signs[1]}
    yield "no signature", _STREAM, STAMP, {b"event": run[0][1], b"origin": run[0][0]}
    yield "of another form", _STREAM, STAMP, first | {b"signature": b"2" + signs[0][1:]}
    yield "another key", _STREAM, STAMP, first | {b"signature": b"1 " + b"0" * 16 + signs[0][18:]}


def _signed(
    trust: Trust, key: bytes, name: str, stream: str, at: int, fields: dict[bytes, bytes]
) -> dict[str, Any]:
    error = None
    try:
        trust.check(stream, EntryId.of_version(at), fields)
    except Untrusted as untrusted:
        error = untrusted.kind
    texts = {field.decode(): value.decode() for field, value in fields.items()}
    return {"name": name, "stream": stream, "id": EntryId.of_version(at), "fields": texts,
            "key_base64": b64encode(key).decode(), "error": error}  # fmt: skip


def _records() -> dict[str, bytes]:
    plain = _built(describe("stacks/t_1/web/42", sha256(b"data").hexdigest(), 4, b"manifest", None))
    placed = _built(_with((1_791_234_567_890, 7)))
    large = describe("large", sha256(b"x" * 70_000).hexdigest(), 70_000, b"", None)
    return {
        "inline": plain + b"manifestdata", "with a position": placed + b"manifestdata",
        "data as an object": _built(large),
        "data flipped": plain + b"manifestdatb", "manifest flipped": plain + b"Manifestdata",
        "header flipped": plain.replace(b"web/42", b"web/43") + b"manifestdata",
        "cut": (plain + b"manifestdata")[:-1], "longer": plain + b"manifestdata!",
        "a newer format": _newer(plain), "empty": b"",
    }  # fmt: skip


def _with(position: Position) -> Record:
    return describe("rows/Ž", sha256(b"data").hexdigest(), 4, b"manifest", position)


def _built(record: Record) -> bytes:
    return header_of(record._replace(stored="2026-11-22T15:18:22.123456+00:00"))


def _newer(header: bytes) -> bytes:
    lines = header.replace(b"record 1", b"record 2").rpartition(b"header ")[0]
    return lines + b"header sha256:" + sha256(lines).hexdigest().encode() + b"\n\n"


def _record(name: str, raw: bytes) -> dict[str, Any]:
    given = {"name": name, "record_base64": b64encode(raw).decode()}
    try:
        record, body_at = parse(raw, "it")
    except Newer:
        return given | {"error": "newer"}
    except Corrupt:
        return given | {"error": "corrupt"}
    body = raw[body_at:]
    manifest, data = body[: record.manifest_size], body[record.manifest_size :]
    if not _is_whole(record, manifest, data):
        return given | {"error": "corrupt"}
    return given | {
        "error": None, "envelope": envelope(record), "manifest": manifest.decode(),
        "data": data.decode() if record.inline else None,
    }  # fmt: skip


def _is_whole(record: Record, manifest: bytes, data: bytes) -> bool:
    wanted = record.data_digest if record.inline else sha256(b"").hexdigest()
    return (
        sha256(manifest).hexdigest() == record.manifest_digest
        and sha256(data).hexdigest() == wanted
    )


def envelope(record: Record) -> dict[str, Any]:
    """Return what a header says, by the names of `wire_schemas.ManifestEnvelope`."""
    position = {"position": "{}-{}".format(*record.position)} if record.position else {}
    return {
        "ref": record.ref, "checksum": f"sha256:{record.data_digest}",
        "size_bytes": record.data_size, "manifest_checksum": f"sha256:{record.manifest_digest}",
        "manifest_size_bytes": record.manifest_size, **position,
        "stored": record.stored, "at": "inline" if record.inline else "object",
    }  # fmt: skip


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
