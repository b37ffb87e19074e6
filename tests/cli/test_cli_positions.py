"""`--since`, `--until` and `--at` mean the same to every command."""

from __future__ import annotations

import json

import pytest

from tests.cli.harness import STREAM, Cli

MS = 1_790_000_000_000


@pytest.fixture
def three(sidecar: Cli) -> Cli:
    """Three events, two seconds apart, each published within its millisecond."""
    sidecar.client.xgroup_create(STREAM, "sidecar:control:notifications", "$", mkstream=True)
    for n in range(3):
        ms = MS + 2000 * n
        event = {"event_id": f"e{n}", "type": "key.changed", "control_version": ms * 1000 + 500}
        sidecar.client.xadd(STREAM, {"event": json.dumps(event)}, id=f"{ms}-0")
        sidecar.notification(event, f"{ms}-500", f"{STREAM}/{ms}-0")
    sidecar.client.xgroup_setid(STREAM, "sidecar:control:notifications", f"{MS + 4000}-0")
    sidecar.lay_out()
    return sidecar


def _found(sidecar: Cli, *args: str) -> dict[str, int]:
    """Return how many events each command finds in a window."""
    replay = sidecar("replay", "show", "--json", *args).objects()
    audit = sidecar("audit", "--json", *args).objects()
    found = {
        "replay": sum("end" in one for one in replay),
        "audit": audit[-1]["summary"]["entries"] if audit else 0,
    }
    if args[0] == "--since":
        found["tail"] = len(sidecar("tail", "--json", *args).objects())
    return found


@pytest.mark.parametrize(
    ("position", "since", "until"),
    [
        (f"{MS + 2000}", 2, 2),
        (f"{MS + 2000}-0", 2, None),
        (f"{MS + 2000}500", None, 2),
        (f"{MS + 2001}", 1, 2),
        ("2026-09-21T14:13:22Z", 2, None),
    ],
)
def test_a_position_means_the_same_everywhere(
    three: Cli, position: str, since: int | None, until: int | None
) -> None:
    """Thirteen digits are milliseconds, sixteen a control_version: to audit, replay and tail."""
    for option, count in (("--since", since), ("--until", until)):
        if count is not None:
            found = _found(three, option, position)
            assert set(found.values()) == {count}, (option, found)


@pytest.mark.parametrize(
    "args",
    [("audit", "--since"), ("audit", "--until"), ("tail", "--since"), ("replay", "show", "--since"),
     ("replay", "show", "--until"), ("replay", "at"), ("dead", "ls", "--since"), ("diff", "--at"),
     ("dead", "ls", "--until"), ("trace", "x", "--since")],
)  # fmt: skip
def test_a_number_that_could_be_two_things_is_exit_2_everywhere(
    three: Cli, args: tuple[str, ...]
) -> None:
    """The same words of every command, which show how to write either."""
    more = ("--at", "0s") if args[0] == "diff" else ()
    ran = three(*args, "1791234567", *more)
    assert ran.code == 2, ran.err
    assert "write a control_version (1791234567890123, in microseconds)" in ran.err
