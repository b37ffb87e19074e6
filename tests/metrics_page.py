"""The page of all metrics: `python -m tests.metrics_page` writes it, a test compares it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.telemetry import catalogue
from sidecar.telemetry.catalogue import Meter

ROOT: Final = Path(__file__).parents[1]
_HEAD: Final = """\
# Metrics

Made by `make pages` from `sidecar/telemetry/catalogue.py`; change it there.

`sidecar run --http HOST:PORT` serves these at `/metrics`, in Prometheus's text format. A scrape
asks nobody: what comes from Redis or a disk is gathered every 5 s in a thread of its own. What is
unknown is absent, and never 0; all else is there from the start. No label has a tenant, a ref or
an event_id.

Each worker shows what it sees. Of one deployment take the highest (`max by (stream)`) of what is
gathered from outside, and the sum of what is counted, as
[the alerts](../deploy/prometheus/rules.yml) do. [The runbook](runbook.md) says what to do about
each of them, and [the dashboard](../deploy/grafana/sidecar.json) shows the rest.
[0029](decisions/0029-metrics.md) says why it is all so.
"""
_SECTIONS: Final = (
    ("Counted by the worker", catalogue.COUNTED),
    ("Gathered from Redis and from disks", catalogue.FROM_OUTSIDE),
    ("Of the process", catalogue.PROCESS),
)


def metrics_page() -> str:
    """Return docs/metrics.md."""
    return _HEAD + "".join(_section(title, meters) for title, meters in _SECTIONS)


def _section(title: str, meters: tuple[Meter, ...]) -> str:
    head = "| metric | kind | labels | meaning | what to do |\n| --- | --- | --- | --- | --- |\n"
    return f"\n## {title}\n\n{head}" + "".join(map(_row, meters))


def _row(meter: Meter) -> str:
    labels = ", ".join(f"`{one}`" for one in meter.labels) or "none"
    meaning = meter.meaning + (f" OpenTelemetry: {meter.otel}." if meter.otel else "")
    return f"| `{meter.name}` | {meter.kind.value} | {labels} | {meaning} | {meter.action} |\n"


if __name__ == "__main__":
    (ROOT / "docs/metrics.md").write_text(metrics_page())
