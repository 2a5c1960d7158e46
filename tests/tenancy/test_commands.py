"""`serving account|token|limit|usage`, as an operator types them."""

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from serving.cluster.tenants import Tenancy, Tenants
from serving.core import Outcome, Receipt, Usage
from serving.settings import Settings
from serving.tenancy import tables, usage
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("ACCOUNT_ID", ACCOUNT)
    monkeypatch.setenv("API_TOKEN", TOKEN)
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())

    def call(*words: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == status, result.output
        return result

    return call


def receipt(id_: str, at: float, **usage: int) -> Receipt:
    used = Usage(**usage)
    return Receipt(
        id_, ACCOUNT, "ai/run", MODEL, Outcome.OK, 200, None, used, 1.0, 0.1, token="t", at=at
    )


def test_an_account_and_its_tokens(run: Run) -> None:
    account = run("account", "create", "Vision team").output.strip()
    assert re.fullmatch("[0-9a-f]{32}", account)
    value = run("token", "create", account, "--name", "laptop", "--days", "7").output.strip()
    assert value.startswith("cfut_")
    listed = run("token", "list", account).output
    assert "laptop" in listed
    assert value not in listed
    id_ = listed.splitlines()[1].split()[0]
    run("token", "revoke", account, id_)
    run("account", "disable", account)
    assert run("account", "list").output.splitlines()[-1].split()[-1] != "-"
    run("account", "enable", account)
    assert run("account", "list").output.splitlines()[-1].split()[-1] == "-"


def test_times_are_for_people(run: Run) -> None:
    account = run("account", "create", "Vision team").output.strip()
    run("token", "create", account, "--days", "1")
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H}"
    assert tomorrow in run("token", "list", account).output
    assert f"{datetime.now(UTC):%Y-%m-%dT}" in run("account", "list").output


def test_what_is_wrong_is_said_in_a_line(run: Run) -> None:
    nobody = "f" * 32
    for words, said in (
        (("account", "create", "a\nb"), "'/name' "),
        (("account", "create", "x" * 201), "'/name' "),
        (("token", "create", ACCOUNT, "--name", ""), "'/name' "),
        (("limit", "set", ACCOUNT, "requests_per_minute=-1"), "'/requests_per_minute' "),
        (("limit", "set", ACCOUNT, f"tokens_per_day={10**30}"), "'/tokens_per_day' "),
        (("usage", "--account", nobody), f"no account {nobody}"),
        (("usage", "--account", nobody, "--month", "2026-11"), f"no account {nobody}"),
        (("usage", "--account", ACCOUNT, "--month", "November"), "like 2026-11"),
    ):
        output = run(*words, status=1).output
        assert said in output
        assert len(output.splitlines()) == 1


def test_an_account_cannot_name_the_tokens_of_another(run: Run) -> None:
    one, two = (run("account", "create", name).output.strip() for name in ("one", "two"))
    run("token", "create", two)
    theirs = run("token", "list", two).output.splitlines()[1].split()[0]
    assert "no token" in run("token", "revoke", one, theirs, status=1).output
    assert (
        "no token" in run("limit", "set", one, "max_images=1", "--token", theirs, status=1).output
    )


def test_limits_are_changed_one_by_one(run: Run) -> None:
    run("limit", "set", ACCOUNT, "requests_per_minute=60", "usd_per_day=1.5")
    run("limit", "set", ACCOUNT, "requests_per_minute=none", "weight=3")
    shown = dict(line.split() for line in run("limit", "show", ACCOUNT).output.splitlines()[1:])
    assert (shown["requests_per_minute"], shown["weight"]) == ("-", "3")
    assert float(shown["usd_per_day"]) == 1.5
    assert (
        "requests_per_hour" in run("limit", "set", ACCOUNT, "requests_per_hour=1", status=1).output
    )
    run("limit", "set", ACCOUNT, "weight=0", status=1)
    run("limit", "set", "f" * 32, "weight=1", status=1)


