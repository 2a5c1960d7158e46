"""The commands that make models of a replica and hold them against runs: fit, validate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loadtest import console, options
from loadtest.core import Record, UsageError
from loadtest.planner import check, logs, trial
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.profiles import find
from loadtest.planner.tiles import tiles
from loadtest.records import read
from loadtest.scenario import size

Tiles = Annotated[
    list[str] | None,
    typer.Option(help="TENANT=N: tiles in each of a tenant's requests; or give --scenario"),
]


def fit(
    files: Annotated[list[Path], typer.Argument(help="Records (.jsonl) of runs, or access logs")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the model here")],
    scenario: Annotated[Path | None, typer.Option(help="Whose tenants say what images")] = None,
    tiles: Tiles = None,
    tile_pixels: Annotated[int, typer.Option(help="Of the checkpoint", min=1)] = 560,
    held_out: Annotated[
        list[Path] | None, typer.Option(help="Records of a run to be predicted, not fitted")
    ] = None,
    together: Annotated[
        Path | None,
        typer.Option(help="A run of --replicas on one machine: how they slow each other down"),
    ] = None,
    replicas: Annotated[int, typer.Option(help="Of that and the held-out runs", min=1)] = 1,
    name: Annotated[str, typer.Option()] = "replica",
    limits: Annotated[
        str | None, typer.Option(help="seqs=128,budget=4096,kv=360000: the engine's settings")
    ] = None,
    cold_start: Annotated[str, typer.Option(help="Until a new replica serves")] = "180s",
) -> None:
    """A model of one replica from the records of runs at a few loads, with its errors."""
    from loadtest.expressions import seconds

    with console.reported():
        fit_runs = _fitting()
        tiles_of = _tiles(scenario, tiles or [], tile_pixels)
        runs = [_read(file) for file in files]
        found = fit_runs(
            runs,
            tiles_of,
            name,
            _limits(limits, tile_pixels),
            seconds(cold_start),
            [file.name for file in files],
        )
        found = trial.noticing(found, runs, tiles_of)
        if together:
            found = _crowded(found, _read(together), tiles_of, replicas)
        print("\n".join(_costs(found)))
        found = _held(found, held_out or [], tiles_of, replicas)
        console.write_json(out, found)


def validate(
    replica: Annotated[str, typer.Argument(help="A file of `fit`, or a profile's name")],
    files: Annotated[list[Path], typer.Argument(help="Records (.jsonl), or access logs")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the model here; else where it was")
    ] = None,
    scenario: Annotated[Path | None, typer.Option(help="Whose tenants say what images")] = None,
    tiles: Tiles = None,
    replicas: Annotated[int, typer.Option(help="That were run against", min=1)] = 1,
) -> None:
    """Predict runs that were made, and keep the errors in the model: its calibration."""
    with console.reported():
        found = find(replica)
        if out is None and not replica.endswith(".json"):
            raise UsageError("a profile has no file to keep errors in: say --out model.json")
        tiles_of = _tiles(scenario, tiles or [], found.limits.tile_pixels)
        found = _held(found, files, tiles_of, replicas)
        console.write_json(out or Path(replica), found)


def _crowded(
    found: Replica, records: Sequence[Record], tiles_of: dict[str, int], count: int
) -> Replica:
    """Raises: UsageError: that is no run of several replicas."""
    if count < 2:
        raise UsageError("--together is of several replicas: say how many with --replicas")
    share = trial.crowding(found, records, tiles_of, count)
    return msgspec.structs.replace(found, crowding=share)


def _held(found: Replica, files: Sequence[Path], tiles_of: dict[str, int], count: int) -> Replica:
    """The model with its errors on these runs."""
    for file in files:
        records = _read(file)
        if all(record.error for record in records):
            raise UsageError(f"{file}: no request was answered")
        rows = check.check(found, records, tiles_of, count)
        print("\n".join(_checked(file, rows)))
        found = msgspec.structs.replace(found, fit={**found.fit, **_errors(file, rows)})
    return found


def _fitting() -> Callable[..., Replica]:
    """numpy is slow to import, and need not be there.

    Raises:
        UsageError: it is not.
    """
    try:
        from loadtest.planner.fit import fit as fit_runs
    except ImportError as error:
        raise UsageError("fit needs numpy: pip install '.[loadtest,plan]'") from error
    return fit_runs


def _read(file: Path) -> Sequence[Record]:
    return list(read(file)) if file.suffix in (".jsonl", ".parquet") else logs.read(file)


def _tiles(scenario: Path | None, given: list[str], tile: int) -> dict[str, int]:
    """The tiles of each tenant's requests.

    Raises:
        UsageError: they differ within a tenant, or cannot be read.
    """
    found: dict[str, int] = {}
    for tenant in options.scenario(scenario, {}).tenants if scenario else ():
        counts = {tiles(size(each), tile) for each in tenant.sizes}
        if not counts:
            continue
        if len(counts) > 1 or not tenant.images.isdigit():
            raise UsageError(f"requests of {tenant.name!r} differ in tiles: fit runs in which not")
        found[tenant.name] = int(tenant.images) * counts.pop()
    for text in given:
        name, _, count = text.rpartition("=")
        if not name or not count.isdigit():
            raise UsageError(f"--tiles is written TENANT=4, not {text!r}")
        found[name] = int(count)
    return found


def _limits(text: str | None, tile_pixels: int) -> Limits:
    pairs = [each.partition("=") for each in text.split(",")] if text else []
    try:
        given = {
            name.strip(): value if value in ("true", "false") else float(value)
            for name, _, value in pairs
        }
        return msgspec.convert({**given, "tile_pixels": tile_pixels}, Limits, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(f"--limits are written seqs=128,budget=4096: {error}") from error


def _costs(found: Replica) -> list[str]:
    lines = [f"{'cost':<12}{'microseconds':>14}   standard error"]
    for name in Costs.__struct_fields__:
        error = found.errors.get(name)
        trial = "by trial" if name == "notice" else "at its bound"
        shown = f"{error:.0%}" if error is not None else trial
        lines.append(f"{name:<12}{1e6 * getattr(found.costs, name):>14.3f}   {shown}")
    if found.crowding:
        lines.append(f"a step takes {found.crowding:.0%} longer for each other replica at work")
    return lines + [f"{name}: {value:g}" for name, value in found.fit.items()]


def _checked(file: Path, rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"held out: {file.name}"]
    lines += [
        f"{row['requests']:<6}{row['quantity']:<20}measured {row['measured_ms']:>10.1f}   "
        f"predicted {row['predicted_ms']:>10.1f}   {row['error']:+.0%}"
        for row in rows
        if row["error"] is not None
    ]
    return lines


def _errors(file: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """As they are kept in the model: its calibration."""
    return {
        f"{file.stem} {row['requests']} {row['quantity']}": row["error"]
        for row in rows
        if row["error"] is not None
    }
