"""`python -m benchmarks [NAME…]`: measure, and print one table: ours, the bare tool, the ratio.

Called by `make bench`. Without a name all are measured; takes a few minutes, and what else the
computer does meanwhile shows in the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from benchmarks import (
    bench_cold_start,
    bench_completion,
    bench_engine,
    bench_first_line,
    bench_gateway,
    bench_loading,
    bench_logs,
    bench_page,
    bench_placement,
    bench_sidebar,
    bench_ssh,
    bench_ssh_files,
)
from benchmarks.table import Line, print_table

BENCHMARKS = {
    "first-line": bench_first_line.measure,
    "loading": bench_loading.measure,
    "completion": bench_completion.measure,
    "engine": bench_engine.measure,
    "logs": bench_logs.measure,
    "placement": bench_placement.measure,
    "gateway": bench_gateway.measure,
    "cold-start": bench_cold_start.measure,
    "sidebar": bench_sidebar.measure,
    "page": bench_page.measure,
    "ssh": bench_ssh.measure,
    "ssh-files": bench_ssh_files.measure,
}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    print_table(lines_of(names))


def lines_of(names: Iterable[str]) -> Iterable[Line]:
    """Yield the lines of all named benchmarks."""
    for name in names:
        yield from BENCHMARKS[name]()


if __name__ == "__main__":
    main()
