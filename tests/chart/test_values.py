"""Values that make no sense are refused in words that name the fix; times add up."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart.helm import Chart, of_kind, pods, ray

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown value": ({"imag": {}}, "imag"),
    "latest": ({"image": {"tag": "latest"}}, "image/tag"),
    "a digest that is none": ({"image": {"digest": "sha256:12"}}, "image/digest"),
    "no repository": ({"image": {"repository": ""}}, "image/repository"),
    "a long name": ({"nameOverride": "a" * 48}, "nameOverride"),
    "a fraction of a core": ({"head": {"cpu": "0.5"}}, "head/cpu"),
    "a number for a quantity": ({"head": {"cpu": 2}}, "head/cpu"),
    "a secret among the settings": ({"settings": {"API_TOKEN": "x"}}, "settings"),
    "a password in Redis's address": (
        {"gcsFaultTolerance": {"redisAddress": "redis://:secret@host:6379"}},
        "redisAddress",
    ),
    "two monitors": ({"monitoring": {"podMonitor": True, "serviceMonitor": True}}, "monitoring"),
    "a percentage of workers": (
        {"disruption": {"minAvailableWorkers": "50%"}},
        "minAvailableWorkers",
    ),
    "a budget that blocks": (
        {"replicas": {"min": 2}, "disruption": {"minAvailableWorkers": 2}},
        "less than replicas.min",
    ),
    "min above max": ({"replicas": {"min": 5, "max": 4}}, "replicas.min is more"),
    "no such catalogue": ({"model": {"catalog": "tpu"}}, "no catalogs/tpu.yaml"),
    "two models": (
        {"model": {"catalogText": "models: {a: {checkpoint: /a}, b: {checkpoint: /b}}"}},
        "one model",
    ),
    "no claim": ({"model": {"catalog": "h100-fp8", "source": "claim"}}, "model.claim"),
    "a branch": (
        {"model": {"source": "huggingFace", "huggingFace": {"revision": "main"}}},
        "huggingFace/revision",
    ),
    "no commit": ({"model": {"source": "huggingFace"}}, "huggingFace.revision"),
    "no digest of the list": ({"model": {"source": "https"}}, "model.https"),
    "no digest of the bucket's list": ({"model": {"source": "s3"}}, "model.s3"),
    "a bucket without its scheme": ({"model": {"s3": {"url": "bucket/m"}}}, "s3/url"),
    "adapters that replicas cannot agree on": ({"adapters": {"claim": "a"}}, "tenancy.enabled"),
    "prices nobody reads": (
        {
            "tenancy": {"enabled": True, "prices": "mine: {}"},
            "state": {"create": True},
        },
        "belong together",
    ),
    "a setting of the wrong kind": ({"settings": {"QUEUE_TOKENS": "many"}}, "QUEUE_TOKENS"),
    "a choice there is not": ({"settings": {"LIMITS_FAIL": "ajar"}}, "LIMITS_FAIL"),
    "weights in the clear": (
        {"model": {"source": "https", "https": {"url": "http://store/m"}}},
        "https/url",
    ),
    "a journal that dies with its pod": ({"tenancy": {"enabled": True}}, "must outlive pods"),
    "agreements that die with their pod": (
        {"settings": {"LICENCE_GATE": "true"}},
        "must outlive pods",
    ),
    "agreements of some accounts that do": (
        {"settings": {"LICENCE_GATE": "a" * 32}},
        "must outlive pods",
    ),
    "a gate for nobody there can be": ({"settings": {"LICENCE_GATE": "me"}}, "LICENCE_GATE"),
    "one SQLite for all": ({"state": {"claim": "nfs"}}, "state needs tenancy.enabled"),
    "a database behind a closed policy": (
        {"tenancy": {"enabled": True}, "state": {"create": True}},
        "postgres.peers",
    ),
    "tokens in the clear": ({"ingress": {"enabled": True, "host": "a.example"}}, "tlsSecret"),
    "a route to no gateway": ({"httpRoute": {"enabled": True}}, "parentRefs"),
    "no class for steps": (
        {"upgrade": {"strategy": "NewClusterWithIncrementalUpgrade"}},
        "gatewayClassName",
    ),
    "a store without entries": (
        {"secrets": {"externalSecrets": {"enabled": True}}},
        "serviceEntry",
    ),
    # The drain chain.
    "no time to end": ({"drain": {"killSeconds": 5}}, "drain/killSeconds"),
    "no time to be forgotten": ({"drain": {"routeSeconds": 0}}, "drain/routeSeconds"),
    "a negative step": ({"drain": {"longestAnswerSeconds": -300}}, "drain/longestAnswerSeconds"),
    "a time for the sum": ({"drain": {"terminationGracePeriodSeconds": 30}}, "drain"),
    "no time to load": ({"drain": {"loadSeconds": 0}}, "drain/loadSeconds"),
    "no preStop": ({"drain": {"endpointSeconds": 0}}, "drain/endpointSeconds"),
}


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD.keys())
def test_helm_refuses_and_says_which_value(
    chart: Chart, values: dict[str, Any], words: str
) -> None:
    assert words in chart.refusal(values)


def test_helm_3_refuses_by_the_same_schema(chart3: Chart) -> None:
    said = chart3.refusal({"drain": {"killSeconds": 5}, "image": {"tag": "latest"}})
    assert "killSeconds" in said
    assert "tag" in said


def test_the_defaults_ask_for_the_one_thing_they_cannot_know(chart: Chart) -> None:
    assert "name the PersistentVolumeClaim with the weights" in chart.refusal({}, profile="")


@pytest.mark.parametrize("answer", [10, 300, 3600])
@pytest.mark.parametrize("route", [10, 600])
def test_no_step_of_the_drain_ends_before_the_one_it_waits_for(
    chart: Chart, answer: int, route: int
) -> None:
    values = {"drain": {"longestAnswerSeconds": answer, "routeSeconds": route}}
    routed = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}}
    objects = chart.render(values | routed, "cpu-demo")
    (http,) = of_kind(objects, "HTTPRoute")
    spec, pod = ray(objects), pods(objects)["worker"]["spec"]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    (deployment,) = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["deployments"]
    replica = deployment["graceful_shutdown_timeout_s"]
    node = int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert int(http["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s")) == answer
    assert int(env["RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"]) == route
    # The last answer begins when the route has forgotten the pod.
    assert replica >= route + answer
    assert int(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= replica
    assert spec["rayClusterDeletionDelaySeconds"] > replica
    # Serve stops a replica `replica` seconds before the end of the drain, moved or not.
    assert node - replica > 600
    assert pod["terminationGracePeriodSeconds"] >= stop + node + 30
