"""Line plots as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BELOW = 480, 200, 52, 30
_COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f")
Points = Sequence[tuple[float, float]]


def lines_plot(series: Mapping[str, Points], across: str, up: str) -> str:
    """One line for each series, from zero up; `across` and `up` are units."""
    right = max((x for points in series.values() for x, _ in points), default=0.0) or 1.0
    top = 1.05 * max((y for points in series.values() for _, y in points), default=0.0) or 1.0
    parts = [_line(points, right, top, i) for i, points in enumerate(series.values())]
    names = [_name(name, i) for i, name in enumerate(series)] if len(series) > 1 else []
    axes = (
        f'<path d="M{_LEFT} 8V{_HEIGHT - _BELOW}H{_WIDTH - 8}" fill="none" stroke="#999"/>'
        f'<text x="{_LEFT - 4}" y="16" text-anchor="end">{top:.3g} {escape(up)}</text>'
        f'<text x="{_LEFT - 4}" y="{_HEIGHT - _BELOW}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 12}" text-anchor="end">'
        f"{right:.3g} {escape(across)}</text>"
    )
    body = "".join((axes, *parts, *names))
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{body}</svg>'


def _line(points: Points, right: float, top: float, index: int) -> str:
    wide, high = _WIDTH - _LEFT - 8, _HEIGHT - _BELOW - 8
    path = " ".join(
        f"{_LEFT + wide * x / right:.1f},{8 + high * (1 - y / top):.1f}" for x, y in points
    )
    colour = _COLOURS[index % len(_COLOURS)]
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _name(name: str, index: int) -> str:
    colour = _COLOURS[index % len(_COLOURS)]
    return (
        f'<text x="{_WIDTH - 90}" y="{20 + 14 * index}" style="fill:{colour}">{escape(name)}</text>'
    )
