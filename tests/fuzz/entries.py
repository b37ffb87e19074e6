"""Entries of a control stream, hostile ones among them: each has a verdict, which tells no secret.

The oracle of `tests/faults/test_generated.py` says which; here any known reason will do.
"""

from __future__ import annotations

import json
import random
from typing import Any, Final

import orjson
from hypothesis import strategies as st

from sidecar.redis.source import Entry
from sidecar.wire.event import MAX_ENTRY_BYTES, Reason, Rejected, event_of, named
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.notification import MAX_NOTIFICATION_BYTES, Notification
from sidecar.worker.letter import MAX_TRACEPARENT_BYTES, letter
from sidecar.worker.pipeline import Admitted, Pipeline, Rules
from sidecar.worker.policy import Bury, Mismatch, decide
from sidecar.worker.window import Item, Trouble
from store import StoreError, checksum_of
from store.chassis.layout import place_of
from store.memory import MemoryStore
from tests.fuzz.running import Fuzzer

ID: Final = EntryId("1700000000000-0")
ORIGIN: Final = Origin.of("control:events", ID)
NOW_DIGITS: Final = 17
OURS, THEIRS = b"our data", b"their data"
MANIFEST, SECRET_MANIFEST = b"{}", b"their manifest"
SECRETS: Final = [checksum_of(blob)[7:] for blob in (THEIRS, SECRET_MANIFEST)]
"""Digests that only who may read the other tenant's artifact can know."""
ADMITTING: Final = set(Reason) - {Reason.POISON, Reason.ID_CONFLICT}
MAX_DETAIL_BYTES: Final = 16 << 10


class Spelling(MemoryStore):
    """A source that opens another path than the ref says, as a Go fleet's layout does."""

    def spelled(self, ref: str) -> str:
        """Return the ref that is opened."""
        return place_of(ref).path


def _pipelines() -> list[Pipeline]:
    """Return one without rules, one with all of them, one whose source spells refs anew."""
    strict = Rules(
        tenant_scope=("stacks/{tenant}/*", "shared/*/{tenant}/**"), max_artifact_bytes=100,
        event_id_scope=("{tenant}/*", "evt_*"),
    )  # fmt: skip
    sources = [MemoryStore(), MemoryStore(), Spelling()]
    for source in sources:
        source.put("stacks/t/web", OURS, MANIFEST)
        source.put("stacks/other/web", THEIRS, SECRET_MANIFEST)
        source.put("stacks/t/big", bytes(200), MANIFEST)
    rules = [Rules(), strict, strict]
    return [Pipeline(one, MemoryStore(), rule) for one, rule in zip(sources, rules, strict=True)]


PIPELINES: Final = _pipelines()

_any_text = st.text(st.characters(exclude_categories=[]), max_size=12)
_long = st.builds(
    lambda text, n: text * n,
    st.sampled_from(["a", "é", "*", "\u202e", "\x07", "a/"]),
    st.sampled_from([63, 255, 256, 257, 1024, 5000]),
)
_numbers = st.one_of(
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.just(10**400),
    st.sampled_from([0, 1, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64]),
)
_texts = st.one_of(_any_text, _long)
_odd = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_any_text, inner, max_size=3),
    max_leaves=6,
)
_checksums = st.one_of(
    st.sampled_from([checksum_of(blob) for blob in (OURS, MANIFEST, b"none")]),
    st.sampled_from(["", "sha256:", "md5:0", "sha256:" + "A" * 64]),
)
_refs = st.one_of(
    st.sampled_from([
        "stacks/t/web", "stacks/other/web", "stacks/t/big", "stacks/t/../other/web", "/", ".",
        "stacks/t /web", "stacks//web", ".sidecar/x", "stacks/t/*", "shared/x/t/y", "a" * 256,
        "stacks/ t/web",
    ]),
    _texts,
)  # fmt: skip
_KNOWN: Final[dict[str, st.SearchStrategy[Any]]] = {
    "id": _numbers, "event_id": st.sampled_from(["t/1", "other/1", "evt_1", "e"]) | _texts,
    "type": st.sampled_from(["run.abort", "stack.activated", "key.changed", "no.such"]) | _texts,
    "tenant_id": st.sampled_from(["t", "other", "", "t/", "{tenant}", "*"]) | _texts,
    "stack_id": st.sampled_from(["web", ""]) | _texts, "version": st.just(1) | _numbers,
    "base_version": _numbers, "artifact_ref": _refs, "checksum": _checksums,
    "manifest_checksum": _checksums, "control_version": _numbers,
    "created_at": st.sampled_from(["2026-11-22T12:00:00Z", "2026-02-30T12:00:00Z"]) | _any_text,
}  # fmt: skip
_events = st.fixed_dictionaries(
    {"event_id": _KNOWN["event_id"], "type": _KNOWN["type"]},
    optional={name: one for name, one in _KNOWN.items() if name not in ("event_id", "type")},
)
_extras = st.dictionaries(
    st.sampled_from(["Version", "EVENT_ID", "chec\u212asum", "origin", "traceparent", "x"])
    | _any_text, _odd, max_size=2,
)  # fmt: skip
_bent = st.dictionaries(st.sampled_from(sorted(_KNOWN)), _odd, max_size=2)


