"""The table of values in the chart's README; `python -m tests.chart.values_table` rewrites it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.chart.helm import CHART

README = CHART / "README.md"
_MARK = "<!-- values -->\n"
_KEY = re.compile(r"( *)([A-Za-z][\w]*):(?: (.*))?")


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Of each value its path, its default (empty for a group) and the comment above it."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        if found := _KEY.fullmatch(line):
            indent, key, default = found.groups()
            path = [*path[: len(indent) // 2], key]
            yield ".".join(path), default or "", " ".join(comment)
        comment = []


def table() -> str:
    lines = ["| Value | Default | |", "|---|---|---|"]
    for path, default, meaning in rows((CHART / "values.yaml").read_text()):
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{path}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def readme(text: str) -> str:
    """The README with the table as it should be."""
    before, _, after = text.split(_MARK)
    return f"{before}{_MARK}{table()}{_MARK}{after}"


if __name__ == "__main__":
    README.write_text(readme(README.read_text()))
