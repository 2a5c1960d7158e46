"""Telemetry with the operator's settings, in each replica."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from serving.admission.gate import Gate
from serving.cluster.tenants import Tenants
from serving.core import Usage
from serving.settings import Settings
from serving.telemetry import vocabulary as words
from serving.telemetry.certificates import expiries
from serving.telemetry.endpoint import Endpoint
from serving.telemetry.observer import Observer
from serving.telemetry.sampler import Sampler, Value
from serving.telemetry.shelf import Shelf, folder
from serving.tenancy.database import Down

_SELDOM = 60.0  # seconds between looks at what ends in days


class Metrics:
    """What a replica keeps running of it: a thread that reads gauges, one that serves them."""

    def __init__(self, settings: Settings) -> None:
        """Take a place for counts. Before vLLM makes its metrics: they go there too.

        Raises:
            OSError: the state folder cannot be used.
        """
        self._settings = settings
        self._shelf = Shelf(folder(settings.state_dir))
        self._threads: list[Endpoint | Sampler] = []
        if settings.metrics_port:
            host, token = settings.metrics_host, settings.metrics_token.get_secret_value()
            self._threads.append(
                Endpoint(
                    self._shelf.folder,
                    host,
                    settings.metrics_port,
                    token,
                    settings.ray_metrics_url,
                )
            )

    @property
    def place(self) -> str:
        """The replica's among those of the machine."""
        return self._shelf.place

    def observer(self, price: Callable[[str, Usage], int]) -> Observer:
        """For the gateway; `price` of a model's usage in picodollars."""
        return Observer(self._shelf, price, self._settings.metrics_accounts)

    def watch(self, gate: Gate, tenants: Tenants) -> None:
        """Keep the gauges true."""
        certificates = self._settings.certificate_files
        self._threads += [
            Sampler(self._shelf, lambda: _load(gate, tenants)),
            Sampler(self._shelf, lambda: _ends(tenants, certificates), _SELDOM),
        ]

    def close(self) -> None:
        """Leave the counts to whoever comes next."""
        for each in self._threads:
            each.close()
        self._shelf.close()


def _load(gate: Gate, tenants: Tenants) -> Iterable[Value]:
    load, policy = gate.load, gate.policy
    return (
        (words.QUEUE_REQUESTS, load.waiting),
        (words.QUEUE_TOKENS, load.tokens),
        (words.QUEUE_PIXELS, load.pixels),
        (words.QUEUE_TOKENS_LIMIT, policy.queue_tokens),
        (words.QUEUE_PIXELS_LIMIT, policy.queue_pixels),
        (words.RUNNING, load.running),
        (words.RUNNING_LIMIT, policy.slots),
        (words.BACKLOG, tenants.backlog()),
        (words.LAG, tenants.lag()),
    )


def _ends(tenants: Tenants, files: Iterable[Path]) -> Iterable[Value]:
    for name, at in expiries(files).items():
        yield words.CERTIFICATE_EXPIRY, at, name
    with suppress(*Down):  # whose absence others report
        yield words.TOKEN_EXPIRY, tenants.next_expiry()
