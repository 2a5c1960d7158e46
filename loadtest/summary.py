"""The figures of a run, from its tallies: one dictionary, which is the summary's JSON.

Headline figures are of all requests of the run. `steady` is of those after the warm-up that was
detected. Percentiles come from merged histograms. docs/loadtest.md defines every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.histogram import Histogram
from loadtest.instrument import Measured
from loadtest.intervals import drift, quantile_interval, ratio_interval, warm_up
from loadtest.series import TIMES, Tally, total

_SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_HEADLINES = ("ttft", "itl", "tpot", "e2e")


def summarize(measured: Measured) -> dict[str, Any]:
    """All figures but the verdict, the objectives and what the caller knows of the run."""
    blocks = measured.series.timeline()
    whole = total(blocks)
    window = measured.window
    return {
        **counts(whole),
        "unfinished": measured.unfinished,
        "window_s": round(window, 3),
        **_rates(measured, whole),
        **load(measured, whole),
        **{f"{name}_ms": _times(name, whole, blocks) for name in TIMES},
        "steady": _steady(measured, blocks),
        "tenants": {
            name: {**counts(each), **{f"{m}_ms": quantiles(getattr(each, m)) for m in _HEADLINES}}
            for name, each in ((n, total(t)) for n, t in sorted(measured.series.blocks.items()))
        },
        "cache": _cache(measured, whole),
    }


def counts(tally: Tally) -> dict[str, Any]:
    """Of requests, errors and tokens."""
    return {
        "requests": tally.requests,
        "errors": tally.failed,
        "error_rate": tally.failed / tally.requests if tally.requests else 0.0,
        "errors_by_kind": dict(sorted(tally.errors.items())),
        "errors_by_code": dict(sorted(tally.codes.items())),
        "attained": tally.attained,
        "output_tokens": tally.output_tokens,
        "prompt_tokens": tally.prompt_tokens,
        "frames": tally.frames,
        "tokens_per_frame": round(tally.streamed_tokens / tally.frames, 4)
        if tally.frames
        else None,
        "requests_without_usage": tally.unmetered,
    }


def quantiles(histogram: Histogram) -> dict[str, Any]:
    """Milliseconds; `None` for all of them if there is nothing."""
    if not histogram.count:
        return {**dict.fromkeys([*_SHARES, "mean", "min", "max"]), "count": 0}
    found = histogram.quantiles(_SHARES.values())
    return {
        **{name: _ms(value) for name, value in zip(_SHARES, found, strict=True)},
        "mean": _ms(histogram.mean),
        "min": _ms(histogram.low / 1e6),
        "max": _ms(histogram.high / 1e6),
        "count": histogram.count,
    }


def load(measured: Measured, whole: Tally) -> dict[str, Any]:
    """What was to be offered and what was. Open loop: requests a second; closed: users.

    A user that is held up between an answer and the next request is not there for so long.
    """
    window = measured.window or 1e-9
    if measured.open_loop:
        offered, achieved = measured.offered / window, measured.started / window
    else:
        offered = measured.offered / window
        away = measured.missed + whole.send_delay.total / 1e6
        achieved = max(0.0, offered - away / window)
    return {
        "loop": "open" if measured.open_loop else "closed",
        "offered": round(offered, 4),
        "achieved": round(min(achieved, offered), 4),
    }


def in_window(values: Sequence[float], width: float, window: float) -> float:
    """The sum over the blocks of the window; the last may lie in it only in part."""
    return sum(
        value * min(1.0, max(0.0, (window - index * width) / width))
        for index, value in enumerate(values)
    )


def _rates(measured: Measured, whole: Tally) -> dict[str, Any]:
    series, window = measured.series, measured.window or 1e-9
    tokens = in_window(series.tokens, series.width, window)
    full = [
        value for i, value in enumerate(series.tokens) if (i + 1) * series.width <= window + 1e-6
    ]
    interval = ratio_interval(full, [series.width] * len(full))
    return {
        "output_tokens_per_second": round(tokens / window, 3),
        "output_tokens_per_second_ci95": _rounded(interval, 1.0),
        "requests_per_second": round(whole.requests / window, 4),
        "goodput": round(whole.attained / window, 4),
        "mean_in_flight": round(in_window(series.busy, series.width, window) / window, 3),
    }


def _times(name: str, whole: Tally, blocks: Sequence[Tally]) -> dict[str, Any]:
    all_of_it: Histogram = getattr(whole, name)
    found = quantiles(all_of_it)
    if name in _HEADLINES and found["count"]:
        parts = [getattr(block, name) for block in blocks]
        intervals = {p: quantile_interval(all_of_it, parts, share) for p, share in _SHARES.items()}
        totals = [part.total / 1e6 for part in parts]
        intervals["mean"] = ratio_interval(totals, [float(part.count) for part in parts])
        found["ci95"] = {key: _rounded(value, 1e3) for key, value in intervals.items()}
    return found


def _steady(measured: Measured, blocks: Sequence[Tally]) -> dict[str, Any]:
    """The part of the window after the warm-up, if there is one to be told apart."""
    width = measured.series.width
    inside = [b for i, b in enumerate(blocks) if i * width < measured.window - 1e-6]
    filled = [(i, b) for i, b in enumerate(inside) if b.e2e.count]
    values = [(b.ttft if b.ttft.count else b.e2e).mean for _, b in filled]
    cut = warm_up(values)
    rising = drift(values[cut or 0 :])
    if cut is None:
        return {"found": False, "drift": round(rising, 2), "warm_up_s": None}
    begin = filled[cut][0] if filled else 0
    part = total(inside[begin:])
    tokens = measured.series.tokens[begin : len(inside)]
    span = max(1e-9, measured.window - begin * width)
    return {
        "found": True,
        "drift": round(rising, 2),
        "warm_up_s": round(begin * width, 3),
        "requests": part.requests,
        "output_tokens_per_second": round(sum(tokens) / span, 3),
        **{f"{name}_ms": quantiles(getattr(part, name)) for name in _HEADLINES},
    }


def _cache(measured: Measured, whole: Tally) -> dict[str, Any]:
    # What is planned are beginnings of texts.
    observed = whole.cached_text_tokens / whole.text_tokens if whole.text_tokens else 0.0
    planned = measured.planned_hits
    return {
        "planned_hit_rate": None if planned is None else round(planned, 4),
        "observed_hit_rate": round(observed, 4),
    }


def timeline(measured: Measured) -> list[dict[str, Any]]:
    """Curves over time, for plots: one point for each block."""
    series = measured.series
    points = []
    for index, block in enumerate(series.timeline()):
        at = index * series.width
        p50, p95 = block.ttft.quantiles((0.5, 0.95))
        points.append(
            {
                "at": at,
                "requests": block.requests / series.width,
                "errors": block.failed / series.width,
                "ttft_p50": _ms(p50) if block.ttft.count else None,
                "ttft_p95": _ms(p95) if block.ttft.count else None,
                "itl_p95": _ms(block.itl.quantile(0.95)) if block.itl.count else None,
                "tokens": _at(series.tokens, index) / series.width,
                "in_flight": _at(series.busy, index) / series.width,
            }
        )
    return points


def curves(measured: Measured) -> Mapping[str, list[tuple[float, float]]]:
    """Distributions, for plots: (milliseconds, share at or below), thinned."""
    whole = total(measured.series.timeline())
    return {name: _thin(getattr(whole, name)) for name in ("ttft", "itl", "e2e")}


def _thin(histogram: Histogram) -> list[tuple[float, float]]:
    points = histogram.cumulative()
    step = max(1, len(points) // 200)
    kept = points[::step] + points[-1:] if points else []
    return [(_ms(x), round(y, 5)) for x, y in kept]


def _at(values: Sequence[float], index: int) -> float:
    return values[index] if index < len(values) else 0.0


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _rounded(interval: tuple[float, float] | None, factor: float) -> list[float] | None:
    return None if interval is None else [round(each * factor, 3) for each in interval]
