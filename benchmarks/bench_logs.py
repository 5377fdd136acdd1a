"""Output on its way from a container to a client: how late one line is, how many a second go.

The peer of the Docker host is `docker logs -f` on a container that does the same, that of the
process host a pipe. Every line tells when it was printed, by the clock of this computer. Run by
`make bench`.
"""

from __future__ import annotations

import contextlib
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks import ground
from benchmarks.table import Line, print_table
from dstack_engine.client import Client
from dstack_engine.records.offers import OfferId

#: Lines, one each so many seconds, for the time that one needs.
LINES, PAUSE = 600, 0.01
#: Lines a second, for so many seconds.
RATE, SECONDS = 50_000, 10
#: Seconds.
LATENCY_BAR = 0.1

_SLOW = f"""
import time
for number in range({LINES}):
    print(time.time(), flush=True)
    time.sleep({PAUSE})
"""

# A line carries its number, so that a lost one is seen, and its time.
_FAST = f"""
import sys, time
begun, sent, total = time.time(), 0, {RATE * SECONDS}
while sent < total:
    due = min(int((time.time() - begun) * {RATE}), total)
    now = time.time()
    lines = (f"{{number:07d}} {{now:.6f}} step loss lr\\n" for number in range(sent, due))
    sys.stdout.write("".join(lines))
    sys.stdout.flush()
    sent = due
    time.sleep(0.005)
"""


@dataclass
class Received:
    """The lines that came, and when."""

    lines: int = 0
    lost: int = 0
    #: Seconds from each piece's last line to its arrival.
    delays: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Return lines a second, from the first arrival to the last."""
        return self.lines / self.seconds if self.seconds else 0.0

    @property
    def p95(self) -> float:
        """Return the delay that 95 of 100 lines are below, in seconds."""
        return statistics.quantiles(self.delays, n=20)[-1]


def receive(pieces: Iterable[tuple[float, bytes]], total: int) -> Received:
    """Count the lines in *pieces*, each with the time of its arrival, until *total* have come."""
    rest, expected, delays = b"", 0, []
    got = Received()
    first = last = 0.0
    for arrived, piece in pieces:
        first, last = first or arrived, arrived
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            words = line.split()
            if len(words) > 1:
                got.lost += int(words[0]) != expected
                expected = int(words[0]) + 1
            got.lines += 1
        if lines:
            words = lines[-1].split()
            delays.append(arrived - float(words[1] if len(words) > 1 else words[0]))
        if got.lines >= total:
            break
    got.lost += total - got.lines
    got.delays, got.seconds = tuple(delays), last - first
    return got


def ours(client: Client, offer: OfferId, program: str, total: int) -> Received:
    """Run *program* as a task and receive its output by the event stream."""
    name = ground.new_name("logs")
    listener = ground.Listener(client, name)
    ground.submit(client, offer, name, [f"python3 -c {shlex.quote(program)}"])
    pieces = ((time.time(), piece) for _, piece in listener.output())
    received = receive(pieces, total)
    ground.await_end(client, name)
    return received


def peer(offer: OfferId, program: str, total: int) -> Received:
    """Run *program* without us and receive its output by `docker logs -f`, or a pipe."""
    command = f"python3 -c {shlex.quote(program)}"
    if offer != ground.DOCKER:
        return _piped(["bash", "-c", command], total)
    image = ground.image()
    assert image is not None
    made = ["docker", "run", "--detach", image, "bash", "-c", command]
    container = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return _piped(["docker", "logs", "-f", container], total)
    finally:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=True)


def _piped(command: list[str], total: int) -> Received:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        out = process.stdout
        with contextlib.closing(out):
            pieces = ((time.time(), piece) for piece in iter(lambda: out.read1(1 << 20), b""))
            return receive(pieces, total)


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with ground.engine() as client:
        for offer, called in ground.hosts():
            by = "docker logs -f" if offer == ground.DOCKER else "a pipe"
            mine, bare = ours(client, offer, _SLOW, LINES), peer(offer, _SLOW, LINES)
            yield Line(
                f"log line to client, {called}, p95 of {LINES}",
                mine.p95 * 1000,
                "ms",
                bar=f"≤ {LATENCY_BAR * 1000:.0f} ms",
                kept=mine.p95 <= LATENCY_BAR and not mine.lost,
                peer=bare.p95 * 1000,
                peer_name=by,
            )
            total = RATE * SECONDS
            mine, bare = ours(client, offer, _FAST, total), peer(offer, _FAST, total)
            yield Line(
                f"{RATE:,} lines/s for {SECONDS} s, {called}: {mine.lost} lost",
                mine.rate,
                "lines/s",
                bar=f"{RATE:,} lines/s, none lost",
                kept=mine.rate >= RATE * 0.98 and not mine.lost,
                peer=bare.rate,
                peer_name=by,
            )
            yield Line(
                f"and its lines' delay, {called}, p95",
                mine.p95 * 1000,
                "ms",
                bar="",
                peer=bare.p95 * 1000,
                peer_name=by,
            )


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
