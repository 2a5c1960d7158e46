"""A receipt as it is kept: one line of the journal, one row of the table `usage`.

Integers only: microseconds, milliseconds, picodollars. No prompt, no picture, no answer, no secret.

    line:  CRC-32 of the JSON (8 hex digits), a space, a `Record` as JSON, a newline
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from zlib import crc32

import msgspec

from serving.core import Receipt, Usage
from serving.tenancy.prices import FREE, Price, Prices

CRASHED = "crashed"  # the outcome of requests whose process died under them

_log = logging.getLogger("serving.tenancy")
_encode = msgspec.json.Encoder().encode


class Record(msgspec.Struct, frozen=True):
    """The columns of `tables.usage`."""

    receipt: str
    at: int
    account: str
    token: str
    route: str
    model: str
    adapter: str
    outcome: str
    finish: str | None
    status: int
    code: int | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    images: int
    duration_us: int
    ttft_us: int | None
    input_price: int
    cached_price: int
    output_price: int
    picodollars: int
    microneurons: int
    image_tokens: int = 0  # lines of journals of an earlier release have none


_decode = msgspec.json.Decoder(Record).decode


def line(record: Record) -> bytes:
    """See above."""
    data = _encode(record)
    return b"%08x %b\n" % (crc32(data), data)


def read(lines: bytes) -> Iterator[Record]:
    """The records of whole lines; one that is damaged is left out."""
    for each in lines.splitlines():
        try:
            if int(each[:8], 16) == crc32(each[9:]):
                yield _decode(each[9:])
                continue
        except (ValueError, msgspec.DecodeError):
            pass
        _log.error("a line of the journal is damaged")


def of(receipt: Receipt, prices: Prices) -> Record:
    """The record of a receipt, at today's price."""
    price = prices.get(receipt.model, FREE)
    usage = receipt.usage
    return Record(
        receipt=receipt.id,
        at=int(receipt.at * 1000),
        account=receipt.account,
        token=receipt.token,
        route=receipt.route,
        model=receipt.model,
        adapter=receipt.adapter,
        outcome=receipt.outcome.value,
        finish=receipt.finish.value if receipt.finish else None,
        status=receipt.status,
        code=receipt.code,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        image_tokens=usage.image_tokens,
        completion_tokens=usage.completion_tokens,
        images=receipt.images,
        duration_us=int(receipt.duration * 1e6),
        ttft_us=None if receipt.ttft is None else int(receipt.ttft * 1e6),
        input_price=price.input,
        cached_price=price.cached_input,
        output_price=price.output,
        picodollars=price.of(usage),
        microneurons=price.neurons(usage),
    )


class Start(msgspec.Struct, frozen=True):
    """What is known when a request goes to the engine."""

    receipt: str
    at: int
    account: str
    token: str
    route: str
    model: str
    images: int
    price: Price
    adapter: str = ""

    def crashed(self, usage: Usage) -> Record:
        """The record of a request that was cut off when it had used this much."""
        return Record(
            receipt=self.receipt,
            at=self.at,
            account=self.account,
            token=self.token,
            route=self.route,
            model=self.model,
            adapter=self.adapter,
            outcome=CRASHED,
            finish=None,
            status=0,
            code=None,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            image_tokens=usage.image_tokens,
            completion_tokens=usage.completion_tokens,
            images=self.images,
            duration_us=0,
            ttft_us=None,
            input_price=self.price.input,
            cached_price=self.price.cached_input,
            output_price=self.price.output,
            picodollars=self.price.of(usage),
            microneurons=self.price.neurons(usage),
        )
