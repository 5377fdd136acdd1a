"""What the gateway's benchmarks stand on: the gateway itself, a bare proxy, clients and replicas.

Each is a process of its own, so that each can be kept on a core.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import psutil

from benchmarks import ground
from dstack_engine.gateway.link import GatewayLink
from dstack_engine.records.publication import Publication, PublishedReplica, PublishedService
from dstack_engine.spec.services import ServedModel

TOKEN = "a-token-of-the-benchmark"


class Side:
    """A process that is asked things in lines of JSON: clients and replicas."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gateway_load"],
            cwd=ground.REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def ask(self, deed: str, port: int, host: str, **question: Any) -> dict[str, float]:
        """Have it do *deed* and return its figures."""
        self.begin(deed, port, host, **question)
        return self.end()

    def begin(self, deed: str, port: int, host: str, **question: Any) -> None:
        """Have it begin *deed*."""
        told = {"deed": deed, "port": port, "host": host, "token": TOKEN, **question}
        assert self._process.stdin is not None
        print(json.dumps(told), file=self._process.stdin, flush=True)

    def end(self) -> dict[str, float]:
        """Return the figures of what was begun."""
        assert self._process.stdout is not None
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def side() -> Iterator[Side]:
    """Clients and replicas in a process of their own."""
    made = Side()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def gateway(*replicas: int, processes: int = 1) -> Iterator[tuple[int, list[int]]]:
    """A gateway with one service that serves a model: its port and its workers' pids."""
    service = PublishedService(
        "bench",
        "bench-id",
        model=ServedModel(name="bench", format="openai"),
        replicas=tuple(
            PublishedReplica(f"bench-0-{number}/1", "127.0.0.1", port)
            for number, port in enumerate(replicas)
        ),
    )
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    with ground.home() as home:
        link = GatewayLink(home, port=free_port(), processes=processes)
        link.start()
        link.publish(Publication(1, (service,), (digest,)))
        try:
            await_true(lambda: link.report is not None and _all_ready(link))
            assert link.report is not None
            assert link.port is not None
            first = psutil.Process(link.report.pid)
            workers = [child.pid for child in first.children()] or [first.pid]
            yield link.port, workers
        finally:
            link.stop(gateway_too=True)


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _all_ready(link: GatewayLink) -> bool:
    assert link.report is not None
    services = link.report.services
    return bool(services) and all(r.state == "ready" for r in services[0].replicas)


@contextmanager
def bare_proxy(upstream: int) -> Iterator[tuple[int, list[int]]]:
    """The bare proxy: its port and its pid."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_proxy", str(port), str(upstream)],
        cwd=ground.REPOSITORY,
    )
    try:
        await_true(lambda: any(c.laddr.port == port for c in listening(process.pid)))
        yield port, [process.pid]
    finally:
        process.kill()
        process.wait()


def listening(pid: int) -> list[Any]:
    with suppress(psutil.Error):
        return [c for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    return []


def await_true(condition: Callable[[], bool]) -> None:
    until = monotonic() + 30
    while not condition():
        if monotonic() > until:
            raise TimeoutError("the gateway's ground is not ready")
        sleep(0.02)


def pin(pids: list[int], core: int) -> None:
    """Keep processes, with all their threads, on one core."""
    with suppress(AttributeError, OSError):  # no such thing on macOS
        for pid in pids:
            for thread in psutil.Process(pid).threads():
                os.sched_setaffinity(thread.id, {core})
