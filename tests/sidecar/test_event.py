"""The inbound contract: what is an event, and with which reason the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.event import (
    FIELDS,
    KNOWN_TYPES,
    MAX_ENTRY_BYTES,
    Reason,
    Rejected,
    content_digest,
)
from sidecar.worker.pipeline import Admitted, Pipeline, Rules
from store.memory import MemoryStore

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "control_events.json").read_text(encoding="utf-8")
)["vectors"]
ORIGIN = "control:events/1700000000000-0"
CHECKSUM = "sha256:" + "ab" * 32
FULL: dict[str, Any] = {
    "id": 7,
    "event_id": "evt_1",
    "type": "stack.activated",
    "tenant_id": "t_1",
    "stack_id": "web",
    "version": 42,
    "base_version": 41,
    "artifact_ref": "stacks/t_1/web/42",
    "checksum": CHECKSUM,
    "manifest_checksum": "sha256:" + "cd" * 32,
    "control_version": 3,
    "created_at": "2026-11-22T12:00:00Z",
    "region": "eu",
}


def pipeline(**rules: Any) -> Pipeline:
    """Return a pipeline between two empty stores."""
    return Pipeline(MemoryStore(), MemoryStore(), Rules(**rules))


def admit(raw: str | bytes, **rules: Any) -> Admitted:
    """Admit one entry with this value of `event`."""
    raw = raw.encode() if isinstance(raw, str) else raw
    return pipeline(**rules).admit({b"event": raw}, ORIGIN)


def refused(raw: str | bytes, **rules: Any) -> Rejected:
    """Return how an entry is refused; it must be."""
    with pytest.raises(Rejected) as caught:
        admit(raw, **rules)
    assert isinstance(caught.value.reason, Reason)
    return caught.value


def event(**fields: Any) -> str:
    """Return a small event as JSON, with these fields besides or instead."""
    return json.dumps({"event_id": "e", "type": "run.abort", **fields})


def with_raw(literal: str) -> str:
    """Return a small event with an unknown field `x` written as `literal`."""
    return f'{{"event_id":"e","type":"run.abort","x":{literal}}}'


def written(admitted: Admitted) -> bytes:
    """Return the notification's JSON as the script will complete it."""
    return admitted.unstamped + b"1}"


def test_there_are_vectors_of_every_kind() -> None:
    """The golden vectors are all there."""
    assert len(VECTORS) == 58
    assert len({vector["name"] for vector in VECTORS}) == 58


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """Each golden vector gets exactly its reason, and a valid one keeps its unknown fields."""
    raw = vector["raw"].encode()
    if vector["reason"] is not None:
        assert refused(raw).reason == vector["reason"]
        return
    sent = json.loads(raw)
    got = json.loads(written(admit(raw)))
    for field in sent.keys() - set(FIELDS):
        assert got[field] == sent[field]
    for field in sent.keys() & set(FIELDS) - {"control_version"}:
        assert got.get(field) == (sent[field] or None)


@pytest.mark.parametrize(
    "literal",
    [
        "1.10", "1e2", "1E+2", "-0.0", "-0", "0.1e-7", "123456789012345678901234567890",
        "-123456789012345678901234567890", "18446744073709551616", "9223372036854775808",
        "0.30000000000000000000000001", "1e-400", "1" + "0" * 308, '[1.0,{"y":[2.50]}]',
        '"\\u0000"', '"\\/"', "null", "true", "[]", "{}", '{"b":1,"a":2}',
    ],
)  # fmt: skip
def test_numbers_of_unknown_fields_pass_digit_by_digit(literal: str) -> None:
    """What is not in the table is passed on as it came, to the last digit."""
    expected = {'"\\/"': '"/"'}.get(literal, literal)
    assert b'"x":' + expected.encode() + b"," in written(admit(with_raw(literal)))


