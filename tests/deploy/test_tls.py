"""The service speaks TLS to its stores, and to none that it has no reason to trust.

The URLs are those of docs/kubernetes.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from serving.admission.charges import Rate
from serving.admission.redis import Shared
from serving.cluster.tenants import Tenancy
from serving.errors import StoreDown
from serving.settings import Settings
from serving.tenancy.database import Down
from tests import servers
from tests.certificates import Certificate

DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes.md"
FILE = "/etc/llama-vision/ca/ca.crt"


def options(scheme: str, ca: Path) -> str:
    """What the document says to put behind the address of a store."""
    (found,) = re.findall(rf"`{scheme}://\.\.\.(\?\S+{FILE})`", DOCUMENT.read_text())
    return str(found).replace(FILE, str(ca))


@pytest.fixture
def certificate() -> Certificate:
    return Certificate.issue()


@pytest.fixture
def ca(tmp_path: Path, certificate: Certificate) -> Path:
    (tmp_path / "ca.crt").write_bytes(certificate.public)
    return tmp_path / "ca.crt"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Of somebody else."""
    (tmp_path / "other.crt").write_bytes(Certificate.issue().public)
    return tmp_path / "other.crt"


@pytest.fixture
def postgres(certificate: Certificate) -> Iterator[str]:
    try:
        with servers.postgres(certificate) as server:
            yield server.url.replace("127.0.0.1", "localhost")
    except servers.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def redis(certificate: Certificate) -> Iterator[str]:
    try:
        with servers.redis_by_tls(certificate) as server:
            yield server.url
    except servers.Missing as missing:
        pytest.skip(str(missing))


def opened(url: str) -> Tenancy:
    given: dict[str, Any] = {"database_url": url, "tenancy_secret": "s" * 32}
    return Tenancy.open(Settings.model_validate(given))


def test_to_postgresql(postgres: str, ca: Path, other: Path) -> None:
    database = opened(postgres + options("postgresql", ca)).database
    encrypted = sql.text("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    with database.begin() as connection:
        assert connection.execute(encrypted).scalar_one() is True
    database.close()
    elsewhere = postgres.replace("localhost", "127.0.0.1")  # which the certificate is not for
    for wrong in (postgres + options("postgresql", other), elsewhere + options("postgresql", ca)):
        with pytest.raises(Down):
            opened(wrong)


async def test_to_redis(redis: str, ca: Path, other: Path) -> None:
    charge = [Rate("requests:a", "requests", 60, 1)]
    elsewhere = redis.replace("localhost", "127.0.0.1")
    store = Shared(redis + options("rediss", ca))
    assert await store.reserve("one", charge)
    await store.close()
    for wrong in (redis + options("rediss", other), elsewhere + options("rediss", ca)):
        store = Shared(wrong)
        with pytest.raises(StoreDown):
            await store.reserve("one", charge)
        await store.close()
