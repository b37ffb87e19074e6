"""What a producer sends so that `sidecar explain` never ends: its work grows as the events do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from sidecar.history.halts import HaltPeriod
from sidecar.redis.readers import Reader
from sidecar.replay.explain import deaths, halts, waits
from sidecar.replay.explain.explaining import explain_facts
from sidecar.replay.explain.facts import Facts
from sidecar.replay.timeline import Life
from tests.sidecar.test_explain import STREAM, dead, facts, found, published, us, waiting

FEW: Final = 40
GROWN: Final = 4
MOST: Final = 2 * GROWN
"""So many times the work may be of `GROWN` times the events; each pair of them makes it 16."""


def late_one_after_the_other(n: int) -> Facts:
    """A tenant sends all at once, and puts each artifact seconds after the one before it."""
    lives = [published(f"a{i}", 1 + i / 1e3, 100 + i * 4, version=i + 1) for i in range(n)]
    witnesses = (published(f"w{i}", 97.5 + i * 4, tenant="u", stack="") for i in range(n))
    return facts(*lives, *witnesses, now_us=us(5 * n + 1000))


def late_without_a_witness(n: int) -> Facts:
    """The same, while what others send waits as long."""
    lives = [published(f"a{i}", 1 + i * 4, 4.9 + i * 4, version=i + 1) for i in range(n)]
    slow = (published(f"w{i}", 1 + i * 4, 4.9 + i * 4, tenant="u", stack="") for i in range(n))
    return facts(*lives, *slow, now_us=us(5 * n + 1000))


def tenants_that_wait(n: int) -> Facts:
    """As many tenants wait as were served before."""
    lives = [published(f"p{i}", 1 + i / 1e3, version=i + 1, tenant="x") for i in range(n)]
    return facts(*lives, *(waiting(f"w{i}", 300 + i / 1e3, tenant=f"t{i}") for i in range(n)))


def dead_of_one_stack(n: int) -> Facts:
    """Each version dies that nothing overtakes, between those that are published."""
    return facts(*(one for i in range(n) for one in (
        published(f"p{i}", 1 + i / 1e3, version=i + 1),
        dead(f"d{i}", 1 + i / 1e3, "artifact_missing", version=10**9 + i),
    )))  # fmt: skip


def two_tenants_at_one_ref(n: int) -> Facts:
    """What one sends of a ref is late, and what the other sends of it is not."""

    def of(tenant: str, begun_s: float, ended_s: float) -> Iterator[Life]:
        for i in range(n):
            yield published(f"{tenant}{i}", begun_s + i / 1e3, ended_s + i / 1e3, tenant=tenant,
                            stack="", artifact_ref="r")  # fmt: skip

    return facts(*of("a", 1, 100), *of("b", 50, 50.1))


def pauses(n: int) -> Facts:
    """A stolen halter pauses and resumes tenants, and what they sent waited."""
    told = [HaltPeriod(STREAM, us(1 + i), "r", "me", us(1.5 + i), tenant=f"t{i}")
            for i in range(n)]  # fmt: skip
    return facts(*(published(f"p{i}", 1 + i, 7 + i, tenant=f"t{i}") for i in range(n)),
                 halts=told, now_us=us(n + 100))  # fmt: skip


def readers(n: int) -> Facts:
    """As many readers as notifications, each of which has passed another."""
    told = (Reader(f"r{i}", us(1 + i), us(2), 60, expired=False) for i in range(n))
    return facts(*(published(f"p{i}", 1 + i, version=i + 1) for i in range(n)),
                 readers=tuple(told))  # fmt: skip


SENT: Final = (
    late_one_after_the_other, late_without_a_witness, tenants_that_wait, dead_of_one_stack,
    two_tenants_at_one_ref, pauses,
    readers,
)  # fmt: skip


def _work(of: Facts) -> tuple[int, int]:
    """Return how many lines and rounds `explain` takes, and how many names its findings have."""
    counted = 0

    def trace(_: Any, event: str, __: Any) -> Any:
        nonlocal counted
        counted += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        findings = explain_facts(of).findings
    finally:
        sys.settrace(before)
    return counted, sum(len(one.about) for one in findings)


@pytest.mark.unit
@pytest.mark.parametrize("sent", SENT)
def test_the_work_of_explain_grows_as_the_events_do(
    sent: Callable[[int], Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its time nor its memory by each pair of them, whatever producers send."""
    monkeypatch.setattr(waits, "MAX_TOLD", 3)
    monkeypatch.setattr(halts, "MOST_HALTS", 3)
    monkeypatch.setattr(deaths, "COMPARED", 3)
    few, many = _work(sent(FEW)), _work(sent(GROWN * FEW))
    assert many[0] < MOST * few[0]
    assert many[1] <= MOST * max(few[1], FEW)


def test_halts_that_are_too_many_are_told_as_a_number() -> None:
    """The newest are told each, and that there are more."""
    told = explain_facts(pauses(halts.MOST_HALTS + 5))
    assert sum(one.kind == "paused" for one in told.findings) == halts.MOST_HALTS
    assert any("of 205 halts and pauses the 200 newest are told" in one for one in told.unknown)


def test_what_waited_behind_a_late_artifact_is_counted_whole() -> None:
    """Also where more did than can be asked for."""
    late = [published(f"a{i}", 1 + i / 1e3, 100 + i * 4, version=i + 1) for i in range(60)]
    witness = [published(f"w{i}", 97.5 + i * 4, tenant="u", stack="") for i in range(60)]
    each = [one for one in found(*late, *witness) if one.kind == "artifact_late"]
    assert len(each) == 60
    assert sum("59 events of its tenant waited behind it" in one.what for one in each) == 1
