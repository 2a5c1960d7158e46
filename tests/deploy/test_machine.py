"""The service on one machine: Docker Compose and systemd read what deploy/ has for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "llama-vision.service"
FILES = [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]]
GIVEN = {"IMAGE": "example.com/serving@sha256:" + "0" * 64, "WEIGHTS": "--hugging-face=o/m@c"}


def compose(folder: Path, files: list[str], *words: str, **variables: str) -> tuple[int, str, str]:
    """Docker Compose on a copy of deploy/, with files for the variables."""
    here = Path(sys.prefix) / "compose" / "docker-compose"
    binary = str(here) if here.exists() else shutil.which("docker-compose")
    if binary is None:
        pytest.skip("no docker-compose: see the Makefile")
    shutil.copytree(DEPLOY, folder, dirs_exist_ok=True)
    for name in ("serving.env", "weights.env"):
        (folder / name).write_text("API_TOKEN=a-token\n")
    done = subprocess.run(
        [binary, *(f"--file={name}" for name in files), "--profile=*", *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def services(folder: Path, files: list[str]) -> dict[str, Any]:
    status, out, said = compose(folder, files, "config", **GIVEN)
    assert status == 0, said
    assert "warn" not in said
    found: dict[str, Any] = yaml.safe_load(out)["services"]
    return found


@pytest.mark.parametrize("files", FILES, ids=len)
def test_containers_are_closed_and_limited(tmp_path: Path, files: list[str]) -> None:
    for name, service in services(tmp_path, files).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["mem_limit"]) > 0
        assert not service["image"].endswith(":latest")
        assert not service.get("privileged")
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"


def test_a_gpu_gets_the_published_model(tmp_path: Path) -> None:
    found = services(tmp_path, FILES[1])
    serving, weights = found["serving"], found["weights"]
    mounts = {each["target"]: each for each in serving["volumes"]}
    assert Path(mounts["/etc/llama-vision/catalog.yaml"]["source"]).exists()
    assert mounts["/models"]["source"] == weights["volumes"][0]["source"]
    assert serving["depends_on"]["weights"]["condition"] == "service_completed_successfully"
    (device,) = serving["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    models = yaml.safe_load((DEPLOY / "catalog" / "80gb-bf16.yaml").read_text())["models"]
    assert weights["command"][3] == next(iter(models.values()))["checkpoint"]


def test_compose_asks_for_the_image(tmp_path: Path) -> None:
    status, _, said = compose(tmp_path, FILES[0], "config", "-q")
    assert status != 0
    assert "the image by its digest" in said


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("systemd-analyze")
    if binary is None:
        pytest.skip("no systemd-analyze")
    return subprocess.run([binary, *words], capture_output=True, text=True, check=False)


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/llama-vision/bin/serving", "/bin/true"))
    done = analyze("verify", "--man=no", str(copy))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_little_exposed() -> None:
    """2.0 of 10; what is left are the network and the GPUs."""
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr
