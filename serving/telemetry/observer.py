"""A receipt becomes counts: once per request, when it has ended, in tens of microseconds."""

from __future__ import annotations

from collections.abc import Callable

from serving.core import Receipt, Usage
from serving.telemetry import vocabulary as words
from serving.telemetry.names import Names
from serving.telemetry.shelf import Shelf

_PICODOLLARS = 1e12  # in a dollar


class Observer:
    """An observer of receipts, for the gateway."""

    def __init__(self, shelf: Shelf, price: Callable[[str, Usage], int], accounts: int) -> None:
        """`price` of a model's usage in picodollars; `accounts` get series of their own."""
        self._shelf = shelf
        self._price = price
        self._names = Names(accounts, shelf.labels_of(words.ACCOUNT_REQUESTS, "account"))

    def __call__(self, receipt: Receipt) -> None:
        """Count it."""
        shelf, outcome = self._shelf, receipt.outcome.value
        route, code = receipt.route or "none", str(receipt.code or "")
        shelf.counter(words.REQUESTS, route, outcome, str(receipt.status), code).inc()
        if receipt.reason:
            shelf.counter(words.REFUSALS, receipt.reason).inc()
        trace = receipt.trace.id if receipt.trace and receipt.trace.sampled else ""
        if receipt.queued is not None:
            shelf.observe(words.QUEUED, receipt.queued, trace=trace)
        if receipt.stages is not None:
            shelf.observe(words.PREFILL, receipt.stages.prefill, trace=trace)
        if receipt.ttft is not None:
            self._times(receipt, route, receipt.ttft, trace)
        dollars = self._price(receipt.model, receipt.usage) / _PICODOLLARS
        self._used(receipt, dollars)
        # Before it is known who asks, the account is whatever the path says: no label.
        if receipt.token:
            self._account(receipt, outcome, dollars)

    def _times(self, receipt: Receipt, route: str, ttft: float, trace: str) -> None:
        shelf, after_first = self._shelf, receipt.usage.completion_tokens - 1
        shelf.observe(words.DURATION, receipt.duration, route, trace=trace)
        if not receipt.stream:
            return  # its first token is seen with the last
        shelf.observe(words.TTFT, ttft, route, trace=trace)
        if after_first > 0:
            each = (receipt.duration - ttft) / after_first
            shelf.observe(words.TPOT, each, route, trace=trace)
        shelf.observe_all(words.ITL, receipt.gaps, route)

    def _used(self, receipt: Receipt, dollars: float) -> None:
        usage = receipt.usage
        for metric, amount in (
            (words.PROMPT_TOKENS, usage.prompt_tokens),
            (words.CACHED_TOKENS, usage.cached_tokens),
            (words.COMPLETION_TOKENS, usage.completion_tokens),
            (words.IMAGES, receipt.images),
            (words.IMAGE_TOKENS, usage.image_tokens),
            (words.COST, dollars),
        ):
            if amount:
                self._shelf.counter(metric).inc(amount)

    def _account(self, receipt: Receipt, outcome: str, dollars: float) -> None:
        usage, shelf = receipt.usage, self._shelf
        name = self._names.of(receipt.account, usage.prompt_tokens + usage.completion_tokens)
        shelf.counter(words.ACCOUNT_REQUESTS, name, outcome).inc()
        shelf.counter(words.ACCOUNT_TOKENS, name, "prompt").inc(usage.prompt_tokens)
        shelf.counter(words.ACCOUNT_TOKENS, name, "completion").inc(usage.completion_tokens)
        shelf.counter(words.ACCOUNT_COST, name).inc(dollars)
