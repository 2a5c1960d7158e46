"""Adapters of accounts: their rows in the database, their files in the folder of adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from sqlalchemy import Connection

from serving.adapters import fit, peft, targets, weights
from serving.adapters.shelf import CONFIG, WEIGHTS, Shelf
from serving.catalog import Catalog
from serving.core import Adapter, Caller
from serving.errors import (
    AdapterIncomplete,
    BodyTooLarge,
    InvalidInput,
    LoraUnsupported,
    NotPermitted,
    StoreDown,
    UnknownAdapter,
)
from serving.gateway.finetunes import Shown, Wanted
from serving.tenancy import finetunes
from serving.tenancy.database import Database, Down
from serving.tenancy.finetunes import Finetune

MAX_RANK = 32
"""Workers AI's; a catalogue's `max_lora_rank` may be lower."""

_Result = TypeVar("_Result")
_COMPLETE = "this finetune is complete; make another one for other files"


class Finetunes:
    """Satisfies the gateway's `Finetunes`."""

    def __init__(self, database: Database, models: Catalog, folder: Path) -> None:
        """`folder` is one that all replicas see, under the same path."""
        self._database = database
        self._models = models
        self._shelf = Shelf(folder.resolve())

    async def create(self, caller: Caller, wanted: Wanted) -> Shown:
        """See the gateway's `Finetunes`."""
        model = self._models.find(wanted.model)
        if not model.max_rank:
            raise LoraUnsupported(model.id)
        if wanted.public and caller.role != "admin":
            raise NotPermitted
        fields = wanted.name, wanted.model, wanted.description, wanted.public
        return _shown(
            await self._query(finetunes.create, caller.token or "api", caller.account, *fields)
        )

    async def theirs(self, caller: Caller) -> list[Shown]:
        """See the gateway's `Finetunes`."""
        return [_shown(each) for each in await self._query(finetunes.of_account, caller.account)]

    async def public(self, limit: int, offset: int, order: str) -> list[Shown]:
        """See the gateway's `Finetunes`."""
        found = await self._query(finetunes.public, limit, offset, order)
        return [_shown(each) for each in found]

    async def find(self, caller: Caller, asked: str, model: str) -> Adapter:
        """See the gateway's `Finetunes`."""
        found = await self._query(finetunes.usable, caller.account, _key(asked))
        if found is None or found.model != model:
            raise UnknownAdapter(asked)
        if found.digest is None:
            raise AdapterIncomplete
        return Adapter(found.id, found.digest, self._shelf.adapter(found.digest))

    async def upload(self, caller: Caller, asked: str, name: str, file: BinaryIO) -> None:
        """See the gateway's `Finetunes`."""
        found = await self._query(finetunes.own, caller.account, _key(asked))
        if found is None:
            raise UnknownAdapter(asked)
        if found.digest is not None:
            raise InvalidInput(_COMPLETE)
        await asyncio.to_thread(self._take, found, name, file)

    def _take(self, found: Finetune, name: str, file: BinaryIO) -> None:
        """Judge a file, keep it, and if that was the second one put the two together."""
        size = file.seek(0, 2)
        if size > (limit := {CONFIG: peft.MAX_BYTES, WEIGHTS: weights.MAX_BYTES}[name]):
            raise BodyTooLarge(limit)
        judged = self._judge_config if name == CONFIG else self._judge_weights
        file.seek(0)
        judged(found, file)
        file.seek(0)
        column = "config" if name == CONFIG else "weights"
        digest = self._shelf.keep(found.id, file)
        row = self._transaction(_noted, found, column, digest)
        if row.config and row.weights:
            whole = self._bound(row, row.config, row.weights)
            self._transaction(finetunes.uploaded, row.id, digest=whole)
            self._shelf.discard(row.id)
        else:
            self._shelf.discard(row.id, row.config, row.weights)

    def _judge_config(self, found: Finetune, file: BinaryIO) -> None:
        config = peft.parse(file.read(), self._max_rank(found))
        if found.weights is not None:
            with self._shelf.file(found.id, found.weights).open("rb") as other:
                self._fits(found, other, config.r)

    def _judge_weights(self, found: Finetune, file: BinaryIO) -> None:
        rank = self._config(found, found.config).r if found.config else None
        self._fits(found, file, rank)

    def _fits(self, found: Finetune, file: BinaryIO, rank: int | None) -> list[str]:
        size = file.seek(0, 2)
        file.seek(0)
        model = self._models.find(found.model)
        return fit.modules(weights.tensors(file, size), targets.read(model.checkpoint), rank)

    def _bound(self, row: Finetune, config: str, digest: str) -> str:
        """The two files, judged once more as a pair: they may have come at the same time."""
        settings = self._config(row, config)
        with self._shelf.file(row.id, digest).open("rb") as file:
            modules = self._fits(row, file, settings.r)
        return self._shelf.bind(row.id, settings.written(modules), digest)

    def _config(self, found: Finetune, digest: str) -> peft.Config:
        return peft.parse(self._shelf.file(found.id, digest).read_bytes(), self._max_rank(found))

    def _max_rank(self, found: Finetune) -> int:
        return min(MAX_RANK, self._models.find(found.model).max_rank)

    async def _query(self, query: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.to_thread(self._transaction, query, *arguments)

    def _transaction(self, query: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        # What counts before it writes runs alone; reading waits for nobody.
        database = self._database
        begin = database.alone if query is finetunes.create else database.begin
        try:
            with begin() as connection:
                return query(connection, *arguments, **named)
        except Down as error:
            raise StoreDown(database.wait()) from error


def _key(asked: str) -> str:
    """A name or an id as PostgreSQL takes it. Raises: UnknownAdapter: there is no such name."""
    if "\0" in asked:
        raise UnknownAdapter(asked)
    return asked


def _noted(connection: Connection, found: Finetune, column: str, digest: str) -> Finetune:
    finetunes.uploaded(connection, found.id, **{column: digest})
    row = finetunes.own(connection, found.account, found.id)
    if row is None or row.digest is not None:  # somebody else was faster
        raise InvalidInput(_COMPLETE)
    return row


def _shown(found: Finetune) -> Shown:
    return Shown(
        id=found.id,
        name=found.name,
        model=found.model,
        description=found.description,
        public=bool(found.public),
        created_at=found.created_at,
        modified_at=found.modified_at,
    )
