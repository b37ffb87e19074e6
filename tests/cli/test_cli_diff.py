"""`sidecar diff`: two versions of a ref, two refs, or the fleet at two positions."""

from __future__ import annotations

import json
from typing import Any

from store import checksum_of
from tests.cli.harness import HOSTILE, NOTIFICATIONS, Cli


def versions(sidecar: Cli, *blobs: bytes) -> None:
    """Publish one version of `rows/a` after the other."""
    for n, blob in enumerate(blobs):
        sidecar.bring(f"e{n}", "rows/a", blob, "--tenant", "t")
        sidecar.work()


def test_the_newest_version_against_the_one_before(sidecar: Cli) -> None:
    """Without checksums it is these two; 1 where they differ."""
    versions(sidecar, b'{"a":1}', b'{"a":2,"b":1}', b'{"b":1, "a":3}')
    ran = sidecar("diff", "rows/a")
    assert ran.code == 1
    assert [line for line in ran.out.splitlines() if line.startswith(("+ ", "- "))] == [
        '-   "a": 2,'.replace("-   ", "-  "), '+  "a": 3,',
    ]  # fmt: skip
    found = sidecar("diff", "rows/a", "--json").object()
    assert found["old"]["checksum"] == checksum_of(b'{"a":2,"b":1}')
    assert (found["data"]["kind"], found["manifest"]["identical"]) == ("json", True)


def test_versions_are_chosen_by_the_first_digits(sidecar: Cli) -> None:
    """A checksum may be cut; one that fits none, or several, is refused."""
    blobs = [b"a\n", b"b\n", b"c\n"]
    versions(sidecar, *blobs)
    digits = [checksum_of(blob).removeprefix("sha256:")[:12] for blob in blobs]
    out = sidecar("diff", "rows/a", digits[0], f"sha256:{digits[2]}").out
    assert "-a" in out
    assert "+c" in out
    assert sidecar("diff", "rows/a", digits[1], digits[1]).code == 0
    ran = sidecar("diff", "rows/a", "00000000")
    assert (ran.code, "no version" in ran.err) == (3, True)
    assert sidecar("diff", "rows/a", "xyz").code == 2
    assert sidecar("diff", "rows/nothing").code == 3


def test_what_says_the_same_is_no_difference(sidecar: Cli) -> None:
    """JSON with its keys in another order ends with 0, and says so."""
    versions(sidecar, b'{"a":1,"b":2}', b'{"b":2,"a":1}')
    ran = sidecar("diff", "rows/a")
    assert (ran.code, "says the same" in ran.out) == (0, True)


def test_a_ref_with_one_version_has_nothing_to_compare(sidecar: Cli) -> None:
    """That is told apart from being the same, and how to compare it with another ref."""
    versions(sidecar, b"one")
    ran = sidecar("diff", "rows/a")
    assert (ran.code, "no version before" in ran.err) == (3, True)
    assert "`sidecar diff OTHER_REF rows/a`" in ran.err
    versions(sidecar, b"one", b"two")
    ran = sidecar("diff", "rows/a", "--json", checksum_of(b"one"), checksum_of(b"two"))
    assert ran.object()["new_ref"] == "rows/a"


def activate(sidecar: Cli, version: int, data: bytes) -> None:
    """Publish a version of the stack `web` at a ref of its own."""
    sidecar.bring(f"v{version}", f"stacks/t/web/{version}", data, "--type", "stack.activated",
                  "--tenant", "t", "--stack", "web", "--version", str(version))  # fmt: skip
    sidecar.work()


def test_two_refs_are_compared(sidecar: Cli) -> None:
    """The newest of each, or the versions that checksums say: first the old one's."""
    activate(sidecar, 1, b"one\n")
    activate(sidecar, 2, b"two\n")
    activate(sidecar, 2, b"two\n")
    sidecar.bring("again", "stacks/t/web/1", b"more\n")
    sidecar.work()
    refs = ("stacks/t/web/1", "stacks/t/web/2")
    ran = sidecar("diff", *refs)
    assert (ran.code, "-more" in ran.out, "+two" in ran.out) == (1, True, True)
    ran = sidecar("diff", *refs, checksum_of(b"one\n")[:20])
    assert (ran.code, "-one" in ran.out, "+two" in ran.out) == (1, True, True)
    assert sidecar("diff", refs[0], refs[0]).code == 0
    assert sidecar("diff", refs[0], "stacks/t/web/3").code == 3
    assert sidecar("diff", *refs, "00000000", "11111111", "22222222").code == 2


