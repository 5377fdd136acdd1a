"""The engine's cold start to its first answer, its memory, and the answers a client waits for.

The peer's figures are quoted: dstack 0.22.5's server, measured on a machine of the same size. Run
by `make bench`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from time import perf_counter

import psutil

from benchmarks import ground
from benchmarks.table import ROUNDS, Line, medians, print_table
from dstack_engine.client import Client
from dstack_engine.launcher import connect
from dstack_engine.spec.parsing import parse_configuration

#: Seconds, and MB.
START_BAR, MEMORY_BAR = 1.5, 130.0
#: dstack 0.22.5's server: seconds to its first answer, MB of resident memory; measured elsewhere.
PEER_START, PEER_MEMORY = 7.5, 255.0
PEER = "dstack 0.22.5 (quoted)"
#: As many runs, one after the other, before the engine's memory is read again.
RUNS = 20


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    starts = [_cold_start() for _ in range(ROUNDS + 1)][1:]
    wall, processor, memory = (statistics.median(column) for column in zip(*starts, strict=True))
    yield Line(
        "engine, cold start to first answer",
        wall,
        "s",
        bar=f"≤ {START_BAR} s",
        kept=wall <= START_BAR,
        peer=PEER_START,
        peer_name=PEER,
    )
    yield Line("engine, processor time of that start", processor, "s", bar="")
    yield _memory_line("engine, memory after its first answer", memory)
    with ground.engine() as client:
        yield from _answers(client)
        for _ in range(RUNS):
            name = ground.new_name("memory")
            ground.submit(client, ground.hosts()[0][0], name, ["echo hi"])
            ground.await_end(client, name)
        yield _memory_line(f"engine, memory after {RUNS} runs", client.engine().memory_mb)


def _cold_start() -> tuple[float, float, float]:
    with ground.home():
        begun = perf_counter()
        with connect() as client:
            engine = client.engine()
            wall = perf_counter() - begun
            times = psutil.Process(engine.pid).cpu_times()
            client.stop_engine()
    return wall, times.user + times.system, engine.memory_mb


def _memory_line(figure: str, megabytes: float) -> Line:
    return Line(
        figure,
        megabytes,
        "MB",
        bar=f"≤ {MEMORY_BAR:.0f} MB",
        kept=megabytes <= MEMORY_BAR,
        peer=PEER_MEMORY,
        peer_name=PEER,
    )


def _answers(client: Client) -> Iterator[Line]:
    task = parse_configuration("type: task\ncommands: [echo hi]")
    asked: dict[str, Callable[[], object]] = {
        "list the runs": client.runs,
        "plan a task": lambda: client.plan(task),
    }
    for what, ask in asked.items():
        seconds = medians(lambda ask=ask: _timed(ask))[0]
        yield Line(f"engine, {what}", seconds * 1000, "ms", bar="")


def _timed(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
