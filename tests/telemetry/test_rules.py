"""Rules and dashboards: what they ask for exists and is answered; alerts fire, or do not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from serving.telemetry import console, dashboards
from serving.telemetry.console import filled
from serving.telemetry.vocabulary import METRICS
from tests import servers
from tests.loadtest import browser
from tests.telemetry.conftest import PATH, SECRET, Site, until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
RUNBOOKS = ROOT / "deploy" / "runbooks"


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules that are an `alert`, or a `record`."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels() -> Iterator[tuple[str, str]]:
    """Dashboard and query of every panel, with Grafana's variables filled in."""
    for file in sorted((ROOT / "deploy" / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield file.stem, filled(target["expr"])


def selected(query: str) -> set[str]:
    """The metrics a query reads; the parser raises if it is no PromQL."""
    promql_parser.parse(query)
    found = re.findall(r"[a-zA-Z_:][\w:]*(?=[{\[])", re.sub(r'"[^"]*"', '""', query))
    bare = re.findall(r"\b(?:serving|vllm|ray)[_:][\w:]*", re.sub(r'"[^"]*"', '""', query))
    return {*found, *bare}


def ours() -> set[str]:
    """The samples of the vocabulary, and what rules record."""
    samples = {rule["record"] for rule in rules("record")}
    for metric in METRICS:
        endings = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        samples |= {metric.name + ending for ending in endings}
    return samples


def vllms() -> set[str]:
    """The samples of the vLLM that is installed, from its source."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "v1" / "metrics" / "loggers.py").read_text()
    kinds = re.findall(r'self\._(\w+)_cls\(\s*name="(vllm:\w+)"', source)
    endings = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return {name + ending for kind, name in kinds for ending in endings[kind]}


def test_rules_and_dashboards_name_only_metrics_that_exist() -> None:
    serve = {"ray_serve_deployment_status", "ray_serve_application_status"}
    # By KubeRay 1.7's metrics of the operator.
    kuberay = {"kuberay_service_condition_upgrade_in_progress"}
    known = ours() | vllms() | {"up"} | serve | kuberay
    assert len(vllms()) > 60
    queries = [query for _, query in panels()]
    queries += [rule["expr"] for kind in ("alert", "record") for rule in rules(kind)]
    assert len(queries) > 80
    for query in queries:
        assert selected(query), query
        assert selected(query) <= known, selected(query) - known


def test_the_buckets_that_rules_ask_for_exist() -> None:
    buckets = {f"{metric.name}_bucket": metric.buckets for metric in METRICS}
    asked = re.findall(r'(serving_\w+_bucket)\{[^}]*le="([\d.]+)"', RULES.read_text())
    assert asked
    for name, edge in asked:
        assert float(edge) in buckets[name]


@pytest.mark.parametrize(
    ("write", "place"),
    [
        pytest.param(dashboards.write, "grafana", id="grafana"),
        pytest.param(console.write, "prometheus/consoles", id="prometheus"),
    ],
)
def test_the_dashboards_are_those_of_the_vocabulary(
    write: Callable[[Path], None], place: str, tmp_path: Path
) -> None:
    write(tmp_path)
    committed = ROOT / "deploy" / place
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == sorted(file.name for file in committed.iterdir())
    for name in names:
        assert (tmp_path / name).read_text() == (committed / name).read_text(), name


def test_grafanas_own_model_has_a_place_for_all_that_dashboards_say() -> None:
    """Reading one and writing it again loses nothing: no key is misspelt or in a wrong place."""
    for name in dashboards.DASHBOARDS:
        ours = json.loads((ROOT / "deploy" / "grafana" / f"{name}.json").read_text())
        theirs = json.loads(json.dumps(Dashboard.from_json(ours), cls=JSONEncoder))
        assert lost(ours, theirs) == []
        misspelt = {**ours, "refesh": "30s"}
        theirs = json.loads(json.dumps(Dashboard.from_json(misspelt), cls=JSONEncoder))
        assert lost(misspelt, theirs) == ["/refesh"]


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Where `after` has not what `before` has; it may have more."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(before[key], after.get(key), f"{path}/{key}") for key in before]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(*pair, f"{path}/{n}") for n, pair in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [path]
    return [each for pair in pairs for each in lost(*pair)]


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    shown = " ".join(query for _, query in panels())
    for name in dashboards.DASHBOARDS:
        for panel in dashboards.dashboard(name)["panels"]:
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
    for metric in METRICS:
        assert metric.name in shown, f"{metric.name} is on no dashboard"


def test_every_alert_has_a_runbook_and_a_case_that_fires_and_one_that_does_not() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "rules_test.yaml").read_text())["tests"]
    tried = [case for test in cases for case in test["alert_rule_test"]]
    pages = set()
    for rule in rules("alert"):
        name = rule["alert"]
        expected = {bool(case["exp_alerts"]) for case in tried if case["alertname"] == name}
        assert expected == {True, False}, name
        page = ROOT / rule["annotations"]["runbook"]
        pages.add(page)
        text = page.read_text()
        assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Confirm", "Mitigate", "Prevent"]
        assert "(README.md)" in text  # where things are, for who has never looked
    assert pages | {RUNBOOKS / "README.md"} == set(RUNBOOKS.glob("*.md"))


def test_the_documentation_names_every_metric_and_every_alert() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    for metric in METRICS:
        labels = ", ".join(metric.labels)
        assert f"| `{metric.name}` | {labels} | {metric.help} |" in text
    for rule in rules("alert"):
        link = f"[{rule['alert']}](../{rule['annotations']['runbook']})"
        assert f"| {link} | {rule['labels']['severity']} |" in text


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        binary = servers.prometheus_binary("promtool")
    except servers.Missing as missing:
        pytest.skip(str(missing))
    return subprocess.run([binary, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    done = promtool("check", "config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    done = promtool("test", "rules", "tests/telemetry/rules_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_changed_is_noticed(tmp_path: Path) -> None:
    """The cases can fail: an objective ten times laxer fails them."""
    (tmp_path / "deploy" / "prometheus").mkdir(parents=True)
    (tmp_path / "tests" / "telemetry").mkdir(parents=True)
    laxer = RULES.read_text().replace("14.4 * 0.001", "144 * 0.001").replace("6 * 0.0", "60 * 0.0")
    (tmp_path / "deploy" / "prometheus" / "rules.yaml").write_text(laxer)
    cases = yaml.safe_load((Path(__file__).parent / "rules_test.yaml").read_text())
    cases["tests"] = [test for test in cases["tests"] if test["name"] == "two in a hundred fail"]
    file = tmp_path / "tests" / "telemetry" / "rules_test.yaml"
    file.write_text(yaml.safe_dump(cases))
    assert promtool("test", "rules", str(file)).returncode != 0


CONFIG = """
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: serving
    authorization: {{credentials: {secret}}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
# What is empty on a service where nothing went wrong, or without vLLM.
QUIET = re.compile(
    r"vllm:|serving_refusals_total|failed\|rejected|image|vision|expiry|ratio_rate(1h|6h|3d)"
)


@pytest.fixture
def scraped(site: Site) -> Iterator[httpx.Client]:
    """A Prometheus with our rules, whose data are those of a replica under load."""
    config = CONFIG.format(secret=SECRET, port=site.metrics_port)
    try:
        with (
            servers.prometheus(config, RULES.read_text()) as server,
            httpx.Client(base_url=server.url) as client,
        ):
            yield client
    except servers.Missing as missing:
        pytest.skip(str(missing))


async def load(site: Site, port: int) -> None:
    """Streams, for some scrapes."""
    body = {"prompt": "some words to stream", "stream": True}
    deadline = time.monotonic() + 4
    async with site.client(port) as client:
        while time.monotonic() < deadline:
            await asyncio.gather(*[client.post(PATH, json=body) for _ in range(10)])


async def test_prometheus_itself_draws_the_dashboards(site: Site, scraped: httpx.Client) -> None:
    """In a browser, each panel: a graph, or that there is nothing to draw."""
    (port,) = site.start()
    await load(site, port)
    ruled = {"query": "serving:failed_requests:ratio_rate5m"}
    asked = partial(scraped.get, "/api/v1/query", params=ruled)
    await asyncio.to_thread(until, lambda: bool(asked().json()["data"]["result"]))
    async with browser.page() as page:
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", lambda answer: None if answer.ok else faults.append(answer.url))
        for name, (title, shown) in dashboards.DASHBOARDS.items():
            found = await page.goto(f"{scraped.base_url}/consoles/index.html?show={name}")
            if found is None or not found.ok:
                pytest.skip("this Prometheus has no pages of its own")
            assert await page.inner_text("nav .shown") == title
            await page.wait_for_function("!document.querySelector('.prom_graph_loading')")
            drawn = [await each.inner_text() for each in await page.query_selector_all("section")]
            assert len(drawn) == len(shown)
            for panel, said in zip(shown, drawn, strict=True):
                assert said.startswith(panel.title)
                assert "Error loading data" not in said
                empty = any(QUIET.search(query) for query in panel.queries.values())
                assert empty or "No timeseries returned" not in said, panel.title
        assert faults == []


def test_every_panel_is_answered_by_a_prometheus_that_scrapes(
    site: Site, scraped: httpx.Client
) -> None:
    (port,) = site.start()

    def ask(query: str) -> list[Any]:
        answer = scraped.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        found: list[Any] = answer["data"]["result"]
        return found

    asyncio.run(load(site, port))
    until(lambda: bool(ask("serving:failed_requests:ratio_rate5m")))
    empty = [(name, query) for name, query in panels() if not ask(query)]
    assert [each for each in empty if not QUIET.search(each[1])] == []
    (down,) = ask("serving_replica_up")
    assert float(down["value"][1]) == 1
    firing = scraped.get("/api/v1/alerts").json()["data"]["alerts"]
    assert [alert for alert in firing if alert["state"] == "firing"] == []