@pytest.mark.parametrize(
    "literal", ["1e400", "-1e400", "1" + "0" * 309, "9" * 5000, "NaN", "Infinity", "-Infinity"]
)
def test_a_number_that_no_double_holds_is_malformed(literal: str) -> None:
    """A number out of a double's range is malformed, however deep it hides and however written."""
    assert refused(with_raw(literal)).reason is Reason.MALFORMED
    assert refused(with_raw(f'[{{"y":[{literal}]}}]')).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "key",
    [
        "Event_ID", "TENANT_ID", "artifact_Ref", "chec\u212asum", "chec\u212aSUM",
        "ver\u017fion", "check\u017fum", "BASE_VERSION", "Created_at", "ID", "iD",
    ],
)  # fmt: skip
def test_a_field_in_another_case_is_invalid(key: str) -> None:
    """A key that Go's decoder would take for a field is refused, and `detail` names the field."""
    rejected = refused(event(**{key: "x"}))
    assert rejected.reason is Reason.INVALID_EVENT
    assert rejected.detail.split(":")[0] in FIELDS


@pytest.mark.parametrize(
    "key", ["event-id", "eventid", "tenant", "checksums", " id", "\u0131d", "\u0130d"]
)
def test_a_key_that_differs_in_more_than_case_is_kept(key: str) -> None:
    """A key that is no field in any case is an unknown field like others."""
    assert json.loads(written(admit(event(**{key: "x"}))))[key] == "x"


@pytest.mark.parametrize(
    "key",
    ["model_config", "model_fields", "__class__", "__dict__", "copy", "origin", "traceparent", ""],
)
def test_a_key_that_means_something_in_python_is_kept(key: str) -> None:
    """An unknown field may be called what a model's attribute is called."""
    assert json.loads(written(admit(event(**{key: {"a": [1]}}))))[key] == {"a": [1]}


def nested(depth: int, inner: str = "") -> str:
    """Return an event whose object nests `depth` deep in all."""
    return with_raw("[" * (depth - 1) + inner + "]" * (depth - 1))


def test_nesting_is_bounded_at_64() -> None:
    """64 levels pass, 65 are malformed, the object itself counted."""
    admit(nested(64))
    assert refused(nested(65)).reason is Reason.MALFORMED
    assert refused(nested(4000)).reason is Reason.MALFORMED


def test_brackets_in_strings_do_not_nest() -> None:
    """Brackets inside strings count for nothing, quotes escaped and backslashes before included."""
    admit(nested(64, json.dumps('[{"\\' * 50)))
    admit(with_raw(json.dumps("[" * 1000)))
    admit(event(**{"[" * 100: "]"}))
    assert refused(nested(65, json.dumps(']}"\\' * 50))).reason is Reason.MALFORMED


def test_siblings_do_not_nest() -> None:
    """Many brackets side by side are shallow."""
    admit(with_raw("[" + ",".join(["[{}]"] * 200) + "]"))


@pytest.mark.parametrize(
    "raw",
    [
        '{"event_id":"e","type":"run.abort","\\ud800":1}',
        '{"event_id":"e","type":"run.abort","x":{"\\udfff":1}}',
        '{"event_id":"e","type":"run.abort","x":["\\ud83d"]}',
        '{"event_id":"e\\ud800","type":"run.abort"}',
        '{"event_id":"e","type":"run.abort","x":"\\ude00\\ud83d"}',
    ],
)
def test_a_lone_surrogate_is_malformed(raw: str) -> None:
    """A lone surrogate is malformed in keys as in values, at any depth."""
    assert refused(raw).reason is Reason.MALFORMED


