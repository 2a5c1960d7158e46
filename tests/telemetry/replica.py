"""A replica's gateway as a process of its own, to be killed: `python -m tests.telemetry.replica`.

All is what serves, but for the engine (the fake one) and Ray. Its counts of tokens go to a file.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import uvicorn
from prometheus_client import Counter

from serving.catalog import Catalog, Model
from serving.cluster.telemetry import Telemetry
from serving.cluster.tenants import Tenants
from serving.core import Delta, Generation
from serving.engine import Spent, unheard
from serving.engine.fake import FakeEngine, Faults
from serving.gateway.app import Gateway
from serving.settings import Settings
from tests.telemetry.conftest import ACCOUNT, MODEL, TOKEN, VISION


class Seeing(FakeEngine):
    """Tells how long its vision encoder took as the real one does: late."""

    telemetry: Telemetry

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        async for delta in super().generate(generation, spent):
            yield delta
        if generation.images:
            loop = asyncio.get_running_loop()
            loop.call_later(0.1, self.telemetry.encoded, generation.id, VISION)


def main() -> None:
    port, state, metrics_port, secret, slots = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG)
    settings = Settings.model_validate(
        {
            "state_dir": state,
            "account_id": ACCOUNT,
            "api_token": TOKEN,
            "metrics_port": metrics_port,
            "metrics_token": secret,
            "prices": "default",
        }
    )
    telemetry = Telemetry(settings)
    # As vLLM makes its own, later and in the library's registry.
    Counter("vllm:num_preemptions", "As vLLM's", ["engine"]).labels("0").inc(3)
    tenants = Tenants(settings)
    model = Model(
        id=MODEL,
        checkpoint=Path(),
        context_window=2048,
        max_images=2,
        engine={"max_num_seqs": int(slots)},
    )
    gate = tenants.admission(model, FakeEngine.size)
    telemetry.watch(gate, tenants)
    engine = Seeing(faults=Faults(first_token_delay=0.3, token_delay=0.01))
    engine.telemetry = telemetry
    gateway = Gateway(
        engine,
        Catalog(model),
        tenants.identity,
        admission=gate,
        begin=tenants.meter.begin,
        admin=tenants.admin,
        observers=(tenants.meter.end, *telemetry.observers(tenants.price)),
        tracing=telemetry.tracing,
    )
    uvicorn.run(gateway, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
    telemetry.close()
    tenants.close()


if __name__ == "__main__":
    main()
