"""The commands of the documents about images and containers: what can be known of them without an
engine. The client of Docker reads its own; those of its plugin for builds are held to the
Dockerfile; Compose reads its files with the variables that a line gives it."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chart.test_docs import ALL, MACHINE, Command, commands
from tests.deploy.test_dockerfile import arguments, steps
from tests.deploy.test_machine import compose

ROOT = Path(__file__).parents[2]
DOCKER = [each for each in ALL if each.program == "docker"]
BUILDS = [each for each in DOCKER if "build" in each.words]
COMPOSE = [each for each in commands(MACHINE) if "compose" in each.words]


@pytest.mark.parametrize(
    "command", [each for each in DOCKER if "buildx" not in each.words], ids=str
)
def test_docker_knows_the_command_and_its_options(command: Command) -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("no client of Docker")
    done = subprocess.run(
        [docker, *command.words[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", BUILDS, ids=str)
def test_builds_are_of_what_the_dockerfile_has(command: Command) -> None:
    given = dict(pairwise(command.words))
    assert (ROOT / given["-f"]).exists()
    assert command.words[-1] == "."
    assert given["--target"] in {step.stage for step in steps()}
    name, _, value = given.get("--build-arg", "").partition("=")
    assert not name or arguments()[name] == value


def test_the_builds_that_are_compared_are_alike_but_for_their_names() -> None:
    compared = [each.words for each in BUILDS if "--no-cache" in each.words]
    one, two = (" ".join(each) for each in compared)
    assert one != two
    assert one.replace("one.tar", "") == two.replace("two.tar", "")
    assert "rewrite-timestamp=true" in one


def test_what_is_scanned_is_what_make_sbom_writes() -> None:
    scanned = [each.words[2] for each in ALL if each.words[:2] == ("trivy", "sbom")]
    recipe = re.findall(r"-o (sbom-\w+\.json)", (ROOT / "Makefile").read_text())
    assert scanned
    assert set(scanned) <= set(recipe)


@pytest.mark.parametrize("command", COMPOSE, ids=str)
def test_compose_takes_the_command(command: Command, tmp_path: Path) -> None:
    """With `config` in the place of what would start it, and the variables of the lines before."""
    first = command.words.index("docker")
    exported = [each.words[1] for each in commands(MACHINE) if each.program == "export"]
    variables = dict(word.split("=", 1) for word in (*exported, *command.words[:first]))
    words = command.words[first + 2 :]
    files = [Path(file).name for option, file in pairwise(words) if option == "-f"]
    status, _, said = compose(tmp_path, files, "config", "-q", **variables)
    assert (status, said) == (0, "")
