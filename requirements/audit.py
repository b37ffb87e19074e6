"""Asks the OSV database which known vulnerabilities the pinned dependencies have.

Exit code 0: none is known. 1: some are, each on a line. 4: the database cannot be asked, so nothing
is known. `OSV_URL` names another server of the same interface.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

from sbom import read

URL = os.environ.get("OSV_URL", "https://api.osv.dev") + "/v1/querybatch"
TIMEOUT_S = 30


def asked(purls: list[str]) -> list[dict[str, Any]]:
    """Return what the database says of each. Raises `OSError`, or `ValueError` for no answer."""
    body = json.dumps({"queries": [{"package": {"purl": purl}} for purl in purls]}).encode()
    request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 -- ours
        found = json.load(answer)
    results = found.get("results") if isinstance(found, dict) else None
    if not isinstance(results, list) or len(results) != len(purls):
        raise ValueError("its answer is none")
    return [one or {} for one in results]


def main() -> int:
    """Ask, and print what is known; return the exit code."""
    purls = [one["purl"] for one in read()["components"]]
    try:
        results = asked(purls)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot ask {URL}: {error}. Nothing is known of {len(purls)} packages\n")
        return 4
    known = [
        f"{purl} {one['id']}"
        for purl, result in zip(purls, results, strict=True)
        for one in result.get("vulns", ())
    ]
    sys.stdout.write("".join(f"{line}\n" for line in known))
    sys.stderr.write(f"{len(known)} known vulnerabilities in {len(purls)} packages\n")
    return int(bool(known))


if __name__ == "__main__":
    sys.exit(main())
