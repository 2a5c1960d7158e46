"""Every profile and option renders to objects that Kubernetes and the operators know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.config import AutoscalingConfig

from serving.cluster import scaling
from tests.chart.fields import FIELDS, wrong
from tests.chart.helm import CHART, PROFILES, Chart, Object, of_kind, pods, ray
from tests.chart.options import OPTIONS
from tests.chart.values_table import README, readme, rows

MINORS = ("1.34", "1.35", "1.36", "1.37")

CASES = [(profile, {}) for profile in PROFILES] + [("cpu-demo", each) for each in OPTIONS.values()]
IDS = [*PROFILES, *OPTIONS]


def assert_valid(objects: list[Object], minors: tuple[str, ...]) -> None:
    for each in [*objects, *pods(objects).values(), *inside(ray(objects))]:
        if each["kind"] in FIELDS:
            assert not wrong(each["spec"], FIELDS[each["kind"]])
            continue
        for minor in minors:
            kubernetes_validate.validate(each, minor, strict=True)


def inside(spec: Object) -> Iterator[Object]:
    """Kubernetes' own types in a RayService that are no pods, as objects of their own."""
    if service := spec.get("serveService"):
        yield {"apiVersion": "v1", "kind": "Service", **service}
    if scaler := spec["rayClusterConfig"].get("autoscalerOptions"):
        theirs = ("imagePullPolicy", "env", "resources", "securityContext", "volumeMounts")
        container = {"name": "autoscaler", "image": "x"} | {key: scaler[key] for key in theirs}
        pod = {"containers": [container]}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}


@pytest.mark.parametrize(("profile", "values"), CASES, ids=IDS)
def test_objects_are_valid_and_the_same_with_both_helms(
    chart: Chart, chart3: Chart, profile: str, values: dict[str, Any]
) -> None:
    objects = chart.render(values, profile)
    assert chart3.render(values, profile) == objects
    # The minors differ little: all of them for the profiles, the newest for the options.
    assert_valid(objects, MINORS if not values else MINORS[-1:])


@pytest.mark.parametrize("profile", PROFILES)
def test_lint_has_nothing_to_say(chart: Chart, chart3: Chart, profile: str) -> None:
    for each in (chart, chart3):
        values = str(CHART / f"values-{profile}.yaml")
        done = each.run("lint", "--strict", str(each.archive), "-f", values)
        assert done.returncode == 0, done.stdout + done.stderr


def test_one_template_holds_one_kind() -> None:
    for template in (CHART / "templates").rglob("*.yaml"):
        kinds = {
            line for line in template.read_text().splitlines() if line.startswith("kind: ")
        } - {""}
        assert len(kinds) == 1, template
        assert template.stem.startswith(kinds.pop().removeprefix("kind: ").lower()), template


def test_values_are_few_and_each_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    assert len(lines) <= 250
    sections = [number for number, line in enumerate(lines) if line and line[0] not in " #-"]
    for number in sections:
        nested = [line for line in lines[number + 1 : number + 3] if line.startswith("  #")]
        assert lines[number - 1].startswith("#") or nested, lines[number]


