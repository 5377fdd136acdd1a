"""Pages of every kind: two notebooks at once, very much output, Notebook 7, narrow windows."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import LOAD, card, picture
from tests.browser.lab import LabServer, NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.docker]

#: Measures the longest time for which the page did nothing else, from now on.
WATCH = """() => {
  window.longest = 0;
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    window.longest = Math.max(window.longest, now - last);
    last = now;
  }, 20);
}"""
#: Milliseconds that a page may stand still: far more than a busy machine adds to what it does.
STANDSTILL = 10_000
FLOOD = """\
%%dstack task --name flood -y --instance-type process
commands:
  - |
    python - <<'END'
    import sys, time
    for i in range(1, 100_001):
        print(f"\\x1b[3{i % 8}mline {i}\\x1b[0m of the flood")
    for part in range(101):
        sys.stdout.write(f"\\r{part:3}%|{'█' * (part // 5):20}| {part}/100")
        sys.stdout.flush()
        time.sleep(0.005)
    END
  - sleep 600
"""
WAITING = """\
%%dstack task --name shared -y
commands:
  - echo started
  - while [ ! -e /tmp/go ]; do sleep 0.1; done
  - echo over
"""


def test_a_hundred_thousand_lines_do_not_freeze_the_page(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    notebook = lab.notebook(page, "flood.ipynb", [LOAD, FLOOD])
    notebook.run(0)
    page.evaluate(WATCH)
    live = card(notebook.run(1))
    expect(live.locator(".dstack-lines")).to_have_text("100,001 lines", timeout=60_000)
    log = live.get_by_role("region", name="Output")
    expect(log).to_contain_text("100%|")
    text = log.evaluate("node => node.textContent")
    assert text.count("%|") == 1
    assert text.rstrip().endswith("100/100")
    assert "line 100000 of the flood" in text
    assert "\x1b" not in text
    longest = page.evaluate("window.longest")
    assert longest < STANDSTILL, f"the page stood still for {longest:.0f} ms"
    picture(page, "flood")


def test_two_notebooks_see_each_others_runs_live(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    first = lab.notebook(page, "one.ipynb", [LOAD, WAITING, "%dstack ps"])
    first.run(0)
    mine = first.run(1)
    expect(card(mine).get_by_role("region", name="Output")).to_contain_text("started")
    other_page = page.context.new_page()
    cells = [
        LOAD,
        "%dstack ps",
        "%dstack attach shared",
        "%%dstack task --name second -y --wait\ncommands:\n  - echo hi\n",
        "%dstack exec shared touch /tmp/go",
    ]
    second = lab.notebook(other_page, "two.ipynb", cells)
    second.run(0)
    expect(second.run(1)).to_contain_text(re.compile(r"shared.*running"))
    theirs = second.run(2)
    expect(card(theirs).get_by_role("region", name="Output")).to_contain_text("started")
    second.run(3)
    first.write(2, "%dstack ps -a")
    expect(first.run(2)).to_contain_text(re.compile(r"second.*done"))
    second.run(4)
    for output in (mine, theirs):
        expect(card(output)).to_have_count(0)
        expect(output).to_contain_text("shared ended by itself with exit code 0")
        expect(output.locator("pre")).to_have_text("started\nover")


def test_table_and_card_in_notebook_7_and_in_a_narrow_window(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    cell = (
        "%%dstack task --name narrow\ncommands:\n  - echo 'a very long line of output' {1..60}\n"
        "  - sleep 600\nports:\n  - '*:8000'\n"
    )
    lab.notebook_file("seven.ipynb", [LOAD, cell])
    page.goto(f"{lab.url}/notebooks/seven.ipynb?token={lab.token}")
    notebook = NotebookPage(page)
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached()
    page.set_viewport_size({"width": 600, "height": 900})
    notebook.run(0)
    table = notebook.run(1)
    expect(table.get_by_role("table")).to_be_visible()
    picture(page, "narrow-offers")
    table.get_by_role("button", name=re.compile("Submit")).click()
    live = card(notebook.output(1))
    expect(live.locator(".dstack-word")).to_have_text("running")
    expect(live.get_by_role("region", name="Output")).to_contain_text("a very long line")
    picture(page, "narrow-card")
    overflow = live.evaluate("node => node.scrollWidth - node.clientWidth")
    assert overflow <= 0, f"the card is {overflow} px wider than its place"
    live.get_by_role("button", name="Abort").click()
    live.get_by_role("button", name="Yes, abort").click()
    expect(notebook.output(1)).to_contain_text("was aborted by its user")
    picture(page, "narrow-ended")