def test_a_pair_of_surrogates_is_a_character() -> None:
    """An escaped pair of surrogates is one character and passes, in a key, too."""
    raw = '{"event_id":"e","type":"run.abort","\\ud83d\\ude00":"\\ud83d\\ude00"}'
    assert json.loads(written(admit(raw)))["😀"] == "😀"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"\xff", b'{"event_id":"\xff"}', b"\xef\xbb\xbf" + event().encode(), b"{",
        b'{"a":1,}', b"{'a':1}", b'{"a":01}', b'{"a":1}x', b'{"a":"\n"}', b"true", b'"x"', b"1",
        event().encode("utf-16"), b"// x\n{}", b'{"a":.5}', b'{"a":"\xed\xa0\x80"}',
    ],
)  # fmt: skip
def test_malformed(raw: bytes) -> None:
    """What is not UTF-8, or not exactly one JSON object, is malformed."""
    assert refused(raw).reason is Reason.MALFORMED


def test_space_around_the_object_is_none_of_our_business() -> None:
    """White space that JSON allows around the object is allowed."""
    admit(" \t\r\n" + event() + "\n")


def test_no_event_field_is_malformed() -> None:
    """An entry without the field `event` is malformed; its other fields are not read."""
    with pytest.raises(Rejected) as caught:
        pipeline().admit({b"Event": event().encode(), b"data": b"x"}, ORIGIN)
    assert caught.value.reason is Reason.MALFORMED


def test_no_fields_is_a_lost_entry() -> None:
    """An entry of which nothing is left is entry_lost."""
    with pytest.raises(Rejected) as caught:
        pipeline().admit({}, ORIGIN)
    assert caught.value.reason is Reason.ENTRY_LOST


@pytest.mark.parametrize(
    "created_at",
    [
        "2026-11-22T12:00:00Z", "2026-11-22T12:00:00.000Z", "2026-11-22T12:00:00+05:30", "",
        "2024-02-29T23:59:59.999999999-00:00", "2000-02-29T00:00:00Z", "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z", "2026-11-22T12:00:00." + "1" * 43 + "Z",
    ],
)  # fmt: skip
def test_created_at(created_at: str) -> None:
    """RFC 3339 as Go writes and reads it is valid, up to 64 characters."""
    admit(event(created_at=created_at))


@pytest.mark.parametrize(
    "created_at",
    [
        "2026-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2026-04-31T00:00:00Z", "2026-11-22",
        "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-00T00:00:00Z",
        "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+0530",
        "2026-01-01T00:00:00Z\n", "\n2026-01-01T00:00:00Z", "now", "2026-01-01T0:00:00Z",
        "2026-11-22T12:00:00." + "1" * 44 + "Z",
        "\u0662\u0660\u0662\u0666-01-01T00:00:00Z", "2026-01-01T00:00:0\uff10Z",
        "2026-01-01T00:00:00.\u0661Z",
    ],
)  # fmt: skip
def test_created_at_that_go_would_not_read(created_at: str) -> None:
    """A time that does not exist, or is not written as RFC 3339 in ASCII digits, is invalid."""
    rejected = refused(event(created_at=created_at))
    assert (rejected.reason, rejected.detail.split(":")[0]) == (Reason.INVALID_EVENT, "created_at")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("event_id", ["", None, "x" * 257, "a\tb", "a\u2028", "\u200b", "\x7f", 1, ["a"], True]),
        ("type", ["", None, 5]),
        ("tenant_id", [1, False, [], {}]),
        ("stack_id", [1.5]),
        ("version", ["1", 1.5, True, 2**63, -(2**63) - 1, [1]]),
        ("base_version", ["0", 2**64]),
        ("id", ["1", 2**63]),
        ("control_version", [-1, 2**64, "5"]),
        ("checksum", ["abc", CHECKSUM.upper(), CHECKSUM + "0", CHECKSUM + "\n", " " + CHECKSUM]),
        ("manifest_checksum", ["abc", "sha512:" + "a" * 64, 5]),
        ("artifact_ref", [5, ["a"]]),
        ("created_at", [5, {}]),
    ],
)
def test_a_value_of_another_form_is_invalid(field: str, values: list[Any]) -> None:
    """A field of another type or form is invalid, and `detail` names the field."""
    for value in values:
        rejected = refused(event(**{field: value}))
        assert (rejected.reason, rejected.detail.split(":")[0]) == (Reason.INVALID_EVENT, field)


