"""Prints the software bill of materials, CycloneDX 1.6: what `run.txt` pins, with its hashes.

The same for the same pins, on any machine: it has no time and no random number.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; (.+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_BUILD_ONLY = {"hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers"}
"""What installs the package and is not in it; `lock` pins it beside the rest."""


def components(pins: str) -> Iterator[dict[str, Any]]:
    """Yield what a requirements file pins. Raises `ValueError` for what is not pinned by hashes."""
    for requirement in pins.replace("\\\n", " ").splitlines():
        if not requirement.strip() or requirement.startswith("#"):
            continue
        pin, *_ = (part.strip() for part in requirement.split(" --hash", 1))
        found, hashes = _PIN.fullmatch(pin), _HASH.findall(requirement)
        if not (found and hashes):
            raise ValueError(f"not pinned by a hash: {pin}")
        name, version, marker = found.groups()
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
        yield {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "scope": "excluded" if name in _BUILD_ONLY else "optional" if marker else "required",
            "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
            **({"properties": [{"name": "python:marker", "value": marker}]} if marker else {}),
        }  # fmt: skip


def bill(pins: str, project: dict[str, Any]) -> dict[str, Any]:
    """Return the bill of a project, as `pyproject.toml` describes it, that needs these pins."""
    found = list(components(pins))
    purl = f"pkg:pypi/{project['name']}@{project['version']}"
    serial = uuid.uuid5(uuid.NAMESPACE_URL, purl + json.dumps(found))
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": serial.urn, "version": 1,
        "metadata": {"component": {
            "type": "application", "bom-ref": purl, "name": project["name"],
            "version": project["version"], "purl": purl,
            "licenses": [{"license": {"id": project["license"]}}],
        }},
        "components": found,
        "dependencies": [{"ref": purl, "dependsOn": [one["bom-ref"] for one in found]}],
    }  # fmt: skip


def read() -> dict[str, Any]:
    """Return the bill of this repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return bill((ROOT / "requirements" / "run.txt").read_text(encoding="utf-8"), project)


if __name__ == "__main__":
    json.dump(read(), sys.stdout, indent=1)
    sys.stdout.write("\n")
