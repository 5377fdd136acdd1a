"""Tab in a `%%dstack` cell, and Shift-Tab, asked of a real kernel with an engine behind it.

Each figure is what a page waits for: from the request on the kernel's channel to its reply. The
peer is Tab in a cell of Python, in the same kernel. Run by `make bench`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

from benchmarks.ground import engine
from benchmarks.table import Line, print_table
from tests.notebook.kernels import PATIENCE, Notebook, kernel

#: Seconds; 19 of 20 must be below.
BAR = 0.05
#: So many questions are asked, each of the cells' ends in turn.
QUESTIONS = 200

_BODY = "%%dstack task --name train -y\ncommands:\n  - python train.py\n"
CELLS = (
    "%%dstack ta",
    "%%dstack task --max-",
    "%dstack offers --region ",
    "%dstack logs ",
    "%%dstack task --profile ",
    _BODY + "reso",
    _BODY + "resources:\n  gpu: A1",
    _BODY + "resources: {gpu: {ven",
    _BODY + "regions: [lo",
    _BODY + "  - python tr",
)
KEY = _BODY + "resources:\n  gpu: 24GB\n"
PYTHON = "import collections\ncollections.Ord"


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with engine(), tempfile.TemporaryDirectory() as folder:
        profiles = Path(folder, ".dstack", "profiles.yml")
        profiles.parent.mkdir()
        profiles.write_text("profiles:\n  - name: cheap\n    max_price: 1\n")
        with kernel(Path(folder)) as notebook:
            python = _slowest(_times(notebook, "complete", [(PYTHON, len(PYTHON))]))
            peer = {"peer": python * 1000, "peer_name": "Tab in Python"}
            cells = [(cell, len(cell)) for cell in CELLS]
            yield _line("Tab in a %%dstack cell, p95", notebook, "complete", cells, peer)
            key = [(KEY, KEY.index("gpu") + 1)]
            yield _line("Shift-Tab on a key, p95", notebook, "inspect", key, {})


def _line(
    figure: str,
    notebook: Notebook,
    kind: str,
    asked: list[tuple[str, int]],
    peer: dict[str, object],
) -> Line:
    slowest = _slowest(_times(notebook, kind, asked))
    return Line(
        figure,
        slowest * 1000,
        "ms",
        bar=f"≤ {BAR * 1000:.0f} ms",
        kept=slowest <= BAR,
        **peer,  # type: ignore[arg-type]  # its peer and that one's name
    )


def _times(notebook: Notebook, kind: str, asked: list[tuple[str, int]]) -> list[float]:
    """Return how long each answer took; one round more is asked first and not counted."""
    times = []
    questions = islice(cycle(asked), QUESTIONS + len(asked))
    for code, cursor in questions:
        begun = perf_counter()
        getattr(notebook.client, kind)(code, cursor, reply=True, timeout=PATIENCE)
        times.append(perf_counter() - begun)
    return times[len(asked) :]


def _slowest(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
