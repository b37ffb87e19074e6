"""Patterns of `--tenant-scope`: what they allow, and that no producer makes them costly."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UsageError
from sidecar.wire.event import MAX_ENTRY_BYTES, Reason, Rejected, decode
from sidecar.wire.scope import Scope, check_id_pattern
from sidecar.worker import settings
from sidecar.worker.pipeline import Pipeline, Rules
from store.chassis import ChassisStore
from store.memory import MemoryStore

ORIGIN = "control:events/1700000000000-0"
CHECKSUM = "sha256:" + "ab" * 32
letters = st.text("ab*/{}", max_size=6)


def expected(pattern: str, tenant: str, name: str) -> bool:
    """Say what a pattern means, by a regular expression: for short names only."""
    if "{tenant}" in pattern and (not tenant or "/" in tenant):
        return False
    special = {"{tenant}": re.escape(tenant), "*": ".*"}
    parts = re.split(r"(\{tenant\}|\*)", pattern)
    return bool(re.fullmatch("".join(special.get(p) or re.escape(p) for p in parts), name))


@given(st.lists(st.sampled_from(["{tenant}", "*", "a", "b", "/"]), max_size=7), letters, letters)
def test_a_pattern_means_what_its_stars_say(parts: list[str], tenant: str, name: str) -> None:
    """A star is any text, `{tenant}` the tenant, all else itself."""
    pattern = "".join(parts)
    assert Scope([pattern]).allows(tenant, name) == expected(pattern, tenant, name)


@pytest.mark.timeout(60)
def test_no_ref_takes_long() -> None:
    """A ref that nearly fits a pattern of many stars, in very many ways, is refused at once."""
    scope = Scope(["**/{tenant}/**/*.json", "*" + "{tenant}*" * 20 + "x"])
    for _ in range(100):
        assert not scope.allows("a", "a/" * 511 + "a")


def test_nothing_is_kept_of_what_producers_write() -> None:
    """Ten thousand tenants with long names leave no more in memory than one does."""
    pipeline = Pipeline(
        MemoryStore(), MemoryStore(), Rules(tenant_scope=("stacks/{tenant}/*", "rows/{tenant}/*"))
    )

    def refuse(count: int) -> None:
        for n in range(count):
            body = {
                "event_id": "e", "type": "run.abort", "tenant_id": f"{n:06}" + "t" * 250,
                "artifact_ref": f"{n:06}/" + "r" * 200, "checksum": CHECKSUM,
            }  # fmt: skip
            with pytest.raises(Rejected, match="forbidden_ref"):
                pipeline.admit({b"event": json.dumps(body).encode()}, ORIGIN)

    tracemalloc.start()
    try:
        refuse(100)
        before = tracemalloc.get_traced_memory()[0]
        refuse(10_000)
        assert tracemalloc.get_traced_memory()[0] - before < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["tenant_id", "stack_id", "type", "event_id"])
@pytest.mark.parametrize("unknown", [{}, {"x": 1}])
def test_names_have_a_length(field: str, unknown: dict[str, int]) -> None:
    """A name of 256 characters passes; one more is an invalid event, and the field is named."""
    body = {"event_id": "e", "type": "run.abort", **unknown}
    decode({b"event": json.dumps({**body, field: "é" * 256}).encode()})
    with pytest.raises(Rejected) as caught:
        decode({b"event": json.dumps({**body, field: "é" * 257}).encode()})
    assert caught.value.reason is Reason.INVALID_EVENT
    assert caught.value.detail.startswith(f"{field}: ")


@pytest.mark.timeout(60)
def test_no_entry_takes_long_to_parse() -> None:
    """A string of quotes that does not end is read once, not once for each quote."""
    body = b"[]" * 70 + b'"'
    body += b'\\"' * ((MAX_ENTRY_BYTES - len(body)) // 2 - 8)
    for _ in range(300):
        with pytest.raises(Rejected, match="malformed"):
            decode({b"event": body})


@pytest.mark.parametrize(
    ("tenant", "ref", "fits"),
    [
        ("t 1", "stacks/t 1/x", False), ("t_1", "stacks/t_1/x", True),
        ("t1", "stacks/t1/a b", True), ("t_1", "stacks/t 1/x", False), ("é", "stacks/é/x", False),
    ],
)  # fmt: skip
def test_the_scope_is_of_what_is_opened(tmp_path: Path, tenant: str, ref: str, fits: bool) -> None:
    """A tenant whose name the source store writes as another's has no corner there."""
    source = ChassisStore(str(tmp_path))
    pipeline = Pipeline(source, MemoryStore(), Rules(tenant_scope=("stacks/{tenant}/*",)))
    body = {"event_id": "e", "type": "run.abort", "tenant_id": tenant, "artifact_ref": ref,
            "checksum": CHECKSUM}  # fmt: skip
    entry = {b"event": json.dumps(body).encode()}
    if fits:
        pipeline.admit(entry, ORIGIN)
        return
    with pytest.raises(Rejected) as caught:
        pipeline.admit(entry, ORIGIN)
    assert caught.value.reason is Reason.FORBIDDEN_REF


