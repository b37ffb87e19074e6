"""Broken copies of the product, each with one guarantee's mechanism taken out.

They show that the fire finds what it is for. A change that no longer fits is an error here: fix
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
        "sidecar/worker/pipeline.py",
        "            self._put(event, artifact, position)\n",
        "            import threading\n"
        "            data = artifact.readall()\n"
        "            put = (event.artifact_ref, data, artifact.manifest)\n"
        "            threading.Timer(0.5, self._fleet.put, put).start()\n",
    ),
    "acknowledge before publish": Mutant(
        "sidecar/worker/relay.py",
        "            self._committing.begin(run, self._low_without(run.events))\n",
        "            low = self._low_without(run.events)\n"
        "            self._reading.acknowledge([item.id for item in run.events])\n"
        "            self._committing.begin(run, low)\n",
    ),
    "no deduplication": Mutant(
        "sidecar/redis/lua/publish.lua",
        "call('HSETNX', shard, id, content .. stamp) == 1",
        "call('HSET', shard, id, content .. stamp) >= 0",
    ),
    "no fence": Mutant(
        "sidecar/redis/lua/publish.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, 0, ''} end\n",
        "",
    ),
    "no order": Mutant(
        "sidecar/worker/window.py",
        "                blocked.add(tenant)\n",
        "                pass\n",
    ),
    "pending entries forgotten": Mutant(
        "sidecar/worker/reading.py",
        "        self._scan: EntryId | None = FIRST\n"
        '        """How far the pending list has been read back; None when that is done."""\n'
        "        self.everyone = True\n",
        "        self._scan: EntryId | None = None\n        self.everyone = False\n",
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
    assert text.count(mutant.old) == 1, f"{mutant.file} has changed: fix the mutant {name!r}"
    file.write_text(text.replace(mutant.old, mutant.new))
    return directory
