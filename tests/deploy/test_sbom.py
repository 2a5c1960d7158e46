"""The list of packages that goes with an image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_it_names_every_package_of_the_image_with_its_version(tmp_path: Path, image: str) -> None:
    """By the recipe of `make sbom`."""
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^sbom:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    (line,) = [each for each in recipe.splitlines() if f"sbom-{image}.json" in each]
    variables = dict(re.findall(r"^(TORCH|SBOM) := (.+)$", makefile, re.MULTILINE))
    program = Path(sys.executable).with_name("cyclonedx-py")
    if not program.exists():
        pytest.skip("cyclonedx-bom is not installed")
    file = tmp_path / "sbom.json"
    command = line.strip().removeprefix("@").replace(f"sbom-{image}.json", str(file))
    command = command.replace("$(SBOM)", variables["SBOM"]).replace("$(TORCH)", variables["TORCH"])
    command = command.replace("$(BIN)", str(program.parent))
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True)
    made = json.loads(file.read_text())
    found = {f"{each['name']}=={each['version']}" for each in made["components"]}
    locks = (ROOT / "requirements" / f"{image}.txt").read_text()
    assert made["bomFormat"] == "CycloneDX"
    assert found == set(re.findall(r"^[\w.-]+==\S+", locks, re.MULTILINE))
    assert {each["purl"].split(":")[0] for each in made["components"]} == {"pkg"}
