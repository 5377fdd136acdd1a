"""A request to a service without replicas: from the question to the answer of the first replica.

On the process host, beside the same server started by hand and asked as soon as it listens. Run by
`make bench`.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from time import monotonic, perf_counter, sleep

from benchmarks import ground
from benchmarks.table import Line, medians, print_table
from dstack_engine.client import Client
from dstack_engine.spec.configurations import ServiceConfiguration
from dstack_engine.spec.parsing import configuration_from_dict

#: What ours may take longer than the server alone, in seconds.
BAR = 0.3
SERVER = "python3 -S -m http.server --bind 127.0.0.1"


def measure() -> Iterator[Line]:
    """Yield the line of the table."""
    with ground.engine() as client:
        ours, bare = medians(lambda: _cold_start(client), _server_alone)
    added = ours - bare
    yield Line(
        "request to a service without replicas, process host",
        ours,
        "s",
        bar=f"≤ the server's start + {BAR} s",
        kept=added <= BAR,
        peer=bare,
        peer_name="the server alone",
    )


def _cold_start(client: Client) -> float:
    name = ground.new_name("cold")
    service = configuration_from_dict(
        {
            "type": "service",
            "name": name,
            "port": 8000,
            "auth": False,
            "replicas": "0..1",
            "scaling": {"metric": "rps", "target": 10},
            "commands": [f"exec {SERVER} $DSTACK_SERVICE_PORT"],
        }
    )
    assert isinstance(service, ServiceConfiguration)
    client.submit(service, offers=[ground.PROCESS])
    port = _await_published(client, name)
    begun = perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/", headers={"Host": f"{name}.localhost:{port}"})
        answer = connection.getresponse()
        answer.read()
        took = perf_counter() - begun
        assert answer.status == 200, answer.status
    client.stop(name)
    ground.await_end(client, name)
    return took


def _await_published(client: Client, name: str) -> int:
    """Return the gateway's port once it knows the service."""
    until = monotonic() + 60
    while monotonic() < until:
        port = client.gateway().port
        if port is not None and client.service(name) is not None:
            return port
        sleep(0.02)
    raise TimeoutError(f"the gateway never heard of {name}")


def _server_alone() -> float:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    begun = perf_counter()
    with subprocess.Popen(
        [*SERVER.split(), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                        connection.request("GET", "/")
                        connection.getresponse().read()
                    return perf_counter() - begun
                except ConnectionRefusedError:
                    sleep(0.002)
        finally:
            process.kill()


if __name__ == "__main__":
    print_table(measure())
