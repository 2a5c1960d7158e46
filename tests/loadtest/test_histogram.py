"""Histograms keep quantiles, through merging and JSON."""

from __future__ import annotations

import random

import msgspec
import pytest

from loadtest.histogram import Histogram, merged


def filled(values: list[float]) -> Histogram:
    histogram = Histogram(buckets={})
    for value in values:
        histogram.add(value)
    return histogram


@pytest.fixture
def values() -> list[float]:
    rng = random.Random(4)
    return [rng.lognormvariate(-2, 1.2) for _ in range(20_000)]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 0.999])
def test_quantiles_are_within_a_thousandth(values: list[float], share: float) -> None:
    exact = sorted(values)[round(share * len(values)) - 1]
    assert filled(values).quantile(share) == pytest.approx(exact, rel=2e-3)


def test_the_mean_and_the_extremes_are_exact(values: list[float]) -> None:
    histogram = filled(values)
    assert histogram.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert (histogram.low, histogram.high) == (
        round(min(values) * 1e6),
        round(max(values) * 1e6),
    )


def test_merged_parts_are_the_whole(values: list[float]) -> None:
    parts = [filled(values[i::3]) for i in range(3)]
    whole = filled(values)
    shares = (0.05, 0.5, 0.95)
    assert merged(parts).quantiles(shares) == whole.quantiles(shares)
    assert merged(parts).mean == whole.mean


def test_json_brings_it_back_and_it_goes_on(values: list[float]) -> None:
    histogram = filled(values[:1000])
    copy = msgspec.json.decode(msgspec.json.encode(histogram.fold()), type=Histogram)
    for value in values[1000:]:
        copy.add(value)
    assert copy.quantile(0.9) == filled(values).quantile(0.9)


def test_nothing_has_quantiles_of_zero() -> None:
    assert Histogram(buckets={}).quantiles((0.5, 0.99)) == [0.0, 0.0]