@pytest.mark.parametrize(
    ("literal", "shown"),
    [
        ('"1"', ', not "1"'),
        ("1.50", ", not 1.50"),
        ("99999999999999999999", ", not 99999999999999999999"),
        ('["a", {"b": 2e0}]', ', not ["a",{"b":2e0}]'),
        ('"\\u202e\\u0007\\u001b"', r', not "\u202e\u0007\u001b"'),
        (json.dumps("x" * 5000), ', not "' + "x" * 59 + "…"),
    ],
)
def test_a_wrong_value_is_told(literal: str, shown: str) -> None:
    """`detail` ends with the value as it came: cut, and inert on a terminal."""
    rejected = refused(f'{{"event_id":"e","type":"run.abort","version":{literal}}}')
    assert rejected.detail.startswith("version: ")
    assert rejected.detail.endswith(shown)
    assert rejected.detail.isprintable()


def test_a_field_that_is_not_there_has_no_value_to_tell() -> None:
    """The event as a whole is not told in its place."""
    assert refused('{"type":"run.abort","version":1}').detail == "event_id: Field required"


@pytest.mark.parametrize("literal", ["42.0", "4.2e1", "42e0", "1E0", "0.0", "-0.0"])
def test_an_integer_is_written_as_an_integer(literal: str) -> None:
    """An integral value in any other spelling than an integer's is invalid."""
    raw = f'{{"event_id":"e","type":"run.abort","version":{literal}}}'
    assert refused(raw).reason is Reason.INVALID_EVENT


def test_limits_of_integers() -> None:
    """The ends of int64 and uint64 are in."""
    low, high = -(2**63), 2**63 - 1
    got = json.loads(
        written(admit(event(id=low, version=high, base_version=low, control_version=2**64 - 1)))
    )
    assert (got["id"], got["version"], got["base_version"]) == (low, high, low)


def test_event_id_counts_characters() -> None:
    """256 characters pass, whatever number of bytes they take, and a blank is printable."""
    admit(event(event_id="é" * 256))
    admit(event(event_id=" "))


@pytest.mark.parametrize("field", ["tenant_id", "stack_id", "version"])
def test_a_stack_needs_its_fields(field: str) -> None:
    """stack.activated without tenant, stack or version is invalid, zero and null alike."""
    for value in (None, "" if field != "version" else 0, *([-1] if field == "version" else [])):
        rejected = refused(json.dumps(FULL | {field: value}))
        assert (rejected.reason, rejected.detail.split(":")[0]) == (Reason.INVALID_EVENT, field)
    assert refused(json.dumps({k: FULL[k] for k in FULL if k != field})).reason == "invalid_event"


def test_a_checksum_may_come_without_a_ref() -> None:
    """A checksum alone is valid; a ref alone is not."""
    admit(event(checksum=CHECKSUM))
    assert refused(event(artifact_ref="a")).detail.startswith("checksum:")
    assert refused(event(artifact_ref="a", manifest_checksum=CHECKSUM)).reason == "invalid_event"


def test_the_last_of_a_repeated_key_counts() -> None:
    """Of a repeated key only the last value is judged and passed on."""
    raw = '{"event_id":5,"event_id":"e","type":"run.abort","x":1,"version":"no","version":3,"x":2}'
    got = json.loads(written(admit(raw)))
    assert (got["event_id"], got["version"], got["x"]) == ("e", 3, 2)
    assert refused('{"event_id":"e","type":"run.abort","type":null}').reason == "invalid_event"


def test_the_producers_control_version_is_not_passed_on() -> None:
    """Whatever position a producer claims, the sidecar stamps its own, once."""
    assert written(admit(event(control_version=99))).count(b"control_version") == 1


