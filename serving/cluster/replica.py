"""What Ray Serve runs N times: a process with the gateway and AsyncLLM, its engine core below it.

`serving.cluster.replica:configured` is the import path for a Serve configuration file, such as
`deploy/serve.yaml`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.config import BackpressureConfig

from serving.catalog import Catalog, Model
from serving.cluster.finetunes import Finetunes
from serving.cluster.metrics import Metrics
from serving.cluster.tenants import Tenants
from serving.gateway.app import Gateway
from serving.gateway.receipts import log_access
from serving.settings import Settings
from serving.telemetry.logs import Json

if TYPE_CHECKING:
    from serving.engine.vllm import VllmEngine

APPLICATION = "workers-ai"
# Above what the engine queues (`max_num_queued_reqs`), so that it is the engine that refuses, in
# the words of the API. What Serve itself refuses it refuses in plain text.
_MAX_ONGOING = 4096


class Replica:
    """Serves the catalogue's one model to the accounts of the database."""

    def __init__(self, models: Catalog, settings: Settings) -> None:
        """Load the model; Serve sends no request before this returns."""
        _log_to_ray(settings.log_format)
        self._metrics = Metrics(settings)  # before the engine makes its own
        self._tenants = Tenants(settings)
        model = only(models)
        self._engine = self.engine(model)
        gate = self._tenants.admission(model, self._engine.size)
        self._metrics.watch(gate, self._tenants.backlog)
        counted = self._metrics.observer(self._tenants.price)
        agreements = self._tenants.agreements()
        adapters = Finetunes(
            self._tenants.tenancy.database,
            models,
            settings.adapters_dir or settings.state_dir / "adapters",
        )
        self._worker = self._tenants.worker(
            self._engine, model, gate, adapters, (counted, log_access)
        )
        self._gateway = Gateway(
            self._engine,
            models,
            self._tenants.identity,
            admission=gate,
            begin=self._tenants.meter.begin,
            admin=self._tenants.admin,
            max_body_bytes=settings.max_body_bytes,
            observers=(self._tenants.meter.end, counted, log_access),
            padded=settings.stream_padding,
            agreements=agreements,
            queue=self._tenants.desk(self._worker, agreements),
            prices=self._tenants.prices,
            adapters=adapters,
        )

    @staticmethod
    def engine(model: Model) -> VllmEngine:
        """The engine; blocks until it has loaded."""
        # Here, so that whoever only starts replicas does not spend 7 s and 600 MB on it.
        from serving.engine.vllm import VllmEngine

        return VllmEngine(model)

    async def __serve_build_asgi_app__(self) -> Gateway:
        """The app Serve mounts on this replica's own port; here is the event loop of the engine."""
        self._worker.start()
        return self._gateway

    async def check_health(self) -> None:
        """Called by Serve; raising replaces the replica."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """Called by Serve once the last request has left."""
        if hasattr(self, "_worker"):
            self._worker.close()
        if hasattr(self, "_engine"):
            self._engine.close()
        if hasattr(self, "_metrics"):
            self._metrics.close()
        if hasattr(self, "_tenants"):
            self._tenants.close()


def _log_to_ray(format_: str) -> None:
    """Our log lines, the access log among them, go to the worker's output, which Ray keeps.

    To the descriptor: `sys.stdout` is a logger of Serve's, which walks the stack for each line.
    """
    handler = logging.StreamHandler(os.fdopen(1, "w", 1, "utf-8", closefd=False))
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(Json() if format_ == "json" else text)
    logger = logging.getLogger("serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def application(settings: Settings, replica: type[Replica] = Replica) -> serve.Application:
    """The application; its replicas are sized by the catalogue.

    Raises:
        ValueError: neither credentials nor a database, or not exactly one model in the catalogue.
    """
    shared = settings.database_url.get_secret_value()
    if not shared and not (settings.account_id and settings.api_token):
        raise ValueError(
            "ACCOUNT_ID and API_TOKEN, or DATABASE_URL, must be set: "
            "replicas cannot each make their own"
        )
    models = Catalog.read(settings.catalog)
    deployment = serve.deployment(
        serve.ingress()(replica),
        name=Replica.__name__,
        num_replicas=settings.replicas,
        ray_actor_options=dict(only(models).resources),
        max_ongoing_requests=_MAX_ONGOING,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        # A dead engine is seen within this many seconds. The timeout is that of a busy machine.
        health_check_period_s=2,
        health_check_timeout_s=30,
        # A model that does not load will not load the twentieth time either.
        max_constructor_retry_count=2,
    )
    return deployment.bind(models, settings)


def configured(args: dict[str, str]) -> serve.Application:
    """The application for a Serve configuration file: settings from its `args`, then variables."""
    return application(Settings.model_validate(args))


def only(models: Catalog) -> Model:
    """The catalogue's one model.

    Raises:
        ValueError: it holds several; each needs a deployment of its own.
    """
    found = list(models.models.values())
    if len(found) != 1:
        raise ValueError(f"a deployment serves one model, this catalogue holds {len(found)}")
    return found[0]
