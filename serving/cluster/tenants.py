"""Opening the tenancy with the operator's settings: for the command line, and in each replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from serving import admin
from serving.admission.charges import Quota
from serving.admission.gate import Gate, Policy
from serving.admission.redis import Shared
from serving.admission.store import Memory
from serving.batch.desk import Desk
from serving.batch.steps import Bounds
from serving.batch.worker import Worker
from serving.catalog import Catalog, Model
from serving.core import Generation, Size, Usage
from serving.engine import Engine
from serving.errors import StoreDown
from serving.gateway.agreement import Agreements
from serving.gateway.finetunes import Finetunes
from serving.gateway.receipts import Observer
from serving.gateway.tenant import Admission
from serving.settings import Settings
from serving.tenancy import accounts, hours, prices
from serving.tenancy.agreements import Register
from serving.tenancy.database import Database, Down
from serving.tenancy.identity import Identity
from serving.tenancy.journal import Journal
from serving.tenancy.ledger import Ledger
from serving.tenancy.meter import Meter
from serving.tenancy.secret import Secret


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The database, with its tables, and the secret that its digests are made with."""

    database: Database
    secret: Secret

    @classmethod
    def open(cls, settings: Settings) -> Tenancy:
        """Make or update the tables; see that the account and token of the settings exist.

        Raises:
            ValueError: a setting is wrong.
            Down: the database cannot be reached.
        """
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = settings.state_dir / "tenancy.db"
        database = Database(settings.database_url.get_secret_value() or f"sqlite:///{file}")
        given = settings.tenancy_secret.get_secret_value()
        secret = Secret(given.encode()) if given else Secret.kept(settings.state_dir / "secret")
        database.migrate()
        if settings.account_id and settings.api_token:
            with database.alone() as connection:
                accounts.adopt(connection, settings.account_id, settings.api_token, secret)
        return cls(database, secret)


class Tenants:
    """What a replica keeps running of it: threads that ask for tokens and ship usage."""

    def __init__(self, settings: Settings) -> None:
        """Raises: as `Tenancy.open`; ValueError: no such prices."""
        self._settings = settings
        self.prices = prices.read(settings.prices)
        self.tenancy = Tenancy.open(settings)
        self.identity = Identity(self.tenancy.database, self.tenancy.secret)
        journal = Journal(settings.state_dir / "journal")
        self.meter = Meter(journal, self.prices)
        self._ledger = Ledger(self.tenancy.database, journal)
        self.admin = admin.app(self.tenancy.database, self.tenancy.secret, self.identity)

    def admission(self, model: Model, size: Callable[[Generation], Size]) -> Gate:
        """The admission to one engine; `size` is the engine's measure of a request."""
        settings, redis = self._settings, self._settings.redis_url.get_secret_value()
        policy = Policy(
            slots=model.slots,
            kept=model.kept,
            context=model.context_window,
            queue_tokens=settings.queue_tokens,
            queue_pixels=settings.queue_pixels,
            patience=settings.queue_seconds,
            fails_open=settings.limits_fail == "open",
        )
        store = Shared(redis, self.used) if redis else Memory(self.used)
        return Gate(policy, store, size, self.price)

    def agreements(self) -> Agreements | None:
        """The licence gate, if there is to be one."""
        gate = self._settings.licence_gate
        if gate == "false":
            return None
        gated = None if gate == "true" else frozenset(gate.split(","))
        return Agreements(Register(self.tenancy.database), gated)

    def worker(
        self,
        engine: Engine,
        model: Model,
        admission: Admission,
        adapters: Finetunes,
        observers: Iterable[Observer],
    ) -> Worker:
        """What runs queued requests: never so many at once that they fill the engine."""
        most = min(self._settings.batch_concurrency, model.slots // 2)
        return Worker(
            self.tenancy.database,
            self.identity,
            engine,
            Catalog(model),
            self.prices,
            replace(self._bounds(), concurrency=most),
            admission=admission,
            adapters=adapters,
            observers=observers,
        )

    def desk(self, worker: Worker, agreements: Agreements | None) -> Desk:
        """Where they are handed in."""
        return Desk(self.tenancy.database, self._bounds(), worker.wake, agreements)

    def _bounds(self) -> Bounds:
        settings = self._settings
        return Bounds(
            concurrency=settings.batch_concurrency,
            items=settings.batch_items,
            keep=settings.batch_hours * 3600,
        )

    def backlog(self) -> int:
        """Bytes of usage that are not in the database yet."""
        return self._ledger.backlog

    def lag(self) -> float:
        """Seconds for which usage has been on its way to the database."""
        return self._ledger.lag

    def next_expiry(self) -> float:
        """When the next token ends, in Unix seconds; 0 if none will.

        Raises:
            Down: the database cannot be reached.
        """
        with self.tenancy.database.begin() as connection:
            return (accounts.next_expiry(connection, accounts.now()) or 0) / 1000

    def price(self, model: str, usage: Usage) -> int:
        """Of a model's usage, in picodollars."""
        return self.prices.get(model, prices.FREE).of(usage)

    async def used(self, quotas: Sequence[Quota]) -> Mapping[str, int]:
        """What these have lost already, by the usage in the database.

        Raises:
            StoreDown: it is away.
        """
        try:
            return await asyncio.to_thread(self._used, quotas)
        except Down as error:
            raise StoreDown(self.tenancy.database.wait()) from error

    def _used(self, quotas: Sequence[Quota]) -> dict[str, int]:
        found = {}
        with self.tenancy.database.begin() as connection:
            for quota in quotas:
                begin = int(quota.begins * 1000)
                tokens, money = hours.used(connection, quota.subject, begin)
                found[quota.key] = tokens if quota.counts_tokens else money
        return found

    def close(self) -> None:
        """Ship what is left and let go of the database."""
        self.identity.close()
        self._ledger.close()
        self.tenancy.database.close()
