"""What `/metrics` says against what clients counted, over sockets, with replicas that die."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from math import inf
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import httpx
import prometheus_client
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from serving.cluster.tenants import Tenants
from serving.core import Outcome, Receipt, Trace, Usage
from serving.settings import Settings
from serving.telemetry import vocabulary
from serving.telemetry.exposition import exposition
from serving.telemetry.names import OTHER, Names
from serving.telemetry.observer import Observer
from serving.telemetry.sampler import PERIOD
from serving.telemetry.shelf import Shelf, places
from serving.tenancy import accounts
from tests.contract.requests import URI
from tests.telemetry.conftest import ACCOUNT, PATH, PIXELS, TOKEN, Site, until

GENERATED = ("serving_prompt_tokens_total", "serving_completion_tokens_total")


class Counted:
    """What a client saw of its requests."""

    def __init__(self) -> None:
        self.prompt = self.completion = 0
        self.ttfts: list[float] = []
        self.durations: list[float] = []
        self.gaps: list[float] = []
        self.means: list[float] = []

    async def stream(self, client: httpx.AsyncClient, words: int) -> None:
        body = {"prompt": " ".join(["word"] * words), "stream": True}
        began = time.perf_counter()
        async with client.stream("POST", PATH, json=body) as response:
            seen = []
            usage = {}
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    seen.append(time.perf_counter())
                    usage = json.loads(line.removeprefix("data: ")).get("usage") or usage
        self.durations.append(time.perf_counter() - began)
        self.ttfts.append(seen[0] - began)
        # The last frame has the usage and no token.
        gaps = [after - before for before, after in pairwise(seen[: usage["completion_tokens"]])]
        self.gaps += gaps
        self.means.append(sum(gaps) / len(gaps))
        self._used(usage)

    async def plain(self, client: httpx.AsyncClient, words: int) -> None:
        answer = await client.post(PATH, json={"prompt": " ".join(["word"] * words)})
        self._used(answer.json()["result"]["usage"])

    def _used(self, usage: dict[str, int]) -> None:
        self.prompt += usage["prompt_tokens"]
        self.completion += usage["completion_tokens"]


async def load(site: Site, ports: list[int], counted: Counted, each: int = 12) -> None:
    """Streams and plain answers of several lengths at once."""
    for port in ports:
        async with site.client(port) as client:
            streams = [counted.stream(client, 3 + n % 5) for n in range(each)]
            await asyncio.gather(*streams, *[counted.plain(client, 4) for _ in range(3)])


def quantile_bucket(site: Site, name: str, q: float, edges: tuple[float, ...]) -> int:
    """The index of the bucket that holds the quantile, of all replicas together."""
    held: Counter[float] = Counter()
    for sample in site.samples():
        if sample.name == f"{name}_bucket":
            held[float(sample.labels["le"])] += sample.value
    return next(i for i, edge in enumerate([*edges, inf]) if held[edge] >= q * held[inf])


async def test_the_numbers_are_those_that_clients_counted(site: Site) -> None:
    ports, counted = site.start(2), Counted()
    await load(site, ports, counted)
    assert site.total("serving_requests_total", outcome="ok", status="200") == 2 * 15
    assert site.total("serving_time_to_first_token_seconds_count") == 2 * 12  # streams only
    assert site.total("serving_request_duration_seconds_count") == 2 * 15
    assert [site.total(name) for name in GENERATED] == [counted.prompt, counted.completion]
    assert site.total("serving_inter_token_latency_seconds_count") == len(counted.gaps)
    assert site.total("serving_prefill_seconds_count") == 2 * 15
    assert site.total("serving_replica_up") == 2
    measured = (
        (vocabulary.TTFT, sorted(counted.ttfts)),
        (vocabulary.DURATION, sorted(counted.durations)),
        (vocabulary.ITL, sorted(counted.gaps)),
        (vocabulary.TPOT, sorted(counted.means)),
    )
    for metric, seen in measured:
        for q in (0.5, 0.9):
            theirs = bisect_left(metric.buckets, seen[int(q * len(seen))])
            ours = quantile_bucket(site, metric.name, q, metric.buckets)
            assert abs(theirs - ours) <= 1, (metric.name, q, seen)


async def test_the_numbers_are_those_of_the_usage_store(site: Site) -> None:
    counted = Counted()
    await load(site, site.start(), counted, each=4)
    await asyncio.sleep(2 * PERIOD)
    until(lambda: site.total("serving_journal_backlog_bytes") == 0)
    settings = Settings(state_dir=site.state, account_id=ACCOUNT, api_token=TOKEN)
    tenants = Tenants(settings)
    with tenants.tenancy.database.begin() as connection:
        columns = "sum(prompt_tokens), sum(completion_tokens), sum(picodollars), count(*)"
        row = connection.exec_driver_sql(f"select {columns} from usage").one()
    tenants.close()
    assert [site.total(name) for name in GENERATED] == list(row[:2])
    assert site.total("serving_cost_dollars_total") == pytest.approx(row[2] / 1e12, rel=1e-12)
    assert site.total("serving_requests_total") == row[3]


async def test_usage_that_cannot_reach_the_database_is_seen_to_lag(standing: Site) -> None:
    file = standing.state / "tenancy.db"
    async with standing.client(*standing.replicas) as client:
        await client.post(PATH, json={"prompt": "who asks is known from now on"})
        database = sqlite3.connect(file, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")  # as somebody who holds on to it
        await client.post(PATH, json={"prompt": "x"})
    with closing(database):
        until(lambda: standing.total("serving_metering_lag_seconds") > 1.5)
        assert standing.total("serving_journal_backlog_bytes") > 0
        database.execute("ROLLBACK")
    until(lambda: standing.total("serving_metering_lag_seconds") == 0, 30)
    assert standing.total("serving_journal_backlog_bytes") == 0


async def test_a_killed_replica_loses_no_count_and_its_successor_goes_on(site: Site) -> None:
    ports, counted = site.start(2), Counted()
    await load(site, ports, counted)
    site.stop(ports[0])
    until(site.is_scraped)  # the other one has taken over the port
    assert site.total("serving_requests_total") == 30
    assert site.total("serving_replica_up") == 1
    (ports[0],) = site.start()
    assert site.total("serving_requests_total") == 30
    await load(site, ports, counted)
    assert site.total("serving_requests_total") == 60
    assert [site.total(name) for name in GENERATED] == [counted.prompt, counted.completion]
    assert site.total("serving_replica_starts_total") == 3
    replicas = {sample.labels["replica"] for sample in site.samples()}
    assert replicas == {"0", "1"}


async def test_errors_are_counted_by_kind_and_a_strangers_account_is_no_label(
    standing: Site,
) -> None:
    rejected = standing.total("serving_requests_total", outcome="rejected")
    async with standing.client(*standing.replicas) as client:
        await client.post(PATH, json={"prompt": 5})
        await client.post(PATH, content=b"{")
        stranger = PATH.replace(ACCOUNT, "f" * 32)
        await client.post(stranger, json={"prompt": "x"})
        await client.post(PATH, json={"prompt": "x"}, headers={"authorization": "Bearer wrong"})
        await client.get("/client/v4/nothing")
    assert standing.total("serving_requests_total", outcome="rejected") == rejected + 5
    assert standing.total("serving_requests_total", status="401", code="10000") == 1
    assert standing.total("serving_refusals_total", reason="WrongToken") == 1
    assert standing.total("serving_refusals_total", reason="MalformedBody") == 1
    assert standing.total("serving_refusals_total") == 5
    text = standing.scrape().text
    assert "f" * 32 not in text
    assert TOKEN not in text


async def test_the_queue_is_seen_while_requests_wait(site: Site) -> None:
    site.slots = 1
    async with site.client(*site.start()) as client:
        body = {"prompt": " ".join(["word"] * 150), "image": URI}
        waiting = [asyncio.create_task(client.post(PATH, json=body)) for _ in range(3)]
        loop = asyncio.get_running_loop()
        for _ in range(60):
            queued = await loop.run_in_executor(None, site.total, "serving_queue_requests")
            if queued:
                break
            await asyncio.sleep(0.05)
        assert queued == 2
        assert site.total("serving_queue_tokens") >= 2 * 150
        assert site.total("serving_queue_pixels") == 2 * PIXELS
        assert site.total("serving_queue_pixels_limit") > 2 * PIXELS
        assert site.total("serving_running_requests") == 1
        assert site.total("serving_running_requests_limit") == 1
        await asyncio.gather(*waiting)
    assert site.total("serving_queue_seconds_count") == 3
    assert site.total("serving_queue_seconds_bucket", le="0.5") == 1


async def test_a_request_whose_client_leaves_is_cancelled_not_failed(standing: Site) -> None:
    before = standing.total("serving_requests_total", outcome="failed")
    async with standing.client(*standing.replicas) as client:
        body = {"prompt": "word " * 200, "stream": True}
        async with client.stream("POST", PATH, json=body) as response:
            await anext(response.aiter_lines())
    until(lambda: standing.total("serving_requests_total", outcome="cancelled") == 1)
    assert standing.total("serving_requests_total", outcome="failed") == before


def test_only_who_knows_the_token_may_scrape_and_never_on_the_public_port(
    standing: Site,
) -> None:
    assert standing.scrape().status_code == 200
    assert standing.scrape(authorization="Bearer wrong").status_code == 401
    assert standing.scrape(authorization="").status_code == 401
    (port,) = standing.replicas
    public = httpx.get(f"http://127.0.0.1:{port}/metrics")
    assert public.status_code == 400
    assert "serving_" not in public.text


def test_openmetrics_is_spoken_to_who_asks(standing: Site) -> None:
    response = standing.scrape(accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    families = {f.name: f for f in openmetrics(response.text)}
    assert families["serving_replica_starts"].type == "counter"
    (sample,) = families["vllm:num_preemptions"].samples
    assert sample.name == "vllm:num_preemptions_total"
    assert sample.labels == {"engine": "0", "replica": "0"}
    assert standing.total("vllm:num_preemptions_total") == sample.value == 3


RAYS = """\
# HELP ray_tasks Not Serve's
# TYPE ray_tasks gauge
ray_tasks{State="RUNNING"} 7.0
# HELP ray_serve_num_http_requests_total Requests
# TYPE ray_serve_num_http_requests_total counter
ray_serve_num_http_requests_total{SessionName="s",Version="2.60.0",otel_scope_name="x",route="/"} 5
# HELP ray_serve_http_request_latency_ms Latency
# TYPE ray_serve_http_request_latency_ms histogram
ray_serve_http_request_latency_ms_bucket{Component="core_worker",le="1.0",route="/"} 1
ray_serve_http_request_latency_ms_bucket{Component="core_worker",le="+Inf",route="/"} 2
ray_serve_http_request_latency_ms_sum{Component="core_worker",route="/"} 3.5
ray_serve_http_request_latency_ms_count{Component="core_worker",route="/"} 2
"""


class Ray(BaseHTTPRequestHandler):
    """Tells what Ray's agent would, of many routes."""

    def do_GET(self) -> None:
        many = (f'ray_serve_many_{n}{{route="{"x" * 990}"}} 1' for n in range(900))
        self.send_response(200)
        self.end_headers()
        self.wfile.write((RAYS + "\n".join(many)).encode())

    def log_message(self, *args: object) -> None:
        """It is asked often."""


