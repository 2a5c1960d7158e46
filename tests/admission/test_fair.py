"""Fair shares of the engine: by cost and weight, whatever each tenant offers."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving.admission.fair import FairQueue, Waiting


def shares(offers: dict[str, tuple[int, float, int]], turns: int) -> Counter[str]:
    """Cost served to each of `flow: (requests waiting, cost of each, weight)`."""
    queue = FairQueue()
    for flow, (count, cost, weight) in offers.items():
        for _ in range(count):
            queue.push(Waiting(flow, cost, weight=weight))
    served: Counter[str] = Counter()
    for _ in range(turns):
        item = queue.pop()
        served[item.flow] += item.cost  # type: ignore[assignment]
    return served


def test_twenty_times_the_requests_buy_nothing() -> None:
    served = shares({"loud": (2000, 100, 1), "quiet": (100, 100, 1)}, 200)
    assert served["quiet"] == served["loud"] == 100 * 100


def test_cost_counts_and_not_requests() -> None:
    served = shares({"long": (100, 1000, 1), "short": (1000, 10, 1)}, 808)
    assert abs(served["long"] - served["short"]) <= 1000


def test_weights() -> None:
    served = shares({"one": (900, 10, 1), "three": (900, 10, 3)}, 800)
    assert served["three"] == 3 * served["one"]


def test_priority_goes_first() -> None:
    queue = FairQueue()
    low, high = Waiting("a", 1, priority=5), Waiting("b", 10**9, priority=0)
    queue.push(low)
    queue.push(high)
    assert queue.pop() is high


def test_nobody_saves_up_while_idle() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.push(Waiting("busy", 10))
        queue.pop()
    for _ in range(50):
        queue.push(Waiting("busy", 10))
        queue.push(Waiting("back", 10))
    first = Counter(queue.pop().flow for _ in range(20))
    assert abs(first["back"] - first["busy"]) <= 2


def test_what_a_tenant_had_less_than_its_share_it_may_have_now_but_no_more() -> None:
    queue = FairQueue()
    queue.credit = 70
    for _ in range(100):
        queue.push(Waiting("busy", 10))
        queue.pop()
    back = Waiting("back", 10)
    assert queue.owes(back, {"busy"})
    assert not queue.owes(back, {"back"})  # there is nobody else
    for _ in range(50):
        queue.push(Waiting("busy", 10))
        queue.push(Waiting("back", 10))
    assert [queue.pop().flow for _ in range(7)] == ["back"] * 7
    assert not queue.owes(back, ())
    next_ = Counter(queue.pop().flow for _ in range(20))
    assert abs(next_["back"] - next_["busy"]) <= 2


def test_who_always_waits_is_owed_nothing() -> None:
    """Each is one request behind the other at times."""
    queue = FairQueue()
    queue.credit = 70
    for _ in range(100):
        queue.push(Waiting("one", 10))
        queue.push(Waiting("other", 10))
    for _ in range(99):
        queue.pop()
        assert queue.owed(()) is None


def test_what_is_served_while_nobody_waits_counts_for_nothing() -> None:
    """Who had the engine for itself is not behind those who come then."""
    queue = FairQueue()
    queue.credit = 70
    for _ in range(100):
        item = Waiting("alone", 10)
        queue.serve(item)
        queue.correct(item, 5)
    for _ in range(50):
        queue.push(Waiting("coming", 10))
        queue.push(Waiting("alone", 10))
    first = Counter(queue.pop().flow for _ in range(20))
    assert abs(first["alone"] - first["coming"]) <= 2


def test_what_runs_when_somebody_begins_to_wait_is_charged() -> None:
    """A flood's first requests, for which there was room, too."""
    queue = FairQueue()
    queue.credit = 70
    flood = [Waiting("flood", 10) for _ in range(50)]
    for item in flood[:7]:
        queue.serve(item)
    for item in flood[7:]:
        queue.push(item)
    for _ in range(50):
        queue.push(Waiting("other", 10))
    assert [queue.pop().flow for _ in range(6)] == ["other"] * 6
    queue.correct(flood[0], -10)
    next_ = Counter(queue.pop().flow for _ in range(20))
    assert abs(next_["flood"] - next_["other"]) <= 2


def test_what_turned_out_longer_is_charged() -> None:
    queue = FairQueue()
    for _ in range(10):
        queue.push(Waiting("liar", 1))
        queue.push(Waiting("honest", 100))
    served: Counter[str] = Counter()
    for _ in range(10):
        item = queue.pop()
        served[item.flow] += 1
        if item.flow == "liar":
            queue.correct(item, 99)
    assert served["liar"] == served["honest"] == 5


def test_a_full_queue_drops_the_last_of_whoever_fills_it() -> None:
    queue = FairQueue()
    loud = [Waiting("loud", 1, tokens=10) for _ in range(10)]
    for item in loud:
        queue.push(item)
    assert queue.last_of_longest(Waiting("quiet", 1, tokens=10)) is loud[-1]
    assert queue.last_of_longest(Waiting("loud", 1, tokens=10)) is None
    assert queue.last_of_longest(Waiting("quiet", 1, tokens=1000)) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), min_size=1), st.randoms())
def test_nothing_is_lost_and_the_sums_are_right(
    pushed: list[tuple[str, int]], generator: random.Random
) -> None:
    queue, items = FairQueue(), []
    for flow, tokens in pushed:
        items.append(Waiting(flow, tokens, tokens=tokens, pixels=tokens * 2))
        queue.push(items[-1])
    gone = set(generator.sample(range(len(items)), len(items) // 2))
    for index in gone:
        queue.remove(items[index])
    rest = [item for index, item in enumerate(items) if index not in gone]
    assert queue.tokens == sum(item.tokens for item in rest) == queue.cost
    popped = [queue.pop() for _ in rest]
    assert {id(item) for item in popped} == {id(item) for item in rest}
    assert (len(queue), queue.tokens, queue.pixels) == (0, 0, 0)
