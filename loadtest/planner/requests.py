"""Requests as the simulator sees them: lengths, tiles, what they share, what comes after.

They come from the scenarios and traces of real runs, or from the records of one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from loadtest import arrivals, traces
from loadtest.actors import seat
from loadtest.core import Record, UsageError
from loadtest.planner.tiles import tiles
from loadtest.scenario import Scenario, Tenant
from loadtest.traces import Arrival
from loadtest.workload import Workload

_HASHED = 512  # tokens of one of Mooncake's blocks
# Tokens that fill the 16 KiB which the router reads of how a conversation begins: whatever comes
# after them, requests begin alike to it.
_LONG = 4096


Picture = tuple[object, int]
"""What it is, and its tiles; equal ones are the same picture."""


@dataclass(frozen=True, slots=True)
class Question:
    """One turn. Lengths in tokens; `prefix` names the equal pieces of a shared
    beginning of `shared` tokens."""

    prompt: int
    output: int
    tiles: int = 0
    think: float = 0.0
    prefix: tuple[object, ...] = ()
    shared: int = 0
    pictures: tuple[Picture, ...] = ()


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way. `account`: among which shares are fair; a tenant has its own unless
    it is said. `like`: by which number the router knows its beginning; `None` if no other begins
    so. What comes below `user` is the replica's to fill in."""

    tenant: str
    due: float
    prompt: int
    output: int
    tiles: int = 0
    prefix: tuple[object, ...] = ()
    shared: int = 0
    pictures: tuple[Picture, ...] = ()
    weight: float = 1.0
    stream: bool = True
    dialogue: tuple[Question, ...] = ()
    talk: object = None  # the conversation, which is nobody else's
    like: int | None = None
    turn: int = 0
    user: int = -1  # of a closed loop
    account: str = ""
    cached: int = 0
    standing: float = 0.0  # among those that the engine reads: less goes first
    left: int = 0  # prompt tokens not yet prefilled
    encode: int = 0  # tiles not yet encoded
    kv: float = 0.0
    first: float = -1.0
    begun: int = 0  # the stretch in which it began to decode
    done: bool = False

    def __post_init__(self) -> None:
        self.account = self.account or self.tenant

    def following(self, end: float) -> Request | None:
        """The next turn of the conversation, its due time when its user has thought."""
        if self.turn + 1 >= len(self.dialogue):
            return None
        following = self.dialogue[self.turn + 1]
        history = self.prompt + self.output
        return Request(
            tenant=self.tenant,
            due=end + following.think,
            prompt=history + following.prompt,
            output=following.output,
            tiles=self.tiles,
            prefix=(self.talk,),
            talk=self.talk,
            like=self.like,
            shared=history,
            pictures=self.pictures,
            weight=self.weight,
            stream=self.stream,
            dialogue=self.dialogue,
            turn=self.turn + 1,
            user=self.user,
            account=self.account,
        )


