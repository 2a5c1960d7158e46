"""The commands of the documents about Kubernetes: each is rendered, run or read by its program."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.chart import helm
from tests.chart.helm import CHART, Chart, pods, ray

ROOT = CHART.parents[1]
DOCS = [ROOT / "docs" / f"{name}.md" for name in ("kubernetes", "operations", "security")]
MACHINE = ROOT / "docs" / "one-machine.md"
# Run by another test, or by programs that are not to be had in tests.
ELSEWHERE = {
    "pg_dump": "tests/tenancy/test_recovery.py",
    "pg_restore": "tests/tenancy/test_recovery.py",
    "sha256sum": "coreutils",
    "trivy": "tests/deploy/test_commands.py",
    "docker": "tests/deploy/test_commands.py",
}


@dataclass(frozen=True)
class Command:
    """A line of a document."""

    document: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)[:60]}"


def blocks(document: Path, language: str = "") -> list[str]:
    """What stands between fences."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands(*documents: Path) -> list[Command]:
    found = []
    for document in documents:
        lines = "".join(blocks(document)).replace("\\\n", " ").splitlines()
        found += [Command(document.stem, tuple(shlex.split(unwrapped(each)))) for each in lines]
    return found


def unwrapped(line: str) -> str:
    """The command inside `NAME=$(command | head -1)`."""
    found = re.fullmatch(r"[A-Z]+=\$\((.*?)( \|.*)?\)", line)
    return found[1] if found else line


ALL = commands(*DOCS)
HELM = [each for each in ALL if each.program == "helm"]
INSTALLS = [
    each for each in HELM if "helm/llama-vision" in each.words and each.words[1] != "package"
]
KUBECTL = [each for each in ALL if each.program == "kubectl"]
SERVING = [each for each in KUBECTL if "serving" in each.words[1:] and "--" in each.words]


def test_there_is_no_command_that_nothing_looks_at() -> None:
    known = {"helm", "kubectl", *ELSEWHERE}
    assert [str(each) for each in ALL if each.program not in known] == []
    assert len(SERVING) == 10
    assert len(INSTALLS) > 8


def test_there_are_commands_for_every_profile() -> None:
    text = " ".join(" ".join(each.words) for each in INSTALLS)
    for profile in CHART.glob("values-*.yaml"):
        assert profile.name in text


@pytest.mark.parametrize("command", INSTALLS, ids=str)
def test_helm_takes_the_command(
    chart: Chart, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word for word in command.words[2:] if word != "--install"]
    if ">" in words:
        words = words[: words.index(">")]
    done = chart.run("template", *words)
    assert done.returncode == 0, done.stderr
    assert "kind: RayService" in done.stdout


@pytest.mark.parametrize("command", [each for each in HELM if each not in INSTALLS], ids=str)
def test_helm_knows_the_other_commands_and_their_options(chart: Chart, command: Command) -> None:
    done = chart.run(*command.words[1:], "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", KUBECTL, ids=str)
def test_kubectl_knows_the_command_and_its_options(command: Command, tmp_path: Path) -> None:
    try:
        binary = helm.kubectl()
    except helm.Unavailable as reason:
        pytest.skip(str(reason))
    words = command.words[: command.words.index("--")] if "--" in command.words else command.words
    create = "create" in words
    done = subprocess.run(
        [binary, *words[1:], *(("--dry-run=client", "-o", "name") if create else ("--help",))],
        env={**os.environ, "KUBECONFIG": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("llama-vision" in done.stdout or "serving" in done.stdout) if create else done.stdout


@pytest.mark.parametrize("document", DOCS, ids=lambda each: each.stem)
def test_kubernetes_knows_the_objects(document: Path) -> None:
    for block in blocks(document, "yaml"):
        kubernetes_validate.validate(yaml.safe_load(block), "1.37", strict=True)


@pytest.mark.parametrize("command", SERVING, ids=str)
def test_the_commands_of_the_service_exist(command: Command) -> None:
    program = "from serving.cli import main; main()"
    words = command.words[command.words.index("--") + 2 :]
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_the_drain_has_the_sums_of_the_chart(chart: Chart) -> None:
    objects = chart.render(profile="h100")
    worker = pods(objects)["worker"]["spec"]
    env = {each["name"]: each.get("value") for each in worker["containers"][0]["env"]}
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text[text.index("## How a pod stops") : text.index("## Change")]
    seconds = [int(each) for each in re.findall(r"\| (\d+) \|$", section, re.MULTILINE)]
    assert seconds == [
        worker["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"],
        int(env["RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"]),
        int(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]),
        ray(objects)["rayClusterDeletionDelaySeconds"],
        int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]),
        worker["terminationGracePeriodSeconds"],
    ]


@pytest.mark.parametrize("document", [*DOCS, MACHINE], ids=lambda each: each.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for file, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", document.read_text()):
        target = ROOT / "docs" / file if file else document
        assert target.exists(), file
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles]
            assert anchor in slugs, anchor


def test_the_files_of_one_machine_are_there() -> None:
    for command in commands(MACHINE):
        for word in command.words:
            if word.startswith("deploy/") and not word.endswith(".env"):
                assert (ROOT / word).exists(), word
