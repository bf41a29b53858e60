"""``python -m serve_app.telemetry.dashboards.grafana``: write ``imagine.json`` from the panels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve_app.telemetry.dashboards.panels import ROWS, Panel

FOLDER = Path(__file__).parent
FILE = FOLDER / "imagine.json"
_WIDTH, _HEIGHT, _ACROSS = 8, 7, 3


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; the data source is a variable."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            }
        )
        for index, panel in enumerate(row):
            place = {
                "x": index % _ACROSS * _WIDTH,
                "y": top + 1 + index // _ACROSS * _HEIGHT,
                "w": _WIDTH,
                "h": _HEIGHT,
            }
            panels.append(_panel(len(panels) + 1, panel, place))
        top += 1 + -(-len(row) // _ACROSS) * _HEIGHT
    return {
        "uid": "imagine-serve",
        "title": "Imagine",
        "tags": ["imagine", "ray"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "label": "Data source",
                }
            ]
        },
        "panels": panels,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"spanNulls": False}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(65 + index), "expr": query, "legendFormat": legend, "datasource": source}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