def test_limits_are_also_taken_as_options(run: Run) -> None:
    run("limit", "set", ACCOUNT, "--requests-per-minute", "60", "weight=2", "--max-images=1")
    shown = dict(line.split() for line in run("limit", "show", ACCOUNT).output.splitlines()[1:])
    assert [shown[name] for name in ("requests_per_minute", "weight", "max_images")] == [
        "60", "2", "1",
    ]  # fmt: skip
    for words, said in (
        (("--requests-per-minute",), "--requests-per-minute: say NAME=VALUE"),
        (("--tokn", "abc"), "tokn"),
        (("weight",), "weight: say NAME=VALUE"),
    ):
        assert said in run("limit", "set", ACCOUNT, *words, status=1).output


def test_usage_by_hour_and_the_months_invoice(run: Run, settings: Settings) -> None:
    """Exact money: 3 x 240000 + 5 x 240000 picodollars are 0.00000192 dollars."""
    tenants = Tenants(settings)
    noon = 1_763_985_600.0  # 2025-11-24 12:00 UTC
    tenants.meter.end(receipt("a", noon, prompt_tokens=3, completion_tokens=5))
    tenants.meter.end(receipt("b", noon + 1799, prompt_tokens=100, cached_tokens=90))
    tenants.meter.end(receipt("c", noon + 3600, completion_tokens=1_000_000))
    tenants.close()
    since = ("--since", "2025-11-01", "--until", "2025-12-01")
    table = run("usage", *since, "--period", "hour", "--by", "model", "--format", "csv").output
    first, second = csv.DictReader(io.StringIO(table))
    assert (first["period"], first["requests"]) == ("2025-11-24T12:00:00+00:00", "2")
    assert (first["prompt_tokens"], first["cached_tokens"]) == ("103", "90")
    assert first["usd"] == "0.000025920000"
    assert (second["usd"], second["neurons"]) == ("0.240000000000", "61493.000000")
    whole = json.loads(run("usage", *since, "--by", "", "--format", "json").output)
    assert whole[0]["completion_tokens"] == 1_000_005
    invoice = run("usage", "--month", "2025-11", "--account", ACCOUNT, "--format", "json").output
    assert json.loads(invoice)["total"] == "0.240025920000"
    assert (
        "total 0.240025920000 USD"
        in run("usage", "--month", "2025-11", "--account", ACCOUNT).output
    )
    run("usage", "--month", "2025-13", "--account", ACCOUNT, status=1)
    run("usage", "--by", "prompt", status=1)


def test_cloudflares_list_can_be_selected(settings: Settings) -> None:
    tenants = Tenants(settings.model_copy(update={"prices": "cloudflare"}))
    tenants.meter.end(receipt("a", 0.0, prompt_tokens=10**6, completion_tokens=10**6))
    tenants.close()
    with Tenancy.open(settings).database.begin() as connection:
        row = connection.execute(tables.usage.select()).one()
    assert row.picodollars == 725_000_000_000
    assert row.microneurons == (4410 + 61493) * 10**6


def test_an_own_list_with_a_price_for_cached_tokens(settings: Settings, tmp_path: Path) -> None:
    """Prompt tokens that came from the cache cost that; pictures are counted, and cost nothing."""
    line = '{input: "0.30", cached_input: "0.03", output: "1.25"}'
    (tmp_path / "own.yaml").write_text(f'ours:\n  "{MODEL}": {line}\n')
    tenants = Tenants(settings.model_copy(update={"prices": f"{tmp_path}/own.yaml#ours"}))
    used = {"prompt_tokens": 1000, "cached_tokens": 600, "completion_tokens": 10}
    tenants.meter.end(receipt("a", 1_763_985_600.0, **used, image_tokens=1601))
    tenants.close()
    with Tenancy.open(settings).database.begin() as connection:
        row = connection.execute(tables.usage.select()).one()
        found = usage.invoice(connection, ACCOUNT, "2025-11")
    assert (row.input_price, row.cached_price, row.output_price) == (300_000, 30_000, 1_250_000)
    assert row.picodollars == 400 * 300_000 + 600 * 30_000 + 10 * 1_250_000
    assert found["total"] == "0.000150500000"
    assert found["lines"][0]["image_tokens"] == 1601


def test_an_unreachable_database_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:hunter2@127.0.0.1:1/x")
    said = run("account", "list", status=1).output
    assert "cannot be reached" in said
    assert "hunter2" not in said
