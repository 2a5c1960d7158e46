"""`serving top` beside a replica under load."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.telemetry.scrape import Change, Scrape
from serving.telemetry.top import view
from tests import servers
from tests.telemetry.conftest import ACCOUNT, PATH, SECRET, Site, free_port, until

COMMAND = str(Path(sys.executable).with_name("serving"))


@contextmanager
def loaded(site: Site) -> Iterator[None]:
    """Streams of ten tokens, five at a time, and now and then a bad request."""
    over = threading.Event()

    async def load() -> None:
        body = {"prompt": "one two three four five six seven eight nine ten", "stream": True}
        async with site.client(*site.replicas) as client:
            while not over.is_set():
                asked = [client.post(PATH, json=body) for _ in range(5)]
                await asyncio.gather(*asked, client.post(PATH, json={"prompt": 5}))

    thread = threading.Thread(target=lambda: asyncio.run(load()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def top(site: Site, *options: str, token: str = SECRET) -> subprocess.CompletedProcess[str]:
    """`serving top --once` of the site."""
    url = f"http://127.0.0.1:{site.metrics_port}/metrics"
    command = [COMMAND, "top", "--once", "--interval", "1.5", "--url", url, *options]
    environment = {**os.environ, "METRICS_TOKEN": token, "COLUMNS": "120"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def rows(frame: str) -> dict[str, str]:
    """The lines by how they begin."""
    found = (re.split(r"  +", line.strip(), maxsplit=1) for line in frame.splitlines())
    return {line[0]: line[1] for line in found if len(line) == 2}


def milliseconds(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) ms", cell)]


def test_a_frame_says_how_things_are(standing: Site) -> None:
    with loaded(standing):
        until(lambda: standing.total("serving_account_requests_total", account=ACCOUNT) > 5)
        done = top(standing)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert re.fullmatch("1 up, batch [0-9]+ of 64", found["replicas"])
    assert found["queue"].startswith("0 requests, 0 tokens, 0 pixels, 0% full")
    said = re.fullmatch(r"([\d.]+) ok, ([\d.]+) rejected", found["requests/s"])
    assert said
    assert float(said[1]) == pytest.approx(5 * float(said[2]), rel=0.5)
    tokens = re.fullmatch(r"in ([\d.]+) \(0% cached\), out ([\d.]+)", found["tokens/s"])
    assert tokens
    assert float(tokens[2]) == pytest.approx(10 * float(said[1]), rel=0.1)
    assert re.fullmatch(r"[\d.]+ InvalidInput", found["refused/s"])
    assert all(250 <= q <= 500 for q in milliseconds(found["first token"]))  # the fake's: 300
    assert all(10 <= q <= 25 for q in milliseconds(found["between tokens"])[:1])  # and 10
    assert found["0"].split()[0].endswith("/64")
    assert float(found[ACCOUNT].split()[0]) > 10


def test_a_deployment_at_rest_is_no_error(standing: Site) -> None:
    done = top(standing)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)["requests/s"] == "none"
    assert "-" in rows(done.stdout)["first token"]


def test_alerts_that_fire_are_shown(standing: Site) -> None:
    rules = """
groups:
  - name: test
    rules:
      - alert: SomethingIsWrong
        expr: vector(1)
        labels: {severity: page}
        annotations: {summary: look at it, runbook: deploy/runbooks/X.md}
"""
    config = "global: {evaluation_interval: 200ms}\nrule_files: [rules.yaml]\n"
    try:
        with servers.prometheus(config, rules) as prometheus:
            until(
                lambda: "SomethingIsWrong" in top(standing, "--prometheus", prometheus.url).stdout
            )
            frame = top(standing, "--prometheus", prometheus.url).stdout
    except servers.Missing as missing:
        pytest.skip(str(missing))
    (line,) = [line for line in frame.splitlines() if "SomethingIsWrong" in line]
    assert line.split() == ["SomethingIsWrong", "page", "firing", "look", "at", "it"]
    assert "deploy/runbooks/X.md" in frame.splitlines()


def test_pictures_that_were_cut_before_are_a_part_of_all() -> None:
    def scraped(at: float, hits: int, queries: int) -> Scrape:
        said = {"hits": hits, "queries": queries}
        return Scrape.parse(
            at, {"": "".join(f"vllm:mm_cache_{n}_total {v}\n" for n, v in said.items())}
        )

    before, now = scraped(0.0, 10, 10), scraped(2.0, 13, 14)
    assert view(Change(before, now)).traffic.images_cached == 0.75


def test_without_its_prometheus_all_else_is_shown(standing: Site) -> None:
    done = top(standing, "--prometheus", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    assert "alerts are not known: " in done.stdout
    assert rows(done.stdout)["replicas"].startswith("1 up")


def test_who_cannot_read_metrics_is_told_in_a_line(standing: Site) -> None:
    wrong = top(standing, token="wrong")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "401" in wrong.stderr
    nobody = top(standing, "--url", f"http://127.0.0.1:{free_port()}/metrics")
    assert nobody.returncode == 1
    assert len(nobody.stderr.splitlines()) == 1


def test_in_a_terminal_it_goes_on_until_interrupted(standing: Site) -> None:
    ours, theirs = pty.openpty()
    url = f"http://127.0.0.1:{standing.metrics_port}/metrics"
    process = subprocess.Popen(
        [COMMAND, "top", "--interval", "0.2", "--url", url],
        env={**os.environ, "METRICS_TOKEN": SECRET, "TERM": "xterm", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = ""
    while shown.count("replicas") < 3:
        shown += os.read(ours, 65536).decode()
    process.send_signal(signal.SIGINT)
    try:
        while piece := os.read(ours, 65536).decode():
            shown += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait() == 0
    assert "Traceback" not in shown
    os.close(ours)