def test_entry_size_counts_every_name_and_value() -> None:
    """16 KiB over all names and values pass that check, one byte more is too_large."""
    body = event(event_id="e").encode()
    room = MAX_ENTRY_BYTES - len(b"event") - len(body) - len(b"pad")
    pipeline().admit({b"event": body, b"pad": b"x" * room}, ORIGIN)
    with pytest.raises(Rejected) as caught:
        pipeline().admit({b"event": body, b"pad": b"x" * (room + 1)}, ORIGIN)
    assert caught.value.reason is Reason.TOO_LARGE


def test_order_of_reasons() -> None:
    """An entry that is wrong in several ways gets the reason that is looked for first."""
    pad = "p" * 9000
    scope = {"tenant_scope": ("only/{tenant}/*",)}
    assert refused("{" + "x" * MAX_ENTRY_BYTES).reason is Reason.TOO_LARGE
    assert refused('{"type":"no such","x":NaN}').reason is Reason.MALFORMED
    assert refused('{"type":"no such","artifact_ref":"/"}').reason is Reason.INVALID_EVENT
    bad = {"artifact_ref": "/", "checksum": CHECKSUM, "pad": pad}
    assert refused(event(type="no such", **bad), **scope).reason is Reason.UNKNOWN_TYPE
    assert refused(event(**bad), **scope).reason is Reason.BAD_REF
    bad["artifact_ref"] = "elsewhere"
    assert refused(event(**bad), **scope).reason is Reason.FORBIDDEN_REF
    assert refused(event(**bad)).reason is Reason.TOO_LARGE


def test_types() -> None:
    """Every known type passes, another only when the operator adds it, spelt exactly so."""
    for known in KNOWN_TYPES - {"stack.activated"}:
        admit(event(type=known))
    assert refused(event(type="Run.Abort")).reason is Reason.UNKNOWN_TYPE
    assert refused(event(type="mine")).reason is Reason.UNKNOWN_TYPE
    admit(event(type="mine"), types=KNOWN_TYPES | {"mine"})


@pytest.mark.parametrize(
    ("tenant", "ref", "allowed"),
    [
        ("a", "stacks/a/x", True), ("a", "stacks/a/x/y", True), ("a", "stacks/ab/x", False),
        ("a", "stacks/a", False), ("", "stacks//x", False), ("b/c", "stacks/b/c/x", False),
        (".", "stacks/a/x", False), ("a", "shared/z", True), ("", "shared/z", True),
        ("a", "xshared/z", False), ("*", "stacks/a/x", False), ("a", "stacks/a/x\u2028y", True),
    ],
)  # fmt: skip
def test_tenant_scope(tenant: str, ref: str, allowed: bool) -> None:
    """A ref must match a pattern with the tenant's name in it; no other tenant's corner does."""
    raw = event(tenant_id=tenant, artifact_ref=ref, checksum=CHECKSUM)
    rules: dict[str, Any] = {"tenant_scope": ("stacks/{tenant}/*", "shared/*")}
    if allowed:
        admit(raw, **rules)
    else:
        assert refused(raw, **rules).reason in (Reason.FORBIDDEN_REF, Reason.BAD_REF)


# --- any input at all ----------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["", CHECKSUM, "2026-11-22T12:00:00Z", "run.abort", "a/b", "e", "\ud800"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from([*FIELDS, "Event_Id", "x", "origin", "model_fields"]) | st.text(max_size=5)
objects = st.dictionaries(names, values, max_size=8)
plausible = st.fixed_dictionaries(
    {"event_id": st.just("e") | values, "type": st.sampled_from(sorted(KNOWN_TYPES)) | values},
    optional={
        "version": st.integers(-1, 2**63),
        "artifact_ref": st.sampled_from(["a/b", "a//b", "", "é"]),
        "checksum": st.sampled_from([CHECKSUM, "", "x"]),
        "x": values,
    },
)


