"""The Grafana dashboard: made from code, and asks for what there is. Its data: test_alerts_live."""

from __future__ import annotations

import json
import re

from sidecar.telemetry import catalogue
from tests.dashboard import dashboard
from tests.deploy.prometheus import DASHBOARD, queries


def test_the_dashboard_is_made_from_code() -> None:
    """deploy/grafana/sidecar.json is what `make pages` makes."""
    assert DASHBOARD.read_text() == dashboard(), "run `make pages`"


def test_panels_ask_for_what_there_is() -> None:
    """Each panel's metrics are in the catalogue."""
    known = {one.name for one in catalogue.ALL}
    asked = {name for one in queries() for name in re.findall(r"(?:sidecar|process)_\w+", one)}
    assert {re.sub("_bucket$", "", name) for name in asked} <= known
    assert len(queries()) > 20


def test_panels_do_not_overlap() -> None:
    """Each panel has an id and a place of its own."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken = [(x, y) for one in panels for grid in [one["gridPos"]]
             for x in range(grid["x"], grid["x"] + grid["w"])
             for y in range(grid["y"], grid["y"] + grid["h"])]  # fmt: skip
    assert len(set(taken)) == len(taken)
