"""What `serving top` shows: a deployment at a moment, from two scrapes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.telemetry import vocabulary as words
from serving.telemetry.names import OTHER
from serving.telemetry.scrape import Change
from serving.telemetry.vocabulary import Metric

_QUANTILES = (0.5, 0.9, 0.99)
_BUSIEST = 8
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One of them. `kv` and `batch` are parts of 1; `waiting` is inside its engine."""

    name: str
    running: float
    slots: float
    waiting: float
    kv: float
    tokens: float
    preemptions: float

    @property
    def batch(self) -> float:
        """How full it is."""
        return _part(self.running, self.slots)


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for admission, of all replicas; `filled` is the fuller of tokens and pixels."""

    requests: float
    tokens: float
    pixels: float
    filled: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Per second, over the interval; money per hour.

    `cached` is a part of the prompts' tokens, `images_cached` of the pictures.
    """

    requests: Mapping[str, float]
    prompt_tokens: float
    completion_tokens: float
    images: float
    cached: float
    images_cached: float
    dollars: float
    refusals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Account:
    """One of those that use most; tokens and requests a second, dollars an hour."""

    name: str
    tokens: float
    requests: float
    dollars: float


@dataclass(frozen=True, slots=True)
class Alert:
    """One that fires, or is about to; `runbook` says what to do."""

    name: str
    severity: str
    state: str
    summary: str
    runbook: str


@dataclass(frozen=True, slots=True)
class View:
    """All of it. `latencies` are quantiles in seconds by what is measured; nan: nothing was."""

    seconds: float
    replicas: tuple[Replica, ...]
    queue: Queue
    traffic: Traffic
    latencies: Mapping[str, tuple[float, ...]]
    accounts: tuple[Account, ...]
    backlog: float


def view(change: Change) -> View:
    """What to show of it."""
    return View(
        seconds=change.now.at - change.before.at,
        replicas=tuple(_replicas(change)),
        queue=_queue(change),
        traffic=_traffic(change),
        latencies={
            name: tuple(change.quantile(metric, q) for q in _QUANTILES)
            for name, metric in (
                ("first token", words.TTFT),
                ("between tokens", words.ITL),
                ("whole answer", words.DURATION),
                ("wait for admission", words.QUEUED),
            )
        },
        accounts=tuple(_accounts(change)),
        backlog=change.now.total(words.BACKLOG.name),
    )


def alerts(answer: Mapping[str, Any]) -> list[Alert]:
    """Of Prometheus' `/api/v1/alerts`: pages first, those that fire before those that may."""
    found = [
        Alert(
            each["labels"].get("alertname", ""),
            each["labels"].get("severity", ""),
            each["state"],
            each["annotations"].get("summary", ""),
            each["annotations"].get("runbook", ""),
        )
        for each in answer["data"]["alerts"]
    ]
    return sorted(found, key=lambda alert: (alert.state, alert.severity, alert.name))


def _replicas(change: Change) -> Iterable[Replica]:
    now = change.now
    for machine, replica in now.by(words.UP.name, "machine", "replica"):
        here = {"machine": machine, "replica": replica}
        yield Replica(
            name=f"{machine} {replica}".strip(),
            running=now.total(words.RUNNING.name, **here),
            slots=now.total(words.RUNNING_LIMIT.name, **here),
            waiting=now.total("vllm:num_requests_waiting", **here),
            kv=now.largest("vllm:kv_cache_usage_perc", **here),
            tokens=change.rate(words.COMPLETION_TOKENS, **here),
            preemptions=change.rate("vllm:num_preemptions_total", **here),
        )


def _queue(change: Change) -> Queue:
    def total(metric: Metric) -> float:
        return change.now.total(metric.name)

    tokens, pixels = total(words.QUEUE_TOKENS), total(words.QUEUE_PIXELS)
    filled = (
        _part(tokens, total(words.QUEUE_TOKENS_LIMIT)),
        _part(pixels, total(words.QUEUE_PIXELS_LIMIT)),
    )
    return Queue(total(words.QUEUE_REQUESTS), tokens, pixels, max(filled))


def _traffic(change: Change) -> Traffic:
    prompt = change.rate(words.PROMPT_TOKENS)
    return Traffic(
        requests=_rates(change, words.REQUESTS, "outcome"),
        prompt_tokens=prompt,
        completion_tokens=change.rate(words.COMPLETION_TOKENS),
        images=change.rate(words.IMAGES),
        cached=_part(change.rate(words.CACHED_TOKENS), prompt),
        images_cached=_part(
            change.rate("vllm:mm_cache_hits_total"), change.rate("vllm:mm_cache_queries_total")
        ),
        dollars=_HOUR * change.rate(words.COST),
        refusals=_rates(change, words.REFUSALS, "reason"),
    )


def _rates(change: Change, metric: Metric, label: str) -> dict[str, float]:
    """Of those that moved."""
    rates = {
        name: change.rate(metric, **{label: name}) for (name,) in change.now.by(metric.name, label)
    }
    return {name: rate for name, rate in rates.items() if rate}


def _accounts(change: Change) -> list[Account]:
    """The busiest, and the rest as one, if they did anything."""
    found = [
        Account(
            name,
            tokens=change.rate(words.ACCOUNT_TOKENS, account=name),
            requests=change.rate(words.ACCOUNT_REQUESTS, account=name),
            dollars=_HOUR * change.rate(words.ACCOUNT_COST, account=name),
        )
        for (name,) in change.now.by(words.ACCOUNT_REQUESTS.name, "account")
    ]
    active = sorted((each for each in found if each.requests), key=lambda each: -each.tokens)
    named = [each for each in active if each.name != OTHER][:_BUSIEST]
    return named + [each for each in active if each.name == OTHER]


def _part(some: float, of: float) -> float:
    return some / of if of else 0.0
