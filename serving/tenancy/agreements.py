"""Which account agreed to which model's licence: the gateway's `Register`, in the database."""

from __future__ import annotations

from sqlalchemy import select

from serving.errors import StoreDown
from serving.tenancy import tables
from serving.tenancy.accounts import now
from serving.tenancy.database import Database, Down, insert_new


class Register:
    """Satisfies the gateway's `Register`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def has(self, account: str, model: str) -> bool:
        """See `Register.has`."""
        columns = tables.agreements.c
        query = select(columns.at).where(columns.account == account, columns.model == model)
        try:
            with self._database.begin() as connection:
                return connection.execute(query).one_or_none() is not None
        except Down as error:
            raise StoreDown(self._database.wait()) from error

    def add(self, account: str, model: str, token: str) -> None:
        """See `Register.add`. The first time counts, who and when."""
        row = {"account": account, "model": model, "token": token, "at": now()}
        try:
            with self._database.begin() as connection:
                insert_new(connection, tables.agreements, [row])
        except Down as error:
            raise StoreDown(self._database.wait()) from error
