"""The chart as `helm package` makes it: .helmignore and links have had their say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serving.engine.fake import FakeEngine
from tests.chart import helm
from tests.chart.helm import CHART, Chart
from tests.gateway.conftest import Service, listening


def packaged(major: int, folder: pytest.TempPathFactory) -> Chart:
    try:
        binary = helm.binary(major)
    except helm.Unavailable as reason:
        pytest.skip(str(reason))
    target = folder.mktemp(f"helm{major}")
    done = Chart(binary, CHART).run("package", str(CHART), "-d", str(target))
    assert done.returncode == 0, done.stderr
    (archive,) = target.glob("*.tgz")
    return Chart(binary, archive)


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """With Helm 4."""
    return packaged(4, tmp_path_factory)


@pytest.fixture(scope="session")
def chart3(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """With Helm 3."""
    return packaged(3, tmp_path_factory)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The gateway with the fake engine, on a socket."""
    async with listening(Service(FakeEngine())) as service:
        yield service
