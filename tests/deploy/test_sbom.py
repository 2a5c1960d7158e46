"""The list of packages that goes with an image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_it_names_every_package_of_the_image_with_its_version(tmp_path: Path) -> None:
    """By the recipe of `make sbom`."""
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^sbom:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    (torch,) = re.findall(r"^TORCH := (\S+)$", makefile, re.MULTILINE)
    program = Path(sys.executable).with_name("cyclonedx-py")
    if not program.exists():
        pytest.skip("cyclonedx-bom is not installed")
    file = tmp_path / "sbom.json"
    command = recipe.replace("\\\n", " ").strip().removeprefix("@")
    command = command.replace("$(TORCH)", torch).replace("$(BIN)", str(program.parent))
    command = command.replace("sbom.json", str(file))
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True)
    made = json.loads(file.read_text())
    found = {f"{each['name']}=={each['version']}" for each in made["components"]}
    locks = (ROOT / "requirements" / "cpu.txt").read_text()
    locked = set(re.findall(r"^[\w.-]+==\S+", locks, re.MULTILINE))
    assert made["bomFormat"] == "CycloneDX"
    assert found == locked | {torch}
    assert {each["purl"].split(":")[0] for each in made["components"]} == {"pkg"}
