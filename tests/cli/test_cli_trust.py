"""Keys by hand, a worker that signs, and `sidecar tail --verify`."""

from __future__ import annotations

import os
from pathlib import Path

import store
from tests.cli.harness import NOTIFICATIONS, Cli


def trusted(sidecar: Cli, directory: Path, name: str = "key") -> Path:
    """Make a key; return where it is. Its public half is in the directory `trust`."""
    made = sidecar("sign-key", "new", str(directory / name))
    assert made.code == 0, made.err
    assert len(made.out.strip()) == 16
    (directory / "trust").mkdir(exist_ok=True)
    (directory / f"{name}.pub").rename(directory / f"trust/{name}.pub")
    return directory / name


def test_what_a_worker_signs_tail_verifies(sidecar: Cli, tmp_path: Path) -> None:
    """From the key's making to the first notification that is not trusted."""
    key, trust = trusted(sidecar, tmp_path), str(tmp_path / "trust")
    sidecar.bring("e1", "keys/1", b"k", "--tenant", "t")
    sidecar.drain("--sign-key", str(key))
    assert sidecar("tail", "--verify", trust, "--resolve").code == 0
    sidecar.bring("e2", "keys/2", b"k", "--tenant", "t")
    sidecar.drain()
    ran = sidecar("tail", "--verify", trust, "--json")
    assert [one["event_id"] for one in ran.objects()] == ["e1"]
    assert ran.code == 1
    assert "is not trusted: it has no signature; --since" in ran.err
    since = ran.err.rpartition("--since ")[2].split()[0]
    sidecar.bring("e3", "keys/3", b"k", "--tenant", "t")
    sidecar.drain("--sign-key", str(key))
    ran = sidecar("tail", "--verify", trust, "--json", "--since", since)
    assert [one["event_id"] for one in ran.objects()] == ["e3"]
    assert ran.code == 0
    assert NOTIFICATIONS in sidecar("tail", "--verify", trust).err


def test_a_key_that_is_none_stops_a_worker_before_it_begins(sidecar: Cli, tmp_path: Path) -> None:
    """With one line that names option, file and fix; the worker publishes nothing unsigned."""
    key = trusted(sidecar, tmp_path)
    sidecar.bring("e1", "keys/1", b"k", "--tenant", "t")
    (tmp_path / "empty").touch(0o600)
    os.chmod(key, 0o644)
    for path, words in ((tmp_path / "none", "cannot be read"), (tmp_path / "empty", "is empty"),
                        (key, "chmod 600"), (tmp_path / "trust/key.pub", "public")):  # fmt: skip
        for command in ("run", "doctor", "config"):
            line = ["config", "show"] if command == "config" else [command]
            ran = sidecar(*line, "--sign-key", str(path))
            assert ran.code == 2, (command, path, ran.err)
            assert ran.err.count("\n") == 1
            assert ran.err.startswith("sidecar: --sign-key: ")
            assert words in ran.err
    assert sidecar.client.xlen(NOTIFICATIONS) == 0


def test_keys_are_not_overwritten(sidecar: Cli, tmp_path: Path) -> None:
    """The second time says so, and the first key stays."""
    key = trusted(sidecar, tmp_path)
    before = key.read_bytes()
    ran = sidecar("sign-key", "new", str(key))
    assert (ran.code, key.read_bytes()) == (2, before)
    assert "is there already" in ran.err


