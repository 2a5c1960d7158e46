"""Line plots as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _ABOVE, _BELOW, _RIGHT = 480, 220, 56, 24, 34, 12
_COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f")
_TICKS = 4
Points = Sequence[tuple[float, float]]


def lines_plot(series: Mapping[str, Points], across: str, up: str) -> str:
    """One line for each series, from zero up; `across` and `up` are units."""
    right = max((x for points in series.values() for x, _ in points), default=0.0) or 1.0
    ticks = _ticks(max((y for points in series.values() for _, y in points), default=0.0) or 1.0)
    parts = [
        *(_grid(value, ticks[-1], up if value == ticks[-1] else "") for value in ticks),
        *(_below(value, right, across) for value in _ticks(right) if value <= right),
        *(_line(points, right, ticks[-1], i) for i, points in enumerate(series.values())),
        *((_name(name, i) for i, name in enumerate(series)) if len(series) > 1 else ()),
    ]
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"{''.join(parts)}</svg>"
    )


def _ticks(top: float) -> list[float]:
    """From zero to just above `top`, 1, 2 or 5 times a power of ten apart."""
    rough = top / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def _x(value: float, right: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / right


def _y(value: float, top: float) -> float:
    return _ABOVE + (_HEIGHT - _ABOVE - _BELOW) * (1 - value / top)


def _grid(value: float, top: float, unit: str) -> str:
    y = _y(value, top)
    return (
        f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{"#ddd" if value else "#999"}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
        f"{_number(value)}{escape(f' {unit}' if unit else '')}</text>"
    )


def _below(value: float, right: float, unit: str) -> str:
    return (
        f'<text x="{_x(value, right):.1f}" y="{_HEIGHT - 14}" text-anchor="middle">'
        f"{_number(value)}{escape(f' {unit}' if value else '')}</text>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.2g}"


def _line(points: Points, right: float, top: float, index: int) -> str:
    path = " ".join(f"{_x(x, right):.1f},{_y(y, top):.1f}" for x, y in points)
    colour = _COLOURS[index % len(_COLOURS)]
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _name(name: str, index: int) -> str:
    """Above the plot, where no line is."""
    colour = _COLOURS[index % len(_COLOURS)]
    return f'<text x="{_LEFT + 90 * index}" y="14" style="fill:{colour}">{escape(name)}</text>'
