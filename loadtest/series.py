"""What a run adds up to: tallies of blocks of time, mergeable between workers.

Everything that is reported comes from here, live or from a file of records: totals, quantiles,
intervals (by resampling blocks), the steady state, the curves. Memory does not grow with a run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import msgspec

from loadtest.core import Failure, Record
from loadtest.histogram import Histogram

BLOCKS = 64  # of the window, if its length is known
_MOST = 4 * BLOCKS
TIMES = ("ttft", "itl", "tpot", "e2e", "service_ttft", "service_e2e", "connect", "send_delay")


class Tally(msgspec.Struct):
    """Requests that were due in one block. Latencies are of those that did not fail."""

    requests: int = 0
    attained: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    text_tokens: int = 0  # of the prompts, without those of pictures
    cached_text_tokens: int = 0
    frames: int = 0  # of streams
    streamed_tokens: int = 0
    unmetered: int = 0  # answered without usage
    errors: dict[str, int] = {}
    codes: dict[str, int] = {}
    ttft: Histogram = msgspec.field(default_factory=Histogram)
    itl: Histogram = msgspec.field(default_factory=Histogram)
    tpot: Histogram = msgspec.field(default_factory=Histogram)
    e2e: Histogram = msgspec.field(default_factory=Histogram)
    service_ttft: Histogram = msgspec.field(default_factory=Histogram)
    service_e2e: Histogram = msgspec.field(default_factory=Histogram)
    connect: Histogram = msgspec.field(default_factory=Histogram)
    send_delay: Histogram = msgspec.field(default_factory=Histogram)

    @property
    def failed(self) -> int:
        """Requests that ended in any error."""
        return sum(self.errors.values())

    def add(self, record: Record, attained: bool) -> None:
        """Count one request and its times."""
        self.count(record, attained)
        if record.error != Failure.OVERFLOW:
            self.send_delay.add(record.sent - record.connect - record.intended)
        if not record.error:
            self._times(record)

    def count(self, record: Record, attained: bool) -> None:
        """Count one request, without its times."""
        self.requests += 1
        self.attained += attained
        self.output_tokens += record.tokens
        if record.stream:
            self.frames += record.frames
            self.streamed_tokens += record.tokens
        self.cached_tokens += record.cached_tokens
        self.text_tokens += max(0, record.text_tokens)
        self.cached_text_tokens += record.cached_text_tokens
        self.prompt_tokens += max(0, record.prompt_tokens)
        if record.code is not None:
            code = str(record.code)
            self.codes[code] = self.codes.get(code, 0) + 1
        if record.error:
            self.errors[record.error] = self.errors.get(record.error, 0) + 1
        else:
            self.unmetered += record.output_tokens < 0

    def _times(self, record: Record) -> None:
        self.e2e.add(record.end - record.intended)
        self.service_e2e.add(record.end - record.sent)
        if record.connect:
            self.connect.add(record.connect)
        if record.first_token is None or not record.stream:
            return
        self.ttft.add(record.first_token - record.intended)
        self.service_ttft.add(record.first_token - record.sent)
        if record.gaps:
            self.itl.extend(record.gaps)
            if record.tokens > 1:
                self.tpot.add(sum(record.gaps) / 1e6 / (record.tokens - 1))

    def merge(self, other: Tally) -> None:
        """Add all of another."""
        if not other.requests:
            return
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.errors, other.errors), (self.codes, other.codes)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        for name in TIMES:
            getattr(self, name).merge(getattr(other, name))


_COUNTS = tuple(each.name for each in msgspec.structs.fields(Tally) if each.type is int)


def total(tallies: Iterable[Tally]) -> Tally:
    """One tally of all."""
    whole = Tally(errors={}, codes={})
    for each in tallies:
        whole.merge(each)
    return whole


class Series(msgspec.Struct):
    """Tallies by tenant and by block of `width` seconds since the run began.

    Beside them, by when it happened rather than by when it was due: tokens that came in a block
    and the seconds that requests spent in flight in it.
    """

    width: float = 1.0
    blocks: dict[str, list[Tally]] = {}
    tokens: list[float] = []
    busy: list[float] = []

    @classmethod
    def over(cls, duration: float | None) -> Series:
        """Blocks such that a window of `duration` seconds ends with one."""
        return cls(duration / BLOCKS if duration else 1.0, {}, [], [])

    def add(self, record: Record, attained: bool = True) -> None:
        """Count one request."""
        self.reach(record.end)
        index = int(max(0.0, record.intended) / self.width)
        self.block(record.tenant, index).add(record, attained)
        self._spread_busy(record)
        self._spread_tokens(record)

    def reach(self, end: float) -> None:
        """Make blocks wide enough for requests that end at `end`."""
        while end >= _MOST * self.width:
            self._coarsen()

    def block(self, tenant: str, index: int) -> Tally:
        """A tenant's tally of a block."""
        tallies = self.blocks.setdefault(tenant, [])
        while len(tallies) <= index:
            tallies.append(Tally(errors={}, codes={}))
        return tallies[index]

    def merge(self, other: Series) -> None:
        """Add what another worker saw of the same run."""
        while self.width < other.width * 0.999:
            self._coarsen()
        while other.width < self.width * 0.999:
            other._coarsen()
        for tenant, theirs in other.blocks.items():
            for index, tally in enumerate(theirs):
                self.block(tenant, index).merge(tally)
        self.tokens = _added(self.tokens, other.tokens)
        self.busy = _added(self.busy, other.busy)

    def timeline(self) -> list[Tally]:
        """The blocks of all tenants together; of an only one, its own."""
        if len(self.blocks) == 1:
            return next(iter(self.blocks.values()))
        longest = max(map(len, self.blocks.values()), default=0)
        return [
            total(tallies[index] for tallies in self.blocks.values() if index < len(tallies))
            for index in range(longest)
        ]

    def fold(self) -> Series:
        """Make it ready to be encoded. Returns itself."""
        for tallies in self.blocks.values():
            for tally in tallies:
                for name in TIMES:
                    getattr(tally, name).fold()
        return self

    def _coarsen(self) -> None:
        """Make blocks twice as wide."""
        self.width *= 2
        for tenant, tallies in self.blocks.items():
            pairs = range(0, len(tallies), 2)
            self.blocks[tenant] = [total(tallies[i : i + 2]) for i in pairs]
        self.tokens = [sum(self.tokens[i : i + 2]) for i in range(0, len(self.tokens), 2)]
        self.busy = [sum(self.busy[i : i + 2]) for i in range(0, len(self.busy), 2)]

    def _spread_busy(self, record: Record) -> None:
        begin, end, width = record.sent, record.end, self.width
        begin = begin if begin > 0 else 0.0
        first, last = int(begin / width), int(end / width)
        if last >= len(self.busy):
            reach(self.busy, last)
        if first == last:
            self.busy[first] += end - begin
            return
        self.busy[first] += (first + 1) * width - begin
        for index in range(first + 1, last):
            self.busy[index] += width
        self.busy[last] += end - last * width

    def _spread_tokens(self, record: Record) -> None:
        """Each frame stands for its share of the tokens of usage."""
        if record.first_token is None or not record.frames:
            return
        width, weight = self.width, record.tokens / record.frames
        first, last = int(record.first_token / width), int(record.end / width)
        if last >= len(self.tokens):
            reach(self.tokens, last)
        if first == last:
            self.tokens[first] += record.tokens
            return
        moments = list(accumulate(record.gaps, initial=round(record.first_token * 1e6)))
        before = 0
        for index in range(first, last + 1):
            after = bisect_right(moments, (index + 1) * width * 1e6)
            self.tokens[index] += (after - before) * weight
            before = after


def reach(values: list[float], index: int) -> None:
    """Make room for the block `index`."""
    values += [0.0] * (index + 1 - len(values))


def _added(a: list[float], b: list[float]) -> list[float]:
    longest = max(len(a), len(b))
    return [(a[i] if i < len(a) else 0.0) + (b[i] if i < len(b) else 0.0) for i in range(longest)]