def test_a_directory_without_keys_is_refused(sidecar: Cli, tmp_path: Path) -> None:
    """As wrong usage: nothing is printed as if it were verified."""
    ran = sidecar("tail", "--verify", str(tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert "has 0 files that end in .pub or .pem" in ran.err


def test_an_audit_names_what_is_not_trusted(sidecar: Cli, tmp_path: Path) -> None:
    """Beside the guarantees, which an unsigned notification does not break; from --since on."""
    key, trust = trusted(sidecar, tmp_path), str(tmp_path / "trust")
    sidecar.bring("e1", "keys/1", b"k", "--tenant", "t")
    sidecar.drain("--sign-key", str(key))
    ran = sidecar("audit", "--verify", trust, "--json")
    assert (ran.code, ran.objects()[-1]["summary"]["culprits"]["signed"]) == (0, 0)
    sidecar.bring("e2", "keys/2", b"k", "--tenant", "t")
    sidecar.drain()
    assert sidecar("audit").code == 0
    ran = sidecar("audit", "--verify", trust, "--json")
    culprit, summary = ran.objects()
    assert ran.code == 1
    assert (culprit["guarantee"], culprit["problem"]) == ("signed", "untrusted")
    assert "it has no signature" in culprit["detail"]
    assert summary["summary"]["culprits"] == {"G1": 0, "G2": 0, "G3": 0, "G4": 0, "signed": 1}
    assert "broken: signed 1" in sidecar("audit", "--verify", trust).out
    ran = sidecar("audit", "--verify", trust, "--repair", "--reason", "test")
    assert ran.code == 1
    assert "nobody can sign it afterwards" in ran.out
    ms = int(culprit["notification"].partition("-")[0])
    assert "signed" not in sidecar("audit", "--verify", trust, "--since", str(ms + 10_000)).out


def test_a_bundle_is_verified(sidecar: Cli, tmp_path: Path) -> None:
    """What a notification was signed for goes with it: archive and bundle keep its bytes."""
    key, trust = trusted(sidecar, tmp_path), str(tmp_path / "trust")
    sidecar.bring("e1", "keys/1", b"k", "--tenant", "t")
    sidecar.drain("--sign-key", str(key))
    assert sidecar("archive").code == 0
    sidecar.client.delete(NOTIFICATIONS)
    signed, unsigned = str(tmp_path / "signed.zip"), str(tmp_path / "unsigned.zip")
    assert sidecar("replay", "export", signed).code == 0
    sidecar.bring("e2", "keys/2", b"k", "--tenant", "t")
    sidecar.drain()
    assert sidecar("replay", "export", unsigned).code == 0
    env = {"SIDECAR_REDIS": "", "SIDECAR_FLEET_STORE": ""}
    for command in (["show"], ["report", str(tmp_path / "report.html")]):
        line = ["replay", *command, "--verify", trust, "--bundle"]
        ran = sidecar(*line, signed, env=env)
        assert ran.code == 0, ran.err
        assert "1 notifications are signed by key" in ran.err
        ran = sidecar(*line, unsigned, env=env)
        assert ran.code == 1
        assert "is not trusted: it has no signature; 1 before it in the window are" in ran.err


def test_the_archive_tells_what_is_missing(sidecar: Cli) -> None:
    """`archive --check` writes nothing, and names the segment that tells it."""
    for number in range(3):
        sidecar.bring(f"e{number}", f"keys/{number}", b"k", "--tenant", "t")
        sidecar.drain()
        assert sidecar("archive").code == 0
    ran = sidecar("archive", "--check", "--json")
    assert ran.code == 0
    heads = {one["stream"]: one["head"] for one in ran.objects()}
    assert NOTIFICATIONS in heads
    url = (sidecar.directory / "data-dir/fleet").as_uri()
    fleet = store.versioned(store.open_url(url), store.Capability.DELETE)
    assert fleet
    name = NOTIFICATIONS.replace(":", "%3A")
    refs = sorted(fleet.list(f".sidecar/archive/{name}/{name}"))
    fleet.delete(refs[1])
    ran = sidecar("archive", "--check", "--json")
    assert ran.code == 1
    (fault,) = [one for one in ran.objects() if "kind" in one]
    assert (fault["kind"], fault["segment"]) == ("missing", refs[2])
    assert "missing" in sidecar("archive", "--check").out


def test_the_archive_tells_what_is_not_sealed(sidecar: Cli, tmp_path: Path) -> None:
    """Where a key is trusted: from the first segment on that it sealed, each has its seal."""
    key, trust = trusted(sidecar, tmp_path), str(tmp_path / "trust")
    for number, line in enumerate(([], ["--sign-key", str(key)], ["--sign-key", str(key)])):
        sidecar.bring(f"e{number}", f"keys/{number}", b"k", "--tenant", "t")
        sidecar.drain("--sign-key", str(key))
        assert sidecar("archive", *line).code == 0
        assert sidecar("archive", "--check", "--verify", trust).code == 0
    audit = ("audit", "--verify", trust, "--since", "1h")
    assert sidecar(*audit).code == 0
    assert sidecar("replay", "show", "--verify", trust).code == 0
    sidecar.bring("e3", "keys/3", b"k", "--tenant", "t")
    sidecar.drain("--sign-key", str(key))
    assert sidecar("archive").code == 0
    assert sidecar("archive", "--check").code == 0
    ran = sidecar("archive", "--check", "--verify", trust, "--json")
    assert ran.code == 1
    faults = [one for one in ran.objects() if "kind" in one]
    assert {one["kind"] for one in faults} == {"unsealed"}
    assert NOTIFICATIONS in {one["stream"] for one in faults}
    ran = sidecar(*audit, "--json")
    assert ran.code == 1
    culprit = ran.objects()[0]
    assert (culprit["guarantee"], culprit["problem"]) == ("signed", "archive")
    ran = sidecar("replay", "show", "--verify", trust)
    assert ran.code == 1
    assert "in the archive is not trusted: it has no seal" in ran.err
