"""The gateway's speed: small answers, models, streams of events, large bodies, many idle sockets.

The gateway is the real process with authorization and counting on, kept on one core; the clients
and the replicas share another. Beside it a bare aiohttp+uvloop proxy does the same work in turns.
Run by `make bench`.
"""

from __future__ import annotations

import os
import resource
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from time import sleep

import psutil

from benchmarks.gateway_ground import (
    Side,
    await_true,
    bare_proxy,
    free_port,
    gateway,
    listening,
    pin,
    side,
)
from benchmarks.peers_of_gateway import has_nginx, nginx
from benchmarks.table import ROUNDS, Line, medians, print_table

#: What was promised, relative to the bare proxy in the same run.
RATE_BAR, P99_BAR, EVENTS_BAR = 0.85, 1.5, 0.85
#: Answers of a model a second; seconds added to an event; MB above idle; bytes a second.
CHAT_BAR, DELAY_BAR, MEMORY_BAR, LARGE_BAR = 3000.0, 0.005, 60.0, 1e9
#: Milliseconds for others while many sockets are open; two processes to one.
IDLE_BAR, TWO_BAR = 1.0, 1.6
BARE = "aiohttp+uvloop"
#: LiteLLM's proxy, answers of a model a second on one core of such a machine; measured elsewhere.
PEER_CHAT, PEER = 119.0, "LiteLLM (quoted)"

CONNECTIONS, STREAMS, SOCKETS = 32, 200, 10_000
#: For each process where two are compared with one: so many that neither ever waits for work.
BUSY = 96
SECONDS = 0.5
SIZE = 1 << 30


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with side() as clients, gateway(clients.port) as ours, bare_proxy(clients.port) as bare:
        pin(ours[1] + bare[1], 0)
        pin([clients.pid], 1)
        yield from _small(clients, ours[0], bare[0])
        yield from _chat(clients, ours[0])
        yield from _events(clients, ours[0], bare[0])
        yield from _large(clients, ours, bare[0])
    yield from _two()
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
    if has_nginx():
        yield _beside_nginx(clients, mine)
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


def _beside_nginx(clients: Side, mine: float) -> Line:
    port = free_port()
    with nginx(port, clients.port) as pid:
        await_true(lambda: any(c.laddr.port == port for c in listening(pid)))
        pin([pid], 0)
        question = {"path": "/small", "connections": CONNECTIONS, "seconds": SECONDS}
        (theirs,) = medians(lambda: clients.ask("ask", port, "localhost", **question)["rate"])
    return Line(
        "gateway, the same beside nginx, one worker",
        mine,
        "req/s",
        bar="",
        peer=theirs,
        peer_name="nginx",
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


def _two() -> Iterator[Line]:
    """What two processes do to one's work: each has a core, and clients and a replica of its own.

    Where there are fewer than four cores a process shares its core with its clients; what is
    compared is then two such cores with one.
    """
    spare = (os.cpu_count() or 1) >= 4
    rates = [statistics.median(_rates_of(processes, spare)) for processes in (1, 2)]
    one, two = rates
    yield Line(
        f"gateway, two processes on two cores{'' if spare else ' shared with clients'}",
        two,
        "req/s",
        bar=f"≥ {TWO_BAR} × one",
        kept=two >= TWO_BAR * one,
        peer=one,
        peer_name="one process",
    )


def _rates_of(processes: int, spare: bool) -> list[float]:
    """Return how many requests a second so many processes answer, in each round."""
    found = []
    with ExitStack() as running:
        sides = [running.enter_context(side()) for _ in range(processes)]
        ports = [each.port for each in sides]
        port, workers = running.enter_context(gateway(*ports, processes=processes))
        for core in range(processes):
            pin([workers[core]], core)
            pin([sides[core].pid], core + 2 if spare else core)
        question = {"path": "/small", "connections": BUSY, "seconds": 2 * SECONDS}
        for _ in range(ROUNDS):
            for each in sides:
                each.begin("ask", port, "bench.localhost", **question)
            found.append(sum(each.end()["rate"] for each in sides))
    return found


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
