"""What Ray Serve runs N times: a process with the gateway and AsyncLLM, its engine core below it.

`serving.cluster.replica:configured` is the import path for a Serve configuration file, such as
`deploy/serve.yaml`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from serving.catalog import Catalog, Model
from serving.cluster import scaling
from serving.cluster.finetunes import Finetunes
from serving.cluster.telemetry import Telemetry
from serving.cluster.tenants import Tenants
from serving.gateway.app import Gateway
from serving.settings import Settings
from serving.telemetry.logs import Json

if TYPE_CHECKING:
    from serving.engine.vllm import VllmEngine

APPLICATION = "workers-ai"
# Beyond all that the proxies of a cluster let in (4096 connections each): what Serve held back
# would wait where admission, which has the queue, the limits and the words, does not see it.
_MAX_ONGOING = 1_000_000
_TELLING = 0.1  # seconds that those who waited for a dead engine have to hear of it

_log = logging.getLogger("serving.cluster")


class Replica:
    """Serves the catalogue's one model to the accounts of the database."""

    def __init__(self, models: Catalog, settings: Settings) -> None:
        """Load the model; Serve sends no request before this returns."""
        _log_to_ray(settings)
        self._telemetry = Telemetry(settings)  # before the engine makes its own
        self._tenants = Tenants(settings)
        model = only(models)
        self._engine = self._load(model, settings)
        gate = self._gate = self._tenants.admission(model, self._engine.size)
        self._telemetry.watch(gate, self._tenants)
        observers = self._telemetry.observers(self._tenants.price)
        agreements = self._tenants.agreements()
        adapters = Finetunes(
            self._tenants.tenancy.database,
            models,
            settings.adapters_dir or settings.state_dir / "adapters",
        )
        self._worker = self._tenants.worker(self._engine, model, gate, adapters, observers)
        self._gateway = Gateway(
            self._engine,
            models,
            self._tenants.identity,
            admission=gate,
            begin=self._tenants.meter.begin,
            admin=self._tenants.admin,
            max_body_bytes=settings.max_body_bytes,
            observers=(self._tenants.meter.end, *observers),
            padded=settings.stream_padding,
            agreements=agreements,
            queue=self._tenants.desk(self._worker, agreements),
            prices=self._tenants.prices,
            adapters=adapters,
            tracing=self._telemetry.tracing,
        )

    def _load(self, model: Model, settings: Settings) -> VllmEngine:
        # Here, so that whoever only starts replicas does not spend 7 s and 600 MB on it.
        from serving.engine.vllm import VllmEngine

        return VllmEngine(model, settings.traces_endpoint, self._telemetry.encoded)

    async def __serve_build_asgi_app__(self) -> Gateway:
        """The app Serve mounts on this replica's own port; here is the event loop of the engine."""
        self._worker.start()
        # What is loaded by now stays: the garbage collector need not walk it while tokens wait.
        gc.collect()
        gc.freeze()
        self._watched = True
        self._watch = asyncio.create_task(self._end_with_engine())
        return self._gateway

    async def _end_with_engine(self) -> None:
        """End the process once its engine is dead and those who waited for it have been told.

        A port that is closed gets no requests; one that only refuses, which is quick, gets most.
        """
        await self._engine.ended()
        await asyncio.sleep(_TELLING)
        if self._watched:
            _log.error("the engine has died, and so does this replica")
            os._exit(1)

    async def check_health(self) -> None:
        """Called by Serve; raising replaces the replica."""
        await self._engine.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, for its autoscaler."""
        return self._gate.demand.stats(time.monotonic())

    def __del__(self) -> None:
        """Called by Serve once the last request has left."""
        self._watched = False  # an engine that is closed looks dead
        if hasattr(self, "_worker"):
            self._worker.close()
        if hasattr(self, "_engine"):
            self._engine.close()
        if hasattr(self, "_telemetry"):
            self._telemetry.close()
        if hasattr(self, "_tenants"):
            self._tenants.close()


def _log_to_ray(settings: Settings) -> None:
    """Our log lines, the access log among them, go to the worker's output, which Ray keeps.

    To the descriptor: `sys.stdout` is a logger of Serve's, which walks the stack for each line.
    """
    handler = logging.StreamHandler(os.fdopen(1, "w", 1, "utf-8", closefd=False))
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(Json() if settings.log_format == "json" else text)
    logger = logging.getLogger("serving")
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())


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
        **_number(settings, only(models)),
        ray_actor_options=dict(only(models).resources),
        max_ongoing_requests=_MAX_ONGOING,
        # A dead engine is seen within this many seconds. The timeout is that of a busy machine.
        health_check_period_s=2,
        health_check_timeout_s=30,
        # A model that does not load will not load the twentieth time either.
        max_constructor_retry_count=2,
        # Serve's line per request says less than our access log, and costs more.
        logging_config={"log_level": "WARNING"},
    )
    return deployment.bind(models, settings)


def _number(settings: Settings, model: Model) -> dict[str, Any]:
    """How many replicas: so many, or as the load asks. By Serve's own rule unless work's cost is
    known."""
    most = settings.max_replicas
    if most <= settings.replicas:
        return {"num_replicas": settings.replicas}
    bounds = {"min_replicas": settings.replicas, "max_replicas": most}
    quiet = settings.downscale_seconds
    if settings.engine_seconds is None:
        target = max(1, model.slots // 2)
        config = AutoscalingConfig(
            **bounds, target_ongoing_requests=target, downscale_delay_s=quiet
        )
    else:
        # Delays are the policy's own.
        kwargs = {"costs": asdict(settings.engine_seconds), "quiet": quiet}
        policy = AutoscalingPolicy(policy_function=scaling.PATH, policy_kwargs=kwargs)
        config = AutoscalingConfig(**bounds, policy=policy, upscale_delay_s=0, downscale_delay_s=0)
    return {"autoscaling_config": config}


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