@pytest.fixture
def rays_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Ray) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


def test_ray_serves_own_metrics_are_passed_on_within_bounds(site: Site, rays_url: str) -> None:
    site.environment = {"RAY_METRICS_URL": rays_url}
    site.start()
    until(lambda: "ray_serve_" in site.scrape().text)
    assert site.total("ray_serve_num_http_requests_total", route="/") == 5
    (sample,) = [s for s in site.samples() if s.name == "ray_serve_http_request_latency_ms_sum"]
    assert (sample.labels, sample.value) == ({"route": "/"}, 3.5)
    text = site.scrape().text
    assert "ray_tasks" not in text
    assert 150_000 < len(text) < 250_000
    answer = site.scrape(accept="application/openmetrics-text; version=1.0.0")
    families = {f.name: f.type for f in openmetrics(answer.text)}
    assert families["ray_serve_num_http_requests"] == "counter"
    assert families["serving_replica_starts"] == "counter"


def certificate(file: Path, ends: datetime) -> None:
    """One that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(ends - timedelta(days=90)).not_valid_after(ends)
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def test_what_expires_is_seen(site: Site, tmp_path: Path) -> None:
    soon, late = (datetime(2030, month, 1, tzinfo=UTC) for month in (1, 5))
    for name, ends in (("soon.pem", soon), ("late.pem", late)):
        certificate(tmp_path / name, ends)
    both = (tmp_path / "soon.pem").read_bytes() + (tmp_path / "late.pem").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    names = ("soon.pem", "late.pem", "both.pem", "missing.pem")
    site.environment = {"CERTIFICATES": ",".join(str(tmp_path / name) for name in names)}
    tenants = Tenants(Settings(state_dir=site.state, account_id=ACCOUNT, api_token=TOKEN))
    now = accounts.now()
    with tenants.tenancy.database.begin() as connection:
        other = accounts.create(connection, "test", "other").id
        for days in (-1, 5, 9):
            given = {"role": "member", "scopes": ["ai"], "expires_at": now + days * 86_400_000}
            accounts.issue(connection, "test", other, "t", tenants.tenancy.secret, **given)
        first, _ = accounts.issue(
            connection,
            "test",
            other,
            "revoked",
            tenants.tenancy.secret,
            role="member",
            scopes=["ai"],
            expires_at=now + 86_400_000,
        )
        accounts.revoke(connection, "test", other, first.id)
    tenants.close()
    site.start()
    expiry = "serving_certificate_expiry_timestamp_seconds"
    until(lambda: site.total("serving_token_expiry_timestamp_seconds") > 0)
    ends = {name: site.total(expiry, certificate=name) for name in names}
    assert ends == {
        "soon.pem": soon.timestamp(),
        "late.pem": late.timestamp(),
        "both.pem": soon.timestamp(),
        "missing.pem": 0,
    }
    token = site.total("serving_token_expiry_timestamp_seconds")
    assert token == pytest.approx(now / 1000 + 5 * 86400, abs=1)


def test_damaged_counts_begin_anew(site: Site) -> None:
    (port,) = site.start()
    site.stop(port)
    (file,) = site.state.glob("metrics/*/counter_0.db")
    file.write_bytes(b"\xff" * 4096)
    site.start()
    assert site.total("serving_replica_starts_total") == 1


ODD = 'a "label" \\ of\ntwo lines'
ROOM = 50  # accounts with series of their own


def crowd(folder: Path, both: Barrier) -> None:
    """A replica that a thousand accounts use, beside another, until it ends."""
    shelf = Shelf(folder)
    both.wait()
    prometheus_client.Counter("vllm:odd", ODD, ["name"]).labels(ODD).inc(3)
    observer = Observer(shelf, lambda model, usage: 7, ROOM)
    usage = Usage(prompt_tokens=50, completion_tokens=3)
    trace = Trace("a" * 32, "b" * 16, "c" * 16, sampled=True)
    for number in range(3000):
        account, route = f"{number % 1000:032x}", ("ai/run", "ai/v1/chat/completions")[number % 2]
        observer(
            Receipt(
                *(str(number), account, route, "m", Outcome.OK, 200, None, usage, 0.5, 0.1),
                token="t",
                stream=True,
                gaps=(0.01, 0.02),
                trace=trace,
            )
        )
    shelf.keep()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two such, in processes of their own: a shelf takes its process for good."""
    folder = tmp_path_factory.mktemp("crowded") / "metrics"
    spawn = get_context("spawn")
    both = spawn.Barrier(2)
    pair = [spawn.Process(target=crowd, args=(folder, both)) for _ in range(2)]
    for each in pair:
        each.start()
    for each in pair:
        each.join()
        assert each.exitcode == 0
    return folder


