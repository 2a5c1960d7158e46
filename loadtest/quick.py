"""`loadtest quick`: an answer in a minute, with nothing but a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadtest import outcome
from loadtest.core import RunError
from loadtest.probe import at
from loadtest.scenario import Scenario

_USERS = (1, 4, 16)
_ROOM = 0.8  # of so many times the tokens of one user: nearly none waits for another


async def answer(
    scenario: Scenario, say: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, Any], list[str]]:
    """The scenario with three loads: what one user sees, and what more users make of it.

    Raises:
        RunError: nothing answers.
    """
    summaries = []
    for users in _USERS:
        say(f"{_counted(users)} for {scenario.duration:g} s ...")
        calibration = 1.0 if users == _USERS[-1] else 0.0
        summary, _ = await outcome.conduct(at(scenario, users), calibration=calibration)
        summaries.append(summary)
        if summary["requests"] == summary["errors"]:
            raise RunError(f"nothing answers: {summary['reasons'][0]}")
    worst = max(summaries, key=lambda each: ("VALID", "SUSPECT", "INVALID").index(each["verdict"]))
    result = {"verdict": worst["verdict"], "loads": summaries}
    return result, [*_table(summaries), "", *_findings(summaries), *_sentences(summaries)]


def _table(summaries: list[dict[str, Any]]) -> list[str]:
    head = f"{'users':>6}{'tokens/s':>11}{'requests/s':>12}{'TTFT p50':>11}{'p95 ms':>9}"
    lines = [head + f"{'ITL p50':>10}{'p95 ms':>9}{'errors':>8}  verdict"]
    for users, each in zip(_USERS, summaries, strict=True):
        ttft, itl = each["ttft_ms"], each["itl_ms"]
        lines.append(
            f"{users:>6}{each['output_tokens_per_second']:>11.1f}"
            f"{each['requests_per_second']:>12.2f}{_shown(ttft['p50']):>11}"
            f"{_shown(ttft['p95']):>9}{_shown(itl['p50']):>10}{_shown(itl['p95']):>9}"
            f"{each['errors']:>8}  {each['verdict']}"
        )
    return lines


def _findings(summaries: list[dict[str, Any]]) -> list[str]:
    return [
        f"{_counted(users)}: {reason}"
        for users, each in zip(_USERS, summaries, strict=True)
        for reason in each["reasons"]
    ]


def _sentences(summaries: list[dict[str, Any]]) -> list[str]:
    """What the figures mean."""
    one, most = summaries[0], summaries[-1]
    ttft = one["ttft_ms"]["p50"] or one["e2e_ms"]["p50"]
    gain = most["output_tokens_per_second"] / max(one["output_tokens_per_second"], 1e-9)
    room = (
        "so there is room for more"
        if gain > _ROOM * _USERS[-1]
        else "so they already wait for each other"
    )
    return [
        f"One user waits {ttft:.0f} ms for an answer to begin and then gets "
        f"{one['output_tokens_per_second']:.0f} tokens/s, that wait included.",
        f"{_USERS[-1]} users together get {gain:.1f} times as many, {room}; "
        "`loadtest search --slo ...` finds how many meet an objective.",
    ]


def _counted(users: int) -> str:
    return "1 user" if users == 1 else f"{users} users"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
