"""The operators' kinds by the types that their own sources and clusters give them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.helm import PROFILES, Chart, Object, ray
from tests.chart.options import OPTIONS

NODE = Path(__file__).with_name("node")
GROUPS = ("external-secrets.io", "gateway.networking.k8s.io", "monitoring.coreos.com")


def everything(chart: Chart) -> Iterator[Object]:
    for profile in PROFILES:
        yield from chart.render(profile=profile)
    for values in OPTIONS.values():
        yield from chart.render(values, "cpu-demo")


def problems(objects: list[Object]) -> list[str]:
    """What the types of the operators, generated from their sources, say of each."""
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules").exists():
        pytest.skip("no node, or tests/chart/node is not installed")
    done = subprocess.run(
        [node, "validate.mjs"],
        cwd=NODE,
        input=json.dumps(objects),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_what_operators_read_has_the_types_of_their_sources(chart: Chart) -> None:
    objects = [each for each in everything(chart) if each["apiVersion"].split("/")[0] in GROUPS]
    kinds = {each["kind"] for each in objects}
    assert kinds == {
        "ExternalSecret",
        "HTTPRoute",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
    }
    assert set(problems(objects)) == {""}


def test_a_wrong_type_is_seen(chart: Chart) -> None:
    (route,) = [
        each for each in chart.render(OPTIONS["route"], "cpu-demo") if each["kind"] == "HTTPRoute"
    ]
    route["spec"]["rules"][0]["backendRefs"][0]["port"] = 70000
    assert "port must be <= 65535" in problems([route])[0]


def closed(schema: Any) -> Any:
    """A schema of Kubernetes as JSON Schema: what it does not name is refused."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(each) for key, each in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["integer", "string"]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if "required" in made and "properties" in schema:
        # The API server fills in defaults before it looks.
        with_default = {key for key, each in schema["properties"].items() if "default" in each}
        made["required"] = [each for each in made["required"] if each not in with_default]
    return made


def definitions() -> dict[tuple[str, str], Any]:
    """The schemas of the CustomResourceDefinitions in the folder that CRDS names.

    `kubectl get crd rayservices.ray.io -o yaml > $CRDS/ray.yaml`, from a cluster that has the
    operators, or their releases' files.
    """
    if not (folder := os.environ.get("CRDS")):
        pytest.skip("CRDS names no folder with CustomResourceDefinitions")
    found = {}
    for file in Path(folder).glob("*.yaml"):
        for crd in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader):
            for version in crd["spec"]["versions"]:
                api = f"{crd['spec']['group']}/{version['name']}"
                spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
                found[api, crd["spec"]["names"]["kind"]] = closed(spec)
    return found


def test_the_definitions_of_a_cluster_take_the_objects(chart: Chart) -> None:
    schemas = definitions()
    assert schemas
    taken = set()
    for each in everything(chart):
        kind = each["apiVersion"], each["kind"]
        if kind in schemas:
            jsonschema.validate(each["spec"], schemas[kind])
            taken.add(kind)
    assert taken
    if ("ray.io/v1", "RayService") in schemas:
        spec = ray(chart.render(profile="h100")) | {"nonsense": 1}
        with pytest.raises(jsonschema.ValidationError, match="nonsense"):
            jsonschema.validate(spec, schemas["ray.io/v1", "RayService"])
