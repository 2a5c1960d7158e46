"""What the schema adapter costs: bodies to generations and answers back, and tokens to frames.

No socket and no engine: the pure functions of `serving.protocol`, in one thread, by CPU time. Each
round does every dialect in turn. Text requests of a few hundred characters, and one with tools.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report, rounds
from serving.catalog import Catalog, Model
from serving.core import Delta, Finish, Usage
from serving.protocol import (
    anthropic,
    native,
    openai_chat,
    openai_completions,
    openai_responses,
)
from serving.protocol.dialect import Ask, Dialect

NAME = "adapter"
REQUEST_TARGET = 150.0
FRAME_TARGET = 10.0
_MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
_QUESTION = "Tell me about the sea, the ships on it and the people in them. " * 5
_ANSWER = "The sea is wide, the ships are many and the people in them are few. " * 5
_TOOL = {
    "name": "get_weather",
    "description": "Weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "A city"}},
        "required": ["city"],
    },
}
_TURNS = [
    {"role": "system", "content": "You are a friendly assistant."},
    {"role": "user", "content": _QUESTION},
]
_COMMON = {"max_tokens": 200, "temperature": 0.7, "top_p": 0.9}


@dataclass(frozen=True)
class Case:
    """A dialect and a request in it."""

    dialect: Dialect
    body: dict[str, Any]
    model: str = ""


CASES = {
    "ai/run": Case(native.DIRECT, {"messages": _TURNS, **_COMMON, "seed": 7}, _MODEL),
    "ai/run with a tool": Case(
        native.DIRECT, {"messages": _TURNS, **_COMMON, "tools": [_TOOL]}, _MODEL
    ),
    "chat/completions": Case(
        openai_chat.DIALECT, {"model": _MODEL, "messages": _TURNS, **_COMMON, "seed": 7}
    ),
    "completions": Case(
        openai_completions.DIALECT, {"model": _MODEL, "prompt": _QUESTION, **_COMMON}
    ),
    "responses": Case(
        openai_responses.DIALECT, {"model": _MODEL, "input": _TURNS, "max_output_tokens": 200}
    ),
    "messages": Case(
        anthropic.DIALECT,
        {"model": _MODEL, "messages": _TURNS[1:], "system": "Be friendly.", **_COMMON},
    ),
}


def main() -> None:
    """The command."""
    options = _options()
    settings = {
        "question": f"{len(_QUESTION)} characters",
        "answer": f"{len(_ANSWER)} characters",
        "requests a round": options.requests,
        "tokens a round": options.tokens,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    gc.disable()  # what it would collect is not the adapter's alone
    seen: list[dict[str, dict[str, float]]] = []
    for order in rounds.orders(list(CASES), options.rounds):
        seen.append({name: _measured(CASES[name], options) for name in order})
        gc.collect()
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="four rounds")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 4
    return options


def _measured(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """Microseconds a request and a token."""
    model = Model(id=_MODEL, checkpoint=Path(), context_window=8192, max_images=1)
    ask = Ask("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", Catalog(model), case.model, 1_800_000_000)
    body = json.dumps(case.body).encode()
    whole = Delta(_ANSWER, finish=Finish.STOP, usage=Usage(100, 80))

    def request() -> None:
        case.dialect.parse(body, ask)[1].whole(whole)

    streaming = json.dumps({**case.body, "stream": True}).encode()
    writer = case.dialect.parse(streaming, ask)[1]
    token = Delta(" word", usage=Usage(100, 3))
    writer.frames(token)  # the first is dearer, and there is one a request

    return {
        "request": _microseconds(request, options.requests),
        "token": _microseconds(lambda: writer.frames(token), options.tokens),
    }


def _microseconds(work: Callable[[], Any], times: int) -> float:
    """Of CPU time, for one of them."""
    began = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - began) / times / 1000


def _report(head: dict[str, Any], seen: list[dict[str, dict[str, float]]]) -> None:
    rows, summary = [], {}
    for name in CASES:
        request = rounds.Spread.of([figures[name]["request"] for figures in seen])
        token = rounds.Spread.of([figures[name]["token"] for figures in seen])
        rows.append(
            {
                "dialect": name,
                "parse, validate, render: µs a request": request.text(1),
                "target": f"≤ {REQUEST_TARGET:g}",
                "µs a streamed token": token.text(2),
                "its target": f"≤ {FRAME_TARGET:g}",
            }
        )
        summary[name] = {"request": request.json(), "token": token.json()}
    report.finish(head, rows, summary, seen)


if __name__ == "__main__":
    main()
