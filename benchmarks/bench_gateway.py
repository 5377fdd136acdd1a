"""The gateway's speed: small answers, models, streams of events, large bodies, many idle sockets.

The gateway is the real process with authorization and counting on, kept on one core; the clients
and the replicas share another. Beside it a bare aiohttp+uvloop proxy does the same work in turns.
Run by `make bench`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import psutil

from benchmarks import ground
from benchmarks.table import ROUNDS, Line, medians, print_table
from dstack_engine.gateway.link import GatewayLink
from dstack_engine.records.publication import Publication, PublishedReplica, PublishedService
from dstack_engine.spec.services import ServedModel

#: What was promised, relative to the bare proxy in the same run.
RATE_BAR, P99_BAR, EVENTS_BAR = 0.85, 1.5, 0.85
#: Answers of a model a second; seconds added to an event; MB above idle; bytes a second.
CHAT_BAR, DELAY_BAR, MEMORY_BAR, LARGE_BAR = 3000.0, 0.005, 60.0, 1e9
#: Milliseconds for others while many sockets are open; two processes to one.
IDLE_BAR, TWO_BAR = 1.0, 1.6
BARE = "aiohttp+uvloop"
#: LiteLLM's proxy, answers of a model a second on one core of such a machine; measured elsewhere.
PEER_CHAT, PEER = 119.0, "LiteLLM (quoted)"

TOKEN = "a-token-of-the-benchmark"
CONNECTIONS, STREAMS, SOCKETS = 32, 200, 10_000
SECONDS = 0.5
SIZE = 1 << 30


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
            _await(lambda: link.report is not None and _all_ready(link))
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
        _await(lambda: any(c.laddr.port == port for c in _listening(process.pid)))
        yield port, [process.pid]
    finally:
        process.kill()
        process.wait()


def _listening(pid: int) -> list[Any]:
    with suppress(psutil.Error):
        return [c for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    return []


def _await(condition: Callable[[], bool]) -> None:
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


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with side() as clients:
        with gateway(clients.port) as ours, bare_proxy(clients.port) as bare:
            pin(ours[1] + bare[1], 0)
            pin([clients.pid], 1)
            yield from _small(clients, ours[0], bare[0])
            yield from _chat(clients, ours[0])
            yield from _events(clients, ours[0], bare[0])
            yield from _large(clients, ours, bare[0])
        yield from _two(clients)
    yield from _sockets()


def _small(clients: Side, ours: int, bare: int) -> Iterator[Line]:
    p99s: dict[int, list[float]] = {ours: [], bare: []}

    def rate(port: int) -> float:
        answer = clients.ask(
            "ask",
            port,
            "bench.localhost",
            path="/small",
            connections=CONNECTIONS,
            seconds=SECONDS,
        )
        p99s[port].append(answer["p99"] * 1000)
        return answer["rate"]

    mine, theirs = medians(lambda: rate(ours), lambda: rate(bare))
    yield Line(
        f"gateway, small GET with token, {CONNECTIONS} connections",
        mine,
        "req/s",
        bar=f"≥ {RATE_BAR} × the bare proxy",
        kept=mine >= RATE_BAR * theirs,
        peer=theirs,
        peer_name=BARE,
    )
    mine, theirs = (statistics.median(p99s[port][1:]) for port in (ours, bare))
    yield Line(
        "gateway, the same, p99",
        mine,
        "ms",
        bar=f"≤ {P99_BAR} × the bare proxy's",
        kept=mine <= P99_BAR * theirs,
        peer=theirs,
        peer_name=BARE,
    )


def _chat(clients: Side, ours: int) -> Iterator[Line]:
    def rate() -> float:
        return clients.ask(
            "ask",
            ours,
            "gateway.localhost",
            path="/v1/chat/completions",
            connections=CONNECTIONS,
            seconds=SECONDS,
        )["rate"]

    (mine,) = medians(rate)
    yield Line(
        "gateway, chat completions by model, usage counted",
        mine,
        "req/s",
        bar=f"≥ {CHAT_BAR:,.0f} and 20 × LiteLLM",
        kept=mine >= max(CHAT_BAR, 20 * PEER_CHAT),
        peer=PEER_CHAT,
        peer_name=PEER,
    )


def _events(clients: Side, ours: int, bare: int) -> Iterator[Line]:
    def stream(port: int, rate: float = 0) -> dict[str, float]:
        return clients.ask(
            "events", port, "bench.localhost", streams=STREAMS, seconds=SECONDS, rate=rate
        )

    mine, theirs = medians(lambda: stream(ours)["rate"], lambda: stream(bare)["rate"])
    yield Line(
        f"gateway, events over {STREAMS} streams",
        mine,
        "events/s",
        bar=f"≥ {EVENTS_BAR} × the bare proxy",
        kept=mine >= EVENTS_BAR * theirs,
        peer=theirs,
        peer_name=BARE,
    )
    half = mine / 2
    through, besides, direct = medians(
        lambda: stream(ours, half)["p99"],
        lambda: stream(bare, theirs / 2)["p99"],
        lambda: stream(clients.port, half)["p50"],
    )
    added = (through - direct) * 1000
    yield Line(
        "gateway, delay added to an event at half load, p99",
        added,
        "ms",
        bar=f"≤ {DELAY_BAR * 1000:.0f} ms",
        kept=added <= DELAY_BAR * 1000,
        peer=(besides - direct) * 1000,
        peer_name=BARE,
    )


def _large(clients: Side, ours: tuple[int, list[int]], bare: int) -> Iterator[Line]:
    def rate(port: int) -> float:
        return clients.ask("large", port, "bench.localhost", size=SIZE)["rate"] / 1e9

    worker = psutil.Process(ours[1][0])
    before = worker.memory_info().rss
    peak = before
    clients.begin("large", ours[0], "bench.localhost", size=SIZE)
    with suppress(psutil.Error):
        for _ in range(60):
            peak = max(peak, worker.memory_info().rss)
            sleep(0.01)
    clients.end()
    mine, theirs = medians(lambda: rate(ours[0]), lambda: rate(bare))
    yield Line(
        "gateway, 1 GB through it",
        mine,
        "GB/s",
        bar=f"≥ {LARGE_BAR / 1e9:.0f} GB/s",
        kept=mine * 1e9 >= LARGE_BAR,
        peer=theirs,
        peer_name=BARE,
    )
    peak = max(peak, worker.memory_info().rss)
    grown = (peak - before) / 1e6
    yield Line(
        "gateway, memory above idle for it",
        grown,
        "MB",
        bar=f"≤ {MEMORY_BAR:.0f} MB",
        kept=grown <= MEMORY_BAR,
    )


def _two(clients: Side) -> Iterator[Line]:
    """What two processes do to one's work, each with a core; by processor time where cores lack."""
    rates = []
    spare = (os.cpu_count() or 1) >= 4
    for processes in (1, 2):
        with gateway(clients.port, processes=processes) as (port, workers):
            pin([clients.pid], 3 if spare else 1)
            for core, worker in enumerate(workers):
                pin([worker], core if spare else 0)
            found = []
            for _ in range(ROUNDS):
                before = _processor_time(workers)
                answer = clients.ask(
                    "ask", port, "bench.localhost", path="/small", connections=64, seconds=SECONDS
                )
                used = _processor_time(workers) - before
                found.append(answer["rate"] if spare else answer["rate"] * processes / used)
            rates.append(statistics.median(found))
    one, two = rates
    how = "on two cores" if spare else "per second of processor time, × 2"
    yield Line(
        f"gateway, two processes {how}",
        two,
        "req/s",
        bar=f"≥ {TWO_BAR} × one",
        kept=two >= TWO_BAR * one,
        peer=one,
        peer_name="one process",
    )


