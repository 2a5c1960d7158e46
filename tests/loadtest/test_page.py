"""The live page: what its buttons do, and that a real browser shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

from loadtest import html
from loadtest.means import Means
from loadtest.outcome import conduct
from loadtest.scenario import Scenario
from loadtest.summary import curves, timeline
from loadtest.web import Desk, serving
from tests.loadtest import browser
from tests.loadtest.conftest import mocked


@asynccontextmanager
async def paged(scenario: Scenario, workers: int = 1) -> AsyncIterator[tuple[Desk, str]]:
    """The page, and its URL."""
    async with Means(workers).ready(None) as make:
        desk = Desk(scenario, make, 0)
        async with serving(desk, 0) as port:
            yield desk, f"http://127.0.0.1:{port}"


async def test_the_page_starts_stops_and_changes_the_load() -> None:
    async with mocked(ttft=0.03) as server:
        scenario = server.scenario(load={"concurrency": 2}, duration=30)
        async with paged(scenario) as (desk, base), httpx.AsyncClient() as client:

            async def post(verb: str, **body: Any) -> httpx.Response:
                return await client.post(f"{base}/{verb}", json=body)

            async def state() -> Any:
                return (await client.get(f"{base}/state")).json()

            assert "<title>loadtest" in (await client.get(base)).text
            assert (await state())["state"] == "ready"
            assert (await post("start")).json()["state"] == "running"
            assert (await post("start")).status_code == 400
            await asyncio.sleep(0.6)
            assert (await state())["live"]["in_flight"] == 2
            assert (await post("load", users=6)).status_code == 200
            await asyncio.sleep(0.6)
            assert (await state())["live"]["in_flight"] == 6
            metrics = (await client.get(f"{base}/metrics")).text
            assert 'loadtest_requests_total{tenant="default",account="a"' in metrics
            assert 'loadtest_time_to_first_token_seconds_bucket{tenant="default"' in metrics
            assert (await post("load", users=0)).status_code == 400
            assert (await post("load", rate="5")).status_code == 400
            assert (await client.post(f"{base}/stop")).status_code == 415
            await post("stop")
            await desk.ended()
            found = await state()
    assert found["state"] == "finished"
    assert found["summary"]["requests"] > 20


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_browser_starts_stops_and_changes_the_load(workers: int) -> None:
    async with mocked(ttft=0.03) as server, browser.page() as page:
        scenario = server.scenario(load={"concurrency": 2}, duration=60)
        async with paged(scenario, workers) as (desk, url):
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.goto(url)
            await expect(page.locator("#state")).to_have_text("ready")
            await expect(page.locator("#load")).to_have_value("2")
            await expect(page.locator("#stop")).to_be_disabled()

            await page.click("#start")
            await expect(page.locator("#state")).to_have_text("running")
            await expect(page.locator("#head")).to_contain_text("2 in flight", timeout=20_000)
            await expect(page.locator("#tenants")).to_contain_text("default")

            await page.fill("#load", "6")
            await page.press("#load", "Enter")
            await expect(page.locator("#head")).to_contain_text("6 in flight", timeout=20_000)
            await page.fill("#load", "many")
            await page.click("#change")
            await expect(page.locator("#problem")).to_contain_text("users must be")
            points = await page.locator("#plot polyline").get_attribute("points")
            assert points
            assert len(points.split()) >= 2

            await page.click("#stop")
            await expect(page.locator("#state")).to_have_text("finished", timeout=20_000)
            await expect(page.locator("#summary")).to_contain_text("time to first token")
            await page.goto(f"{url}/report")
            await expect(page.locator("svg").first).to_be_visible()
            assert desk.summary
            assert desk.summary["requests"] > 10
            assert not problems


async def test_a_browser_shows_the_report_without_any_other_file(tmp_path: Path) -> None:
    async with mocked() as server:
        scenario = server.scenario(load={"rate": "40"}, duration=2, slo="ttft p95 < 1ms")
        summary, measured = await conduct(scenario, calibration=0)
    file = tmp_path / "report.html"
    file.write_text(html.page(summary, timeline(measured), curves(measured)))
    asked: list[str] = []
    async with browser.page() as page:
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(file.as_uri())
        await expect(page.locator("h1")).to_contain_text(summary["verdict"])
        await expect(page.locator("table").first).to_be_visible()
        overflow = await page.evaluate("document.body.scrollWidth > window.innerWidth")
    assert asked == [file.as_uri()]
    assert not overflow
