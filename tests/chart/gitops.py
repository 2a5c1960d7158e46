"""deploy/gitops: manifests for who applies files; `python -m tests.chart.gitops` writes them anew.

The chart's objects as `helm template` has them, without the pods of `helm test`. Secrets come from
elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.chart import helm
from tests.chart.helm import CHART, Chart, Object

FOLDER = CHART.parents[1] / "deploy" / "gitops"
HEADER = """\
# From helm/llama-vision with values-{}.yaml: `make gitops`. Do not edit; what you change goes into
# values of your own, or into a patch (kustomize).
"""
VALUES: dict[str, Any] = {"image": {"digest": "sha256:" + "0" * 64}}
"""Whoever applies them puts the digest of his image there."""


def objects(chart: Chart, profile: str) -> list[Object]:
    """What is applied, and the migration, which Argo CD runs as a hook of its own."""
    tests = ("helm.sh/hook", "test")
    return [
        each
        for each in chart.render(VALUES, profile)
        if tests not in each["metadata"].get("annotations", {}).items()
    ]


def text(chart: Chart, profile: str) -> str:
    return HEADER.format(profile) + yaml.safe_dump_all(objects(chart, profile), sort_keys=False)


def write(chart: Chart, folder: Path = FOLDER) -> None:
    """One file a profile that is there: a new file is made by making an empty one."""
    for file in folder.glob("*.yaml"):
        file.write_text(text(chart, file.stem))


if __name__ == "__main__":
    write(Chart(helm.binary(4), CHART))