def _processor_time(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def _sockets() -> Iterator[Line]:
    """Hold idle WebSockets, in as many processes as the limit of open files asks for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    processes = 1 if most > 2 * SOCKETS + 1000 else 2
    with side() as one, side() as other, gateway(one.port, other.port, processes=processes) as ours:
        port, workers = ours
        pin(workers, 0)
        pin([one.pid, other.pid], 1)
        before = sum(psutil.Process(pid).memory_info().rss for pid in workers)
        for clients in (one, other):
            clients.ask("hold", port, "bench.localhost", count=SOCKETS // 2)
        grown = sum(psutil.Process(pid).memory_info().rss for pid in workers) - before
        found = [
            one.ask("ask", port, "bench.localhost", path="/small", connections=1, seconds=SECONDS)
            for _ in range(ROUNDS)
        ]
        p50 = statistics.median(answer["p50"] for answer in found) * 1000
        yield Line(
            f"gateway, p50 of others beside {SOCKETS:,} idle WebSockets",
            p50,
            "ms",
            bar=f"≤ {IDLE_BAR:.0f} ms",
            kept=p50 <= IDLE_BAR,
        )
        yield Line("gateway, memory of an idle WebSocket", grown / SOCKETS / 1000, "KB", bar="")


if __name__ == "__main__":
    print_table(measure())