def _dumped(parts: tuple[dict[str, Any], ...], *, is_ascii: bool) -> bytes:
    merged = {name: value for part in parts for name, value in part.items()}
    return json.dumps(merged, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")


def _mutated(raw: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    """Put bytes in place of others."""
    for at, new, length in changes:
        begin = at % (len(raw) + 1)
        raw = raw[:begin] + new + raw[begin + length :]
    return raw


PIECES: Final = [
    b'"', b"\\", b"{", b"[" * 70, b"}", b",", b'"a":', b"-0", b"1e999", b"NaN", b"\\ud800", b"",
    b"0",
    b"9" * 5000, b'"event_id":"', b"\x00", b"\xff", b"/*", b" " * 9000, b"\\u0000", b"/", b"true",
]  # fmt: skip
VARIANTS: Final = 9
_jsons = st.builds(_dumped, st.tuples(_events, _extras, _bent), is_ascii=st.booleans())
_plain = st.builds(_dumped, st.tuples(_events), is_ascii=st.booleans())
_changes = st.lists(
    st.tuples(
        st.integers(0, 1 << 14),
        st.binary(max_size=3) | st.sampled_from(PIECES),
        st.integers(0, 4),
    ),
    max_size=3,
)  # fmt: skip
_raws = st.one_of(_plain, _jsons, st.builds(_mutated, _plain | _jsons, _changes), st.binary())
_entries = st.fixed_dictionaries(
    {b"event": _raws},
    optional={
        b"traceparent": st.binary() | st.just(b"00-ab-cd-01") | st.just(b"x" * 2000),
        b"Event": st.binary(), b"": st.binary(), b"pad": st.just(b"x" * 16_000),
    },
)  # fmt: skip
Case = tuple[int, dict[bytes, bytes]]
CASES: Final[st.SearchStrategy[Case]] = st.tuples(
    st.integers(0, 1 << 30), _entries | st.dictionaries(st.binary(), st.binary())
)


def check(case: Case) -> int:
    """Hold an entry, and others that differ by a few bytes, against the contract, by all rules."""
    dice, fields = random.Random(case[0]), case[1]
    variants = [fields, *(_varied(fields, dice) for _ in range(VARIANTS))]
    for variant in variants:
        try:
            check_entry(dice.choice(PIPELINES), variant)
        except BaseException as error:
            error.add_note(f"the entry: {variant!r}")
            raise
    return len(variants)


def _varied(fields: dict[bytes, bytes], dice: random.Random) -> dict[bytes, bytes]:
    raw = bytearray(fields.get(b"event", b""))
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(raw))
        raw[at : at + dice.randint(0, 3)] = dice.choice(PIECES)
    return {**fields, b"event": bytes(raw)}


def check_entry(pipeline: Pipeline, fields: dict[bytes, bytes]) -> None:
    """Hold one entry against the contract: it ends as a notification, or for a known reason."""
    item = Item(Entry(ID, fields), ID, ORIGIN, Trouble(0.0))
    try:
        admitted = pipeline.admit(fields, ORIGIN)
        _check_notification(admitted)
        item.admitted, item.tenant = admitted, admitted.body.get("tenant_id", "")
        item.ref = admitted.body.get("artifact_ref", "")
        if item.ref:
            pipeline.carry(admitted, ID.pair)
            _check_notification(admitted)
    except Rejected as rejected:
        item.end(rejected.reason, rejected.detail)
    except (Mismatch, StoreError) as error:
        item.bury = _final(error)
    if item.bury:
        _check_letter(item, fields)


def _final(error: BaseException) -> Bury:
    verdict = decide(error, 1, 1.0, 0.0)
    assert isinstance(verdict, Bury), f"an outage: {error!r}"
    return verdict


def _check_notification(admitted: Admitted) -> None:
    raw = admitted.unstamped + b"1" * NOW_DIGITS + b"}"
    fields = {b"event": raw, b"origin": ORIGIN.encode()}
    if admitted.traceparent:
        fields[b"traceparent"] = admitted.traceparent
    assert sum(map(len, [*fields, *fields.values()])) <= MAX_NOTIFICATION_BYTES
    found = Notification.of_entry(fields)
    event = event_of(admitted.body)
    assert (found.event_id, found.tenant_id, found.artifact_ref, found.checksum) == (
        event.event_id, event.tenant_id, event.artifact_ref, event.checksum,
    )  # fmt: skip
    orjson.dumps(found.to_json())
    assert json.loads(raw).keys() >= {"id", "event_id", "type", "control_version"}


def _check_letter(item: Item, fields: dict[bytes, bytes]) -> None:
    assert item.bury
    assert item.bury.reason in ADMITTING
    found: Any = letter(item, "now").fields
    detail: bytes = found["detail"]
    assert detail
    assert len(detail) <= MAX_DETAIL_BYTES
    assert len(found["event"]) <= MAX_ENTRY_BYTES
    assert len(found.get("traceparent", b"")) <= MAX_TRACEPARENT_BYTES
    known = fields.get(b"event", b"")
    assert not any(one.encode() in detail and one.encode() not in known for one in SECRETS)
    named(None, fields)


FUZZER: Final = Fuzzer("entries", CASES, check)
