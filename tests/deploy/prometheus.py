"""Debian's Prometheus, run against workers that a test runs: what it scrapes, and what fires."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.harness import DEPLOY
from tests.servers import free_port, started

RULES: Final = DEPLOY / "prometheus/rules.yml"
DASHBOARD: Final = DEPLOY / "grafana/sidecar.json"
PATIENCE_S: Final = 240.0
SCRAPE: Final = "1s"
STARTING: Final = 503


def tool(name: str) -> str:
    """Find a program of Debian's package prometheus; without it, skip, and fail in CI."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return str(found)


def rules() -> list[dict[str, Any]]:
    """Return the rules that are shipped."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found


def queries() -> list[str]:
    """Return the queries of the dashboard's panels, with its variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [one.replace("$__rate_interval", "20s").replace("$stream", ".*") for one in found]


def hurried(text: str) -> str:
    """Return the rules with minutes made seconds: windows, waits, and what is told in `* 60`."""
    text = re.sub(r"(for: |\[|offset )(\d+)m\b", r"\g<1>\g<2>s", text)
    text = re.sub(r"(for: |\[|offset )(\d+)h\b", r"\g<1>\g<2>m", text)
    return text.replace(" * 60", "")


class NoAnswer(Exception):
    """It starts, or stands still: nothing is known of what fires."""


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the samples that an expression has now; raises `NoAnswer` if nobody answers."""
        url = f"{self._url}/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == STARTING:
                raise NoAnswer from error
            raise AssertionError(f"{expr}: {error.read().decode()}") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer from error
        return found

    def firing(self, since_s: float = 0) -> set[str]:
        """Return which alerts fire, or did in the last seconds."""
        asked = 'ALERTS{alertstate="firing"}'
        found = self.query(f"max_over_time({asked}[{since_s:.0f}s])" if since_s else asked)
        return {one["metric"]["alertname"] for one in found}

    def has_looked(self) -> bool:
        """Tell whether it scraped a worker that has gathered, and evaluated rules."""
        return bool(self.query("sidecar_lag_entries"))

    def wait_for(self, holds: Callable[[], object], what: str) -> None:
        """Wait until `holds()` is true: at last, however long the machine stood still before."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers(holds):
            assert time.monotonic() < deadline, f"{what}; firing: {self.firing()}"
            time.sleep(0.1)

    @staticmethod
    def _answers(holds: Callable[[], object]) -> bool:
        try:
            return bool(holds())
        except NoAnswer:
            return False


@contextmanager
def watching(where: Path, worker_port: int, *, hurry: bool = True) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes one worker, with the shipped rules, hurried or as they are."""
    text = RULES.read_text()
    (where / "rules.yml").write_text(hurried(text) if hurry else text)
    config = {
        "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE,
                   "evaluation_interval": SCRAPE},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{
            "job_name": "sidecar", "scrape_timeout": SCRAPE,
            "static_configs": [{"targets": [f"127.0.0.1:{worker_port}"]}],
        }],
    }  # fmt: skip
    (where / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        tool("prometheus"), f"--config.file={where}/prometheus.yml",
        f"--storage.tsdb.path={where}/data", f"--web.listen-address=127.0.0.1:{port}",
        "--query.lookback-delta=5s", "--log.level=error",
    ]  # fmt: skip
    with started(*command, stderr=subprocess.DEVNULL) as process:
        try:
            yield Prometheus(port)
        finally:
            process.terminate()
