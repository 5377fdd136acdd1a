"""The one table that every benchmark adds its lines to.

`python -m benchmarks` prints it; a benchmark run by itself prints its own lines.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

#: Every figure is the median of so many measurements, taken in turns with the peer's.
ROUNDS = 12

_HEADINGS = ("figure", "ours", "bare tool or peer", "ratio", "bar")
_WIDTHS = (58, 14, 34, 7, 28)


@dataclass(frozen=True)
class Line:
    """One figure: ours, what it is compared with, and what was promised."""

    figure: str
    ours: float
    unit: str
    bar: str
    #: Whether the promise is kept; None where none was made.
    kept: bool | None = None
    peer: float | None = None
    peer_name: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the line's texts, one a column."""
        peer = "" if self.peer is None else f"{number(self.peer)} {self.unit} {self.peer_name}"
        ratio = f"{self.ours / self.peer:.2f}" if self.peer else ""
        mark = {True: " ✓", False: " ✗ MISSED", None: ""}[self.kept]
        return (self.figure, f"{number(self.ours)} {self.unit}", peer, ratio, self.bar + mark)


def number(value: float) -> str:
    """Return *value* with three figures that count, thousands grouped."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def print_table(lines: Iterable[Line]) -> None:
    """Print headings and *lines*, each as soon as it is known."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    load = f"load {os.getloadavg()[0]:.1f} at the beginning"
    print(f"{machine}; {load}; medians of at least {ROUNDS}\n", flush=True)
    print(_row(_HEADINGS))
    print(_row(["-" * width for width in _WIDTHS]), flush=True)
    for line in lines:
        print(_row(line.cells), flush=True)


def _row(cells: Sequence[str]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return "  ".join(padded).rstrip()


def medians(*works: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Return the median of what each of *works* measures, taken in turns.

    One round more is done first and not counted.
    """
    measured: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for work, values in zip(works, measured, strict=True):
            value = work()
            if turn:  # the first one warms caches that every later one finds warm
                values.append(value)
    return [statistics.median(values) for values in measured]
