"""The Containerfile, built without a registry and run as its user.

Its instructions run one by one, as written, in an overlay over this machine's own root, in place
of the layers of `python:3.13-slim`. So this shows that the steps work, that the hashed requirements
and the wheel are all that the worker needs, and that it runs as the user, on a root that is
read-only. It shows nothing of the base image (its Python, its libraries, their flaws), nor of a
builder's cache.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests import servers
from tests.deploy.harness import DEPLOY

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT: Final = DEPLOY.parent
PYTHON: Final = Path(sys.base_prefix) / "bin"
BASE: Final = """
base() {  # NAME: what FROM begins with
    mkdir "$1" "$1/upper" "$1/work" "$1/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
    mount --bind /dev "$1/root/dev" && mount --bind /proc "$1/root/proc"
    chmod 711 "$1/root/root"  # where a Python may lie
}
within() {  # NAME DIRECTORY USER ENVIRONMENT… -- COMMAND…
    chroot --userspec="$3" "$1/root" env --ignore-environment --chdir="$2" "${@:4}"
}
"""


@dataclass
class Stage:
    """A stage of the Containerfile: the shell commands that it is, and what they leave set."""

    name: str
    directory: str = "/"
    user: str = "0:0"
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": f"{PYTHON}:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    lines: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    """ENTRYPOINT and CMD."""

    def within(self, *command: str, **more: str) -> str:
        """Return the line that runs a command in it."""
        environment = [f"{name}={value}" for name, value in (self.environment | more).items()]
        return shlex.join(["within", self.name, self.directory, self.user, *environment, *command])

    def take(self, word: str, rest: str) -> None:
        """Take an instruction."""
        if word == "RUN":
            self.lines.append(self.within("sh", "-c", rest))
        elif word == "COPY":
            self._copy(rest.split())
        elif word == "WORKDIR":
            self.directory = rest
            self.lines.append(f"mkdir -p {self.name}/root{rest}")
        elif word == "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(rest))
            path = self.environment["PATH"]
            self.environment |= {name: value.replace("$PATH", path) for name, value in pairs}
        elif word == "USER":
            self.user = rest
        elif word in ("ENTRYPOINT", "CMD"):
            self.start += json.loads(rest)
        else:
            assert word in ("LABEL", "STOPSIGNAL"), word

    def _copy(self, words: list[str]) -> None:
        source = "context"
        if words[0].startswith("--from="):
            source = words.pop(0).removeprefix("--from=") + "/root"
        *names, to = words
        to = to if to.startswith("/") else f"{self.directory}/{to}"
        if to.endswith("/"):
            self.lines.append(f"mkdir -p {self.name}/root{to}")
        self.lines += [f"cp -aT {source}/{name} {self.name}/root{_target(name, to)}"
                       for name in names]  # fmt: skip


def _target(name: str, to: str) -> str:
    return to + Path(name).name if to.endswith("/") else to


def _stages() -> list[Stage]:
    found: list[Stage] = []
    for word, rest in _instructions():
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            found.append(Stage(name, lines=[f"base {name}"]))
        else:
            found[-1].take(word, rest)
    return found


def _instructions() -> Iterator[tuple[str, str]]:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    kept = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        yield word, rest


def _context(to: Path) -> None:
    """Copy what the Containerfile copies; `Containerfile.dockerignore` lets in no more."""
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in ("sidecar", "store"):
        shutil.copytree(ROOT / name, to / name, ignore=leave_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements/run.txt"):
        (to / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, to / name)


def _script(stages: list[Stage], environment: dict[str, str], then: list[list[str]]) -> str:
    """Return a script that builds the stages, and runs commands in the last one."""
    last = stages[-1]
    lines = ["set -e", "mkdir image", "mount -t tmpfs tmpfs image", "cp -a context image/",
             "cd image", BASE, *(line for stage in stages for line in stage.lines)]  # fmt: skip
    volumes = [f"{last.name}/root/var/lib/sidecar/{one}" for one in ("source", "fleet")]
    lines += [f"mount -t tmpfs -o uid=10001,gid=10001,mode=750 tmpfs {one}" for one in volumes]
    lines += [f"mount -o remount,ro {last.name}/root"]
    lines += [
        f"echo '#'; {last.within(*command, **environment)} || echo exit $?" for command in then
    ]
    return "\n".join(lines)


def test_the_image_is_built_and_runs(redis_url: str, client: Any, tmp_path: Path) -> None:
    """Built by its own steps, it relays an event as its user, and installs and writes nothing."""
    if os.getuid() != 0:
        servers.missing("root, to build an image,")
    _context(tmp_path / "context")
    stages = _stages()
    environment = {
        "SIDECAR_REDIS": redis_url, "SIDECAR_SOURCE_STORE": "file:///var/lib/sidecar/source",
        "SIDECAR_FLEET_STORE": "file:///var/lib/sidecar/fleet",
    }  # fmt: skip
    event = ["--type", "key.changed", "--ref", "a", "--data", "/etc/os-release"]
    ran = subprocess.run(
        ["unshare", "--mount", "bash", "-c", _script(stages, environment, [
            ["python", "-c", "import os, sidecar, store; print(os.getuid(), sidecar.__file__)"],
            ["sidecar", "--version"],
            ["sidecar", "emit", *event],
            [*stages[-1].start, "--drain"],
            ["sidecar", "tail", "-n", "1", "--resolve"],
            ["touch", "/opt/sidecar/x"],
            ["python", "-m", "pip", "--version"],
        ])],
        check=False, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    who, version, emitted, drained, tailed, touched, pip = ran.stdout.split("#\n")[1:]
    assert who.startswith("10001 /opt/sidecar/lib/")
    assert version.startswith("sidecar 0.")
    assert json.loads(emitted)["artifact_ref"] == "a"
    assert "exit" not in drained
    assert "ok" in tailed
    assert touched == pip == "exit 1\n"
    assert client.xlen("control:notifications") == 1