def test_a_scrape_after_a_thousand_accounts_is_quick_and_small(crowded: Path) -> None:
    took = []
    for _ in range(4):  # the first one loads what it needs
        began = time.process_time()
        text = exposition(crowded, True)
        took.append(time.process_time() - began)
    assert min(took) < 0.05
    assert len(text) < 2**20
    told = {
        sample.labels["account"]
        for family in openmetrics(f"{text.decode()}# EOF\n")
        for sample in family.samples
        if "account" in sample.labels
    }
    assert len(told) <= 2 * ROOM + 1  # each replica's own, and the rest
    assert OTHER in told


def test_what_is_exposed_is_what_the_library_reads_in_the_files(crowded: Path) -> None:
    expected = {
        (sample.name, frozenset({**sample.labels, "replica": place.name}.items())): sample.value
        for place in places(crowded)
        for family in MultiProcessCollector.merge(map(str, place.files))
        for sample in family.samples
    }
    assert any(dict(labels).get("name") == ODD for _, labels in expected)
    assert {dict(labels)["replica"] for _, labels in expected} == {"0", "1"}
    texts = {
        openmetrics: f"{exposition(crowded, True).decode()}# EOF\n",
        prometheus: exposition(crowded, False).decode(),
    }
    for parse, text in texts.items():
        found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(text)
            for sample in family.samples
        }
        assert found == expected


def test_names_are_bounded_and_go_to_those_that_use_most() -> None:
    names = Names(room=3, named=["old"])
    for turn in range(1000):
        names.of("heavy", 1000)
        names.of(f"light {turn}", 10)
    labels = {names.of(f"light {turn}", 10) for turn in range(1000)}
    assert names.of("heavy", 1) == "heavy"
    assert names.of("old", 0) == "old"
    assert labels == {OTHER}
    crowd = {names.of(f"crowd {n}", 10**9) for n in range(1000)}
    assert len(crowd - {OTHER}) == 1


def test_every_metric_is_named_by_the_rules() -> None:
    names = [metric.name for metric in vocabulary.METRICS]
    assert len(set(names)) == len(names)
    for metric in vocabulary.METRICS:
        assert metric.name.startswith("serving_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(metric.buckets)
