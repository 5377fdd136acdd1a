"""The gateway as a process, for tests that kill it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.process_ground import Gateway


@pytest.fixture
def gateway(home: Path) -> Iterator[Gateway]:
    """A gateway's process with a link to it; started by the first publication."""
    made = Gateway(home)
    yield made
    made.close()
