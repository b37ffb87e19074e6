"""Generated entries, hostile ones among them: each ends as the contract says, told by an oracle.

The oracle is a second, slower reading of docs/contract.md, "Control entry and event" and
docs/contract.md, "Dead letters"; it shares no code with
the product.
"""

from __future__ import annotations

import json
import re
import threading
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import store
from sidecar.worker import app, logs
from sidecar.worker.settings import build, file_url
from tests.faults.outside import CONTROL, DEAD, NOTIFICATIONS
from tests.proofs import sampled

DATA, MANIFEST = b"the data", b"the manifest"
CHECKSUM = "sha256:" + sha256(DATA).hexdigest()
OTHER = "sha256:" + "0" * 64
HOPELESS = [
    b"", b"null", b"[]", b"{}{}", b'{"x":NaN}', b'{"x":1e400}', b"\xff", b'{"a":"\\ud800"}',
]  # fmt: skip
PRESENT = ["stacks/t_1/web/1", "a", "a/b", "A", "é/ü", "x@y %41"]
TYPES = ["run.abort", "tenant.created", "stack.activated", "stack.exploded"]
INT_FIELDS = ["id", "version", "base_version", "control_version"]
TEXT_FIELDS = ["tenant_id", "stack_id", "artifact_ref", "checksum", "manifest_checksum"]
FIELDS = {*INT_FIELDS, *TEXT_FIELDS, "event_id", "type", "created_at"}

odd = st.one_of(
    st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.integers(-(2**70), 2**70), st.just([]), st.just({}), st.just(""), st.just(0),
)  # fmt: skip
refs = st.one_of(
    st.sampled_from([*PRESENT, "absent", "/etc/passwd", "a//b", "a/../b", ".", "a/", "a\x00b"]),
    st.text(max_size=12),
)
stamps = st.sampled_from(
    ["2026-11-22T12:00:00Z", "2026-02-30T12:00:00Z", "2026-11-22", "", "x" * 65]
)
known = st.fixed_dictionaries(
    {},
    optional={
        "event_id": st.text(min_size=1, max_size=6),
        "type": st.sampled_from(TYPES),
        "tenant_id": st.sampled_from(["", "t_1", "t_ž"]),
        "stack_id": st.sampled_from(["", "web"]),
        "version": st.sampled_from([0, 1, 2**63 - 1, 2**63, -1]),
        "artifact_ref": refs,
        "checksum": st.sampled_from(["", CHECKSUM, CHECKSUM, CHECKSUM, OTHER, "md5:0"]),
        "created_at": stamps,
    },
)
extra = st.dictionaries(
    st.sampled_from(["region", "Version", "EVENT_ID", "chec\u212asum", "labels"]), odd, max_size=2
)
bent = st.dictionaries(st.sampled_from(sorted(FIELDS)), odd, max_size=1)


