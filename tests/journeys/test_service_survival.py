"""What the page about services says of survival, taken at its word."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

import httpx
import pytest

from tests.journeys.engines import EngineProcess, jobs_processes, processes_of, until
from tests.journeys.visitors import Visitors

pytestmark = pytest.mark.slow

PAGE = """
name: page
commands:
  - mkdir page
  - echo "still here" > page/index.html
  - python3 -m http.server --directory page --bind 127.0.0.1 $DSTACK_SERVICE_PORT
port: 8000
replicas: 2
"""


@pytest.fixture
def visitors(engine: EngineProcess) -> Visitors:
    """Visitors of a service with two replicas."""
    with socket.create_server(("127.0.0.1", 0)) as free:  # other tests' gateways want 4180
        port = free.getsockname()[1]
    engine.settings = ["local: {docker: false}", f"gateway: {{port: {port}}}"]
    engine.start()
    visitors = Visitors(engine)
    visitors.submit(PAGE)
    visitors.until_ready("page", 2)
    return visitors


def test_a_service_is_back_after_the_computer_went_down(
    engine: EngineProcess, visitors: Visitors
) -> None:
    port = visitors.port
    went_down = processes_of(engine.home).keys() - {os.getpid()}
    engine.kill()
    for pid in went_down:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not jobs_processes(engine.home), "everything to be gone")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/services/page/", timeout=5)

    engine.start()
    assert visitors.get("page").text == "still here\n"
    assert visitors.port == port
    visitors.until_ready("page", 2)
