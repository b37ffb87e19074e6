"""The Grafana dashboard: `python -m tests.dashboard` writes it, a test compares it.

Panels are dull to write by hand, and easy to let drift from the catalogue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
DASHBOARD: Final = ROOT / "deploy/grafana/sidecar.json"
WIDTH: Final = 24
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_STREAM: Final = 'stream=~"$stream"'
_STREAMS: Final = "max by (stream)"
_RATE: Final = "[$__rate_interval]"
_OURS: Final = " and on (job, instance) sidecar_build_info"

Target = tuple[str, str]
"""An expression, and what its series are called."""


def _timeseries(title: str, unit: str, *targets: Target) -> dict[str, Any]:
    return {
        "type": "timeseries", "title": title, "targets": _targets(targets),
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
    }  # fmt: skip


def _stat(title: str, unit: str, *targets: Target) -> dict[str, Any]:
    return _timeseries(title, unit, *targets) | {"type": "stat"}


def _heatmap(title: str, expr: str) -> dict[str, Any]:
    (target,) = _targets([(expr, "{{le}}")])
    return {
        "type": "heatmap", "title": title, "targets": [target | {"format": "heatmap"}],
        "options": {"calculate": False, "yAxis": {"unit": "s"}},
    }  # fmt: skip


def _targets(targets: Any) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + number), "expr": expr, "legendFormat": legend,
         "datasource": _SOURCE}
        for number, (expr, legend) in enumerate(targets)
    ]  # fmt: skip


def _quantile(part: float, metric: str, by: str) -> str:
    return f"histogram_quantile({part}, sum by ({by}) (rate({metric}_bucket{{{_STREAM}}}{_RATE})))"


_DELIVERY: Final = "sidecar_delivery_duration_seconds"
ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    "What is going on": [
        _stat("State", "none", (f"max by (stream, state) (sidecar_state{{{_STREAM}}}) == 1",
                                "{{stream}}: {{state}}")),
        _stat("Owners", "none", (f"sum by (stream) (sidecar_owner{{{_STREAM}}})", "{{stream}}")),
        _timeseries("Entries a second, by outcome", "ops",
                    (f"sum by (outcome) (rate(sidecar_entries_finished_total{{{_STREAM}}}{_RATE}))",
                     "{{outcome}}")),
    ],
    "Lag": [
        _timeseries("Lag", "none",
                    (f"{_STREAMS} (sidecar_lag_entries{{{_STREAM}}})", "{{stream}} unread"),
                    (f"{_STREAMS} (sidecar_pending_entries{{{_STREAM}}})", "{{stream}} pending")),
        _timeseries("Age of the oldest entry", "s",
                    (f"{_STREAMS} (sidecar_unread_age_seconds{{{_STREAM}}})", "{{stream}} unread"),
                    (f"{_STREAMS} (sidecar_pending_age_seconds{{{_STREAM}}})",
                     "{{stream}} pending")),
        _timeseries("Tenants held back", "none",
                    (f"{_STREAMS} (sidecar_held_tenants{{{_STREAM}}})", "{{stream}}")),
    ],
    "Latency": [
        _heatmap("From entry to notification",
                 f"sum by (le) (increase({_DELIVERY}_bucket{{{_STREAM}}}{_RATE}))"),
        _timeseries("From entry to notification", "s",
                    (_quantile(0.5, _DELIVERY, "le"), "median"),
                    (_quantile(0.99, _DELIVERY, "le"), "p99")),
        _timeseries("By stage, p99", "s",
                    (_quantile(0.99, "sidecar_stage_duration_seconds", "le, stage"), "{{stage}}")),
    ],
    "Dead letters": [
        _timeseries("New dead letters, by reason", "none",
                    (f"sum by (reason) (increase(sidecar_dead_letters_total{{{_STREAM}}}{_RATE}))",
                     "{{reason}}")),
        _timeseries("Dead letters now", "none",
                    (f'{_STREAMS} (sidecar_stream_entries{{kind="dead"}})', "{{stream}}")),
        _timeseries("Failed attempts, by error", "ops",
                    (f"sum by (error_type) (rate(sidecar_retries_total{{{_STREAM}}}{_RATE}))",
                     "{{error_type}}")),
    ],
    "Stores": [
        _timeseries("Free, bytes", "percentunit",
                    ("min by (store) (sidecar_store_free_bytes / sidecar_store_size_bytes)",
                     "{{store}}")),
        _timeseries("Free, inodes", "percentunit",
                    ("min by (store) (sidecar_store_free_inodes / sidecar_store_inodes)",
                     "{{store}}")),
        _timeseries("A day adds, for ever", "bytes",
                    ("max by (store) (sidecar_store_added_bytes_per_day)", "{{store}}")),
        _timeseries("Archive behind", "s",
                    (f"{_STREAMS} (sidecar_archive_lag_seconds)", "{{stream}}")),
    ],
    "Redis": [
        _timeseries("Memory", "bytes",
                    ("max by (server) (sidecar_redis_memory_used_bytes)", "{{server}} used"),
                    ("max by (server) (sidecar_redis_memory_max_bytes)", "{{server}} limit")),
        _timeseries("Memory, by part", "bytes",
                    ("max by (part) (sidecar_redis_memory_part_bytes)", "{{part}}")),
        _timeseries("Entries in the streams", "none",
                    ("max by (stream, kind) (sidecar_stream_entries)", "{{stream}}")),
        _timeseries("Clock less the worker's", "s",
                    ("avg by (server) (sidecar_redis_clock_skew_seconds)", "{{server}}")),
    ],
    "Readers": [
        _timeseries("Behind, entries", "none",
                    ("max by (reader) (sidecar_reader_lag_entries)", "{{reader}}")),
        _timeseries("Behind, seconds", "s",
                    ("max by (reader) (sidecar_reader_lag_seconds)", "{{reader}}")),
        _timeseries("Readers", "none", ("max by (state) (sidecar_readers)", "{{state}}")),
    ],
    "Workers": [
        _timeseries("Memory", "bytes",
                    (f"process_resident_memory_bytes{_OURS}", "{{instance}}")),
        _timeseries("Processor", "percentunit",
                    (f"rate(process_cpu_seconds_total{_RATE}){_OURS}", "{{instance}}")),
        _timeseries("Work beside relaying that fails", "none",
                    ("sum by (work) (sidecar_background_failing)", "{{work}}")),
    ],
}  # fmt: skip


def dashboard() -> str:
    """Return deploy/grafana/sidecar.json."""
    found = {
        "title": "artifact-sidecar", "uid": "artifact-sidecar", "schemaVersion": 38,
        "time": {"from": "now-3h", "to": "now"}, "refresh": "30s", "editable": True,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {"name": "stream", "type": "query", "datasource": _SOURCE, "multi": True,
             "includeAll": True, "query": "label_values(sidecar_owner, stream)", "refresh": 2,
             "current": {"text": "All", "value": "$__all"}},
        ]},
        "panels": _panels(),
    }  # fmt: skip
    return json.dumps(found, indent=1) + "\n"


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    for row, (title, members) in enumerate(ROWS.items()):
        y, width = row * 9, WIDTH // len(members)
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})  # fmt: skip
        panels += [
            one | {"datasource": _SOURCE,
                   "gridPos": {"x": number * width, "y": y + 1, "w": width, "h": 8}}
            for number, one in enumerate(members)
        ]  # fmt: skip
    return [one | {"id": number} for number, one in enumerate(panels, start=1)]


if __name__ == "__main__":
    DASHBOARD.write_text(dashboard())
