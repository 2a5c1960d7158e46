"""What a security review asks, of every profile and option."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart.helm import PROFILES, Chart, Object, containers, of_kind, pods, ray
from tests.chart.options import OPTIONS

CASES = [(profile, {}) for profile in PROFILES] + [("cpu-demo", each) for each in OPTIONS.values()]
IDS = [*PROFILES, *OPTIONS]
# Pod Security "restricted" lets these in and no other.
VOLUMES = {"configMap", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
# What head and workers may ask each other; that it is enough is seen in test_failover.py.
RAY_PORTS = {(6379, 6381), 8500, (10002, 19999), (30000, 31000), (32768, 60999)}
SECRET = re.compile("TOKEN|SECRET|PASSWORD|DATABASE_URL|REDIS_URL|AUTHORIZATION")


def assert_restricted(security: Object) -> None:
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["runAsNonRoot"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not security.get("privileged")


@pytest.mark.parametrize(("profile", "values"), CASES, ids=IDS)
def test_pods_are_restricted_limited_and_know_no_secrets(
    chart: Chart, profile: str, values: dict[str, Any]
) -> None:
    objects = chart.render(values, profile)
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= VOLUMES
        mounts = {volume["name"] for volume in spec["volumes"]}
        for container in containers(pod):
            assert_restricted(container["securityContext"])
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert container["resources"]["limits"].keys() >= {"cpu", "memory", "ephemeral-storage"}
            assert re.search(r":[\w.-]+$|@sha256:[0-9a-f]{64}$", container["image"])
            assert not container["image"].endswith(":latest")
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounts
            for variable in container["env"]:
                if SECRET.search(variable["name"]):
                    assert set(variable) == {"name", "valueFrom"}, variable["name"]
        # Only a head that scales its cluster talks to Kubernetes; the operator makes its account.
        scales = ray(objects)["rayClusterConfig"]["enableInTreeAutoscaling"]
        if name != "head" or not scales:
            assert spec["automountServiceAccountToken"] is False
    if scaler := ray(objects)["rayClusterConfig"].get("autoscalerOptions"):
        assert_restricted(scaler["securityContext"])


@pytest.mark.parametrize("profile", PROFILES)
def test_there_are_no_secrets_and_no_roles_in_the_chart(chart: Chart, profile: str) -> None:
    kinds = {each["kind"] for each in chart.render(profile=profile)}
    assert not kinds & {"Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


def test_a_digest_names_every_image(chart: Chart) -> None:
    digest = "sha256:" + "ab" * 32
    objects = chart.render({"image": {"digest": digest}} | OPTIONS["tenancy"], "cpu-demo")
    images = {each["image"] for pod in pods(objects).values() for each in containers(pod)}
    assert images == {f"llama-vision-serving@{digest}"}


@pytest.mark.parametrize("profile", PROFILES)
def test_ray_wants_a_token_everywhere(chart: Chart, profile: str) -> None:
    objects = chart.render(profile=profile)
    cluster = ray(objects)["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "llama-vision-ray"}
    version = tuple(int(part) for part in cluster["rayVersion"].split("."))
    assert version >= (2, 52)
    for name in ("head", "worker"):
        env = {each["name"]: each for each in containers(pods(objects)[name])[-1]["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"


def allowed(policies: list[Object], labels: dict[str, str], way: str) -> list[Object]:
    """The rules, `ingress` or `egress`, of all policies that select a pod with these labels."""
    return [
        rule
        for policy in policies
        if selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(way, [])
    ]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    return all(
        labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()
    ) and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


def ports_for(rules: list[Object], peer: str, key: str) -> set[Any]:
    """The ports that rules open to a peer which holds the text, ranges as pairs; "all" where none
    are named."""
    opened: set[Any] = set()
    for rule in rules:
        if peer in yaml.safe_dump(rule.get(key)):
            ports = rule.get("ports", [])
            opened |= {(p["port"], p["endPort"]) if "endPort" in p else p["port"] for p in ports}
            opened |= set() if ports else {"all"}
    return opened


def test_networks_are_closed_but_for_what_is_needed(chart: Chart) -> None:
    objects = chart.render(profile="multi-tenant")
    policies = of_kind(objects, "NetworkPolicy")
    all_pods = pods(objects)
    (deny,) = [each for each in policies if each["metadata"]["name"].endswith("-deny")]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]
    assert "egress" not in deny["spec"]
    for pod in all_pods.values():
        assert selects(deny["spec"]["podSelector"], pod["metadata"]["labels"])

    def rules(name: str, way: str) -> list[Object]:
        return allowed(policies, all_pods[name]["metadata"]["labels"], way)

    head, worker = rules("head", "ingress"), rules("worker", "ingress")
    assert ports_for(worker, "gateway-system", "from") == {8000}
    assert ports_for(head, "gateway-system", "from") == set()
    assert ports_for(head, "kuberay-system", "from") == {8265, 8000}
    assert ports_for(worker, "kuberay-system", "from") == set()
    for group in (head, worker):
        assert ports_for(group, "name: monitoring", "from") == {8080, 9464, 44217, 44227}
        assert ports_for(group, "head", "from") == RAY_PORTS
    out = rules("worker", "egress")
    assert ports_for(out, "head", "to") == RAY_PORTS
    assert ports_for(out, "databases", "to") == {5432, 6379}
    assert ports_for(out, "kube-system", "to") == {53}
    assert ports_for(out, "ipBlock", "to") == {53}  # caches of DNS on nodes
    assert ports_for(rules("head", "egress"), "ipBlock", "to") == {53, 443, 6443}
    assert ports_for(rules("demo-migrate", "egress"), "databases", "to") == {5432}
    assert rules("demo-migrate", "ingress") == []
    assert ports_for(rules("demo-test-run", "egress"), "worker", "to") == {8000}


def test_only_pods_that_fetch_weights_may_reach_out(chart: Chart) -> None:
    policies = of_kind(chart.render(OPTIONS["hugging face"], "cpu-demo"), "NetworkPolicy")
    labels = {"app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "worker"}
    assert ports_for(allowed(policies, labels, "egress"), "0.0.0.0/0", "to") == {443}


def test_nothing_but_the_port_of_serve_is_routed(chart: Chart) -> None:
    values = OPTIONS["route"] | OPTIONS["ingress"] | OPTIONS["load balancer"]
    objects = chart.render(values, "cpu-demo")
    (route,), (ingress,) = of_kind(objects, "HTTPRoute"), of_kind(objects, "Ingress")
    ((backend,),) = [rule["backendRefs"] for rule in route["spec"]["rules"]]
    assert (backend["name"], backend["port"]) == ("demo-serve-svc", 8000)
    assert ingress["spec"]["tls"] == [{"hosts": ["ai.example"], "secretName": "tls"}]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"] == {"service": {"name": "demo-serve-svc", "port": {"number": 8000}}}
    service = ray(objects)["serveService"]
    assert [port["port"] for port in service["spec"]["ports"]] == [8000]
    assert service["metadata"]["name"] == "demo-serve-svc"
    assert ray(objects)["rayClusterConfig"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_budgets_are_integers_and_leave_room(chart: Chart) -> None:
    objects = chart.render(OPTIONS["budget"], "cpu-demo")
    budgets = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "PodDisruptionBudget")
    }
    assert budgets["demo-workers"]["minAvailable"] == 2
    assert budgets["demo-head"]["minAvailable"] == 1
    assert all("maxUnavailable" not in spec for spec in budgets.values())
    tolerant = of_kind(chart.render(OPTIONS["fault tolerance"], "cpu-demo"), "PodDisruptionBudget")
    assert tolerant == []  # the head may move, and one replica can keep none


@pytest.mark.parametrize("profile", PROFILES)
def test_probes_are_ours_and_need_neither_bash_nor_wget(chart: Chart, profile: str) -> None:
    """KubeRay injects probes that run both where it finds none, and never one for a slow start."""
    for name in ("head", "worker"):
        container = containers(pods(chart.render(profile=profile))[name])[-1]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert set(container[probe]) & {"exec", "httpGet", "tcpSocket"} == {"httpGet"}
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
        assert "exec" not in container["lifecycle"]["preStop"]  # `ray stop` there hangs sidecars


def test_what_is_wrong_with_serve_is_alerted_on_and_not_ready(chart: Chart) -> None:
    """KubeRay keeps `Ready` true while an application fails."""
    objects = chart.render({"monitoring": {"rules": True}}, "cpu-demo")
    (rules,) = of_kind(objects, "PrometheusRule")
    expressions = " ".join(
        rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]
    )
    assert "ray_serve_application_status != 6" in expressions
    assert "ray_serve_deployment_status != 6" in expressions
