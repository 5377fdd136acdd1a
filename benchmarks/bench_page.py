"""What the extension costs a page of JupyterLab: its loading, and typing in a notebook.

The peer is the same Lab without the extension's front end. Run by `make bench`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks import ground
from benchmarks.page_ground import Ground, labs, task_seconds
from benchmarks.table import ROUNDS, Line, print_table
from tests.browser import chromium
from tests.browser.lab import LabServer, NotebookPage

PEER = "without the extension"
#: What it may add to the loading of a page, and to a keystroke; milliseconds.
LOAD_BAR, KEY_BAR = 100.0, 1.0
#: Notes when Lab is there to be used: its splash has gone, and the first tab is shown.
READY = """
const look = () => {
  const shown = document.querySelector('.jp-Launcher');
  if (shown && !document.getElementById('jupyterlab-splash')) window.readyAt = performance.now();
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
PYTHON = "for epoch in range(100): loss = model.fit(epoch, rate=0.1)  # "
DSTACK = "%%dstack task\ncommands:\n  - python train.py --rate 0.1 "
#: What is typed, a key at a time, at a cell's end.
TYPED = "the quick brown fox jumps over the lazy dog " * 3
#: Checks of what was typed wait for a pause of the author; they belong to its cost.
PAUSE_MS = 1_000


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with ground.engine(), labs() as both:
        yield _load_line(both)
        for called, source in (("a Python cell", PYTHON), ("a %%dstack cell", DSTACK)):
            yield _typing_line(both, called, source)


def _load_line(both: Ground) -> Line:
    pairs = [(load(both, both.ours), load(both, both.bare)) for _ in range(ROUNDS + 1)][1:]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = statistics.median(one - other for one, other in pairs)
    return Line(
        f"JupyterLab until it can be used: {added:+.0f} ms",
        ours,
        "ms",
        bar=f"≤ {LOAD_BAR:.0f} ms more",
        kept=added <= LOAD_BAR,
        peer=bare,
        peer_name=PEER,
    )


def load(both: Ground, lab: LabServer) -> float:
    """Return the milliseconds until Lab can be used, in a browser that has none of its files."""
    with chromium.loopback_page(both.browser) as page:
        page.add_init_script(READY)
        page.goto(f"{lab.url}/lab?reset&token={lab.token}", wait_until="commit")
        page.wait_for_function("window.readyAt", timeout=60_000)
        return float(page.evaluate("window.readyAt"))


def _typing_line(both: Ground, called: str, source: str) -> Line:
    with (
        chromium.loopback_page(both.browser) as ours,
        chromium.loopback_page(both.browser) as bare,
    ):
        mine, theirs = (
            lab.notebook(page, "typed.ipynb", [source, *["x = 1"] * 20])
            for page, lab in ((ours, both.ours), (bare, both.bare))
        )
        turns = range(ROUNDS + 1)
        pairs = [(keystroke(mine, source), keystroke(theirs, source)) for _ in turns][1:]
    worked, bare_worked = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = statistics.median(one - other for one, other in pairs)
    return Line(
        f"the page's work for a key in {called}: {added:+.2f} ms",
        worked,
        "ms",
        bar=f"≤ {KEY_BAR:.0f} ms more",
        kept=added <= KEY_BAR,
        peer=bare_worked,
        peer_name=PEER,
    )


def keystroke(notebook: NotebookPage, source: str) -> float:
    """Return the milliseconds that the page works for one key, and for what it does soon after."""
    page = notebook.page
    notebook.write(0, source)
    notebook.cell(0).locator(".cm-content").click()
    page.keyboard.press("Control+End")
    page.wait_for_timeout(PAUSE_MS)
    before = task_seconds(page)
    page.keyboard.type(TYPED)
    page.wait_for_timeout(PAUSE_MS)
    return (task_seconds(page) - before) / len(TYPED) * 1000


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