class Author:
    """Draws one tenant's dialogues: the very lengths that a run with this seed asks for."""

    def __init__(self, tenant: Tenant, seed: str, tile: int) -> None:
        self.tenant = tenant
        self._work: Workload = tenant.workload()
        self._plan = random.Random(f"plan {seed}")
        self._tiles = [(i, tiles(size, tile)) for i, size in enumerate(self._work.sizes)]
        self._names = random.Random(f"names {seed}")
        self._named: dict[object, int] = {}  # beginnings that are drawn again and again

    def begin(self, due: float, user: int = -1) -> Request:
        """The first request of a new dialogue."""
        turns = self._work.turns.draw_count(self._plan, least=1)
        first = self._question(first=True)
        later = [self._question(first=False) for _ in range(turns - 1)]
        talk = object() if turns > 1 else None
        return Request(
            tenant=self.tenant.name,
            due=due,
            prompt=first.prompt,
            output=first.output,
            tiles=first.tiles,
            prefix=first.prefix,
            shared=first.shared,
            pictures=first.pictures,
            weight=self.tenant.weight,
            stream=self._work.stream,
            dialogue=(first, *later) if later else (),
            talk=talk,
            like=self._name(first, talk),
            user=user,
        )

    def _question(self, first: bool) -> Question:
        """In the order in which `loadtest.workload.Author` draws."""
        work, plan = self._work, self._plan
        length = work.prompt_tokens.draw_count(plan, least=1)
        prefix, shared = self._prefix(first)
        count = work.images.draw_count(plan) if first and self._tiles else 0
        pictures = tuple(self._picture() for _ in range(count))
        cut = sum(each[1] for each in pictures)
        output = work.output_tokens.draw_count(plan, least=1)
        think = 0.0 if first else work.think.draw(plan)
        return Question(length + shared, output, cut, think, prefix, shared, pictures)

    def _picture(self) -> Picture:
        (size, cut), pool = self._plan.choice(self._tiles), self._work.pictures
        which = pool.drawn(self._plan) if pool else None
        return (object() if which is None else (self.tenant.name, size, which)), cut

    def _name(self, first: Question, talk: object) -> int | None:
        """What of it the router goes by: the first picture, else the conversation's beginning."""
        beginning: object = None
        if first.pictures:
            beginning = first.pictures[0][0]
        elif first.prefix and first.shared >= _LONG:
            beginning = first.prefix
        if isinstance(beginning, tuple):
            return self._named.setdefault(beginning, self._names.getrandbits(64))
        return self._names.getrandbits(64) if talk else None

    def _prefix(self, first: bool) -> tuple[tuple[object, ...], int]:
        prefixes = self._work.prefixes
        if prefixes is None or not first:
            return (), 0
        if self._plan.random() < prefixes.share:
            return ((self.tenant.name, self._plan.randrange(prefixes.pool)),), prefixes.tokens
        return (), prefixes.tokens


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in order of due time, and users who each ask again when they are answered."""

    opening: Iterable[Request]
    users: Mapping[int, Author] = field(default_factory=dict)
    duration: float = float("inf")  # nothing becomes due after it

    def again(self, request: Request, end: float) -> Request | None:
        """What `request`'s user asks next, if anything."""
        found = request.following(end)
        if found is None and request.user >= 0:
            found = self.users[request.user].begin(end, request.user)
        return found if found is not None and found.due < self.duration else None


def of_scenario(scenario: Scenario, tile: int = 560) -> Load:
    """What a run of the scenario asks, when all is well.

    Raises:
        UsageError: the scenario has User classes, whose Python cannot be foreseen.
    """
    if scenario.users:
        raise UsageError("User classes cannot be simulated; give tenants or a trace")
    duration = scenario.duration or float("inf")
    if trace := scenario.load.trace:
        found = traces.read(trace.file, trace.format, trace.speed)
        return Load(_replayed(found, scenario.tenants[0].name), duration=duration)
    authors = [Author(t, f"{scenario.seed}/{t.name}/0", tile) for t in scenario.tenants]
    shares = [tenant.share for tenant in scenario.tenants]
    if count := scenario.load.concurrency:
        users = {number: authors[seat(number, shares)] for number in range(count)}
        ramp = scenario.load.ramp or 0.0
        opening = [each.begin(ramp * n / count, n) for n, each in users.items()]
        return Load(opening, users, duration)
    return Load(_open(scenario, authors, shares, duration), duration=duration)


def _open(
    scenario: Scenario, authors: list[Author], shares: list[float], duration: float
) -> Iterator[Request]:
    if duration == float("inf"):
        raise UsageError("an open loop needs a duration to be simulated")
    mix = random.Random(f"mix {scenario.seed} 0")
    profile = arrivals.profile(scenario.load.rate or "1", duration)
    process = arrivals.process(scenario.load.arrivals)
    sums = list(accumulate(shares))
    for due in arrivals.schedule(profile, process, duration, str(scenario.seed)):
        (author,) = mix.choices(authors, cum_weights=sums)
        yield author.begin(due)


def _replayed(found: list[Arrival], tenant: str) -> Iterator[Request]:
    for each in found:
        shared = min(len(each.blocks), each.prompt_tokens // _HASHED)
        prefix = each.blocks[:shared]
        yield Request(
            tenant,
            each.at,
            each.prompt_tokens,
            each.output_tokens,
            prefix=prefix,
            shared=shared * _HASHED,
            like=hash(prefix[: _LONG // _HASHED]) if shared * _HASHED >= _LONG else None,
        )


def of_records(records: Iterable[Record], tiles_of: Mapping[str, int]) -> list[Request]:
    """The requests of a run that were answered, due when they were, with the hits they had.

    Records do not say whose token a tenant used: taken as that of the run, one account.
    """
    found = [
        Request(
            tenant=record.tenant,
            due=record.sent,
            prompt=max(1, record.text_tokens),
            output=max(1, record.tokens),
            tiles=tiles_of.get(record.tenant, 0),
            cached=record.cached_text_tokens,
            stream=record.stream,
            account="the run's",
        )
        for record in records
        if not record.error
    ]
    return sorted(found, key=lambda request: request.due)
