"""`import dstack_jupyter` and `%load_ext` in fresh processes, beyond IPython itself.

Each round is a new interpreter that imports IPython, makes a shell and then loads the extension;
the peer is what IPython's own part took in the same processes. Run by `make bench`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.ground import REPOSITORY, home
from benchmarks.table import ROUNDS, Line, print_table

#: Seconds.
BAR = 0.15

_SCRIPT = """
import json, time
begun = time.perf_counter()
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
ready = time.perf_counter()
import dstack_jupyter
shell.run_line_magic("load_ext", "dstack_jupyter")
loaded = time.perf_counter()
shell.run_line_magic("dstack", "help")
helped = time.perf_counter()
print()
print(json.dumps({"ipython": ready - begun, "ours": loaded - ready, "help": helped - loaded}))
"""


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with home():
        rounds = [_once() for _ in range(ROUNDS + 1)][1:]
    ipython, ours, helped = (
        statistics.median(one[what] for one in rounds) for what in ("ipython", "ours", "help")
    )
    peer = {"peer": ipython * 1000, "peer_name": "IPython and its shell"}
    yield Line(
        "import dstack_jupyter and %load_ext, beyond IPython",
        ours * 1000,
        "ms",
        bar=f"≤ {BAR * 1000:.0f} ms",
        kept=ours <= BAR,
        **peer,
    )
    yield Line("first %dstack right after loading", helped * 1000, "ms", bar="", **peer)


def _once() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
