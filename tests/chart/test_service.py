"""What the chart says is what the service, Ray and the image understand."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.catalog import Catalog
from serving.settings import Settings
from serving.tenancy import prices
from tests import servers
from tests.certificates import Certificate
from tests.chart.helm import CHART, PROFILES, Chart, containers, of_kind, pods, ray
from tests.chart.options import OPTIONS
from tests.gateway.conftest import ACCOUNT, TOKEN, Service

ROOT = CHART.parents[1]


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in containers(pod)[-1]["env"]}


@pytest.mark.parametrize("profile", PROFILES)
def test_ray_serve_reads_the_configuration(chart: Chart, profile: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(ray(chart.render(profile=profile))["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    (deployment,) = parsed.applications[0].deployments
    assert deployment.graceful_shutdown_timeout_s == 330
    assert deployment.max_replicas_per_node == 1
    assert not set(config["applications"][0]["deployments"][0]) - set(type(deployment).model_fields)


def test_it_differs_from_the_plain_cluster_s_configuration_only_in_numbers(chart: Chart) -> None:
    """deploy/serve.yaml is for a Ray cluster without KubeRay."""
    plain = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    ours = yaml.safe_load(ray(chart.render(profile="h100"))["serveConfigV2"])

    def without_deployments(config: dict[str, Any]) -> dict[str, Any]:
        (application,) = config["applications"]
        rest = {key: value for key, value in application.items() if key != "deployments"}
        return {**config, "applications": [rest]}

    assert without_deployments(ours) == without_deployments(plain)
    (theirs,), (mine,) = (each["applications"][0]["deployments"] for each in (plain, ours))
    assert theirs["name"] == mine["name"]
    assert theirs.keys() <= mine.keys()
    assert theirs["autoscaling_config"].keys() == mine["autoscaling_config"].keys()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_catalogue_fits_the_pods(chart: Chart, profile: str, tmp_path: Path) -> None:
    objects = chart.render(profile=profile)
    worker = pods(objects)["worker"]
    maps = [each for each in of_kind(objects, "ConfigMap") if "catalog.yaml" in each["data"]]
    if profile == "cpu-demo":
        assert not maps
        assert "CATALOG" not in variables(worker)  # the image's own
        return
    (map_,) = maps
    folder = tmp_path / "catalog"
    folder.mkdir()
    (folder / "catalog.yaml").write_text(map_["data"]["catalog.yaml"])
    (model,) = Catalog.read(folder / "catalog.yaml").models.values()
    (mount,) = [each for each in mounts(worker) if each["name"] == "models"]
    assert str(model.checkpoint) == f"{mount['mountPath']}/Llama-3.2-11B-Vision-Instruct"
    limits = containers(worker)[-1]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) == model.resources["num_gpus"]
    config = yaml.safe_load(ray(objects)["serveConfigV2"])
    (deployment,) = config["applications"][0]["deployments"]
    target = deployment["autoscaling_config"]["target_ongoing_requests"]
    assert target == model.engine["max_num_seqs"] // 2


def mounts(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = containers(pod)[-1]["volumeMounts"]
    return found


def test_there_are_workers_for_what_an_update_starts(chart: Chart) -> None:
    for surge, workers in ((0, 4), (50, 6), (100, 8)):
        values = {"replicas": {"min": 2, "max": 4, "surgePercent": surge}}
        (group,) = ray(chart.render(values, "cpu-demo"))["rayClusterConfig"]["workerGroupSpecs"]
        assert (group["minReplicas"], group["maxReplicas"]) == (2, workers)


def test_head_and_workers_have_the_same_settings(chart: Chart) -> None:
    """Serve builds the application on either of them."""
    for values in OPTIONS.values():
        found = pods(chart.render(values, "cpu-demo"))
        head, worker = variables(found["head"]), variables(found["worker"])
        drain = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
        assert head.pop(drain)["value"] == "0"  # it has no replica that could move
        assert int(worker.pop(drain)["value"]) > 0
        assert head == worker


def test_every_setting_of_the_chart_is_one_of_the_service(chart: Chart) -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    known = {name.upper() for name in Settings.model_fields}
    assert set(schema["properties"]["settings"]["properties"]) < known
    objects = chart.render(OPTIONS["settings"], "cpu-demo")
    env = {name: each.get("value") for name, each in variables(pods(objects)["worker"]).items()}
    assert env["MAX_BODY_BYTES"] == "1048576"
    assert env["STREAM_PADDING"] == "true"
    assert env["QUEUE_SECONDS"] == "2.5"
    named = {name.lower(): env[name] for name in OPTIONS["settings"]["settings"]}
    settings = Settings.model_validate(named)
    assert settings.max_body_bytes == 1048576
    assert {"ACCOUNT_ID", "API_TOKEN", "STATE_DIR"} <= env.keys()
    tenanted = variables(pods(chart.render(OPTIONS["tenancy"], "cpu-demo"))["worker"])
    assert {"DATABASE_URL", "TENANCY_SECRET", "REDIS_URL"} <= tenanted.keys()


@pytest.mark.parametrize(("cores", "threads"), [("4", "4"), ("1500m", "1"), ("500m", "1")])
def test_a_cpu_replica_has_a_thread_per_core(chart: Chart, cores: str, threads: str) -> None:
    worker = pods(chart.render({"workers": {"cpu": cores}}, "cpu-demo"))["worker"]
    assert variables(worker)["OMP_NUM_THREADS"]["value"] == threads
    assert "OMP_NUM_THREADS" not in variables(pods(chart.render(profile="h100"))["worker"])


@pytest.mark.parametrize("profile", PROFILES)
def test_ray_s_object_store_fits_into_shared_memory(chart: Chart, profile: str) -> None:
    """Else Ray takes a folder on disk instead."""
    cluster = ray(chart.render(profile=profile))["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        store = int(group["rayStartParams"]["object-store-memory"])
        (shared,) = [
            volume["emptyDir"]
            for volume in group["template"]["spec"]["volumes"]
            if volume["name"] == "shm"
        ]
        assert shared["medium"] == "Memory"
        assert store <= int(shared["sizeLimit"].removesuffix("Gi")) * 2**30 // 2


def test_ray_s_version_is_the_one_of_the_image(chart: Chart) -> None:
    pinned = (ROOT / "requirements" / "cpu.txt").read_text().split()
    version = ray(chart.render(profile="cpu-demo"))["rayClusterConfig"]["rayVersion"]
    assert f"ray=={version}" in pinned
    assert f"ray=={version}\n" in (ROOT / "requirements" / "gpu.txt").read_text()


# What the chart decides itself: Serve listens, its configuration has the number of replicas and
# when it changes, and Prometheus asks Ray's exporters.
SCALING = {"replicas", "max_replicas", "downscale_seconds", "engine_seconds"}
DECIDED = {"host", "port", "ray_metrics_url"} | SCALING


def test_every_setting_can_be_reached_from_the_values(chart: Chart) -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    free = {name.lower() for name in schema["properties"]["settings"]["properties"]}
    written = {
        name.lower()
        for values in OPTIONS.values()
        for name in variables(pods(chart.render(values, "cpu-demo"))["worker"])
    }
    assert set(Settings.model_fields) - free - written == DECIDED


def test_prices_and_adapters_are_where_the_service_looks(chart: Chart, tmp_path: Path) -> None:
    objects = chart.render(OPTIONS["adapters and prices"], "cpu-demo")
    worker = pods(objects)["worker"]
    (map_,) = [each for each in of_kind(objects, "ConfigMap") if "prices.yaml" in each["data"]]
    file, _, name = variables(worker)["PRICES"]["value"].partition("#")
    paths = {each["name"]: each["mountPath"] for each in mounts(worker)}
    assert file == f"{paths['prices']}/prices.yaml"
    (tmp_path / "prices.yaml").write_text(map_["data"]["prices.yaml"])
    assert prices.read(f"{tmp_path}/prices.yaml#{name}")["m"].output == 2_000_000
    assert variables(worker)["ADAPTERS_DIR"]["value"] == paths["adapters"]
    volumes = {each["name"]: each for each in worker["spec"]["volumes"]}
    assert volumes["adapters"]["persistentVolumeClaim"] == {"claimName": "adapters"}


def test_prometheus_sends_the_token_that_the_service_wants(chart: Chart) -> None:
    objects = chart.render(OPTIONS["service monitor"], "cpu-demo")
    (monitor,) = of_kind(objects, "ServiceMonitor")
    ours, *others = sorted(
        monitor["spec"]["endpoints"], key=lambda each: each["port"] != "service-metrics"
    )
    wanted = variables(pods(objects)["worker"])["METRICS_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert ours["authorization"]["credentials"] == wanted
    assert not [each for each in others if "authorization" in each]


@pytest.mark.parametrize("option", ["hugging face", "https", "s3"])
def test_the_init_container_runs_a_command_that_exists(chart: Chart, option: str) -> None:
    worker = pods(chart.render(OPTIONS[option], "cpu-demo"))["worker"]
    weights, replica = containers(worker)
    program, *arguments = weights["command"]
    assert program == "python"
    # As it stands, but without a host to reach.
    done = subprocess.run(
        [sys.executable, *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (target,) = [each for each in weights["volumeMounts"] if each["name"] == "models"]
    assert arguments[2].startswith(target["mountPath"] + "/")
    assert "readOnly" not in target
    (source,) = [each for each in replica["volumeMounts"] if each["name"] == "models"]
    assert source["readOnly"] is True
    names = {each["name"] for each in weights["env"]}
    assert names & {"HF_TOKEN", "AUTHORIZATION", "AWS_SECRET_ACCESS_KEY"}
    assert not names & {"API_TOKEN", "DATABASE_URL"}


def test_the_migration_makes_the_tables(chart: Chart, tmp_path: Path) -> None:
    job = pods(chart.render(OPTIONS["tenancy"], "cpu-demo"))["demo-migrate"]
    (container,) = containers(job)
    file = tmp_path / "tenancy.db"
    done = subprocess.run(
        [sys.executable, *container["command"][1:]],
        env={**os.environ, "DATABASE_URL": f"sqlite:///{file}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 0
    assert [each["name"] for each in container["env"]] == ["HOME", "DATABASE_URL"]


def test_urls_that_others_keep_are_named(chart: Chart) -> None:
    objects = pods(chart.render(OPTIONS["stores of others"], "cpu-demo"))
    for pod, names in (
        ("worker", {"DATABASE_URL", "REDIS_URL"}),
        ("demo-migrate", {"DATABASE_URL"}),
    ):
        sources = {
            name: each["valueFrom"]["secretKeyRef"]
            for name, each in variables(objects[pod]).items()
            if name in names
        }
        assert sources.pop("DATABASE_URL") == {"name": "accounts-app", "key": "uri"}
        assert list(sources.values()) == [{"name": "limits", "key": "url"}] * len(sources)
        assert len(sources) == len(names) - 1


def test_a_database_whose_url_says_nothing_of_tls_must_show_who_it_is(
    chart: Chart, tmp_path: Path
) -> None:
    """As of the URLs that operators of databases write."""
    job = pods(chart.render(OPTIONS["stores of others"], "cpu-demo"))["demo-migrate"]
    (container,) = containers(job)
    said = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    theirs, others = Certificate.issue(), Certificate.issue()
    try:
        with servers.postgres(theirs) as postgres:
            for certificate, works in ((others, False), (theirs, True)):
                trusted = tmp_path / "ca.crt"
                trusted.write_bytes(certificate.public)
                assert said.keys() >= {"PGSSLMODE", "PGSSLROOTCERT"}
                url = postgres.url.replace("127.0.0.1", "localhost")
                told = {**said, "PGSSLROOTCERT": str(trusted), "DATABASE_URL": url}
                done = subprocess.run(
                    [sys.executable, *container["command"][1:]],
                    env={**os.environ, **told},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert (done.returncode == 0) == works, done.stderr
                assert works or "certificate verify failed" in done.stderr
    except servers.Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("check", ["run", "stream", "auth"])
async def test_helm_test_passes_on_a_service_that_works(
    chart: Chart, service: Service, check: str
) -> None:
    objects = chart.render(profile="cpu-demo")
    assert f"demo-test-{check}" in pods(objects)
    base = f"http://127.0.0.1:{service.port}"
    status, said = await checked(objects, check, base, TOKEN)
    assert (status, said) == (0, f"{check}: ok\n")


async def test_helm_test_fails_where_nothing_listens_or_the_token_is_wrong(
    chart: Chart, service: Service
) -> None:
    objects = chart.render(profile="cpu-demo")
    base = f"http://127.0.0.1:{service.port}"
    assert (await checked(objects, "run", base, "wrong-token"))[0] != 0
    assert (await checked(objects, "auth", "http://127.0.0.1:9", TOKEN))[0] != 0


async def checked(
    objects: list[dict[str, Any]], check: str, base: str, token: str
) -> tuple[int, str]:
    """Run the program of the test pods as they do."""
    (program,) = [
        each["data"]["check.py"]
        for each in of_kind(objects, "ConfigMap")
        if "check.py" in each["data"]
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, check),
        env={"BASE_URL": base, "ACCOUNT_ID": ACCOUNT, "API_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()
