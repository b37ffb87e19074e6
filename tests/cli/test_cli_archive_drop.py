"""`sidecar archive --drop`: what is damaged for good, or forged, goes, and the gap is told."""

from __future__ import annotations

from pathlib import Path

import pytest

import store
from sidecar.feed import Feed
from store import Capability, VersionedStore, versioned
from tests.cli.harness import NOTIFICATIONS, Cli
from tests.cli.test_cli_trust import trusted

PLACE = f".sidecar/archive/{NOTIFICATIONS.replace(':', '%3A')}/{NOTIFICATIONS.replace(':', '%3A')}"


@pytest.fixture
def fleet(sidecar: Cli, tmp_path: Path) -> VersionedStore:
    """A fleet's store with an archive of three signed segments of the notifications."""
    key = str(trusted(sidecar, tmp_path))
    for number in range(3):
        sidecar.bring(f"e{number}", f"keys/{number}", b"k", "--tenant", "t")
        sidecar.drain("--sign-key", key)
        assert sidecar("archive", "--sign-key", key).code == 0
    sidecar.trim(NOTIFICATIONS, 1)
    found = versioned(store.open_url((sidecar.directory / "data-dir/fleet").as_uri()),
                      Capability.DELETE, Capability.LIST)  # fmt: skip
    assert found
    return found


def segments(fleet: VersionedStore) -> list[str]:
    """Return the segments of the notifications, the oldest first."""
    return sorted(ref for ref in fleet.list(PLACE) if "~" not in ref)


def damaged(fleet: VersionedStore) -> str:
    """Put nonsense in the place of the second segment's rows; return its ref."""
    ref = segments(fleet)[1]
    fleet.put(ref, b"nonsense", fleet.get(ref).manifest)
    return ref


def test_a_damaged_segment_is_dropped_and_its_gap_told(sidecar: Cli, fleet: VersionedStore) -> None:
    """By the exit code of a window, with who did it, when and why beside it; the chain knows."""
    ref = damaged(fleet)
    assert sidecar("replay", "show").code == 1
    ran = sidecar("archive", "--drop", ref, "--dry-run", "--json")
    ends = ref.rpartition("/")[2].split("..")
    told = {"ref": ref, "stream": NOTIFICATIONS, "missing": [ends], "dropped": False}
    assert (ran.code, ran.object()) == (0, told)
    assert ref in segments(fleet)
    assert sidecar("archive", "--drop", ref).code == 2
    ran = sidecar("archive", "--drop", ref, "--reason", "disk failed")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[1] == f"  missing of {NOTIFICATIONS}: {ends[0]} to {ends[1]}"
    ran = sidecar("replay", "show")
    assert ran.code == 3
    assert "dropped from the archive by hand" in ran.err
    (mark,) = [one for one in fleet.list(PLACE) if "dropped~" in one]
    assert b'"reason":"disk failed"' in fleet.get(mark).manifest
    assert sidecar("archive", "--check").code == 0
    with Feed(sidecar.url, store=fleet) as feed:
        state = feed.state()
    assert {one.event_id for one in state} == {"e0", "e2"}
    ms, _, sequence = ends[1].partition("-")
    assert state.complete_since == int(ms) * 1000 + int(sequence)
    assert sidecar("archive", "--drop", ref, "--reason", "again").code == 2


def test_a_drop_is_believed_where_a_trusted_key_sealed_it(
    sidecar: Cli, fleet: VersionedStore, tmp_path: Path
) -> None:
    """Else who takes a segment out could write that an operator did."""
    ref, trust = damaged(fleet), str(tmp_path / "trust")
    assert sidecar("archive", "--drop", ref, "--reason", "disk failed").code == 0
    ran = sidecar("archive", "--check", "--verify", trust, "--json")
    assert ran.code == 1
    (fault,) = [one for one in ran.objects() if "kind" in one]
    assert fault["kind"] == "missing"
    assert "no trusted key sealed that" in fault["detail"]


def test_a_sealed_drop_is_no_fault(sidecar: Cli, fleet: VersionedStore, tmp_path: Path) -> None:
    """A check ends with 0, and a feed that verifies tells what is not proven any more."""
    ref, key, trust = damaged(fleet), str(tmp_path / "key"), str(tmp_path / "trust")
    assert sidecar("archive", "--check", "--verify", trust).code == 0
    ran = sidecar("archive", "--drop", ref, "--reason", "disk failed", "--sign-key", key)
    assert ran.code == 0, ran.err
    assert sidecar("archive", "--check", "--verify", trust).code == 0
    with Feed(sidecar.url, store=fleet, trust=trust) as feed:
        state = feed.state()
    assert {one.event_id for one in state} == {"e0", "e2"}
    assert 0 < state.complete_since <= state.unproven_until
    sidecar("sign-key", "new", str(tmp_path / "other"))
    (tmp_path / "trust/key.pub").unlink()
    (tmp_path / "other.pub").rename(tmp_path / "trust/other.pub")
    assert sidecar("archive", "--check", "--verify", trust).code == 1


@pytest.mark.parametrize(
    ("args", "word"),
    [(("--drop", "rows/1", "--reason", "x"), "has no segment or state 'rows/1'"),
     (("--reason", "x"), "they belong to --drop REF"),
     (("--dry-run",), "they belong to --drop REF"),
     (("--drop", "x", "--reason", " "), "say why"),
     (("--drop", "x", "--reason", "x" * 501), "500 at most")],
)  # fmt: skip
def test_what_cannot_be_dropped_is_refused(
    sidecar: Cli, fleet: VersionedStore, args: tuple[str, ...], word: str
) -> None:
    """With one line, and nothing goes."""
    before = sorted(fleet.list(".sidecar"))
    ran = sidecar("archive", *args)
    assert ran.code == 2
    assert word in ran.err
    assert ran.err.count("\n") == 1
    assert sorted(fleet.list(".sidecar")) == before
