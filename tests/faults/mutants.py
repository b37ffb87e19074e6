"""Broken copies of the product, each with one guarantee's mechanism taken out.

They show that the fire finds what it is for. A change that no longer fits is an error here: mend
the mutant with the code.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.zygote import REPOSITORY


class Mutant(NamedTuple):
    """One text replaced in one file."""

    file: str
    old: str
    new: str


MUTANTS: Final = {
    "publish before put": Mutant(
        "sidecar/pipeline.py",
        "                self._put(event, artifact, position)\n",
        "                import threading\n"
        "                data = artifact.readall()\n"
        "                put = (event.artifact_ref, data, artifact.manifest)\n"
        "                threading.Timer(0.02, self._fleet.put, put).start()\n",
    ),
    "acknowledge before publish": Mutant(
        "sidecar/relay.py",
        "        low = self._low_without(run)\n",
        "        low = self._low_without(run)\n"
        "        early = self._control.acknowledge([item.id for item in run])\n"
        "        self._tenure.pending -= early\n",
    ),
    "no deduplication": Mutant(
        "sidecar/redis/lua/publish.lua",
        "call('HSETNX', shard, id, content .. stamp) == 1",
        "call('HSET', shard, id, content .. stamp) >= 0",
    ),
    "no fence": Mutant(
        "sidecar/redis/lua/publish.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, 0} end\n",
        "",
    ),
    "no order": Mutant(
        "sidecar/relay.py",
        "                blocked.add(tenant)\n",
        "                pass\n",
    ),
    "pending entries forgotten": Mutant(
        "sidecar/tenure.py",
        "    scan: str | None = FIRST\n"
        '    """How far the pending list has been read back; None when that is done."""\n'
        "    everyone: bool = True\n",
        "    scan: str | None = None\n    everyone: bool = False\n",
    ),
}


def broken_copy(name: str, directory: Path) -> Path:
    """Copy the product into `directory`, broken in this way; return where it is."""
    mutant = MUTANTS[name]
    for package in ("sidecar", "store"):
        shutil.copytree(
            REPOSITORY / package, directory / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    file = directory / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has changed: mend the mutant {name!r}"
    file.write_text(text.replace(mutant.old, mutant.new))
    return directory
