"""A replica's gateway as a process of its own, to be killed: `python -m tests.tenancy.victim`.

Its engine is the fake one, which writes down what it generates, token by token, into a file that
has nothing to do with receipts.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvicorn

from serving.batch.desk import Desk
from serving.batch.steps import Bounds
from serving.batch.worker import Worker
from serving.catalog import Catalog, Model
from serving.cluster.tenants import Tenants
from serving.engine.fake import FakeEngine, Faults
from serving.gateway.app import Gateway
from serving.settings import Settings
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN

LEASE = 2.0
"""Seconds after which another takes over the queued requests of one that was killed."""


class Notary(FakeEngine):
    """Writes `id prompt completion` for each token as it is made."""

    def __init__(self, file: Path, pace: float = 0.002) -> None:
        """`pace`: seconds for each token, so that some are always under way."""
        super().__init__(faults=Faults(token_delay=pace))
        self._descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(self, id_: str) -> None:
        usage = self.usage[id_]
        line = f"{id_} {usage.prompt_tokens} {usage.completion_tokens}\n"
        os.write(self._descriptor, line.encode())


class Written(dict):  # type: ignore[type-arg]
    """The fake's own count, which it keeps in a dict: each change is a line."""

    def __init__(self, notary: Notary) -> None:
        self._notary = notary

    def __setitem__(self, id_: str, usage: object) -> None:
        super().__setitem__(id_, usage)
        self._notary.note(id_)


def main() -> None:
    port, state, url, log, *pace = sys.argv[1:]
    settings = Settings.model_validate(
        {"state_dir": state, "database_url": url, "account_id": ACCOUNT, "api_token": TOKEN}
    )
    tenants = Tenants(settings)
    engine = Notary(Path(log), *map(float, pace))
    engine.usage = Written(engine)
    models = Catalog(Model(id=MODEL, checkpoint=Path(), context_window=2048, max_images=2))
    database, bounds = tenants.tenancy.database, Bounds(lease=LEASE)
    worker = Worker(database, tenants.identity, engine, models, tenants.prices, bounds)
    gateway = Gateway(
        engine,
        models,
        tenants.identity,
        begin=tenants.meter.begin,
        observers=[tenants.meter.end],
        queue=Desk(database, bounds, worker.wake),
    )
    config = uvicorn.Config(gateway, port=int(port), log_level="error", access_log=False)

    async def serve() -> None:
        worker.start()
        await uvicorn.Server(config).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