def judge(raw: bytes) -> Admitted | None:
    """Admit anything; nothing but `Rejected` with a reason may come out."""
    try:
        return admit(raw)
    except Rejected as error:
        rejected = error
    assert isinstance(rejected.reason, Reason)
    assert rejected.detail
    return None


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Any bytes at all are an event or have a reason."""
    judge(raw)


@given(st.text(alphabet='{}[]":,\\ue019-+.EnultrfsaN \n', max_size=60))
def test_anything_like_json(text: str) -> None:
    """Text that nearly is JSON is an event or has a reason."""
    judge(text.encode())
    judge(with_raw(text).encode())


@given(objects | plausible, st.booleans())
def test_any_object(body: dict[str, Any], ascii_only: bool) -> None:
    """A JSON object is an event or has a reason, and what is passed on is an event again."""
    raw = json.dumps(body, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    admitted = judge(raw)
    if admitted is None:
        return
    again = admit(written(admitted))
    assert again.content_digest == admitted.content_digest
    assert written(again) == written(admitted)
    got = json.loads(written(admitted))
    for key, value in body.items():
        if key not in FIELDS or (value and key != "control_version"):
            assert got[key] == value


# --- the content digest --------------------------------------------------------------------------


def digest(body: dict[str, Any]) -> bytes:
    """Return the digest that tells events with one event_id apart."""
    admitted = admit(json.dumps(body))
    assert admitted.content_digest == content_digest(admitted.body)
    return admitted.content_digest


def test_digest_does_not_see_what_a_retry_may_change() -> None:
    """Key order, spelling, and the four fields that a retry may change leave the digest alone."""
    expected = digest(FULL)
    assert len(expected) == 16
    assert digest(dict(reversed(FULL.items()))) == expected
    assert admit(json.dumps(FULL, indent=3)).content_digest == expected
    free: dict[str, list[Any]] = {
        "id": [None, 0, 12345],
        "control_version": [None, 0, 12345],
        "created_at": [None, "", "2020-01-01T00:00:00Z"],
        "manifest_checksum": [None, "", CHECKSUM],
    }
    for field, others in free.items():
        assert digest({k: FULL[k] for k in FULL if k != field}) == expected
        for value in others:
            assert digest(FULL | {field: value}) == expected


def test_digest_takes_zero_null_and_absence_for_one() -> None:
    """An absent field of the table, its zero value and null have one digest."""
    small = {"event_id": "e", "type": "run.abort"}
    for field, zero in (
        ("tenant_id", ""), ("stack_id", ""), ("version", 0), ("base_version", 0),
        ("artifact_ref", ""), ("checksum", ""),
    ):  # fmt: skip
        assert digest(small | {field: zero}) == digest(small | {field: None}) == digest(small)


def test_digest_sees_everything_else() -> None:
    """Any other change makes another digest, in unknown fields at any depth, too."""
    changes: list[dict[str, Any]] = [
        FULL,
        FULL | {"type": "run.abort"},
        FULL | {"tenant_id": "t_2"},
        FULL | {"stack_id": "api"},
        FULL | {"version": 43},
        FULL | {"base_version": 40},
        FULL | {"base_version": None},
        FULL | {"artifact_ref": "stacks/t_1/web/43"},
        FULL | {"checksum": "sha256:" + "00" * 32},
        FULL | {"region": "us"},
        FULL | {"region": ""},
        FULL | {"region": None},
        FULL | {"region": ["eu"]},
        FULL | {"region": {"a": {"b": 1}}},
        FULL | {"region": {"a": {"b": 2}}},
        FULL | {"region": {"a": {"b": 1.5}}},
        FULL | {"region": 2**70},
        FULL | {"zone": "eu"},
        {k: FULL[k] for k in FULL if k != "region"},
    ]
    assert len({digest(body) for body in changes}) == len(changes)


def test_digest_of_nested_keys_has_no_order() -> None:
    """Canonical JSON sorts keys at every depth."""
    assert digest(FULL | {"x": {"b": [{"d": 1, "c": 2}], "a": 1}}) == digest(
        FULL | {"x": {"a": 1, "b": [{"c": 2, "d": 1}]}}
    )
