"""The sidebar in a real browser: how soon it shows what happens, and what very many runs cost it.

The peer of "how soon" is a Python client of the engine's event stream. Run by `make bench`.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator

from playwright.sync_api import Page

from benchmarks import ground
from benchmarks.page_ground import fill, labs, page_of, run_name, task_seconds
from benchmarks.table import Line, print_table
from dstack_engine.client import Client
from dstack_engine.launcher import connect
from dstack_engine.records.runs import Run
from dstack_engine.records.updates import RecordChanged
from tests.browser.sidebar import Sidebar

#: Seconds from an event to the sidebar, for 95 of 100; as many runs, of two events each.
EVENT_BAR, RUNS = 0.5, 30
#: Milliseconds until the page shows what was scrolled to, or what a filter leaves, of so many runs.
MANY_BAR, MANY = 100.0, 5_000
#: Of one processor, in percent: what the open panel may use while nothing happens; for so long.
IDLE_BAR, IDLE_RUNS, IDLE_SECONDS = 1.0, 200, 10

#: Waits until the page shows a run in one of the *words*; answers when, in seconds.
ARRIVAL = """([name, words]) => new Promise(resolve => {
  const node = document.querySelector('.jp-dstack-Sidebar');
  const look = () => {
    for (const row of node.querySelectorAll('[role=treeitem]')) {
      const text = row.textContent;
      if (text.includes(name) && words.some(word => text.includes(word))) {
        watcher.disconnect();
        resolve(Date.now() / 1000);
      }
    }
  };
  const watcher = new MutationObserver(look);
  watcher.observe(node, {subtree: true, childList: true, characterData: true});
  look();
})"""
ANY, ENDED = [""], ["done", "failed"]
#: Writes into the filter and waits until the first row is the one expected, and painted.
FILTER = """async (box, [text, first]) => {
  const write = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
  const frame = () => new Promise(requestAnimationFrame);
  const shown = () => [...document.querySelectorAll('.jp-dstack-Sidebar [role=treeitem]')]
    .some(row => row.textContent.includes(first) && row.getBoundingClientRect().height);
  const begun = performance.now();
  write.call(box, text);
  box.dispatchEvent(new Event('input', {bubbles: true}));
  while (!shown()) await frame();
  await frame();
  return performance.now() - begun;
}"""
#: Scrolls and waits until the middle of the list is a row again, and painted.
SCROLL = """async (list, part) => {
  const frame = () => new Promise(requestAnimationFrame);
  const {x, y, width, height} = list.getBoundingClientRect();
  const middle = () => document.elementFromPoint(x + width / 3, y + height / 2);
  const row = () => middle()?.closest('[role=treeitem]');
  const before = row()?.textContent;
  const begun = performance.now();
  list.scrollTop = part * list.scrollHeight;
  do await frame(); while (!row() || row().textContent === before);
  return performance.now() - begun;
}"""


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    yield from _with_runs(0, lambda client, page: [_event_line(client, page)])
    yield from _with_runs(IDLE_RUNS, _idle_lines)
    yield from _with_runs(MANY, _many_lines)


def _with_runs(count: int, work: Callable[[Client, Page], list[Line]]) -> list[Line]:
    """Do *work* with an open sidebar that shows so many ended runs."""
    with ground.home() as home:
        fill(home, count)
        with connect() as client, labs() as both, page_of(both, both.ours) as page:
            try:
                sidebar = Sidebar(page).open()
                if count:
                    sidebar.row(run_name(count - 1)).wait_for()
                return work(client, page)
            finally:
                client.stop_engine(stop_runs=True)


def _event_line(client: Client, page: Page) -> Line:
    heard = Heard(client)
    delays: list[float] = []
    for _ in range(RUNS):
        delays += _delays_of_a_run(client, page)
    streamed = heard.delays()
    p95 = _p95(delays)
    return Line(
        f"from event to sidebar, p95 of {len(delays)}",
        p95 * 1000,
        "ms",
        bar=f"≤ {EVENT_BAR * 1000:.0f} ms",
        kept=p95 <= EVENT_BAR,
        peer=_p95(streamed) * 1000,
        peer_name="a Python client",
    )


def _delays_of_a_run(client: Client, page: Page) -> list[float]:
    """Return how late the page shows that a run was submitted, and that it ended, in seconds."""
    name = ground.new_name("seen")
    page.evaluate(f"window.begun = ({ARRIVAL})({[name, ANY]!r}); 0")
    page.evaluate(f"window.ended = ({ARRIVAL})({[name, ENDED]!r}); 0")
    ground.submit(client, ground.PROCESS, name, ["true"])
    seen = page.evaluate("Promise.all([window.begun, window.ended])")
    run = client.run(name).run
    assert run.finished_at is not None
    return [seen[0] - run.submitted_at.timestamp(), seen[1] - run.finished_at.timestamp()]


class Heard:
    """A client's stream of all runs' changes, and when each was heard."""

    def __init__(self, client: Client) -> None:
        """Listen from now on, on a thread that ends with the client."""
        self._delays: list[float] = []
        threading.Thread(target=self._listen, args=(client,), daemon=True).start()

    def delays(self) -> list[float]:
        """Return how late the submissions and ends of runs were heard, in seconds."""
        return list(self._delays)

    def _listen(self, client: Client) -> None:
        known: set[tuple[str, bool]] = set()
        for update in client.updates():
            now = time.time()
            match update:
                case RecordChanged(event=event) if isinstance(run := event.record, Run):
                    at = run.finished_at or run.submitted_at
                    if (run.name, run.finished) not in known:
                        known.add((run.name, run.finished))
                        self._delays.append(now - at.timestamp())


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def _idle_lines(client: Client, page: Page) -> list[Line]:
    for _ in range(3):  # their time and cost go on, second by second
        ground.submit(client, ground.PROCESS, ground.new_name("idle"), ["sleep 600"])
    sidebar = Sidebar(page)
    sidebar.button("Stop bench-idle-1")
    page.wait_for_timeout(5_000)  # the page comes to rest
    shown = _share(page)
    sidebar.close()
    page.wait_for_timeout(1_000)
    hidden = _share(page)
    return [
        Line(
            f"the page with an open sidebar of {IDLE_RUNS} runs, 3 of them active, for 10 s",
            shown,
            "% CPU",
            bar=f"≤ {IDLE_BAR} % more",
            kept=shown - hidden <= IDLE_BAR,
            peer=hidden,
            peer_name="with it closed",
        )
    ]


def _share(page: Page) -> float:
    """Return how much of a processor the page's main thread uses, in percent."""
    before = task_seconds(page)
    page.wait_for_timeout(IDLE_SECONDS * 1000)
    return (task_seconds(page) - before) / IDLE_SECONDS * 100


def _many_lines(client: Client, page: Page) -> list[Line]:
    sidebar = Sidebar(page)
    box, rows = sidebar.filter, sidebar.scroller
    filters, scrolls = [], []
    for turn in range(1, 21):
        name = run_name(turn * 200)
        filters.append(float(box.evaluate(FILTER, [name, name])))
        filters.append(float(box.evaluate(FILTER, ["", run_name(MANY - 1)])))
        scrolls.append(float(rows.evaluate(SCROLL, (turn * 7 % 20 + 1) / 21)))
        rows.evaluate("list => { list.scrollTop = 0 }")
    return [
        Line(
            f"{MANY:,} runs: {what} until it is painted, p95 of {len(values)}",
            _p95(values),
            "ms",
            bar=f"≤ {MANY_BAR:.0f} ms",
            kept=_p95(values) <= MANY_BAR,
        )
        for what, values in (("a filter", filters), ("scrolling far", scrolls))
    ]


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
