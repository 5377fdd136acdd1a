"""The gateway as a process, for tests that kill it, and in this one, for those that ask models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.model_house import House
from tests.gateway.process_ground import Gateway


@pytest.fixture
def gateway(home: Path) -> Iterator[Gateway]:
    """A gateway's process with a link to it; started by the first publication."""
    made = Gateway(home)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_house() -> Iterator[House]:
    """The house that a module's tests share."""
    house = House()
    yield house
    house.close()


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """A house in which nothing is published or counted yet."""
    shared_house.ledger._tallies.clear()
    yield shared_house
    shared_house.publish()