def _object(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> dict[str, Any]:
    """Merge the parts; an event_id is used by one tenant only, as order holds within a tenant."""
    event = {**a, **b, **c}
    event_id, tenant = event.get("event_id"), event.get("tenant_id")
    if event_id and isinstance(event_id, str) and isinstance(tenant, str | None):
        event["event_id"] = f"{tenant or ''}|{event_id}"
    return event


objects = st.builds(_object, known, extra, bent)


def _padded(length: int, event: dict[str, Any]) -> bytes:
    return json.dumps({**event, "pad": "x" * length}).encode()


def _deep(depth: int) -> bytes:
    return b'{"event_id":"d","type":"run.abort","x":%s}' % (b"[" * depth + b"]" * depth)


raws = st.one_of(
    objects.map(lambda event: json.dumps(event).encode()),
    objects.map(lambda event: json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")),
    st.builds(_padded, st.integers(7_500, 17_000), objects),
    st.builds(_deep, st.integers(60, 70)),
    st.sampled_from(HOPELESS),
    st.binary(max_size=20),
)  # fmt: skip


class Oracle:
    """Says how each entry must end, one after the other, in the stream's order."""

    def __init__(self) -> None:
        self._published: dict[str, str] = {}

    def end(self, raw: bytes, entry_id: str) -> str:
        """Return `published`, `duplicate` or the reason of the dead letter."""
        reason = self._before_index(raw, entry_id)
        if reason:
            return reason
        event = self._read(raw)
        content = self._content(event)
        if event["event_id"] in self._published:
            same = self._published[event["event_id"]] == content
            return "duplicate" if same else "id_conflict"
        ref = event.get("artifact_ref")
        if ref and ref not in PRESENT:
            return "artifact_missing"
        if ref and (event["checksum"] != CHECKSUM or not self._manifest_fits(event)):
            return "checksum_mismatch"
        self._published[event["event_id"]] = content
        return "published"

    def _before_index(self, raw: bytes, entry_id: str) -> str | None:
        if len(raw) + len("event") > 16 * 1024:
            return "too_large"
        try:
            event = self._read(raw)
        except (ValueError, RecursionError):
            return "malformed"
        if not self._valid(event):
            return "invalid_event"
        if event["type"] not in TYPES[:3]:
            return "unknown_type"
        ref = event.get("artifact_ref")
        if ref and not self._legal(ref):
            return "bad_ref"
        return "too_large" if self._outbound_bytes(event, entry_id) > 8192 else None

    def _read(self, raw: bytes) -> dict[str, Any]:
        def refuse(literal: str) -> None:
            raise ValueError(literal)

        def number(literal: str) -> float:
            if float(literal) in (float("inf"), float("-inf")):
                raise ValueError(literal)
            return float(literal)

        event = json.loads(raw.decode(), parse_constant=refuse, parse_float=number)
        if not isinstance(event, dict) or _depth(event) > 64:
            raise ValueError("not an object, or too deep")
        json.dumps(event, ensure_ascii=False).encode()
        return {k: v for k, v in event.items() if k not in FIELDS or v is not None}

    def _valid(self, event: dict[str, Any]) -> bool:
        if any(key not in FIELDS and key.casefold() in FIELDS for key in event):
            return False
        for name in INT_FIELDS:
            low, high = (0, 2**64) if name == "control_version" else (-(2**63), 2**63)
            value = event.get(name, 0)
            if type(value) is not int or not low <= value < high:
                return False
        texts = [event.get(name, "") for name in (*TEXT_FIELDS, "event_id", "type", "created_at")]
        if not all(isinstance(text, str) for text in texts):
            return False
        return self._texts_fit(event)

    def _texts_fit(self, event: dict[str, Any]) -> bool:
        def get(name: str) -> Any:
            return event.get(name, "")

        sums = [get("checksum"), get("manifest_checksum")]
        return all([
            1 <= len(get("event_id")) <= 256 and get("event_id").isprintable(),
            get("type"),
            all(not s or re.fullmatch("sha256:[0-9a-f]{64}", s) for s in sums),
            not get("artifact_ref") or get("checksum"),
            get("type") != "stack.activated"
            or (get("tenant_id") and get("stack_id") and event.get("version", 0) > 0),
            not get("created_at") or _is_moment(get("created_at")),
        ])  # fmt: skip

    def _legal(self, ref: str) -> bool:
        if len(ref.encode()) > 1024 or re.search("[\x00-\x1f\x7f-\x9f]", ref):
            return False
        return all(
            segment not in ("", ".", "..") and len(segment.encode()) <= 255
            for segment in ref.split("/")
        )

    def _outbound_bytes(self, event: dict[str, Any], entry_id: str) -> int:
        kept = {k: v for k, v in event.items() if k not in FIELDS or v}
        kept |= {"id": event.get("id", 0), "control_version": 10**15}
        if kept.get("artifact_ref") and not kept.get("manifest_checksum"):
            kept["manifest_checksum"] = OTHER
        text = json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()
        return len(text) + len("event") + len("origin") + len(f"{CONTROL}/{entry_id}")

    def _manifest_fits(self, event: dict[str, Any]) -> bool:
        wanted = event.get("manifest_checksum", "")
        return wanted in ("", "sha256:" + sha256(MANIFEST).hexdigest())

    def _content(self, event: dict[str, Any]) -> str:
        left_out = {"id", "created_at", "control_version", "manifest_checksum"}
        kept = {k: v for k, v in event.items() if k not in left_out and (v or k not in FIELDS)}
        return json.dumps(kept, sort_keys=True)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _is_moment(text: str) -> bool:
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return bool(re.fullmatch(r".{10}T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text))


def relay_and_compare(client: Any, url: str, data_dir: Path, entries: list[bytes]) -> None:
    """Append the entries, drain them, and hold each one's end against the oracle."""
    client.flushall()
    ids = [client.xadd(CONTROL, {"event": raw}).decode() for raw in entries]
    chosen = build(
        redis=url,
        source_store=file_url(data_dir / "source"),
        fleet_store=file_url(data_dir / "fleet"),
        drain=True,
        max_consecutive_dead=0,
        retry_budget_s="0",
    )
    assert app.run(chosen, logs.configure("error"), threading.Event()) == 0
    ends = {
        fields[b"origin"].decode().rpartition("/")[2]: end
        for stream, name in ((NOTIFICATIONS, b""), (DEAD, b"reason"))
        for _, fields in client.xrange(stream)
        for end in [fields.get(name, b"published").decode()]
    }
    oracle = Oracle()
    for raw, entry_id in zip(entries, ids, strict=True):
        assert ends.get(entry_id, "duplicate") == oracle.end(raw, entry_id), raw[:2000]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A directory whose source store has every present ref."""
    source = store.open_url((tmp_path / "source").as_uri())
    for ref in PRESENT:
        source.put(ref, DATA, MANIFEST)
    return tmp_path


QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.mark.parametrize("examples", sampled([4, 20], ["4"]))
def test_generated_entries_end_as_the_contract_says(
    client: Any, redis_url: str, data_dir: Path, examples: int
) -> None:
    """Hundreds of generated entries, or thousands, each end with the oracle's verdict."""

    @settings(QUICK, max_examples=examples)
    @given(st.lists(raws, min_size=100, max_size=150))
    def check(entries: list[bytes]) -> None:
        relay_and_compare(client, redis_url, data_dir, entries)

    check()


@pytest.mark.slow
def test_a_hundred_thousand_generated_entries_end_as_the_contract_says(
    client: Any, redis_url: str, data_dir: Path
) -> None:
    """A hundred thousand generated entries stop no worker and end as the contract says."""

    @settings(QUICK, max_examples=800)
    @given(st.lists(raws, min_size=125, max_size=150))
    def check(entries: list[bytes]) -> None:
        relay_and_compare(client, redis_url, data_dir, entries)

    check()