def test_versions_of_a_stack_are_compared(sidecar: Cli) -> None:
    """TENANT/STACK@VERSION is what was published as that, also out of a bundle."""
    activate(sidecar, 1, b"one\n")
    activate(sidecar, 2, b"two\n")
    sidecar.bring("again", "stacks/t/web/1", b"more\n")
    sidecar.work()
    path = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", path).code == 0
    for args in ((), ("--bundle", path)):
        env = {"SIDECAR_REDIS": ""} if args else None
        ran = sidecar("diff", "t/web@1", "t/web@2", *args, env=env)
        assert (ran.code, "-one" in ran.out, "+two" in ran.out) == (1, True, True)
        assert sidecar("diff", "t/web@2", "stacks/t/web/2", *args, env=env).code == 0
        ran = sidecar("diff", "t/web@1", "t/web@3", *args, env=env)
        assert (ran.code, "`sidecar trace t/web@3`" in ran.err) == (3, True)
    ran = sidecar("diff", "t/web@1", "$(t)/web@3")
    assert "`sidecar trace '$(t)/web@3'`" in ran.err.replace("\n", " ")


def test_a_ref_with_an_at_sign_comes_before_a_stack(sidecar: Cli) -> None:
    """What is there as a ref is taken for one."""
    activate(sidecar, 1, b"one\n")
    sidecar.bring("odd", "t/web@1", b"odd\n")
    sidecar.work()
    ran = sidecar("diff", "t/web@1", "stacks/t/web/1")
    assert (ran.code, "-odd" in ran.out) == (1, True)


def test_wrong_use_is_refused(sidecar: Cli) -> None:
    """A ref or two positions, not both, not one."""
    versions(sidecar, b"one")
    for args in (
        (),
        ("--at", "1h"),
        ("rows/a", "--at", "1h", "--at", "2h"),
        ("--at", "x", "--at", "y"),
    ):
        assert sidecar("diff", *args).code == 2


def test_control_characters_of_an_artifact_stay_text(sidecar: Cli) -> None:
    """What is in an artifact cannot steer a terminal."""
    versions(sidecar, b"one\n", HOSTILE.encode())
    assert not set("\x1b\x07\u202e") & set(sidecar("diff", "rows/a").out)


def test_the_fleet_at_two_positions(sidecar: Cli) -> None:
    """What came and what changed between them; 0 where nothing did."""

    def activate(version: int) -> int:
        kind = ("--tenant", "t", "--type", "stack.activated", "--stack", "web")
        sidecar.bring(f"v{version}", f"stacks/{version}", b"data", *kind, "--version", str(version))
        sidecar.work()
        found: int = json.loads(sidecar.entries(NOTIFICATIONS)[-1]["event"])["control_version"]
        return found

    first = activate(1)
    versions(sidecar, b"row")
    last = activate(2)
    args = ("--at", str(first), "--at", str(last))
    ran = sidecar("diff", *args, "--json")
    assert ran.code == 1
    found: list[dict[str, Any]] = ran.objects()
    assert [(one["what"], one["name"], one["how"]) for one in found] == [
        ("stack", "t/web", "changed"), ("ref", "rows/a", "came"),
    ]  # fmt: skip
    assert (found[0]["old"]["version"], found[0]["new"]["version"]) == (1, 2)
    assert "@1 -> @2" in sidecar("diff", *args).out
    back = sidecar("diff", *args[2:], *args[:2], "--json").objects()
    assert [one["how"] for one in back] == ["changed", "went"]
    assert sidecar("diff", "--at", str(last), "--at", "0s").code == 0


def test_positions_of_which_a_part_has_expired(sidecar: Cli) -> None:
    """What is left is compared, and that something may lack is told."""
    versions(sidecar, b"one", b"two")
    sidecar.trim(NOTIFICATIONS, 1)
    ran = sidecar("diff", "--at", "1", "--at", "0s")
    assert (ran.code, "expired" in ran.err) == (3, True)


def test_versions_of_a_bundle(sidecar: Cli) -> None:
    """A bundle has what its events name, to be compared without the store."""
    versions(sidecar, b"one\n", b"two\n")
    path = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", path).code == 0
    ran = sidecar("diff", "rows/a", "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert (ran.code, "+two" in ran.out) == (1, True)
