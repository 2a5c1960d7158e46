"""Metering as the gateway sees it: `begin` when a request goes to the engine, `end` as observer."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Protocol

from serving.core import Receipt, Usage
from serving.tenancy import record
from serving.tenancy.journal import Journal
from serving.tenancy.prices import FREE, Prices


class Begun(Protocol):
    """A request that goes to the engine: what its receipt will say and is known by now."""

    id: str
    account: str
    token: str
    route: str
    model: str
    images: int
    adapter: str


class Meter:
    """Prices what was used and hands it to the journal."""

    def __init__(self, journal: Journal, prices: Prices) -> None:
        self._journal = journal
        self._prices = prices

    def begin(self, request: Begun) -> Callable[[Usage], None] | None:
        """What this returns hears all that the request has used, each time it is more."""
        if not request.token:
            return None
        start = record.Start(
            receipt=request.id,
            at=int(time() * 1000),
            account=request.account,
            token=request.token,
            route=request.route,
            model=request.model,
            images=request.images,
            price=self._prices.get(request.model, FREE),
            adapter=request.adapter,
        )
        return self._journal.begin(start)

    def end(self, receipt: Receipt) -> None:
        """An observer: keep the receipt of whoever is known. Takes microseconds."""
        if receipt.token:
            self._journal.write(record.of(receipt, self._prices))
