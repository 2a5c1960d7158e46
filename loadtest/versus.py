"""`loadtest compare A B`: two recorded runs, or two targets that take turns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest import console, options
from loadtest.core import Record, UsageError
from loadtest.probe import Pair, take_turns

_SIDE = "Records (.jsonl, .parquet), a URL, or a scenario (.yaml)"


@options.spelled_out
def compare(
    *,
    a: Annotated[str, typer.Argument(help=f"Before. {_SIDE}", metavar="A")],
    b: Annotated[str, typer.Argument(help="After. The same", metavar="B")],
    tolerance: Annotated[float, typer.Option(help="0.05: 5% is the same", min=0)] = 0.05,
    blocks: Annotated[int, typer.Option(help="How often each takes its turn", min=2)] = 8,
    concurrency: options.Concurrency = None,
    rate: options.Rate = None,
    duration: Annotated[str | None, typer.Option(help="Of one turn")] = None,
    asked: options.Asked,
    json: options.Json = None,
) -> None:
    """Whether B is worse than A. Exit status 1 if it is for sure."""
    from loadtest.compare import compare as weigh
    from loadtest.compare import markdown

    load = {key: value for key, value in (("concurrency", concurrency), ("rate", rate)) if value}
    with console.reported():
        if _is_live(a) != _is_live(b):
            raise UsageError("compare two recorded runs or two targets, not one of each")
        if _is_live(a):
            runs = _live((a, b), blocks, asked, load, duration)
        else:
            runs = [(_recorded(a), _recorded(b))]
        found = weigh(runs, tolerance)
        print(markdown(found))
        if json:
            console.write_json(json, found)
    raise typer.Exit(1 if found["verdict"] == "worse" else 0)


def _is_live(side: str) -> bool:
    return side.startswith(("http://", "https://")) or side.endswith((".yaml", ".yml"))


def _recorded(file: str) -> list[Record]:
    from loadtest.records import read

    return list(read(Path(file)))


def _live(
    sides: tuple[str, str],
    blocks: int,
    asked: options.Asked,
    load: dict[str, Any],
    duration: str | None,
) -> list[Pair]:
    """Of a URL everything but itself is told by flags; a scenario may be told it by them."""
    made = []
    for side in sides:
        url, file = (side, None) if side.startswith("http") else (None, Path(side))
        # A scenario has its own duration.
        lasting = duration or (None if file else "15s")
        made.append(asked.scenario(file, url, load=load, duration=lasting))
    return console.loop(take_turns((made[0], made[1]), blocks, console.say))
