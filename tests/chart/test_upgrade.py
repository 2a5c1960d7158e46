"""From each released version of the chart to this one; and the manifests rendered from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.chart import gitops, upgrade
from tests.chart.helm import CHART, Chart, of_kind

RELEASED = sorted(upgrade.RELEASES.glob("*.yaml"))
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


def test_there_is_a_release_to_upgrade_from() -> None:
    assert RELEASED
    assert VERSION not in {each.stem for each in RELEASED[:-1]}


@pytest.mark.parametrize("release", RELEASED, ids=lambda each: each.stem)
def test_an_upgrade_leaves_what_cannot_change(chart: Chart, release: Path) -> None:
    before, now = yaml.safe_load(release.read_text()), upgrade.render(chart)
    assert {name: now.get(name, "gone") for name in before} == before


def test_a_change_that_kubernetes_refuses_is_seen(chart: Chart) -> None:
    objects = chart.render(upgrade.VALUES, upgrade.PROFILE)
    (claim,) = of_kind(objects, "PersistentVolumeClaim")
    before = upgrade.fixed(objects)
    claim["spec"]["accessModes"] = ["ReadWriteOnce"]
    changed = {name for name, value in upgrade.fixed(objects).items() if before[name] != value}
    assert changed == {"PersistentVolumeClaim/demo-state spec.accessModes"}


def test_the_manifests_are_those_of_the_chart(chart: Chart, chart3: Chart) -> None:
    """`make gitops` brings them up to date."""
    files = sorted(gitops.FOLDER.glob("*.yaml"))
    assert files
    for file in files:
        assert file.read_text() == gitops.text(chart, file.stem)
        assert gitops.objects(chart3, file.stem) == gitops.objects(chart, file.stem)
        kinds = {each["kind"] for each in yaml.safe_load_all(file.read_text())}
        assert "RayService" in kinds
        assert "Secret" not in kinds
