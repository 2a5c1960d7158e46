"""Metering as the gateway sees it: `begin` when a request goes to the engine, `end` as observer."""

from __future__ import annotations

from collections.abc import Callable

from serving.core import Receipt, Usage
from serving.tenancy import record
from serving.tenancy.journal import Journal
from serving.tenancy.prices import FREE, Prices


class Meter:
    """Prices what was used and hands it to the journal."""

    def __init__(self, journal: Journal, prices: Prices) -> None:
        self._journal = journal
        self._prices = prices

    def begin(self, sofar: Receipt) -> Callable[[Usage], None] | None:
        """What this returns hears all that the request has used, each time it is more."""
        if not sofar.token:
            return None
        start = record.Start(
            receipt=sofar.id,
            at=int(sofar.at * 1000),
            account=sofar.account,
            token=sofar.token,
            route=sofar.route,
            model=sofar.model,
            images=sofar.images,
            price=self._prices.get(sofar.model, FREE),
            adapter=sofar.adapter,
        )
        return self._journal.begin(start)

    def end(self, receipt: Receipt) -> None:
        """An observer: keep the receipt of whoever is known. Takes microseconds."""
        if receipt.token:
            self._journal.write(record.of(receipt, self._prices))
