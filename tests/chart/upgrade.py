"""What an upgrade of the chart must not change, since Kubernetes or KubeRay refuse it, or since it
would leave something behind: for each release of the chart a file in `releases/`.

`python -m tests.chart.upgrade` writes the file of the version in Chart.yaml, when it is released.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.chart import helm
from tests.chart.helm import CHART, Chart, Object

RELEASES = Path(__file__).with_name("releases")
PROFILE = "multi-tenant"
VALUES: dict[str, Any] = {
    "monitoring": {"podMonitor": False, "serviceMonitor": True},
    "priorityClass": {"create": True, "name": "high"},
}

# Of each kind the paths of what is not to change. The empty path: that the object is there.
FIXED: dict[str, list[str]] = {
    "RayService": [
        "",
        "spec.rayClusterConfig.gcsFaultToleranceOptions.redisAddress",
        "spec.rayClusterConfig.authOptions.secretName",
        "spec.managedBy",
    ],
    "PersistentVolumeClaim": ["", "spec.accessModes", "spec.storageClassName", "spec.volumeName"],
    "Service": ["", "spec.clusterIP", "spec.selector", "spec.type"],
    "PodDisruptionBudget": ["spec.selector"],
    "Job": ["", "metadata.annotations"],
    "PriorityClass": ["value", "preemptionPolicy"],
    "ServiceAccount": [""],
    "ExternalSecret": ["spec.target"],
    "HTTPRoute": ["", "spec.rules"],
    "NetworkPolicy": ["spec.podSelector"],
}


def fixed(objects: list[Object]) -> dict[str, Any]:
    """`Kind/name path` of each field that may not change, and its value (null: it is not set)."""
    return {
        f"{each['kind']}/{each['metadata']['name']} {path}".strip(): at(each, path)
        for each in objects
        for path in FIXED.get(each["kind"], [])
    }


def at(value: Any, path: str) -> Any:
    if not path:
        return "here"
    for key in path.split("."):
        value = (value or {}).get(key)
    return value


def render(chart: Chart) -> dict[str, Any]:
    return fixed(chart.render(VALUES, PROFILE))


def main() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    file = RELEASES / f"{version}.yaml"
    if file.exists():
        raise SystemExit(f"{version} is released: what it fixed stays")
    file.write_text(yaml.safe_dump(render(Chart(helm.binary(4), CHART))))


if __name__ == "__main__":
    main()