def test_a_ref_that_the_source_cannot_hold_is_no_leak_either(tmp_path: Path) -> None:
    """A name that is too long for the layout is a bad ref, before anything is looked for."""
    pipeline = Pipeline(ChassisStore(str(tmp_path)), MemoryStore(), Rules(tenant_scope=("*",)))
    body = {"event_id": "e", "type": "run.abort", "artifact_ref": "a" * 250, "checksum": CHECKSUM}
    with pytest.raises(Rejected, match="bad_ref"):
        pipeline.admit({b"event": json.dumps(body).encode()}, ORIGIN)


def test_event_ids_of_one_tenant_are_no_others() -> None:
    """A tenant whose name goes on as another's pattern does gets none of its ids."""
    scope = Scope(["{tenant}-*"], neighbours_part=True)
    assert scope.allows("a", "a-1")
    assert not scope.allows("b", "a-1")
    assert not scope.allows("a-b", "a-b-1")  # it would be a's, too
    assert not scope.allows("", "-1")
    assert Scope(["evt_*/{tenant}"], neighbours_part=True).allows("a-b", "evt_1/a-b")


names = st.text("ab-/{}*", max_size=5)


@given(
    st.sampled_from(["{tenant}-*", "{tenant}/*", "*-{tenant}", "x{tenant}-*", "-{tenant}/b*"]),
    names, names, st.text("abx-/", max_size=8),
)  # fmt: skip
def test_no_event_id_is_two_tenants(pattern: str, one: str, other: str, event_id: str) -> None:
    """Whatever the names: of a pattern that is taken, at most one tenant may use an id."""
    scope = Scope([check_id_pattern(pattern)], neighbours_part=True)
    for name in (event_id, pattern.replace("{tenant}", one).replace("*", event_id)):
        assert one == other or not (scope.allows(one, name) and scope.allows(other, name))


@pytest.mark.parametrize("pattern", ["{tenant}*", "*{tenant}", "*-{tenant}-*", "{tenant}/{tenant}"])
def test_a_pattern_that_keeps_no_tenants_apart_is_refused(pattern: str) -> None:
    """One that lets two tenants use an id is none for event_ids."""
    with pytest.raises(UsageError, match="--event-id-scope"):
        settings.build(event_id_scope=(pattern,))


@pytest.mark.parametrize(
    ("pattern", "name", "owners"),
    [
        ("stacks/{tenant}/*", "stacks/t_1/web/1", {"t_1"}),
        ("stacks/{tenant}/*", "stacks/t_1", set()),
        ("stacks/{tenant}/*", "stacks//x", set()),
        ("rows/{tenant}", "rows/t_1", {"t_1"}),
        ("rows/{tenant}", "rows/t_1/x", set()),
        ("{tenant}/*", "stacks/t_1/x", {"stacks"}),
        ("{tenant}/{tenant}/*", "a/a/x", {"a"}),
        ("{tenant}/{tenant}/*", "a/b/x", set()),
        ("*/{tenant}/*", "stacks/t_1/x", set()),
        ("stacks/{tenant}-*", "stacks/t_1-x", set()),
        ("stacks/x{tenant}/*", "stacks/xt/y", set()),
        ("shared/*", "shared/x", set()),
    ],
)  # fmt: skip
def test_a_corner_has_one_owner(pattern: str, name: str, owners: set[str]) -> None:
    """Only a whole segment before any star leaves no doubt whose a name is."""
    scope = Scope([pattern])
    assert scope.owners(name) == owners
    for owner in owners:
        assert scope.allows(owner, name)
        assert any(name == one or name.startswith(f"{one}/") for one in scope.corners(owner))


def test_two_patterns_may_have_two_owners() -> None:
    """Where corners overlap each owner is named."""
    scope = Scope(["{tenant}/*", "stacks/{tenant}/*"])
    assert scope.owners("stacks/t/x") == {"stacks", "t"}
    assert scope.corners("a/b") == scope.corners("") == set()