def test_the_readme_lists_every_value() -> None:
    """`python -m tests.chart.values_table` brings it up to date."""
    assert readme(README.read_text()) == README.read_text()
    listed = {path.split(".")[0] for path, _, _ in rows((CHART / "values.yaml").read_text())}
    assert listed == set(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_every_object_says_whose_it_is(chart: Chart) -> None:
    for each in chart.render(profile="multi-tenant"):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "demo"
        assert each["metadata"]["namespace"] == "serving"


def strings(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    else:
        yield value


@pytest.mark.parametrize("profile", PROFILES)
def test_ray_groups_are_written_as_the_operator_rewrites_them(chart: Chart, profile: str) -> None:
    """Else the operator owns the list of groups and Helm's next upgrade conflicts with it."""
    cluster = ray(chart.render(profile=profile))["rayClusterConfig"]
    for group in cluster["workerGroupSpecs"]:
        assert group["scaleStrategy"] == {}
    for pod in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        for container in pod["template"]["spec"]["containers"]:
            quantities = list(strings(container["resources"]))
            assert all(isinstance(each, str) for each in quantities)
            assert not any(each.endswith("000m") for each in quantities)
        assert "restartPolicy" not in pod["template"]["spec"]  # the autoscaler's v2 wants its own


def test_names_fit_what_kuberay_takes(chart: Chart) -> None:
    done = chart.run("template", "r" * 53, str(chart.archive), "-f", values_of("cpu-demo"))
    assert f"name: {'r' * 47}\n" in done.stdout
    assert "r" * 48 not in done.stdout.replace("instance: ", "")
    (service,) = of_kind(chart.render({"nameOverride": "a" * 47}, "cpu-demo"), "RayService")
    assert len(service["metadata"]["name"]) == 47


def values_of(profile: str) -> str:
    return str(CHART / f"values-{profile}.yaml")


def test_a_changed_catalogue_makes_new_pods_and_a_changed_target_does_not(chart: Chart) -> None:
    before = ray(chart.render(profile="h100"))
    target = ray(chart.render({"replicas": {"targetOngoingRequests": 3}}, "h100"))
    other = ray(chart.render({"model": {"catalog": "80gb-bf16"}}, "h100"))
    assert target["serveConfigV2"] != before["serveConfigV2"]
    assert target["rayClusterConfig"] == before["rayClusterConfig"]
    assert other["rayClusterConfig"] != before["rayClusterConfig"]


def test_what_cannot_change_does_not_depend_on_the_version(chart: Chart) -> None:
    """Selectors and the claim: Kubernetes refuses to change them in an upgrade."""
    for each in chart.render(profile="multi-tenant"):
        if each["kind"] == "PersistentVolumeClaim":
            assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        if each["kind"] == "PodDisruptionBudget":
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(
                each["spec"]["selector"]["matchLabels"]
            )


def test_a_cluster_without_an_api_is_told_what_to_install(chart: Chart) -> None:
    live = ["--api-versions=apiregistration.k8s.io/v1"]
    missing = chart.template({}, "multi-tenant", live)
    assert "no ray.io/v1: install the KubeRay operator" in missing.stderr
    some = [*live, "--api-versions=ray.io/v1", "--api-versions=gateway.networking.k8s.io/v1"]
    assert "install the Prometheus operator" in chart.template({}, "multi-tenant", some).stderr
    assert chart.template({}, "cpu-demo", some).returncode == 0


def test_rules_and_dashboards_in_the_chart_s_folders_become_objects(
    chart: Chart, tmp_path: Path
) -> None:
    folder = tmp_path / "chart"
    shutil.copytree(CHART, folder, symlinks=False)
    rule = {"alert": "A", "expr": 'up{job="x"} == 0', "annotations": {"summary": "{{ $labels.x }}"}}
    files = {
        "rules/service.yaml": yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}),
        "dashboards/service.json": json.dumps({"title": "Service", "legend": "{{model}}"}),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    values = {"monitoring": {"rules": True, "dashboards": True, "labels": {"release": "p"}}}
    objects = Chart(chart.helm, folder).render(values, "cpu-demo")
    (rules,) = of_kind(objects, "PrometheusRule")
    assert rules["spec"]["groups"][0]["rules"] == [rule]  # templates of alerts stay as they are
    assert rules["metadata"]["labels"]["release"] == "p"
    boards = [each for each in of_kind(objects, "ConfigMap") if "service.json" in each["data"]]
    assert json.loads(boards[0]["data"]["service.json"])["legend"] == "{{model}}"
    assert boards[0]["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_known_costs_of_work_turn_the_autoscaler_to_the_service_own_policy(chart: Chart) -> None:
    costs = {"input": 2e-5, "output": 2e-4, "tile": 0.01, "busy": 0.6}
    replicas = {"engineSeconds": costs, "downscaleDelaySeconds": 700}
    served = ray(chart.render({"replicas": replicas}, "h100"))["serveConfigV2"]
    ((deployment,),) = (each["deployments"] for each in yaml.safe_load(served)["applications"])
    config = AutoscalingConfig(**deployment["autoscaling_config"])
    assert config.policy.policy_function == scaling.PATH
    scaling.Policy(**config.policy.policy_kwargs)
    assert config.policy.policy_kwargs["quiet"] == 700
    assert (config.upscale_delay_s, config.downscale_delay_s) == (0, 0)
    assert "policy" not in yaml.safe_dump(ray(chart.render(profile="h100"))["serveConfigV2"])
