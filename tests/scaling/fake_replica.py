"""The replica that is shipped, with the fake engine: 20 tokens of an answer take a second."""

from __future__ import annotations

from serving.catalog import Model
from serving.cluster.replica import Replica
from serving.engine.fake import FakeEngine, Faults
from serving.settings import Settings


class Engine(FakeEngine):
    def close(self) -> None:
        """Nothing runs beside it."""


class FakeReplica(Replica):
    def _load(self, model: Model, settings: Settings) -> Engine:
        return Engine(faults=Faults(first_token_delay=0.05, token_delay=0.05))
