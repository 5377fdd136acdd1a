"""What journeys have: an engine in the test's own home, and which host its runs go to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.records.offers import OfferId
from tests.journeys.engines import DOCKER, PROCESS, EngineProcess, prepare_forks

ON_BOTH_HOSTS = pytest.mark.parametrize(
    "host", ["process", pytest.param("docker", marks=pytest.mark.docker)]
)


@pytest.fixture(scope="session", autouse=True)
def _forks() -> None:
    prepare_forks()


@pytest.fixture
def engine(home: Path) -> Iterator[EngineProcess]:
    """An engine that is not started yet, in this test's home."""
    engine = EngineProcess(Home(home), settings=["local: {docker: false}"])
    yield engine
    engine.close()


@pytest.fixture
def offer(host: str, engine: EngineProcess, request: pytest.FixtureRequest) -> OfferId:
    """The offer of *host*; for Docker the engine gets settings with the test image."""
    if host == "process":
        return PROCESS
    image: str = request.getfixturevalue("python_image")
    engine.settings = [f"default_image: {image}"]
    return DOCKER
