"""What `loadtest plan` emits is taken by whom it is for: Helm with this chart, Ray Serve, vLLM."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from vllm import AsyncEngineArgs

from loadtest.planner.emit import Size, configuration
from loadtest.planner.forecast import Forecast
from loadtest.planner.profiles import names, profile
from serving.catalog import Catalog
from serving.cluster.scaling import Policy
from serving.scaling import Costs
from tests.chart.helm import Chart, of_kind, ray

CHECKPOINT = Path(__file__).parents[2] / "checkpoint"
FORECAST = Forecast.model_validate(
    {"slo": "ttft p95 < 1s", "tenants": [{"name": "chat", "rate": 20}], "fleet": {"surge": 0.5}}
)
SIZE = Size(least=3, most=9, ongoing=40.0, seconds=Costs(2e-5, 2e-4, 0.01, 0.6))


def emitted(name: str) -> dict[str, Any]:
    return configuration(SIZE, profile(name), FORECAST, 10.0)


@pytest.mark.parametrize("name", names())
def test_the_chart_serves_what_is_planned(chart: Chart, name: str, tmp_path: Path) -> None:
    values = emitted(name)["helm"]
    # Where the weights lie is the operator's to say.
    objects = chart.render({**values, "model": {**values.get("model", {}), "claim": "weights"}})
    config = ServeDeploySchema(**yaml.safe_load(ray(objects)["serveConfigV2"]))
    (deployment,) = config.applications[0].deployments
    scaling = deployment.autoscaling_config
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (3, 9)
    told = scaling["policy"]["policy_kwargs"]
    assert told["costs"] == asdict(SIZE.seconds)
    Policy(**told)
    (group,) = ray(objects)["rayClusterConfig"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 14  # with those of an update
    if "model" not in values:
        return  # the catalogue is the operator's own
    (map_,) = [each for each in of_kind(objects, "ConfigMap") if "catalog.yaml" in each["data"]]
    (tmp_path / "catalog.yaml").write_text(map_["data"]["catalog.yaml"])
    (model,) = Catalog.read(tmp_path / "catalog.yaml").models.values()
    limits = profile(name).limits
    assert model.engine["max_num_seqs"] == limits.seqs
    assert model.engine["max_num_batched_tokens"] == limits.budget
    assert model.engine["max_num_scheduled_tokens"] == limits.beside


@pytest.mark.parametrize("name", names())
def test_vllm_knows_the_settings_and_reads_them_as_they_are_meant(name: str) -> None:
    settings = emitted(name)["vllm"]
    read = AsyncEngineArgs(model=str(CHECKPOINT), **settings)
    assert {key: getattr(read, key) for key in settings} == settings
    limits = profile(name).limits
    assert read.max_num_batched_tokens == limits.budget
    assert read.max_num_scheduled_tokens == limits.beside
    assert read.max_num_queued_reqs == limits.queue
