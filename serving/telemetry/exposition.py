"""What the files of a shelf's folder say, as text: Prometheus' format or OpenMetrics.

prometheus_client would do it in some 12 us a sample, all of it while the replica that answers can
stream no token. Here a series is put into words once, in one, since only its value changes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString

from serving.telemetry import exemplars
from serving.telemetry.exemplars import Kept, Key
from serving.telemetry.shelf import Place, places

_SERIES = 1 << 16  # that are remembered, of all replicas together
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class _Series:
    """One value in a file. `head` is its line up to the value, `child` its labels but for `le`.

    `count` is the head of a histogram's count: that of what its last bucket reaches.
    """

    family: str
    help: str
    head: str
    child: str
    is_bucket: bool
    count: str
    key: Key


@dataclass(slots=True)
class _Family:
    """Lines of a metric, those of each child together."""

    kind: str
    help: str
    lines: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def exposition(folder: Path, openmetrics: bool) -> bytes:
    """All places, each with its label `replica`. OpenMetrics has exemplars; its end is left off."""
    families: dict[str, _Family] = {}
    for place in places(folder):
        kept = exemplars.read(place.exemplars) if openmetrics else {}
        for file in place.files:
            _read(file, place, kept, families)
    lines = (line for name, each in families.items() for line in _told(name, each, openmetrics))
    return "".join(f"{line}\n" for line in lines).encode()


def _read(file: Path, place: Place, kept: dict[Key, Kept], families: dict[str, _Family]) -> None:
    """Add what a file holds; files of who goes may go at any time."""
    kind = file.name.partition("_")[0]
    reached: defaultdict[tuple[str, str], float] = defaultdict(float)
    try:
        values = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return
    for key, value, _, _ in values:
        series = _series(key, place.name)
        family = families.get(series.family)
        if family is None:
            family = families[series.family] = _Family(kind, series.help)
        lines = family.lines[series.child]
        if series.is_bucket:  # a file has each bucket's own, an exposition what it reaches
            value = reached[series.family, series.child] = (
                reached[series.family, series.child] + value
            )
        line = series.head + floatToGoString(value)  # type: ignore[no-untyped-call]
        if kept and (found := kept.get(series.key)):
            line += f' # {{trace_id="{found.trace}"}} {found.value!r} {found.at:.3f}'
        lines.append(line)
        if series.count:
            lines.append(series.count + floatToGoString(value))  # type: ignore[no-untyped-call]


@lru_cache(_SERIES)
def _series(key: str, place: str) -> _Series:
    """From prometheus_client's key of a value."""
    family, name, labels, said = json.loads(key)
    others = {label: value for label, value in labels.items() if label != "le"}
    child = _labelled({**others, "replica": place})
    return _Series(
        family=family,
        help=said,
        head=f"{name}{_labelled({**labels, 'replica': place})} ",
        child=child,
        is_bucket="le" in labels and name == f"{family}_bucket",
        count=f"{family}_count{child} " if labels.get("le") == "+Inf" else "",
        key=(name, frozenset(labels.items())),
    )


def _labelled(labels: dict[str, str]) -> str:
    pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in sorted(labels.items()))
    return "{" + ",".join(pairs) + "}"


def _told(name: str, family: _Family, openmetrics: bool) -> Iterator[str]:
    """In Prometheus' format the family of a counter has its ending, in OpenMetrics it has none."""
    said = family.help.translate(_ESCAPES if openmetrics else _HELP_ESCAPES)
    shown = name if openmetrics or family.kind != "counter" else f"{name}_total"
    yield f"# HELP {shown} {said}"
    yield f"# TYPE {shown} {family.kind}"
    children: Iterable[list[str]] = family.lines.values()
    for lines in children:
        yield from lines
