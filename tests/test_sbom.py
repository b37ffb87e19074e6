"""The bill of materials, and the question whether what is in it is known to be vulnerable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def ran(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script of requirements/."""
    return subprocess.run(
        [sys.executable, ROOT / "requirements" / script],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@contextmanager
def database(vulnerable: str) -> Iterator[str]:
    """Serve the database's interface, in which one package is vulnerable; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            purls = [one["package"]["purl"] for one in asked]
            found: list[dict[str, Any]] = [
                {"vulns": [{"id": "OSV-1"}]} if vulnerable and vulnerable in purl else {}
                for purl in purls
            ]
            raw = json.dumps({"results": found}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as above
            """Take no notice."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


def test_the_bill_names_every_pin_with_its_hashes() -> None:
    """Each package of run.txt is in it once, with all its hashes; it is the same each time."""
    done = ran("sbom.py")
    assert done.returncode == 0, done.stderr
    bill = json.loads(done.stdout)
    pins = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert len(bill["components"]) == pins.count("==") - pins.count("== '")
    assert sum(len(one["hashes"]) for one in bill["components"]) == pins.count("--hash=")
    redis = next(one for one in bill["components"] if one["name"] == "redis")
    assert redis["purl"] == f"pkg:pypi/redis@{redis['version']}"
    assert redis["scope"] == "required"
    assert ran("sbom.py").stdout == done.stdout


def test_what_is_vulnerable_is_named() -> None:
    """A known vulnerability is a line and exit code 1; none is 0."""
    with database("pkg:pypi/redis@") as url:
        done = ran("audit.py", OSV_URL=url)
    assert done.returncode == 1
    assert done.stdout.startswith("pkg:pypi/redis@")
    assert done.stdout.endswith(" OSV-1\n")
    with database("") as url:
        assert ran("audit.py", OSV_URL=url).returncode == 0


def test_a_database_that_cannot_be_asked_is_said_to_be_away() -> None:
    """Then nothing is known, which is not the same as that nothing is wrong."""
    done = ran("audit.py", OSV_URL="http://127.0.0.1:1")
    assert done.returncode == 4
    assert "Nothing is known" in done.stderr
