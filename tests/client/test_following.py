"""A client and a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.client import Client
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.records.runs import RunStatus
from dstack_engine.spec.parsing import parse_configuration

pytestmark = pytest.mark.slow

HELLO = "type: task\ncommands: [echo hello]\ninstance_types: [process]\n"


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    client = connect(Home(home))
    yield client
    client.stop_engine(stop_runs=True)
    client.close()


def test_a_run_is_followed_from_its_submission_to_its_end(client: Client) -> None:
    for _ in range(5):
        run = client.submit(parse_configuration(HELLO))  # type: ignore[arg-type]  # a task
        printed = b"".join(frame.payload for frame in client.logs(run.name, follow=True))
        assert printed == b"hello\n"
        assert client.run(run.name).status is RunStatus.DONE
