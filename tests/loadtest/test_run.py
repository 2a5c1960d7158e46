"""The command against the mock: what it measures is what the mock knows to be true."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest.core import Failure
from loadtest.distributions import Distribution
from loadtest.going import Controls
from loadtest.mock import Manners, start
from loadtest.outcome import conduct, exit_code
from loadtest.records import read
from loadtest.scenario import build
from tests.loadtest.conftest import Command, ended, mocked, read_json

QUANTILES = {"p50", "p90", "p95", "p99", "mean"}


@pytest.mark.parametrize("load", ["--concurrency 4", "--rate 40"])
@pytest.mark.parametrize("api", ["openai", "workers-ai"])
async def test_the_fixed_interface(api: str, load: str, loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        url = server.target(api)["url"]
        account = " --account a" if api == "workers-ai" else ""
        command = (
            f"run --url {url} --token t0ken --api {api} --model m {load} --duration 1.5 "
            f"--max-tokens 8 --image 32x16 --json out.json --records out.jsonl{account}"
        )
        done = await loadtest(*command.split(), "--calibration", "0")
        truth = server.mock.truth
    ended(done)
    summary, records = read_json(tmp_path / "out.json"), list(read(tmp_path / "out.jsonl"))
    assert summary["requests"] == len(records) == truth.requests > 30
    assert summary["errors"] == 0
    assert summary["output_tokens"] == truth.tokens == 8 * truth.requests
    assert summary["output_tokens_per_second"] == pytest.approx(truth.tokens / 1.5, rel=0.3)
    assert 0.7 * summary["offered"] <= summary["achieved"] <= summary["offered"]
    assert summary["verdict"] in ("VALID", "SUSPECT", "INVALID")
    for name in ("ttft_ms", "itl_ms", "e2e_ms"):
        assert all(summary[name][key] >= 0 for key in QUANTILES)
        assert summary[name]["mean"] > 0
    # How far it is off is for benchmarks/harness.py to say; here the machine may be busy.
    assert -1 < summary["ttft_ms"]["p50"] - 1e3 * truth.ttft.quantile(0.5) < 40
    assert summary["itl_ms"]["p50"] == pytest.approx(1e3 * truth.itl.quantile(0.5), abs=15)
    assert "t0ken" not in json.dumps(summary) + done.out + done.err
    assert (tmp_path / "out.jsonl").read_text().count("t0ken") == 0


async def test_every_figure_in_milliseconds_is_defined() -> None:
    async with mocked() as server:
        summary, _ = await conduct(
            server.scenario(load={"concurrency": 2}, requests=8), calibration=0
        )
    page = (Path(__file__).parents[2] / "docs" / "loadtest.md").read_text()
    assert summary["definitions"] in page
    figures = {key.removesuffix("_ms") for key in summary if key.endswith("_ms")}
    figures |= {"output_tokens_per_second", "requests_per_second", "goodput", "error_rate"}
    assert not {name for name in figures if f"| `{name}` |" not in page}


async def test_errors_never_attain_an_objective() -> None:
    async with mocked(faults=(("http_500", 0.4),)) as server:
        load = {"rate": "40", "arrivals": "constant"}
        scenario = server.scenario(load=load, duration=2, slo="ttft p95 < 10s, itl p95 < 10s")
        summary, _ = await conduct(scenario, calibration=0)
    assert 10 < summary["errors"] < 70
    assert summary["attained"] == summary["requests"] - summary["errors"]
    assert summary["goodput"] == pytest.approx(summary["attained"] / summary["window_s"], rel=0.01)


async def test_answers_in_one_piece_have_no_first_token(loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        done = await loadtest(
            *("run", "--url", server.target()["url"], "--api", "openai", "--no-stream"),
            *("--requests", "12", "--concurrency", "3", "--duration", "20", "--max-tokens", "5"),
            *("--json", "out.json", "--calibration", "0"),
        )
    ended(done)
    summary = read_json(tmp_path / "out.json")
    assert (summary["requests"], summary["output_tokens"]) == (12, 60)
    assert summary["ttft_ms"]["p50"] is None
    assert summary["e2e_ms"]["p50"] > 20


async def test_an_open_loop_sends_its_schedule_whatever_the_server_does() -> None:
    async with mocked(ttft=0.1, capacity=2) as server:
        load = {"rate": "40", "arrivals": "constant"}
        summary, _ = await conduct(server.scenario(load=load, duration=2), calibration=0)
    assert summary["requests"] == 80
    assert summary["offered"] == summary["achieved"] == pytest.approx(40)
    # Two at a time every 0.13 s: whoever comes last waits for many, and that counts.
    assert summary["ttft_ms"]["max"] > 1500
    assert summary["steady"]["drift"] > 4 or not summary["steady"]["found"]
    assert summary["verdict"] != "VALID"


async def test_an_open_loop_of_so_many_requests_needs_no_duration() -> None:
    async with mocked() as server, asyncio.timeout(20):
        asked = server.scenario(load={"rate": 200}, requests=400, duration=None)
        summary, _ = await conduct(asked, calibration=0)
    assert summary["requests"] == 400


async def test_httpx_measures_the_same() -> None:
    async with mocked() as server:
        scenario = server.scenario(
            load={"concurrency": 2}, duration=1, target={"transport": "httpx"}
        )
        summary, _ = await conduct(scenario, calibration=0)
        truth = server.mock.truth
    assert summary["requests"] == truth.requests > 20
    assert -1 < summary["ttft_ms"]["p50"] - 1e3 * truth.ttft.quantile(0.5) < 60


@pytest.mark.parametrize("transport", ["raw", "httpx"])
@pytest.mark.parametrize(
    ("fault", "expected", "code"),
    [
        ("http_500", "http_500", 3043),
        ("http_429", "http_429", 3040),
        ("http_429_without_retry_after", "http_429_without_retry_after", 3040),
        ("error_in_200", Failure.IN_200, 3043),
        ("truncated", Failure.TRUNCATED, None),
        ("empty", Failure.EMPTY, None),
        ("timeout", Failure.TIMEOUT, None),
    ],
)
async def test_every_failure_is_told_apart(
    fault: str, expected: str, code: int | None, transport: str
) -> None:
    async with mocked(faults=((fault, 0.5),)) as server:
        scenario = server.scenario(
            "workers-ai",
            load={"concurrency": 4},
            requests=24,
            duration=20,
            target={"timeout": 0.5 if fault == "timeout" else 10, "transport": transport},
        )
        summary, measured = await conduct(scenario, calibration=0)
        injected = server.mock.truth.faults[fault]
    assert summary["requests"] == 24
    assert summary["errors_by_kind"] == {expected: injected}
    assert summary["errors_by_code"] == ({str(code): injected} if code else {})
    assert summary["ttft_ms"]["count"] == 24 - injected  # failures have no latency
    assert measured.unfinished == 0


async def test_nobody_listening_is_an_invalid_run(loadtest: Command) -> None:
    done = await loadtest(
        *("run", "--url", "http://127.0.0.1:9/v1", "--api", "openai", "--model", "m"),
        *("--concurrency", "2", "--duration", "1", "--calibration", "0"),
    )
    assert done.status == 3
    assert "no request was answered (connect)" in done.out


async def test_speaking_tls_to_a_plain_server_is_a_tls_error() -> None:
    async with mocked() as server:
        target = {"url": f"https://127.0.0.1:{server.port}/v1", "timeout": 2}
        scenario = server.scenario(load={"concurrency": 1}, requests=2, duration=5, target=target)
        summary, _ = await conduct(scenario, calibration=0)
    assert summary["errors_by_kind"] == {"tls": 2}


async def test_the_limit_in_flight_makes_a_run_invalid() -> None:
    async with mocked(ttft=1.0) as server:
        load = {"rate": "50", "arrivals": "constant", "limit": 10}
        summary, _ = await conduct(server.scenario(load=load, duration=1), calibration=0)
    assert summary["errors_by_kind"] == {"overflow": 40}
    assert exit_code(summary) == 3


async def test_a_missed_objective_is_status_1(loadtest: Command) -> None:
    async with mocked() as server:
        flags = ("--concurrency", "2", "--duration", "1", "--calibration", "0", "--api", "openai")
        url = server.target()["url"]
        missed = await loadtest("run", "--url", url, *flags, "--slo", "ttft p95 < 1ms")
        met = await loadtest("run", "--url", url, *flags, "--slo", "ttft p95 < 5s, errors < 1%")
    ended(missed, 1)
    assert "MISSED  ttft p95 < 1ms" in missed.out
    ended(met)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--concurrency 1 --duration 1", "--url"),
        ("--url ftp://x --concurrency 1 --duration 1 --api openai", "not an http or https URL"),
        ("--url http://x/v1 --duration 1 --api openai", "exactly one of"),
        ("--url http://x/v1 --concurrency 1 --rate 2 --duration 1", "exactly one of"),
        ("--url http://x/v1 --concurrency 1 --api openai", "duration"),
        ("--url http://x/client/v4 --concurrency 1 --duration 1", "needs an account"),
        ("--url http://x/v1 --rate fast --duration 1 --api openai", "load.rate"),
        ("--url http://x/v1 --rate 1 --duration 1 --api grpc", "target.api"),
        ("--url http://x/v1 --rate 1 --duration 1 --image big", "not a size"),
        ("--url http://x/v1 --rate 1 --duration 1 --slo quick", "not an objective"),
        ("--url http://x/v1 --rate 1 --duration 1 --nonsense", "No such option"),
        ("--url http://x/v1 --rate 1 --duration 1 --api openai --token a\r\nb:c", "in a header"),
    ],
)
async def test_usage_errors_are_status_2(arguments: str, said: str, loadtest: Command) -> None:
    done = await loadtest("run", *arguments.split(" "))
    assert done.status == 2
    assert said in done.err


async def test_the_instrument_states_its_own_error() -> None:
    async with mocked() as server:
        scenario = server.scenario(load={"concurrency": 8}, duration=1)
        summary, _ = await conduct(scenario, calibration=0.7)
    instrument = summary["instrument"]
    assert instrument["calibration"]["requests"] > 8
    assert instrument["calibration"]["errors"] == 0
    assert 0 < instrument["calibration"]["ttft_error_ms"]["p50"] < 10
    assert instrument["event_loop_lag_ms"]["count"] > 10
    assert 0 < instrument["stamp_to_parse_ms"]["p50"] < 1
    assert instrument["connections_opened"] == 8
    assert instrument["cpu_seconds"] > 0


async def test_an_interrupted_run_reports_what_it_has(tmp_path: Path) -> None:
    controls = Controls()
    async with mocked(ttft=0.2) as server:
        asyncio.get_running_loop().call_later(0.5, controls.stop.set)
        scenario = server.scenario(load={"concurrency": 3}, duration=60)
        summary, measured = await conduct(scenario, controls=controls)
    assert measured.stopped
    assert summary["unfinished"] == 3
    assert summary["window_s"] < 2


async def test_an_open_loop_that_is_stopped_was_to_offer_no_more(tmp_path: Path) -> None:
    controls = Controls()
    async with mocked() as server:
        asyncio.get_running_loop().call_later(1.5, controls.stop.set)
        scenario = server.scenario(load={"rate": "40", "arrivals": "constant"}, duration=60)
        summary, _ = await conduct(scenario, controls=controls, calibration=0)
    assert summary["window_s"] < 10
    assert summary["offered"] == pytest.approx(40, rel=0.1)
    assert summary["achieved"] == pytest.approx(summary["offered"], rel=0.05)


async def test_a_connection_that_idled_is_not_trusted() -> None:
    """Uvicorn drops them after 5 s; a request sent into that moment would be lost."""
    async with mocked() as server:
        load = {"rate": "0.21", "arrivals": "constant"}  # 4.8 s apart
        summary, measured = await conduct(server.scenario(load=load, duration=5), calibration=0)
    assert (summary["requests"], summary["errors"]) == (2, 0)
    assert measured.series.timeline()[-1].connect.count == 1


async def test_several_tokens_in_a_frame_are_noticed() -> None:
    async with mocked(together=4) as server:
        scenario = server.scenario(load={"concurrency": 2}, requests=20, duration=20)
        summary, _ = await conduct(scenario, calibration=0)
    assert (summary["output_tokens"], summary["frames"]) == (160, 40)
    assert any("a frame holds 4.0 tokens" in reason for reason in summary["reasons"])
    # Two frames 4 ms apart, 8 tokens: a token every 4/7 ms.
    assert summary["tpot_ms"]["p50"] == pytest.approx(summary["itl_ms"]["p50"] / 7, rel=0.1)


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's, that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    kind = serialization.PrivateFormat.PKCS8
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, kind, serialization.NoEncryption())
    file.write_bytes(secret + made.public_bytes(encoding))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


@pytest.mark.parametrize("transport", ["raw", "httpx"])
async def test_tls_and_certificates(certificate: ssl.SSLContext, transport: str) -> None:
    manners = Manners(Distribution.parse(0.01), Distribution.parse(0.002))
    server, mock = await start(manners, "127.0.0.1", 0, certificate)
    port = server.sockets[0].getsockname()[1]
    target = {"url": f"https://127.0.0.1:{port}/v1", "api": "openai", "transport": transport}
    found = {}
    for insecure in (False, True):
        scenario = build(
            {
                "target": {**target, "insecure": insecure, "timeout": 5},
                "load": {"concurrency": 2},
                "requests": 6,
                "duration": 20,
                "tenants": [{"output_tokens": "4"}],
            }
        )
        found[insecure], _ = await conduct(scenario, calibration=0)
    server.close()
    assert found[False]["errors_by_kind"] == {"tls": 6}
    assert (found[True]["errors"], mock.truth.requests) == (0, 6)
