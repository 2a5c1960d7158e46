"""What `/metrics` said at one moment, and what changed between two of them. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, nan

from prometheus_client.parser import text_string_to_metric_families

from serving.telemetry.vocabulary import Metric

Labels = Mapping[str, str]
_READ = re.compile(r"(?:# TYPE )?(?:serving_|vllm:(?:num_|kv_cache_|mm_cache_))")


@dataclass(frozen=True, slots=True)
class Scrape:
    """Values by the names of their samples and their labels. `at` is in seconds on any clock."""

    at: float
    values: Mapping[str, Mapping[frozenset[tuple[str, str]], float]]

    @classmethod
    def parse(cls, at: float, texts: Mapping[str, str]) -> Scrape:
        """Of the expositions of several machines, by their names, which become a label.

        Raises:
            ValueError: one is no exposition.
        """
        found: defaultdict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
        for machine, text in texts.items():
            lines = (line for line in text.splitlines() if _READ.match(line))
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                for sample in family.samples:
                    labels = frozenset({**sample.labels, "machine": machine}.items())
                    found[sample.name][labels] = sample.value
        return cls(at, found)

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(self._chosen(name, labels))

    def largest(self, name: str, **labels: str) -> float:
        """The largest of them; 0 if there is none."""
        return max(self._chosen(name, labels), default=0.0)

    def by(self, name: str, *labels: str) -> list[tuple[str, ...]]:
        """The values that these labels have, in order."""
        found = [dict(each) for each in self.values.get(name, {})]
        return sorted({tuple(each[label] for label in labels) for each in found})

    def _chosen(self, name: str, labels: Labels) -> Iterable[float]:
        wanted = labels.items()
        return (value for each, value in self.values.get(name, {}).items() if wanted <= each)


@dataclass(frozen=True, slots=True)
class Change:
    """From one scrape to a later one."""

    before: Scrape
    now: Scrape

    def rate(self, metric: Metric | str, **labels: str) -> float:
        """Of a counter, per second."""
        name = metric if isinstance(metric, str) else metric.name
        return self._grown(name, labels) / max(1e-9, self.now.at - self.before.at)

    def quantile(self, metric: Metric, q: float) -> float:
        """Of what a histogram has seen in between, as PromQL has it; not a number without any."""
        edges = [*metric.buckets, inf]
        held = [self._grown(f"{metric.name}_bucket", {"le": _le(edge)}) for edge in edges]
        rank = q * held[-1]
        if not held[-1]:
            return nan
        index = next(i for i, count in enumerate(held) if count >= rank)
        if edges[index] == inf:
            return edges[-2]
        low, below = (edges[index - 1], held[index - 1]) if index else (0.0, 0.0)
        return low + (edges[index] - low) * (rank - below) / (held[index] - below)

    def _grown(self, name: str, labels: Labels) -> float:
        """A count that is smaller than before began anew."""
        wanted, before = labels.items(), self.before.values.get(name, {})
        grown = 0.0
        for each, value in self.now.values.get(name, {}).items():
            if wanted <= each:
                had = before.get(each, 0.0)
                grown += value - had if value >= had else value
        return grown


def _le(edge: float) -> str:
    return "+Inf" if edge == inf else repr(float(edge))
