"""What tenants cost: authentication, admission and metering on, against one token and none of it.

Both sides are the same gateway on the fake engine, called in this process without sockets, so that
nothing but the gateway computes. CPU time is the process's, with the threads that ask for tokens,
sync the journal and ship usage to an SQLite file on disk. Prompts are tokenized as a replica does
it: once on either side, when admission asks how large a request is or when the engine begins.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.gateway import ask
from benchmarks.rounds import Spread, orders
from serving.admission.gate import Gate, Policy
from serving.admission.redis import Shared
from serving.admission.store import Memory, Store
from serving.catalog import Catalog, Model
from serving.cluster.tenants import Tenants
from serving.core import Delta, Generation, Limits, Size
from serving.engine import Spent, unheard
from serving.engine.fake import FakeEngine
from serving.engine.prompt import Ahead, Prompter
from serving.gateway.app import Gateway
from serving.gateway.auth import Credentials
from serving.settings import Settings
from serving.tenancy import accounts

NAME = "tenancy_cost"
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
ACCOUNT, TOKEN = secrets.token_hex(16), secrets.token_urlsafe(30)
TARGET = 300.0
TOKENS = 64
LIMITS = Limits(
    requests_per_minute=10**7,
    tokens_per_minute=10**9,
    concurrent_requests=1000,
    tokens_per_day=10**12,
    picodollars_per_month=10**17,
    max_context=8192,
    max_images=4,
)
_CHECKPOINT = Path(__file__).parent.parent / "checkpoint"


def main() -> None:
    """The command."""
    options = _options()
    settings = {"requests_per_side_and_round": options.requests, "limits": 5, "tokens": TOKENS}
    head = report.start(NAME, settings, options.quick, options.note)
    rounds = asyncio.run(_measured(options))
    rows, summary = [], {}
    for kind in ("plain", "streaming"):
        for side in [side for side in rounds[0][kind] if side != "off"]:
            added = Spread.of([each[kind][side] - each[kind]["off"] for each in rounds])
            off = Spread.of([each[kind]["off"] for each in rounds])
            rows.append(
                {
                    "answer": kind,
                    "limits kept in": side,
                    "CPU us/request without": off.text(0),
                    "added by tenants, us": added.text(0),
                    "target": f"≤ {TARGET:.0f}",
                }
            )
            summary[f"{kind} {side}"] = added.json()
    report.finish(head, rows, summary, rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--redis", default="", help="URL of a Redis, for a third side")
    parser.add_argument("--quick", action="store_true", help="two rounds of 500 requests")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests = 2, 500
    return options


async def _measured(options: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """Microseconds of CPU per request by kind and side, for each round."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state_dir=Path(folder), account_id=ACCOUNT, api_token=TOKEN)
        tenants = Tenants(settings)
        with tenants.tenancy.database.begin() as connection:
            accounts.set_limits(connection, NAME, ACCOUNT, None, LIMITS)
        sides = {"off": _without(), "memory": _with(tenants, Memory())}
        if options.redis:
            sides["Redis"] = _with(tenants, Shared(options.redis))
        rounds = []
        for order in orders(list(sides), options.rounds):
            found: dict[str, dict[str, float]] = {"plain": {}, "streaming": {}}
            for side in order:
                for kind, figures in found.items():
                    figures[side] = await _cost(sides[side], kind, options.requests)
            rounds.append(found)
        tenants.close()
    return rounds


def _catalog() -> Catalog:
    return Catalog(Model(id=MODEL, checkpoint=Path(), context_window=8192, max_images=4))


class _Engine(FakeEngine):
    """The fake one, which makes prompts as the real one does: once."""

    def __init__(self, prompter: Prompter) -> None:
        super().__init__()
        self._prompts = Ahead(prompter)

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        self._prompts.tokens(generation, datetime.now(UTC).date())
        async for delta in super().generate(generation, spent):
            yield delta

    def size(self, generation: Generation) -> Size:
        return Size(self._prompts.count(generation, datetime.now(UTC).date()))


def _without() -> Gateway:
    engine = _Engine(Prompter.load(_CHECKPOINT))
    return Gateway(engine, _catalog(), Credentials(ACCOUNT, TOKEN))


def _with(tenants: Tenants, store: Store) -> Gateway:
    engine = _Engine(Prompter.load(_CHECKPOINT))
    return Gateway(
        engine,
        _catalog(),
        tenants.identity,
        admission=Gate(Policy(slots=64), store, engine.size, tenants.price),
        begin=tenants.meter.begin,
        admin=tenants.admin,
        observers=[tenants.meter.end],
    )


async def _cost(gateway: Gateway, kind: str, requests: int) -> float:
    """Microseconds of CPU per request, eight at a time as an engine's batch would have them."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": "word " * TOKENS}],
            "max_tokens": TOKENS,
            "stream": kind == "streaming",
        }
    ).encode()
    await asyncio.gather(*(ask(gateway, ACCOUNT, TOKEN, MODEL, body) for _ in range(8)))
    gc.collect()
    began = time.process_time()
    for _ in range(requests // 8):
        await asyncio.gather(*(ask(gateway, ACCOUNT, TOKEN, MODEL, body) for _ in range(8)))
    # What the threads have still to do for these requests counts too.
    await asyncio.sleep(0.6)
    return (time.process_time() - began) / (requests // 8 * 8) * 1e6


if __name__ == "__main__":
    main()
