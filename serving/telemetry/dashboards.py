"""Grafana's dashboards, from the vocabulary: `python -m serving.telemetry.dashboards FOLDER`.

The JSON is Grafana's schema 39 (version 11).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from serving.telemetry import panels
from serving.telemetry import vocabulary as words
from serving.telemetry.panels import Panel

_WIDTH, _HEIGHT = 12, 8  # of a panel, two in a row of 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

DASHBOARDS = {
    "users": ("Serving: what users get", panels.USERS),
    "engine": ("Serving: engines", panels.ENGINE),
    "tenants": ("Serving: accounts and cost", panels.TENANTS),
    "capacity": ("Serving: capacity", panels.CAPACITY),
}
"""Title and panels by the name of the file."""


def dashboard(name: str) -> dict[str, Any]:
    """One of `DASHBOARDS` as Grafana imports it."""
    title, shown = DASHBOARDS[name]
    return {
        "uid": f"serving-{name}",
        "title": title,
        "tags": ["serving"],
        "schemaVersion": 39,
        "editable": True,
        "timezone": "",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _choice("job"), _choice("namespace")]},
        "panels": [_panel(panel, number) for number, panel in enumerate(shown)],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _choice(label: str) -> dict[str, Any]:
    query = f"label_values({words.UP.name}, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    row, column = divmod(number, 24 // _WIDTH)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expr}
            | {"legendFormat": legend}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def write(folder: Path) -> None:
    """All of them, a file each."""
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(json.dumps(dashboard(name), indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
