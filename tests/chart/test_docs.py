"""The commands of docs/kubernetes.md: Helm renders each, and the sums are those of the chart."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.chart.helm import CHART, Chart, pods, ray

ROOT = CHART.parents[1]
TEXT = (ROOT / "docs" / "kubernetes.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("helm ")]


INSTALLS = [each for each in commands() if "helm/llama-vision" in each]


def test_there_are_commands_for_every_profile() -> None:
    text = " ".join(" ".join(each) for each in INSTALLS)
    for profile in CHART.glob("values-*.yaml"):
        assert profile.name in text


@pytest.mark.parametrize("command", INSTALLS, ids=lambda each: " ".join(each[1:])[:60])
def test_helm_takes_the_command(
    chart: Chart, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word for word in command[2:] if word != "--install"]
    if ">" in words:
        words = words[: words.index(">")]
    done = chart.run("template", *words)
    assert done.returncode == 0, done.stderr
    assert "kind: RayService" in done.stdout


def test_the_table_of_the_drain_has_the_sums_of_the_chart(chart: Chart) -> None:
    objects = chart.render(profile="h100")
    worker = pods(objects)["worker"]["spec"]
    env = {each["name"]: each.get("value") for each in worker["containers"][0]["env"]}
    section = TEXT[TEXT.index("## How a pod stops") : TEXT.index("## Change")]
    seconds = [int(each) for each in re.findall(r"\| (\d+) \|$", section, re.MULTILINE)]
    assert seconds == [
        worker["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"],
        int(env["RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"]),
        int(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]),
        ray(objects)["rayClusterDeletionDelaySeconds"],
        int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]),
        worker["terminationGracePeriodSeconds"],
    ]


def test_the_commands_of_the_service_exist() -> None:
    lines = re.findall(r"-c ray-worker -- (serving \w+ \w+)", TEXT)
    assert len(lines) == 3
    program = "from serving.cli import main; main()"
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-c", program, *line.split()[1:], "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
