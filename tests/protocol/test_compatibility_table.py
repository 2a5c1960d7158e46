"""The table of fields in docs/compatibility.md, held against the schema that is served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.protocol import published

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "compatibility.md").read_text()
PROMPT, MESSAGES = published.json_schema()["oneOf"]
BRANCHES = {"prompt": {"prompt"}, "messages": {"messages"}, "both": {"prompt", "messages"}}


def properties(shape: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property below a shape: its path, as the table writes it, and its shape."""
    for option in shape.get("oneOf", ()):
        yield from properties(option, path)
    if "items" in shape:
        yield from properties(shape["items"], f"{path}[]")
    if "additionalProperties" in shape:
        yield from properties(shape["additionalProperties"], f"{path}.*")
    for name, below in shape.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, below
        yield from properties(below, here)


def rows() -> dict[str, tuple[str, str]]:
    """Of each field in the table: what it is in, and what is published of it."""
    section = DOCUMENT.partition("## Fields of `ai/run`")[2].partition("\n## ")[0]
    found: dict[str, tuple[str, str]] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            names, branch, told, here = (cell.strip() for cell in line.strip("|").split("|"))
            assert told, line
            assert here, line
            found |= dict.fromkeys(re.findall("`(.+?)`", names), (branch, told))
    return found


ROWS = rows()
# A content of one part has the properties of a part in a list, which has the row.
FOUND = {
    path.replace("].content.", "].content[]."): shape
    for branch in (PROMPT, MESSAGES)
    for path, shape in properties(branch)
}


@pytest.mark.parametrize("path", FOUND)
def test_every_published_property_has_a_row_with_its_limits(path: str) -> None:
    _, told = ROWS[path]
    told = re.sub(r"(?<=\d) (?=\d)", "", told)
    for limit in ("minimum", "maximum", "minLength", "maxLength", "default"):
        if (value := FOUND[path].get(limit)) is not None:
            text = str(value).lower()
            assert re.search(rf"(?<![\d.]){re.escape(text)}(?![\d.])", told), (limit, value)


def test_rows_say_which_of_the_two_shapes_a_field_is_published_for() -> None:
    branches = {"prompt": PROMPT["properties"], "messages": MESSAGES["properties"]}
    for name, (told, _) in ROWS.items():
        top = re.split(r"[.\[]", name)[0]
        found = {branch for branch, known in branches.items() if top in known}
        assert (BRANCHES[told] if told else set()) == (found if name in FOUND else set()), name


def test_the_readme_links_the_table() -> None:
    assert "(docs/compatibility.md)" in (ROOT / "README.md").read_text()
