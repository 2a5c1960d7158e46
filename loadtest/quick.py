"""`loadtest quick`: an answer in a minute, with nothing but a URL."""

from __future__ import annotations

from typing import Any

from loadtest import outcome
from loadtest.core import RunError
from loadtest.probe import at
from loadtest.scenario import Scenario

_USERS = (1, 4, 16)


async def answer(scenario: Scenario) -> tuple[dict[str, Any], list[str]]:
    """The scenario with three loads: what one user sees, and what more users make of it.

    Raises:
        RunError: nothing answers.
    """
    summaries = []
    for users in _USERS:
        calibration = 1.0 if users == _USERS[-1] else 0.0
        summary, _ = await outcome.conduct(at(scenario, users), calibration=calibration)
        summaries.append(summary)
        if summary["requests"] == summary["errors"]:
            raise RunError(f"nothing answers: {summary['reasons'][0]}")
    worst = max(summaries, key=lambda each: ("VALID", "SUSPECT", "INVALID").index(each["verdict"]))
    result = {"verdict": worst["verdict"], "loads": summaries}
    return result, _lines(summaries)


def _lines(summaries: list[dict[str, Any]]) -> list[str]:
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
    for users, each in zip(_USERS, summaries, strict=True):
        lines += [f"{users} users: {reason}" for reason in each["reasons"]]
    one, most = summaries[0], summaries[-1]
    gain = most["output_tokens_per_second"] / max(one["output_tokens_per_second"], 1e-9)
    lines.append(
        f"{_USERS[-1]} users get {gain:.1f} times the tokens of one; "
        f"`loadtest search` finds how many meet an objective."
    )
    return lines


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
