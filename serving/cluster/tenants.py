"""Opening the tenancy with the operator's settings: for the command line, and in each replica."""

from __future__ import annotations

from dataclasses import dataclass

from serving import admin
from serving.settings import Settings
from serving.tenancy import accounts, prices
from serving.tenancy.database import Database
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
        price_list = prices.read(settings.prices)
        self.tenancy = Tenancy.open(settings)
        self.identity = Identity(self.tenancy.database, self.tenancy.secret)
        journal = Journal(settings.state_dir / "journal")
        self.meter = Meter(journal, price_list)
        self._ledger = Ledger(self.tenancy.database, journal)
        self.admin = admin.app(self.tenancy.database, self.tenancy.secret, self.identity)

    def close(self) -> None:
        """Ship what is left and let go of the database."""
        self.identity.close()
        self._ledger.close()
        self.tenancy.database.close()
