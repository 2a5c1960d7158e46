"""The tables of fields and of errors in the documentation, held against what is served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from serving import errors
from serving.protocol import envelope, published

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("\n## Compatibility with Workers AI\n")[2].partition("\n## ")[0]
PROMPT, MESSAGES = published.json_schema()["oneOf"]
SHAPES = {"P": PROMPT, "M": MESSAGES, "answer": published.OUTPUT}
BEYOND = {"usage"}
"""Of an answer: not published, so it has no row."""


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


def rows() -> dict[str, tuple[set[str], str]]:
    """Of each name in the table: what it is in, and what is published of it."""
    found: dict[str, tuple[set[str], str]] = {}
    for line in SECTION.splitlines():
        if line.startswith("| `"):
            names, in_, told, here = (cell.strip() for cell in line.strip("|").split("|"))
            assert told, line
            assert here, line
            found |= dict.fromkeys(re.findall("`(.+?)`", names), (set(in_.split()), told))
    return found


ROWS = rows()
# A content of one part has the properties of a part in a list, which has the row.
FOUND = {
    path.replace("].content.", "].content[]."): shape
    for branch in SHAPES.values()
    for path, shape in properties(branch)
    if path not in BEYOND
}


def telling(path: str) -> list[str]:
    """Rows that tell of a property: its own, one of all below another, those of its parts."""
    if path in ROWS:
        return [path]
    above = [name for name in ROWS if name.endswith("…") and path.startswith(name.rstrip("…"))]
    return above or [name for name in ROWS if re.match(re.escape(path) + r"(\[\])?\.", name)]


@pytest.mark.parametrize("path", FOUND)
def test_every_published_property_has_a_row_with_its_limits(path: str) -> None:
    assert telling(path)
    for limit in ("minimum", "maximum", "minLength", "maxLength", "default"):
        if (value := FOUND[path].get(limit)) is not None:
            text = str(value).lower()
            told = ROWS[path][1]
            assert re.search(rf"(?<![\d.]){re.escape(text)}(?![\d.])", told), (limit, value)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_of_published_properties_and_says_where(name: str) -> None:
    path = name.rstrip("…").replace("].content[].", "].content.")
    in_ = {branch for branch, shape in SHAPES.items() if path in dict(properties(shape))}
    assert in_
    assert ROWS[name][0] == in_


def test_every_error_is_in_the_table_of_errors() -> None:
    document = (ROOT / "docs" / "compatibility.md").read_text().partition("\n## Errors\n")[2]
    told = set()
    for line in document.splitlines():
        if line.startswith("| ") and line[2].isdigit():
            codes, statuses, _ = (cell.strip() for cell in line.strip("|").split("|"))
            told |= set(product(codes.split(", "), statuses.split(", ")))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    problems = [envelope.problem(kind.__new__(kind)) for kind in kinds]
    known = {(str(problem.code), str(problem.status)) for problem in problems}
    assert told == known | {(str(envelope.ABORTED), "-")}
